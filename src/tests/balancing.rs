//! Which endpoint of a service a request goes to, as annotations say.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::harness::*;
use crate::ingress::{by, get, named};
use crate::upstreams::{rule, services_at};

#[tokio::test]
async fn sessions_stay_with_their_endpoint() {
    let (a, b) = (named("a").await, named("b").await);
    let folder = Folder::new();
    services_at(&folder, &[("two", &[a.address, b.address])]);
    let cookie = json!({"nginx.ingress.kubernetes.io/affinity": "cookie", "higress.io/session-cookie-name": "sid",
        "higress.io/session-cookie-path": "/cookie", "higress.io/session-cookie-max-age": "99"});
    folder.route_with("cookie", "/cookie", "two.static", &cookie);
    let usual = json!({"higress.io/affinity": "cookie", "higress.io/session-cookie-expires": "55"});
    folder.route_with("usual", "/usual", "two.static", &usual);
    folder.route_with("header", "/header", "two.static", &json!({"higress.io/upstream-hash-by": "$http_x_user"}));
    folder.route("turns", "/turns", "two.static");
    let gateway = Gateway::start(folder);
    let mut firsts = HashSet::new();
    for _ in 0..12 {
        let first = get(&gateway, "/cookie", &[]).await;
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let again = get(&gateway, "/cookie", &[("cookie", &cookie)]).await;
        assert_eq!((by(&again), again.header("set-cookie")), (by(&first), None));
        firsts.insert(by(&first));
        let posted = gateway.post("/cookie", &[("cookie", &cookie)], "x").await;
        assert_eq!(by(&posted), by(&first));
    }
    assert_eq!(firsts.len(), 2, "sessions are spread");
    for (path, expected) in [
        ("/cookie", "sid; Max-Age=99; Path=/cookie; HttpOnly"),
        ("/usual", "INGRESSCOOKIE; Max-Age=55; Path=/; HttpOnly"),
    ] {
        let answer = get(&gateway, path, &[]).await;
        let (name, rest) = answer.header("set-cookie").unwrap().split_once('=').unwrap();
        assert_eq!(format!("{name}; {}", rest.split_once("; ").unwrap().1), expected);
    }
    let mut users = HashSet::new();
    for user in 0..12 {
        let user = user.to_string();
        let headers = [("x-user", user.as_str())];
        let first = by(&get(&gateway, "/header", &headers).await);
        assert_eq!(by(&get(&gateway, "/header", &headers).await), first);
        users.insert(first);
    }
    assert_eq!(users.len(), 2);
    assert_ne!(by(&get(&gateway, "/turns", &[]).await), by(&get(&gateway, "/turns", &[]).await));
}

#[tokio::test]
async fn requests_alike_in_what_is_hashed_have_one_endpoint() {
    let (a, b) = (named("a").await, named("b").await);
    let folder = Folder::new();
    services_at(&folder, &[("two", &[a.address, b.address])]);
    let keys = [("uri", "$request_uri"), ("host", "$host"), ("address", "$remote_addr"), ("argument", "$arg_user")];
    for (name, key) in keys {
        folder.route_with(name, &format!("/{name}"), "two.static", &json!({"higress.io/upstream-hash-by": key}));
    }
    // Addresses come from a proxy in front.
    let mesh = json!({"defaultConfig": {"gatewayTopology": {"numTrustedProxies": 1}}}).to_string();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "higress-config"}, "data": {"mesh": mesh}});
    folder.write("configmaps/higress-config.yaml", &object);
    let gateway = Gateway::start(folder);
    for (name, _) in keys {
        let mut endpoints = HashSet::new();
        for n in 1..=24 {
            let (mut path, mut host, mut address) = (format!("/{name}"), "a.test".to_owned(), "10.0.0.1".to_owned());
            match name {
                "uri" => path = format!("/{name}/{n}"),
                "argument" => path = format!("/{name}?user={n}"),
                "host" => host = format!("{n}.test"),
                _ => address = format!("10.0.0.{n}"),
            }
            let headers = [("host", host.as_str()), ("x-forwarded-for", address.as_str())];
            let first = by(&get(&gateway, &path, &headers).await);
            assert_eq!(by(&get(&gateway, &path, &headers).await), first, "{name} {n}");
            endpoints.insert(first);
        }
        assert_eq!(endpoints.len(), 2, "{name}");
    }
}

