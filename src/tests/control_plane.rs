//! Routes of the Gateway API, the history of the configuration, fallbacks, and what `higress-config` says.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::found_services::dubbo;
use crate::harness::*;

pub fn bridge(folder: &Folder, registries: &Value) {
    let object = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
        "spec": {"registries": registries}});
    folder.write("mcpbridges/default.yaml", &object);
}

pub async fn saying(text: &'static str) -> Upstream {
    Upstream::start(move |_, _| async move { ok(&json!(text)) }).await
}

#[tokio::test]
async fn routes_of_the_gateway_api_rewrite_redirect_split_and_mirror() {
    let (a, b, copy) = (saying("a").await, saying("b").await, saying("copy").await);
    let folder = Folder::new();
    folder.services(&[("a", a.address), ("b", b.address), ("copy", copy.address)]);
    let group = "gateway.networking.k8s.io";
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec});
    folder.write(
        "gatewayclasses/own.yaml",
        &object("GatewayClass", "own", json!({"controllerName": "higress.io/gateway-controller"})),
    );
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"},
        {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {}}]);
    folder.write(
        "gateways/web.yaml",
        &object("Gateway", "web", json!({"gatewayClassName": "own", "listeners": listeners})),
    );
    let service = |name: &str, weight: u32| json!({"group": "networking.higress.io", "kind": "Service", "name": name, "port": 80, "weight": weight});
    let prefix = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let route = |name: &str, section: &str, rules: Value| {
        let spec = json!({"parentRefs": [{"name": "web", "sectionName": section}], "rules": rules});
        folder.write(&format!("httproutes/{name}.yaml"), &object("HTTPRoute", name, spec));
    };
    route(
        "shop",
        "http",
        json!([
        {"matches": prefix("/cart"), "backendRefs": [service("a.static", 1), service("b.static", 0)], "filters": [
            {"type": "URLRewrite", "urlRewrite": {"hostname": "inner.local", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}},
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "1"}], "remove": ["x-drop"]}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-added", "value": "2"}]}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": service("copy.static", 1)}}]},
        {"matches": prefix("/old"), "filters": [{"type": "RequestRedirect", "requestRedirect": {
            "scheme": "https", "port": 8443, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}, "statusCode": 308}}]},
        {"matches": [{"path": {"value": "/"}, "headers": [{"name": "x-version", "value": "b"}]}], "backendRefs": [service("b.static", 1)]}]),
    );
    route("tls", "https", json!([{"matches": prefix("/"), "backendRefs": [service("a.static", 1)]}]));
    let gateway = Gateway::start(folder);
    let get = async |path: &str, headers: &[(&str, &str)]| send(gateway.http, "GET", path, headers, "".into()).await;
    let answer = get("/cart/7?x=1", &[("x-drop", "y")]).await;
    assert_eq!((answer.status, answer.header("x-added")), (200, Some("2")), "{}", answer.text());
    let seen = a.last();
    assert_eq!((seen.path.as_str(), seen.headers["host"].as_str()), ("/v2/7?x=1", "inner.local"));
    assert_eq!(
        (seen.headers.get("x-set").map(String::as_str), seen.headers.contains_key("x-drop")),
        (Some("1"), false)
    );
    eventually_async("the copy", || async { (copy.n_calls() == 1).then_some(()) }).await;
    let answer = get("/old/page?x=1", &[]).await;
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://127.0.0.1:8443/new/page?x=1")));
    assert_eq!(get("/any", &[("x-version", "b")]).await.json(), "b");
    assert_eq!(get("/any", &[]).await.status, 404, "the other route is for https only");
    assert_eq!((a.n_calls(), b.n_calls()), (1, 1));
}

