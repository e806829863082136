//! What each tool does, and the JSON of its result: the text of the one content block is a JSON document.

use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::arguments::Arguments;
use super::tools::ToolName;
use super::{Failure, RagTools, chat};
use crate::config::model::RagServer;
use crate::rag::answer::prompt::refusal;
use crate::rag::ask::Asked;
use crate::rag::ingest::NewDocument;
use crate::rag::knowledge_base::{KnowledgeBase, NewBase};
use crate::rag::read;
use crate::rag::retrieve::Search;
use crate::rag::store::{Filter, Passage};
use crate::rag::{Document, RagError};

/// Chunks that `list-chunks` returns at most, as Higress' server does.
const MAX_LISTED: usize = 1_000;

pub(super) async fn call(server: &RagTools, tool: ToolName, arguments: &Arguments) -> Result<CallToolResult, Failure> {
    match tool {
        ToolName::Chat => answer(server, arguments.text("query")?).await,
        ToolName::CreateChunks => create(server, arguments.text("text")?, arguments.text("title")?).await,
        ToolName::DeleteChunk => delete(server, arguments.text("id")?).await,
        ToolName::ListChunks => list(server).await,
        ToolName::SearchChunks => search(server, arguments).await,
    }
}

/// A knowledge base that is not there, or not for this client, looks like one that is empty.
async fn base(server: &RagTools) -> Result<Option<Arc<KnowledgeBase>>, Failure> {
    match server.rag.admitted(&server.settings.knowledge_base, &server.client.caller).await {
        Ok(base) => Ok(Some(base)),
        Err(RagError::UnknownBase { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the knowledge base if there is none.
async fn base_or_new(server: &RagTools) -> Result<Arc<KnowledgeBase>, Failure> {
    if let Some(base) = base(server).await? {
        return Ok(base);
    }
    let RagServer { knowledge_base, chunk_size, chunk_overlap, .. } = &*server.settings;
    let new = NewBase { chunk_size: *chunk_size, chunk_overlap: *chunk_overlap, ..NewBase::default() };
    match server.rag.create(knowledge_base, &new).await {
        Ok(base) => Ok(base),
        // Another call was faster; or there is one, and it is not for this client.
        Err(RagError::Exists(_)) => Ok(server.rag.admitted(knowledge_base, &server.client.caller).await?),
        Err(error) => Err(error.into()),
    }
}

async fn create(server: &RagTools, text: &str, title: &str) -> Result<CallToolResult, Failure> {
    let base = base_or_new(server).await?;
    let tenant = server.client.tenant.clone();
    let id = document_id(tenant.as_deref(), title, text);
    let filter = Filter { documents: vec![id.clone()], ..server.filter() };
    let mut chunks = base.table().chunks(&filter, 0, usize::MAX).await?;
    let is_whole = chunks.first().is_some_and(|first| usize::try_from(first.n_chunks).is_ok_and(|n| n == chunks.len()));
    if !is_whole {
        if !chunks.is_empty() {
            // Some were deleted since; those that are left must not be there twice.
            base.table().remove(std::slice::from_ref(&id)).await?;
        }
        let document = Document { title: title.to_owned(), blocks: read::paragraphs(text), ..Document::default() };
        let report = base.ingest(vec![NewDocument { id, document, tenant, source: None }], &|_| {}).await?;
        if let Some(error) = report.errors.into_iter().next() {
            return Err(Failure::Call(format!("the text was not stored: {}", error.message)));
        }
        chunks = base.table().chunks(&filter, 0, usize::MAX).await?;
    }
    let message = format!("Stored \"{title}\" in {} chunks", chunks.len());
    let data: Vec<Value> = chunks.iter().map(document).collect();
    Ok(result(&json!({"success": true, "message": message, "data": data})))
}

/// The same for the same text, so that storing it again changes nothing; another for each tenant, so that none takes another's
/// place.
fn document_id(tenant: Option<&str>, title: &str, text: &str) -> String {
    let mut digest = Sha256::new();
    for part in [tenant.unwrap_or_default(), title, text] {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    let hex: String = digest.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("text-{hex}")
}

async fn list(server: &RagTools) -> Result<CallToolResult, Failure> {
    let chunks = match base(server).await? {
        Some(base) => base.table().chunks(&server.filter(), 0, MAX_LISTED).await?,
        None => Vec::new(),
    };
    Ok(result(&chunks.iter().map(document).collect()))
}

async fn delete(server: &RagTools, id: &str) -> Result<CallToolResult, Failure> {
    let unknown = || Failure::Call(format!("there is no chunk \"{id}\""));
    let base = base(server).await?.ok_or_else(unknown)?;
    // Only what this client may see can be deleted.
    if !base.table().remove_chunk(id, &server.filter()).await? {
        return Err(unknown());
    }
    Ok(result(&json!({"success": true, "message": format!("Deleted the chunk {id}")})))
}

async fn search(server: &RagTools, arguments: &Arguments) -> Result<CallToolResult, Failure> {
    let query = arguments.text("query")?;
    let top_k =
        match arguments.count("topk")? {
            None => server.settings.top_k,
            Some(asked_for) => usize::try_from(asked_for)
                .ok()
                .filter(|top_k| (1..=RagServer::MAX_TOP_K).contains(top_k))
                .ok_or_else(|| Failure::Call(format!("topk {asked_for}: it is 1 to {}", RagServer::MAX_TOP_K)))?,
        };
    let threshold = arguments.number("threshold")?.or(server.settings.threshold);
    let search = request(server, query, top_k, threshold);
    let found = match base(server).await? {
        Some(base) => base.search(&search).await?.candidates,
        None => Vec::new(),
    };
    let results =
        found.iter().map(|candidate| json!({"document": document(&candidate.passage), "score": candidate.score}));
    Ok(result(&results.collect()))
}

async fn answer(server: &RagTools, query: &str) -> Result<CallToolResult, Failure> {
    let search = request(server, query, server.settings.top_k, server.settings.threshold);
    let Some(base) = base(server).await? else {
        let structured = json!({"answer": refusal(query), "refused": true, "sources": []});
        return Ok(with_structure(result(&json!(refusal(query))), structured));
    };
    let asked = chat::answer(&base, &search).await?;
    let structured = json!({"answer": asked.answer.text, "refused": asked.answer.refused, "sources": sources(&asked)});
    Ok(with_structure(result(&json!(asked.answer.text)), structured))
}

/// The sources that the answer's marks count: `[1]` is the one with number 1.
fn sources(asked: &Asked) -> Vec<Value> {
    let mut cited: Vec<usize> =
        asked.answer.sentences.iter().flat_map(|sentence| &sentence.evidence).map(|evidence| evidence.source).collect();
    cited.sort_unstable();
    cited.dedup();
    let shown = |number: usize| {
        let passage = &asked.sources.get(number)?.passage;
        Some(json!({"number": number + 1, "document": document(passage)}))
    };
    cited.into_iter().filter_map(shown).collect()
}

fn request(server: &RagTools, query: &str, top_k: usize, threshold: Option<f64>) -> Search {
    let threshold = threshold.map(narrowed);
    Search { query: query.to_owned(), top_k, threshold, filter: server.filter(), ..Search::default() }
}

#[expect(clippy::cast_possible_truncation, reason = "a score needs no more digits")]
fn narrowed(number: f64) -> f32 {
    number as f32
}

/// A chunk as Higress' server has it; what else is known of its document stands beside.
fn document(passage: &Passage) -> Value {
    let own = passage.metadata.iter().map(|(name, value)| (name.clone(), json!(value)));
    let mut metadata: Map<String, Value> = own.collect();
    metadata.insert("chunk_index".to_owned(), json!(passage.index));
    metadata.insert("chunk_title".to_owned(), json!(passage.title));
    metadata.insert("chunk_size".to_owned(), json!(passage.text.len()));
    let created_at = jiff::Timestamp::from_millisecond(passage.created_at).unwrap_or_default();
    json!({"id": passage.id, "content": passage.text, "metadata": metadata, "created_at": created_at.to_string()})
}

fn result(document: &Value) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(document.to_string())])
}

fn with_structure(mut result: CallToolResult, structured: Value) -> CallToolResult {
    result.structured_content = Some(structured);
    result
}
