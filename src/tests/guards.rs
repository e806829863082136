//! What guards a route or a host cannot be walked around, and is there as soon as it is written.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;
use crate::ingress::{Authority, curl, secret, site};

fn keys(folder: &Folder, consumers: &Value, allow: &Value) {
    let config = json!({"global_auth": false, "keys": ["x-higress-dummy-key"], "consumers": consumers});
    folder.plugin("key-auth", &config, &json!([{"ingress": ["inner"], "config": {"allow": allow}}]));
}

fn ann() -> Value {
    json!([{"name": "ann", "keys": ["x-key"], "in_header": true, "credential": "secret"}])
}

/// Only dots were resolved; a broader route took the other spellings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_spellings_of_a_path_meet_its_rules() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("inner", "/admin", "up.static").route("outer", "/", "up.static");
    keys(&folder, &ann(), &json!(["ann"]));
    let gateway = Gateway::start(folder);
    let paths =
        [("/admin", 401), ("/%61dmin", 401), ("/%41/../%61dmin/x", 401), ("/x\\..\\admin", 401), ("/%2561dmin", 200)];
    for (path, expected) in paths.into_iter().chain([("/admin%00", 400), ("/a%2Fb", 200)]) {
        // Not by a client library, which would mend some of them.
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--path-as-is"]);
        let output = curl.arg(format!("http://{}{path}", gateway.http)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected.to_string(), "{path}");
    }
    assert_eq!(upstream.last().path, "/a%2Fb");
    let known = send(gateway.http, "GET", "/%61dmin", &[("x-key", "secret")], Bytes::new()).await;
    assert_eq!((known.status, upstream.last().path.as_str()), (200, "/admin"), "the upstream gets what was judged");
}

/// Regression: custom answers passed the gateway's own refusals by, and the key stood in the log of requests that ended before key-auth.
#[tokio::test]
async fn a_refusal_before_the_chain_is_treated_and_shows_no_key() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("outer", "/", "up.static");
    let sources = json!({"higress.io/whitelist-source-range": "203.0.113.0/24"});
    folder.route_with("inner", "/inner", "up.static", &sources);
    keys(&folder, &json!([{"name": "ann", "keys": ["apikey"], "in_query": true, "credential": "secret"}]), &json!([]));
    folder.plugin("custom-response", &json!({"enable_on_status": [403], "status_code": 418, "body": "no"}), &json!([]));
    let gateway = Gateway::start(folder);
    let refused = gateway.get("/inner?apikey=secret&x=1").await;
    assert_eq!((refused.status, refused.text().as_str()), (418, "no"));
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["path"], &line["response_code_details"]), (&json!("/inner?x=1"), &json!("custom-response")));
    assert_eq!(gateway.get("/").await.status, 200);
}

/// `_disable_` in a rule of a C++ plugin is another way to say that the plugin is off there.
#[tokio::test]
async fn a_rule_may_switch_a_plugin_off() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("open", "/open", "up.static").route("outer", "/", "up.static");
    let rules = json!([{"ingress": ["open"], "config": {"_disable_": true, "block_urls": ["x"]}}]);
    folder.plugin("request-block", &json!({"block_urls": ["x"]}), &rules);
    let gateway = Gateway::start(folder);
    assert_eq!((gateway.get("/open/x").await.status, gateway.get("/x").await.status), (200, 403));
}

