//! What an answer said: text, tool calls, finish reason, usage, error; read beside the stream, never altering it.
//!
//! The exchange feeds an [`Observer`] the chunks it forwards and asks at the end for an [`Observation`], which becomes the
//! flywheel record, the access log and the metrics. Time is the caller's matter. Understood are OpenAI chat completions,
//! completions and responses, and Anthropic messages; of Gemini, model and usage.

mod wire;

use std::borrow::Cow;

use self::wire::{
    Block, Count, Delta, ErrorBody, GeminiUsage, Inner, OneOf, RawObject, Text, Usage as WireUsage, UsageDetails, Wire, read,
};
use super::sse::{SseEvent, SseParser};

/// Bytes one event of a stream may have; beyond it a stream is no longer observed.
pub const MAX_EVENT_BYTES: usize = 8 << 20;
/// Tool calls of one answer that are kept.
const MAX_TOOL_CALLS: usize = 128;
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

/// Token counts as the provider reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// As reported, else prompt, completion and separately counted cache tokens together.
    pub total_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    pub cached_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    /// The provider's detail objects, as JSON text.
    pub input_details: Option<String>,
    pub output_details: Option<String>,
}

/// An error object of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamError {
    pub message: String,
    /// `error.type`
    pub kind: Option<String>,
    pub code: Option<String>,
    pub param: Option<String>,
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