#[tokio::test]
async fn a_routes_way_to_balance_counts_before_its_services() {
    let (a, b) = (named("a").await, named("b").await);
    let folder = Folder::new();
    services_at(&folder, &[("two", &[a.address, b.address])]);
    rule(&folder, "two.static", json!({"loadBalancer": {"consistentHash": {"httpQueryParameterName": "user"}}}));
    folder.route("service", "/service", "two.static");
    for name in ["round_robin", "random"] {
        folder.route_with(name, &format!("/{name}"), "two.static", &json!({"higress.io/load-balance": name}));
    }
    let gateway = Gateway::start(folder);
    let repeats = async |path: &str| {
        let mut answers = Vec::new();
        for _ in 0..65 {
            answers.push(by(&get(&gateway, path, &[]).await));
        }
        answers.windows(2).filter(|pair| pair[0] == pair[1]).count()
    };
    assert_eq!(repeats("/service?user=7").await, 64);
    assert_eq!(repeats("/round_robin?user=7").await, 0);
    assert!((1..64).contains(&repeats("/random?user=7").await));
}

#[tokio::test]
async fn the_faster_and_the_less_loaded_endpoint_are_preferred() {
    let endpoint = |name: &'static str, delay: Duration| {
        Upstream::start(move |_, seen| async move {
            match seen.path.as_str() {
                "/ewma" => tokio::time::sleep(delay).await,
                "/least_conn/held" => std::future::pending().await,
                _ => {}
            }
            ok(&json!({"by": name}))
        })
    };
    let (slow, fast) = (endpoint("slow", Duration::from_millis(200)).await, endpoint("fast", Duration::ZERO).await);
    let folder = Folder::new();
    services_at(&folder, &[("two", &[slow.address, fast.address])]);
    for name in ["ewma", "least_conn"] {
        folder.route_with(name, &format!("/{name}"), "two.static", &json!({"higress.io/load-balance": name}));
    }
    let gateway = Gateway::start(folder);
    let in_a_row = async |path: &str, name: &str| {
        eventually_async("many in a row", || async {
            for _ in 0..16 {
                if by(&get(&gateway, path, &[]).await) != name {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    in_a_row("/ewma", "fast").await;
    let n_slow = slow.n_calls();
    let held = tokio::spawn(send(gateway.http, "GET", "/least_conn/held", &[], Bytes::new()));
    let n_fast = fast.n_calls();
    let free = eventually_async("the one held", || async {
        match (slow.n_calls() > n_slow, fast.n_calls() > n_fast) {
            (true, _) => Some("fast"),
            (_, true) => Some("slow"),
            _ => None,
        }
    })
    .await;
    in_a_row("/least_conn", free).await;
    held.abort();
}

/// An MCP server of the older transport, which knows one session.
async fn mcp_sse(session: &'static str) -> Upstream {
    Upstream::start(move |_, seen| async move {
        let parameter = if seen.path.starts_with("/own/") { "sid" } else { "sessionId" };
        let folder = seen.path.split('/').nth(1).unwrap_or_default();
        match seen.method.as_str() {
            "GET" => sse(&[format!("event: endpoint\ndata: /{folder}/message?v=1&{parameter}={session}\n\n")]),
            _ => ok(&json!({"by": session, "query": seen.path.split('?').nth(1).unwrap_or_default()})),
        }
    })
    .await
}

#[tokio::test]
async fn mcp_sessions_stay_with_the_endpoint_that_began_them() {
    let (a, b) = (mcp_sse("aa-1").await, mcp_sse("bb-2").await);
    let folder = Folder::new();
    services_at(&folder, &[("two", &[a.address, b.address])]);
    folder.route_with("mcp", "/mcp", "two.static", &json!({"higress.io/load-balance": "mcp-sse"}));
    let own = json!({"higress.io/load-balance": "mcp-sse", "higress.io/mcp-sse-stateful-param-name": "sid"});
    folder.route_with("own", "/own", "two.static", &own);
    let gateway = Gateway::start(folder);
    for (begin, parameter) in [("/mcp/sse", "sessionId"), ("/own/sse", "sid")] {
        let mut servers = HashSet::new();
        for _ in 0..4 {
            let event = get(&gateway, begin, &[]).await.text();
            let place = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().to_owned();
            let session = if event.contains("aa-1") { "aa-1" } else { "bb-2" };
            servers.insert(session);
            for _ in 0..3 {
                let answer = gateway.post(&place, &[], "{}").await.json();
                assert_eq!(answer, json!({"by": session, "query": format!("v=1&{parameter}={session}")}), "{place}");
            }
        }
        assert_eq!(servers.len(), 2, "sessions begin in turn");
    }
}
