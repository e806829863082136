//! `/v1/vector_stores`: knowledge bases in the shape of OpenAI's vector stores, as far as the two mean the same.
//!
//! A store is a knowledge base and its id the base's name; a file is a document and its id the document's. What has no counterpart is
//! refused with what to do instead: files are stored with `POST /v1/rag/knowledge-bases/{kb}/documents`, for there is no storage of
//! files from which they could be attached.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiRequest, ApiResponse, admitted, json_body, json_body_or_default, ok, operator, parts, status};
use crate::rag::RagError;
use crate::rag::ask::{Ask, AskSteps};
use crate::rag::knowledge_base::{KnowledgeBase, NewBase, Rag};
use crate::rag::retrieve::{Candidate, Search};
use crate::rag::store::{DocumentInfo, Filter};

/// Answers one request; its path is below `/v1/vector_stores`. Errors have OpenAI's shape.
pub async fn handle(rag: &Rag, request: ApiRequest) -> ApiResponse {
    answer(rag, &request).await.unwrap_or_else(|error| {
        let (status, code) = status(&error);
        let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
        let error = json!({"message": error.to_string(), "type": kind, "param": null, "code": code});
        ApiResponse { status, body: json!({"error": error}) }
    })
}

async fn answer(rag: &Rag, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let path = parts(request)?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", []) => list(rag, request).await,
        ("POST", []) => create(rag, request).await,
        ("DELETE", [id]) => {
            operator(request)?;
            rag.remove(id).await?;
            ok(json!({"id": id, "object": "vector_store.deleted", "deleted": true}))
        }
        (method, [id, rest @ ..]) => {
            let (base, filter) = admitted(rag, request, id).await?;
            match (method, rest) {
                ("GET", []) => ok(described(&base, &filter).await?),
                ("POST", ["search"]) => search(&base, filter, request).await,
                ("GET", ["files"]) => files(&base, &filter).await,
                ("POST", ["files" | "file_batches", ..]) => Err(RagError::Invalid(format!(
                    "there is no storage of files to attach from: store the document with POST /v1/rag/knowledge-bases/{id}/documents"
                ))),
                ("GET", ["files", file @ .., "content"]) => content(&base, filter, &file.join("/")).await,
                ("GET", ["files", file @ ..]) => ok(shown(&base, &document(&base, &filter, &file.join("/")).await?)),
                ("DELETE", ["files", file @ ..]) => remove(&base, request, &file.join("/")).await,
                _ => Err(no_such_path(request)),
            }
        }
        _ => Err(no_such_path(request)),
    }
}

fn no_such_path(request: &ApiRequest) -> RagError {
    RagError::NoPath(format!("there is no {} /v1/vector_stores/{}", request.method, request.path))
}

fn listed(data: &[Value]) -> Result<ApiResponse, RagError> {
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    ok(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false}))
}

async fn list(rag: &Rag, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let mut data = Vec::new();
    for name in rag.names_for(&request.caller).await? {
        let (base, filter) = admitted(rag, request, &name).await?;
        data.push(described(&base, &filter).await?);
    }
    listed(&data)
}

/// What of a new store has a meaning here. Other members are an error, and no silent loss.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewStore {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    file_ids: Vec<String>,
}

async fn create(rag: &Rag, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    operator(request)?;
    let NewStore { name, file_ids } = json_body_or_default(request)?;
    if !file_ids.is_empty() {
        return Err(RagError::Invalid("file_ids: there is no storage of files to attach from".to_owned()));
    }
    let name = name.ok_or_else(|| RagError::Invalid("name: is required, it becomes the id".to_owned()))?;
    let base = rag.create(&name, &NewBase::default()).await?;
    ok(described(&base, &Filter::default()).await?)
}

async fn described(base: &Arc<KnowledgeBase>, filter: &Filter) -> Result<Value, RagError> {
    let documents = base.table().documents(filter).await?;
    let seconds = |at: Option<i64>| at.unwrap_or(0) / 1_000;
    let times = || documents.iter().map(|document| document.created_at);
    let total = documents.len();
    Ok(json!({
        "id": base.table().name(), "object": "vector_store", "name": base.table().name(), "created_at": seconds(times().min()),
        "last_active_at": seconds(times().max()), "status": "completed", "usage_bytes": 0, "metadata": {},
        "file_counts": {"in_progress": 0, "completed": total, "failed": 0, "cancelled": 0, "total": total},
    }))
}

async fn files(base: &KnowledgeBase, filter: &Filter) -> Result<ApiResponse, RagError> {
    let data: Vec<Value> = base.table().documents(filter).await?.iter().map(|document| shown(base, document)).collect();
    listed(&data)
}

