//! Parts of a configuration that this gateway cannot do: the requests they are for are refused, the rest is served.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Folder, Gateway, Upstream, completion, eventually_async, ok, question, run_cli, send};
use crate::ingress::{Authority, curl, site};

/// A plugin object by the url of its image.
fn plugin(folder: &Folder, name: &str, url: &str, spec: Value) {
    let mut all = json!({"url": url, "priority": 10});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
        "metadata": {"name": name, "namespace": "higress-system"}, "spec": all});
    folder.write(&format!("wasmplugins/{name}.yaml"), &object);
}

async fn status(gateway: &Gateway, path: &str) -> u16 {
    send(gateway.http, "GET", path, &[], Bytes::new()).await.status
}

/// A folder with one plugin of the user's own on one route must not keep the other routes from working.
#[tokio::test]
async fn a_plugin_we_do_not_have_closes_only_what_it_is_for() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("open", "/open", "up.static").route("closed", "/closed", "up.static");
    let rules =
        |route: &str| json!({"matchRules": [{"ingress": [route], "config": {"a": 1}}], "defaultConfigDisable": true});
    plugin(&folder, "own", "oci://registry.example/plugins/of-ours:1.0.0", rules("closed"));
    let mut open = rules("open");
    open["failStrategy"] = json!("FAIL_OPEN");
    plugin(&folder, "other", "oci://registry.example/plugins/other-of-ours:1.0.0", open);
    let dir = folder.config().to_str().unwrap().to_owned();
    let (code, out, err) = run_cli(&["validate", &dir], &folder);
    assert!(code == 64 && err.contains("1 errors") && out.contains("503"), "{code} {out}{err}");
    assert!(out.contains("error: wasmplugins/own.yaml") && out.contains("warning: wasmplugins/other.yaml"), "{out}");
    assert_eq!(run_cli(&["validate", &dir, "--lenient"], &folder).0, 0);
    let gateway = Gateway::start(folder);
    assert_eq!((status(&gateway, "/open").await, status(&gateway, "/closed").await), (200, 503));
    assert_eq!(upstream.n_calls(), 1);
    let line = gateway.access_log(2).pop().unwrap();
    assert_eq!(line["response_code_details"], "plugin_unavailable", "{line}");
}

/// A slip in one plugin's configuration must not keep everything else from starting, nor open what the plugin guards.
#[tokio::test]
async fn a_plugin_with_a_wrong_value_is_out_where_it_applies() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    for route in ["open", "blocked", "limited", "keyed"] {
        folder.route(route, &format!("/{route}"), "up.static");
    }
    let rule = |route: &str, config: Value, strategy: &str| {
        json!({"failStrategy": strategy, "defaultConfigDisable": true,
            "matchRules": [{"ingress": [route], "config": config}]})
    };
    let wrong = json!({"suffix": "jpg", "expires": "soon"});
    plugin(&folder, "cache-control", "oci://r/cache-control:1.0.0", rule("limited", wrong.clone(), "FAIL_OPEN"));
    plugin(&folder, "closing", "oci://r/cache-control:1.0.0", rule("blocked", wrong, "FAIL_CLOSE"));
    let keys =
        json!({"keys": "x-api-key", "in_header": "perhaps", "consumers": [{"name": "a", "credential": "secret"}]});
    plugin(&folder, "key-auth", "oci://r/key-auth:1.0.0", rule("keyed", keys, "FAIL_OPEN"));
    let (code, out, err) = run_cli(&["validate", folder.config().to_str().unwrap()], &folder);
    assert_eq!(code, 64, "{out}{err}");
    let said = |file: &str, effect: &str| {
        out.lines().any(|line| line.starts_with(&format!("error: wasmplugins/{file}.yaml")) && line.contains(effect))
    };
    assert!(said("cache-control", "pass without it") && said("closing", "503") && said("key-auth", "503"), "{out}");
    let gateway = Gateway::start(folder);
    let mut statuses = Vec::new();
    for path in ["/open", "/limited", "/blocked", "/keyed"] {
        statuses.push(status(&gateway, path).await);
    }
    assert_eq!((statuses, upstream.n_calls()), (vec![200, 200, 503, 503], 2));
    let refused = send(gateway.http, "GET", "/keyed", &[], Bytes::new()).await;
    assert_eq!(refused.error_code(), "no_upstream", "{}", refused.text());
}

