//! What the fields of the Gateway API do to requests: who attaches where, what matches, and what becomes of it.

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::control_plane::saying;
use crate::conversations::{call, grpc_server, status_of};
use crate::edge::{RawOrigin, raw};
use crate::harness::*;
use crate::ingress::{Authority, curl};

const GROUP: &str = "gateway.networking.k8s.io";
const SYSTEM: &str = "higress-system";

/// An object; `place` is its name, or its namespace and its name.
fn object(folder: &Folder, kind: &str, api: &str, place: &str, (field, content): (&str, Value)) {
    let (namespace, name) = place.split_once('/').unwrap_or((SYSTEM, place));
    let metadata = json!({"name": name, "namespace": namespace});
    let object = json!({"apiVersion": api, "kind": kind, "metadata": metadata, field: content});
    let kinds = format!("{}s", kind.to_ascii_lowercase().trim_end_matches('s'));
    folder.write(&format!("{kinds}/{place}.yaml"), &object);
}

fn put(folder: &Folder, kind: &str, place: &str, spec: Value) {
    object(folder, kind, &format!("{GROUP}/v1"), place, ("spec", spec));
}

fn gateway(folder: &Folder, listeners: Value) {
    put(folder, "Gateway", "web", json!({"gatewayClassName": "higress", "listeners": listeners}));
}

