//! Services some of whose endpoints fail, are unwell, or have enough to do.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::json;

use crate::harness::*;
use crate::ingress::{Authority, secret, site};

/// Services `<name>.static` with several addresses each.
pub fn services_at(folder: &Folder, services: &[(&str, &[SocketAddr])]) {
    let registries: Vec<serde_json::Value> = services
        .iter()
        .map(|(name, addresses)| {
            let domain = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            json!({"name": name, "type": "static", "domain": domain, "port": 80})
        })
        .collect();
    let object = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
        "spec": {"registries": registries}});
    folder.write("mcpbridges/default.yaml", &object);
}

/// A DestinationRule for the service.
pub fn rule(folder: &Folder, service: &str, policy: serde_json::Value) {
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "rule"},
        "spec": {"host": service, "trafficPolicy": policy}});
    folder.write("destinationrules/rule.yaml", &object);
}

#[tokio::test]
async fn a_rule_opens_tls_to_a_service_and_says_how() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let authority = Authority::new();
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    authority.sign(&folder, "pair", &["closed.test"]);
    let demands = json!({"higress.io/auth-tls-secret": "pair"});
    site(&folder, "closed", "closed.test", "up.static", Some("pair"), &demands);
    let inner = Gateway::start(folder);

    let folder = Folder::new();
    folder.services(&[("inner", inner.https)]).route("inner", "/", "inner.static");
    authority.sign(&folder, "client", &[]);
    folder.write("secrets/other.yaml", &secret("other", json!({"ca.crt": Authority::new().pem})));
    let tls = |mode: &str, credential: &str| json!({"mode": mode, "sni": "closed.test", "credentialName": credential, "insecureSkipVerify": false});
    rule(&folder, "inner.static", json!({"tls": tls("MUTUAL", "client")}));
    let outer = Gateway::start(folder);
    let status = async || send(outer.http, "GET", "/", &[("host", "closed.test")], Bytes::new()).await.status;
    assert_eq!(status().await, 200);
    let of_port = json!([{"port": {"number": 80}, "tls": tls("SIMPLE", "other")}]);
    rule(&outer.folder, "inner.static", json!({"tls": tls("MUTUAL", "client"), "portLevelSettings": of_port}));
    reloaded(&outer, 2).await;
    assert_eq!(status().await, 503, "what is said of the port counts, and it names another authority");
    rule(&outer.folder, "inner.static", json!({"tls": tls("SIMPLE", "client"), "portLevelSettings": []}));
    reloaded(&outer, 3).await;
    assert_eq!(status().await, 200);
}

async fn metric(gateway: &Gateway, line: &str) -> Option<String> {
    let text = gateway.metrics().await;
    text.lines().find_map(|found| Some(found.strip_prefix(line)?.trim().to_owned()))
}

pub async fn reloaded(gateway: &Gateway, number: u64) {
    eventually_async("the reload", || async {
        (gateway.admin("GET", "/api/v1/config").await.json()["snapshot"] == number).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_over_a_reload() {
    let good = Upstream::start_at("[::1]:0", |_, _| async { ok(&json!("good")) }).await;
    let bad = Upstream::start(|_, _| async { answer(502, "text/plain", "bad") }).await;
    let nobody = Nobody::new();
    let folder = Folder::new();
    services_at(&folder, &[("web", &[good.address, bad.address, nobody.address])]);
    let once = json!({"nginx.ingress.kubernetes.io/proxy-next-upstream": "off"});
    folder.route_with("web", "/", "web.static", &once);
    let policy = json!({"outlierDetection": {"consecutiveGatewayErrors": 1, "maxEjectionPercent": 100}});
    rule(&folder, "web.static", policy);
    // Bodies are read for this, which makes the requests go another way to the upstream.
    folder.plugin("request-block", &json!({"block_bodies": ["secret"]}), &json!([]));
    let gateway = Gateway::start(folder);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.get("/").await.status);
        statuses.push(gateway.post("/", &[], "a body").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 502, 503]);
    gateway.folder.route_with("more", "/more", "web.static", &once);
    reloaded(&gateway, 2).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/more").await.status, 200);
    }
    assert_eq!(bad.n_calls(), 1);
    let ejections = metric(&gateway, "weirgate_upstream_ejections_total{service=\"web.static\"}").await;
    assert_eq!(ejections.as_deref(), Some("2"));
}

