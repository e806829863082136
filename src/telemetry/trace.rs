//! W3C trace context: continue the client's trace or start one, so that every hop carries the same trace id.

use std::fmt;

use crate::base::ids::RequestId;

/// The `traceparent` this process sends on: the trace it belongs to and our own span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub parent_id: Option<[u8; 8]>,
    pub sampled: bool,
}

impl TraceContext {
    /// Continues `header` if it is a valid `traceparent`, else starts a trace named after the request.
    pub fn continue_or_start(header: Option<&[u8]>, id: &RequestId) -> TraceContext {
        let own = id.as_bytes();
        let mut span_id = [0; 8];
        span_id.copy_from_slice(&own[8..]);
        match header.and_then(parse) {
            Some((trace_id, parent_id, sampled)) => {
                TraceContext { trace_id, span_id, parent_id: Some(parent_id), sampled }
            }
            None => TraceContext { trace_id: *own, span_id, parent_id: None, sampled: true },
        }
    }

    pub fn trace_id_hex(&self) -> String {
        hex(&self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace_id), hex(&self.span_id), u8::from(self.sampled))
    }
}

/// Trace id, parent span id, sampled flag. All-zero ids and version `ff` are invalid by the standard.
fn parse(header: &[u8]) -> Option<([u8; 16], [u8; 8], bool)> {
    let text = std::str::from_utf8(header).ok()?.trim();
    let mut parts = text.split('-');
    let version = unhex::<1>(parts.next()?)?;
    let trace_id = unhex::<16>(parts.next()?)?;
    let parent_id = unhex::<8>(parts.next()?)?;
    let flags = unhex::<1>(parts.next()?)?;
    let known_length = version[0] != 0 || parts.next().is_none();
    let valid = version[0] != 0xff && trace_id != [0; 16] && parent_id != [0; 8] && known_length;
    valid.then_some((trace_id, parent_id, flags[0] & 1 == 1))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let lower_hex = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
    if digits.len() != 2 * N || !digits.iter().all(lower_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_traceparent_is_continued_and_anything_else_starts_a_trace() {
        let id = RequestId::new();
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::continue_or_start(Some(sent.as_bytes()), &id);
        assert_eq!(context.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.to_string().starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(!context.to_string().contains("00f067aa0ba902b7"), "our span is the new parent");
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "garbage",
        ] {
            let context = TraceContext::continue_or_start(Some(bad.as_bytes()), &id);
            assert_eq!(context.trace_id, *id.as_bytes(), "{bad}");
            assert_eq!(context.parent_id, None);
        }
    }
}
