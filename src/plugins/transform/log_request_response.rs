//! `log-request-response`: headers and bodies of both halves in the access log. Default phase, priority 0.
//!
//! Bodies stream on while their beginnings are kept. The fields are called `request_headers`, `request_body`, `response_headers` and
//! `response_body`, as in the access log format that Higress documents for this plugin; no format has to be configured. Differences
//! from Higress: the credential by which a plugin recognised the consumer is not written, and `***` stands for it; `contentTypes` are
//! compared with the whole media type; bodies of compressed answers are not logged.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use pingora_http::ResponseHeader;
use serde_json::{Map, Value};

use super::form::media_type;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Host, Plugin, Request, without_credentials};

pub const SPEC: PluginSpec = PluginSpec {
    name: "log-request-response",
    phase: Phase::Unspecified,
    priority: 0,
    family: Family::Go,
    summary: "Headers and bodies of requests and answers in the access log",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    request: Half,
    response: Half,
}

struct Half {
    headers: bool,
    body: bool,
    max_size: usize,
    content_types: Vec<String>,
}

const REQUEST_TYPES: &[&str] =
    &["application/json", "application/xml", "application/x-www-form-urlencoded", "text/plain"];
const RESPONSE_TYPES: &[&str] = &["application/json", "application/xml", "text/plain", "text/html"];
const DEFAULT_SIZE: u64 = 10 * 1024;

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let request = Half::read(&mut fields, "request", REQUEST_TYPES);
        let response = Half::read(&mut fields, "response", RESPONSE_TYPES);
        (Config { request, response }, fields.finish())
    }
}

impl Half {
    fn read(fields: &mut Fields<'_>, key: &'static str, default_types: &[&str]) -> Half {
        let empty = Value::Object(Map::new());
        let mut half = Fields::of(fields.object(key).unwrap_or(&empty), key);
        let mut headers = Fields::of(half.object("headers").unwrap_or(&empty), &half.at("headers"));
        let mut body = Fields::of(half.object("body").unwrap_or(&empty), &half.at("body"));
        let max_size = body.count("maxSize").filter(|size| *size > 0).unwrap_or(DEFAULT_SIZE);
        let types = body.strings("contentTypes").filter(|types| !types.is_empty());
        let read = Half {
            headers: headers.boolean("enabled").unwrap_or(false),
            body: body.boolean("enabled").unwrap_or(false),
            max_size: usize::try_from(max_size).unwrap_or(usize::MAX),
            content_types: types.unwrap_or_else(|| default_types.iter().map(|kind| (*kind).to_owned()).collect()),
        };
        for found in [headers.finish(), body.finish(), half.finish()] {
            fields.problems.extend(found);
        }
        read
    }

    fn logs_body_of(&self, headers: &HeaderMap) -> bool {
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(media_type);
        self.body && kind.is_some_and(|kind| self.content_types.iter().any(|own| own.eq_ignore_ascii_case(&kind)))
    }
}

struct Logger {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(Logger { config }))) } else { Err(problems) }
}

/// Beginnings of the bodies that are logged; `None` for one that is not.
#[derive(Clone, Default)]
struct Bodies {
    request: Option<Vec<u8>>,
    response: Option<Vec<u8>>,
}

#[async_trait]
impl Plugin for Logger {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        if self.config.request.headers {
            let mut shown = Map::new();
            shown.insert("authority".into(), request.header("host").unwrap_or_default().into());
            shown.insert("method".into(), request.head.method.as_str().into());
            shown.insert("path".into(), shown_path(request).into());
            shown.insert("scheme".into(), if request.state.is_tls { "https" } else { "http" }.into());
            show(&request.head.headers, &request.state.credentials, &mut shown);
            log(request, "request_headers", Value::Object(shown).to_string());
        }
        let has_body = matches!(request.head.method.as_str(), "POST" | "PUT" | "PATCH");
        let logs_body = has_body && self.config.request.logs_body_of(&request.head.headers);
        request.state.notes.insert(Bodies { request: logs_body.then(Vec::new), response: None });
        Flow::Continue
    }

    fn on_request_chunk(&self, request: &mut Request<'_>, chunk: &Bytes) {
        if let Some(Bodies { request: Some(kept), .. }) = request.state.notes.get_mut::<Bodies>() {
            keep(kept, chunk, self.config.request.max_size);
        }
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        if self.config.response.headers {
            let mut shown = Map::new();
            shown.insert("status".into(), response.status.as_str().into());
            show(&response.headers, &[], &mut shown);
            log(request, "response_headers", Value::Object(shown).to_string());
        }
        let is_plain = !response.headers.contains_key(CONTENT_ENCODING);
        let logs_body = is_plain && self.config.response.logs_body_of(&response.headers);
        if let Some(bodies) = request.state.notes.get_mut::<Bodies>() {
            bodies.response = logs_body.then(Vec::new);
        }
    }

    /// Only for answers that are whole anyway; others are seen in pieces.
    fn wants_response_body(&self, request: &Request<'_>, _response: &ResponseHeader) -> bool {
        request.state.notes.get::<Bodies>().is_some_and(|bodies| bodies.response.is_some())
    }

    async fn on_response_body(&self, request: &mut Request<'_>, _response: &mut ResponseHeader, body: &mut Bytes) {
        self.on_response_chunk(request, body);
    }

    fn on_response_chunk(&self, request: &mut Request<'_>, chunk: &mut Bytes) {
        if let Some(Bodies { response: Some(kept), .. }) = request.state.notes.get_mut::<Bodies>() {
            keep(kept, chunk, self.config.response.max_size);
        }
    }

    fn on_log(&self, request: &mut Request<'_>) {
        let Some(bodies) = request.state.notes.remove::<Bodies>() else { return };
        if let Some(mut kept) = bodies.request {
            // A body that was read whole did not pass in pieces.
            if let Some(whole) = &request.state.body {
                kept.clear();
                keep(&mut kept, whole, self.config.request.max_size);
            }
            log_body(request, "request_body", &kept);
        }
        if let Some(kept) = bodies.response {
            log_body(request, "response_body", &kept);
        }
    }
}

