//! What an answer said: text, tool calls, finish reason, usage, error; read beside the stream, never altering it.
//!
//! The exchange feeds an [`Observer`] the chunks it forwards and asks at the end for an [`Observation`], which becomes the
//! flywheel record, the access log and the metrics. Time is the caller's matter. Understood are OpenAI chat completions,
//! completions and responses, and Anthropic messages; of Gemini, model and usage.

mod frame;
mod notes;
mod upstream_error;
mod usage;
mod wire;

use self::notes::Notes;
pub use self::upstream_error::UpstreamError;
use self::upstream_error::error_of;
pub use self::usage::Usage;
use self::wire::{OneOf, Wire, read};
use super::sse::{SseEvent, SseParser};

/// Bytes one event of a stream may have; beyond it a stream is no longer observed.
pub const MAX_EVENT_BYTES: usize = 8 << 20;
/// Bytes of a stream's start that are looked at before it counts as meaningful in any case.
const MAX_FIRST_BYTES: usize = 64 << 10;

/// The form of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    Json,
    /// `text/event-stream`
    Sse,
}

/// What to keep. Model, id, usage, finish reason and error are always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Whether the answer's text, reasoning and tool calls are kept, each up to `max_text_bytes`.
    pub content: bool,
    pub max_text_bytes: usize,
    /// The largest JSON body that is read; a larger one is not observed.
    pub max_body_bytes: usize,
}

impl Default for Want {
    /// Everything, within bounds that hold any ordinary answer.
    fn default() -> Self {
        Want { content: true, max_text_bytes: 1 << 20, max_body_bytes: 8 << 20 }
    }
}

/// Follows one answer.
#[derive(Debug)]
pub struct Observer {
    source: Source,
    notes: Notes,
    max_body_bytes: usize,
}

#[derive(Debug)]
enum Source {
    Json(Vec<u8>),
    Sse(SseParser),
    /// Too large; the rest goes by unread.
    Lost,
}

/// What an answer said. Fields are empty where it said nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// The provider's id of the answer.
    pub chat_id: Option<String>,
    /// The model as the provider names it.
    pub model: Option<String>,
    /// Text of the first choice.
    pub answer: String,
    /// Reasoning (thinking) of the first choice.
    pub reasoning: String,
    pub tool_calls: Vec<ToolCall>,
    /// As the provider says it: `stop`, `length`, `tool_calls`, `end_turn`, `completed` …
    pub finish_reason: Option<String>,
    pub usage: Option<Usage>,
    /// The stream said that it is over: `[DONE]`, `message_stop` or `response.completed` (or its failed and incomplete
    /// forms). A JSON body says so by being whole.
    pub saw_done: bool,
    pub error: Option<UpstreamError>,
    /// Events with data, the final `[DONE]` not counted.
    pub n_events: usize,
    /// Events, or the body, that are not JSON as expected.
    pub n_unreadable: usize,
    /// Some text was over the limit and is cut, or the body was too large to read.
    pub truncated: bool,
}

/// One call the model wants made; streamed pieces are already joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub index: u64,
    pub id: String,
    pub name: String,
    /// JSON text, as the model wrote it.
    pub arguments: String,
}

/// What the start of a stream says about the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstEvent {
    /// Nothing yet that tells: comments, pings, a role without content.
    NeedMore,
    /// The answer has begun (or is over): from here on it belongs to the client.
    Meaningful,
    /// The stream is an error in disguise; another provider may still be asked.
    Error(UpstreamError),
}

impl Observation {
    /// Whether the answer is whole: it said that it is over, or why it stopped. A stream for which this is false was cut.
    pub fn is_complete(&self) -> bool {
        self.saw_done || self.finish_reason.is_some()
    }
}

impl Observer {
    pub fn new(kind: BodyKind, want: Want) -> Self {
        let source = match kind {
            BodyKind::Json => Source::Json(Vec::new()),
            BodyKind::Sse => Source::Sse(SseParser::new(MAX_EVENT_BYTES)),
        };
        let limit = if want.content { want.max_text_bytes } else { 0 };
        let notes = Notes { limit, want_content: want.content, ..Notes::default() };
        Observer { source, notes, max_body_bytes: want.max_body_bytes }
    }

    /// Reads the next chunk of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        let fits = match &mut self.source {
            Source::Json(body) if body.len() + chunk.len() <= self.max_body_bytes => {
                body.extend_from_slice(chunk);
                true
            }
            Source::Json(_) => false,
            Source::Sse(parser) => parser.push(chunk, &mut |event| self.notes.event(event)).is_ok(),
            Source::Lost => true,
        };
        if !fits {
            self.notes.seen.truncated = true;
            self.source = Source::Lost;
        }
    }

    /// Whether text, reasoning or a tool call has been seen: turns true with the first token of a stream.
    pub fn has_content(&self) -> bool {
        self.notes.has_content
    }

    /// Whether the stream has said that it is over, so that its end is no surprise.
    pub fn is_complete(&self) -> bool {
        self.notes.seen.is_complete()
    }

    /// The body is over.
    pub fn finish(self) -> Observation {
        let mut notes = self.notes;
        match self.source {
            Source::Json(body) => notes.document(&body),
            Source::Sse(parser) => drop(parser.finish(&mut |event| notes.event(event))),
            Source::Lost => {}
        }
        notes.into_observation()
    }
}

/// Judges the start of an event stream, all of it that has come so far. Retry and fallback are possible until this says
/// [`FirstEvent::Meaningful`].
pub fn classify_first(chunk_so_far: &[u8]) -> FirstEvent {
    let mut verdict = FirstEvent::NeedMore;
    let mut parser = SseParser::new(MAX_EVENT_BYTES);
    let pushed = parser.push(chunk_so_far, &mut |event| {
        if verdict == FirstEvent::NeedMore {
            verdict = classify_event(event);
        }
    });
    if verdict == FirstEvent::NeedMore && (pushed.is_err() || chunk_so_far.len() > MAX_FIRST_BYTES) {
        return FirstEvent::Meaningful;
    }
    verdict
}

fn classify_event(event: SseEvent<'_>) -> FirstEvent {
    if event.event == b"error" {
        return FirstEvent::Error(UpstreamError::of_event(event.data));
    }
    // What is not JSON is `[DONE]`, or something we do not know: the client's to judge.
    let Ok(wire) = read::<Wire<'_>>(event.data) else { return FirstEvent::Meaningful };
    if let Some(error) = error_of(&wire) {
        return FirstEvent::Error(error);
    }
    let is_answer = wire.id.0.is_some() || matches!(wire.message, OneOf::Object(_));
    let mut notes = Notes::default();
    notes.wire(&wire);
    if (is_answer || notes.is_ping) && !notes.has_content && !notes.seen.is_complete() {
        FirstEvent::NeedMore
    } else {
        FirstEvent::Meaningful
    }
}

#[cfg(test)]
mod tests;