#[tokio::test]
async fn every_configuration_in_force_can_be_had_again() {
    let (a, b) = (saying("a").await, saying("b").await);
    let folder = Folder::new();
    folder.services(&[("a", a.address), ("b", b.address)]).route("web", "/", "a.static");
    let gateway = Gateway::start(folder);
    gateway.folder.route("web", "/", "b.static").route("more", "/more", "b.static");
    eventually_async("both routes", || async {
        (gateway.get("/").await.json() == "b" && gateway.get("/more").await.status == 200).then_some(())
    })
    .await;
    let history = || -> Value { serde_json::from_str(&gateway.cli(&["config", "history", "--json"]).1).unwrap() };
    let listed = eventually("the record", || Some(history()).filter(|listed| listed.to_string().contains("+more")));
    let (first, newest) = (&listed[listed.as_array().unwrap().len() - 1], &listed[0]);
    assert!(first["summary"].as_str().unwrap().contains("+web"), "{listed}");
    let (code, out, err) = gateway.cli(&["config", "diff", &first["id"].to_string(), &newest["id"].to_string()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("+++ ingresses/more.yaml") && out.contains("ingresses/web.yaml"), "{out}");

    // A change that never was in force is in no snapshot, so it is not thrown away.
    gateway.folder.write_text("ingresses/web.yaml", "a: b: c\n");
    let (code, _, err) = gateway.cli(&["config", "rollback", &first["id"].to_string()]);
    assert!(code == 64 && err.contains("ingresses/web.yaml") && err.contains("--force"), "{code} {err}");
    assert!(gateway.cli(&["config", "diff"]).1.contains("+a: b: c"));
    let (code, out, err) = gateway.cli(&["config", "rollback", "--force", &first["id"].to_string()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("1 files written, 1 removed"), "{out}");
    eventually_async("the old route", || async { (gateway.get("/").await.json() == "a").then_some(()) }).await;
    eventually_async("the end of the new one", || async { (gateway.get("/more").await.json() == "a").then_some(()) })
        .await;
    let listed =
        eventually("the rollback's record", || Some(history()).filter(|listed| listed[0]["id"] != newest["id"]));
    assert!(listed[0]["summary"].as_str().unwrap().contains("-more"), "{listed}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(gateway.folder.data().join("weirgate.db")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o077, 0, "keys are in it");
    assert_eq!(gateway.cli(&["config", "rollback", "9999"]).0, 1);
}

/// What the console writes so that errors of an AI route lead to its fallback.
fn fallback_filter(route: &str) -> Value {
    let class = |class: &str| {
        json!({"single_predicate": {"input": {"name": format!("{class}_response"), "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpResponseStatusCodeClassMatchInput"}},
            "value_match": {"exact": class}}})
    };
    let header = json!([{"header": {"key": "x-higress-fallback-from", "value": route}, "append": false}]);
    let policy = json!({"max_internal_redirects": 10, "use_original_request_uri": true, "keep_original_response_code": false,
        "use_original_request_body": true, "only_redirect_upstream_code": false,
        "request_headers_to_add": header, "response_headers_to_add": header});
    let matcher = json!({"predicate": {"or_matcher": {"predicate": [class("4xx"), class("5xx")]}},
        "on_match": {"action": {"name": "action", "typed_config": {"value": policy}}}});
    let response = json!({"value": {"custom_response_matcher": {"matcher_list": {"matchers": [matcher]}}}});
    json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": route},
        "spec": {"configPatches": [{"applyTo": "HTTP_ROUTE",
            "match": {"context": "GATEWAY", "routeConfiguration": {"vhost": {"route": {"name": route}}}},
            "patch": {"operation": "MERGE", "value": {"typed_per_filter_config": {"envoy.filters.http.custom_response": response}}}}]}})
}