fn keep(kept: &mut Vec<u8>, chunk: &[u8], max_size: usize) {
    let room = max_size.saturating_sub(kept.len()).min(chunk.len());
    kept.extend_from_slice(&chunk[..room]);
}

fn log(request: &mut Request<'_>, field: &str, text: String) {
    request.state.log.insert(field.to_owned(), Value::String(text));
}

fn log_body(request: &mut Request<'_>, field: &str, body: &[u8]) {
    if !body.is_empty() {
        log(request, field, String::from_utf8_lossy(body).into_owned());
    }
}

/// The path, without credentials that may stand in its query.
fn shown_path(request: &Request<'_>) -> String {
    without_credentials(super::bag::path_and_query(request), &request.state.credentials)
}

fn show(headers: &HeaderMap, withheld: &[CredentialPlace], shown: &mut Map<String, Value>) {
    for (name, value) in headers {
        let is_it = |place: &CredentialPlace| match place {
            CredentialPlace::Header(header) => header.eq_ignore_ascii_case(name.as_str()),
            CredentialPlace::Cookie(_) => name == http::header::COOKIE,
            CredentialPlace::Query(_) => false,
        };
        let is_withheld = withheld.iter().any(is_it);
        let text = if is_withheld { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        shown.insert(name.as_str().to_owned(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Exchange, answer, built, problem_fields};

    #[test]
    fn both_halves_are_logged_without_the_credential() {
        let half = json!({"headers": {"enabled": true}, "body": {"enabled": true, "maxSize": 4}});
        let plugin = built(&SPEC, &json!({"request": half, "response": half}));
        let sent = [("host", "a.com"), ("content-type", "application/json; charset=utf-8"), ("x-key", "secret")];
        let mut exchange = Exchange::new("POST", "/p?q=1", &sent);
        exchange.state.credentials = vec![CredentialPlace::Header("X-Key".into())];
        exchange.run(&plugin);
        plugin.on_request_chunk(&mut exchange.request(), &Bytes::from("{\"a"));
        plugin.on_request_chunk(&mut exchange.request(), &Bytes::from("\":1}"));
        let mut got = exchange.answered(&plugin, answer(200, &[("content-type", "text/html")], "<ü>"));
        plugin.on_response_chunk(&mut exchange.request(), &mut got.body);
        plugin.on_log(&mut exchange.request());
        let logged = &exchange.state.log;
        let headers: Value = serde_json::from_str(logged["request_headers"].as_str().unwrap()).unwrap();
        let expected = json!({"authority": "a.com", "method": "POST", "path": "/p?q=1", "scheme": "http", "host": "a.com",
            "content-type": "application/json; charset=utf-8", "x-key": "***"});
        assert_eq!(headers, expected);
        assert_eq!(logged["response_headers"], "{\"status\":\"200\",\"content-type\":\"text/html\"}");
        assert_eq!((&logged["request_body"], &logged["response_body"]), (&json!("{\"a\""), &json!("<ü>")));
    }

    #[test]
    fn only_what_is_asked_for_and_of_the_right_type_is_logged() {
        let plugin = built(
            &SPEC,
            &json!({"request": {"body": {"enabled": true}}, "response": {"body": {"enabled": true, "contentTypes": ["text/x"]}}}),
        );
        for (method, kind, answered, expected) in [
            ("POST", "application/json", ("text/x", ""), vec!["request_body", "response_body"]),
            ("GET", "application/json", ("text/plain", ""), vec![]),
            ("PUT", "image/png", ("text/x", "gzip"), vec![]),
        ] {
            let mut exchange = Exchange::new(method, "/", &[("content-type", kind)]).with_body("body");
            exchange.run(&plugin);
            let mut headers = vec![("content-type", answered.0)];
            headers.extend((!answered.1.is_empty()).then_some(("content-encoding", answered.1)));
            exchange.answered(&plugin, answer(200, &headers, "text"));
            plugin.on_log(&mut exchange.request());
            assert_eq!(exchange.state.log.keys().collect::<Vec<_>>(), expected, "{method} {kind}");
        }
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"request": {"headers": {"enabled": "yes"}, "typo": 1}, "response": {"body": {"maxSize": -1}}, "more": 1});
        assert_eq!(
            problem_fields(&SPEC, &config),
            ["request.headers.enabled", "request.typo", "response.body.maxSize", "more"]
        );
    }
}