/// What only building a plugin shows is told as well as what reading its configuration does.
#[tokio::test]
async fn a_missing_database_is_an_outage_with_its_field() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("open", "/open", "up.static").route("placed", "/placed", "up.static");
    let rules = json!([{"ingress": ["placed"], "config": {"database": "/nowhere/geo-ip.txt"}}]);
    folder.plugin("geo-ip", &json!(null), &rules);
    let gateway = Gateway::start(folder);
    assert_eq!((status(&gateway, "/open").await, status(&gateway, "/placed").await), (200, 503));
    let problems = gateway.admin("GET", "/api/v1/config").await.json()["problems"].clone();
    assert_eq!(problems[0]["severity"], "outage", "{problems}");
    assert_eq!(problems[0]["field"], "spec.matchRules[0].config.database", "{problems}");
}

/// A start does what it can. A change that takes something away is refused, as one with errors is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_certificate_costs_its_host_at_start_and_nothing_in_a_change() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let authority = Authority::new();
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    authority.sign(&folder, "good", &["good.test"]);
    authority.sign(&folder, "bad", &["bad.test"]);
    site(&folder, "good", "good.test", "up.static", Some("good"), &json!({}));
    // Its clients have to show a certificate, which must not be forgotten with the rest.
    let demanding = json!({"higress.io/auth-tls-secret": "bad"});
    site(&folder, "bad", "bad.test", "up.static", Some("bad"), &demanding);
    let whole = std::fs::read_to_string(folder.config().join("secrets/bad.yaml")).unwrap();
    let broken = whole.replace("BEGIN CERTIFICATE", "BEGIN CERTIFICAT");
    folder.write_text("secrets/bad.yaml", &broken);
    let gateway = Gateway::start(folder);
    assert_eq!((curl(&gateway, "good.test", &[]).as_str(), curl(&gateway, "bad.test", &[]).as_str()), ("200", "000"));
    let past = ["-H", "Host: bad.test"];
    assert_eq!(curl(&gateway, "good.test", &past), "421");
    let config = || async { gateway.admin("GET", "/api/v1/config").await.json() };
    let snapshot = |number: u64| async move { (config().await["snapshot"] == number).then_some(()) };
    // What is out may stay out while the rest changes.
    gateway.folder.route("more", "/more", "up.static");
    eventually_async("the second snapshot", || snapshot(2)).await;
    gateway.folder.write_text("secrets/bad.yaml", &whole);
    eventually_async("the third snapshot", || snapshot(3)).await;
    assert_eq!(curl(&gateway, "bad.test", &[]), "000", "without a certificate of the client's");
    gateway.folder.write_text("secrets/bad.yaml", &broken);
    plugin(&gateway.folder, "own", "oci://registry.example/plugins/of-ours:1.0.0", json!({}));
    eventually_async("the refusal", || async {
        let problems = config().await["problems"].to_string();
        (problems.contains("secrets/bad.yaml") && problems.contains("wasmplugins/own.yaml")).then_some(())
    })
    .await;
    assert_eq!(config().await["snapshot"], 3);
    assert_eq!(curl(&gateway, "good.test", &[]), "200");
}

/// Higress' plugins do not look at fields they do not know, and read numbers and flags in quotes.
#[tokio::test]
async fn what_higress_plugins_tolerate_is_tolerated() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("web", "/", "up.static");
    let config =
        json!({"block_urls": ["/secret"], "blocked_code": "404", "case_sensitive": "false", "comment": "ours"});
    folder.plugin("request-block", &config, &json!([]));
    let (code, out, _) = run_cli(&["validate", folder.config().to_str().unwrap()], &folder);
    assert!(code == 0 && out.contains("spec.defaultConfig.comment: is not a field"), "{code} {out}");
    let gateway = Gateway::start(folder);
    assert_eq!((status(&gateway, "/SECRET").await, status(&gateway, "/").await), (404, 200));
}

/// A pool of the console with one provider whose API has to be translated.
#[tokio::test]
async fn a_provider_we_cannot_speak_to_fails_its_own_calls_only() {
    let upstream = Upstream::start(|_, seen| async move {
        ok(&completion(seen.json()["model"].as_str().unwrap_or_default(), "hello"))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("good", upstream.address), ("foreign", upstream.address)]);
    folder.route("good", "/good", "good.static").route("foreign", "/foreign", "foreign.static");
    let providers = json!({"providers": [
        {"id": "good", "type": "openai", "apiTokens": ["sk-1"], "openaiCustomUrl": "http://127.0.0.1/v1"},
        {"id": "foreign", "type": "spark", "apiTokens": ["sk-2"]},
    ]});
    let rule = |id: &str| json!({"service": [format!("{id}.static")], "config": {"activeProviderId": id}});
    folder.plugin("ai-proxy", &providers, &json!([rule("good"), rule("foreign")]));
    let gateway = Gateway::start(folder);
    let body = question("m", "hi").to_string();
    let good = gateway.post("/good/v1/chat/completions", &[], body.clone()).await;
    let foreign = gateway.post("/foreign/v1/chat/completions", &[], body).await;
    assert_eq!((good.status, foreign.status), (200, 503), "{} {}", good.text(), foreign.text());
    assert!(foreign.text().contains("ai-proxy.internal"), "{}", foreign.text());
    assert_eq!(upstream.n_calls(), 1);
}

