//! `model-router`: makes the model of the body visible to routing. AUTHN phase, priority 900.
//!
//! Writing the header has the route matched again, which is how the console's AI routes are selected.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use regex::Regex;

use super::model_key::ModelKey;
use super::{MODEL_PATHS, is_json};
use crate::config::model::Phase;
use crate::llm::multipart;
use crate::llm::request::ChatRequest;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "model-router",
    phase: Phase::Authn,
    priority: 900,
    family: Family::Go,
    summary: "Copies the body's model into a header for routing, splits provider/model, routes higress/auto by patterns",
    build,
    check: |scope| Config::read(scope).1,
};

/// The model name that asks for `autoRouting`.
const AUTO_MODEL: &str = "higress/auto";
const MODEL_HEADER: HeaderName = HeaderName::from_static("x-higress-llm-model");

struct Config {
    model_key: ModelKey,
    model_to_header: Option<HeaderName>,
    add_provider_header: Option<HeaderName>,
    keep_original_model_name: bool,
    path_suffixes: Vec<String>,
    auto: Option<AutoRouting>,
}

/// Rules for [`AUTO_MODEL`]: the first pattern found in the last user message names the model.
struct AutoRouting {
    rules: Vec<(Regex, String)>,
    default_model: Option<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let model_to_header = header_name(&mut fields, "modelToHeader");
        let add_provider_header = header_name(&mut fields, "addProviderHeader");
        let path_suffixes = fields
            .strings("enableOnPathSuffix")
            .unwrap_or_else(|| MODEL_PATHS.iter().map(|path| (*path).to_owned()).collect());
        let config = Config {
            model_key: ModelKey::read(&mut fields),
            model_to_header,
            add_provider_header,
            keep_original_model_name: fields.boolean("keepOriginalModelName").unwrap_or(false),
            path_suffixes,
            auto: read_auto(&mut fields),
        };
        (config, fields.finish())
    }

    fn covers(&self, path: &str) -> bool {
        self.path_suffixes.iter().any(|suffix| suffix == "*" || path.ends_with(suffix.as_str()))
    }
}

fn header_name(fields: &mut Fields<'_>, key: &'static str) -> Option<HeaderName> {
    let name = fields.string(key).filter(|name| !name.is_empty())?;
    let parsed = HeaderName::try_from(name).ok();
    if parsed.is_none() {
        fields.problem(key, format!("\"{name}\" is not a header name"));
    }
    parsed
}

fn read_auto(fields: &mut Fields<'_>) -> Option<AutoRouting> {
    let value = fields.object("autoRouting")?;
    let mut auto = Fields::of(value, "autoRouting");
    let enabled = auto.boolean("enable").unwrap_or(false);
    let default_model = auto.string("defaultModel").map(str::to_owned);
    let mut rules = Vec::new();
    for (index, value) in auto.list("rules").unwrap_or_default().iter().enumerate() {
        let mut rule = Fields::of(value, &format!("autoRouting.rules[{index}]"));
        let pattern = rule.string("pattern").unwrap_or_default();
        let model = rule.string("model").unwrap_or_default();
        if model.is_empty() {
            rule.problem("model", "must name a model");
        }
        match Regex::new(pattern) {
            Ok(regex) => rules.push((regex, model.to_owned())),
            Err(error) => rule.problem("pattern", format!("\"{pattern}\" is not a regular expression: {error}")),
        }
        auto.problems.extend(rule.finish());
    }
    fields.problems.extend(auto.finish());
    enabled.then_some(AutoRouting { rules, default_model })
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(ModelRouter { config }))) } else { Err(problems) }
}

struct ModelRouter {
    config: Config,
}

/// The two body formats that carry a model name.
enum Format {
    Json,
    Multipart { boundary: String },
}

impl Format {
    fn of(request: &Request<'_>) -> Option<Format> {
        if is_json(request) {
            return Some(Format::Json);
        }
        let boundary = request.header("content-type").and_then(multipart::boundary)?;
        Some(Format::Multipart { boundary: boundary.to_owned() })
    }

    fn model(&self, body: &Bytes, key: &ModelKey) -> Option<String> {
        match self {
            Format::Json => key.get(body).ok().flatten().map(|model| model.into_owned()),
            Format::Multipart { boundary } => multipart::field(body, boundary, key.as_str()).map(str::to_owned),
        }
    }

    fn with_model(&self, body: &Bytes, key: &ModelKey, model: &str) -> Option<Bytes> {
        match self {
            Format::Json => key.set(body, model),
            Format::Multipart { boundary } => multipart::with_field(body, boundary, key.as_str(), model),
        }
    }
}

