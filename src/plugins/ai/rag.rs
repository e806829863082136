//! `ai-rag`: puts passages of a knowledge base before the question. Default phase, priority 400.
//!
//! As in Higress the last message is replaced by one user message per passage and one that asks the question, and the answer
//! tells with `x-envoy-rag-recall` whether there were any. The passages come from this process's own knowledge bases; the
//! services of Higress' plugin (DashScope, DashVector) are not called.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;
use serde_json::{Value, json};

use super::{chat_request, has_suffix, is_json};
use crate::config::model::Phase;
use crate::llm::request::ChatRequest;
use crate::llm::splice::{Edit, splice};
use crate::llm::tokens::estimate_tokens;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};
use crate::rag::knowledge_base::Caller;
use crate::rag::retrieve::{Candidate, Search, Steps};

pub const SPEC: PluginSpec = PluginSpec {
    name: "ai-rag",
    phase: Phase::Unspecified,
    priority: 400,
    family: Family::Go,
    summary: "Puts passages of a knowledge base before the question",
    build,
    check: |scope| Config::read(scope).1,
};

/// Tells the client whether passages were put before its question.
const RECALL: HeaderName = HeaderName::from_static("x-envoy-rag-recall");

/// Members of Higress' configuration: they name services that this gateway does not need.
const OF_HIGRESS: [&str; 2] = ["dashscope", "dashvector"];

struct Config {
    knowledge_base: String,
    top_k: usize,
    /// Passages with a lower score are left out.
    threshold: Option<f32>,
    /// Tokens of all passages together, as estimated.
    max_tokens: u64,
    path_suffixes: Vec<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut is_of_higress = false;
        for name in OF_HIGRESS {
            if fields.get(name).is_some() {
                is_of_higress = true;
                fields.warn(name, "this gateway searches its own knowledge bases: store the documents with `weirgate rag ingest` and name the base in knowledgeBase; until then requests pass without documents");
            }
        }
        let knowledge_base = fields.string("knowledgeBase").unwrap_or_default().to_owned();
        if knowledge_base.is_empty() && !is_of_higress {
            fields
                .problem("knowledgeBase", "is required: the name of a knowledge base; `weirgate rag list` shows them");
        }
        let top_k = fields.count("topK").unwrap_or(5);
        if !(1..=50).contains(&top_k) {
            fields.problem("topK", format!("{top_k}: it is 1 to 50"));
        }
        let max_tokens = fields.count("maxTokens").unwrap_or(2_000);
        if max_tokens < 1 {
            fields.problem("maxTokens", format!("{max_tokens}: it is at least 1"));
        }
        let threshold = fields.amount("threshold");
        let path_suffixes =
            fields.strings("enableOnPathSuffix").unwrap_or_else(|| vec!["/chat/completions".to_owned()]);
        let config = Config {
            knowledge_base,
            top_k: usize::try_from(top_k).unwrap_or(5),
            threshold: threshold.map(narrowed),
            max_tokens,
            path_suffixes,
        };
        (config, fields.finish())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a score needs no more digits")]
fn narrowed(number: f64) -> f32 {
    number as f32
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let has_base = !config.knowledge_base.is_empty();
    Ok(has_base.then(|| Arc::new(AiRag { config, host: host.clone() }) as Arc<dyn Plugin>))
}

struct AiRag {
    config: Config,
    host: Arc<dyn Host>,
}

/// Left in the request for the answer's head.
#[derive(Clone)]
struct Recalled(bool);

#[async_trait]
impl Plugin for AiRag {
    fn wants_body(&self, request: &Request<'_>) -> bool {
        has_suffix(request, &self.config.path_suffixes) && is_json(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        // A body that is no chat request is the provider's to judge.
        let Some(Ok(chat)) = chat_request(request) else { return Flow::Continue };
        let caller = Caller::Consumer { name: request.state.consumer.clone(), tenant: None };
        let passages = self.passages(&chat.last_user_text(), caller).await;
        let changed = with_passages(&chat, &passages);
        request.state.notes.insert(Recalled(changed.is_some()));
        if let Some(messages) = changed
            && let Ok(body) = splice(chat.body(), &[Edit::set("messages", messages)])
        {
            request.state.body = Some(body);
        }
        Flow::Continue
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        if let Some(Recalled(recalled)) = request.state.notes.get::<Recalled>() {
            let value = HeaderValue::from_static(if *recalled { "true" } else { "false" });
            let _ = response.insert_header(RECALL, value);
        }
    }
}

impl AiRag {
    /// Passages within the budget, best first. A search that fails costs the passages, never the answer.
    async fn passages(&self, question: &str, caller: Caller) -> Vec<Candidate> {
        let search = Search {
            query: question.to_owned(),
            top_k: self.config.top_k,
            threshold: self.config.threshold,
            steps: Steps::default(),
            ..Search::default()
        };
        let base = &self.config.knowledge_base;
        let mut found = match self.host.find_passages(base, search, caller).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(knowledge_base = base, %error, "The question goes on without passages");
                Vec::new()
            }
        };
        let mut left = self.config.max_tokens;
        found.retain(|candidate| {
            let n_tokens = estimate_tokens(&candidate.passage.text);
            let fits = n_tokens <= left;
            left = left.saturating_sub(if fits { n_tokens } else { 0 });
            fits
        });
        found
    }
}

