//! Trace context of W3C, Zipkin (B3) and SkyWalking: continue the client's trace or start one, so that every hop carries the
//! same trace id.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

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
    /// Continues `header` if it is a valid `traceparent`, else starts a trace named after the request, to be recorded if
    /// `sampled`.
    pub fn continue_or_start(header: Option<&[u8]>, id: &RequestId, sampled: bool) -> TraceContext {
        match header.and_then(parse) {
            Some((trace_id, parent_id, sampled)) => {
                TraceContext { trace_id, span_id: own_span(id), parent_id: Some(parent_id), sampled }
            }
            None => TraceContext { trace_id: *id.as_bytes(), span_id: own_span(id), parent_id: None, sampled },
        }
    }

    /// Continues a trace by the values of `x-b3-traceid`, `x-b3-spanid` and `x-b3-sampled`; where the last is missing,
    /// `sampled` decides. `None` if they name no trace.
    pub fn continue_b3(
        trace: &str,
        span: &str,
        decided: Option<&str>,
        id: &RequestId,
        sampled: bool,
    ) -> Option<TraceContext> {
        let (trace, span) = (trace.to_ascii_lowercase(), span.to_ascii_lowercase());
        // Older tracers write 64 bits, the lower ones.
        let trace_id = if trace.len() == 16 { unhex::<16>(&format!("{trace:0>32}")) } else { unhex::<16>(&trace) }?;
        let parent_id = unhex::<8>(&span)?;
        let sampled = decided.map_or(sampled, is_to_be_sampled);
        (trace_id != [0; 16] && parent_id != [0; 8]).then(|| TraceContext {
            trace_id,
            span_id: own_span(id),
            parent_id: Some(parent_id),
            sampled,
        })
    }

    /// The headers of Zipkin that continue this trace.
    pub fn b3(&self) -> impl Iterator<Item = (&'static str, String)> {
        let sampled = if self.sampled { "1" } else { "0" };
        let parent = self.parent_id.map(|parent| ("x-b3-parentspanid", hex(&parent)));
        [
            ("x-b3-traceid", hex(&self.trace_id)),
            ("x-b3-spanid", hex(&self.span_id)),
            ("x-b3-sampled", sampled.to_owned()),
        ]
        .into_iter()
        .chain(parent)
    }

    /// The header `sw8` of SkyWalking that continues this trace: from `service`, entered at `operation`, towards `peer`.
    pub fn sw8(&self, service: &str, operation: &str, peer: &str) -> String {
        let encoded = |text: &str| STANDARD.encode(text);
        let (service, segment) = (encoded(service), encoded(&hex(&self.span_id)));
        let (trace, sampled) = (encoded(&hex(&self.trace_id)), u8::from(self.sampled));
        format!("{sampled}-{trace}-{segment}-0-{service}-{service}-{}-{}", encoded(operation), encoded(peer))
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

/// What a tracer writes where a trace is to be recorded: of B3 and SkyWalking.
pub fn is_to_be_sampled(decision: &str) -> bool {
    matches!(decision, "1" | "true" | "d")
}

/// The tail of the request's id is random.
fn own_span(id: &RequestId) -> [u8; 8] {
    let mut span_id = [0; 8];
    span_id.copy_from_slice(&id.as_bytes()[8..]);
    span_id
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
        let context = TraceContext::continue_or_start(Some(sent.as_bytes()), &id, false);
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
            let context = TraceContext::continue_or_start(Some(bad.as_bytes()), &id, true);
            assert_eq!(context.trace_id, *id.as_bytes(), "{bad}");
            assert_eq!(context.parent_id, None);
        }
    }

    #[test]
    fn the_headers_of_zipkin_are_read_and_written() {
        let id = RequestId::new();
        let from = |trace: &str, span: &str, decided| TraceContext::continue_b3(trace, span, decided, &id, true);
        let context = from("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312", Some("0")).unwrap();
        assert!(!context.sampled);
        let written: Vec<_> = context.b3().collect();
        assert_eq!(written[0], ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124".to_owned()));
        assert_eq!(written[3], ("x-b3-parentspanid", "a2fb4a1d1a96d312".to_owned()));
        let short = from("48485a3953bb6124", "a2fb4a1d1a96d312", None).unwrap();
        assert_eq!((short.trace_id_hex().as_str(), short.sampled), ("000000000000000048485a3953bb6124", true));
        for (trace, span) in [("", ""), ("0000000000000000", "a2fb4a1d1a96d312"), ("48485a3953bb6124", "zz")] {
            assert_eq!(from(trace, span, None), None, "{trace} {span}");
        }
    }
}
