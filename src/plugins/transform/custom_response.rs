//! `custom-response`: a configured answer, at once or in place of answers with certain statuses. AUTHN phase, priority 910.
//!
//! Takes the forms of both Higress plugins: the C++ one (one answer) and the Go one (`rules`, status patterns such as `40x`).
//! Difference from Higress: without body and configured type there is no `content-type`, where the Go plugin sends an empty one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;
use serde_json::Value;

use super::{guessed_content_type, status};
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "custom-response",
    phase: Phase::Authn,
    priority: 910,
    family: Family::Cpp,
    summary: "Answers with a configured status, headers and body, always or instead of answers with certain statuses",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    /// The answer at request time; only without any status to wait for.
    at_once: Option<Reply>,
    /// Statuses as three characters, `x` for any digit, with the answer they get. No status stands twice.
    instead: Vec<(String, Reply)>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut config = Config { at_once: None, instead: Vec::new() };
        match fields.list("rules") {
            Some(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    let mut rule = Fields::of(rule, &format!("rules[{index}]"));
                    config.read_answer(&mut rule);
                    fields.problems.extend(rule.finish());
                }
                if rules.is_empty() {
                    fields.problem("rules", "must have at least one answer");
                }
            }
            None => config.read_answer(&mut fields),
        }
        (config, fields.finish())
    }

    fn read_answer(&mut self, fields: &mut Fields<'_>) {
        let statuses: Vec<String> = fields
            .list("enable_on_status")
            .unwrap_or_default()
            .iter()
            .enumerate()
            .filter_map(|(index, value)| {
                let pattern = pattern(value);
                if pattern.is_none() {
                    fields.problem(&format!("enable_on_status[{index}]"), "must be a status such as 404, or 40x");
                }
                pattern
            })
            .collect();
        let answer = read_reply(fields);
        if statuses.is_empty() {
            self.at_once.get_or_insert(answer);
            return;
        }
        for status in statuses {
            if self.instead.iter().any(|(known, _)| *known == status) {
                fields.problem("enable_on_status", format!("names {status}, which has an answer already"));
            } else {
                self.instead.push((status, answer.clone()));
            }
        }
    }

    /// The answer for a status; one that names it exactly comes first.
    fn instead_of(&self, status: &str) -> Option<&Reply> {
        let matches = |pattern: &str| {
            pattern.len() == status.len()
                && pattern.bytes().zip(status.bytes()).all(|(wanted, actual)| wanted == b'x' || wanted == actual)
        };
        let exact = self.instead.iter().find(|(pattern, _)| pattern == status);
        exact.or_else(|| self.instead.iter().find(|(pattern, _)| matches(pattern))).map(|(_, reply)| reply)
    }
}

/// A status, or three characters of which some are digits and the others `x`.
fn pattern(value: &Value) -> Option<String> {
    if let Some(status) = status(value) {
        return Some(status.to_string());
    }
    let text = value.as_str()?.to_ascii_lowercase();
    let is_pattern = text.len() == 3
        && text.bytes().all(|byte| byte == b'x' || byte.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_digit());
    is_pattern.then_some(text)
}

fn read_reply(fields: &mut Fields<'_>) -> Reply {
    let body = fields.text("body").unwrap_or_default();
    let code = fields.get("status_code").map_or(Some(200), status);
    if code.is_none() {
        fields.problem("status_code", "must be a status between 100 and 999");
    }
    let mut reply = Reply::new(code.unwrap_or(200), "custom-response");
    let mut content_type = None;
    for (index, header) in fields.strings("headers").unwrap_or_default().iter().enumerate() {
        let pair = header.split_once('=').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        match pair {
            None => fields.problem(&format!("headers[{index}]"), "must be name=value"),
            Some((name, _)) if name == CONTENT_LENGTH || name == TRANSFER_ENCODING => {}
            Some((name, value)) if name == CONTENT_TYPE => content_type = Some(value),
            Some(pair) => reply.headers.push(pair),
        }
    }
    let guessed = || (!body.is_empty()).then(|| HeaderValue::from_static(guessed_content_type(&body)));
    reply.headers.extend(content_type.or_else(guessed).map(|value| (CONTENT_TYPE, value)));
    reply.body = Bytes::from(body);
    reply
}

struct CustomResponse {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(CustomResponse { config }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for CustomResponse {
    async fn on_request_headers(&self, _request: &mut Request<'_>) -> Flow {
        match &self.config.at_once {
            Some(reply) if self.config.instead.is_empty() => Flow::respond(reply.clone()),
            _ => Flow::Continue,
        }
    }

    fn treats_refusals(&self) -> bool {
        true
    }

    fn replace_answer(&self, _request: &Request<'_>, response: &ResponseHeader) -> Option<Reply> {
        self.config.instead_of(response.status.as_str()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Exchange, answer, built, problem_fields};

    #[test]
    fn without_statuses_the_answer_comes_at_once() {
        let config = json!({"status_code": "418", "headers": ["Content-Type=text/x", "Content-Length=9", "A = b=c "], "body": "hi"});
        let reply = Exchange::new("GET", "/", &[]).run(&built(&SPEC, &config)).unwrap();
        assert_eq!((reply.status, &reply.body[..]), (418, &b"hi"[..]));
        let headers: Vec<_> = reply.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(headers, [("a", "b=c"), ("content-type", "text/x")]);
    }

    #[test]
    fn the_type_of_a_body_is_guessed() {
        for (body, expected) in [
            (json!("{\"a\":1}"), Some("application/json; charset=utf-8")),
            (json!({"a": 1}), Some("application/json; charset=utf-8")),
            (json!("hello"), Some("text/plain; charset=utf-8")),
            (json!(""), None),
        ] {
            let reply = Exchange::new("GET", "/", &[]).run(&built(&SPEC, &json!({"body": body}))).unwrap();
            let found = reply.headers.iter().find(|(name, _)| name == CONTENT_TYPE).map(|(_, v)| v.to_str().unwrap());
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn answers_are_replaced_by_status() {
        let config = json!({"rules": [
            {"enable_on_status": ["4xx"], "status_code": 200, "body": "any"},
            {"enable_on_status": [404, "50X"], "status_code": 299, "body": "exact"},
            {"body": "never"},
        ]});
        let plugin = built(&SPEC, &config);
        for (status, expected) in
            [(200, (200, "up")), (401, (200, "any")), (404, (299, "exact")), (503, (299, "exact"))]
        {
            let mut exchange = Exchange::new("GET", "/", &[]);
            assert!(exchange.run(&plugin).is_none());
            let got = exchange.answered(&plugin, answer(status, &[("x-up", "1")], "up"));
            assert_eq!((got.status(), &got.body[..]), (expected.0, expected.1.as_bytes()), "{status}");
            assert_eq!(got.head.headers.contains_key("x-up"), status == 200);
        }
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"rules": [
            {"enable_on_status": [404, "abc"], "headers": ["nope"], "status_code": 5},
            {"enable_on_status": ["404"], "typo": 1},
        ]});
        let fields = problem_fields(&SPEC, &config);
        let expected = [
            "rules[0].enable_on_status[1]",
            "rules[0].status_code",
            "rules[0].headers[0]",
            "rules[1].enable_on_status",
            "rules[1].typo",
        ];
        assert_eq!(fields, expected);
    }
}
