//! HTTP face of a mock service: the OpenAI chat API, and the challenge's `/questions` and `/v1/evaluate`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::paced::PacedBody;
use super::service::Service;
use super::sse;

const MAX_BODY_BYTES: usize = 64 << 20;

pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/v1/evaluate", post(evaluate))
        .route("/questions", get(questions))
        .route("/stats", get(stats))
        .route("/stats/reset", post(reset_stats))
        .route("/healthz", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(service)
}

/// Identity of one completion, the same in its JSON and in each event of its stream.
pub struct Envelope {
    pub id: String,
    pub created: u64,
    pub model: String,
}

#[derive(Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Value,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct EvaluateRequest {
    question: String,
    answer: String,
}

async fn chat(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    let request: ChatRequest = match parse(&body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let Some(prompt) = last_user_text(&request.messages) else {
        return error(StatusCode::BAD_REQUEST, "messages must hold a user message with text.", Some("messages"), None);
    };
    let Some(model) = service.world.model(&request.model) else {
        let message = format!("The model `{}` does not exist or you do not have access to it.", request.model);
        return error(StatusCode::NOT_FOUND, &message, None, Some("model_not_found"));
    };
    let completion = service.complete(model, &prompt);
    let envelope = Envelope::new(&request.model, &completion.text);
    if request.stream == Some(true) {
        let include_usage = request.stream_options.is_some_and(|options| options.include_usage);
        let events = sse::events(&envelope, &completion, include_usage);
        let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
        return (headers, Body::new(PacedBody::new(events))).into_response();
    }
    tokio::time::sleep(completion.latency).await;
    let body = json!({
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": completion.text, "refusal": null, "annotations": []},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": sse::usage(&completion),
        "service_tier": "default",
        "system_fingerprint": null,
    });
    axum::Json(body).into_response()
}

async fn models(State(service): State<Arc<Service>>) -> axum::Json<Value> {
    let model = |name: &str| json!({"id": name, "object": "model", "created": 1_735_689_600, "owned_by": "mock"});
    let data: Vec<Value> = service.world.models.iter().map(|m| model(&m.name)).collect();
    axum::Json(json!({"object": "list", "data": data}))
}

async fn evaluate(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    match parse::<EvaluateRequest>(&body) {
        Ok(request) => {
            axum::Json(json!({"score": service.evaluate(&request.question, &request.answer)})).into_response()
        }
        Err(response) => *response,
    }
}

async fn questions(State(service): State<Arc<Service>>) -> axum::Json<Value> {
    let questions: Vec<Value> = service.questions.iter().map(|q| json!({"id": q.id, "question": q.question})).collect();
    axum::Json(json!({"questions": questions}))
}

async fn stats(State(service): State<Arc<Service>>) -> Response {
    axum::Json(service.stats()).into_response()
}

async fn reset_stats(State(service): State<Arc<Service>>) -> StatusCode {
    service.reset_stats();
    StatusCode::NO_CONTENT
}

impl Envelope {
    fn new(model: &str, text: &str) -> Envelope {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let digest = Sha256::digest(text);
        let id = digest[..12].iter().fold("mock-".to_string(), |id, byte| id + &format!("{byte:02x}"));
        Envelope { id, created, model: model.to_string() }
    }
}

/// Text of the last user message; content may be a string or a list of parts.
fn last_user_text(messages: &[Message]) -> Option<String> {
    let message = messages.iter().rev().find(|message| message.role == "user")?;
    let text = match &message.content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => return None,
    };
    (!text.trim().is_empty()).then_some(text)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Response>> {
    serde_json::from_slice(body).map_err(|e| {
        let message = format!("We could not parse the JSON body of your request: {e}.");
        Box::new(error(StatusCode::BAD_REQUEST, &message, None, None))
    })
}

/// An error object in OpenAI's shape.
fn error(status: StatusCode, message: &str, param: Option<&str>, code: Option<&str>) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": param, "code": code});
    (status, axum::Json(json!({"error": error}))).into_response()
}

#[cfg(test)]
mod tests;
