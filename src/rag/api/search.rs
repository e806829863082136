//! `POST search`: ranked passages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::documents::shown;
use super::{ApiRequest, ApiResponse, json_body, ok};
use crate::rag::RagError;
use crate::rag::ask::{Ask, AskSteps};
use crate::rag::compress::{Compressed, Compression};
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::retrieve::hop::features::NAMES;
use crate::rag::retrieve::{Candidate, Search, Steps};
use crate::rag::store::Filter;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    query: String,
    #[serde(default = "default_top_k")]
    top_k: usize,
    #[serde(default)]
    threshold: Option<f32>,
    /// Metadata fields and the value each must have.
    #[serde(default)]
    filter: BTreeMap<String, String>,
    /// Members of [`Steps`] and of [`AskSteps`].
    #[serde(default)]
    steps: Map<String, Value>,
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
    let ask = json_body::<SearchBody>(request)?.read(filter)?;
    if ask.steps.web || ask.steps.refine {
        return Err(RagError::Invalid(
            "steps: `web` and `refine` make the sources of an answer; POST ask takes them".to_owned(),
        ));
    }
    let (_, found) = base.find(&ask).await?;
    ok(json!({
        "results": found.candidates.iter().map(result).collect::<Vec<_>>(), "several": found.several, "action": found.action, "confidence": found.confidence,
        "context": found.context.as_ref().map(context), "trace": found.trace,
    }))
}

impl SearchBody {
    /// # Errors
    /// A number is out of its range, or there is no such step.
    pub fn read(self, filter: Filter) -> Result<Ask, RagError> {
        if !(1..=MAX_TOP_K).contains(&self.top_k) {
            return Err(RagError::Invalid(format!("top_k {}: it is 1 to {MAX_TOP_K}", self.top_k)));
        }
        let (steps, further) = steps(self.steps)?;
        let default = Compression::default();
        let search = Search {
            query: self.query,
            top_k: self.top_k,
            threshold: self.threshold,
            filter: Filter { metadata: self.filter, ..filter },
            steps,
            explain: self.explain,
            compression: Compression { max_tokens: self.max_tokens.unwrap_or(default.max_tokens), ..default },
        };
        let ask = Ask::new(search);
        Ok(Ask { steps: further, max_tokens: self.max_tokens.unwrap_or(ask.max_tokens), ..ask })
    }
}

/// The steps of a search and those around it, which users name in one object.
///
/// # Errors
/// There is no such step, or it is of another type.
pub fn steps(mut named: Map<String, Value>) -> Result<(Steps, AskSteps), RagError> {
    let of_ask = serde_json::to_value(AskSteps::default()).unwrap_or_default();
    let is_of_ask = |name: &str| of_ask.get(name).is_some();
    let further: Map<String, Value> =
        named.iter().filter(|(name, _)| is_of_ask(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    named.retain(|name, _| !is_of_ask(name));
    Ok((read_steps(named)?, read_steps(further)?))
}

fn read_steps<T: DeserializeOwned>(named: Map<String, Value>) -> Result<T, RagError> {
    serde_json::from_value(Value::Object(named)).map_err(|error| RagError::Invalid(format!("steps: {error}")))
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

pub fn result(candidate: &Candidate) -> Value {
    let mut result = shown(&candidate.passage);
    result["score"] = json!(candidate.score);
    result["scores"] = json!(candidate.scores);
    if let Some(features) = &candidate.features {
        result["features"] = NAMES.iter().zip(features.iter()).map(|(name, value)| (*name, json!(value))).collect();
    }
    result
}
