//! `request-validation`: checks headers and JSON bodies against JSON Schemas. AUTHN phase, priority 220.
//!
//! Headers are shown to the schema as one object of strings (lower-case names, the last of equal ones, pseudo-headers
//! included). A body that is not a JSON object passes, as in Higress.
//!
//! Differences from Higress: a schema that cannot be used is a configuration error (there every request passes); references to
//! other documents are one too, nothing is fetched.

use std::sync::Arc;

use async_trait::async_trait;
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable, kind};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts, values};

pub const SPEC: PluginSpec = PluginSpec {
    name: "request-validation",
    phase: Phase::Authn,
    priority: 220,
    family: Family::Go,
    summary: "Checks headers and JSON bodies against JSON Schemas",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    headers: Option<Validator>,
    body: Option<Validator>,
    rejected_code: u16,
    rejected_msg: String,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let is_swagger = fields.boolean("enable_swagger").unwrap_or(false);
        let is_oas3 = fields.boolean("enable_oas3").unwrap_or(false);
        if is_swagger && is_oas3 {
            fields.problem("enable_oas3", "cannot be combined with enable_swagger: they mean different drafts");
        }
        let draft = if is_swagger { Draft::Draft4 } else { Draft::Draft7 };
        let headers = schema(&mut fields, "header_schema", draft);
        let body = schema(&mut fields, "body_schema", draft);
        let rejected_code = values::status(&mut fields, "rejected_code", 403);
        let rejected_msg = fields.string("rejected_msg").unwrap_or_default().to_owned();
        (Config { headers, body, rejected_code, rejected_msg }, fields.finish())
    }
}

/// A schema, written as an object or as its JSON text.
fn schema(fields: &mut Fields<'_>, key: &'static str, draft: Draft) -> Option<Validator> {
    let parsed = match fields.get(key)? {
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}")),
        object @ Value::Object(_) => Ok(object.clone()),
        other => Err(format!("must be a JSON Schema, found {}", kind(other))),
    };
    // Expressions in schemas run in linear time, as in Go.
    let options = jsonschema::options().with_draft(draft).with_pattern_options(PatternOptions::regex());
    let built = parsed.and_then(|schema| {
        options
            .build(&schema)
            .map_err(|error| format!("is not a usable JSON Schema: {error} (at {})", error.instance_path()))
    });
    match built {
        Ok(validator) => Some(validator),
        Err(message) => {
            fields.problem(key, message);
            None
        }
    }
}