fn shown(base: &KnowledgeBase, document: &DocumentInfo) -> Value {
    json!({
        "id": document.id, "object": "vector_store.file", "created_at": document.created_at / 1_000, "usage_bytes": 0,
        "vector_store_id": base.table().name(), "status": "completed", "last_error": null, "attributes": document.metadata,
    })
}

async fn document(base: &KnowledgeBase, filter: &Filter, id: &str) -> Result<DocumentInfo, RagError> {
    let filter = Filter { documents: vec![id.to_owned()], ..filter.clone() };
    let found = base.table().documents(&filter).await?.into_iter().next();
    found.ok_or_else(|| unknown(base, id))
}

async fn content(base: &KnowledgeBase, filter: Filter, id: &str) -> Result<ApiResponse, RagError> {
    document(base, &filter, id).await?;
    let filter = Filter { documents: vec![id.to_owned()], ..filter };
    let chunks = base.table().chunks(&filter, 0, MAX_CHUNKS).await?;
    let data: Vec<Value> = chunks.iter().map(|chunk| json!({"type": "text", "text": chunk.text})).collect();
    let has_more = data.len() == MAX_CHUNKS;
    ok(json!({"object": "vector_store.file_content.page", "data": data, "has_more": has_more, "next_page": null}))
}

/// Chunks of a document that one answer has.
const MAX_CHUNKS: usize = 1_000;

async fn remove(base: &KnowledgeBase, request: &ApiRequest, id: &str) -> Result<ApiResponse, RagError> {
    operator(request)?;
    document(base, &Filter::everything(), id).await?;
    base.table().remove(&[id.to_owned()]).await?;
    ok(json!({"id": id, "object": "vector_store.file.deleted", "deleted": true}))
}

fn unknown(base: &KnowledgeBase, id: &str) -> RagError {
    RagError::Unknown { what: "file", id: id.to_owned(), base: base.table().name().to_owned() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    query: OneOrMore,
    #[serde(default = "default_results")]
    max_num_results: usize,
    #[serde(default)]
    filters: Option<Value>,
    #[serde(default)]
    ranking_options: Option<Ranking>,
    #[serde(default)]
    rewrite_query: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Ranking {
    /// On the scale of this gateway's scores.
    #[serde(default)]
    score_threshold: Option<f32>,
}

fn default_results() -> usize {
    10
}

/// As OpenAI bounds it.
const MAX_RESULTS: usize = 50;

async fn search(base: &KnowledgeBase, filter: Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let body: SearchBody = json_body(request)?;
    if !(1..=MAX_RESULTS).contains(&body.max_num_results) {
        return Err(RagError::Invalid(format!("max_num_results {}: it is 1 to {MAX_RESULTS}", body.max_num_results)));
    }
    let queries = match body.query {
        OneOrMore::One(query) => vec![query],
        OneOrMore::More(queries) => queries,
    };
    let mut metadata = BTreeMap::new();
    if let Some(filters) = &body.filters {
        equalities(filters, &mut metadata)?;
    }
    let search = Search {
        query: queries.join(" "),
        top_k: body.max_num_results,
        threshold: body.ranking_options.and_then(|options| options.score_threshold),
        filter: Filter { metadata, ..filter },
        ..Search::default()
    };
    // A rewritten query is what OpenAI calls a question made into other words.
    let steps = AskSteps { multi_query: usize::from(body.rewrite_query && base.has_model()), ..AskSteps::default() };
    let (_, found) = base.find(&Ask { steps, ..Ask::new(search) }).await?;
    let data: Vec<Value> = found.candidates.iter().map(hit).collect();
    ok(json!({
        "object": "vector_store.search_results.page", "search_query": queries, "data": data, "has_more": false, "next_page": null,
    }))
}

fn hit(candidate: &Candidate) -> Value {
    let passage = &candidate.passage;
    json!({
        "file_id": passage.document, "filename": passage.document, "score": candidate.score, "attributes": passage.metadata,
        "content": [{"type": "text", "text": passage.text}],
    })
}

/// Reads `eq`, and `and` of several: what a metadata filter here can say.
fn equalities(filter: &Value, metadata: &mut BTreeMap<String, String>) -> Result<(), RagError> {
    match (filter["type"].as_str(), filter["key"].as_str(), filter["filters"].as_array()) {
        (Some("eq"), Some(key), _) => {
            let value = filter["value"].as_str().map_or_else(|| filter["value"].to_string(), str::to_owned);
            metadata.insert(key.to_owned(), value);
            Ok(())
        }
        (Some("and"), _, Some(filters)) => filters.iter().try_for_each(|filter| equalities(filter, metadata)),
        _ => Err(RagError::Invalid("filters: only `eq`, and `and` of several, can be looked for".to_owned())),
    }
}
