//! Streamed answers: order, back-pressure, broken ends, many at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::*;

fn asked(text: &str) -> serde_json::Value {
    let mut body = question("m", text);
    body["stream"] = json!(true);
    body
}

async fn gateway_for(upstream: &Upstream) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    folder.provider("llm.static", &json!({}));
    folder.plugin("semantic-router", &json!({"candidates": [{"model": "a"}], "baseline": "a"}), &json!([]));
    Gateway::start(folder)
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
            let head = stream::iter([Ok(first)]);
            answer(200, "text/event-stream", Body::from_stream(futures_util::StreamExt::chain(head, Box::pin(tail))))
        }
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection);
    let headers = [("content-type", "application/json")];
    let request =
        request(gateway.http, "POST", "/v1/chat/completions", &headers, Full::new(Bytes::from(asked("x").to_string())));
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let first = tokio::time::timeout(PATIENCE, body.frame()).await.expect("the first event came").unwrap().unwrap();
    assert!(String::from_utf8_lossy(first.data_ref().unwrap()).contains("one"));
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
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection);
    let headers = [("content-type", "application/json")];
    let body = Full::new(Bytes::from(question("m", "x").to_string()));
    let response =
        sender.send_request(request(gateway.http, "POST", "/v1/chat/completions", &headers, body)).await.unwrap();
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

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream() {
    let (left, noticed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun, ended) = (left.clone(), noticed.clone());
    let upstream = Upstream::start(move |_, _| {
        let (begun, ended) = (begun.clone(), ended.clone());
        async move {
            /// Tells when the upstream's answer is dropped, which the server does when its connection is closed.
            struct Told(Arc<Notify>);
            impl Drop for Told {
                fn drop(&mut self) {
                    self.0.notify_one();
                }
            }
            let told = Told(ended);
            let event = Bytes::from(events("m", &["tick"])[1].clone());
            begun.notify_one();
            let endless = stream::unfold(told, move |told| {
                let event = event.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((Ok::<_, std::io::Error>(event), told))
                }
            });
            answer(200, "text/event-stream", Body::from_stream(endless))
        }
    })
    .await;
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
async fn a_slow_client_loses_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pieces: Vec<String> = (0..4000).map(|n| format!("<{n}>{}", "x".repeat(500))).collect();
    let sent: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let all = events("m", &sent);
    let expected = all.concat();
    let upstream = Upstream::start(move |_, _| {
        let all = all.clone();
        async move { answer(200, "text/event-stream", body_of(all, false)) }
    })
    .await;
    let gateway = gateway_for(&upstream).await;
    let body = asked("x").to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
    let mut got = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // Yielding between small reads keeps the socket full, so the gateway has to wait for us.
        tokio::task::yield_now().await;
        match tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap() {
            0 => break,
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
    let got = String::from_utf8(got).unwrap();
    let (_, body) = got.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), expected.len());
    assert_eq!(body, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once_keep_every_event_in_order() {
    const N_STREAMS: usize = 1000;
    const N_EVENTS: usize = 20;
    let upstream = Upstream::start(|_, seen| async move {
        let who = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        let pieces: Vec<String> = (0..N_EVENTS).map(|n| format!("{who}:{n};")).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let items: Vec<String> = events("m", &pieces);
        // One event at a time, so that all streams are open together.
        let paced = stream::unfold(items.into_iter(), |mut items| async move {
            tokio::task::yield_now().await;
            items.next().map(|item| (Ok::<_, std::io::Error>(Bytes::from(item)), items))
        });
        answer(200, "text/event-stream", Body::from_stream(paced))
    })
    .await;
    let gateway = Arc::new(gateway_for(&upstream).await);
    let mut asked_all = tokio::task::JoinSet::new();
    for n in 0..N_STREAMS {
        let gateway = gateway.clone();
        asked_all.spawn(async move { (n, gateway.chat(&asked(&format!("s{n}"))).await) });
    }
    while let Some(done) = asked_all.join_next().await {
        let (n, answer) = done.unwrap();
        let pieces: Vec<String> = (0..N_EVENTS).map(|event| format!("s{n}:{event};")).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(answer.text(), events("m", &pieces).concat(), "stream {n}");
    }
    assert_eq!(upstream.n_calls(), N_STREAMS);
}
