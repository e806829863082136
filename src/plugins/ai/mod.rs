//! Plugins for model calls. They share the reading of a request's API and body; each stays a thin adapter over `llm` and
//! `routing`.

mod model_key;
pub mod model_mapper;
pub mod model_router;
pub mod proxy;
pub mod rag;
pub mod rag_models;
pub mod semantic_router;
pub mod statistics;

use std::sync::Arc;

use serde_json::Value;

use super::config::Fields;
use super::{Reply, Request};
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::request::ChatRequest;

/// Path suffixes on which Higress' model plugins look into the body, unless configured otherwise.
pub const MODEL_PATHS: &[&str] = &[
    "/completions",
    "/embeddings",
    "/images/generations",
    "/audio/speech",
    "/fine_tuning/jobs",
    "/moderations",
    "/image-synthesis",
    "/video-synthesis",
    "/rerank",
    "/messages",
    "/responses",
];

/// Reads `enableOnPathSuffix`.
fn path_suffixes(fields: &mut Fields<'_>) -> Vec<String> {
    fields.strings("enableOnPathSuffix").unwrap_or_else(|| MODEL_PATHS.iter().map(|path| (*path).to_owned()).collect())
}

fn has_suffix(request: &Request<'_>, suffixes: &[String]) -> bool {
    suffixes.iter().any(|suffix| request.path().ends_with(suffix.as_str()))
}

fn is_json(request: &Request<'_>) -> bool {
    request.content_type().is_some_and(|kind| kind.contains("application/json"))
}

/// The body as a chat request, `None` before it was read. Plugins that look at the same bytes share one reading of them.
fn chat_request(request: &mut Request<'_>) -> Option<Result<Arc<ChatRequest>, ApiError>> {
    let body = request.state.body.as_ref()?;
    // What a reading holds on to cannot be reused for other bytes, so equal places are equal contents.
    let is_of = |chat: &Arc<ChatRequest>| chat.body().as_ptr_range() == body.as_ptr_range();
    if let Some(known) = request.state.shared.get::<Arc<ChatRequest>>().filter(|chat| is_of(chat)) {
        return Some(Ok(known.clone()));
    }
    let read = ChatRequest::parse(body).map(Arc::new).map_err(|error| explained(error, request));
    if let Ok(chat) = &read {
        request.state.shared.insert(chat.clone());
    }
    Some(read)
}

/// A compressed body is no JSON, but that is not what is wrong with it.
fn explained(error: ApiError, request: &Request<'_>) -> ApiError {
    match request.header("content-encoding") {
        None | Some("" | "identity") => error,
        Some(coding) => ApiError::new(
            ErrorKind::UnsupportedEncoding,
            format!(
                "The request body is encoded as `{coding}`. Send it as plain JSON, without a Content-Encoding header."
            ),
        ),
    }
}

/// An error in OpenAI's shape.
fn error_reply(error: &ApiError, details: &str) -> Reply {
    Reply::new(error.status, details).json(error.to_json())
}

/// Reads `modelMapping`, an object of strings, in written order.
fn mapping(fields: &mut Fields<'_>) -> Vec<(String, String)> {
    let Some(Value::Object(object)) = fields.object("modelMapping") else { return Vec::new() };
    let mut entries = Vec::with_capacity(object.len());
    for (key, value) in object {
        match value.as_str() {
            Some(target) => entries.push((key.clone(), target.to_owned())),
            None => fields.problem(&format!("modelMapping.{key}"), "must be a string, the provider's model name"),
        }
    }
    entries
}