impl UpstreamError {
    /// Reads the error out of a provider's error body. `None` if it is not JSON or holds no error.
    pub fn parse(body: &[u8]) -> Option<UpstreamError> {
        let wire: Wire<'_> = read(body).ok()?;
        error_of(&wire).or_else(|| match &wire.message {
            OneOf::Text(message) => Some(UpstreamError {
                message: message.to_string(),
                code: wire.code.0.as_deref().map(str::to_owned),
                ..UpstreamError::default()
            }),
            _ => None,
        })
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
    let Ok(wire) = read::<Wire<'_>>(event.data) else {
        if event.event == b"error" {
            let message = String::from_utf8_lossy(event.data).into_owned();
            return FirstEvent::Error(UpstreamError { message, ..UpstreamError::default() });
        }
        // `[DONE]`, or something we do not know: the client's to judge.
        return FirstEvent::Meaningful;
    };
    let error = error_of(&wire).or_else(|| (event.event == b"error").then(|| UpstreamError::parse(event.data)).flatten());
    if let Some(error) = error {
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

/// The observation as it grows.
#[derive(Debug, Default)]
struct Notes {
    seen: Observation,
    want_content: bool,
    limit: usize,
    has_content: bool,
    /// The last event was one of those that say nothing.
    is_ping: bool,
    usage: UsageNotes,
}

/// Usage as it comes together: Anthropic reports prompt and answer in different events.
#[derive(Debug, Default)]
struct UsageNotes {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    /// Cache reads and writes that are not part of the prompt count (Anthropic).
    beside_prompt: [Option<u64>; 2],
    cached: Option<u64>,
    reasoning: Option<u64>,
    input_details: Option<String>,
    output_details: Option<String>,
}

impl Notes {
    fn event(&mut self, event: SseEvent<'_>) {
        if event.data.trim_ascii() == b"[DONE]" {
            self.seen.saw_done = true;
            return;
        }
        self.seen.n_events += 1;
        match read(event.data) {
            Ok(wire) => self.wire(&wire),
            Err(_) => self.seen.n_unreadable += 1,
        }
        if event.event == b"error" && self.seen.error.is_none() {
            self.seen.error = Some(UpstreamError::parse(event.data).unwrap_or_else(|| UpstreamError {
                message: String::from_utf8_lossy(event.data).into_owned(),
                ..UpstreamError::default()
            }));
        }
    }

    fn document(&mut self, body: &[u8]) {
        match read(body) {
            Ok(wire) => {
                self.wire(&wire);
                self.seen.saw_done = true;
            }
            Err(_) => self.seen.n_unreadable += 1,
        }
    }

    fn wire(&mut self, wire: &Wire<'_>) {
        if self.seen.error.is_none() {
            self.seen.error = error_of(wire);
        }
        self.identity(&wire.id, &wire.model);
        self.identity(&Text(None), &wire.model_version);
        if let Some(usage) = &wire.usage {
            self.usage.openai_or_anthropic(usage);
        }
        if let Some(usage) = &wire.usage_metadata {
            self.usage.gemini(usage);
        }
        if let Some(choice) = wire.choices.0.as_ref().filter(|choice| choice.index.0.unwrap_or(0) == 0) {
            if let Some(usage) = &choice.usage {
                self.usage.openai_or_anthropic(usage);
            }
            self.finish_reason(&choice.finish_reason);
            self.answer(&choice.text);
            for message in choice.delta.iter().chain(&choice.message) {
                self.message(message);
            }
        }
        for (index, item) in wire.output.iter().enumerate() {
            self.block(index as u64, item);
            self.finish_reason(&wire.status);
        }
        match wire.kind.0.as_deref() {
            Some(kind) => self.typed(kind, wire),
            None => self.is_ping = false,
        }
    }

    /// What Anthropic and the responses API say, whose events carry a `type`; so does a whole Anthropic message.
    fn typed(&mut self, kind: &str, wire: &Wire<'_>) {
        self.is_ping = matches!(kind, "ping" | "response.created" | "response.in_progress" | "response.queued");
        if let Some(response) = &wire.response {
            self.inner(response);
        }
        if let OneOf::Object(message) = &wire.message {
            self.inner(message);
        }
        let index = wire.index.0.or(wire.output_index.0).unwrap_or(0);
        match (kind, &wire.delta) {
            ("response.output_text.delta", OneOf::Text(text)) => self.answer_text(text),
            ("response.reasoning_text.delta" | "response.reasoning_summary_text.delta", OneOf::Text(text)) => {
                self.reasoning_text(text);
            }
            ("response.function_call_arguments.delta", OneOf::Text(arguments)) => self.tool(index, "", "", arguments),
            (_, OneOf::Object(delta)) => self.block_delta(index, delta),
            _ => {}
        }
        match kind {
            "message_stop" => self.seen.saw_done = true,
            "response.completed" | "response.failed" | "response.incomplete" => {
                self.seen.saw_done = true;
                let status = wire.response.as_ref().map(|response| &response.status);
                self.finish_reason(status.unwrap_or(&wire.status));
            }
            _ => {}
        }
        for block in wire.content_block.iter().chain(&wire.item) {
            // The responses API repeats an item when it is done; its start has the name, its deltas had the rest.
            if kind != "response.output_item.done" {
                self.block(index, block);
            }
        }
        for (index, block) in wire.content.iter().enumerate() {
            self.block(index as u64, block);
        }
        self.finish_reason(&wire.stop_reason);
    }

    fn inner(&mut self, inner: &Inner<'_>) {
        self.identity(&inner.id, &inner.model);
        if let Some(usage) = &inner.usage {
            self.usage.openai_or_anthropic(usage);
        }
    }

    fn message(&mut self, message: &Delta<'_>) {
        self.answer(&message.content);
        self.answer(&message.refusal);
        // Providers use either name; those that send both send the same.
        let reasoning = message.reasoning_content.filled().or(message.reasoning.filled());
        self.reasoning_text(reasoning.unwrap_or_default());
        for (position, piece) in message.tool_calls.iter().enumerate() {
            self.tool(
                piece.index.0.unwrap_or(position as u64),
                piece.id.filled().unwrap_or_default(),
                piece.function.name.filled().unwrap_or_default(),
                piece.function.arguments.filled().unwrap_or_default(),
            );
        }
    }

    /// A piece of an Anthropic block.
    fn block_delta(&mut self, index: u64, delta: &Delta<'_>) {
        self.answer(&delta.text);
        self.reasoning_text(delta.thinking.filled().unwrap_or_default());
        if let Some(json) = delta.partial_json.filled() {
            self.tool(index, "", "", json);
        }
        self.finish_reason(&delta.stop_reason);
    }

    fn block(&mut self, index: u64, block: &Block<'_>) {
        match block.kind.0.as_deref() {
            Some("tool_use") => {
                // The start of a streamed block has an empty object here, its deltas the real one.
                let input = block.input.text().filter(|input| input != "{}").unwrap_or_default();
                self.tool(index, block.id.filled().unwrap_or_default(), block.name.filled().unwrap_or_default(), &input);
            }
            Some("function_call") => self.tool(
                index,
                block.call_id.filled().unwrap_or_default(),
                block.name.filled().unwrap_or_default(),
                block.arguments.filled().unwrap_or_default(),
            ),
            Some("thinking") => self.reasoning_text(block.thinking.filled().unwrap_or_default()),
            Some("reasoning") => {
                self.reasoning_text(block.content.filled().or(block.summary.filled()).unwrap_or_default());
            }
            Some("text") => self.answer(&block.text),
            Some("message") => self.answer(&block.content),
            _ => {}
        }
    }

    fn identity(&mut self, id: &Text<'_>, model: &Text<'_>) {
        if self.seen.chat_id.is_none() {
            self.seen.chat_id = id.filled().map(str::to_owned);
        }
        if self.seen.model.is_none() {
            self.seen.model = model.filled().map(str::to_owned);
        }
    }

    fn finish_reason(&mut self, reason: &Text<'_>) {
        // Some Chinese providers write an unfinished answer's reason as the string "null".
        if let Some(reason) = reason.filled().filter(|reason| *reason != "null") {
            self.seen.finish_reason = Some(reason.to_owned());
        }
    }

    fn answer(&mut self, text: &Text<'_>) {
        self.answer_text(text.filled().unwrap_or_default());
    }

    fn answer_text(&mut self, text: &str) {
        self.has_content |= !text.is_empty();
        self.seen.truncated |= !push_bounded(&mut self.seen.answer, text, self.limit) && self.want_content;
    }

    fn reasoning_text(&mut self, text: &str) {
        self.has_content |= !text.is_empty();
        self.seen.truncated |= !push_bounded(&mut self.seen.reasoning, text, self.limit) && self.want_content;
    }

    fn tool(&mut self, index: u64, id: &str, name: &str, arguments: &str) {
        self.has_content = true;
        if !self.want_content {
            return;
        }
        let calls = &mut self.seen.tool_calls;
        let at = match calls.iter().position(|call| call.index == index) {
            Some(at) => at,
            None if calls.len() == MAX_TOOL_CALLS => {
                self.seen.truncated = true;
                return;
            }
            None => {
                calls.push(ToolCall { index, ..ToolCall::default() });
                calls.len() - 1
            }
        };
        let call = &mut calls[at];
        if call.id.is_empty() {
            push_bounded(&mut call.id, id, self.limit);
        }
        // Names are sent whole, with the first piece; some providers repeat them with each.
        if call.name.is_empty() {
            push_bounded(&mut call.name, name, self.limit);
        }
        self.seen.truncated |= !push_bounded(&mut call.arguments, arguments, self.limit);
    }

    fn into_observation(mut self) -> Observation {
        self.seen.usage = self.usage.into_usage();
        self.seen
    }
}

impl UsageNotes {
    fn openai_or_anthropic(&mut self, usage: &WireUsage<'_>) {
        for prompt in [usage.input_tokens, usage.prompt_tokens] {
            replace(&mut self.prompt, prompt);
        }
        for completion in [usage.output_tokens, usage.completion_tokens] {
            replace(&mut self.completion, completion);
        }
        replace(&mut self.total, usage.total_tokens);
        replace(&mut self.beside_prompt[0], usage.cache_creation_input_tokens);
        replace(&mut self.beside_prompt[1], usage.cache_read_input_tokens);
        for cached in [usage.cached_tokens, usage.prompt_cache_hit_tokens, usage.cache_read_input_tokens] {
            replace(&mut self.cached, cached);
        }
        for details in [usage.prompt_tokens_details, usage.input_tokens_details] {
            replace(&mut self.cached, read_details(details).cached_tokens);
            self.input_details = details.text().map(Cow::into_owned).or(self.input_details.take());
        }
        for details in [usage.completion_tokens_details, usage.output_tokens_details] {
            replace(&mut self.reasoning, read_details(details).reasoning_tokens);
            self.output_details = details.text().map(Cow::into_owned).or(self.output_details.take());
        }
    }

    fn gemini(&mut self, usage: &GeminiUsage) {
        replace(&mut self.prompt, usage.prompt);
        replace(&mut self.completion, usage.candidates);
        replace(&mut self.total, usage.total);
        replace(&mut self.cached, usage.cached);
        replace(&mut self.reasoning, usage.thoughts);
    }

    fn into_usage(self) -> Option<Usage> {
        if self.prompt.is_none() && self.completion.is_none() && self.total.is_none() {
            return None;
        }
        let prompt_tokens = self.prompt.unwrap_or(0);
        let completion_tokens = self.completion.unwrap_or(0);
        let sum = || {
            let beside = self.beside_prompt.iter().flatten().copied();
            beside.fold(prompt_tokens.saturating_add(completion_tokens), u64::saturating_add)
        };
        Some(Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: self.total.unwrap_or_else(sum),
            cached_tokens: self.cached,
            reasoning_tokens: self.reasoning,
            input_details: self.input_details,
            output_details: self.output_details,
        })
    }
}

fn read_details(details: RawObject<'_>) -> UsageDetails {
    details.0.and_then(|details| read(details).ok()).unwrap_or_default()
}

fn replace(known: &mut Option<u64>, reported: Count) {
    *known = reported.0.or(*known);
}

/// The error in an answer, wherever the provider put it.
fn error_of(wire: &Wire<'_>) -> Option<UpstreamError> {
    let inside = wire.response.as_ref().map(|response| &response.error);
    [Some(&wire.error), inside].into_iter().flatten().find_map(error_body).or_else(|| {
        // The responses API has message and code beside the type.
        let is_error = wire.kind.0.as_deref() == Some("error");
        is_error.then(|| UpstreamError {
            message: if let OneOf::Text(message) = &wire.message { message.to_string() } else { String::new() },
            code: wire.code.0.as_deref().map(str::to_owned),
            ..UpstreamError::default()
        })
    })
}

fn error_body(error: &OneOf<'_, ErrorBody<'_>>) -> Option<UpstreamError> {
    let owned = |text: &Text<'_>| text.filled().map(str::to_owned);
    match error {
        OneOf::None => None,
        OneOf::Text(message) => Some(UpstreamError { message: message.to_string(), ..UpstreamError::default() }),
        OneOf::Object(body) => Some(UpstreamError {
            message: owned(&body.message).unwrap_or_default(),
            kind: owned(&body.kind),
            code: owned(&body.code),
            param: owned(&body.param),
        }),
    }
}

/// Appends what fits within `limit` bytes, whole characters only. False if something was left out.
fn push_bounded(text: &mut String, more: &str, limit: usize) -> bool {
    let room = limit.saturating_sub(text.len());
    if more.len() <= room {
        text.push_str(more);
        return true;
    }
    text.push_str(&more[..more.floor_char_boundary(room)]);
    false
}

#[cfg(test)]
mod tests;