/// The console writes it before the first consumer is made; the change was refused, and the route stayed open.
#[tokio::test]
async fn a_plugin_whom_nobody_may_pass_closes_its_route_at_once() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route("inner", "/inner", "up.static").route("outer", "/", "up.static");
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.get("/inner").await.status, 200);
    keys(&gateway.folder, &json!([]), &json!([]));
    eventually_async("the refusal", || async { (gateway.get("/inner").await.status == 401).then_some(()) }).await;
    assert_eq!(gateway.get("/outer").await.status, 200);
    // Consumers that only rules know are enough, too.
    let rules = json!([{"ingress": ["inner"], "config": {"keys": ["x-key"], "consumers": ann()}}]);
    gateway.folder.plugin("key-auth", &json!({"keys": ["x-key"]}), &rules);
    eventually_async("the consumer", || async {
        let known = send(gateway.http, "GET", "/inner", &[("x-key", "secret")], Bytes::new()).await;
        (known.status == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/inner").await.status, 401);
}

/// The annotation of the second was dropped in silence, and certificates knew one level of a wildcard where routes know all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_of_a_host_says_who_its_clients_are() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let authority = Authority::new();
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    authority.sign(&folder, "pair", &["two.test", "*.wide.test", "open.test"]);
    authority.sign(&folder, "client", &[]);
    let demand = json!({"higress.io/auth-tls-secret": "pair"});
    site(&folder, "first", "two.test", "up.static", Some("pair"), &json!({}));
    site(&folder, "second", "two.test", "up.static", None, &demand);
    site(&folder, "wide", "*.wide.test", "up.static", Some("pair"), &demand);
    site(&folder, "open", "open.test", "up.static", Some("pair"), &json!({}));
    let path = |name: &str| folder.dir.path().join(name).display().to_string();
    let (certificate, key) = (path("client.crt"), path("client.key"));
    let shown = ["--cert", certificate.as_str(), "--key", key.as_str()];
    let gateway = Gateway::start(folder);
    assert_eq!(curl(&gateway, "open.test", &[]), "200");
    for host in ["two.test", "x.wide.test", "x.y.wide.test"] {
        assert_eq!(curl(&gateway, host, &[]), "000", "{host} without certificate");
        assert_eq!(curl(&gateway, host, &shown), "200", "{host}");
        assert_eq!(curl(&gateway, "open.test", &["-H", &format!("Host: {host}")]), "421", "{host} past the check");
    }
}

/// The whole folder was refused, and `validate` said that nothing was wrong.
#[tokio::test]
async fn a_certificate_that_cannot_be_shown_to_an_upstream_costs_its_route() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("plain", "/plain", "up.static");
    folder.write("secrets/junk.yaml", &secret("junk", json!({"tls.crt": "no", "tls.key": "no"})));
    let annotations = json!({"higress.io/backend-protocol": "HTTPS", "higress.io/proxy-ssl-secret": "junk"});
    folder.route_with("tls", "/tls", "up.static", &annotations);
    let dir = folder.config().to_str().unwrap().to_owned();
    let (code, out, _) = run_cli(&["validate", &dir], &folder);
    assert!(code == 64 && out.contains("secrets/junk.yaml") && out.contains("503"), "{code} {out}");
    let gateway = Gateway::start(folder);
    assert_eq!((gateway.get("/plain").await.status, gateway.get("/tls").await.status), (200, 503));
}

/// Browsers send each cookie in a field of its own over HTTP/2.
#[tokio::test]
async fn cookies_of_http2_are_one_header_upstream() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("up", "/", "up.static");
    let gateway = Gateway::start(folder);
    let cookies = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "sid=3")];
    assert_eq!(send_h2c(gateway.http, "GET", "/", &cookies, Bytes::new()).await.status, 200);
    assert_eq!(upstream.last().headers["cookie"], "a=1; b=2; sid=3");
}

/// A key chose the endpoint that had just failed, again and again.
#[tokio::test]
async fn another_try_goes_to_another_endpoint() {
    let (upstream, nobody) = (Upstream::start(|_, _| async { ok(&json!("up")) }).await, Nobody::new());
    for annotations in [
        json!({"higress.io/upstream-hash-by": "$http_x_user"}),
        json!({"higress.io/load-balance": "ewma"}),
        json!({"higress.io/load-balance": "least_conn"}),
    ] {
        let folder = Folder::new();
        let addresses = format!("{},{}", upstream.address, nobody.address);
        let registry = json!({"name": "up", "type": "static", "domain": addresses, "port": 80});
        let object = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
            "spec": {"registries": [registry]}});
        folder.write("mcpbridges/default.yaml", &object);
        folder.route_with("up", "/", "up.static", &annotations);
        let gateway = Gateway::start_with(folder, "[outlier_detection]\nconsecutive_gateway_errors = 0\n");
        for user in 0..20 {
            let answer = send(gateway.http, "GET", "/", &[("x-user", &user.to_string())], Bytes::new()).await;
            assert_eq!(answer.status, 200, "{annotations} {user}: {}", answer.text());
        }
    }
}