#[tokio::test]
async fn errors_of_an_ai_route_lead_to_its_fallback_with_everything_the_client_sent() {
    let primary = Upstream::start(|_, _| async { answer(503, "text/plain", "no") }).await;
    let second = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm-a.internal", primary.address), ("llm-b.internal", second.address)]);
    let model = json!({"higress.io/exact-match-header-x-higress-llm-model": "gpt"});
    let mut fallback = model.clone();
    fallback["higress.io/exact-match-header-x-higress-fallback-from"] = json!("ai-route-r.internal");
    folder.route_with("ai-route-r.internal", "/", "llm-a.internal.static", &model);
    folder.route_with("ai-route-r.fallback.internal", "/", "llm-b.internal.static", &fallback);
    folder.write("envoyfilters/ai-route-r.internal.yaml", &fallback_filter("ai-route-r.internal"));
    folder.plugin("model-router", &json!({"modelToHeader": "x-higress-llm-model"}), &json!([]));
    let mapped = json!([{"ingress": ["ai-route-r.internal"], "config": {"modelMapping": {"gpt": "first"}}},
        {"ingress": ["ai-route-r.fallback.internal"], "config": {"modelMapping": {"gpt": "second"}}}]);
    folder.plugin("model-mapper", &json!({}), &mapped);
    let providers = json!([{"id": "a", "type": "openai", "apiTokens": ["sk-a"], "openaiCustomUrl": "http://127.0.0.1/v1"},
        {"id": "b", "type": "openai", "apiTokens": ["sk-b"], "openaiCustomUrl": "http://127.0.0.1/v1"}]);
    let by_service = json!([{"service": ["llm-a.internal.static"], "config": {"activeProviderId": "a"}},
        {"service": ["llm-b.internal.static"], "config": {"activeProviderId": "b"}}]);
    folder.plugin("ai-proxy", &json!({"providers": providers}), &by_service);
    let keys = json!({"global_auth": false, "consumers": [{"name": "alice", "keys": ["x-key"], "credential": "k", "in_header": true}], "keys": ["x-key"], "in_header": true});
    let allowed =
        json!([{"ingress": ["ai-route-r.internal", "ai-route-r.fallback.internal"], "config": {"allow": ["alice"]}}]);
    folder.plugin("key-auth", &keys, &allowed);
    let gateway = Gateway::start(folder);
    let question = question("gpt", "hi").to_string();
    let answer = gateway.post("/v1/chat/completions", &[("x-key", "k")], question.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        (answer.json()["model"].as_str(), answer.header("x-higress-fallback-from")),
        (Some("second"), Some("ai-route-r.internal"))
    );
    assert!(primary.n_calls() >= 1);
    let seen = second.last();
    assert_eq!((seen.headers["authorization"].as_str(), &seen.json()["model"]), ("Bearer sk-b", &json!("second")));
    assert_eq!(seen.headers["x-higress-fallback-from"], "ai-route-r.internal");
    // Errors that the gateway makes itself lead there, too, and nobody gets past the fallback's own checks by it.
    let n_calls = second.n_calls();
    let answer = gateway.post("/v1/chat/completions", &[], question).await;
    assert_eq!((answer.status, answer.header("x-higress-fallback-from")), (401, Some("ai-route-r.internal")));
    // A client cannot choose the fallback itself.
    let claimed =
        [("x-key", "k"), ("x-higress-fallback-from", "ai-route-r.internal"), ("x-higress-llm-model", "other")];
    assert_eq!(gateway.post("/other", &claimed, "{}").await.status, 404);
    assert_eq!(second.n_calls(), n_calls);
}