#[async_trait]
impl Plugin for ModelRouter {
    fn wants_body(&self, request: &Request<'_>) -> bool {
        self.config.covers(request.path()) && Format::of(request).is_some()
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let (Some(format), Some(body)) = (Format::of(request), request.state.body.clone()) else {
            return Flow::Continue;
        };
        let key = &self.config.model_key;
        let Some(mut model) = format.model(&body, key) else { return Flow::Continue };
        let mut changed = None;
        if let Some(auto) = self.config.auto.as_ref().filter(|_| model == AUTO_MODEL)
            && let Some(chosen) = auto.choose(&body)
        {
            changed = format.with_model(&body, key, &chosen);
            model = chosen;
            set(request, &MODEL_HEADER, &model);
        }
        if let Some(header) = &self.config.model_to_header {
            set(request, header, &model);
        }
        if let Some(header) = &self.config.add_provider_header
            && let Some((provider, bare)) = model.split_once('/')
        {
            set(request, header, provider);
            if !self.config.keep_original_model_name {
                changed = format.with_model(changed.as_ref().unwrap_or(&body), key, bare);
            }
        }
        if changed.is_some() {
            request.state.body = changed;
        }
        Flow::Continue
    }
}

impl AutoRouting {
    fn choose(&self, body: &Bytes) -> Option<String> {
        let parsed = ChatRequest::parse(body).ok()?;
        let text = parsed.last_user_text();
        let rule = self.rules.iter().find(|(pattern, _)| pattern.is_match(&text));
        rule.map(|(_, model)| model.clone()).or_else(|| self.default_model.clone())
    }
}

fn set(request: &mut Request<'_>, header: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        request.set_header_and_reroute(header.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::RequestState;

    /// Runs one body through the plugin; returns the new body, the named header and whether the route is matched again.
    fn run(config: &Value, content_type: &str, body: &str, header: &str) -> (String, Option<String>, bool) {
        let (config, problems) = Config::read(&Scope { global: Some(config), rule: None, n_rules: 0 });
        assert!(problems.is_empty(), "{problems:?}");
        let plugin = ModelRouter { config };
        let mut head = RequestHeader::build("POST", b"/v1/chat/completions", None).unwrap();
        head.insert_header("content-type", content_type).unwrap();
        let mut state = RequestState::new();
        state.body = Some(Bytes::copy_from_slice(body.as_bytes()));
        let mut request = Request { head: &mut head, state: &mut state };
        assert!(plugin.wants_body(&request));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(plugin.on_request_body(&mut request));
        let value = request.header(header).map(str::to_owned);
        (String::from_utf8(state.body.unwrap().to_vec()).unwrap(), value, state.reroute)
    }

    #[test]
    fn the_model_goes_into_the_header_and_the_route_is_matched_again() {
        let (body, header, reroute) =
            run(&json!({"modelToHeader": "x-model"}), "application/json", r#"{"model":"qwen-max"}"#, "x-model");
        assert_eq!((body.as_str(), header.as_deref(), reroute), (r#"{"model":"qwen-max"}"#, Some("qwen-max"), true));
    }

    #[test]
    fn provider_and_model_are_split_at_the_first_slash() {
        let config = json!({"addProviderHeader": "x-provider"});
        let (body, header, _) = run(&config, "application/json", r#"{"model":"a/b/c"}"#, "x-provider");
        assert_eq!((body.as_str(), header.as_deref()), (r#"{"model":"b/c"}"#, Some("a")));
        let config = json!({"addProviderHeader": "x-provider", "keepOriginalModelName": true});
        let (body, header, _) = run(&config, "application/json", r#"{"model":"a/b"}"#, "x-provider");
        assert_eq!((body.as_str(), header.as_deref()), (r#"{"model":"a/b"}"#, Some("a")));
    }

    #[test]
    fn multipart_bodies_are_rewritten_too() {
        let body = "--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nopenai/whisper\r\n--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nDATA\r\n--X--\r\n";
        let config = json!({"addProviderHeader": "x-provider"});
        let (changed, header, _) = run(&config, "multipart/form-data; boundary=X", body, "x-provider");
        assert_eq!(header.as_deref(), Some("openai"));
        assert_eq!(changed, body.replace("openai/whisper", "whisper"));
    }

    #[test]
    fn auto_routing_takes_the_first_pattern_in_the_last_user_message() {
        let config = json!({"autoRouting": {"enable": true, "defaultModel": "small", "rules": [{"pattern": "(?i)prove|证明", "model": "math"}]}});
        let ask =
            |text: &str| format!(r#"{{"model":"higress/auto","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        for (text, model) in [("请证明勾股定理", "math"), ("hello", "small")] {
            let (body, header, reroute) = run(&config, "application/json", &ask(text), "x-higress-llm-model");
            assert_eq!((header.as_deref(), reroute), (Some(model), true));
            assert!(body.contains(&format!("\"model\":\"{model}\"")), "{body}");
        }
    }

    #[test]
    fn bodies_without_a_model_pass() {
        let (body, header, reroute) = run(&json!({"modelToHeader": "x-model"}), "application/json", "{]", "x-model");
        assert_eq!((body.as_str(), header, reroute), ("{]", None, false));
    }
}
