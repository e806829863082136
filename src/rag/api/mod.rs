//! `/v1/rag`: the JSON interface of knowledge bases, without a server. `admin` and a plugin hand requests in and answers out.
//!
//! | Path below `/v1/rag` | |
//! |---|---|
//! | `GET knowledge-bases` | all that the caller may see |
//! | `PUT`, `GET`, `PATCH`, `DELETE knowledge-bases/{kb}` | make, describe, change who may see it, delete |
//! | `POST knowledge-bases/{kb}/documents` | store documents (JSON) or one file (any other content type) |
//! | `GET knowledge-bases/{kb}/documents` | list |
//! | `GET`, `DELETE knowledge-bases/{kb}/documents/{id}` | one document |
//! | `GET knowledge-bases/{kb}/chunks` | list, `?document=`, `limit`, `offset` |
//! | `DELETE knowledge-bases/{kb}/chunks/{id}` | one chunk |
//! | `POST knowledge-bases/{kb}/search` | ranked passages |
//! | `POST knowledge-bases/{kb}/ask` | an answer with its sources, or the refusal; as events with `"stream": true` |
//! | `GET openapi.json` | the description of all this |

mod ask;
mod documents;
pub mod files;
mod page;
mod search;
#[cfg(test)]
mod tests;
pub mod vector_stores;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::RagError;
use super::knowledge_base::{Caller, KnowledgeBase, NewBase, Rag};
use super::store::Filter;
use page::{of_status, page};

pub use ask::{ask_as_events, shown_answer, wants_stream};
pub use search::steps;

/// A request as it came in, whoever's server took it.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    pub method: String,
    /// Below `/v1/rag/`, still percent-encoded.
    pub path: String,
    pub query: Option<String>,
    pub content_type: Option<String>,
    pub body: Bytes,
    pub caller: Caller,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiResponse {
    pub status: u16,
    pub body: Value,
}

/// The description of the interface.
const OPENAPI: &str = include_str!("openapi.json");

/// Answers one request.
pub async fn handle(rag: &Rag, request: ApiRequest) -> ApiResponse {
    match answer(rag, &request).await {
        Ok(response) => response,
        Err(error) => shown_error(&error),
    }
}

/// An error as its answer.
pub fn shown_error(error: &RagError) -> ApiResponse {
    let (status, code) = status(error);
    ApiResponse { status, body: json!({"error": {"message": error.to_string(), "code": code}}) }
}

/// An error as OpenAI's clients read it.
fn openai_error(error: &RagError) -> ApiResponse {
    let (status, code) = status(error);
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    let error = json!({"message": error.to_string(), "type": kind, "param": null, "code": code});
    ApiResponse { status, body: json!({"error": error}) }
}

async fn answer(rag: &Rag, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let path = parts(request)?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["openapi.json"]) => ok(serde_json::from_str::<Value>(OPENAPI).unwrap_or_default()),
        ("GET", ["knowledge-bases"]) => list(rag, request).await,
        ("PUT", ["knowledge-bases", name]) => {
            operator(request)?;
            let base = rag.create(name, &json_body_or_default::<NewBase>(request)?).await?;
            Ok(ApiResponse { status: 201, body: described(&base, &Filter::default()).await? })
        }
        ("PATCH", ["knowledge-bases", name]) => {
            operator(request)?;
            let base = rag.base(name).await?;
            base.change_access(json_body(request)?).await?;
            ok(described(&base, &Filter::everything()).await?)
        }
        ("DELETE", ["knowledge-bases", name]) => {
            operator(request)?;
            rag.remove(name).await?;
            ok(json!({"deleted": name}))
        }
        (method, ["knowledge-bases", name, rest @ ..]) => {
            let (base, filter) = admitted(rag, request, name).await?;
            match (method, rest) {
                ("GET", []) => ok(described(&base, &filter).await?),
                ("POST", ["documents"]) => documents::store(&base, request).await,
                ("GET", ["documents"]) => documents::list(&base, &filter).await,
                ("GET", ["documents", id]) => documents::show(&base, &filter, id).await,
                ("DELETE", ["documents", id]) => documents::remove(&base, request, id).await,
                ("GET", ["chunks"]) => documents::chunks(&base, filter, request).await,
                ("DELETE", ["chunks", id]) => documents::remove_chunk(&base, request, id).await,
                ("POST", ["search"]) => search::search(&base, filter, request).await,
                ("POST", ["ask"]) => ask::ask(&base, filter, request).await,
                _ => Err(no_such_path(request)),
            }
        }
        _ => Err(no_such_path(request)),
    }
}

