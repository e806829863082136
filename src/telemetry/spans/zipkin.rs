//! Zipkin: a list of spans in the JSON of its API version 2, to be posted to `/api/v2/spans`. The exporters of the
//! OpenTelemetry project for it are no longer kept up, and the form is small.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::{Hex, SERVICE, Span, SpanKind, since_1970};

/// Where collectors take spans.
pub const PATH: &str = "/api/v2/spans";

/// The body of one POST.
///
/// # Errors
/// None that a span can cause.
pub fn request(spans: &[Span]) -> serde_json::Result<Bytes> {
    serde_json::to_vec(&spans.iter().map(Written::from).collect::<Vec<_>>()).map(Bytes::from)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    name: &'a str,
    kind: &'static str,
    /// Microseconds, as the duration.
    timestamp: u128,
    duration: u128,
    local_endpoint: Endpoint,
    tags: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    service_name: &'static str,
}

impl<'a> From<&'a Span> for Written<'a> {
    fn from(span: &'a Span) -> Self {
        let (start, end) = (since_1970(span.start), since_1970(span.end));
        let mut tags: BTreeMap<_, _> = span.attributes.iter().map(|(name, value)| (*name, value.to_string())).collect();
        if span.is_error {
            tags.insert("error", "true".to_owned());
        }
        Written {
            trace_id: Hex(&span.trace_id).to_string(),
            id: Hex(&span.span_id).to_string(),
            parent_id: span.parent_id.as_ref().map(|id| Hex(id).to_string()),
            name: &span.name,
            kind: match span.kind {
                SpanKind::Server => "SERVER",
                SpanKind::Client => "CLIENT",
            },
            timestamp: start.as_micros(),
            // Zero would mean that it is not known.
            duration: end.saturating_sub(start).as_micros().max(1),
            local_endpoint: Endpoint { service_name: SERVICE },
            tags,
        }
    }
}
