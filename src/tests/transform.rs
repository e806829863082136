//! Answers replaced, held back, cached and compressed by the real gateway; requests routed again; what `import` says.

use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::*;

/// Answers with the status that the path names and with what it got.
async fn echo() -> Upstream {
    Upstream::start(|n, seen| async move {
        let status = seen.path.trim_start_matches('/').split(['/', '?']).next().and_then(|code| code.parse().ok());
        if status == Some(204) {
            return answer(204, "text/plain", "");
        }
        let body =
            json!({"path": seen.path, "headers": seen.headers, "body": String::from_utf8_lossy(&seen.body), "n": n});
        answer(status.unwrap_or(200), "application/json", body.to_string())
    })
    .await
}

/// A gateway with one route to the upstream and a plugin on it.
fn gateway(upstream: &Upstream, plugin: &str, config: &Value) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/", "a.static");
    folder.plugin(plugin, config, &json!([]));
    Gateway::start(folder)
}

fn higress_config(folder: &Folder, settings: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "higress-config"},
        "data": {"higress": settings.to_string()}});
    folder.write("configmaps/higress-config.yaml", &object);
}

#[tokio::test]
async fn an_upstreams_answer_is_replaced_on_a_path_that_streams() {
    let upstream = echo().await;
    let config =
        json!({"enable_on_status": [204, 404, 503], "status_code": 299, "headers": ["x-own=1"], "body": "sorry"});
    let gateway = gateway(&upstream, "custom-response", &config);
    for path in ["/404", "/503", "/204"] {
        let got = gateway.get(path).await;
        assert_eq!((got.status, got.text().as_str(), got.header("x-own")), (299, "sorry", Some("1")), "{path}");
    }
    assert_eq!(gateway.get("/200").await.status, 200);
    // A body that nobody reads must not spoil the answer.
    let big = Bytes::from(vec![b'x'; 300_000]);
    let got = send(gateway.http, "POST", "/404", &[], big).await;
    assert_eq!((got.status, got.text().as_str()), (299, "sorry"));
    assert_eq!(send_h2c(gateway.http, "GET", "/404", &[], Bytes::new()).await.text(), "sorry");
    let is_replaced =
        |entry: &&Value| entry["response_code"] == 299 && entry["response_code_details"] == "custom-response";
    assert_eq!(gateway.access_log(6).iter().filter(is_replaced).count(), 5);
    // On the path that reads the request first, and of the gateway's own answers.
    gateway.folder.plugin("response-cache", &json!({"cacheKeyFromHeader": "x-key"}), &json!([]));
    eventually_async("the exchange path", || async {
        let got = send(gateway.http, "GET", "/404", &[("x-key", "missing")], Bytes::new()).await;
        assert_eq!((got.status, got.text().as_str()), (299, "sorry"));
        let cached = send(gateway.http, "GET", "/200", &[("x-key", "kept")], Bytes::new()).await;
        (cached.header("x-cache-status") == Some("hit")).then_some(())
    })
    .await;
    let folder = Folder::new();
    folder.services(&[]).route("gone", "/", "gone.static").plugin("custom-response", &config, &json!([]));
    assert_eq!(Gateway::start(folder).get("/").await.text(), "sorry");
}

#[tokio::test]
async fn own_errors_take_the_form_that_rules_give_them() {
    let folder = Folder::new();
    folder.services(&[]).route("gone", "/", "gone.static");
    let rules = json!([{"match": {"statuscode": 503, "responsebody": "no healthy upstream"},
        "replace": {"statuscode": 200, "responsebody": "{\"code\":503}"}}]);
    folder.plugin("gw-error-format", &json!({"rules": rules, "set_header": [{"x-own": "1"}]}), &json!([]));
    let got = Gateway::start(folder).get("/").await;
    assert_eq!((got.status, got.json(), got.header("x-own")), (200, json!({"code": 503}), Some("1")));
}

