//! The observation as it grows, event by event, in every dialect.

use super::frame::Frame;
use super::upstream_error::{UpstreamError, error_of};
use super::usage::UsageNotes;
use super::wire::{Block, Delta, Inner, OneOf, Text, Wire, read};
use super::{Observation, ToolCall};
use crate::llm::sse::SseEvent;

/// Tool calls of one answer that are kept.
pub const MAX_TOOL_CALLS: usize = 128;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Notes {
    pub seen: Observation,
    pub want_content: bool,
    /// Bytes of text that are kept, of each kind.
    pub limit: usize,
    pub has_content: bool,
    /// The last event was one of those that say nothing.
    pub is_ping: bool,
    pub usage: UsageNotes,
    /// Of the last event, if it did nothing but add text to the answer.
    pub frame: Option<Frame>,
}

impl Notes {
    pub fn event(&mut self, event: SseEvent<'_>) {
        if event.data.trim_ascii() == b"[DONE]" {
            self.seen.saw_done = true;
            return;
        }
        self.seen.n_events += 1;
        if event.event.is_empty()
            && let Some(text) = self.frame.as_ref().and_then(|frame| frame.text(event.data))
        {
            return self.answer_text(text);
        }
        match read(event.data) {
            Ok(wire) => {
                self.wire(&wire);
                self.frame = only_text(&wire).and_then(|text| Frame::around(text, event.data));
            }
            Err(_) => self.seen.n_unreadable += 1,
        }
        if event.event == b"error" && self.seen.error.is_none() {
            self.seen.error = Some(UpstreamError::of_event(event.data));
        }
    }

    pub fn document(&mut self, body: &[u8]) {
        match read(body) {
            Ok(wire) => {
                self.wire(&wire);
                self.seen.saw_done = true;
            }
            Err(_) => self.seen.n_unreadable += 1,
        }
    }

    pub fn wire(&mut self, wire: &Wire<'_>) {
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
                self.tool(
                    index,
                    block.id.filled().unwrap_or_default(),
                    block.name.filled().unwrap_or_default(),
                    &input,
                );
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

    pub fn into_observation(mut self) -> Observation {
        self.seen.usage = self.usage.into_usage();
        self.seen
    }
}

/// The text of an event of a chat stream that says nothing new beside it.
fn only_text<'a>(wire: &'a Wire<'_>) -> Option<&'a str> {
    let choice = wire.choices.0.as_ref().filter(|choice| choice.index.0.unwrap_or(0) == 0)?;
    let delta = choice.delta.as_ref()?;
    let has_more = wire.kind.0.is_some()
        || wire.usage.is_some()
        || wire.usage_metadata.is_some()
        || !wire.output.is_empty()
        || choice.usage.is_some()
        || choice.message.is_some()
        || !delta.tool_calls.is_empty()
        || [&choice.text, &delta.refusal, &delta.reasoning, &delta.reasoning_content]
            .iter()
            .any(|text| text.filled().is_some());
    if has_more { None } else { delta.content.filled() }
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
