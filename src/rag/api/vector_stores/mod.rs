//! `/v1/vector_stores`: knowledge bases in the shape of OpenAI's vector stores, as far as the two mean the same.
//!
//! A store is a knowledge base and its id the base's name; a file is what was uploaded to `/v1/files` and attached, or any other document.
//! What has no counterpart is refused with what to do instead.

mod batches;
mod files;
mod search;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::files::Attach;
use super::{ApiRequest, ApiResponse, admitted, json_body_or_default, ok, openai_error, operator, page, parts};
use crate::rag::RagError;
use crate::rag::files::Files;
use crate::rag::knowledge_base::{KnowledgeBase, NewBase, Rag};
use crate::rag::store::{Filter, check_name};

/// Answers one request; its path is below `/v1/vector_stores`. Errors have OpenAI's shape.
pub async fn handle(rag: &Rag, uploads: &Files, request: ApiRequest) -> ApiResponse {
    answer(rag, uploads, &request).await.unwrap_or_else(|error| openai_error(&error))
}

async fn answer(rag: &Rag, uploads: &Files, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let path = parts(request)?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", []) => list(rag, request).await,
        ("POST", []) => create(rag, uploads, request).await,
        ("DELETE", [id]) => {
            operator(request)?;
            rag.remove(id).await?;
            ok(json!({"id": id, "object": "vector_store.deleted", "deleted": true}))
        }
        (method, [id, rest @ ..]) => {
            let (base, filter) = admitted(rag, request, id).await?;
            match (method, rest) {
                ("GET", []) => ok(described(&base, &filter).await?),
                ("POST", ["search"]) => search::search(&base, filter, request).await,
                ("GET", ["files"]) => files::list(&base, &filter, request).await,
                ("POST", ["files"]) => files::attach(&base, &filter, uploads, request).await,
                ("POST", ["files", id]) => files::change(&base, &filter, uploads, request, id).await,
                ("GET", ["files", file @ .., "content"]) => files::content(&base, &filter, &file.join("/")).await,
                ("GET", ["files", file @ ..]) => files::show(&base, &filter, &file.join("/")).await,
                ("DELETE", ["files", file @ ..]) => files::remove(&base, request, &file.join("/")).await,
                ("POST", ["file_batches"]) => batches::create(&base, &filter, uploads, request).await,
                ("GET", ["file_batches", batch]) | ("POST", ["file_batches", batch, "cancel"]) => {
                    batches::show(&base, uploads, batch)
                }
                ("GET", ["file_batches", batch, "files"]) => batches::files(&base, uploads, request, batch),
                _ => Err(no_such_path(request)),
            }
        }
        _ => Err(no_such_path(request)),
    }
}

fn no_such_path(request: &ApiRequest) -> RagError {
    RagError::NoPath(format!("there is no {} /v1/vector_stores/{}", request.method, request.path))
}

async fn list(rag: &Rag, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let mut data = Vec::new();
    for name in rag.names_for(&request.caller).await? {
        let shown = async {
            let (base, filter) = admitted(rag, request, &name).await?;
            described(&base, &filter).await
        };
        match shown.await {
            Ok(store) => data.push(store),
            // The others can be used all the same.
            Err(error) => tracing::warn!(knowledge_base = name, %error, "A knowledge base cannot be read"),
        }
    }
    page(request, data)
}

/// What of a new store has a meaning here. Other members are an error, and no silent loss.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewStore {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    file_ids: Vec<String>,
    #[serde(default)]
    chunking_strategy: Option<Chunking>,
}

/// How OpenAI has files cut.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Chunking {
    Auto {},
    Static { r#static: StaticChunks },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StaticChunks {
    max_chunk_size_tokens: usize,
    chunk_overlap_tokens: usize,
}

/// Characters of English text that a token has, roughly: chunks are measured in characters here.
const CHARACTERS_PER_TOKEN: usize = 4;

async fn create(rag: &Rag, uploads: &Files, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    operator(request)?;
    let NewStore { name, file_ids, chunking_strategy } = json_body_or_default(request)?;
    let mut new = NewBase::default();
    let own_id = || format!("vs_{}", Uuid::now_v7().simple());
    let name = match name {
        Some(name) if check_name(&name).is_ok() => name,
        // What no folder can be called is its title.
        Some(title) => {
            new.title = Some(title).filter(|title| !title.trim().is_empty());
            own_id()
        }
        None => own_id(),
    };
    if let Some(Chunking::Static { r#static: chunks }) = chunking_strategy {
        new.chunk_size = Some(chunks.max_chunk_size_tokens.saturating_mul(CHARACTERS_PER_TOKEN));
        new.chunk_overlap = Some(chunks.chunk_overlap_tokens.saturating_mul(CHARACTERS_PER_TOKEN));
    }
    for id in &file_ids {
        uploads.info(id).await?;
    }
    let base = rag.create(&name, &new).await?;
    let files: Vec<Attach> = file_ids.into_iter().map(|file_id| Attach { file_id, ..Attach::default() }).collect();
    let attached = batches::attach(&base, &tenant_of(request), uploads, &files).await?;
    let failed = attached.iter().filter(|file| file.error.is_some()).count();
    let mut store = described(&base, &Filter::default()).await?;
    let counts = &mut store["file_counts"];
    counts["failed"] = failed.into();
    counts["total"] = files.len().into();
    ok(store)
}

/// Whose the files are that are attached as a store is made.
fn tenant_of(request: &ApiRequest) -> Filter {
    Filter { tenant: request.query_field("tenant").filter(|tenant| !tenant.is_empty()), ..Filter::default() }
}

async fn described(base: &Arc<KnowledgeBase>, filter: &Filter) -> Result<Value, RagError> {
    let documents = base.table().documents(filter).await?;
    let seconds = |at: Option<i64>| at.unwrap_or(0) / 1_000;
    let times = || documents.iter().map(|document| document.created_at);
    let settings = base.settings().await?;
    let made = seconds(settings.created_at.or_else(|| times().min()));
    let last = seconds(times().max()).max(made);
    let total = files::by_file(documents).len();
    Ok(json!({
        "id": base.table().name(), "object": "vector_store", "name": settings.title.as_deref().unwrap_or(base.table().name()), "created_at": made,
        "last_active_at": last, "status": "completed", "usage_bytes": 0, "metadata": {},
        "file_counts": {"in_progress": 0, "completed": total, "failed": 0, "cancelled": 0, "total": total},
    }))
}
