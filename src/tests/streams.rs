//! Streamed answers: order, broken ends, many at once. Clients that read late, or leave before anything came, are in `clients`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Notify};

use crate::harness::*;

pub fn asked(text: &str) -> Value {
    let mut body = question("m", text);
    body["stream"] = json!(true);
    body
}

/// A gateway before one provider, which records what passes.
pub fn gateway_at(provider: SocketAddr) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("llm", provider)]).route("chat", "/", "llm.static");
    folder.provider("llm.static", &json!({}));
    folder.plugin("semantic-router", &json!({"candidates": [{"model": "a"}], "baseline": "a"}), &json!([]));
    Gateway::start(folder)
}

async fn gateway_for(upstream: &Upstream) -> Gateway {
    gateway_at(upstream.address)
}

/// Asks on a connection of its own. The answer's head is there; its body can be read as it comes.
pub async fn open(to: SocketAddr, headers: &[(&str, &str)], body: &Value) -> hyper::Response<Incoming> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection);
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    let body = Full::new(Bytes::from(body.to_string()));
    sender.send_request(request(to, "POST", "/v1/chat/completions", &all, body)).await.unwrap()
}

/// Reads a body until it has brought `n` bytes.
pub async fn read_some(body: &mut Incoming, n: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < n {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("more of the stream came");
        got.extend_from_slice(frame.expect("the stream goes on").unwrap().data_ref().unwrap());
    }
    got
}

/// A body that sends each piece on its own, and fails at the end if told to.
fn body_of(pieces: Vec<String>, ends_broken: bool) -> Body {
    let mut items: Vec<Result<Bytes, std::io::Error>> =
        pieces.into_iter().map(|piece| Ok(Bytes::from(piece))).collect();
    if ends_broken {
        items.push(Err(std::io::Error::other("cut")));
    }
    // The server flushes what it has whenever a body is not ready; without that a cut would swallow the pieces before it.
    Body::from_stream(stream::unfold(items.into_iter(), |mut items| async move {
        tokio::task::yield_now().await;
        items.next().map(|item| (item, items))
    }))
}

#[tokio::test]
async fn a_stream_passes_byte_for_byte() {
    let upstream = Upstream::chat().await;
    let gateway = gateway_for(&upstream).await;
    let answer = gateway.chat(&asked("hi")).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(answer.text(), events("m", &["hel", "lo"]).concat());
}