/// Regression: one slip in one object kept the whole folder from being served. Nothing may be wider open for it than it was meant to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slip_in_an_object_closes_what_it_is_about_and_nothing_else() {
    let upstream = Upstream::start(|_, seen| async move { ok(&json!(seen.path)) }).await;
    let folder = Folder::new();
    let registry = |name: &str, protocol: &str| json!({"name": name, "type": "static", "domain": upstream.address.to_string(), "port": 80, "protocol": protocol});
    let bridge = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
        "spec": {"registries": [registry("up", "http"), registry("slipped", "htp")]}});
    folder.write("mcpbridges/default.yaml", &bridge);
    folder.route("all", "/", "up.static").route("registry", "/registry", "slipped.static");
    folder.route("weight", "/weight", "x% up.static");
    let ranges = |ranges: &str| json!({"higress.io/whitelist-source-range": ranges});
    folder.route_with("guarded", "/guarded", "up.static", &ranges("10.0.0.300"));
    // Without its condition it would take every request of the path, closed or not.
    folder.route_with("condition", "/all", "up.static", &json!({"higress.io/regex-match-header-x-version": "("}));
    let canary = json!({"higress.io/canary": "true", "higress.io/canary-by-header": "x-new",
        "higress.io/canary-by-header-pattern": "("});
    folder.route_with("canary", "/", "slipped.static", &canary);
    folder.route("parts", "/parts", "up.static");
    let mut parts: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.config().join("ingresses/parts.yaml")).unwrap()).unwrap();
    let paths = parts.pointer_mut("/spec/rules/0/http/paths").unwrap().as_array_mut().unwrap();
    let backend = paths[0]["backend"].clone();
    paths.push(json!({"path": "/closed", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {}}}}));
    paths.push(json!({"path": "/bare", "pathType": "Prefix"}));
    paths.push(json!({"path": 7, "pathType": "Prefix", "backend": backend}));
    parts["spec"]["rules"].as_array_mut().unwrap().push(json!({"host": 5, "http": {"paths": [{"backend": {}}]}}));
    folder.write("ingresses/parts.yaml", &parts);
    let dir = folder.config().to_str().unwrap().to_owned();
    let (code, out, err) = run_cli(&["validate", &dir], &folder);
    assert!(code == 64 && err.contains("9 errors") && err.contains("would go live without"), "{code} {out}{err}");
    for field in [
        "registries[1].protocol",
        "[higress.io/destination]",
        "[higress.io/whitelist-source-range]",
        "[higress.io/regex-match-header-x-version]",
        "[higress.io/canary-by-header-pattern]",
        "paths[1].backend.service.port",
        "paths[2].backend",
        "paths[3].path",
        "rules[1].host",
    ] {
        assert!(out.lines().any(|line| line.starts_with("error: ") && line.contains(field)), "{field} {out}");
    }
    assert_eq!(run_cli(&["validate", &dir, "--lenient"], &folder).0, 0);
    let gateway = Gateway::start(folder);
    let mut statuses = Vec::new();
    let paths = ["/registry", "/weight", "/guarded", "/closed", "/bare", "/parts", "/all", "/"];
    for path in paths {
        statuses.push(status(&gateway, path).await);
    }
    assert_eq!(statuses, [503, 503, 503, 503, 503, 200, 200, 200]);
    let refused = send(gateway.http, "GET", "/weight", &[], Bytes::new()).await;
    assert!(refused.text().contains("weirgate validate"), "{}", refused.text());
    assert_eq!(send(gateway.http, "GET", "/", &[("x-new", "(")], Bytes::new()).await.status, 200);
    assert_eq!(upstream.n_calls(), 4);
    // A change for the worse is refused, in an object that had a fault before, too; one for the better goes live.
    let whole = parts.clone();
    parts["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = json!("Perfix");
    gateway.folder.write("ingresses/parts.yaml", &parts);
    eventually_async("the refusal of a second fault", || async {
        let problems = gateway.admin("GET", "/api/v1/config").await.json()["problems"].to_string();
        problems.contains("Perfix").then_some(())
    })
    .await;
    assert_eq!(status(&gateway, "/parts").await, 200);
    gateway.folder.write("ingresses/parts.yaml", &whole);
    gateway.folder.route("all", "/", "x% up.static");
    let config = || async { gateway.admin("GET", "/api/v1/config").await.json() };
    eventually_async("the refusal", || async {
        config().await["problems"].to_string().contains("ingresses/all.yaml").then_some(())
    })
    .await;
    assert_eq!((status(&gateway, "/").await, config().await["snapshot"].clone()), (200, json!(1)));
    gateway.folder.route("all", "/", "up.static").route("weight", "/weight", "up.static");
    eventually_async("the mended route", || async { (status(&gateway, "/weight").await == 200).then_some(()) }).await;
}

