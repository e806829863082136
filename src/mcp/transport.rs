//! Streamable HTTP around rmcp's, which has the protocol: versions from 2024-11-05 to 2026-07-28, their headers and methods.
//!
//! Added here: batches, which version 2025-03-26 demands; JSON-RPC's own errors for bodies that are no message; and clients that
//! take JSON only, because nothing else is sent.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use rmcp::ServerHandler;
use rmcp::model::{ClientJsonRpcMessage, ErrorCode};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};

/// Messages in one batch at most: each is a call that takes its time.
const MAX_BATCH: usize = 32;

/// The only version that has batches; where no header names one, it is meant.
const BATCH_VERSION: &str = "2025-03-26";

type Service<H> = StreamableHttpService<H, NeverSessionManager>;

/// Answers one request; the answer's body is JSON or empty, or a line of text that says what is wrong with the request.
pub async fn answer<H: ServerHandler + Clone>(handler: H, mut request: Request<Bytes>) -> Response<Bytes> {
    prepare(request.headers_mut());
    // Whoever took the request read the body within its own limit, and decided about the host.
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(usize::MAX)
        .disable_allowed_hosts();
    let service = Service::new(move || Ok(handler.clone()), Arc::default(), config);
    if request.method() != Method::POST {
        return one(&service, request).await;
    }
    match Content::of(request.body()) {
        Content::Message => one(&service, request).await,
        Content::Batch(messages) => batch(&service, &request, &messages).await,
        Content::Wrong(code, message) => refused(code, &message),
    }
}

/// Where the gateway stops before there is an answer.
pub fn stopping() -> Response<Bytes> {
    status_of(StatusCode::SERVICE_UNAVAILABLE)
}

/// rmcp wants event streams accepted as well, which it will not send, and a host, which has been looked at.
fn prepare(headers: &mut HeaderMap) {
    let takes_json = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
        ["application/json", "application/*", "*/*"].iter().any(|kind| text.contains(kind))
    };
    if !headers.contains_key(ACCEPT) || headers.get_all(ACCEPT).iter().any(takes_json) {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    }
    headers.insert(HOST, HeaderValue::from_static("localhost"));
}

/// What a posted body is.
enum Content {
    Message,
    Batch(Vec<Bytes>),
    Wrong(ErrorCode, String),
}

impl Content {
    fn of(body: &Bytes) -> Content {
        if body.trim_ascii_start().first() == Some(&b'[') {
            return match serde_json::from_slice::<Vec<Value>>(body) {
                Ok(messages) => Content::Batch(messages.iter().map(|message| message.to_string().into()).collect()),
                Err(error) => Content::Wrong(ErrorCode::PARSE_ERROR, format!("the body is not JSON: {error}")),
            };
        }
        match serde_json::from_slice::<ClientJsonRpcMessage>(body) {
            Ok(_) => Content::Message,
            Err(error) if error.is_data() => {
                Content::Wrong(ErrorCode::INVALID_REQUEST, "the body is no JSON-RPC 2.0 message".to_owned())
            }
            Err(error) => Content::Wrong(ErrorCode::PARSE_ERROR, format!("the body is not JSON: {error}")),
        }
    }
}

/// The answers to the messages of a batch that have one, in one document.
async fn batch<H: ServerHandler + Clone>(
    service: &Service<H>,
    request: &Request<Bytes>,
    messages: &[Bytes],
) -> Response<Bytes> {
    let version = request.headers().get("mcp-protocol-version");
    if version.is_some_and(|version| version != BATCH_VERSION) {
        return refused(ErrorCode::INVALID_REQUEST, "batches are a thing of protocol version 2025-03-26");
    }
    if messages.is_empty() || messages.len() > MAX_BATCH {
        return refused(ErrorCode::INVALID_REQUEST, &format!("a batch has 1 to {MAX_BATCH} messages"));
    }
    let mut answers: Vec<Value> = Vec::new();
    for message in messages {
        let answer = match Content::of(message) {
            Content::Message => {
                let mut single = Request::new(message.clone());
                *single.method_mut() = Method::POST;
                single.headers_mut().clone_from(request.headers());
                one(service, single).await.into_body()
            }
            Content::Batch(_) => error(ErrorCode::INVALID_REQUEST, "a batch does not hold batches"),
            Content::Wrong(code, message) => error(code, &message),
        };
        // Notifications have no answer.
        answers.extend(serde_json::from_slice(&answer).ok());
    }
    if answers.is_empty() {
        return status_of(StatusCode::ACCEPTED);
    }
    json_response(StatusCode::OK, Value::Array(answers).to_string().into())
}

async fn one<H: ServerHandler + Clone>(service: &Service<H>, request: Request<Bytes>) -> Response<Bytes> {
    let (head, body) = service.handle(request.map(Full::new)).await.into_parts();
    let body: Result<_, Infallible> = body.collect().await;
    let body = match body {
        Ok(collected) => collected.to_bytes(),
        Err(never) => match never {},
    };
    Response::from_parts(head, body)
}

fn refused(code: ErrorCode, message: &str) -> Response<Bytes> {
    json_response(StatusCode::BAD_REQUEST, error(code, message))
}

/// An error that answers no particular message.
fn error(code: ErrorCode, message: &str) -> Bytes {
    json!({"jsonrpc": "2.0", "id": Value::Null, "error": {"code": code.0, "message": message}}).to_string().into()
}

fn json_response(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status_of(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}