/// The messages as JSON with the passages before the last one; `None` if there is nothing to put there, or no place.
fn with_passages(chat: &ChatRequest, passages: &[Candidate]) -> Option<String> {
    let mut messages: Vec<Value> = serde_json::from_str(chat.messages_json()).ok()?;
    let question = messages.pop().filter(|last| last["role"] == "user" && !passages.is_empty())?;
    for candidate in passages {
        let passage = &candidate.passage;
        let text = if passage.header.is_empty() {
            passage.text.clone()
        } else {
            format!("{}\n{}", passage.header, passage.text)
        };
        messages.push(json!({"role": "user", "content": text}));
    }
    messages.push(question);
    serde_json::to_string(&messages).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rag::store::Passage;

    fn problems(config: &Value) -> Vec<String> {
        let scope = Scope { global: Some(config), rule: None, n_rules: 0 };
        Config::read(&scope).1.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn the_configuration_says_what_is_wrong() {
        assert!(problems(&json!({"knowledgeBase": "pets", "topK": 3, "threshold": 0.2, "maxTokens": 500})).is_empty());
        assert_eq!(problems(&json!({})), ["knowledgeBase"]);
        assert_eq!(problems(&json!({"knowledgeBase": "pets", "topK": 0, "maxTokens": 0})), ["topK", "maxTokens"]);
        assert_eq!(problems(&json!({"knowledgeBase": "a", "dashscope": {}, "other": 1})), ["dashscope", "other"]);
        let (_, told) = Config::read(&Scope { global: Some(&json!({"dashvector": {}})), rule: None, n_rules: 0 });
        assert!(is_usable(&told) && told.len() == 1, "it passes requests as they are: {told:?}");
    }

    fn candidate(header: &str, text: &str) -> Candidate {
        let passage = Passage { header: header.into(), text: text.into(), ..Passage::default() };
        Candidate { passage, ..Candidate::default() }
    }

    #[test]
    fn passages_stand_between_the_conversation_and_its_last_question() {
        let body = json!({"model": "m", "messages": [
            {"role": "system", "content": "Be kind.", "x": 1.50}, {"role": "user", "content": "Why?", "name": "ann"}]});
        let chat = ChatRequest::parse(&Bytes::from(body.to_string())).unwrap_or_else(|_| panic!("a chat request"));
        let messages = with_passages(&chat, &[candidate("Cats", "Purr."), candidate("", "Bark.")]).unwrap();
        let expected = json!([{"role": "system", "content": "Be kind.", "x": 1.5}, {"role": "user", "content": "Cats\nPurr."},
            {"role": "user", "content": "Bark."}, {"role": "user", "content": "Why?", "name": "ann"}]);
        assert_eq!(serde_json::from_str::<Value>(&messages).unwrap(), expected);
        assert_eq!(with_passages(&chat, &[]), None);
        let answered = json!({"model": "m", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]});
        let chat = ChatRequest::parse(&Bytes::from(answered.to_string())).unwrap_or_else(|_| panic!("a chat request"));
        assert_eq!(with_passages(&chat, &[candidate("", "Bark.")]), None, "nobody asks");
    }
}
