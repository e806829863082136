//! OpenTelemetry: `ExportTraceServiceRequest` in OTLP's JSON encoding, to be posted to `/v1/traces`.
//!
//! That is the Protobuf JSON mapping (64-bit integers are strings, enums are numbers) except for ids, which are hex.

use std::fmt::Display;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::{AttributeValue, Hex, Span, SpanKind, since_1970};

/// Where collectors take traces.
pub const PATH: &str = "/v1/traces";

/// Where traces are posted: the standard path below the setting `telemetry.otlp_endpoint`.
pub fn traces_url(endpoint: &str) -> String {
    format!("{}{PATH}", endpoint.trim_end_matches('/'))
}

/// The body of one POST.
///
/// # Errors
/// None that a span can cause: every key is a string and the sink is memory. The signature is the serializer's.
pub fn request(spans: &[Span]) -> serde_json::Result<Bytes> {
    let resource = [
        ("service.name", AttributeValue::String("weirgate".into())),
        ("service.version", AttributeValue::String(env!("CARGO_PKG_VERSION").into())),
    ];
    let request = Request {
        resource_spans: [ResourceSpans {
            resource: Resource { attributes: Attributes(&resource) },
            scope_spans: [ScopeSpans { scope: Scope { name: "weirgate" }, spans }],
        }],
    };
    serde_json::to_vec(&request).map(Bytes::from)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: Attributes<'a>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: &'a [Span],
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = match self.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        };
        let status = Status { code: if self.is_error { 2 } else { 1 } };
        let mut span = serializer.serialize_struct("Span", 9)?;
        span.serialize_field("traceId", &Text(Hex(&self.trace_id)))?;
        span.serialize_field("spanId", &Text(Hex(&self.span_id)))?;
        if let Some(parent_id) = &self.parent_id {
            span.serialize_field("parentSpanId", &Text(Hex(parent_id)))?;
        }
        span.serialize_field("name", &self.name)?;
        span.serialize_field("kind", &kind)?;
        span.serialize_field("startTimeUnixNano", &Text(since_1970(self.start).as_nanos()))?;
        span.serialize_field("endTimeUnixNano", &Text(since_1970(self.end).as_nanos()))?;
        span.serialize_field("attributes", &Attributes(&self.attributes))?;
        span.serialize_field("status", &status)?;
        span.end()
    }
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

struct Attributes<'a>(&'a [(&'static str, AttributeValue)]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(key, value)| KeyValue { key, value }))
    }
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'a str,
    value: &'a AttributeValue,
}

/// Protobuf's `AnyValue`: an object whose only key says the type.
impl Serialize for AttributeValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AttributeValue::String(text) => serializer.collect_map([("stringValue", text)]),
            AttributeValue::Int(number) => serializer.collect_map([("intValue", Text(number))]),
            AttributeValue::Bool(flag) => serializer.collect_map([("boolValue", flag)]),
            AttributeValue::Double(number) if number.is_finite() => serializer.collect_map([("doubleValue", number)]),
            AttributeValue::Double(number) => serializer.collect_map([("doubleValue", non_finite(*number))]),
            AttributeValue::Strings(texts) => {
                let values = texts.iter().map(|string_value| StringValue { string_value }).collect();
                serializer.collect_map([("arrayValue", ArrayValue { values })])
            }
        }
    }
}

#[derive(Serialize)]
struct ArrayValue<'a> {
    values: Vec<StringValue<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StringValue<'a> {
    string_value: &'a str,
}

/// JSON has no number for these three; Protobuf spells them as strings.
fn non_finite(number: f64) -> &'static str {
    match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// Serialized as the string it displays as.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
