//! Between OpenAI's chat completions and a question to a knowledge base.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::told;
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::observe::{Observation, Usage};
use crate::llm::request::{ChatRequest, content_text};
use crate::llm::sse::error_event;
use crate::plugins::{Answered, End};
use crate::rag::api::shown_answer;
use crate::rag::ask::{Asked, Event};
use crate::rag::ports::{Message, Role};
use crate::rag::store::Passage;

/// The last message of the user, and the turns before it.
///
/// # Errors
/// The user has said nothing that can be searched for.
pub fn conversation(chat: &ChatRequest) -> Result<(String, Vec<Message>), ApiError> {
    let messages: Vec<Value> = serde_json::from_str(chat.messages_json()).unwrap_or_default();
    let mut turns: Vec<Message> = messages.iter().filter_map(turn).collect();
    let asked = turns.iter().rposition(|turn| turn.role == Role::User && !turn.text.trim().is_empty());
    let Some(asked) = asked else {
        let message = "No message of the user has text, so there is no question to search for. Put the question into the last one.";
        return Err(ApiError::new(ErrorKind::InvalidValue, message).with_param("messages"));
    };
    turns.truncate(asked + 1);
    let question = turns.pop().map(|turn| turn.text).unwrap_or_default();
    Ok((question, turns))
}

/// Results of tools are no part of what was said.
fn turn(message: &Value) -> Option<Message> {
    let role = match message["role"].as_str()? {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return None,
    };
    let text = content_text(message["content"].to_string().as_bytes()).into_owned();
    Some(Message { role, text })
}

/// One answer on its way to a client.
pub struct Chat {
    id: String,
    model: String,
    base: String,
    created: u64,
    wants_usage: bool,
    pub told: Arc<Mutex<Told>>,
}

impl Chat {
    pub fn new(request_id: &str, chat: &ChatRequest) -> Chat {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let model = chat.model().to_owned();
        let base = model.trim_start_matches(super::PREFIX).to_owned();
        let told = Told {
            model: model.clone(),
            started: Instant::now(),
            has_begun: false,
            first: None,
            end: None,
            seen: Observation::default(),
        };
        Chat {
            id: format!("chatcmpl-{request_id}"),
            model,
            base,
            created,
            wants_usage: chat.wants_usage(),
            told: Arc::new(Mutex::new(told)),
        }
    }

    /// The answer as one object.
    pub fn whole(&self, asked: &Asked) -> Bytes {
        self.told.lock().complete(asked);
        let message = json!({
            "role": "assistant", "content": asked.answer.text, "refusal": null, "annotations": annotations(asked, &self.base),
        });
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
        let body = json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model, "choices": [choice],
            "usage": usage(asked), "weirgate": extension(asked),
        });
        Bytes::from(body.to_string())
    }

    /// The answer as OpenAI streams it. The last piece with a choice has the annotations and the member `weirgate`.
    pub fn pieces(self, events: impl Stream<Item = Event> + Send + 'static) -> impl Stream<Item = Bytes> + Send {
        let begin = framed(&self.chunk(&json!({"role": "assistant", "content": ""}), None));
        stream::iter([begin]).chain(events.map(move |event| self.piece(event)))
    }

    fn piece(&self, event: Event) -> Bytes {
        match event {
            Event::Text(text) => {
                self.told.lock().hear(&text);
                framed(&self.chunk(&json!({"content": text}), None))
            }
            Event::End(Ok(asked)) => {
                self.told.lock().complete(&asked);
                let mut last = self.chunk(&json!({"annotations": annotations(&asked, &self.base)}), Some("stop"));
                last["weirgate"] = extension(&asked);
                let mut end = framed(&last).to_vec();
                if self.wants_usage {
                    let mut said = self.chunk(&Value::Null, None);
                    said["choices"] = json!([]);
                    said["usage"] = usage(&asked);
                    end.extend_from_slice(&framed(&said));
                }
                end.extend_from_slice(b"data: [DONE]\n\n");
                Bytes::from(end)
            }
            // A stream that broke must not look complete: no finish reason, no [DONE].
            Event::End(Err(error)) => {
                self.told.lock().end = Some(End::Cut(error.to_string()));
                error_event(&told(error, &self.model), None, false)
            }
        }
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
        })
    }
}

