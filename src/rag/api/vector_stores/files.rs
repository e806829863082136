//! Files of a vector store. A file is what was uploaded and attached, whose rows may be many documents, or else one document.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::rag::RagError;
use crate::rag::api::files::{FILE_ID, FILENAME};
use crate::rag::api::{ApiRequest, ApiResponse, json_body, of_status, ok, operator, page};
use crate::rag::files::{Files, is_id};
use crate::rag::ingest::NewDocument;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::read::{self, Limits};
use crate::rag::store::{DocumentInfo, Filter};

/// The file that a document with this id and metadata belongs to.
pub fn file_of<'a>(document: &'a str, metadata: &'a BTreeMap<String, String>) -> &'a str {
    metadata.get(FILE_ID).filter(|id| is_id(id)).map_or(document, String::as_str)
}

/// Metadata as a client gave it.
pub fn attributes(metadata: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let own = |name: &str| [FILE_ID, FILENAME].contains(&name) && metadata.get(FILE_ID).is_some_and(|id| is_id(id));
    metadata.iter().filter(|(name, _)| !own(name)).map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Documents by the file they belong to, files in the order of their first document.
pub fn by_file(documents: Vec<DocumentInfo>) -> Vec<(String, Vec<DocumentInfo>)> {
    let mut files: Vec<(String, Vec<DocumentInfo>)> = Vec::new();
    let mut places = HashMap::new();
    for document in documents {
        let id = file_of(&document.id, &document.metadata).to_owned();
        let place = *places.entry(id.clone()).or_insert(files.len());
        if place == files.len() {
            files.push((id, Vec::new()));
        }
        files[place].1.push(document);
    }
    files
}

pub async fn list(base: &KnowledgeBase, filter: &Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let files = by_file(base.table().documents(filter).await?);
    let files = files.iter().map(|(id, documents)| shown(base, id, documents));
    page(request, of_status(request, files.collect())?)
}

pub async fn show(base: &KnowledgeBase, filter: &Filter, id: &str) -> Result<ApiResponse, RagError> {
    ok(shown(base, id, &documents(base, filter, id).await?))
}

fn shown(base: &KnowledgeBase, id: &str, documents: &[DocumentInfo]) -> Value {
    // What all rows of a file have in common.
    let mut common = documents.first().map(|first| attributes(&first.metadata)).unwrap_or_default();
    common
        .retain(|name, value| documents.iter().all(|one| one.metadata.get(*name).is_some_and(|other| other == value)));
    let created_at = documents.iter().map(|document| document.created_at).min().unwrap_or(0) / 1_000;
    json!({
        "id": id, "object": "vector_store.file", "created_at": created_at, "usage_bytes": 0,
        "vector_store_id": base.table().name(), "status": "completed", "last_error": null, "attributes": common,
    })
}

/// The documents of a file: one or more.
async fn documents(base: &KnowledgeBase, filter: &Filter, id: &str) -> Result<Vec<DocumentInfo>, RagError> {
    let mut filter = filter.clone();
    if is_id(id) {
        filter.metadata.insert(FILE_ID.to_owned(), id.to_owned());
    } else {
        filter.documents = vec![id.to_owned()];
    }
    let found = base.table().documents(&filter).await?;
    if found.is_empty() { Err(unknown(base, id)) } else { Ok(found) }
}

/// What the client says beside which file to attach.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    #[serde(default)]
    pub file_id: String,
    #[serde(default)]
    pub attributes: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    pub chunking_strategy: Option<Value>,
}

pub async fn attach(
    base: &KnowledgeBase,
    filter: &Filter,
    uploads: &Files,
    request: &ApiRequest,
) -> Result<ApiResponse, RagError> {
    operator(request)?;
    let asked: Attach = json_body(request)?;
    store(base, filter, uploads, &asked).await?;
    show(base, filter, &asked.file_id).await
}

