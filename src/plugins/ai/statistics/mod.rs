//! `ai-statistics`: what a model call asked, answered and used, for the access log (`ai_log`) and metrics. Priority 900.
//!
//! Differences from Higress: span attributes are not written as such (the trace id is in the same log line); shared-log
//! attributes (`as_separate_log_field`) go into `ai_log`; `apply_to_log` and `enable_content_types` have no effect; the metrics'
//! `ai_model` is the model the provider named.

mod attribute;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value, json};

use self::attribute::{Attribute, Capture};
use super::{chat_request, is_json};
use crate::config::model::Phase;
use crate::llm::observe::{Observation, Want};
use crate::llm::provider::recognise;
use crate::llm::request::peek_field;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Answered, Flow, Host, LlmState, Plugin, Request};
use crate::telemetry::metrics::{AiLabels, Metrics};

pub const SPEC: PluginSpec = PluginSpec {
    name: "ai-statistics",
    phase: Phase::Unspecified,
    priority: 900,
    family: Family::Go,
    summary: "Tokens, latencies and contents of model calls in the access log and as metrics",
    build,
    check: |scope| Config::read(scope).1,
};

/// Headers that name a conversation, tried in order.
const SESSION_HEADERS: &[&str] =
    &["x-openclaw-session-key", "x-clawdbot-session-key", "x-moltbot-session-key", "x-agent-session"];

/// Which of the built-in attributes are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defaults {
    None,
    /// The answer's side only.
    Response,
    All,
}

struct Config {
    attributes: Vec<Attribute>,
    defaults: Defaults,
    reads_usage: bool,
    value_length_limit: usize,
    /// Empty means every path.
    path_suffixes: Vec<String>,
    session_id_header: Option<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let defaults = match (
            fields.boolean("use_default_attributes").unwrap_or(false),
            fields.boolean("use_default_response_attributes").unwrap_or(false),
        ) {
            (true, _) => Defaults::All,
            (false, true) => Defaults::Response,
            (false, false) => Defaults::None,
        };
        let limit = match defaults {
            Defaults::All => 10 << 20,
            Defaults::Response => 4000,
            Defaults::None => 32_000,
        };
        let suffixes = fields.strings("enable_path_suffixes");
        let paths_by_default = if defaults == Defaults::None { vec![] } else { vec!["/completions", "/messages"] };
        let mut attributes = Vec::new();
        for (index, value) in fields.list("attributes").unwrap_or_default().iter().enumerate() {
            let (attribute, problems) = Attribute::read(value, &format!("attributes[{index}]"));
            attributes.extend(attribute);
            fields.problems.extend(problems);
        }
        // Content types to parse: answers of other types are never read here.
        fields.strings("enable_content_types");
        let config = Config {
            attributes: if defaults == Defaults::None { attributes } else { Vec::new() },
            defaults,
            reads_usage: !fields.boolean("disable_openai_usage").unwrap_or(false),
            value_length_limit: fields
                .count("value_length_limit")
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(limit),
            path_suffixes: suffixes.unwrap_or_else(|| paths_by_default.into_iter().map(str::to_owned).collect()),
            session_id_header: fields.string("session_id_header").map(str::to_owned),
        };
        (config, fields.finish())
    }

    fn covers(&self, path: &str) -> bool {
        self.path_suffixes.is_empty()
            || self.path_suffixes.iter().any(|suffix| suffix == "*" || path.ends_with(suffix.as_str()))
    }
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(Statistics { config, host: host.clone() }))) } else { Err(problems) }
}

struct Statistics {
    config: Config,
    host: Arc<dyn Host>,
}

