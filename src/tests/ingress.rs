//! What Ingress annotations do to traffic, on both ways to an upstream: streamed through, and with the body read.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::control_plane::bridge;
use crate::harness::{Answer, Folder, Gateway, Upstream, answer, eventually_async, ok, question, send};

/// An upstream that answers with its name and what it was asked.
pub async fn named(name: &'static str) -> Upstream {
    Upstream::start(move |_, seen| async move { ok(&json!({"by": name, "path": seen.path, "headers": seen.headers})) })
        .await
}

async fn failing(status: u16) -> Upstream {
    Upstream::start(move |_, _| async move { answer(status, "text/plain", "no") }).await
}

/// A Kubernetes service `higress-system/<name>`.
fn service(folder: &Folder, name: &str, upstream: &Upstream) {
    let metadata = json!({"name": name, "namespace": "higress-system"});
    let port = upstream.address.port();
    folder.write(
        &format!("services/{name}.yaml"),
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}),
    );
    folder.write(
        &format!("endpoints/{name}.yaml"),
        &json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
            "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": port}]}]}),
    );
}

pub fn by(answer: &Answer) -> String {
    answer.json()["by"].as_str().unwrap_or_default().to_owned()
}

pub async fn get(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.http, "GET", path, headers, Bytes::new()).await
}