#[tokio::test]
async fn an_unwell_endpoint_is_checked_by_one_task_and_comes_back() {
    let is_well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = is_well.clone();
    let sick = Upstream::start(move |_, seen| {
        let is_well = state.load(std::sync::atomic::Ordering::SeqCst);
        async move {
            let status = if seen.path == "/healthz" && !is_well { 500 } else { 200 };
            answer(status, "application/json", "\"sick\"")
        }
    })
    .await;
    let good = Upstream::start(|_, _| async { ok(&json!("good")) }).await;
    let folder = Folder::new();
    services_at(&folder, &[("web", &[good.address, sick.address]), ("rare", &[good.address])]);
    folder.route("web", "/", "web.static");
    let check = json!({"healthCheck": {"type": "HTTP", "interval": "20ms", "http": {"path": "/healthz"}}});
    rule(&folder, "web.static", check);
    let rarely = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "rare"},
        "spec": {"host": "rare.static", "trafficPolicy": {"healthCheck": {"type": "TCP", "interval": "1h"}}}});
    folder.write("destinationrules/rare.yaml", &rarely);
    let gateway = Gateway::start(folder);
    let unwell = async |expected: &str| {
        let line = "weirgate_upstream_unhealthy_endpoints{service=\"web.static\"}";
        eventually_async("the state of the endpoints", || async {
            (metric(&gateway, line).await.as_deref() == Some(expected)).then_some(())
        })
        .await;
    };
    unwell("1").await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.json(), "good");
    }
    for number in 2..4 {
        gateway.folder.route(&format!("more-{number}"), &format!("/more-{number}"), "web.static");
        reloaded(&gateway, number).await;
    }
    is_well.store(true, std::sync::atomic::Ordering::SeqCst);
    unwell("0").await;
    let mut answers = [gateway.get("/").await.text(), gateway.get("/").await.text()];
    answers.sort_unstable();
    assert_eq!(answers, ["\"good\"", "\"sick\""]);
    let line = "weirgate_upstream_health_checks_total{service=\"rare.static\",result=\"passed\"}";
    let n_checks = eventually_async("the rare check", || metric(&gateway, line)).await;
    assert_eq!(n_checks, "1", "a reload starts no second task");

    // Nobody checks any more, so everybody is well.
    is_well.store(false, std::sync::atomic::Ordering::SeqCst);
    unwell("1").await;
    rule(&gateway.folder, "web.static", json!({}));
    unwell("0").await;
}

#[tokio::test]
async fn more_than_a_service_may_have_is_refused() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = Upstream::start(move |n, _| {
        let mut released = released.clone();
        async move {
            released.wait_for(|is_released| *is_released).await.unwrap();
            answer(if n == 1 { 503 } else { 200 }, "text/plain", "at last")
        }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("web", slow.address)]).route("web", "/", "web.static");
    rule(&folder, "web.static", json!({"connectionPool": {"http": {"http2MaxRequests": 1, "maxRetries": 0}}}));
    folder.plugin("request-block", &json!({"block_bodies": ["secret"]}), &json!([]));
    let gateway = Gateway::start(folder);
    let asked = tokio::spawn(send(gateway.http, "GET", "/", &[], Bytes::new()));
    eventually_async("the first request", || async { (slow.n_calls() == 1).then_some(()) }).await;
    for refused in [gateway.get("/").await, gateway.post("/", &[], "a body").await] {
        assert_eq!((refused.status, refused.error_code()), (503, "overloaded".to_owned()), "{}", refused.text());
        assert_eq!(refused.header("x-envoy-overloaded"), Some("true"));
    }
    let details: Vec<String> =
        gateway.access_log(2).iter().map(|line| line["response_code_details"].to_string()).collect();
    assert!(details.iter().all(|details| details.contains("{overflow}")), "{details:?}");
    let overflow = async |limit: &str| {
        let line = format!("weirgate_upstream_overflow_total{{service=\"web.static\",limit=\"{limit}\"}}");
        metric(&gateway, &line).await
    };
    assert_eq!(overflow("requests").await.as_deref(), Some("2"));
    release.send(true).unwrap();
    assert_eq!(asked.await.unwrap().status, 200);
    // A place is free a moment after its answer has been read.
    let next = async || {
        eventually_async("a free place", || async {
            let answer = gateway.get("/").await;
            answer.header("x-envoy-overloaded").is_none().then_some(answer.status)
        })
        .await
    };
    assert_eq!((next().await, slow.n_calls()), (503, 2), "no repetition is allowed, not even this one");
    assert_eq!(overflow("retries").await.as_deref(), Some("1"));
    assert_eq!(next().await, 200);
}
