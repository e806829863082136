//! `jsonrpc-converter`: copies the parts of JSON-RPC and MCP messages to headers, for the plugins between its two instances. Default
//! phase, priority 50.
//!
//! One instance (`stage: request`) stands before those plugins, another (`stage: response`) behind them: the first writes the
//! request's headers and removes the answer's, the second writes the answer's and removes the request's. Higress' name for it in the
//! console is `json-converter`. Differences from Higress: numeric ids are copied too, `x-envoy-jsonrpc-error` is removed like the
//! others; the answer's headers exist from its body on, so plugins that look at heads only do not see them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;

use super::form::media_type;
use super::json_edit::is_json;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "jsonrpc-converter",
    phase: Phase::Unspecified,
    priority: 50,
    family: Family::Go,
    summary: "Shows the parts of JSON-RPC and MCP messages to other plugins as headers",
    build,
    check: |scope| Config::read(scope).1,
};

const ID: HeaderName = HeaderName::from_static("x-envoy-jsonrpc-id");
const METHOD: HeaderName = HeaderName::from_static("x-envoy-jsonrpc-method");
const PARAMS: HeaderName = HeaderName::from_static("x-envoy-jsonrpc-params");
const RESULT: HeaderName = HeaderName::from_static("x-envoy-jsonrpc-result");
const ERROR: HeaderName = HeaderName::from_static("x-envoy-jsonrpc-error");
const TOOL_NAME: HeaderName = HeaderName::from_static("x-envoy-mcp-tool-name");
const TOOL_ARGUMENTS: HeaderName = HeaderName::from_static("x-envoy-mcp-tool-arguments");
const TOOL_RESPONSE: HeaderName = HeaderName::from_static("x-envoy-mcp-tool-response");
const TOOL_ERROR: HeaderName = HeaderName::from_static("x-envoy-mcp-tool-error");
const ALL: [HeaderName; 9] = [ID, METHOD, PARAMS, RESULT, ERROR, TOOL_NAME, TOOL_ARGUMENTS, TOOL_RESPONSE, TOOL_ERROR];

struct Config {
    stage: Stage,
    max_length: usize,
    methods: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Request,
    Response,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let stage = match fields.string("stage") {
            Some("request") => Stage::Request,
            Some("response") => Stage::Response,
            _ => {
                fields.problem("stage", "must be request or response");
                Stage::Request
            }
        };
        let length = fields.count("max_header_length").filter(|length| *length > 0).unwrap_or(4000);
        let mut methods = fields.strings("allowed_methods").unwrap_or_default();
        if methods.is_empty() {
            methods = vec!["tools/list".into(), "tools/call".into()];
        }
        let max_length = usize::try_from(length).unwrap_or(usize::MAX);
        (Config { stage, max_length, methods }, fields.finish())
    }

    /// A message part as a header value: cut in the middle if it is too long, without line breaks.
    fn value(&self, text: &str) -> Option<HeaderValue> {
        let bytes = text.as_bytes();
        let mut shown = if bytes.len() <= self.max_length {
            bytes.to_vec()
        } else {
            let half = self.max_length / 2;
            [&bytes[..half], b"...(truncated)...", &bytes[bytes.len() - half..]].concat()
        };
        shown.iter_mut().filter(|byte| byte.is_ascii_control()).for_each(|byte| *byte = b' ');
        HeaderValue::from_bytes(&shown).ok().filter(|_| !text.is_empty())
    }
}

struct Converter {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(Converter { config }))) } else { Err(problems) }
}

/// The request's method, for its answer. Both instances note the same.
#[derive(Clone)]
struct Method(String);

#[async_trait]
impl Plugin for Converter {
    fn wants_body(&self, request: &Request<'_>) -> bool {
        request.content_type().is_some_and(|kind| kind == "application/json")
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        if self.config.stage == Stage::Response {
            for name in &ALL {
                let _ = request.head.remove_header(name);
            }
        }
        let body = request.state.body.clone().unwrap_or_default();
        let Some(message) = message(&body) else { return Flow::Continue };
        let method = gjson::get(message, "method").str().to_owned();
        if self.config.stage == Stage::Request && self.config.methods.contains(&method) {
            let mut put = |name: HeaderName, text: &str| {
                if let Some(value) = self.config.value(text) {
                    // Insertion fails only on names that are not header names.
                    let _ = request.head.insert_header(name, value);
                }
            };
            put(ID, gjson::get(message, "id").str());
            put(METHOD, &method);
            if method == "tools/call" {
                put(TOOL_NAME, gjson::get(message, "params.name").str());
                put(TOOL_ARGUMENTS, gjson::get(message, "params.arguments").json());
            } else {
                put(PARAMS, gjson::get(message, "params").json());
            }
            request.state.told_upstream = true;
        }
        request.state.notes.insert(Method(method));
        Flow::Continue
    }