#[tokio::test]
async fn a_header_made_from_the_body_chooses_the_route() {
    let (a, b) = (echo().await, echo().await);
    let folder = Folder::new();
    folder.services(&[("a", a.address), ("b", b.address)]).route("web", "/", "a.static");
    folder.route_with("vip", "/", "b.static", &json!({"higress.io/exact-match-header-x-tier": "vip"}));
    folder.plugin(
        "transformer",
        &json!({
            "reqRules": [{"operate": "map", "mapSource": "body", "headers": [{"fromKey": "user.tier", "toKey": "X-Tier"}]},
                {"operate": "add", "body": [{"key": "seen", "value": "true", "value_type": "boolean"}]}],
            "respRules": [{"operate": "remove", "body": [{"key": "headers"}]}, {"operate": "add", "body": [{"key": "by", "value": "gateway"}]}],
        }),
        &json!([]),
    );
    let gateway = Gateway::start(folder);
    let got = gateway.post("/x", &[], r#"{"user":{"tier":"vip"}}"#).await.json();
    assert_eq!(got, json!({"path": "/x", "body": r#"{"user":{"tier":"vip"},"seen":true}"#, "n": 0, "by": "gateway"}));
    assert_eq!((a.n_calls(), b.n_calls()), (0, 1));
    gateway.post("/x", &[], r#"{"user":{"tier":"none"}}"#).await;
    assert_eq!((a.n_calls(), b.n_calls()), (1, 1));
    let routes: Vec<Value> = gateway.access_log(2).iter().map(|entry| entry["route_name"].clone()).collect();
    assert!(routes.contains(&json!("vip")) && routes.contains(&json!("web")), "{routes:?}");
}

/// AI routes of the console match nothing until `model-router` has written its header.
#[tokio::test]
async fn plugins_run_before_there_is_a_route_and_after_there_is_none() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]);
    folder.route_with("vip", "/", "a.static", &json!({"higress.io/exact-match-header-x-tier": "vip"}));
    let rules = json!([{"operate": "map", "mapSource": "querys", "headers": [{"fromKey": "tier", "toKey": "x-tier"}]}]);
    folder.plugin("transformer", &json!({"reqRules": rules}), &json!([]));
    folder.plugin("custom-response", &json!({"enable_on_status": [404], "body": "nothing here"}), &json!([]));
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.get("/200?tier=vip").await.json()["path"], "/200?tier=vip");
    let got = gateway.get("/200?tier=none").await;
    assert_eq!((got.status, got.text().as_str(), upstream.n_calls()), (200, "nothing here", 1));
}

#[tokio::test]
async fn cached_answers_cost_no_call_and_outlive_a_reload() {
    let upstream = echo().await;
    let gateway = gateway(&upstream, "response-cache", &json!({"cacheKeyFromHeader": "x-key"}));
    let ask = || send(gateway.http, "GET", "/200/a", &[("x-key", "k")], Bytes::new());
    let first = ask().await;
    assert_eq!(first.header("x-cache-status"), Some("miss"));
    gateway.folder.route("more", "/more", "a.static");
    eventually_async("the reload", || async {
        (gateway.admin("GET", "/api/v1/config").await.json()["snapshot"] == 2).then_some(())
    })
    .await;
    let second = ask().await;
    assert_eq!((second.header("x-cache-status"), &second.body, upstream.n_calls()), (Some("hit"), &first.body, 1));
}

#[tokio::test]
async fn both_halves_are_in_the_access_log() {
    let upstream = echo().await;
    let half = json!({"headers": {"enabled": true}, "body": {"enabled": true, "maxSize": 9}});
    let gateway = gateway(&upstream, "log-request-response", &json!({"request": half, "response": half}));
    let got = gateway.post("/200", &[("x-own", "1")], r#"{"a":"bcdef"}"#).await;
    assert_eq!(got.json()["body"], r#"{"a":"bcdef"}"#);
    let entry = &gateway.access_log(1)[0];
    let headers: Value = serde_json::from_str(entry["request_headers"].as_str().unwrap()).unwrap();
    assert_eq!((&headers["x-own"], &headers["method"]), (&json!("1"), &json!("POST")));
    assert_eq!((&entry["request_body"], &entry["response_body"]), (&json!("{\"a\":\"bcd"), &json!("{\"path\":\"")));
    assert!(entry["upstream_service_time"].is_u64(), "{entry}");
}

#[tokio::test]
async fn envoys_headers_are_there_unless_switched_off() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/", "a.static");
    let gateway = Gateway::start(folder);
    let got = gateway.get("/200").await;
    assert!(got.header("x-envoy-upstream-service-time").is_some_and(|took| took.parse::<u64>().is_ok()), "{got:?}");
    higress_config(&gateway.folder, &json!({"disableXEnvoyHeaders": true}));
    eventually_async("the switch", || async {
        let got = send(gateway.http, "GET", "/200", &[("x-envoy-own", "1")], Bytes::new()).await;
        let sent = got.json()["headers"].get("x-envoy-own").is_some();
        (got.header("x-envoy-upstream-service-time").is_none() && !sent).then_some(())
    })
    .await;
}

fn unzipped(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn answers_are_compressed_as_the_config_map_says() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/", "a.static");
    folder.route("held", "/200/held", "a.static");
    higress_config(&folder, &json!({"gzip": {"enable": true, "minContentLength": 10}}));
    // On one route only: its answers are held back until they are whole.
    let object = json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin", "metadata": {"name": "transformer.internal"},
        "spec": {"defaultConfigDisable": true, "phase": "AUTHN", "priority": 410, "matchRules": [{"ingress": ["held"], "config": {
        "respRules": [{"operate": "add", "body": [{"key": "by", "value": "gateway"}]}]}}]}});
    folder.write("wasmplugins/transformer.internal.yaml", &object);
    let gateway = Gateway::start(folder);
    let zip = [("accept-encoding", "gzip")];
    for path in ["/200/plain", "/200/held"] {
        for got in [
            send(gateway.http, "GET", path, &zip, Bytes::new()).await,
            send_h2c(gateway.http, "GET", path, &zip, Bytes::new()).await,
        ] {
            assert_eq!(
                (got.header("content-encoding"), got.header("vary")),
                (Some("gzip"), Some("Accept-Encoding")),
                "{path}"
            );
            let text: Value = serde_json::from_str(&unzipped(&got.body)).unwrap();
            assert_eq!((&text["path"], text["by"] == "gateway"), (&json!(path), path == "/200/held"));
        }
        let plain = gateway.get(path).await;
        assert_eq!((plain.header("content-encoding"), &plain.json()["path"]), (None, &json!(path)));
    }
    assert_eq!(send(gateway.http, "HEAD", "/200", &zip, Bytes::new()).await.header("content-encoding"), None);
    higress_config(&gateway.folder, &json!({"gzip": {"minContentLength": 10}}));
    eventually_async("the switch", || async {
        send(gateway.http, "GET", "/200", &zip, Bytes::new()).await.header("content-encoding").is_none().then_some(())
    })
    .await;
}

