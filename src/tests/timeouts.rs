//! How long each phase of a model call may take: the connection, the first byte, the pause between two pieces.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::harness::*;
use crate::streams::asked;

fn gateway(provider: SocketAddr, timeout: &str) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("llm", provider)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    Gateway::start_with(folder, &format!("[timeouts]\n{timeout}\n"))
}

async fn chat(gateway: &Gateway, body: &Value) -> Answer {
    tokio::time::timeout(PATIENCE, gateway.chat(body)).await.expect("the gateway gives up")
}

/// Asks in vain; the answer must name the limit.
async fn assert_timed_out(gateway: &Gateway, body: &Value, limit: &str) {
    let answer = chat(gateway, body).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (504, "upstream_timeout"), "{}", answer.text());
    assert!(answer.text().contains(limit), "{}", answer.text());
}

/// A listener that takes no more connections: nobody accepts, and the kernel keeps no more than these.
fn deaf_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
    let waiting: Vec<TcpStream> = std::iter::from_fn(connect).take(100).collect();
    assert!(waiting.len() < 100, "the kernel keeps any number of connections for a listener that asked for one");
    (listener, waiting)
}

#[tokio::test]
async fn a_connection_that_is_not_made_is_given_up() {
    let (listener, _waiting) = deaf_listener();
    let gateway = gateway(listener.local_addr().unwrap(), "connect_ms = 300");
    let answer = chat(&gateway, &question("m", "hi")).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (503, "upstream_unreachable"), "{}", answer.text());
    assert!(answer.text().contains("300 ms (timeouts.connect_ms)"), "{}", answer.text());
    let attempts = "weirgate_upstream_attempts_total{service=\"llm.static\",outcome=\"Unreachable\"}";
    assert!(gateway.metrics().await.contains(attempts), "{attempts} missing");
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_given_up() {
    let upstream = Upstream::start(|_, _| std::future::pending::<Response>()).await;
    let gateway = gateway(upstream.address, "first_byte_secs = 1");
    assert_timed_out(&gateway, &question("m", "hi"), "1000 ms").await;
    assert_timed_out(&gateway, &asked("hi"), "1000 ms").await;
    assert_eq!(upstream.n_calls(), 2, "nobody is asked twice");
}

#[tokio::test]
async fn a_provider_whose_head_is_all_that_comes_is_given_up() {
    let upstream = Upstream::start(|_, _| async {
        answer(200, "text/event-stream", Body::from_stream(stream::pending::<std::io::Result<Bytes>>()))
    })
    .await;
    let gateway = gateway(upstream.address, "first_byte_secs = 1");
    assert_timed_out(&gateway, &asked("hi"), "1000 ms").await;
}

/// A provider whose streams never go on, and what they begin with.
async fn stalling() -> (Upstream, String) {
    let begun = events("m", &["one", "two"])[..2].concat();
    let first = Bytes::from(begun.clone());
    let upstream = Upstream::start(move |_, _| {
        let first = stream::iter([Ok::<_, std::io::Error>(first.clone())]);
        async move { answer(200, "text/event-stream", Body::from_stream(first.chain(stream::pending()))) }
    })
    .await;
    (upstream, begun)
}

#[tokio::test]
async fn a_stream_that_stalls_ends_with_an_error_event() {
    let (upstream, begun) = stalling().await;
    let gateway = gateway(upstream.address, "stream_idle_secs = 1");
    let text = chat(&gateway, &asked("hi")).await.text();
    let last = text.strip_prefix(begun.as_str()).expect("what came is delivered").strip_prefix("data: ").unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "upstream_cut", "{text}");
    assert_eq!(gateway.access_log(1)[0]["response_code_details"], "upstream_reset_after_response_started");
}

/// An export that takes its time was cut by the limit for silence within a model's stream.
#[tokio::test]
async fn an_answer_on_a_plain_route_may_take_as_long_as_a_models() {
    let upstream = Upstream::start(|_, _| async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        ok(&json!("late"))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("plain", "/", "up.static");
    let gateway = Gateway::start_with(folder, "[timeouts]\nfirst_byte_secs = 60\nstream_idle_secs = 1\n");
    let answer = send(gateway.http, "GET", "/", &[], Bytes::new()).await;
    assert_eq!((answer.status, upstream.n_calls()), (200, 1));
}

#[tokio::test]
async fn a_stream_that_outlives_the_drain_ends_with_an_error_event() {
    let (upstream, begun) = stalling().await;
    let gateway = gateway(upstream.address, "drain_secs = 1");
    let stop = async {
        eventually_async("the call", || async { (upstream.n_calls() == 1).then_some(()) }).await;
        gateway.terminate();
    };
    let (text, ()) = tokio::join!(async { chat(&gateway, &asked("hi")).await.text() }, stop);
    assert!(text.starts_with(&begun) && text.contains("upstream_cut") && text.contains("the gateway stops"), "{text}");
}

#[tokio::test]
async fn a_connection_must_be_there_within_the_routes_timeout() {
    let (listener, _waiting) = deaf_listener();
    let folder = Folder::new();
    folder.services(&[("llm", listener.local_addr().unwrap())]);
    folder.route_with("chat", "/", "llm.static", &json!({"higress.io/timeout": "1"}));
    folder.provider("llm.static", &json!({}));
    let gateway = Gateway::start_with(folder, "[timeouts]\nconnect_ms = 25000\n");
    assert_timed_out(&gateway, &question("m", "hi"), "(the timeout of the route").await;
}

#[tokio::test]
async fn whom_the_end_of_the_drain_finds_waiting_for_a_model_is_told() {
    let upstream = Upstream::start(|_, _| std::future::pending::<Response>()).await;
    let gateway = gateway(upstream.address, "drain_secs = 1");
    let stop = async {
        eventually_async("the call", || async { (upstream.n_calls() == 1).then_some(()) }).await;
        gateway.terminate();
    };
    let body = question("m", "hi");
    let (answer, ()) = tokio::join!(chat(&gateway, &body), stop);
    assert_eq!((answer.status, upstream.n_calls()), (503, 1), "{}", answer.text());
    assert!(answer.text().contains("The gateway stops"), "{}", answer.text());
    assert_eq!(gateway.access_log(1)[0]["response_code_details"], "gateway_stopping");
}