async fn list(rag: &Rag, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let mut data = Vec::new();
    for name in rag.names().await? {
        match admitted(rag, request, &name).await {
            Ok((base, filter)) => data.push(match described(&base, &filter).await {
                Ok(described) => described,
                Err(error) => json!({"name": name, "error": error.to_string()}),
            }),
            Err(RagError::UnknownBase { .. }) => {}
            Err(error) => data.push(json!({"name": name, "error": error.to_string()})),
        }
    }
    ok(json!({"data": data}))
}

/// The knowledge base, and the rows of it that this caller may see.
async fn admitted(rag: &Rag, request: &ApiRequest, name: &str) -> Result<(Arc<KnowledgeBase>, Filter), RagError> {
    let base = rag.admitted(name, &request.caller).await?;
    let tenant = match &request.caller {
        Caller::Operator => request.query_field("tenant"),
        Caller::Consumer { tenant, .. } => tenant.clone(),
    };
    Ok((base, Filter { tenant, ..Filter::default() }))
}

async fn described(base: &KnowledgeBase, filter: &Filter) -> Result<Value, RagError> {
    let (documents, chunks) = base.table().size(filter).await?;
    let layout = base.table().layout();
    let settings = base.settings().await?;
    let access = &settings.access;
    Ok(json!({
        "name": base.table().name(), "documents": documents, "chunks": chunks, "model": layout.model,
        "dimensions": layout.dimensions, "chunk_size": layout.chunk_size, "chunk_overlap": layout.chunk_overlap,
        "consumers": access.consumers, "tenant": access.tenant, "title": settings.title, "version": base.table().version().await?,
        "calibrations": settings.calibrations,
    }))
}

/// Only the operator makes, fills and deletes.
fn operator(request: &ApiRequest) -> Result<(), RagError> {
    match request.caller {
        Caller::Operator => Ok(()),
        Caller::Consumer { .. } => Err(RagError::Forbidden("only the operator may change knowledge bases".to_owned())),
    }
}

fn json_body<T: DeserializeOwned>(request: &ApiRequest) -> Result<T, RagError> {
    serde_json::from_slice(&request.body).map_err(|error| RagError::Invalid(format!("the body: {error}")))
}

fn json_body_or_default<T: DeserializeOwned + Default>(request: &ApiRequest) -> Result<T, RagError> {
    if request.body.is_empty() { Ok(T::default()) } else { json_body(request) }
}

fn ok(body: impl Serialize) -> Result<ApiResponse, RagError> {
    let body = serde_json::to_value(body).map_err(|error| RagError::Failed(error.to_string()))?;
    Ok(ApiResponse { status: 200, body })
}

fn no_such_path(request: &ApiRequest) -> RagError {
    let (method, path) = (&request.method, &request.path);
    RagError::NoPath(format!("there is no {method} /v1/rag/{path}; GET /v1/rag/openapi.json describes what there is"))
}

/// The path's parts, decoded.
fn parts(request: &ApiRequest) -> Result<Vec<String>, RagError> {
    request.path.split('/').filter(|part| !part.is_empty()).map(decoded).collect()
}

fn decoded(part: &str) -> Result<String, RagError> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8();
    text.map(Into::into).map_err(|_| RagError::Invalid(format!("\"{part}\" in the path is not UTF-8")))
}

fn status(error: &RagError) -> (u16, &'static str) {
    match error {
        RagError::Name(_) | RagError::Invalid(_) | RagError::Dimensions { .. } => (400, "invalid_request"),
        RagError::Forbidden(_) => (403, "forbidden"),
        RagError::UnknownBase { .. } | RagError::Unknown { .. } | RagError::UnknownFile(_) | RagError::NoPath(_) => {
            (404, "not_found")
        }
        RagError::Exists(_) | RagError::Model { .. } | RagError::Busy(_) => (409, "conflict"),
        RagError::Unreadable(_) => (422, "unreadable"),
        RagError::Unavailable(_) => (503, "unavailable"),
        RagError::Cut(_) => (502, "cut"),
        RagError::Store { .. } | RagError::Failed(_) => (500, "failed"),
    }
}

impl ApiRequest {
    fn query_field(&self, name: &str) -> Option<String> {
        let fields: BTreeMap<_, _> = form_urlencoded::parse(self.query.as_deref()?.as_bytes()).into_owned().collect();
        fields.get(name).cloned()
    }

    fn query_number(&self, name: &str, default: usize) -> Result<usize, RagError> {
        let Some(text) = self.query_field(name) else { return Ok(default) };
        text.parse().map_err(|_| RagError::Invalid(format!("{name}={text}: it is a number from 0")))
    }
}
