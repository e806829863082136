//! Streams repeat themselves: from one event of an OpenAI chat stream to the next, a few characters of text change and two
//! hundred bytes around them do not. Remembering those bytes spares parsing them again.

use std::ops::Range;

use crate::llm::json::plain_prefix;

/// The bytes around the text of the last event.
#[derive(Debug)]
pub struct Frame {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Frame {
    /// The frame of an event around `text`, which must be a part of `event` and not a copy.
    pub fn around(text: &str, event: &[u8]) -> Option<Frame> {
        let Range { start, end } = event.as_ptr_range();
        let within = text.as_bytes().as_ptr_range();
        if within.start < start || end < within.end {
            return None;
        }
        let (before, rest) = event.split_at(within.start.addr() - start.addr());
        let after = &rest[text.len()..];
        // A number is text too, to those who read leniently; only a string is bounded by its quotes.
        let is_string = before.ends_with(b"\"") && after.starts_with(b"\"");
        is_string.then(|| Frame { before: before.to_vec(), after: after.to_vec() })
    }

    /// The text of an event that has this frame. `None` if anything else changed, or if the text holds escapes.
    pub fn text<'a>(&self, event: &'a [u8]) -> Option<&'a str> {
        let text = event.strip_prefix(self.before.as_slice())?.strip_suffix(self.after.as_slice())?;
        let is_plain = plain_prefix(text) == text.len();
        is_plain.then(|| std::str::from_utf8(text).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_may_differ() {
        let event = br#"{"id":"a","choices":[{"delta":{"content":"Hello"},"finish_reason":null}]}"#;
        let at = event.windows(5).position(|window| window == b"Hello").unwrap();
        let frame = Frame::around(std::str::from_utf8(&event[at..at + 5]).unwrap(), event).unwrap();
        let text = |content: &str, rest: &str| {
            let event =
                format!(r#"{{"id":"a","choices":[{{"delta":{{"content":"{content}"}},"finish_reason":{rest}}}]}}"#);
            frame.text(event.as_bytes()).map(str::to_owned)
        };
        assert_eq!(text("世界", "null").as_deref(), Some("世界"));
        assert_eq!(text("", "null").as_deref(), Some(""));
        assert_eq!(text("bye", "\"stop\""), None);
        assert_eq!(text("x\",\"role\":\"y", "null"), None, "a quote ends the text");
        assert_eq!(text("line\\n", "null"), None, "escapes are decoded by the parser");
        assert!(Frame::around("Hello", event).is_none(), "a copy has no place in the event");
        assert!(Frame::around(std::str::from_utf8(&event[2..3]).unwrap(), event).is_none(), "not a whole string");
    }
}