#[async_trait]
impl Plugin for Statistics {
    fn wants_body(&self, request: &Request<'_>) -> bool {
        request.head.method == Method::POST && self.config.covers(request.path()) && is_json(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let Some(body) = request.state.body.clone() else { return Flow::Continue };
        let api = recognise(request.path()).map(|recognised| recognised.api);
        let mut log = Map::new();
        let mut capture = Capture::default();
        capture.see_request(&self.config.attributes, request, &body);
        let chat = chat_request(request).and_then(Result::ok);
        let is_logged = request.state.is_logged;
        if let Some(chat) = chat.as_ref().filter(|_| is_logged) {
            log.insert("chat_round".into(), json!(chat.n_turns()));
            if self.config.defaults == Defaults::All {
                log.insert("question".into(), self.clipped(&chat.last_user_text()));
                log.insert("messages".into(), self.clipped(chat.messages_json()));
            }
        }
        if let Some(session) = self.session(request).filter(|_| is_logged) {
            log.insert("session_id".into(), session.into());
        }
        let llm = request.state.llm_mut();
        llm.api = llm.api.or(api);
        if llm.requested_model.is_empty() {
            let peek = || peek_field(&body, "model").ok().flatten().unwrap_or_default().into_owned();
            llm.requested_model = chat.as_ref().map_or_else(peek, |chat| chat.model().to_owned());
        }
        if self.config.defaults == Defaults::All
            && is_logged
            && let Some(system) = std::str::from_utf8(&body).ok().and_then(|body| attribute::lookup(body, "system"))
        {
            log.insert("system".into(), self.clipped(&system));
        }
        let is_observed = |attribute: &Attribute| attribute.observed().is_some();
        let content = self.config.defaults != Defaults::None || self.config.attributes.iter().any(is_observed);
        let llm = request.state.llm_mut();
        llm.log.append(&mut log);
        let want = llm.want.get_or_insert(Want { content, ..Want::default() });
        want.content |= content;
        request.state.notes.insert(Arc::new(parking_lot::Mutex::new(capture)));
        Flow::Continue
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut pingora_http::ResponseHeader) {
        if let Some(capture) = captured(request) {
            capture.lock().see_response_head(&self.config.attributes, response);
        }
    }

    fn on_response_chunk(&self, request: &mut Request<'_>, chunk: &mut Bytes) {
        if let Some(capture) = captured(request).filter(|_| !self.config.attributes.is_empty()) {
            capture.lock().see_chunk(&self.config.attributes, chunk);
        }
    }

    fn on_log(&self, request: &mut Request<'_>) {
        let Some(capture) = captured(request) else { return };
        let consumer = request.state.consumer.clone().unwrap_or_else(|| "none".to_owned());
        let (route, service) = (request.state.route.to_string(), request.state.service.to_string());
        let elapsed_ms = u64::try_from(request.state.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let is_logged = request.state.is_logged;
        let llm = request.state.llm_mut();
        let last = llm.attempts.last();
        let model = model_of(last, &llm.requested_model);
        // A client may name any model; only what a provider answered to becomes a label, so that nobody can grow the metrics.
        let is_known = last.is_some_and(|answered| answered.observation.model.is_some());
        let ai_model = if is_known { model.clone() } else { "UNKNOWN".to_owned() };
        let labels = AiLabels { ai_route: route, ai_cluster: service, ai_model, ai_consumer: consumer };
        if let Some(answered) = last {
            count(self.host.metrics(), &labels, answered, elapsed_ms);
        }
        if is_logged {
            self.note(llm, &model, elapsed_ms, &capture);
        }
    }
}

impl Statistics {
    fn session(&self, request: &Request<'_>) -> Option<String> {
        let named = self.config.session_id_header.as_deref();
        named
            .into_iter()
            .chain(SESSION_HEADERS.iter().copied())
            .find_map(|name| request.header(name).map(str::to_owned))
    }

    /// Longer values keep their first and last half.
    fn clipped(&self, text: &str) -> Value {
        clip(text, self.config.value_length_limit).into()
    }

    /// What the access log says of the call.
    fn note(&self, llm: &mut LlmState, model: &str, elapsed_ms: u64, capture: &parking_lot::Mutex<Capture>) {
        let mut log = std::mem::take(&mut llm.log);
        log.insert("model".into(), model.into());
        log.insert("response_type".into(), if llm.stream { "stream" } else { "normal" }.into());
        log.insert("llm_service_duration".into(), elapsed_ms.into());
        if let Some(api) = llm.api {
            log.insert("api".into(), format!("{api:?}").into());
        }
        let last = llm.attempts.last();
        if let Some(answered) = last {
            self.note_answer(&mut log, answered);
        }
        let observation = last.map(|answered| &answered.observation);
        for (key, default) in self.config.attributes.iter().filter_map(Attribute::observed) {
            let found = observation.and_then(|seen| self.observed(seen, key));
            // Token counts stand there already.
            if let Some(value) = found.or_else(|| default.filter(|_| !log.contains_key(key)).map(Value::from)) {
                log.insert(key.to_owned(), value);
            }
        }
        for (key, value) in capture.lock().finish(&self.config.attributes) {
            log.insert(key, self.clipped(&value));
        }
        llm.log = log;
    }

    fn note_answer(&self, log: &mut Map<String, Value>, answered: &Answered) {
        let seen: &Observation = &answered.observation;
        if let Some(first) = answered.first_token {
            log.insert("llm_first_token_duration".into(), u64::try_from(first.as_millis()).unwrap_or(u64::MAX).into());
        }
        if let Some(id) = &seen.chat_id {
            log.insert("chat_id".into(), id.as_str().into());
        }
        if let Some(usage) = seen.usage.as_ref().filter(|_| self.config.reads_usage) {
            log.insert("input_token".into(), usage.prompt_tokens.into());
            log.insert("output_token".into(), usage.completion_tokens.into());
            log.insert("total_token".into(), usage.total_tokens.into());
            if let Some(tokens) = usage.reasoning_tokens {
                log.insert("reasoning_tokens".into(), tokens.into());
            }
            if let Some(tokens) = usage.cached_tokens {
                log.insert("cached_tokens".into(), tokens.into());
            }
            for (key, details) in
                [("input_token_details", &usage.input_details), ("output_token_details", &usage.output_details)]
            {
                if let Some(details) = details {
                    log.insert(key.into(), serde_json::from_str(details).unwrap_or(Value::Null));
                }
            }
        }
        if self.config.defaults != Defaults::None {
            for key in ["answer", "reasoning", "tool_calls"] {
                log.extend(self.observed(seen, key).map(|value| (key.to_owned(), value)));
            }
        }
    }

    /// What the answer has of a built-in attribute.
    fn observed(&self, seen: &Observation, key: &str) -> Option<Value> {
        let text = |text: &str| (!text.is_empty()).then(|| self.clipped(text));
        match key {
            "answer" => text(&seen.answer),
            "reasoning" => text(&seen.reasoning),
            "tool_calls" if !seen.tool_calls.is_empty() => {
                let calls = seen.tool_calls.iter().map(|call| {
                    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
                });
                Some(Value::Array(calls.collect()))
            }
            _ => None,
        }
    }
}

fn captured(request: &Request<'_>) -> Option<Arc<parking_lot::Mutex<Capture>>> {
    request.state.notes.get::<Arc<parking_lot::Mutex<Capture>>>().cloned()
}

/// What the answer says, else what was asked for.
fn model_of(answered: Option<&Answered>, requested: &str) -> String {
    let said = answered.and_then(|answered| answered.observation.model.clone());
    said.or_else(|| (!requested.is_empty()).then(|| requested.to_owned())).unwrap_or_else(|| "UNKNOWN".to_owned())
}

fn count(metrics: &Metrics, labels: &AiLabels, answered: &Answered, elapsed_ms: u64) {
    let ai = &metrics.ai;
    if !answered.is_ok() {
        ai.llm_failure_count.get_or_create(labels).inc();
    }
    let Some(usage) = &answered.observation.usage else { return };
    ai.input_token.get_or_create(labels).inc_by(usage.prompt_tokens);
    ai.output_token.get_or_create(labels).inc_by(usage.completion_tokens);
    ai.total_token.get_or_create(labels).inc_by(usage.total_tokens);
    ai.llm_service_duration.get_or_create(labels).inc_by(elapsed_ms);
    ai.llm_duration_count.get_or_create(labels).inc();
    if let Some(first) = answered.first_token.filter(|_| answered.observation.n_events > 0) {
        ai.llm_first_token_duration.get_or_create(labels).inc_by(u64::try_from(first.as_millis()).unwrap_or(u64::MAX));
        ai.llm_stream_duration_count.get_or_create(labels).inc();
    }
}

/// At most `limit` bytes of text: first half, a mark, last half.
fn clip(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let half = limit / 2;
    let head = text.floor_char_boundary(half);
    let tail = text.ceil_char_boundary(text.len() - half);
    format!("{} [truncated] {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_keep_both_ends() {
        assert_eq!(clip("abcdefgh", 8), "abcdefgh");
        assert_eq!(clip("abcdefgh", 4), "ab [truncated] gh");
        assert_eq!(clip("你好世界", 6), "你 [truncated] 界");
    }

    #[test]
    fn defaults_replace_attributes_and_narrow_the_paths() {
        let value = json!({"use_default_attributes": true, "attributes": [{"key": "x", "value_source": "fixed_value", "value": "1"}]});
        let (config, problems) = Config::read(&Scope { global: Some(&value), rule: None, n_rules: 0 });
        assert!(problems.is_empty(), "{problems:?}");
        assert!(config.attributes.is_empty());
        assert!(config.covers("/v1/chat/completions"));
        assert!(!config.covers("/v1/embeddings"));
    }

    #[test]
    fn bad_attributes_are_named() {
        let value =
            json!({"attributes": [{"value_source": "nowhere"}, {"key": "k", "value_source": "request_header"}]});
        let (_, problems) = Config::read(&Scope { global: Some(&value), rule: None, n_rules: 0 });
        let named: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(named, ["attributes[0].key", "attributes[0].value_source", "attributes[1].value"]);
    }
}