/// Other attributes for a file that is still in the storage of files.
pub async fn change(
    base: &KnowledgeBase,
    filter: &Filter,
    uploads: &Files,
    request: &ApiRequest,
    id: &str,
) -> Result<ApiResponse, RagError> {
    operator(request)?;
    documents(base, filter, id).await?;
    let asked: Attach = json_body(request)?;
    if !asked.file_id.is_empty() && asked.file_id != id {
        return Err(RagError::Invalid("file_id: is the one in the path".to_owned()));
    }
    store(base, filter, uploads, &Attach { file_id: id.to_owned(), ..asked }).await?;
    show(base, filter, id).await
}

/// Reads an uploaded file into the knowledge base, for the tenant of the filter.
///
/// # Errors
/// There is no such file, it cannot be read, or nothing of it can be stored. Of a table whose rows are partly wrong the others stay.
pub async fn store(base: &KnowledgeBase, filter: &Filter, uploads: &Files, asked: &Attach) -> Result<(), RagError> {
    // Chunks are cut as the knowledge base was told when it was made.
    if asked.chunking_strategy.as_ref().is_some_and(|strategy| strategy["type"] != "auto") {
        return Err(RagError::Invalid(
            "chunking_strategy: can be chosen when a store is made; here only {\"type\": \"auto\"}".to_owned(),
        ));
    }
    let info = uploads.info(&asked.file_id).await?;
    let bytes = uploads.content(&info.id).await?;
    let filename = info.filename.clone();
    let read = move || read::read(&filename, None, &bytes, &Limits::default());
    let documents = tokio::task::spawn_blocking(read).await.map_err(|error| RagError::Failed(error.to_string()))?;
    let documents = documents.map_err(|error| RagError::Unreadable(format!("{}: {error}", info.filename)))?;
    let documents = documents.into_iter().map(|mut document| {
        for (name, value) in asked.attributes.iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            document.metadata.insert(name.clone(), text);
        }
        document.metadata.insert(FILE_ID.to_owned(), info.id.clone());
        document.metadata.insert(FILENAME.to_owned(), info.filename.clone());
        NewDocument::of_source(&info.id, document, filter.tenant.clone())
    });
    let documents: Vec<NewDocument> = documents.collect();
    let n_documents = documents.len();
    let report = base.ingest(documents, &|_| {}).await?;
    match report.errors.first() {
        Some(error) if report.errors.len() == n_documents => {
            Err(RagError::Unreadable(format!("{}: {}", info.filename, error.message)))
        }
        _ => Ok(()),
    }
}

/// Chunks of a file that one answer has.
const MAX_CHUNKS: usize = 1_000;

pub async fn content(base: &KnowledgeBase, filter: &Filter, id: &str) -> Result<ApiResponse, RagError> {
    let documents = documents(base, filter, id).await?.into_iter().map(|document| document.id).collect();
    let filter = Filter { documents, ..filter.clone() };
    let chunks = base.table().chunks(&filter, 0, MAX_CHUNKS).await?;
    let data: Vec<Value> = chunks.iter().map(|chunk| json!({"type": "text", "text": chunk.text})).collect();
    let has_more = data.len() == MAX_CHUNKS;
    ok(json!({"object": "vector_store.file_content.page", "data": data, "has_more": has_more, "next_page": null}))
}

pub async fn remove(base: &KnowledgeBase, request: &ApiRequest, id: &str) -> Result<ApiResponse, RagError> {
    operator(request)?;
    let documents = documents(base, &Filter::everything(), id).await?;
    base.table().remove(&documents.into_iter().map(|document| document.id).collect::<Vec<_>>()).await?;
    ok(json!({"id": id, "object": "vector_store.file.deleted", "deleted": true}))
}

fn unknown(base: &KnowledgeBase, id: &str) -> RagError {
    RagError::Unknown { what: "file", id: id.to_owned(), base: base.table().name().to_owned() }
}
