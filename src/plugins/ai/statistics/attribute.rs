//! Configured attributes of `ai-statistics`: where a value comes from and how pieces of a stream are joined.

use bytes::Bytes;
use serde_json::Value;

use crate::llm::sse::SseParser;
use crate::plugins::Request;
use crate::plugins::config::{FieldProblem, Fields, is_usable};

/// Largest answer body kept for `response_body` attributes, and largest stream event.
const BODY_LIMIT: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    key: String,
    source: Source,
    default: Option<String>,
    rule: Rule,
}

/// Paths are in gjson syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Fixed(String),
    RequestHeader(String),
    RequestBody(String),
    ResponseHeader(String),
    ResponseBody(String),
    Stream(String),
    /// What was made out of the answer, streamed or not, by the attribute's own key.
    Observed,
}

/// What a stream attribute keeps of the values its events have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    First,
    Replace,
    Append,
}

/// Built-in names that may leave out their source, with it and the path.
const OF_REQUEST: &[(&str, &str, &str)] =
    &[("question", "request_body", "messages.@reverse.0.content"), ("system", "request_body", "system")];

/// Paths of built-in names whose source is given.
const PATHS: &[(&str, &str, &str)] = &[
    ("answer", "response_streaming_body", "choices.0.delta.content"),
    ("answer", "response_body", "choices.0.message.content"),
    ("reasoning", "response_streaming_body", "choices.0.delta.reasoning_content"),
    ("reasoning", "response_body", "choices.0.message.reasoning_content"),
];

/// Built-in names that may leave out their source, of the answer. Tokens are logged anyway.
const OF_ANSWER: &[&str] = &[
    "answer",
    "reasoning",
    "tool_calls",
    "reasoning_tokens",
    "cached_tokens",
    "input_token_details",
    "output_token_details",
];

impl Attribute {
    /// The attribute if it is usable, and every problem with its field.
    pub fn read(value: &Value, at: &str) -> (Option<Attribute>, Vec<FieldProblem>) {
        let mut fields = Fields::of(value, at);
        let key = fields.string("key").unwrap_or_default().to_owned();
        if key.is_empty() {
            fields.problem("key", "must name the attribute");
        }
        let built_in = OF_REQUEST.iter().find(|(name, _, _)| *name == key);
        let written = fields.string("value_source").filter(|source| !source.is_empty());
        let source = written.or(built_in.map(|(_, source, _)| *source)).unwrap_or_default();
        let known = OF_REQUEST.iter().chain(PATHS).find(|(name, from, _)| *name == key && *from == source);
        let mut from = fields.string("value").or(known.map(|(_, _, path)| *path)).map(str::to_owned);
        let is_observed = written.is_none() && OF_ANSWER.contains(&key.as_str());
        if is_observed {
            from = Some(String::new());
        }
        let make: Option<fn(String) -> Source> = match source {
            _ if is_observed => Some(|_| Source::Observed),
            "fixed_value" => Some(Source::Fixed),
            "request_header" => Some(Source::RequestHeader),
            "request_body" => Some(Source::RequestBody),
            "response_header" => Some(Source::ResponseHeader),
            "response_body" => Some(Source::ResponseBody),
            "response_streaming_body" => Some(Source::Stream),
            _ => None,
        };
        if make.is_none() {
            fields.problem(
                "value_source",
                format!("\"{source}\" is unknown; use fixed_value, request_header, request_body, response_header, response_body or response_streaming_body"),
            );
        } else if from.is_none() {
            fields.problem("value", "must be the literal, header name or path");
        }
        let rule = match fields.string("rule").unwrap_or("append") {
            "first" => Rule::First,
            "replace" => Rule::Replace,
            "append" => Rule::Append,
            other => {
                let message = format!("\"{other}\" is unknown; use first, replace or append");
                fields.problem("rule", message);
                Rule::Append
            }
        };
        let default = fields.get("default_value").map(text);
        for flag in ["apply_to_log", "apply_to_span", "as_separate_log_field"] {
            fields.boolean(flag);
        }
        fields.string("trace_span_key");
        let problems = fields.finish();
        let source = make.zip(from).filter(|_| is_usable(&problems)).map(|(make, from)| make(from));
        (source.map(|source| Attribute { key, source, default, rule }), problems)
    }

    /// The key of an attribute that is made out of the answer, and its value where there is none.
    pub fn observed(&self) -> Option<(&str, Option<&str>)> {
        (self.source == Source::Observed).then_some((self.key.as_str(), self.default.as_deref()))
    }
}

/// The values of one request, by attribute position.
#[derive(Default)]
pub struct Capture {
    values: Vec<Option<String>>,
    body: Vec<u8>,
    stream: Option<SseParser>,
}