#[tokio::test]
async fn canaries_take_their_part_with_their_own_header_control() {
    let (base, canary) = (named("base").await, named("canary").await);
    let folder = Folder::new();
    folder.services(&[("base", base.address), ("canary", canary.address)]);
    let control = |arm: &str| {
        json!({"higress.io/request-header-control-update": format!("x-arm {arm}"),
            "higress.io/response-header-control-add": format!("x-arm {arm}")})
    };
    let with = |mut all: Value, more: Value| {
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    folder.route_with("all", "/", "base.static", &control("base"));
    let by_header = json!({"nginx.ingress.kubernetes.io/canary": "true",
        "nginx.ingress.kubernetes.io/canary-by-header": "x-canary", "higress.io/canary-by-header-value": "v[0-9]"});
    folder.route_with("by-header", "/", "canary.static", &with(control("header"), by_header));
    let by_cookie = json!({"higress.io/canary": "true", "higress.io/canary-by-cookie": "beta"});
    folder.route_with("by-cookie", "/", "canary.static", &by_cookie);
    let gateway = Gateway::start(folder);
    for (headers, expected) in [
        (vec![], "base"),
        (vec![("x-canary", "v2")], "canary"),
        (vec![("x-canary", "v22")], "base"),
        (vec![("cookie", "a=b; beta=always")], "canary"),
        (vec![("cookie", "beta=no")], "base"),
    ] {
        assert_eq!(by(&get(&gateway, "/x", &headers).await), expected, "{headers:?}");
    }
    let base = get(&gateway, "/x", &[("x-arm", "client")]).await;
    assert_eq!((base.header("x-arm"), base.json()["headers"]["x-arm"].as_str()), (Some("base"), Some("base")));
    let canary = get(&gateway, "/x", &[("x-canary", "always")]).await;
    assert_eq!((canary.header("x-arm"), canary.json()["headers"]["x-arm"].as_str()), (Some("header"), Some("header")));
}

#[tokio::test]
async fn a_share_of_the_requests_goes_to_a_canary() {
    let (base, canary) = (named("base").await, named("canary").await);
    let folder = Folder::new();
    folder.services(&[("base", base.address), ("canary", canary.address)]).route("all", "/", "base.static");
    let share = json!({"higress.io/canary": "true", "higress.io/canary-weight": "3",
        "higress.io/canary-weight-total": "10"});
    folder.route_with("canary", "/", "canary.static", &share);
    let gateway = Gateway::start(folder);
    for _ in 0..400 {
        assert_eq!(get(&gateway, "/", &[]).await.status, 200);
    }
    assert_eq!(base.n_calls() + canary.n_calls(), 400);
    assert!((60..180).contains(&canary.n_calls()), "{}", canary.n_calls());
}

#[tokio::test]
async fn a_default_backend_answers_where_the_service_does_not() {
    let (gone, errors) = (failing(404).await, named("errors").await);
    let folder = Folder::new();
    folder.services(&[("gone", gone.address)]);
    service(&folder, "errors", &errors);
    let annotations = json!({"higress.io/default-backend": "errors", "higress.io/custom-http-errors": "404",
        "higress.io/rewrite-path": "/rewritten"});
    folder.route_with("status", "/status", "gone.static", &annotations);
    folder.route_with("missing", "/missing", "nowhere.static", &annotations);
    folder.provider("gone.static", &json!({}));
    let gateway = Gateway::start(folder);
    let streamed = get(&gateway, "/status/x", &[]).await;
    assert_eq!((streamed.status, by(&streamed)), (200, "errors".to_owned()));
    let seen = errors.last();
    assert_eq!((seen.path.as_str(), seen.headers["x-envoy-route-name"].as_str()), ("/", "status-fallback"));
    assert_eq!(seen.headers["x-envoy-fallback-service"], "higress-system/errors");
    let posted = gateway.post("/status/x", &[], "{}").await;
    assert_eq!((by(&posted), errors.last().method), ("errors".to_owned(), "POST".to_owned()));
    let read = gateway.post("/status/v1/chat/completions", &[], question("m", "hi").to_string()).await;
    assert_eq!(by(&read), "errors", "{}", read.text());
    let missing = get(&gateway, "/missing/x", &[]).await;
    assert_eq!((by(&missing), missing.json()["path"].as_str()), ("errors".to_owned(), Some("/rewritten/x")));
}

#[tokio::test]
async fn answers_of_a_listed_status_are_asked_for_again() {
    let upstream = Upstream::start(|n, _| async move {
        if n % 3 < 2 { answer(502, "text/plain", "no") } else { ok(&json!({"by": "third"})) }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route_with("retried", "/retried", "up.static", &json!({"higress.io/proxy-next-upstream": "http_502"}));
    folder.route("plain", "/plain", "up.static");
    let gateway = Gateway::start(folder);
    assert_eq!(by(&get(&gateway, "/retried", &[]).await), "third");
    assert_eq!(upstream.n_calls(), 3);
    assert_eq!(gateway.post("/retried", &[], "x").await.status, 502, "a POST may have done something");
    assert_eq!(get(&gateway, "/plain", &[]).await.status, 502);
    assert_eq!(upstream.n_calls(), 5);
}

#[tokio::test]
async fn gates_answer_before_the_upstream_is_asked() {
    let upstream = named("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let route = |name: &str, annotations: Value| {
        folder.route_with(name, &format!("/{name}"), "up.static", &annotations);
    };
    route("denied", json!({"higress.io/whitelist-source-range": "10.0.0.0/8"}));
    route("allowed", json!({"higress.io/whitelist-source-range": "127.0.0.0/8", "higress.io/app-root": "/allowed"}));
    route("limited", json!({"higress.io/route-limit-rpm": "2", "higress.io/route-limit-burst-multiplier": "1"}));
    route("https", json!({"nginx.ingress.kubernetes.io/ssl-redirect": "true"}));
    route(
        "moved",
        json!({"higress.io/permanent-redirect": "http://b.com", "higress.io/permanent-redirect-code": "307"}),
    );
    route("cors", json!({"higress.io/enable-cors": "true", "higress.io/cors-allow-origin": "http://a.com"}));
    folder.plugin("request-block", &json!({"block_urls": ["/https/blocked"]}), &json!([]));
    let gateway = Gateway::start(folder);
    let status = |path: &'static str| {
        let gateway = &gateway;
        async move { get(gateway, path, &[]).await.status }
    };
    assert_eq!((status("/denied").await, status("/allowed").await), (403, 200));
    assert_eq!([status("/limited").await, status("/limited").await, status("/limited").await], [200, 200, 429]);
    let redirected = |path: &'static str| {
        let gateway = &gateway;
        async move {
            let answer = get(gateway, path, &[]).await;
            (answer.status, answer.header("location").unwrap_or_default().to_owned())
        }
    };
    let host = gateway.http;
    assert_eq!(redirected("/").await, (302, format!("http://{host}/allowed")));
    assert_eq!(redirected("/https/x?y=1").await, (308, "https://127.0.0.1/https/x?y=1".to_owned()));
    // Plugins come before the redirect, as in Envoy.
    assert_eq!(redirected("/https/blocked").await, (403, String::new()));
    assert_eq!(redirected("/moved/x").await, (307, "http://b.com/moved/x".to_owned()));
    let n_before = upstream.n_calls();
    let ask = [("origin", "http://a.com"), ("access-control-request-method", "GET")];
    let preflight = send(gateway.http, "OPTIONS", "/cors", &ask, Bytes::new()).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (200, Some("http://a.com")));
    assert_eq!(upstream.n_calls(), n_before);
    let foreign = get(&gateway, "/cors", &[("origin", "http://b.com")]).await;
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (200, None));
    // A reload that does not touch the limit does not refill it.
    gateway.folder.route("other", "/other", "up.static");
    let other =
        || async { (status("/other").await == 200 && by(&get(&gateway, "/other", &[]).await) == "up").then_some(()) };
    crate::harness::eventually_async("the reload", other).await;
    assert_eq!(status("/limited").await, 429);
}

