//! Search in a vector store.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::files::{attributes, file_of};
use crate::rag::RagError;
use crate::rag::api::files::FILENAME;
use crate::rag::api::{ApiRequest, ApiResponse, json_body, ok};
use crate::rag::ask::{Ask, AskSteps};
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::retrieve::{Candidate, Search};
use crate::rag::store::Filter;

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

pub async fn search(base: &KnowledgeBase, filter: Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let body: SearchBody = json_body(request)?;
    if !(1..=MAX_RESULTS).contains(&body.max_num_results) {
        return Err(RagError::Invalid(format!("max_num_results {}: it is 1 to {MAX_RESULTS}", body.max_num_results)));
    }
    let queries = match body.query {
        OneOrMore::One(query) => vec![query],
        OneOrMore::More(queries) => queries,
    };
    let mut metadata = BTreeMap::new();
    let can_hold = body.filters.as_ref().map_or(Ok(true), |filters| equalities(filters, &mut metadata))?;
    let search = Search {
        query: queries.join(" "),
        top_k: body.max_num_results,
        threshold: body.ranking_options.and_then(|options| options.score_threshold),
        filter: Filter { metadata, ..filter },
        ..Search::default()
    };
    // A rewritten query is what OpenAI calls a question made into other words.
    let steps =
        AskSteps { multi_query: usize::from(body.rewrite_query && base.model().is_some()), ..AskSteps::default() };
    let data: Vec<Value> = match can_hold {
        true => base.find(&Ask { steps, ..Ask::new(search) }).await?.1.candidates.iter().map(hit).collect(),
        false => Vec::new(),
    };
    ok(json!({
        "object": "vector_store.search_results.page", "search_query": queries, "data": data, "has_more": false, "next_page": null,
    }))
}

fn hit(candidate: &Candidate) -> Value {
    let passage = &candidate.passage;
    json!({
        "file_id": file_of(&passage.document, &passage.metadata),
        "filename": passage.metadata.get(FILENAME).unwrap_or(&passage.document),
        "score": candidate.score, "attributes": attributes(&passage.metadata),
        "content": [{"type": "text", "text": passage.text}],
    })
}

/// Reads `eq`, and `and` of several: what a metadata filter here can say. Whether all of them can hold together.
fn equalities(filter: &Value, metadata: &mut BTreeMap<String, String>) -> Result<bool, RagError> {
    match (filter["type"].as_str(), filter["key"].as_str(), filter["filters"].as_array()) {
        (Some("eq"), Some(key), _) => {
            let value = filter["value"].as_str().map_or_else(|| filter["value"].to_string(), str::to_owned);
            let can_hold = metadata.get(key).is_none_or(|before| *before == value);
            metadata.insert(key.to_owned(), value);
            Ok(can_hold)
        }
        (Some("and"), _, Some(filters)) => {
            filters.iter().try_fold(true, |so_far, filter| Ok(equalities(filter, metadata)? && so_far))
        }
        _ => Err(RagError::Invalid("filters: only `eq`, and `and` of several, can be looked for".to_owned())),
    }
}
