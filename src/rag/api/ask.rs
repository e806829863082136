//! `POST ask`: a cited answer, whole or as it is written, and its form in JSON.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::search::{SearchBody, result};
use super::{ApiRequest, ApiResponse, admitted, json_body, ok, parts};
use crate::rag::RagError;
use crate::rag::answer::{BoundSentence, Evidence};
use crate::rag::ask::{Ask, Asked, Event, Listener, events};
use crate::rag::knowledge_base::{KnowledgeBase, Rag};
use crate::rag::ports::{Message, Role};
use crate::rag::store::Filter;

/// What an answer has beyond a search.
#[derive(Deserialize)]
struct AskBody {
    /// The conversation before the question: objects with `role` and `content`.
    #[serde(default)]
    messages: Vec<Turn>,
    #[serde(default)]
    stream: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

pub async fn ask(base: &KnowledgeBase, filter: Filter, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let asked = base.answer(&read(filter, request)?, &Listener::default()).await?;
    ok(shown_answer(&asked))
}

/// Whether a request asks for an answer as it is written: `POST …/ask` with `"stream": true`.
pub fn wants_stream(request: &ApiRequest) -> bool {
    request.method == "POST"
        && request.path.trim_end_matches('/').ends_with("/ask")
        && serde_json::from_slice::<AskBody>(&request.body).is_ok_and(|body| body.stream)
}

/// The answer as server-sent events: `text` with a piece of it, at the end `answer` with what `ask` returns, or `error`.
///
/// # Errors
/// There is no such base for the caller, or the request is not one.
pub async fn ask_as_events(rag: &Rag, request: &ApiRequest) -> Result<Frames, RagError> {
    let path = parts(request)?;
    let [_, name, _] = path.as_slice() else { return Err(super::no_such_path(request)) };
    let (base, filter) = admitted(rag, request, name).await?;
    let ask = read(filter, request)?;
    Ok(Box::pin(written(base, ask)))
}

/// Server-sent events, each with the blank line that ends it.
pub type Frames = Pin<Box<dyn Stream<Item = String> + Send>>;

fn written(base: Arc<KnowledgeBase>, ask: Ask) -> impl Stream<Item = String> + Send {
    events(base, ask).map(|event| match event {
        Event::Text(text) => framed("text", &json!({"text": text})),
        Event::End(Ok(asked)) => framed("answer", &shown_answer(&asked)),
        Event::End(Err(error)) => framed("error", &super::shown_error(&error).body),
    })
}

fn framed(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

fn read(filter: Filter, request: &ApiRequest) -> Result<Ask, RagError> {
    let AskBody { messages, rest, .. } = json_body(request)?;
    let body: SearchBody =
        serde_json::from_value(Value::Object(rest)).map_err(|error| RagError::Invalid(format!("the body: {error}")))?;
    let turns = messages.into_iter().map(Turn::read).collect::<Result<Vec<_>, _>>()?;
    Ok(Ask { turns, ..body.read(filter)? })
}

impl Turn {
    fn read(self) -> Result<Message, RagError> {
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                return Err(RagError::Invalid(format!(
                    "messages: \"{other}\" is no role; it is system, user or assistant"
                )));
            }
        };
        Ok(Message { role, text: self.content })
    }
}

/// An answer with its sentences, their evidence and the sources. Numbers of sources are those of the marks in the text, from 1.
pub fn shown_answer(asked: &Asked) -> Value {
    let sentences = asked.answer.sentences.iter().map(|sentence| shown_sentence(asked, sentence));
    json!({
        "answer": asked.answer.text, "refused": asked.answer.refused, "confidence": asked.answer.confidence, "action": asked.action,
        "written_by": asked.written_by, "sentences": sentences.collect::<Vec<_>>(),
        "sources": asked.sources.iter().map(result).collect::<Vec<_>>(), "trace": asked.trace,
    })
}

fn shown_sentence(asked: &Asked, sentence: &BoundSentence) -> Value {
    let place = |evidence: &Evidence| {
        let passage = asked.sources.get(evidence.source).map(|candidate| &candidate.passage);
        json!({
            "source": evidence.source + 1, "document": passage.map(|p| &p.document), "chunk": passage.map(|p| &p.id),
            "text": passage.and_then(|p| p.text.get(evidence.range.clone())), "score": evidence.score,
        })
    };
    json!({"text": sentence.text, "citations": sentence.evidence.iter().map(place).collect::<Vec<_>>()})
}
