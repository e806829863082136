//! Several files attached with one request. The answer comes when all are read, so a batch is never in progress.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::files::{Attach, store};
use crate::rag::RagError;
use crate::rag::api::{ApiRequest, ApiResponse, json_body, of_status, ok, operator, page, status};
use crate::rag::files::{Attached, FileBatch, Files};
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::store::Filter;

/// Ids with what holds for all of them, or files each with its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBatch {
    #[serde(default)]
    file_ids: Vec<String>,
    #[serde(default)]
    files: Vec<Attach>,
    #[serde(default)]
    attributes: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    chunking_strategy: Option<Value>,
}

pub async fn create(
    base: &KnowledgeBase,
    filter: &Filter,
    uploads: &Files,
    request: &ApiRequest,
) -> Result<ApiResponse, RagError> {
    operator(request)?;
    let NewBatch { file_ids, mut files, attributes, chunking_strategy } = json_body(request)?;
    if file_ids.is_empty() == files.is_empty() {
        return Err(RagError::Invalid("file_ids or files, one of them, names what to attach".to_owned()));
    }
    files.extend(file_ids.into_iter().map(|file_id| Attach {
        file_id,
        attributes: attributes.clone(),
        chunking_strategy: chunking_strategy.clone(),
    }));
    let attached = attach(base, filter, uploads, &files).await?;
    ok(shown(&uploads.remember(base.table().name(), attached)))
}

/// Attaches each file; one that cannot be read stops no other.
///
/// # Errors
/// The place of the knowledge base fails.
pub async fn attach(
    base: &KnowledgeBase,
    filter: &Filter,
    uploads: &Files,
    files: &[Attach],
) -> Result<Vec<Attached>, RagError> {
    let mut attached = Vec::with_capacity(files.len());
    for file in files {
        let error = match store(base, filter, uploads, file).await {
            Err(error) if status(&error).0 >= 500 => return Err(error),
            stored => stored.err().map(|error| error.to_string()),
        };
        attached.push(Attached { file: file.file_id.clone(), error });
    }
    Ok(attached)
}

pub fn show(base: &KnowledgeBase, uploads: &Files, id: &str) -> Result<ApiResponse, RagError> {
    ok(shown(&batch(base, uploads, id)?))
}

fn batch(base: &KnowledgeBase, uploads: &Files, id: &str) -> Result<FileBatch, RagError> {
    let base = base.table().name();
    let found = uploads.batch(base, id);
    found.ok_or_else(|| RagError::Unknown { what: "batch of files", id: id.to_owned(), base: base.to_owned() })
}

fn shown(batch: &FileBatch) -> Value {
    let failed = batch.files.iter().filter(|file| file.error.is_some()).count();
    let total = batch.files.len();
    json!({
        "id": batch.id, "object": "vector_store.files_batch", "created_at": batch.created_at, "vector_store_id": batch.base,
        "status": if failed == total { "failed" } else { "completed" },
        "file_counts": {"in_progress": 0, "completed": total - failed, "failed": failed, "cancelled": 0, "total": total},
    })
}

/// The files of a batch, with what was wrong with those that could not be read.
pub fn files(base: &KnowledgeBase, uploads: &Files, request: &ApiRequest, id: &str) -> Result<ApiResponse, RagError> {
    let batch = batch(base, uploads, id)?;
    let files = batch.files.iter().map(|file| {
        let error = file.error.as_ref().map(|message| json!({"code": "invalid_file", "message": message}));
        json!({
            "id": file.file, "object": "vector_store.file", "created_at": batch.created_at, "usage_bytes": 0,
            "vector_store_id": batch.base, "status": if error.is_some() { "failed" } else { "completed" }, "last_error": error,
        })
    });
    page(request, of_status(request, files.collect())?)
}
