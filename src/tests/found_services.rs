//! Services that are found at run time, behind proxies, or called over Dubbo.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::control_plane::{bridge, saying};
use crate::harness::*;

#[path = "../discovery/zookeeper/mock.rs"]
mod zookeeper;

/// A Consul that knows services by name and holds blocking queries back until something changes.
#[derive(Clone)]
struct Consul {
    services: watch::Sender<(u64, Vec<(&'static str, SocketAddr)>)>,
}

impl Consul {
    async fn start(services: &[(&'static str, SocketAddr)]) -> (Consul, Upstream) {
        let consul = Consul { services: watch::Sender::new((1, services.to_vec())) };
        let own = consul.clone();
        let server = Upstream::start(move |_, seen| {
            let own = own.clone();
            async move { own.answer(&seen.path).await }
        })
        .await;
        (consul, server)
    }

    fn change(&self, services: &[(&'static str, SocketAddr)]) {
        self.services.send_modify(|(index, now)| {
            *index += 1;
            *now = services.to_vec();
        });
    }

    async fn answer(&self, path: &str) -> axum::response::Response {
        let index = path.split(['?', '&']).find_map(|pair| pair.strip_prefix("index="));
        let index: u64 = index.map_or(0, |index| index.parse().unwrap());
        let mut watching = self.services.subscribe();
        let (now, services) = watching.wait_for(|(now, _)| *now > index).await.unwrap().clone();
        let body: Value = match path.split('?').next().unwrap().strip_prefix("/v1/health/service/") {
            Some(name) => services
                .iter()
                .filter(|(other, _)| *other == name)
                .map(|(_, address)| {
                    json!({"Node": {}, "Service": {"Address": address.ip(), "Port": address.port()},
                        "Checks": [{"Status": "passing"}]})
                })
                .collect(),
            None => services
                .iter()
                .map(|(name, _)| ((*name).to_owned(), json!([])))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        };
        axum::response::Response::builder()
            .header("content-type", "application/json")
            .header("x-consul-index", now.to_string())
            .body(body.to_string().into())
            .unwrap()
    }
}

// The gateway's start waits for its registries, so they must answer while this thread waits for the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_consul_are_there_from_the_first_request_and_follow_every_change() {
    let (a, b, c) = (saying("a").await, saying("b").await, saying("c").await);
    let (consul, server) = Consul::start(&[("shop", a.address)]).await;
    let folder = Folder::new();
    bridge(
        &folder,
        &json!([{"type": "consul", "name": "c", "domain": "127.0.0.1", "port": server.address.port(), "consulDatacenter": "dc1",
            "vport": {"default": 80}}]),
    );
    folder.route("shop", "/", "shop.dc1.consul:80").route("stock", "/stock", "stock.dc1.consul");
    folder.route("late", "/late", "late.dc1.consul");
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.get("/").await.json(), "a");
    assert_eq!(gateway.get("/stock").await.status, 503);
    let snapshot = async || gateway.admin("GET", "/api/v1/config").await.json()["snapshot"].clone();
    let before = snapshot().await;
    consul.change(&[("shop", b.address)]);
    eventually_async("the new address", || async { (gateway.get("/").await.json() == "b").then_some(()) }).await;
    assert_eq!(snapshot().await, before, "addresses change without a new configuration");
    consul.change(&[("shop", b.address), ("stock", c.address)]);
    eventually_async("the new service", || async {
        let answer = gateway.get("/stock").await;
        (answer.status == 200 && answer.json() == "c").then_some(())
    })
    .await;
    assert_ne!(snapshot().await, before);
    // What somebody is writing into the folder is no business of the registry's.
    gateway.folder.write_text("ingresses/broken.yaml", "spec: [");
    eventually_async("the refusal", || async {
        let config = gateway.admin("GET", "/api/v1/config").await.json();
        config["problems"].to_string().contains("ingresses/broken.yaml").then_some(())
    })
    .await;
    consul.change(&[("shop", b.address), ("stock", c.address), ("late", a.address)]);
    eventually_async("a service that comes meanwhile", || async {
        let answer = gateway.get("/late").await;
        (answer.status == 200 && answer.json() == "a").then_some(())
    })
    .await;
    let problems = gateway.admin("GET", "/api/v1/config").await.json()["problems"].to_string();
    assert!(problems.contains("ingresses/broken.yaml"), "it is still said: {problems}");
}

/// Regression: a Secret that one found service could not use kept every found service away, at the start and later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_found_service_with_a_fault_is_out_alone() {
    let a = saying("a").await;
    let (consul, server) = Consul::start(&[("shop", a.address), ("bad", a.address)]).await;
    let folder = Folder::new();
    let registry = json!({"type": "consul", "name": "c", "domain": "127.0.0.1", "port": server.address.port(), "consulDatacenter": "dc1"});
    bridge(&folder, &json!([registry]));
    for name in ["shop", "bad", "late"] {
        folder.route(name, &format!("/{name}"), &format!("{name}.dc1.consul"));
    }
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "bad"},
        "spec": {"host": "bad.dc1.consul", "trafficPolicy": {"tls": {"mode": "MUTUAL", "credentialName": "junk"}}}});
    folder.write("destinationrules/bad.yaml", &rule);
    let junk = json!({"tls.crt": "none", "tls.key": "none"});
    folder.write(
        "secrets/junk.yaml",
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "junk"}, "stringData": junk}),
    );
    let gateway = Gateway::start(folder);
    let statuses = async || (gateway.get("/shop").await.status, gateway.get("/bad").await.status);
    assert_eq!(statuses().await, (200, 503));
    consul.change(&[("shop", a.address), ("bad", a.address), ("late", a.address)]);
    eventually_async("the late service", || async { (gateway.get("/late").await.status == 200).then_some(()) }).await;
    let config = gateway.admin("GET", "/api/v1/config").await.json();
    assert!(config["problems"].to_string().contains("secrets/junk.yaml"), "{config}");
    let status = &config["registries"][0];
    assert_eq!((status["name"].as_str(), status["services"].as_u64()), (Some("c"), Some(3)), "{config}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_zookeeper_follow_their_nodes() {
    let (a, b) = (saying("a").await, saying("b").await);
    let at =
        |upstream: &Upstream| json!({"address": upstream.address.ip(), "port": upstream.address.port()}).to_string();
    let tree = zookeeper::Tree::new(&[("/services/shop/1", &at(&a))]);
    let (address, _serving) = tree.serve("127.0.0.1:0").await;
    let folder = Folder::new();
    bridge(
        &folder,
        &json!([{"type": "zookeeper", "name": "z", "domain": "127.0.0.1", "port": address.port(), "vport": {"default": 80}}]),
    );
    folder.route("shop", "/", "shop.services:80").route("long", "/long", "shop.services.zookeeper");
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.get("/").await.json(), "a");
    assert_eq!(gateway.get("/long").await.json(), "a");
    tree.set("/services/shop/2", &at(&b));
    tree.remove("/services/shop/1");
    eventually_async("the new address", || async { (gateway.get("/").await.json() == "b").then_some(()) }).await;
}

