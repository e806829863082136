//! Documents and chunks of one knowledge base.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiRequest, ApiResponse, json_body, ok, operator};
use crate::rag::ingest::{IngestReport, NewDocument};
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::read::{self, Limits};
use crate::rag::store::{Filter, Passage};
use crate::rag::{Document, RagError};

/// Chunks on one page of a list, unless asked for fewer or more, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    documents: Vec<UploadedDocument>,
}

/// A document as plain text with its fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UploadedDocument {
    id: String,
    #[serde(default)]
    title: String,
    text: String,
    /// Strings stay; other values are kept as their JSON text.
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
    #[serde(default)]
    tenant: Option<String>,
}

/// JSON with documents, or the bytes of one file (`?name=report.pdf`, `&id=`, `&tenant=`).
pub async fn store(base: &KnowledgeBase, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    operator(request)?;
    let is_json = request
        .content_type
        .as_deref()
        .is_some_and(|media_type| media_type.to_ascii_lowercase().starts_with("application/json"));
    let documents = if is_json && request.query_field("name").is_none() {
        let upload: Upload = json_body(request)?;
        let tenant = request.query_field("tenant").filter(|tenant| !tenant.is_empty());
        upload.documents.into_iter().map(|document| document.read(tenant.as_deref())).collect()
    } else {
        file(request).await?
    };
    let report: IngestReport = base.ingest(documents, &|_| {}).await?;
    ok(report)
}

async fn file(request: &ApiRequest) -> Result<Vec<NewDocument>, RagError> {
    let name = request.query_field("name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| {
        RagError::Invalid("a file needs ?name=, whose ending tells what kind it is; documents as JSON need the content type application/json".to_owned())
    })?;
    let id = request.query_field("id").unwrap_or_else(|| name.clone());
    let tenant = request.query_field("tenant").filter(|tenant| !tenant.is_empty());
    let (media_type, body) = (request.content_type.clone(), request.body.clone());
    let named = name.clone();
    let read = move || read::read(&named, media_type.as_deref(), &body, &Limits::default());
    // A long file would hold up everything else that this thread does.
    let documents = tokio::task::spawn_blocking(read).await.map_err(|error| RagError::Failed(error.to_string()))?;
    let documents = documents.map_err(|error| RagError::Unreadable(format!("{name}: {error}")))?;
    Ok(documents.into_iter().map(|document| NewDocument::of_source(&id, document, tenant.clone())).collect())
}

impl UploadedDocument {
    /// `tenant`: of those that name none themselves.
    fn read(self, tenant: Option<&str>) -> NewDocument {
        let text_of = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let metadata = self.metadata.into_iter().map(|(name, value)| (name, text_of(value))).collect();
        let document =
            Document { title: self.title, metadata, blocks: read::paragraphs(&self.text), ..Document::default() };
        let tenant = self.tenant.filter(|tenant| !tenant.is_empty()).or_else(|| tenant.map(str::to_owned));
        NewDocument { id: self.id, document, tenant, source: None }
    }
}

pub async fn list(base: &KnowledgeBase, filter: &Filter) -> Result<ApiResponse, RagError> {
    ok(json!({"data": base.table().documents(filter).await?}))
}

pub async fn show(base: &KnowledgeBase, filter: &Filter, id: &str) -> Result<ApiResponse, RagError> {
    let filter = Filter { documents: vec![id.to_owned()], ..filter.clone() };
    match base.table().documents(&filter).await?.pop() {
        Some(document) => ok(document),
        None => Err(unknown(base, "document", id)),
    }
}

pub async fn remove(base: &KnowledgeBase, request: &ApiRequest, id: &str) -> Result<ApiResponse, RagError> {
    operator(request)?;
    if !base.remove(&[id.to_owned()], &of_named_tenant(request)).await?.missing.is_empty() {
        return Err(unknown(base, "document", id));
    }
    ok(json!({"deleted": id}))
}

pub async fn chunks(base: &KnowledgeBase, filter: Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let (offset, limit) = (request.query_number("offset", 0)?, request.query_number("limit", PAGE)?.min(MAX_PAGE));
    let filter = Filter { documents: request.query_field("document").into_iter().collect(), ..filter };
    let chunks = base.table().chunks(&filter, offset, limit).await?;
    ok(json!({"data": chunks.iter().map(shown).collect::<Vec<_>>()}))
}

pub async fn remove_chunk(base: &KnowledgeBase, request: &ApiRequest, id: &str) -> Result<ApiResponse, RagError> {
    operator(request)?;
    if !base.table().remove_chunk(id, &of_named_tenant(request)).await? {
        return Err(unknown(base, "chunk", id));
    }
    ok(json!({"deleted": id}))
}

/// What the operator may delete: of the tenant that is named and of nobody, or of all where none is.
fn of_named_tenant(request: &ApiRequest) -> Filter {
    match request.query_field("tenant") {
        Some(tenant) => Filter { tenant: Some(tenant), ..Filter::default() },
        None => Filter::everything(),
    }
}

/// A passage as lists and search results show it.
pub fn shown(passage: &Passage) -> Value {
    json!({
        "id": passage.id, "document": passage.document, "index": passage.index, "title": passage.title,
        "header": passage.header, "text": passage.text, "metadata": passage.metadata, "created_at": passage.created_at,
    })
}

fn unknown(base: &KnowledgeBase, what: &'static str, id: &str) -> RagError {
    RagError::Unknown { what, id: id.to_owned(), base: base.table().name().to_owned() }
}
