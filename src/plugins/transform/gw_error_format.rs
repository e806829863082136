//! `gw-error-format`: other status, headers and body for the gateway's own errors. Default phase, priority 0.
//!
//! Answers of an upstream are never touched. Difference from Higress: the gateway's errors have other texts here than Envoy's, so a
//! rule may compare with Envoy's text (`ENVOY_TEXTS`) or with ours; the content type follows the new body unless `set_header` names
//! one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;

use super::{guessed_content_type, status};
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "gw-error-format",
    phase: Phase::Unspecified,
    priority: 0,
    family: Family::Go,
    summary: "Status, headers and body of the gateway's own errors",
    build,
    check: |scope| Config::read(scope).1,
};

/// What Envoy says where our log details are these; rules written for Higress name Envoy's words.
const ENVOY_TEXTS: &[(&str, &str)] = &[
    ("no_healthy_upstream", "no healthy upstream"),
    ("upstream_response_timeout", "upstream request timeout"),
    ("request_payload_too_large", "Payload Too Large"),
    ("request_timeout", "request timeout"),
    ("route_not_found", ""),
    ("rbac_access_denied", "RBAC: access denied"),
    ("local_rate_limited", "local_rate_limited"),
];

struct Config {
    rules: Vec<Rule>,
    set_header: Vec<(HeaderName, HeaderValue)>,
}

struct Rule {
    status: u16,
    body: String,
    new_status: u16,
    new_body: String,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut config = Config { rules: Vec::new(), set_header: Vec::new() };
        let mut problems = Vec::new();
        for (index, rule) in fields.list("rules").unwrap_or_default().iter().enumerate() {
            let mut rule = Fields::of(rule, &format!("rules[{index}]"));
            let (old_status, body) = half(&mut rule, "match", &mut problems);
            let (new_status, new_body) = half(&mut rule, "replace", &mut problems);
            config.rules.push(Rule { status: old_status, body, new_status, new_body });
            problems.extend(rule.finish());
        }
        for (index, headers) in fields.list("set_header").unwrap_or_default().iter().enumerate() {
            for (name, value) in headers.as_object().into_iter().flatten() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match (name.parse(), HeaderValue::from_str(&text)) {
                    (Ok(name), Ok(value)) => config.set_header.push((name, value)),
                    _ => fields.problem(&format!("set_header[{index}].{name}"), "is not a header that can be sent"),
                }
            }
            if !headers.is_object() {
                fields.problem(&format!("set_header[{index}]"), "must be an object of header names and values");
            }
        }
        problems.extend(fields.finish());
        (config, problems)
    }
}

/// Status and body of one side of a rule.
fn half(rule: &mut Fields<'_>, key: &'static str, problems: &mut Vec<FieldProblem>) -> (u16, String) {
    let Some(value) = rule.object(key) else {
        rule.problem(key, "must be an object with statuscode");
        return (0, String::new());
    };
    let mut half = Fields::of(value, &rule.at(key));
    let code = half.get("statuscode").and_then(status);
    if code.is_none() {
        half.problem("statuscode", "must be a status between 100 and 999");
    }
    let body = half.text("responsebody").unwrap_or_default();
    problems.extend(half.finish());
    (code.unwrap_or_default(), body)
}

struct GwErrorFormat {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(GwErrorFormat { config }))) } else { Err(problems) }
}

/// Marks an answer whose status was replaced, so that its body is looked at.
#[derive(Clone)]
struct Matched;

#[async_trait]
impl Plugin for GwErrorFormat {
    fn treats_refusals(&self) -> bool {
        true
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        let rule = self.config.rules.iter().find(|rule| rule.status == response.status.as_u16());
        let Some(rule) = rule.filter(|_| !request.state.is_upstream_answer) else { return };
        // The status was checked when it was read.
        let _ = response.set_status(rule.new_status);
        for (name, value) in &self.config.set_header {
            let _ = response.insert_header(name.clone(), value.clone());
        }
        request.state.notes.insert(Matched);
    }

    fn wants_response_body(&self, request: &Request<'_>, _response: &ResponseHeader) -> bool {
        request.state.notes.get::<Matched>().is_some()
    }

    async fn on_response_body(&self, request: &mut Request<'_>, response: &mut ResponseHeader, body: &mut Bytes) {
        let details = request.state.details.as_str();
        let envoy = ENVOY_TEXTS.iter().find(|(own, _)| *own == details).map(|(_, text)| *text);
        let is_meant = |rule: &&Rule| *body == rule.body || envoy == Some(rule.body.as_str());
        let Some(rule) = self.config.rules.iter().find(is_meant) else { return };
        *body = Bytes::from(rule.new_body.clone());
        if !self.config.set_header.iter().any(|(name, _)| name == CONTENT_TYPE) {
            let _ = response.insert_header(CONTENT_TYPE, guessed_content_type(&rule.new_body));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, answer, built, problem_fields};

    fn config() -> Value {
        json!({
            "rules": [
                {"match": {"statuscode": "403", "responsebody": "denied"}, "replace": {"statuscode": "200", "responsebody": "{\"code\":403}"}},
                {"match": {"statuscode": 503, "responsebody": "no healthy upstream"}, "replace": {"statuscode": 502, "responsebody": "sorry"}},
            ],
            "set_header": [{"X-Own": "yes"}, {"X-Two": 2}],
        })
    }

    #[test]
    fn own_errors_are_replaced() {
        let plugin = built(&SPEC, &config());
        let mut exchange = Exchange::new("GET", "/", &[]);
        let got = exchange.replied(&plugin, answer(403, &[("content-type", "text/plain")], "denied"));
        assert_eq!((got.status(), &got.body[..]), (200, &b"{\"code\":403}"[..]));
        assert_eq!(got.head.headers["x-own"], "yes");
        assert_eq!(got.head.headers["content-type"], "application/json; charset=utf-8");
        // Our text differs from Envoy's; the log detail says that it is the same error.
        let mut exchange = Exchange::new("GET", "/", &[]);
        exchange.state.details = "no_healthy_upstream".into();
        let got = exchange.replied(&plugin, answer(503, &[], "{\"error\":{}}"));
        assert_eq!((got.status(), &got.body[..]), (502, &b"sorry"[..]));
    }

    #[test]
    fn another_body_or_an_upstreams_answer_stays() {
        let plugin = built(&SPEC, &config());
        let got = Exchange::new("GET", "/", &[]).replied(&plugin, answer(403, &[], "other"));
        assert_eq!((got.status(), &got.body[..]), (200, &b"other"[..]));
        let got = Exchange::new("GET", "/", &[]).answered(&plugin, answer(403, &[], "denied"));
        assert_eq!((got.status(), &got.body[..]), (403, &b"denied"[..]));
        assert!(!got.head.headers.contains_key("x-own"));
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"rules": [{"match": {"statuscode": "x"}}], "set_header": [{"bad name": "v"}, 3]});
        let expected = ["rules[0].match.statuscode", "rules[0].replace", "set_header[0].bad name", "set_header[1]"];
        assert_eq!(problem_fields(&SPEC, &config), expected);
    }
}