#[tokio::test]
async fn a_mirror_gets_a_copy() {
    let (upstream, mirror) = (named("up").await, failing(500).await);
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    service(&folder, "mirror", &mirror);
    folder.route_with("mirrored", "/", "up.static", &json!({"higress.io/mirror-target-service": "mirror"}));
    let gateway = Gateway::start(folder);
    assert_eq!(by(&gateway.post("/x?y=1", &[], "hello").await), "up");
    eventually_async("the copy", || async { (mirror.n_calls() == 1).then_some(()) }).await;
    let copy = mirror.last();
    assert_eq!((copy.method.as_str(), copy.path.as_str(), &copy.body[..]), ("POST", "/x?y=1", &b"hello"[..]));
    assert_eq!(copy.headers["host"], format!("127.0.0.1-shadow:{}", gateway.http.port()));
    assert_eq!(&upstream.last().body[..], b"hello");
    assert_eq!(by(&get(&gateway, "/y", &[]).await), "up");
    eventually_async("the second copy", || async { (mirror.n_calls() == 2).then_some(()) }).await;
}

#[tokio::test]
async fn a_mirror_may_be_a_registrys_service_and_get_all_or_nothing() {
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen_paths = paths.clone();
    let mirror = Upstream::start(move |_, seen| {
        seen_paths.lock().push(seen.path);
        async { ok(&json!({})) }
    })
    .await;
    let upstream = named("up").await;
    let folder = Folder::new();
    let registry = |name: &str, upstream: &Upstream, port: u16| json!({"name": name, "type": "static", "domain": upstream.address.to_string(), "port": port});
    bridge(&folder, &json!([registry("up", &upstream, 80), registry("copy", &mirror, 8099)]));
    for (name, percentage) in [("none", "0"), ("all", "100")] {
        let mirrored = json!({"higress.io/mirror-target-fqdn": "copy.static", "higress.io/mirror-target-fqdn-port": "8099",
            "higress.io/mirror-percentage": percentage});
        folder.route_with(name, &format!("/{name}"), "up.static", &mirrored);
    }
    let gateway = Gateway::start(folder);
    for _ in 0..10 {
        assert_eq!(by(&get(&gateway, "/none", &[]).await), "up");
        assert_eq!(by(&get(&gateway, "/all", &[]).await), "up");
    }
    eventually_async("the copies", || async { (paths.lock().len() >= 10).then_some(()) }).await;
    assert_eq!(*paths.lock(), ["/all"; 10]);
}