/// A Gateway that takes routes of all namespaces for any host.
fn open_gateway(folder: &Folder) {
    let all = json!({"namespaces": {"from": "All"}});
    gateway(folder, json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": all}]));
}

/// An HTTPRoute; `parent` is what its reference to the Gateway says besides.
fn route(folder: &Folder, place: &str, parent: Value, hosts: &[&str], rules: Value) {
    let mut reference = json!({"name": "web", "namespace": SYSTEM});
    reference.as_object_mut().unwrap().extend(parent.as_object().unwrap().clone());
    put(folder, "HTTPRoute", place, json!({"parentRefs": [reference], "hostnames": hosts, "rules": rules}));
}

/// A service of the McpBridge.
fn to(name: &str) -> Value {
    json!({"group": "networking.higress.io", "kind": "Service", "name": name, "port": 80})
}

/// A filter by which an answer says which rule was taken.
fn marked(mark: &str) -> Value {
    json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": mark}]}})
}

fn prefix(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

async fn get(gateway: &Gateway, host: &str, path: &str) -> Answer {
    send(gateway.http, "GET", path, &[("host", host)], Bytes::new()).await
}

#[tokio::test]
async fn requests_are_matched_by_path_method_headers_and_query() {
    let up = saying("up").await;
    let folder = Folder::new();
    folder.services(&[("up", up.address)]);
    open_gateway(&folder);
    let rule = |mark: &str, matches: Value| json!({"matches": matches, "filters": [marked(mark)], "backendRefs": [to("up.static")]});
    let of_headers = json!([{"headers": [{"name": "X-V", "value": "1"}]},
        {"headers": [{"name": "x-v", "value": "9[0-9]", "type": "RegularExpression"}]}]);
    let of_query = json!([{"queryParams": [{"name": "q", "value": "1"}]},
        {"queryParams": [{"name": "z", "value": "a+", "type": "RegularExpression"}]}]);
    let rules = json!([
        rule("exact", json!([{"path": {"type": "Exact", "value": "/e"}}])),
        rule("prefix", prefix("/p/")),
        rule("regex", json!([{"path": {"type": "RegularExpression", "value": "/r[0-9]+"}}])),
        rule("method", json!([{"method": "PUT"}])),
        rule("header", of_headers),
        rule("query", of_query),
        rule("rest", json!([]))
    ]);
    route(&folder, "all", json!({}), &["m.test"], rules);
    let gateway = Gateway::start(folder);
    for (method, path, value, expected) in [
        ("GET", "/e", "", "exact"),
        ("GET", "/e/x", "", "rest"),
        ("GET", "/p", "", "prefix"),
        ("GET", "/p/x", "", "prefix"),
        ("GET", "/px", "", "rest"),
        ("GET", "/r12", "", "regex"),
        ("GET", "/r12x", "", "rest"),
        ("PUT", "/", "", "method"),
        ("GET", "/", "1", "header"),
        ("GET", "/", "95", "header"),
        ("GET", "/", "995", "rest"),
        ("GET", "/?q=1", "", "query"),
        ("GET", "/?z=aaa", "", "query"),
        ("GET", "/?q=12", "", "rest"),
    ] {
        let answer = send(gateway.http, method, path, &[("host", "m.test"), ("x-v", value)], Bytes::new()).await;
        assert_eq!((answer.status, answer.header("x-rule")), (200, Some(expected)), "{method} {path} {value}");
    }
}

#[tokio::test]
async fn filters_change_heads_on_both_ways_and_redirect() {
    let origin =
        RawOrigin::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Set: old\r\nX-Add: old\r\nX-Drop: old\r\n\r\nok")
            .await;
    let folder = Folder::new();
    folder.services(&[("up", origin.address)]);
    open_gateway(&folder);
    let changes = json!({"set": [{"name": "x-set", "value": "new"}], "add": [{"name": "x-add", "value": "new"}], "remove": ["x-drop"]});
    let filters = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": changes},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": changes}]);
    let redirect = |redirect: Value| json!([{"type": "RequestRedirect", "requestRedirect": redirect}]);
    let rules = json!([
        {"matches": prefix("/heads"), "filters": filters, "backendRefs": [to("up.static")]},
        {"matches": prefix("/host"), "filters": redirect(json!({"hostname": "n.test", "statusCode": 301}))},
        {"matches": prefix("/full"), "filters": redirect(json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}))}
    ]);
    route(&folder, "all", json!({}), &["f.test"], rules);
    let gateway = Gateway::start(folder);
    let request =
        "GET /heads HTTP/1.1\r\nHost: f.test\r\nConnection: close\r\nX-Set: old\r\nX-Add: old\r\nX-Drop: old\r\n\r\n";
    let answer = raw(gateway.http, request.as_bytes()).await;
    for head in [origin.seen().concat(), answer] {
        let head = head.to_ascii_lowercase();
        let values = |name: &str| head.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
        let found = (values("x-set: "), values("x-add: "), values("x-drop: "));
        assert_eq!(found, (vec!["new"], vec!["old", "new"], vec![]), "{head}");
    }
    for (path, expected) in [("/host/a", (301, "http://n.test/host/a")), ("/full/a?q=1", (302, "http://f.test/x?q=1"))]
    {
        let answer = get(&gateway, "f.test", path).await;
        assert_eq!((answer.status, answer.header("location")), (expected.0, Some(expected.1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gets_its_share_of_the_requests() {
    let (up, a_third, half) = (saying("up").await, saying("copy").await, saying("copy").await);
    let folder = Folder::new();
    folder.services(&[("up", up.address), ("a-third", a_third.address), ("half", half.address)]);
    open_gateway(&folder);
    let mirrored = |path: &str, mirror: Value| {
        json!({"matches": prefix(path), "backendRefs": [to("up.static")],
            "filters": [{"type": "RequestMirror", "requestMirror": mirror}]})
    };
    let fraction = json!({"numerator": 1, "denominator": 2});
    let rules = json!([
        mirrored("/percent", json!({"backendRef": to("a-third.static"), "percent": 33})),
        mirrored("/fraction", json!({"backendRef": to("half.static"), "fraction": fraction}))
    ]);
    route(&folder, "all", json!({}), &[], rules);
    let mut gateway = Gateway::start(folder);
    for _ in 0..200 {
        assert_eq!((gateway.get("/percent").await.status, gateway.get("/fraction").await.status), (200, 200));
    }
    // It ends when the last copy has been sent.
    gateway.terminate();
    assert!(gateway.child.wait().unwrap().success());
    let n_calls = (a_third.n_calls(), half.n_calls());
    assert!((30..100).contains(&n_calls.0) && (60..140).contains(&n_calls.1), "{n_calls:?}");
}

#[tokio::test]
async fn backends_are_services_by_port_and_what_may_not_be_used_refuses_its_share() {
    let (a, b) = (saying("a").await, saying("b").await);
    let folder = Folder::new();
    folder.services(&[("a", a.address)]);
    open_gateway(&folder);
    for (place, port) in [("shop/both", (a.address.port(), b.address.port())), ("other/lent", (b.address.port(), 1))] {
        let ports = json!([{"name": "one", "port": 80}, {"name": "two", "port": 81}]);
        object(&folder, "Service", "v1", place, ("spec", json!({"ports": ports})));
        let ports = json!([{"name": "one", "port": port.0}, {"name": "two", "port": port.1}]);
        let subsets = json!([{"addresses": [{"ip": "127.0.0.1"}], "ports": ports}]);
        object(&folder, "Endpoints", "v1", place, ("subsets", subsets));
    }
    let own = |port: u16| json!({"name": "both", "port": port});
    let rule = |path: &str, backends: Value| json!({"matches": prefix(path), "backendRefs": backends});
    let rules = json!([
        rule("/first", json!([own(80)])),
        rule("/second", json!([own(81)])),
        rule("/lent", json!([{"name": "lent", "namespace": "other", "port": 80}])),
        rule("/half", json!([to("a.static"), to("gone.static")]))
    ]);
    route(&folder, "shop/all", json!({}), &[], rules);
    let gateway = Gateway::start(folder);
    for (path, expected) in [("/first", "a"), ("/second", "b")] {
        assert_eq!(gateway.get(path).await.json(), expected);
    }
    assert_eq!(gateway.get("/lent").await.status, 503, "without a grant");
    let mut n_answered = 0;
    for _ in 0..80 {
        let status = gateway.get("/half").await.status;
        assert!([200, 503].contains(&status), "{status}");
        n_answered += usize::from(status == 200);
    }
    assert!((18..62).contains(&n_answered), "{n_answered}");
    let grant = json!({"from": [{"group": GROUP, "kind": "HTTPRoute", "namespace": "shop"}], "to": [{"group": "", "kind": "Service", "name": "lent"}]});
    put(&gateway.folder, "ReferenceGrant", "other/lent", grant);
    let lent = || async { Some(gateway.get("/lent").await).filter(|answer| answer.status == 200) };
    assert_eq!(eventually_async("the grant", lent).await.json(), "b");
}

#[tokio::test]
async fn a_rule_says_how_long_a_request_may_take_and_how_often_it_is_tried() {
    let silent = Upstream::start(|_, _| std::future::pending::<Response>()).await;
    let broken = Upstream::start(|_, _| async { answer(500, "text/plain", "no") }).await;
    let folder = Folder::new();
    folder.services(&[("silent", silent.address), ("broken", broken.address)]);
    open_gateway(&folder);
    let rules = json!([
        {"matches": prefix("/whole"), "backendRefs": [to("silent.static")], "timeouts": {"request": "1s"}},
        {"matches": prefix("/each"), "backendRefs": [to("silent.static")], "timeouts": {"backendRequest": "1s"},
            "retry": {"attempts": 2, "codes": [504]}},
        {"matches": prefix("/again"), "backendRefs": [to("broken.static")], "retry": {"attempts": 3, "codes": [500]}},
        {"matches": prefix("/other"), "backendRefs": [to("broken.static")], "retry": {"attempts": 3, "codes": [502]}}
    ]);
    route(&folder, "all", json!({}), &[], rules);
    let gateway = Gateway::start(folder);
    // As with Envoy, a try that is over is none of the codes.
    let n_calls = || silent.n_calls() + broken.n_calls();
    for (path, expected) in [("/whole", (504, 1)), ("/each", (504, 1)), ("/again", (500, 4)), ("/other", (500, 1))] {
        let before = n_calls();
        let answer = timeout(PATIENCE, gateway.get(path)).await.expect("the gateway gives up");
        assert_eq!((answer.status, n_calls() - before), expected, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn routes_are_where_listeners_let_them_be() {
    let up = saying("up").await;
    let folder = Folder::new();
    folder.services(&[("up", up.address)]);
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "x"}}});
    folder.write("namespaces/shop.yaml", &namespace);
    let listener = |name: &str, port: u16, host: &str, allowed: Value| json!({"name": name, "port": port, "protocol": "HTTP", "hostname": host, "allowedRoutes": allowed});
    let from = |from: &str| json!({"namespaces": {"from": from, "selector": {"matchLabels": {"team": "x"}}}});
    gateway(
        &folder,
        json!([
            listener("all", 80, "*.all.test", from("All")),
            listener("same", 8081, "*.same.test", from("Same")),
            listener("chosen", 8082, "*.chosen.test", from("Selector")),
            listener(
                "calls",
                8083,
                "*.calls.test",
                json!({"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]})
            )
        ]),
    );
    let rules = json!([{"backendRefs": [to("up.static")]}]);
    let everywhere =
        |name: &str| ["all", "same", "chosen", "calls", "none"].map(|listener| format!("{name}.{listener}.test"));
    for (place, name, parent) in [
        ("own", "own", json!({})),
        ("shop/shop", "shop", json!({})),
        ("other/other", "other", json!({})),
        ("section", "section", json!({"sectionName": "same"})),
        ("shop/port", "port", json!({"port": 8082})),
    ] {
        let hosts = everywhere(name);
        route(&folder, place, parent, &hosts.each_ref().map(String::as_str), rules.clone());
    }
    let gateway = Gateway::start(folder);
    for (name, expected) in [
        ("own", [200, 200, 404, 404, 404]),
        ("shop", [200, 404, 200, 404, 404]),
        ("other", [200, 404, 404, 404, 404]),
        ("section", [404, 200, 404, 404, 404]),
        ("port", [404, 404, 200, 404, 404]),
    ] {
        let mut found = [0; 5];
        for (status, host) in found.iter_mut().zip(everywhere(name)) {
            *status = get(&gateway, &host, "/").await.status;
        }
        assert_eq!(found, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_have_certificates_and_ask_clients_for_theirs() {
    let up = saying("up").await;
    let folder = Folder::new();
    folder.services(&[("up", up.address)]);
    let authority = Authority::new();
    authority.sign(&folder, "site", &["x.test"]);
    authority.sign(&folder, "client", &[]);
    let site = std::fs::read_to_string(folder.config().join("secrets/site.yaml")).unwrap();
    let site: Value = serde_json::from_str(&site).unwrap();
    for namespace in ["lending", "closed"] {
        object(&folder, "Secret", "v1", &format!("{namespace}/site"), ("stringData", site["stringData"].clone()));
    }
    let grant = json!({"from": [{"group": GROUP, "kind": "Gateway", "namespace": SYSTEM}], "to": [{"group": "", "kind": "Secret"}]});
    put(&folder, "ReferenceGrant", "lending/site", grant);
    let listener = |name: &str, tls: Value| json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": format!("{name}.test"), "tls": tls});
    let own = json!([{"name": "site"}]);
    let of = |namespace: &str| json!({"certificateRefs": [{"name": "site", "namespace": namespace}]});
    let authorities = json!([{"group": "", "kind": "Secret", "name": "site"}]);
    gateway(
        &folder,
        json!([
            {"name": "http", "port": 80, "protocol": "HTTP"},
            listener("own", json!({"certificateRefs": own})),
            listener("lent", of("lending")),
            listener("closed", of("closed")),
            listener("mutual", json!({"certificateRefs": own, "options": {"gateway.higress.io/tls-terminate-mode": "MUTUAL"}})),
            listener("validated", json!({"certificateRefs": own, "frontendValidation": {"caCertificateRefs": authorities}}))
        ]),
    );
    route(&folder, "all", json!({}), &[], json!([{"backendRefs": [to("up.static")]}]));
    let path = |name: &str| folder.dir.path().join(name).display().to_string();
    let (certificate, key) = (path("client.crt"), path("client.key"));
    let gateway = Gateway::start(folder);
    for (host, plain, shown) in [
        ("own.test", "200", "200"),
        ("lent.test", "200", "200"),
        ("closed.test", "000", "000"),
        ("none.test", "000", "000"),
        ("mutual.test", "000", "200"),
        ("validated.test", "000", "200"),
    ] {
        let with_certificate = curl(&gateway, host, &["--cert", certificate.as_str(), "--key", key.as_str()]);
        assert_eq!((curl(&gateway, host, &[]).as_str(), with_certificate.as_str()), (plain, shown), "{host}");
    }
}

#[tokio::test]
async fn grpc_routes_match_methods_and_headers_and_plugins_know_routes_by_their_names() {
    let folder = Folder::new();
    folder.services(&[("calls", grpc_server().await), ("up", saying("up").await.address)]);
    open_gateway(&folder);
    let rule = |mark: &str, condition: Value| json!({"matches": [condition], "filters": [marked(mark)], "backendRefs": [to("calls.static")]});
    let of_header = json!({"method": {"service": "s.B"}, "headers": [{"name": "x-key", "value": "/s.B/Known"}]});
    let rules = json!([
        rule("both", json!({"method": {"service": "s.A", "method": "Get"}})),
        rule("method", json!({"method": {"method": "Watch"}})),
        rule("regex", json!({"method": {"type": "RegularExpression", "service": "r\\.[a-z]+", "method": "G.*"}})),
        rule("header", of_header)
    ]);
    let parents = json!([{"name": "web"}]);
    put(&folder, "GRPCRoute", "calls", json!({"parentRefs": parents, "hostnames": ["g.test"], "rules": rules}));
    let rules = json!([rule("named", json!({"method": {"service": "s.N"}}))]);
    put(&folder, "GRPCRoute", "named", json!({"parentRefs": parents, "hostnames": ["g.test"], "rules": rules}));
    for place in ["own", "shop/own"] {
        let host = format!("{}.test", place.replace('/', "-"));
        route(&folder, place, json!({}), &[&host], json!([{"backendRefs": [to("up.static")]}]));
    }
    let keys = json!({"global_auth": false, "keys": ["x-key"], "consumers": [{"name": "a", "credential": "k"}]});
    folder.plugin("key-auth", &keys, &json!([{"ingress": ["shop/own", "GRPC/named"], "config": {"allow": ["a"]}}]));
    let gateway = Gateway::start(folder);
    for (path, mark, status) in [
        ("/s.A/Get", Some("both"), ""),
        ("/s.A/Put", None, "12"),
        ("/any.Service/Watch", Some("method"), ""),
        ("/r.abc/Get", Some("regex"), ""),
        ("/r.ABC/Get", None, "12"),
        ("/s.B/Known", Some("header"), ""),
        ("/s.B/Other", None, "12"),
        // A route of this name asks for a key of a consumer.
        ("/s.N/Get", None, "16"),
    ] {
        let mut made = call(gateway.http, "g.test", path).await;
        made.send.send_data(Bytes::new(), true).unwrap();
        let response = made.response.await.unwrap();
        let found = response.headers().get("x-rule").map(|mark| mark.to_str().unwrap());
        assert_eq!((found, status_of(response.headers())), (mark, status), "{path}");
    }
    for (host, expected) in [("own.test", 200), ("shop-own.test", 401)] {
        assert_eq!(get(&gateway, host, "/").await.status, expected, "{host}");
    }
}