#[tokio::test]
async fn traces_and_the_access_log_have_the_form_that_higress_config_says() {
    let (zipkin, upstream) = (Upstream::start(|_, _| async { ok(&json!({})) }).await, saying("a").await);
    let folder = Folder::new();
    folder.services(&[("zipkin", zipkin.address), ("a", upstream.address)]).route("web", "/", "a.static");
    let higress = json!({"tracing": {"enable": true, "sampling": 100, "timeout": 2000,
        "zipkin": {"service": "zipkin.static", "port": "80"}}});
    let format = "{\"p\":\"%REQ(X-NONE?:PATH)%\",\"r\":\"%ROUTE_NAME%\",\"c\":\"%UPSTREAM_CLUSTER%\",\"a\":\"%FILTER_STATE(wasm.ai_log:PLAIN)%\",\"s\":%RESPONSE_CODE%}\n";
    let mesh = json!({"accessLogFile": "/dev/stdout", "accessLogFormat": format});
    folder.write(
        "configmaps/higress-config.yaml",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "higress-config"},
            "data": {"higress": higress.to_string(), "mesh": mesh.to_string()}}),
    );
    let gateway = Gateway::start(folder);
    let trace = [
        ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
        ("x-b3-spanid", "a2fb4a1d1a96d312"),
        ("x-b3-sampled", "1"),
    ];
    assert_eq!(send(gateway.http, "GET", "/x?q=1", &trace, "".into()).await.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.headers["x-b3-traceid"], trace[0].1);
    assert_ne!(seen.headers["x-b3-spanid"], trace[1].1, "ours is the parent now");
    eventually_async("the export", || async { (zipkin.n_calls() > 0).then_some(()) }).await;
    let posted = zipkin.last();
    assert_eq!(posted.path, "/api/v2/spans");
    let span = &posted.json()[0];
    assert_eq!((&span["traceId"], &span["parentId"]), (&json!(trace[0].1), &json!(trace[1].1)));
    assert_eq!((&span["kind"], &span["tags"]["http.response.status_code"]), (&json!("SERVER"), &json!("200")));
    let line = eventually("the access log", || {
        let text = std::fs::read_to_string(gateway.folder.access_log()).unwrap_or_default();
        text.lines().next().map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line, json!({"p": "/x?q=1", "r": "web", "c": "outbound|80||a.static", "a": "-", "s": 200}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_have_header_control_copies_canaries_of_their_own_and_a_default_backend() {
    let (base, base_calls) = dubbo(b"\x91\x04base").await;
    let (canary, canary_calls) = dubbo(b"\x91\x06canary").await;
    let (copy, spare) = (saying("copy").await, Upstream::start(|_, _| async { ok(&json!({"by": "spare"})) }).await);
    let folder = Folder::new();
    let gone = Nobody::new();
    let registry = |name: &str, address: SocketAddr, protocol: &str| json!({"name": name, "type": "static", "domain": address.to_string(), "port": 80, "protocol": protocol});
    let registries = [
        ("base", base, "dubbo"),
        ("canary", canary, "dubbo"),
        ("gone", gone.address, "dubbo"),
        ("copy", copy.address, "http"),
    ];
    let registries: Vec<Value> =
        registries.iter().map(|(name, address, protocol)| registry(name, *address, protocol)).collect();
    bridge(&folder, &json!(registries));
    let port = spare.address.port();
    let metadata = json!({"name": "spare", "namespace": "higress-system"});
    folder.write(
        "services/spare.yaml",
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}),
    );
    folder.write(
        "endpoints/spare.yaml",
        &json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
            "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": port}]}]}),
    );
    for (name, method) in [("one", "first"), ("two", "second")] {
        let methods =
            json!([{"serviceMethod": method, "httpMethods": ["GET"], "httpPath": "/call", "headersAttach": "*"}]);
        folder.write(
            &format!("http2rpcs/{name}.yaml"),
            &json!({"apiVersion": "networking.higress.io/v1", "kind": "Http2Rpc", "metadata": {"name": name},
                "spec": {"dubbo": {"service": "com.a.Demo", "version": "1.0.0", "methods": methods}}}),
        );
    }
    folder.route_with(
        "base",
        "/call",
        "base.static",
        &json!({"higress.io/rpc-destination-name": "one", "higress.io/request-header-control-update": "x-set yes",
            "higress.io/response-header-control-add": "x-said yes", "higress.io/mirror-target-fqdn": "copy.static",
            "higress.io/mirror-target-fqdn-port": "80"}),
    );
    folder.route_with(
        "canary",
        "/call",
        "canary.static",
        &json!({"higress.io/canary": "true", "higress.io/canary-by-header": "x-canary", "higress.io/rpc-destination-name": "two"}),
    );
    folder.route_with(
        "gone",
        "/gone",
        "gone.static",
        &json!({"higress.io/rpc-destination-name": "one", "higress.io/default-backend": "spare", "higress.io/custom-http-errors": "404,503"}),
    );
    let gateway = Gateway::start(folder);
    let get = async |path: &str, headers: &[(&str, &str)]| send(gateway.http, "GET", path, headers, "".into()).await;
    let answer = get("/call", &[]).await;
    assert_eq!((answer.status, answer.header("x-said")), (200, Some("yes")), "{}", answer.text());
    let call = base_calls.lock()[0].escape_ascii().to_string();
    assert!(call.contains("\\x05first") && call.contains("x-set\\x03yes"), "{call}");
    eventually_async("the copy", || async { (copy.n_calls() == 1).then_some(()) }).await;
    assert_eq!(copy.last().headers["x-set"], "yes");
    assert_eq!(get("/call", &[("x-canary", "always")]).await.status, 200);
    let call = canary_calls.lock()[0].escape_ascii().to_string();
    assert!(call.contains("\\x06second"), "{call}");
    assert_eq!(base_calls.lock().len(), 1);
    // No call is possible: the default backend is asked over HTTP.
    let answer = get("/gone", &[]).await;
    assert_eq!((answer.status, &answer.json()["by"]), (200, &json!("spare")), "{}", answer.text());
    assert_eq!(spare.n_calls(), 1);
}