impl Capture {
    pub fn see_request(&mut self, attributes: &[Attribute], request: &Request<'_>, body: &Bytes) {
        self.values = vec![None; attributes.len()];
        for (attribute, value) in attributes.iter().zip(&mut self.values) {
            *value = match &attribute.source {
                Source::Fixed(text) => Some(text.clone()),
                Source::RequestHeader(name) => request.header(name).map(str::to_owned),
                Source::RequestBody(path) => std::str::from_utf8(body).ok().and_then(|body| lookup(body, path)),
                _ => None,
            };
        }
    }

    pub fn see_response_head(&mut self, attributes: &[Attribute], head: &pingora_http::ResponseHeader) {
        let kind = head.headers.get(http::header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            self.stream = Some(SseParser::new(BODY_LIMIT));
        }
        for (attribute, value) in attributes.iter().zip(&mut self.values) {
            if let Source::ResponseHeader(name) = &attribute.source {
                *value = head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            }
        }
    }

    pub fn see_chunk(&mut self, attributes: &[Attribute], chunk: &[u8]) {
        let Some(parser) = &mut self.stream else {
            if self.body.len() + chunk.len() <= BODY_LIMIT {
                self.body.extend_from_slice(chunk);
            }
            return;
        };
        let values = &mut self.values;
        // An event over the limit ends the capture; what was captured stays.
        let _ = parser.push(chunk, &mut |event| {
            let Ok(data) = std::str::from_utf8(event.data) else { return };
            for (attribute, value) in attributes.iter().zip(values.iter_mut()) {
                if let Source::Stream(path) = &attribute.source
                    && let Some(found) = lookup(data, path)
                {
                    match (attribute.rule, value.as_mut()) {
                        (Rule::Append, Some(value)) if value.len() + found.len() <= BODY_LIMIT => {
                            value.push_str(&found);
                        }
                        (Rule::Append, Some(_)) => {}
                        (Rule::First, Some(_)) => {}
                        _ => *value = Some(found),
                    }
                }
            }
        });
    }

    /// Key and value of every attribute that has one.
    pub fn finish(&mut self, attributes: &[Attribute]) -> Vec<(String, String)> {
        let body = std::str::from_utf8(&self.body).unwrap_or_default();
        let mut found = Vec::with_capacity(attributes.len());
        for (attribute, value) in attributes.iter().zip(&mut self.values) {
            if let Source::ResponseBody(path) = &attribute.source {
                *value = lookup(body, path);
            }
            if attribute.source == Source::Observed {
                continue;
            }
            let value = value.take().filter(|value| !value.is_empty()).or_else(|| attribute.default.clone());
            found.extend(value.map(|value| (attribute.key.clone(), value)));
        }
        found
    }
}

pub fn lookup(json: &str, path: &str) -> Option<String> {
    let value = gjson::get(json, path);
    value.exists().then(|| value.str().to_owned())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use pingora_http::ResponseHeader;
    use serde_json::json;

    use super::*;

    fn attributes(values: &[Value]) -> Vec<Attribute> {
        values.iter().map(|value| Attribute::read(value, "").0.unwrap()).collect()
    }

    #[test]
    fn stream_pieces_are_joined_by_their_rule() {
        let attributes = attributes(&[
            json!({"key": "answer", "value_source": "response_streaming_body"}),
            json!({"key": "first", "value_source": "response_streaming_body", "value": "id", "rule": "first"}),
            json!({"key": "last", "value_source": "response_streaming_body", "value": "id", "rule": "replace"}),
            json!({"key": "none", "value_source": "response_streaming_body", "value": "zzz", "default_value": "d"}),
        ]);
        let mut capture = Capture { values: vec![None; 4], ..Capture::default() };
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("content-type", "text/event-stream; charset=utf-8").unwrap();
        capture.see_response_head(&attributes, &head);
        let stream = "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"He\"}}]}\n\ndata: {\"id\":\"2\",\"choices\":[{\"delta\":{\"content\":\"llo\"}}]}\n\ndata: [DONE]\n\n";
        for chunk in stream.as_bytes().chunks(7) {
            capture.see_chunk(&attributes, chunk);
        }
        let found = capture.finish(&attributes);
        let expected = [("answer", "Hello"), ("first", "1"), ("last", "2"), ("none", "d")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn bodies_are_searched_whole() {
        let attributes =
            attributes(&[json!({"key": "n", "value_source": "response_body", "value": "usage.total_tokens"})]);
        let mut capture = Capture { values: vec![None], ..Capture::default() };
        capture.see_chunk(&attributes, b"{\"usage\":{\"total_");
        capture.see_chunk(&attributes, b"tokens\":7}}");
        assert_eq!(capture.finish(&attributes), [("n".to_owned(), "7".to_owned())]);
    }
}