/// Regression: an empty list closed the route, and an empty value of one prefix hid the other's.
#[tokio::test]
async fn annotations_that_say_nothing_have_no_effect() {
    let upstream = named("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route_with("empty", "/empty", "up.static", &json!({"higress.io/whitelist-source-range": " "}));
    let both = |nginx: &str, higress: &str| json!({"nginx.ingress.kubernetes.io/whitelist-source-range": nginx, "higress.io/whitelist-source-range": higress});
    folder.route_with("both", "/both", "up.static", &both("", "10.0.0.1"));
    let framing = json!({"higress.io/request-header-control-update": "content-length 5"});
    folder.route_with("framing", "/framing", "up.static", &framing);
    folder.route_with("rewrite", "/rewrite", "up.static", &json!({"higress.io/rewrite-path": "/a b#c"}));
    let gateway = Gateway::start(folder);
    let mut statuses = Vec::new();
    for path in ["/empty", "/both", "/framing", "/rewrite"] {
        statuses.push(get(&gateway, path, &[]).await.status);
    }
    assert_eq!(statuses, [200, 403, 200, 200]);
    assert_eq!(upstream.last().path, "/rewrite");
}

/// A certificate authority and what it signed, as PEM files in the folder.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A Secret with a certificate for the hosts, and the same in two files for curl.
    pub fn sign(&self, folder: &Folder, name: &str, hosts: &[&str]) {
        let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(folder.dir.path().join(format!("{name}.crt")), &chain).unwrap();
        std::fs::write(folder.dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        let data = json!({"tls.crt": chain, "tls.key": key.serialize_pem(), "ca.crt": self.pem});
        folder.write(&format!("secrets/{name}.yaml"), &secret(name, data));
    }
}

pub fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

/// An Ingress for one host with a certificate.
pub fn site(folder: &Folder, name: &str, host: &str, service: &str, certificate: Option<&str>, annotations: &Value) {
    folder.route_with(name, "/", service, annotations);
    let file = folder.config().join(format!("ingresses/{name}.yaml"));
    let mut object: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    object["spec"]["rules"][0]["host"] = json!(host);
    if let Some(certificate) = certificate {
        object["spec"]["tls"] = json!([{"hosts": [host], "secretName": certificate}]);
    }
    folder.write(&format!("ingresses/{name}.yaml"), &object);
}

/// Status curl gets from `https://<host>/`, or nothing if there is no connection.
pub fn curl(gateway: &Gateway, host: &str, args: &[&str]) -> String {
    let port = gateway.https.port();
    let output = std::process::Command::new("curl")
        .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(args)
        .arg(format!("https://{host}:{port}/"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_what_each_host_asks_for_on_both_sides() {
    let upstream = named("up").await;
    let authority = Authority::new();
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    authority.sign(&folder, "pair", &["closed.test", "open.test", "newest.test"]);
    authority.sign(&folder, "client", &[]);
    let closed = json!({"higress.io/auth-tls-secret": "pair"});
    site(&folder, "closed", "closed.test", "up.static", Some("pair"), &closed);
    let open = json!({"higress.io/tls-max-protocol-version": "TLSv1.2",
        "higress.io/ssl-cipher": "ECDHE-ECDSA-AES256-GCM-SHA384:AES128-SHA"});
    site(&folder, "open", "open.test", "up.static", Some("pair"), &open);
    let newest = json!({"higress.io/tls-min-protocol-version": "TLSv1.3"});
    site(&folder, "newest", "newest.test", "up.static", Some("pair"), &newest);
    let path = |name: &str| folder.dir.path().join(name).display().to_string();
    let (certificate, key) = (path("client.crt"), path("client.key"));
    let shown = ["--cert", certificate.as_str(), "--key", key.as_str()];
    let inner = Gateway::start(folder);
    assert_eq!(curl(&inner, "closed.test", &[]), "000", "a client without certificate");
    assert_eq!(curl(&inner, "closed.test", &shown), "200");
    assert_eq!(curl(&inner, "open.test", &[]), "200");
    assert_eq!(curl(&inner, "open.test", &["--tlsv1.3"]), "000");
    assert_eq!(curl(&inner, "open.test", &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"]), "000");
    assert_eq!(curl(&inner, "newest.test", &[]), "200");
    assert_eq!(curl(&inner, "newest.test", &["--tls-max", "1.2"]), "000");
    let elsewhere = ["-H", "Host: closed.test"];
    assert_eq!(curl(&inner, "open.test", &elsewhere), "421", "past the check of certificates");

    let folder = Folder::new();
    folder.services(&[("inner", inner.https)]);
    authority.sign(&folder, "client", &[]);
    let through = json!({"higress.io/ssl-passthrough": "true"});
    site(&folder, "passed", "closed.test", "inner.static", None, &through);
    let mut mutual = json!({"nginx.ingress.kubernetes.io/backend-protocol": "https",
        "nginx.ingress.kubernetes.io/proxy-ssl-secret": "higress-system/client",
        "nginx.ingress.kubernetes.io/proxy-ssl-verify": "on", "nginx.ingress.kubernetes.io/proxy-ssl-server-name": "on",
        "nginx.ingress.kubernetes.io/proxy-ssl-name": "closed.test",
        "nginx.ingress.kubernetes.io/upstream-vhost": "closed.test"});
    site(&folder, "mutual", "mutual.test", "inner.static", None, &mutual);
    authority.sign(&folder, "stranger", &[]);
    let file = std::fs::read_to_string(folder.config().join("secrets/stranger.yaml")).unwrap();
    let mut stranger: Value = serde_json::from_str(&file).unwrap();
    stranger["stringData"]["ca.crt"] = json!(Authority::new().pem);
    folder.write("secrets/stranger.yaml", &stranger);
    mutual["nginx.ingress.kubernetes.io/proxy-ssl-secret"] = json!("stranger");
    site(&folder, "distrusting", "distrusting.test", "inner.static", None, &mutual);
    let outer = Gateway::start(folder);
    assert_eq!(curl(&outer, "closed.test", &shown), "200", "opened by the inner gateway");
    assert_eq!(curl(&outer, "closed.test", &[]), "000");
    let mutual = get(&outer, "/", &[("host", "mutual.test")]).await;
    assert_eq!((mutual.status, by(&mutual)), (200, "up".to_owned()), "{}", mutual.text());
    let distrusting = get(&outer, "/", &[("host", "distrusting.test")]).await;
    assert_eq!(distrusting.status, 503, "the upstream's certificate is of another authority: {}", distrusting.text());
}