struct RequestValidation {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let is_active = config.headers.is_some() || config.body.is_some();
    Ok(is_active.then(|| Arc::new(RequestValidation { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for RequestValidation {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        match &self.config.headers {
            Some(schema) if !schema.is_valid(&headers(request)) => self.refuse("request-validation.invalid_headers"),
            _ => Flow::Continue,
        }
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        self.config.body.is_some() && parts::may_have_body(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let body = request.state.body.as_deref().unwrap_or_default();
        // Parsers in front of which it stands skip a byte order mark.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match (&self.config.body, serde_json::from_slice(body)) {
            (Some(schema), Ok(body @ Value::Object(_))) if !schema.is_valid(&body) => {
                self.refuse("request-validation.invalid_body")
            }
            (Some(_), Err(error)) if might_be_read(body, &error) => self.refuse("request-validation.unreadable_body"),
            _ => Flow::Continue,
        }
    }
}

impl RequestValidation {
    fn refuse(&self, details: &str) -> Flow {
        Flow::respond(Reply::new(self.config.rejected_code, details).text(self.config.rejected_msg.clone()))
    }
}

/// Whether a parser that is less strict may see an object where ours saw none: text that is no Unicode, halves of characters, nesting
/// without end, numbers beyond all bounds. What is no JSON for anybody passes, as in Higress.
fn might_be_read(body: &[u8], error: &serde_json::Error) -> bool {
    let text = String::from_utf8_lossy(body);
    let is_object = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).starts_with('{');
    let told = error.to_string();
    let is_strict = ["recursion limit", "surrogate", "hex escape", "number out of range"]
        .iter()
        .any(|reason| told.contains(reason));
    is_object && (is_strict || std::str::from_utf8(body).is_err())
}

fn headers(request: &Request<'_>) -> Value {
    let mut object = Map::new();
    let mut set = |name: &str, value: &[u8]| {
        object.insert(name.to_owned(), Value::String(String::from_utf8_lossy(value).into_owned()));
    };
    set(":method", request.head.method.as_str().as_bytes());
    set(":path", parts::path_and_query(request).as_bytes());
    set(":scheme", if request.state.is_tls { b"https" } else { b"http" });
    if let Some(host) = request.head.headers.get(http::header::HOST) {
        set(":authority", host.as_bytes());
    }
    for (name, value) in &request.head.headers {
        set(name.as_str(), value.as_bytes());
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    fn refused(config: &Value, headers: &[(&'static str, &str)], body: &str) -> Option<String> {
        let mut exchange = Exchange::new("POST", "/path?q", headers).with_body(body.to_owned());
        exchange.head.insert_header("content-length", body.len().to_string()).unwrap();
        exchange.run(&built(&SPEC, config)).map(|reply| reply.details)
    }

    #[test]
    fn bodies_are_checked() {
        let schema = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 2, "pattern": "^[a-z]+$"},
            "age": {"type": "integer", "minimum": 0, "maximum": 200},
            "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "uniqueItems": true, "items": {"$ref": "#/definitions/tag"}}},
            "definitions": {"tag": {"type": "string"}}});
        let invalid = Some("request-validation.invalid_body");
        for config in [json!({"body_schema": schema}), json!({"body_schema": schema.to_string(), "enable_oas3": true})]
        {
            for (body, expected) in [
                (r#"{"name": "alice", "age": 3, "kind": "a", "tags": ["x", "y"]}"#, None),
                (r#"{"name": "A"}"#, invalid),
                (r#"{"age": 3}"#, invalid),
                (r#"{"name": "alice", "age": -1}"#, invalid),
                (r#"{"name": "alice", "kind": "c"}"#, invalid),
                (r#"{"name": "alice", "tags": [1]}"#, invalid),
                (r#"{"name": "alice", "tags": ["x", "x"]}"#, invalid),
                ("not JSON", None),
                ("[1]", None),
                ("", None),
            ] {
                assert_eq!(refused(&config, &[], body).as_deref(), expected, "{body}");
            }
        }
    }

    #[test]
    fn headers_are_checked() {
        let config = json!({"header_schema": {"type": "object", "required": ["x-id", ":path"],
            "properties": {"x-id": {"pattern": "^[0-9]+$"}, ":method": {"const": "POST"}}}});
        let invalid = Some("request-validation.invalid_headers");
        for (headers, expected) in [
            (&[("x-id", "12")][..], None),
            (&[("X-Id", "12")], None),
            (&[("x-id", "a12")], invalid),
            (&[("x-id", "a"), ("x-id", "1")], None),
            (&[], invalid),
        ] {
            assert_eq!(refused(&config, headers, "").as_deref(), expected, "{headers:?}");
        }
    }

    #[test]
    fn the_draft_is_chosen() {
        let boolean_minimum = json!({"type": "object", "properties": {"n": {"minimum": 1, "exclusiveMinimum": true}}});
        let swagger =
            json!({"enable_swagger": true, "body_schema": boolean_minimum, "rejected_code": 422, "rejected_msg": "no"});
        assert!(refused(&swagger, &[], r#"{"n": 1}"#).is_some());
        assert!(refused(&swagger, &[], r#"{"n": 2}"#).is_none());
        assert_eq!(
            problem_fields(&SPEC, &json!({"body_schema": boolean_minimum})),
            ["body_schema"],
            "draft 7 has numbers there"
        );
        let oas3 = json!({"enable_oas3": true, "body_schema": boolean_minimum});
        assert_eq!(problem_fields(&SPEC, &oas3), ["body_schema"]);
        let both = json!({"enable_swagger": true, "enable_oas3": true});
        assert_eq!(problem_fields(&SPEC, &both), ["enable_oas3"]);
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"enable_swagger": true, "enable_oas3": true, "header_schema": "{", "body_schema": 5, "rejected_code": 99});
        assert_eq!(problem_fields(&SPEC, &config), ["enable_oas3", "header_schema", "body_schema", "rejected_code"]);
        let remote = json!({"body_schema": {"$ref": "http://example.com/schema.json"}});
        assert_eq!(problem_fields(&SPEC, &remote), ["body_schema"], "nothing is fetched");
    }
}