/// Regression: a known fault was another one as soon as something was written before it, and every change after that was refused.
#[tokio::test]
async fn a_known_fault_may_move_in_its_list() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.route("web", "/web", "up.static");
    let bridge = |names: &[(&str, &str)]| {
        let of = |(name, domain): &(&str, &str)| json!({"name": name, "type": "static", "domain": domain, "port": 80});
        json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
            "spec": {"registries": names.iter().map(of).collect::<Vec<_>>()}})
    };
    let address = upstream.address.to_string();
    let (up, bad) = (("up", address.as_str()), ("bad", "nohost:80"));
    folder.write("mcpbridges/default.yaml", &bridge(&[up, bad]));
    let gateway = Gateway::start(folder);
    assert_eq!(status(&gateway, "/web").await, 200);
    gateway.folder.write("mcpbridges/default.yaml", &bridge(&[bad, up, ("other", &address)]));
    gateway.folder.route("other", "/other", "other.static");
    eventually_async("the other route", || async { (status(&gateway, "/other").await == 200).then_some(()) }).await;
    // Another one is a new fault.
    gateway.folder.write("mcpbridges/default.yaml", &bridge(&[bad, ("up", "nohost:81"), ("other", &address)]));
    let metric = "weirgate_config_reloads_total{result=\"refused\"} 1";
    eventually_async("the refusal", || async { gateway.metrics().await.contains(metric).then_some(()) }).await;
    assert_eq!(status(&gateway, "/web").await, 200);
}

/// Regression: whatever had been in force at the start could come back, a guard without a rule for one, long after it was mended.
#[tokio::test]
async fn what_was_mended_does_not_get_its_fault_back() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("web", "/web", "up.static");
    let keys = |folder: &Folder, routes: Value| {
        let consumers =
            json!({"consumers": [{"name": "ann", "credential": "k"}], "keys": ["x-key"], "in_header": true});
        let rules = json!([{"ingress": routes, "config": {"allow": ["ann"]}}]);
        folder.plugin("key-auth", &consumers, &rules);
    };
    keys(&folder, json!([]));
    let gateway = Gateway::start(folder);
    assert_eq!(status(&gateway, "/web").await, 200, "the rule matches nothing");
    let problems = || async { gateway.admin("GET", "/api/v1/config").await.json()["problems"].to_string() };
    keys(&gateway.folder, json!(["web"]));
    eventually_async("the guard", || async { (status(&gateway, "/web").await == 401).then_some(()) }).await;
    keys(&gateway.folder, json!([]));
    eventually_async("the refusal", || async { problems().await.contains("matches nothing").then_some(()) }).await;
    assert_eq!(status(&gateway, "/web").await, 401);
    // An object that goes and comes is another matter: a folder may be copied anew.
    keys(&gateway.folder, json!(["web"]));
    eventually_async("the good folder", || async { (!problems().await.contains("matches nothing")).then_some(()) })
        .await;
    // Nor does a new guard close by its slip what a service answers.
    let slip = json!([{"service": ["up.static"], "config": {"allow": ["10.0.0.0/99"]}}]);
    gateway.folder.plugin("ip-restriction", &json!({}), &slip);
    eventually_async("its refusal", || async { problems().await.contains("ip-restriction").then_some(()) }).await;
    let key = [("x-key", "k")];
    assert_eq!(send(gateway.http, "GET", "/web", &key, Bytes::new()).await.status, 200);
}

