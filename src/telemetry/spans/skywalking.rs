//! SkyWalking: a list of segments in the JSON of its protocol version 3, to be posted to `/v3/segments` of the collector's
//! HTTP port. Each span is a segment of its own: the parts of a request inside this process are attributes, not spans.

use bytes::Bytes;
use serde::Serialize;

use super::{Hex, SERVICE, Span, SpanKind, since_1970};

/// Where collectors take segments.
pub const PATH: &str = "/v3/segments";

/// What SkyWalking shows as the kind of component: an HTTP proxy that it knows by this number.
const COMPONENT: u32 = 6000;

/// The body of one POST.
///
/// # Errors
/// None that a span can cause.
pub fn request(spans: &[Span]) -> serde_json::Result<Bytes> {
    serde_json::to_vec(&spans.iter().map(Segment::from).collect::<Vec<_>>()).map(Bytes::from)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment<'a> {
    trace_id: String,
    trace_segment_id: String,
    service: &'static str,
    service_instance: &'static str,
    spans: [Written<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    operation_name: &'a str,
    /// Milliseconds, as the end.
    start_time: u128,
    end_time: u128,
    span_type: &'static str,
    span_layer: &'static str,
    span_id: i32,
    /// None, in this segment.
    parent_span_id: i32,
    component_id: u32,
    is_error: bool,
    tags: Vec<Tag>,
}

#[derive(Serialize)]
struct Tag {
    key: &'static str,
    value: String,
}

impl<'a> From<&'a Span> for Segment<'a> {
    fn from(span: &'a Span) -> Self {
        let written = Written {
            operation_name: &span.name,
            start_time: since_1970(span.start).as_millis(),
            end_time: since_1970(span.end).as_millis(),
            span_type: match span.kind {
                SpanKind::Server => "Entry",
                SpanKind::Client => "Exit",
            },
            span_layer: "Http",
            span_id: 0,
            parent_span_id: -1,
            component_id: COMPONENT,
            is_error: span.is_error,
            tags: span.attributes.iter().map(|(key, value)| Tag { key, value: value.to_string() }).collect(),
        };
        Segment {
            trace_id: Hex(&span.trace_id).to_string(),
            trace_segment_id: Hex(&span.span_id).to_string(),
            service: SERVICE,
            service_instance: SERVICE,
            spans: [written],
        }
    }
}
