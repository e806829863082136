//! Mock upstreams, and what they answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A mock upstream: counts calls and keeps the last request.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    n_calls: Arc<AtomicUsize>,
    last: Arc<parking_lot::Mutex<Option<Seen>>>,
}

/// A request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Bytes,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Upstream {
    /// Answers each call with what `answer` makes of it; it is given the number of the call, from 0.
    pub async fn start<F, R>(answer: F) -> Upstream
    where
        F: Fn(usize, Seen) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        Upstream::start_at("127.0.0.1:0", answer).await
    }

    /// The same at an address.
    pub async fn start_at<F, R>(address: &str, answer: F) -> Upstream
    where
        F: Fn(usize, Seen) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        // A thousand connections may come at once.
        socket2::SockRef::from(&listener).listen(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let n_calls = Arc::new(AtomicUsize::new(0));
        let last = Arc::new(parking_lot::Mutex::new(None));
        let upstream = Upstream { address, n_calls, last };
        let own = upstream.clone();
        let handler = move |request: Request| {
            let (own, answer) = (own.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let headers = parts
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                    .collect();
                let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let seen = Seen { method: parts.method.to_string(), path, headers, body };
                *own.last.lock() = Some(seen.clone());
                let n = own.n_calls.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(answer(n, seen).await)
            }
        };
        let app = axum::Router::new()
            .fallback_service(tower_service(handler))
            .layer(axum::extract::DefaultBodyLimit::disable());
        tokio::task::spawn(async move { axum::serve(listener, app).await.unwrap() });
        upstream
    }

    /// An OpenAI-shaped provider that answers "hello" with the model it was asked for.
    pub async fn chat() -> Upstream {
        Upstream::start(|_, seen| async move {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let model = asked["model"].as_str().unwrap_or("none").to_owned();
            if asked["stream"] == true {
                sse(&events(&model, &["hel", "lo"]))
            } else {
                ok(&completion(&model, "hello"))
            }
        })
        .await
    }

    /// One that says when it was reached, and answers when it is told to go on.
    pub async fn held_back(body: Value) -> (Upstream, Arc<Notify>, Arc<Notify>) {
        let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (arrived, waiting) = (reached.clone(), go_on.clone());
        let upstream = Upstream::start(move |_, _| {
            let (arrived, waiting, body) = (arrived.clone(), waiting.clone(), body.clone());
            async move {
                arrived.notify_one();
                waiting.notified().await;
                ok(&body)
            }
        })
        .await;
        (upstream, reached, go_on)
    }

    pub fn n_calls(&self) -> usize {
        self.n_calls.load(Ordering::SeqCst)
    }

    pub fn last(&self) -> Seen {
        self.last.lock().clone().expect("the upstream was called")
    }
}

fn tower_service<H, R>(handler: H) -> axum::routing::MethodRouter
where
    H: Fn(Request) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Response, Infallible>> + Send + 'static,
{
    axum::routing::any(move |request: Request| {
        let handler = handler.clone();
        async move {
            match handler(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    })
}

/// A chat completion of `model`.
pub fn completion(model: &str, text: &str) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}, "x_unknown": {"kept": true}})
}

/// The events of a streamed completion, `[DONE]` included.
pub fn events(model: &str, pieces: &[&str]) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        .to_string()
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(pieces.iter().map(|piece| chunk(json!({"content": piece}), Value::Null)));
    events.push(chunk(json!({}), json!("stop")));
    events.push("[DONE]".to_owned());
    events.into_iter().map(|data| format!("data: {data}\n\n")).collect()
}

pub fn ok(body: &Value) -> Response {
    answer(200, "application/json", body.to_string())
}

pub fn sse(events: &[String]) -> Response {
    answer(200, "text/event-stream", events.concat())
}

pub fn answer(status: u16, content_type: &str, body: impl Into<Body>) -> Response {
    Response::builder().status(status).header("content-type", content_type).body(body.into()).unwrap()
}

/// A question for the model.
pub fn question(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}