/// Regression: a folder that was copied anew stayed refused, if something in it had been out from the start and two files make the fault together.
#[tokio::test]
async fn a_folder_with_a_known_fault_may_be_copied_anew_file_by_file() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("plain", "/plain", "up.static");
    let junk =
        json!({"kind": "Secret", "metadata": {"name": "junk"}, "stringData": {"tls.crt": "none", "tls.key": "none"}});
    folder.write("secrets/junk.yaml", &junk);
    site(&folder, "tls", "a.test", "up.static", Some("junk"), &json!({}));
    let gateway = Gateway::start(folder);
    let path = |name: &str| gateway.folder.config().join(name);
    let names = ["ingresses/tls.yaml", "secrets/junk.yaml"];
    let texts = names.map(|name| std::fs::read_to_string(path(name)).unwrap());
    let reload = async || gateway.admin("POST", "/api/v1/config/reload").await.text();
    for name in names {
        std::fs::remove_file(path(name)).unwrap();
        assert!(!reload().await.contains("refused"), "without {name}");
    }
    for (name, text) in names.into_iter().zip(&texts) {
        gateway.folder.write_text(name, text);
        assert!(!reload().await.contains("refused"), "with {name} again");
    }
    let host = [("host", "a.test")];
    assert_eq!(send(gateway.http, "GET", "/", &host, Bytes::new()).await.status, 200);
}

/// Regression: what needs files of the data folder was found by nobody before it was served.
#[test]
fn files_that_plugins_need_are_looked_for_by_validate() {
    let folder = Folder::new();
    folder.plugin("waf", &json!({"useCRS": true}), &json!([]));
    let dir = folder.config().to_str().unwrap().to_owned();
    let (code, out, _) = run_cli(&["validate", &dir], &folder);
    assert!(code == 64 && out.contains("spec.defaultConfig.useCRS"), "{code} {out}");
    let (_, report, _) = run_cli(&["import", &dir, "--report", "json"], &folder);
    assert!(report.contains("\"unavailable\""), "{report}");
}

/// Regression: one slip in the consumers of a plugin that guards one route answered every host with 503.
#[tokio::test]
async fn a_guard_of_some_routes_shuts_out_nobody_elsewhere() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("open", "/open", "up.static").route("guarded", "/guarded", "up.static");
    let spec = json!({"failStrategy": "FAIL_OPEN",
        "defaultConfig": {"global_auth": false, "consumers": [{"name": "j", "issuer": "i", "jwks": "{broken"}]},
        "matchRules": [{"ingress": ["guarded"], "config": {"allow": ["j"]}}]});
    plugin(&folder, "jwt-auth", "oci://r/jwt-auth:1.0.0", spec);
    let gateway = Gateway::start(folder);
    assert_eq!((status(&gateway, "/open").await, status(&gateway, "/guarded").await), (200, 503));
    assert_eq!(upstream.n_calls(), 1);
}

/// Regression: hosts are compared in lower case, so a rule for `Up.test` took no request at all.
#[tokio::test]
async fn a_rule_for_a_domain_guards_it_however_it_is_written() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("web", "/", "up.static");
    let consumers = json!([{"name": "a", "credential": "secret"}]);
    let config = json!({"global_auth": false, "keys": ["x-key"], "consumers": consumers});
    folder.plugin("key-auth", &config, &json!([{"domain": ["Up.test"], "config": {"allow": ["a"]}}]));
    let gateway = Gateway::start(folder);
    for host in ["up.test", "Up.Test"] {
        assert_eq!(send(gateway.http, "GET", "/", &[("host", host)], Bytes::new()).await.status, 401, "{host}");
    }
    assert_eq!(send(gateway.http, "GET", "/", &[("host", "other.test")], Bytes::new()).await.status, 200);
}

#[test]
fn routes_and_services_that_plugins_name_in_vain_are_told() {
    let folder = Folder::new();
    folder.route("web", "/", "up.static");
    folder.plugin("key-auth", &json!({"global_auth": false}), &json!([{"ingress": ["wep"], "config": {"allow": []}}]));
    let asked = json!({"endpoint_mode": "envoy", "endpoint": {"service_name": "nope.dns", "path_prefix": "/auth"}});
    folder.plugin("ext-auth", &json!({"http_service": asked}), &json!([]));
    let (_, out, _) = run_cli(&["validate", folder.config().to_str().unwrap()], &folder);
    assert!(out.contains("name the route `wep`, which there is not") && out.contains("did you mean `web`"), "{out}");
    assert!(out.contains("calls the service `nope.dns`, which there is not"), "{out}");
}