fn framed(data: &Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

/// Of the call that wrote the answer; zeros where no model did.
fn usage(asked: &Asked) -> Value {
    let usage = asked.usage.unwrap_or_default();
    let total = usage.prompt_tokens + usage.completion_tokens;
    json!({"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": total})
}

/// What OpenAI's shape has no place for: whether it refused, sentences with their evidence, the passages.
fn extension(asked: &Asked) -> Value {
    let mut shown = shown_answer(asked);
    if let Some(shown) = shown.as_object_mut() {
        shown.remove("answer");
        // How it was found is for the operator.
        shown.remove("trace");
    }
    shown
}

/// One annotation for each mark in the text. Positions are characters (Unicode code points), from the mark's first to behind its last.
pub fn annotations(asked: &Asked, base: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut at = 0;
    for sentence in asked.answer.sentences.iter() {
        at += sentence.text.chars().count();
        // Between a sentence and its marks.
        let mut mark = at + 1;
        for evidence in &sentence.evidence {
            let end = mark + format!("[{}]", evidence.source + 1).len();
            if let Some(candidate) = asked.sources.get(evidence.source) {
                let passage = &candidate.passage;
                found.push(json!({"type": "url_citation", "url_citation": {
                    "start_index": mark, "end_index": end, "title": title(passage), "url": url(passage, base),
                    "document": passage.document, "chunk": passage.id, "text": passage.text.get(evidence.range.clone()),
                }}));
            }
            mark = end;
        }
        // And the space before the next one.
        at = if sentence.evidence.is_empty() { at } else { mark } + 1;
    }
    found
}

fn title(passage: &Passage) -> &str {
    [&passage.title, &passage.header, &passage.document]
        .into_iter()
        .find(|title| !title.is_empty())
        .map_or("", String::as_str)
}

/// Where the document is: its own address if it has one, else its place in the interface of knowledge bases.
fn url(passage: &Passage, base: &str) -> String {
    let own = [passage.metadata.get("url").map(String::as_str), Some(passage.document.as_str())];
    let is_address = |text: &&str| text.starts_with("https://") || text.starts_with("http://");
    own.into_iter().flatten().find(is_address).map_or_else(
        || {
            format!(
                "/v1/rag/knowledge-bases/{base}/documents/{}",
                utf8_percent_encode(&passage.document, NON_ALPHANUMERIC)
            )
        },
        str::to_owned,
    )
}

/// What has been told so far, for the log.
pub struct Told {
    model: String,
    started: Instant,
    /// There is an answer, or was to be one.
    pub has_begun: bool,
    first: Option<Duration>,
    /// `None` while there is more to come.
    end: Option<End>,
    seen: Observation,
}

impl Told {
    fn hear(&mut self, text: &str) {
        self.first.get_or_insert_with(|| self.started.elapsed());
        self.seen.answer.push_str(text);
        self.seen.n_events += 1;
    }

    fn complete(&mut self, asked: &Asked) {
        self.seen.answer.clone_from(&asked.answer.text);
        self.seen.usage = asked.usage.map(|usage| Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            ..Usage::default()
        });
        self.end = Some(End::Complete);
    }

    /// A client that left early is all that can end an answer without a word of ours.
    pub fn answered(&self) -> Answered {
        Answered {
            model: Arc::from(self.model.as_str()),
            service: Arc::from(SERVICE),
            status: Some(200),
            end: self.end.clone().unwrap_or(End::Cancelled),
            observation: self.seen.clone(),
            latency: self.started.elapsed(),
            first_token: self.first,
        }
    }
}

/// In the place of the upstream in records.
const SERVICE: &str = "knowledge-base";