/// A Dubbo server that answers each call with this Hessian value, after a heartbeat; keeps what it was sent.
pub async fn dubbo(value: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let calls = seen.clone();
    tokio::task::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let calls = calls.clone();
            tokio::task::spawn(async move {
                let mut head = [0; 16];
                while stream.read_exact(&mut head).await.is_ok() {
                    let mut body = vec![0; u32::from_be_bytes(head[12..].try_into().unwrap()) as usize];
                    stream.read_exact(&mut body).await.unwrap();
                    calls.lock().push(body);
                    let mut answer = b"\xda\xbb\xe2\x00\0\0\0\0\0\0\0\x63\0\0\0\x01N\xda\xbb\x02\x14".to_vec();
                    answer.extend_from_slice(&head[4..12]);
                    answer.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                    answer.extend_from_slice(value);
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_become_calls_of_a_dubbo_service_that_nacos_names() {
    let (provider, calls) = dubbo(b"\x91H\x04name\x05helloZ").await;
    let nacos = Upstream::start(move |_, seen| async move {
        ok(&match seen.path.split('?').next().unwrap() {
            "/nacos/v1/ns/service/list" => json!({"count": 1, "doms": ["providers:com.a.Demo:1.0.0:dev"]}),
            _ => json!({"hosts": [{"ip": "127.0.0.1", "port": provider.port(), "healthy": true,
                "metadata": {"protocol": "dubbo"}}]}),
        })
    })
    .await;
    let folder = Folder::new();
    bridge(
        &folder,
        &json!([{"type": "nacos", "name": "n", "domain": "127.0.0.1", "port": nacos.address.port(), "nacosGroups": ["DEFAULT_GROUP"]}]),
    );
    let methods = json!([
        {"serviceMethod": "sayHello", "httpMethods": ["GET"], "httpPath": "/dubbo/hello", "headersAttach": "x-tenant",
            "params": [{"paramSource": "QUERY", "paramKey": "name", "paramType": "java.lang.String"}]},
        {"serviceMethod": "save", "httpMethods": ["POST"], "httpPath": "/dubbo/{id}",
            "params": [{"paramSource": "PATH", "paramKey": "id", "paramType": "long"},
                {"paramSource": "BODY", "paramKey": "user", "paramType": "com.a.User"}]}]);
    folder.write(
        "http2rpcs/demo.yaml",
        &json!({"apiVersion": "networking.higress.io/v1", "kind": "Http2Rpc", "metadata": {"name": "demo"},
            "spec": {"dubbo": {"service": "com.a.Demo", "version": "1.0.0", "group": "dev", "methods": methods}}}),
    );
    folder.route_with(
        "demo",
        "/dubbo",
        "providers:com.a.Demo:1.0.0:dev.DEFAULT-GROUP.public.nacos",
        &json!({"higress.io/rpc-destination-name": "demo"}),
    );
    folder.route("plain", "/plain", "providers:com.a.Demo:1.0.0:dev.DEFAULT-GROUP.public.nacos");
    let gateway = Gateway::start(folder);
    let call = async |method: &str, path: &str, body: &str| {
        send(gateway.http, method, path, &[("x-tenant", "t-1")], body.to_owned().into()).await
    };
    let answer = call("GET", "/dubbo/hello?name=w%C3%B6rld", "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"result": {"name": "hello"}})), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(call("POST", "/dubbo/17", r#"{"user": {"age": 3}}"#).await.status, 200);
    let texts: Vec<String> = calls.lock().iter().map(|call| call.escape_ascii().to_string()).collect();
    assert!(texts[0].contains(r"W\x10java.lang.StringZW\x05w\xc3\xb6rldZ"), "{}", texts[0]);
    assert!(texts[0].contains(r"\x08x-tenant\x03t-1") && texts[0].contains(r"\x05group\x03dev"), "{}", texts[0]);
    assert!(texts[1].contains(r"\x04saveW\x04long\ncom.a.UserZW\xf8\x11H\x03age\xe3ZZ"), "{}", texts[1]);
    for (method, path, body, status, said) in [
        ("GET", "/dubbo/other", "", 404, "no method of com.a.Demo is bound to GET /dubbo/other"),
        ("GET", "/dubbo/hello", "", 400, "the query parameter \\\"name\\\" is missing"),
        ("POST", "/dubbo/x", "{}", 400, "must be of type long"),
        ("POST", "/dubbo/1", "no json", 400, "the body must be JSON"),
        ("GET", "/plain", "", 503, ""),
    ] {
        let answer = call(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains(said), "{}", answer.text());
    }
    assert_eq!(calls.lock().len(), 2);
}

#[tokio::test]
async fn a_service_behind_a_proxy_is_asked_for_with_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heads = asked.clone();
    tokio::task::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.lock().push(String::from_utf8(head).unwrap());
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        }
    });
    let folder = Folder::new();
    folder.write(
        "mcpbridges/default.yaml",
        &json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"}, "spec": {
            "proxies": [{"type": "HTTP", "name": "out", "serverAddress": "127.0.0.1", "serverPort": port}],
            "registries": [
                {"type": "dns", "name": "api", "domain": "api.example.com", "port": 8443, "protocol": "https", "proxyName": "out"},
                {"type": "static", "name": "fixed", "domain": "203.0.113.5:443", "port": 443, "protocol": "https", "proxyName": "out"}]}}),
    );
    folder.route("api", "/", "api.dns").route("fixed", "/fixed", "fixed.static");
    let gateway = Gateway::start(folder);
    // Whom a client says it wants is no place to be led to.
    for (path, target) in [("/", "api.example.com:8443"), ("/fixed", "203.0.113.5:443")] {
        let answer = send(gateway.http, "GET", path, &[("host", "inner.corp")], bytes::Bytes::new()).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        let asked = std::mem::take(&mut *asked.lock());
        assert!(!asked.is_empty() && asked.iter().all(|head| head.starts_with(&connect)), "{asked:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_is_waited_for_as_long_as_it_says() {
    // Connections wait here for ever.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let folder = Folder::new();
    let proxy = |name: &str| json!({"type": "http", "name": name, "serverAddress": "127.0.0.1", "serverPort": port});
    let mut hasty = proxy("hasty");
    hasty["connectTimeout"] = json!(1);
    let behind = |name: &str| json!({"type": "dns", "name": name, "domain": "api.example.com", "port": 443, "protocol": "https", "proxyName": name});
    folder.write(
        "mcpbridges/default.yaml",
        &json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"}, "spec": {
            "proxies": [hasty, proxy("usual")], "registries": [behind("hasty"), behind("usual")]}}),
    );
    let once = json!({"higress.io/proxy-next-upstream": "off"});
    folder.route_with("hasty", "/hasty", "hasty.dns", &once).route_with("usual", "/usual", "usual.dns", &once);
    let gateway = Gateway::start(folder);
    // The usual 1.2 seconds begin first.
    let usual = gateway.get("/usual");
    tokio::pin!(usual);
    tokio::select! {
        biased;
        answer = &mut usual => panic!("{}", answer.text()),
        answer = gateway.get("/hasty") => assert_eq!(answer.status, 503, "{}", answer.text()),
    }
    assert_eq!(usual.await.status, 503);
}
