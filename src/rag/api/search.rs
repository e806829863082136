//! `POST search` and `POST ask`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::documents::shown;
use super::{ApiRequest, ApiResponse, json_body, ok};
use crate::rag::RagError;
use crate::rag::answer::Evidence;
use crate::rag::compress::{Compressed, Compression};
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::retrieve::hop::features::NAMES;
use crate::rag::retrieve::{Candidate, Search, Steps};
use crate::rag::store::Filter;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    query: String,
    #[serde(default = "default_top_k")]
    top_k: usize,
    #[serde(default)]
    threshold: Option<f32>,
    /// Metadata fields and the value each must have.
    #[serde(default)]
    filter: BTreeMap<String, String>,
    #[serde(default)]
    steps: Steps,
    /// Show what the second hop ranked by.
    #[serde(default)]
    explain: bool,
    /// Tokens that the sentences kept by `compress` may have.
    #[serde(default)]
    max_tokens: Option<usize>,
}

/// As Higress' server has it.
fn default_top_k() -> usize {
    10
}

/// Results at most; more is reading the base, which `GET chunks` is for.
const MAX_TOP_K: usize = 100;

pub async fn search(base: &KnowledgeBase, filter: Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let found = base.search(&read(filter, request)?).await?;
    ok(json!({
        "results": found.candidates.iter().map(result).collect::<Vec<_>>(), "action": found.action, "confidence": found.confidence,
        "context": found.context.as_ref().map(context), "trace": found.trace,
    }))
}

pub async fn ask(base: &KnowledgeBase, filter: Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let asked = base.ask(&read(filter, request)?).await?;
    let place = |evidence: &Evidence| {
        let passage = asked.sources.get(evidence.source).map(|candidate| &candidate.passage);
        json!({
            "source": evidence.source + 1, "document": passage.map(|p| &p.document), "chunk": passage.map(|p| &p.id),
            "text": passage.and_then(|p| p.text.get(evidence.range.clone())), "score": evidence.score,
        })
    };
    let sentences = asked.answer.sentences.iter().map(
        |sentence| json!({"text": sentence.text, "citations": sentence.evidence.iter().map(place).collect::<Vec<_>>()}),
    );
    ok(json!({
        "answer": asked.answer.text, "refused": asked.answer.refused, "confidence": asked.answer.confidence, "action": asked.action,
        "sentences": sentences.collect::<Vec<_>>(), "sources": asked.sources.iter().map(result).collect::<Vec<_>>(),
        "trace": asked.trace,
    }))
}

fn read(filter: Filter, request: &ApiRequest) -> Result<Search, RagError> {
    let body: SearchBody = json_body(request)?;
    if !(1..=MAX_TOP_K).contains(&body.top_k) {
        return Err(RagError::Invalid(format!("top_k {}: it is 1 to {MAX_TOP_K}", body.top_k)));
    }
    let default = Compression::default();
    Ok(Search {
        query: body.query,
        top_k: body.top_k,
        threshold: body.threshold,
        filter: Filter { metadata: body.filter, ..filter },
        steps: body.steps,
        explain: body.explain,
        compression: Compression { max_tokens: body.max_tokens.unwrap_or(default.max_tokens), ..default },
    })
}

fn context(compressed: &Compressed) -> Value {
    let sentences = compressed.pieces.iter().flat_map(|piece| {
        piece.sentences.iter().map(|sentence| {
            json!({"document": piece.document, "chunk": piece.chunk, "text": sentence.text, "score": sentence.score})
        })
    });
    json!({
        "text": compressed.text(), "tokens": compressed.tokens, "tokens_before": compressed.tokens_before,
        "sentences": sentences.collect::<Vec<_>>(),
    })
}

fn result(candidate: &Candidate) -> Value {
    let mut result = shown(&candidate.passage);
    result["score"] = json!(candidate.score);
    result["scores"] = json!(candidate.scores);
    if let Some(features) = &candidate.features {
        result["features"] = NAMES.iter().zip(features.iter()).map(|(name, value)| (*name, json!(value))).collect();
    }
    result
}
