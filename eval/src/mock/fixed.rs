//! `mock --static`: the same answer to everyone, at once. Upstream of load tests, so it does as little as HTTP allows: a 0.9 KiB
//! chat completion, or a stream of 67 events where the body says `"stream":true`. HTTP/1.1 and HTTP/2 without TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::paced::PacedBody;

/// Every right answer carries this text, so that a load run can check what it measures.
pub const MARK: &str = "weirgate-eval-mark-5c1d";

const N_TEXT_EVENTS: usize = 64;

struct Answers {
    json: Bytes,
    stream: Vec<Bytes>,
    stream_at_once: Bytes,
    event_interval: Duration,
}

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener, event_interval: Duration) -> Result<()> {
    let answers: &'static Answers = Box::leak(Box::new(Answers::new(event_interval)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _): (_, SocketAddr) = accepted.context("accepting a connection")?;
                stream.set_nodelay(true).context("setting TCP_NODELAY")?;
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(answers, request));
                    // A client that breaks off is no event here: the load driver counts its own errors.
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    answers: &'static Answers,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let is_stream =
        [&b"\"stream\":true"[..], b"\"stream\": true"].iter().any(|flag| memchr::memmem::find(&body, flag).is_some());
    let (content_type, body) = match is_stream {
        false => ("application/json", Full::new(answers.json.clone()).boxed()),
        true if answers.event_interval.is_zero() => {
            ("text/event-stream", Full::new(answers.stream_at_once.clone()).boxed())
        }
        true => {
            let due = |i: usize| answers.event_interval * i as u32;
            let events = answers.stream.iter().enumerate().map(|(i, event)| (due(i), event.clone())).collect();
            ("text/event-stream", PacedBody::new(events).boxed())
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

impl Answers {
    fn new(event_interval: Duration) -> Answers {
        let words =
            "the gateway forwards each request to the chosen model and counts the tokens that come back ".repeat(7);
        let json = json!({
            "id": "mock-static0001",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": "mock",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": format!("{MARK} {}", &words[..600])},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 190, "completion_tokens": 130, "total_tokens": 320},
        });
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": "mock-static0001",
                "object": "chat.completion.chunk",
                "created": 1_760_000_000,
                "model": "mock",
                "choices": choices,
            });
            if let Some(usage) = usage {
                chunk["usage"] = usage;
            }
            Bytes::from(format!("data: {chunk}\n\n"))
        };
        let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        let mut stream = vec![chunk(choice(json!({"role": "assistant", "content": ""}), Value::Null), None)];
        let tokens = std::iter::once(MARK).chain(words.split_whitespace().cycle()).take(N_TEXT_EVENTS);
        stream.extend(tokens.map(|token| chunk(choice(json!({"content": format!("{token} ")}), Value::Null), None)));
        stream.push(chunk(choice(json!({}), json!("stop")), None));
        let usage =
            json!({"prompt_tokens": 190, "completion_tokens": N_TEXT_EVENTS, "total_tokens": 190 + N_TEXT_EVENTS});
        stream.push(chunk(json!([]), Some(usage)));
        stream.push(Bytes::from_static(b"data: [DONE]\n\n"));
        Answers { json: Bytes::from(json.to_string()), stream_at_once: stream.concat().into(), stream, event_interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_have_the_sizes_the_method_names() {
        let answers = Answers::new(Duration::ZERO);
        assert!((800..1100).contains(&answers.json.len()), "{}", answers.json.len());
        assert_eq!(answers.stream.len(), N_TEXT_EVENTS + 4);
        assert!((10_000..14_000).contains(&answers.stream_at_once.len()), "{}", answers.stream_at_once.len());
        assert!(memchr::memmem::find(&answers.stream_at_once, MARK.as_bytes()).is_some());
        assert!(answers.stream_at_once.ends_with(b"data: [DONE]\n\n"));
    }
}