    fn may_hold_answer(&self, request: &Request<'_>) -> bool {
        self.config.stage == Stage::Response && self.method(request).is_some()
    }

    fn wants_response_body(&self, request: &Request<'_>, response: &ResponseHeader) -> bool {
        match self.config.stage {
            Stage::Request => ALL.iter().any(|name| response.headers.contains_key(name)),
            Stage::Response => {
                let kind = response.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
                self.method(request).is_some() && kind.is_some_and(|kind| media_type(kind) == "application/json")
            }
        }
    }

    async fn on_response_body(&self, request: &mut Request<'_>, response: &mut ResponseHeader, body: &mut Bytes) {
        if self.config.stage == Stage::Request {
            for name in &ALL {
                let _ = response.remove_header(name);
            }
            return;
        }
        let (Some(method), Some(message)) = (self.method(request), message(body)) else { return };
        let mut put = |name: HeaderName, text: &str| {
            if let Some(value) = self.config.value(text) {
                let _ = response.insert_header(name, value);
            }
        };
        put(ID, gjson::get(message, "id").str());
        put(METHOD, method);
        match method {
            "tools/list" => put(RESULT, gjson::get(message, "result.tools").json()),
            "tools/call" => {
                put(TOOL_RESPONSE, gjson::get(message, "result.content").json());
                put(TOOL_ERROR, if gjson::get(message, "result.isError").bool() { "true" } else { "false" });
            }
            _ => {
                put(RESULT, gjson::get(message, "result").json());
                put(ERROR, gjson::get(message, "error").json());
            }
        }
    }
}

impl Converter {
    /// The request's method, if it is one to convert.
    fn method<'a>(&self, request: &'a Request<'_>) -> Option<&'a str> {
        let Method(method) = request.state.notes.get()?;
        self.config.methods.contains(method).then_some(method.as_str())
    }
}

/// A body as JSON-RPC message.
fn message(body: &Bytes) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    (is_json(text) && gjson::get(text, "jsonrpc").exists()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Exchange, answer, built, problem_fields};

    #[test]
    fn a_call_is_shown_between_the_two_instances() {
        let before = built(&SPEC, &json!({"stage": "request"}));
        let behind = built(&SPEC, &json!({"stage": "response"}));
        let sent = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"add","arguments":{"a": "ü\n"}}}"#;
        let mut exchange = Exchange::new("POST", "/mcp", &[("content-type", "application/json")]).with_body(sent);
        exchange.run(&before);
        let shown = |exchange: &Exchange, name: &HeaderName| {
            exchange.head.headers.get(name).map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
        };
        assert_eq!(shown(&exchange, &ID).as_deref(), Some("7"));
        assert_eq!(shown(&exchange, &METHOD).as_deref(), Some("tools/call"));
        assert_eq!(shown(&exchange, &TOOL_NAME).as_deref(), Some("add"));
        assert_eq!(shown(&exchange, &TOOL_ARGUMENTS).as_deref(), Some(r#"{"a": "ü\n"}"#));
        assert_eq!(shown(&exchange, &PARAMS), None);
        exchange.run(&behind);
        assert!(ALL.iter().all(|name| shown(&exchange, name).is_none()), "nothing goes upstream");

        let body = "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[\n1],\"isError\":true}}";
        let got = exchange.answered(&behind, answer(200, &[("content-type", "application/json")], body));
        assert_eq!(got.head.headers[&TOOL_RESPONSE], "[ 1]");
        assert_eq!(
            (&got.head.headers[&TOOL_ERROR], &got.head.headers[&ID]),
            (&"true".parse().unwrap(), &"7".parse().unwrap())
        );
        exchange.state.is_upstream_answer = false;
        let got = exchange.replied(&before, got);
        assert!(ALL.iter().all(|name| !got.head.headers.contains_key(name)), "nothing goes to the client");
        assert_eq!(got.body, body);
    }

    #[test]
    fn other_methods_and_bodies_are_left_alone_and_long_values_cut() {
        let plugin = built(&SPEC, &json!({"stage": "request", "allowed_methods": ["ping"], "max_header_length": 6}));
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","method":"ping","params":[1,2,3,4]}"#, Some("[1,...(truncated)...,4]")),
            (r#"{"jsonrpc":"2.0","method":"tools/call","params":[1]}"#, None),
            (r#"{"method":"ping","params":[1]}"#, None),
            ("{", None),
        ] {
            let mut exchange = Exchange::new("POST", "/", &[("content-type", "application/json")]).with_body(body);
            exchange.run(&plugin);
            assert_eq!(exchange.header("x-envoy-jsonrpc-params"), expected, "{body}");
        }
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({"stage": "both", "typo": 1})), ["stage", "typo"]);
    }
}