#[tokio::test]
async fn the_first_event_is_out_before_the_second_is_there() {
    let go_on = Arc::new(Notify::new());
    let waiting = go_on.clone();
    let upstream = Upstream::start(move |_, _| {
        let waiting = waiting.clone();
        async move {
            let events = events("m", &["one", "two"]);
            let first = Bytes::from(events[..2].concat());
            let rest = Bytes::from(events[2..].concat());
            let tail = stream::once(async move {
                waiting.notified().await;
                Ok::<_, std::io::Error>(rest)
            });
            let head = stream::iter([Ok::<_, std::io::Error>(first)]);
            answer(200, "text/event-stream", Body::from_stream(head.chain(tail)))
        }
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    let mut body = open(gateway.http, &[], &asked("x")).await.into_body();
    let first = read_some(&mut body, 1).await;
    assert!(String::from_utf8_lossy(&first).contains("one"));
    go_on.notify_one();
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error_event() {
    for (pieces, is_broken) in [(3, true), (3, false)] {
        let upstream = Upstream::start(move |_, _| async move {
            answer(
                200,
                "text/event-stream",
                body_of(events("m", &["one", "two", "three"])[..pieces].to_vec(), is_broken),
            )
        })
        .await;
        let gateway = gateway_for(&upstream).await;
        let text = gateway.chat(&asked("x")).await.text();
        let last = text.trim_end().rsplit("\n\n").next().unwrap().strip_prefix("data: ").unwrap().to_owned();
        let error: serde_json::Value = serde_json::from_str(&last).unwrap();
        assert_eq!(error["error"]["code"], "upstream_cut", "{text}");
        assert!(!text.contains("[DONE]"), "a cut stream must not look complete");
        assert!(text.starts_with(&events("m", &["one", "two", "three"])[..pieces].concat()), "what came is delivered");
    }
}

/// Its clients pass over events without a name, and a cut answer looked whole to them.
#[tokio::test]
async fn a_cut_stream_of_anthropic_messages_ends_with_the_error_event_they_know() {
    let begun = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"x\",\"model\":\"m\",\"content\":[]}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n";
    let upstream =
        Upstream::start(
            move |_, _| async move { answer(200, "text/event-stream", body_of(vec![begun.to_owned()], true)) },
        )
        .await;
    let gateway = gateway_for(&upstream).await;
    let body = json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let text = gateway.post("/v1/messages", &[], body.to_string()).await.text();
    let error = text.strip_prefix(begun).expect("what came is delivered").strip_prefix("event: error\ndata: ").unwrap();
    let error: serde_json::Value = serde_json::from_str(error).unwrap();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("api_error")));
    assert!(error["error"]["message"].as_str().unwrap().contains("broke off"), "{text}");
}

/// It cannot be read, so nothing is known of its end, and nothing of ours could stand in it.
#[tokio::test]
async fn a_stream_that_came_compressed_passes_as_it_is() {
    let bytes: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let upstream = Upstream::start(move |_, _| async move {
        let mut response = answer(200, "text/event-stream", bytes);
        response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        response
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    assert_eq!(gateway.chat(&asked("x")).await.body, bytes);
    assert_eq!(gateway.access_log(1)[0]["response_code_details"], "via_upstream");
}

#[tokio::test]
async fn an_answer_that_says_it_is_not_compressed_is_read() {
    let upstream = Upstream::start(move |_, _| async move {
        let mut response = sse(&events("m", &["one"])[..2]);
        response.headers_mut().insert("content-encoding", "identity".parse().unwrap());
        response
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    assert!(gateway.chat(&asked("x")).await.text().contains("upstream_cut"));
}

#[tokio::test]
async fn a_cut_json_answer_breaks_the_connection() {
    let upstream = Upstream::start(|_, _| async move {
        let body = body_of(vec!["{\"id\":".to_owned()], true);
        let mut response = answer(200, "application/json", body);
        response.headers_mut().insert("content-length", "100".parse().unwrap());
        response
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    let response = open(gateway.http, &[], &question("m", "x")).await;
    assert!(response.into_body().collect().await.is_err(), "an incomplete body must not look complete");
}

#[tokio::test]
async fn an_error_as_first_event_falls_back_to_the_next_model() {
    let upstream = Upstream::start(|_, seen| async move {
        let model = seen.json()["model"].as_str().unwrap().to_owned();
        if model == "broken" {
            sse(&["data: {\"error\":{\"message\":\"overloaded\"}}\n\n".to_owned()])
        } else {
            sse(&events(&model, &["fine"]))
        }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    let config = json!({"candidates": [{"model": "broken", "tags": ["large"]}, {"model": "works", "price": {"input": 900}}],
        "baseline": "broken", "weights": {"cost": 1}});
    folder.plugin("semantic-router", &config, &json!([]));
    let gateway = Gateway::start(folder);
    let mut body = asked("what is the capital of France?");
    body["model"] = json!("auto");
    let answer = gateway.chat(&body).await;
    assert_eq!((answer.status, upstream.n_calls()), (200, 2), "{}", answer.text());
    assert_eq!(answer.header("x-weirgate-model"), Some("works"));
    assert!(answer.text().contains("fine"));
}

/// An upstream whose answers have no end: `begun` tells that one has begun, `ended` that it was dropped, which the server does when
/// its connection is closed.
async fn endless(begun: Arc<Notify>, ended: Arc<Notify>, content_type: &'static str) -> Upstream {
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    Upstream::start(move |_, _| {
        let (begun, told) = (begun.clone(), Told(ended.clone()));
        async move {
            let event = Bytes::from(events("m", &["tick"])[1].clone());
            begun.notify_one();
            let endless = stream::unfold(told, move |told| {
                let event = event.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((Ok::<_, std::io::Error>(event), told))
                }
            });
            answer(200, content_type, Body::from_stream(endless))
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream() {
    let (left, noticed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let upstream = endless(left.clone(), noticed.clone(), "text/event-stream").await;
    let gateway = gateway_for(&upstream).await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let task = tokio::task::spawn(connection);
    let headers = [("content-type", "application/json")];
    let body = Full::new(Bytes::from(asked("x").to_string()));
    let response =
        sender.send_request(request(gateway.http, "POST", "/v1/chat/completions", &headers, body)).await.unwrap();
    left.notified().await;
    drop((response, sender));
    task.abort();
    tokio::time::timeout(PATIENCE, noticed.notified()).await.expect("the upstream's answer is dropped");
    let entry = &gateway.access_log(1)[0];
    assert_eq!(entry["response_code_details"], "downstream_remote_disconnect");
}

#[tokio::test]
async fn a_client_that_leaves_a_held_answer_cancels_the_upstream() {
    let (begun, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let upstream = endless(begun.clone(), ended.clone(), "text/plain").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("up", "/", "up.static");
    folder.plugin(
        "response-cache",
        &json!({"cacheKeyFromHeader": "x-key", "cacheValueFromBodyType": "text/plain"}),
        &json!([]),
    );
    let gateway = Gateway::start(folder);
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\nx-key: k\r\n\r\n").await.unwrap();
    begun.notified().await;
    drop(stream);
    tokio::time::timeout(PATIENCE, ended.notified()).await.expect("the upstream's answer is dropped");
    assert_eq!(gateway.access_log(1)[0]["response_code_details"], "downstream_remote_disconnect");
}

/// What it sends early is read away; it used to be taken for its leave.
#[tokio::test]
async fn a_client_that_asks_again_too_early_gets_its_first_answer() {
    let (upstream, reached, go_on) = Upstream::held_back(completion("m", "hello")).await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).provider("llm.static", &json!({}));
    folder.route("chat", "/v1", "llm.static").route("plain", "/plain", "llm.static");
    let gateway = Gateway::start(folder);
    let body = question("m", "hi").to_string();
    for (path, n_calls) in [("/v1/chat/completions", 1), ("/plain", 2)] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        stream.write_all((head.clone() + &body).as_bytes()).await.unwrap();
        reached.notified().await;
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        // Nothing tells when the gateway has read it; if it has not, there is nothing to see.
        tokio::time::sleep(Duration::from_millis(200)).await;
        go_on.notify_one();
        let mut answer = Vec::new();
        // What is left unread at the end resets the connection.
        while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {}
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.matches("hello").count() == 1, "{path}: {answer}");
        assert_eq!(upstream.n_calls(), n_calls, "{path}");
    }
}

/// The thousand streams are two thousand sockets in this process. The gateway, which has as many, inherits the limit.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// pingora keeps a body whose length is known until it is whole.
#[tokio::test]
async fn events_of_a_stream_that_tells_its_length_arrive_as_they_come() {
    let items = events("m", &["one", "two"]);
    let (go_on, rest_may_come) = tokio::sync::watch::channel(false);
    let sent = items.clone();
    let upstream = Upstream::start(move |_, _| {
        let (mut items, mut rest_may_come) = (sent.clone(), rest_may_come.clone());
        let length = items.concat().len();
        let rest = items.split_off(2).concat();
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(items.concat()))]);
        let rest = stream::once(async move {
            let _ = rest_may_come.wait_for(|may| *may).await;
            Ok(Bytes::from(rest))
        });
        let mut answer = answer(200, "text/event-stream", Body::from_stream(first.chain(rest)));
        answer.headers_mut().insert("content-length", length.into());
        async move { answer }
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    let response = open(gateway.http, &[], &asked("x")).await;
    assert!(!response.headers().contains_key("content-length"));
    let mut body = response.into_body();
    let first = tokio::time::timeout(PATIENCE, read_some(&mut body, items[..2].concat().len()));
    let mut got = first.await.expect("the first events do not wait for the last");
    go_on.send(true).unwrap();
    got.extend_from_slice(&body.collect().await.unwrap().to_bytes());
    assert_eq!(String::from_utf8(got).unwrap(), items.concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once_keep_every_event_in_order() {
    const N_STREAMS: usize = 1000;
    const N_EVENTS: usize = 20;
    let events_for = |who: &str| -> Vec<String> {
        let pieces: Vec<String> = (0..N_EVENTS).map(|n| format!("{who}:{n};")).collect();
        events("m", &pieces.iter().map(String::as_str).collect::<Vec<_>>())
    };
    allow_many_files();
    // Nobody passes before every client has its first event, and no stream goes on before: they are all open together.
    let all_begun = Arc::new(Barrier::new(2 * N_STREAMS));
    let waiting = all_begun.clone();
    let upstream = Upstream::start(move |_, seen| {
        let waiting = waiting.clone();
        async move {
            let mut items = events_for(seen.json()["messages"][0]["content"].as_str().unwrap());
            let rest = items.split_off(2);
            let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(items.concat()))]);
            let rest = stream::once(async move {
                waiting.wait().await;
                // One event at a time, so that the streams take turns.
                stream::unfold(rest.into_iter(), |mut items| async move {
                    tokio::task::yield_now().await;
                    items.next().map(|item| (Ok::<_, std::io::Error>(Bytes::from(item)), items))
                })
            });
            answer(200, "text/event-stream", Body::from_stream(first.chain(rest.flatten())))
        }
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    let http = gateway.http;
    let mut asked_all = tokio::task::JoinSet::new();
    for n in 0..N_STREAMS {
        let all_begun = all_begun.clone();
        asked_all.spawn(async move {
            let who = format!("s{n}");
            let expected = events_for(&who);
            let mut body = open(http, &[], &asked(&who)).await.into_body();
            let mut got = read_some(&mut body, expected[..2].concat().len()).await;
            tokio::time::timeout(PATIENCE, all_begun.wait()).await.expect("a thousand streams are open at once");
            got.extend_from_slice(&body.collect().await.unwrap().to_bytes());
            assert_eq!(String::from_utf8(got).unwrap(), expected.concat(), "stream {n}");
        });
    }
    while let Some(done) = asked_all.join_next().await {
        done.unwrap();
    }
    assert_eq!(upstream.n_calls(), N_STREAMS);
}
