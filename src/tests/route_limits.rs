//! What a route limits (time, rate), and that a plugin's header selects the route that asks for it.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::*;

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    let upstream = Upstream::start(|n, _| async move {
        if n == 0 {
            std::future::pending::<()>().await;
        }
        ok(&json!({"try": n}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route_with(
        "patient",
        "/",
        "up.static",
        &json!({"higress.io/proxy-next-upstream-timeout": "1", "higress.io/proxy-next-upstream": "error,timeout"}),
    );
    let gateway = Gateway::start(folder);
    let answer = gateway.get("/x").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"try": 1})));
    assert_eq!(upstream.n_calls(), 2);
}

#[tokio::test]
async fn the_timeout_of_a_route_is_for_all_tries_together() {
    let upstream = Upstream::start(|_, _| async { std::future::pending().await }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route_with(
        "hasty",
        "/",
        "up.static",
        &json!({"higress.io/timeout": "1", "higress.io/proxy-next-upstream": "error,timeout",
            "higress.io/proxy-next-upstream-tries": "5"}),
    );
    let gateway = Gateway::start(folder);
    let answer = gateway.get("/x").await;
    assert_eq!((answer.status, answer.error_code().as_str()), (504, "upstream_timeout"));
    assert_eq!(upstream.n_calls(), 1, "no time was left for another");
}

#[tokio::test]
async fn an_answer_that_drips_ends_with_the_routes_timeout() {
    let upstream = Upstream::start(|_, _| async {
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"drop ")), ()))
        });
        answer(200, "text/plain", Body::from_stream(drops))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    folder.route_with("hasty", "/", "up.static", &json!({"higress.io/timeout": "1"}));
    let gateway = Gateway::start(folder);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let asked = sender.send_request(request(gateway.http, "GET", "/x", &[], Empty::<Bytes>::new()));
    let response = asked.await.unwrap();
    assert_eq!(response.status(), 200);
    let ended = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    assert!(ended.expect("it ends").is_err(), "a cut answer must not look whole");
}

#[tokio::test]
async fn the_consumers_header_selects_the_route_that_asks_for_it() {
    let named = |name: &'static str| Upstream::start(move |_, _| async move { ok(&json!({"by": name})) });
    let (everybody, ann) = (named("everybody").await, named("ann").await);
    let folder = Folder::new();
    folder.services(&[("everybody", everybody.address), ("ann", ann.address)]);
    folder.route("everybody", "/", "everybody.static");
    folder.route_with("ann", "/", "ann.static", &json!({"higress.io/exact-match-header-x-mse-consumer": "ann"}));
    let keys = json!({"keys": ["x-key"], "in_header": true, "global_auth": true,
        "consumers": [{"name": "ann", "credential": "a"}, {"name": "bob", "credential": "b"}]});
    folder.plugin("key-auth", &keys, &json!([]));
    let gateway = Gateway::start(folder);
    for (key, by) in [("a", "ann"), ("b", "everybody")] {
        let answer = send(gateway.http, "GET", "/x", &[("x-key", key)], Bytes::new()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"by": by})));
    }
}

#[tokio::test]
async fn a_request_that_is_matched_again_is_counted_once() {
    let upstream = Upstream::start(|_, _| async { ok(&json!({})) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let limit = json!({"higress.io/route-limit-rpm": "2", "higress.io/route-limit-burst-multiplier": "1"});
    folder.route_with("limited", "/", "up.static", &limit);
    let add = json!({"reqRules": [{"operate": "add", "headers": [{"key": "x-new", "value": "1"}]}]});
    folder.plugin("transformer", &add, &json!([]));
    let gateway = Gateway::start(folder);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.get("/x").await.status);
    }
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(upstream.last().headers["x-new"], "1");
}

#[tokio::test]
async fn a_request_is_repeated_as_often_as_its_route_says_if_that_does_no_harm() {
    let upstream = Upstream::start(|_, _| async { answer(503, "text/plain", "no") }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    for (name, conditions, tries) in [
        ("usual", "http_503", "3"),
        ("once", "http_503", "1"),
        ("never", "http_503", "0"),
        ("any", "http_503,non_idempotent", "2"),
    ] {
        let annotations =
            json!({"higress.io/proxy-next-upstream": conditions, "higress.io/proxy-next-upstream-tries": tries});
        folder.route_with(name, &format!("/{name}"), "up.static", &annotations);
    }
    let gateway = Gateway::start(folder);
    for (method, path, n_calls) in [
        ("GET", "/usual", 4),
        ("GET", "/once", 2),
        ("GET", "/never", 1),
        ("GET", "/any", 3),
        ("POST", "/any", 3),
        ("POST", "/usual", 1),
    ] {
        let n_before = upstream.n_calls();
        assert_eq!(send(gateway.http, method, path, &[], Bytes::from_static(b"x")).await.status, 503);
        assert_eq!(upstream.n_calls() - n_before, n_calls, "{method} {path}");
    }
}

#[tokio::test]
async fn a_limit_per_second_is_over_after_one() {
    let upstream = Upstream::start(|_, _| async { ok(&json!({})) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let limit = json!({"higress.io/route-limit-rps": "1", "higress.io/route-limit-burst-multiplier": "1"});
    folder.route_with("limited", "/", "up.static", &limit);
    let gateway = Gateway::start(folder);
    // Of a limit per minute the second would not come in time.
    for expected in [429, 200] {
        let asked = || async { (gateway.get("/").await.status == expected).then_some(()) };
        eventually_async("the limit, then the next token", asked).await;
    }
}
