//! Registries that are asked at run time, with everything that an McpBridge says of them.

use std::sync::Arc;

use axum::response::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::control_plane::{bridge, saying};
use crate::harness::*;
use crate::ingress::secret;

/// Consul, Nacos of both APIs, and Eureka at one address. Every service is one instance: `stock` at the second port, all others at
/// the first. Questions that wait for news wait for ever.
async fn registries(ports: [u16; 2]) -> (Upstream, Arc<Mutex<Vec<Seen>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let questions = asked.clone();
    let server = Upstream::start(move |_, seen| {
        questions.lock().push(seen.clone());
        answered(ports, seen)
    })
    .await;
    (server, asked)
}

async fn answered(ports: [u16; 2], seen: Seen) -> Response {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    if query.contains("index=") {
        return std::future::pending().await;
    }
    let [first, second] = ports;
    let in_consul = |port: u16| json!([{"Node": {}, "Service": {"Address": "127.0.0.1", "Port": port}, "Checks": [{"Status": "passing"}]}]);
    let in_nacos = json!([{"ip": "127.0.0.1", "port": first, "healthy": true, "enabled": true, "metadata": {}}]);
    let in_eureka = |port: u16, status: &str| json!({"ipAddr": "127.0.0.1", "status": status, "port": {"$": port}});
    let body = match path {
        "/v1/catalog/services" => json!({"shop": ["edge"], "stock": ["edge"], "other": []}),
        "/v1/health/service/shop" => in_consul(first),
        "/v1/health/service/stock" => in_consul(second),
        "/nacos/v1/auth/login" => json!({"accessToken": "TOKEN", "tokenTtl": 18000}),
        "/nacos/v1/ns/service/list" => json!({"count": 1, "doms": ["svc"]}),
        "/nacos/v1/ns/instance/list" => json!({"hosts": in_nacos}),
        "/nacos/v3/admin/ns/service/list" => {
            json!({"code": 0, "data": {"totalCount": 1, "pageItems": [{"name": "svc"}]}})
        }
        "/nacos/v3/client/ns/instance/list" => json!({"code": 0, "data": in_nacos}),
        "/eureka/apps" => json!({"applications": {"application": [
            {"name": "APP", "instance": [in_eureka(first, "UP"), in_eureka(second, "DOWN")]}]}}),
        _ => return answer(404, "text/plain", "no"),
    };
    let mut response = ok(&body);
    response.headers_mut().insert("x-consul-index", "5".parse().unwrap());
    response
}

// The gateway's start waits for its registries, so they must answer while this thread waits for the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_are_asked_as_their_fields_say() {
    let (a, b) = (saying("a").await, saying("b").await);
    let (server, asked) = registries([a.address.port(), b.address.port()]).await;
    let folder = Folder::new();
    let registry = |kind: &str, domain: &str, more: Value| {
        let mut all = json!({"type": kind, "name": kind, "domain": domain, "port": server.address.port()});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let ports = json!({"default": 80, "services": [{"name": "stock", "value": 8088}]});
    let consul = json!({"consulDatacenter": "dc1", "consulServiceTag": "edge", "consulNamespace": "team",
        "authSecretName": "consul", "vport": ports, "consulRefreshInterval": 5, "metadata": {"a": {}}});
    let nacos = json!({"nacosGroups": ["DEFAULT_GROUP"], "authSecretName": "nacos", "nacosTimeout": 5,
        "mcpServerBaseUrl": "/x", "mcpServerExportDomains": ["d"], "allowMcpServers": ["m"], "enableScopeMcpServers": true});
    let nacos2 = json!({"nacosGroups": ["g_2"], "nacosNamespaceId": "id-2", "nacosNamespace": "n_2",
        "nacosAccessKey": "access", "nacosSecretKey": "hidden"});
    bridge(
        &folder,
        &json!([
            registry("consul", "127.0.0.1", consul),
            registry("nacos", "${secret.places.nacos}", nacos),
            registry("nacos2", "127.0.0.1", nacos2),
            registry("nacos3", "127.0.0.1", json!({"nacosGroups": ["g3"]})),
            registry("eureka", "127.0.0.1", json!({})),
        ]),
    );
    for (name, data) in [
        ("consul", json!({"consulToken": "consul token"})),
        ("nacos", json!({"nacosUsername": "user", "nacosPassword": "pass word"})),
        ("places", json!({"nacos": "127.0.0.1"})),
    ] {
        folder.write(&format!("secrets/{name}.yaml"), &secret(name, data));
    }
    let routes = [
        ("shop", "shop.dc1.consul:80", "a"),
        ("stock", "stock.dc1.consul:8088", "b"),
        ("nacos", "svc.DEFAULT-GROUP.public.nacos", "a"),
        ("nacos2", "svc.g-2.n-2.nacos", "a"),
        ("nacos3", "svc.g3.public.nacos", "a"),
        ("eureka", "app.eureka", "a"),
    ];
    for (name, service, _) in routes {
        folder.route(name, &format!("/{name}"), service);
    }
    let gateway = Gateway::start(folder);
    for (name, _, expected) in routes {
        for _ in 0..2 {
            let answer = gateway.get(&format!("/{name}")).await;
            assert_eq!((answer.status, answer.json()), (200, json!(expected)), "{name}");
        }
    }
    let problems = gateway.admin("GET", "/api/v1/config").await.json()["problems"].clone();
    assert_eq!(problems, json!([]), "what changes nothing here is passed over in silence");

    let asked = asked.lock().clone();
    let mut of_consul = asked.iter().filter(|seen| seen.path.starts_with("/v1/")).peekable();
    assert!(of_consul.peek().is_some());
    for seen in of_consul {
        assert!(seen.path.contains("dc=dc1") && !seen.path.contains("ns="), "{seen:?}");
        assert_eq!(seen.headers["x-consul-token"], "consul token");
        assert!(!seen.path.contains("/other"), "the tag is a condition");
    }
    let about = |parts: &[&str]| asked.iter().find(|seen| parts.iter().all(|part| seen.path.contains(part)));
    assert_eq!(about(&["/auth/login"]).unwrap().body, "username=user&password=pass+word");
    for parts in [
        ["service/list?", "groupName=DEFAULT_GROUP", "accessToken=TOKEN"],
        ["service/list?", "groupName=g_2", "namespaceId=id-2"],
        ["instance/list?", "groupName=g_2", "ak=access"],
        ["service/list?", "groupNameParam=g3", "/nacos/v3/"],
    ] {
        assert!(about(&parts).is_some(), "{parts:?}");
    }
}
