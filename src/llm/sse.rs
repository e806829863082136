//! Server-sent events: finding the events in a byte stream, however it is cut.
//!
//! Framing is that of the HTML standard ("Server-sent events", parsing an event stream): lines end with LF, CR LF or CR, a
//! byte order mark at the start is skipped, `:` starts a comment, several `data` lines join with LF, an empty line ends the
//! event. The parser reads a copy; the bytes that go to the client are never touched. Memory is bounded by the largest
//! event allowed.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;

use super::error::ApiError;
use super::provider::Api;

/// One event, valid for the call that hands it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event` field; empty if there was none, which means `message`.
    pub event: &'a [u8],
    /// The data lines, joined with LF. Never empty: events without data are not dispatched.
    pub data: &'a [u8],
    /// The last `id` seen in the stream.
    pub id: &'a [u8],
}

/// What was left when the stream ended: an event without the empty line that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incomplete {
    /// Bytes of it that had arrived, line ends and field names not counted.
    pub n_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {max_event_bytes} bytes")]
pub struct EventTooLarge {
    pub max_event_bytes: usize,
}

/// Splits a byte stream into events, push by push.
#[derive(Debug)]
pub struct SseParser {
    max_event_bytes: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    event: Vec<u8>,
    /// Each data line, followed by LF.
    data: Vec<u8>,
    id: Vec<u8>,
    /// No line has been read yet: a byte order mark may stand before the first.
    at_start: bool,
    /// The last line ended with CR at the end of a chunk: an LF that follows belongs to it.
    after_cr: bool,
}

impl SseParser {
    pub fn new(max_event_bytes: usize) -> Self {
        SseParser {
            max_event_bytes,
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            id: Vec::new(),
            at_start: true,
            after_cr: false,
        }
    }

    /// Takes the next chunk and hands over each event it completes. Returns how many bytes of the chunk stand before the
    /// first byte of the event that is still open: forwarding up to there never shows a client half an event.
    ///
    /// # Errors
    /// One event is larger than allowed. The stream can't be followed any further; drop the parser.
    pub fn push(&mut self, chunk: &[u8], on_event: &mut dyn FnMut(SseEvent<'_>)) -> Result<usize, EventTooLarge> {
        let mut pos = 0;
        let mut settled = 0;
        if self.after_cr && !chunk.is_empty() {
            self.after_cr = false;
            pos = usize::from(chunk[0] == b'\n');
            settled = if self.is_between_events() { pos } else { 0 };
        }
        while let Some(len) = memchr2(b'\n', b'\r', &chunk[pos..]) {
            let end = pos + len;
            // Whether a line is too long must not depend on where chunks were cut.
            self.check_size(len)?;
            if self.line.is_empty() {
                self.take_line(&chunk[pos..end], on_event);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&chunk[pos..end]);
                self.take_line(&line, on_event);
                line.clear();
                self.line = line;
            }
            self.check_size(0)?;
            pos = end + 1;
            if chunk[end] == b'\r' {
                match chunk.get(pos) {
                    Some(b'\n') => pos += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if self.is_between_events() {
                settled = pos;
            }
        }
        self.line.extend_from_slice(&chunk[pos..]);
        self.check_size(0)?;
        Ok(settled)
    }

    /// The stream is over. An event that lacks only its final empty line is handed over all the same (several providers
    /// end that way), and reported, so that the caller can judge whether it was cut.
    pub fn finish(mut self, on_event: &mut dyn FnMut(SseEvent<'_>)) -> Option<Incomplete> {
        let line = std::mem::take(&mut self.line);
        let n_bytes = line.len() + self.data.len() + self.event.len();
        self.take_line(&line, on_event);
        if !line.is_empty() {
            self.take_line(b"", on_event);
        }
        (n_bytes > 0).then_some(Incomplete { n_bytes })
    }

    fn is_between_events(&self) -> bool {
        self.line.is_empty() && self.data.is_empty() && self.event.is_empty()
    }

    fn check_size(&self, more: usize) -> Result<(), EventTooLarge> {
        let held = more + self.line.len() + self.data.len() + self.event.len() + self.id.len();
        if held > self.max_event_bytes {
            return Err(EventTooLarge { max_event_bytes: self.max_event_bytes });
        }
        Ok(())
    }

    /// One line without its end.
    fn take_line(&mut self, line: &[u8], on_event: &mut dyn FnMut(SseEvent<'_>)) {
        let line =
            if std::mem::take(&mut self.at_start) { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.is_empty() {
            return self.dispatch(on_event);
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => {
                self.event.clear();
                self.event.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) => {
                self.id.clear();
                self.id.extend_from_slice(value);
            }
            // Comments (no field name), `retry` (a matter of the client's) and unknown fields.
            _ => {}
        }
    }

    fn dispatch(&mut self, on_event: &mut dyn FnMut(SseEvent<'_>)) {
        if let Some(data) = self.data.strip_suffix(b"\n")
            && !data.is_empty()
        {
            on_event(SseEvent { event: &self.event, data, id: &self.id });
        }
        self.data.clear();
        self.event.clear();
    }
}

/// The visible end of a stream that broke: one event with the error object, in the form that clients of `api` look for. If the
/// client already has part of an event, `mid_event` ends that one first.
pub fn error_event(error: &ApiError, api: Option<Api>, mid_event: bool) -> Bytes {
    // Anthropic's clients pass over events without a name.
    let is_named = matches!(api, Some(Api::AnthropicMessages | Api::AnthropicComplete));
    let json = if is_named { error.to_anthropic_json() } else { error.to_json() };
    let mut event = BytesMut::with_capacity(json.len() + 24);
    if mid_event {
        event.put_slice(b"\n\n");
    }
    if is_named {
        event.put_slice(b"event: error\n");
    }
    event.put_slice(b"data: ");
    event.put_slice(&json);
    event.put_slice(b"\n\n");
    event.freeze()
}

#[cfg(test)]
mod tests;