/// A compressed event stream still shows each event when it comes.
#[tokio::test]
async fn a_compressed_stream_shows_its_first_event_before_the_second_is_there() {
    let go_on = Arc::new(Notify::new());
    let waiting = go_on.clone();
    let upstream = Upstream::start(move |_, _| {
        let waiting = waiting.clone();
        async move {
            let pieces = stream::unfold(0, move |n| {
                let waiting = waiting.clone();
                async move {
                    if n == 1 {
                        waiting.notified().await;
                    }
                    (n < 2).then(|| (Ok::<_, std::io::Error>(Bytes::from(format!("data: {n}\n\n"))), n + 1))
                }
            });
            answer(200, "text/event-stream", Body::from_stream(pieces))
        }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/", "a.static");
    higress_config(&folder, &json!({"gzip": {"enable": true, "contentType": ["text/event-stream"]}}));
    let gateway = Gateway::start(folder);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection);
    let asked = request(gateway.http, "GET", "/", &[("accept-encoding", "gzip")], Full::new(Bytes::new()));
    let mut got = sender.send_request(asked).await.unwrap();
    assert_eq!(got.headers()["content-encoding"], "gzip");
    let mut wire = Vec::new();
    let mut shown = String::new();
    while !shown.contains("data: 0\n\n") {
        wire.extend_from_slice(&got.body_mut().frame().await.unwrap().unwrap().into_data().unwrap());
        let mut bytes = Vec::new();
        // The stream is open, so the decoder ends early with what it has.
        let _ = flate2::read::GzDecoder::new(&wire[..]).read_to_end(&mut bytes);
        shown = String::from_utf8(bytes).unwrap();
    }
    go_on.notify_one();
    wire.extend_from_slice(&got.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(unzipped(&wire), "data: 0\n\ndata: 1\n\n");
}

#[test]
fn import_says_what_becomes_of_each_object() {
    let folder = Folder::new();
    folder.route("web", "/", "nowhere.static");
    folder.plugin("response-cache", &json!({"cache": {"type": "redis", "serviceName": "r.nacos"}}), &json!([]));
    folder.write(
        "secrets/plain.yaml",
        &json!({"kind": "Secret", "metadata": {"name": "plain"}, "stringData": {"a": "b"}}),
    );
    folder.write("envoyfilters/h.yaml", &json!({"kind": "EnvoyFilter", "metadata": {"name": "h"}}));
    let dir = folder.config();
    let import = |form: &str| run_cli(&["import", dir.to_str().unwrap(), "--report", form], &folder);
    let (code, out, _) = import("json");
    let report: Value = serde_json::from_str(&out).unwrap();
    let verdict = |file: &str| {
        let rows = report["objects"].as_array().unwrap();
        rows.iter().find(|row| row["file"] == file).unwrap_or_else(|| panic!("{file} in {out}"))["verdict"].clone()
    };
    assert_eq!(code, 0, "{out}");
    assert_eq!(verdict("ingresses/web.yaml"), "unavailable", "its service does not exist");
    assert_eq!(verdict("wasmplugins/response-cache.internal.yaml"), "differently");
    assert_eq!(verdict("secrets/plain.yaml"), "native");
    assert_eq!(verdict("envoyfilters/h.yaml"), "ignored");
    let (_, markdown, _) = import("md");
    assert!(markdown.contains("## Does not work") && markdown.contains("nowhere.static"), "{markdown}");
    let (_, html, _) = import("html");
    assert!(html.starts_with("<!doctype html>") && html.contains("Works, with differences</h2>"), "{html}");
    folder.plugin("transformer", &json!({"reqRules": "<b>"}), &json!([]));
    let (code, html, _) = import("html");
    assert!(code == 0 && html.contains("&lt;b&gt;"), "only the plugin is out: {code} {html}");
    folder.write("ingresses/web.yaml", &json!({"kind": "Ingress", "metadata": {"name": "web"}, "spec": "<i>"}));
    let (code, json, _) = import("json");
    assert!(code == 0 && json.contains("unavailable"), "only its routes are out: {code} {json}");
    folder.write("wasmplugins/bare.yaml", &json!({"kind": "WasmPlugin", "metadata": {"name": "bare"}, "spec": "<i>"}));
    let (code, json, _) = import("json");
    assert!(code == 64 && json.contains("refused"), "{code} {json}");
}

/// Regression: `import` said "works" of routes that a plugin closed by its global configuration, a rule for their domain, or by not being here.
#[test]
fn import_tells_what_requests_get_where_a_plugin_is_out() {
    let judged = |file: &str, plugin: Value| {
        let folder = Folder::new();
        folder.write(
            "mcpbridges/default.yaml",
            &json!({"kind": "McpBridge", "metadata": {"name": "default"},
            "spec": {"registries": [{"name": "up", "type": "static", "domain": "127.0.0.1:9", "port": 80}]}}),
        );
        folder.route("web", "/", "up.static");
        let mut object = json!({"kind": "WasmPlugin", "metadata": {"name": "p"}});
        object["spec"] = plugin;
        folder.write("wasmplugins/p.yaml", &object);
        let (_, out, _) = run_cli(&["import", folder.config().to_str().unwrap(), "--report", "json"], &folder);
        let report: Value = serde_json::from_str(&out).unwrap();
        let rows = report["objects"].as_array().unwrap();
        let verdict =
            |file: &str| rows.iter().find(|row| row["file"] == file).unwrap()["verdict"].as_str().unwrap().to_owned();
        (verdict(file), verdict("wasmplugins/p.yaml"))
    };
    let web = |plugin: Value| judged("ingresses/web.yaml", plugin);
    let url = "oci://r.example/plugins/ip-restriction:1.0.0";
    let (good, bad) = (json!({"allow": ["10.0.0.0/8"]}), json!({"allow": ["10.0.0.0/99"]}));
    let own = "oci://r.example/plugins/of-ours:1.0.0";
    for (plugin, route, object) in [
        (json!({"url": url, "defaultConfig": good}), "native", "differently"),
        (json!({"url": url, "defaultConfig": bad}), "unavailable", "unavailable"),
        (json!({"url": url, "matchRules": [{"domain": ["*"], "config": bad}]}), "unavailable", "unavailable"),
        (json!({"url": url, "matchRules": [{"domain": ["a.com"], "config": bad}]}), "native", "unavailable"),
        (
            json!({"url": url, "matchRules": [{"ingress": ["web"], "config": good}, {"ingress": [], "config": good}]}),
            "native",
            "partly",
        ),
        (
            json!({"url": url, "matchRules": [{"ingress": ["web"], "config": good}, {"ingress": ["x"], "config": bad}]}),
            "native",
            "partly",
        ),
        (json!({"url": own, "failStrategy": "FAIL_CLOSE", "defaultConfig": {"a": 1}}), "unavailable", "unavailable"),
        (json!({"url": own, "failStrategy": "FAIL_OPEN", "defaultConfig": {"a": 1}}), "native", "ignored"),
    ] {
        assert_eq!(web(plugin.clone()), (route.to_owned(), object.to_owned()), "{plugin}");
    }
}

/// Regression: the body came all the same, which clients of HTTP/2 take for a broken stream.
#[tokio::test]
async fn an_answer_that_is_made_one_without_body_has_none() {
    let upstream = Upstream::start(|_, _| async { ok(&json!({"a": 1})) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("up", "/", "up.static");
    let rules = json!({"respRules": [{"operate": "replace", "headers": [{"key": ":status", "newValue": "204"}]}]});
    folder.plugin("transformer", &rules, &json!([]));
    let gateway = Gateway::start(folder);
    for (method, body) in [("GET", ""), ("POST", "{}")] {
        let headers = [("content-type", "application/json")];
        for answer in [
            send(gateway.http, method, "/", &headers, body.into()).await,
            send_h2c(gateway.http, method, "/", &headers, body.into()).await,
        ] {
            assert_eq!((answer.status, answer.text().as_str(), answer.header("content-length")), (204, "", None));
        }
    }
}
