//! `model-mapper`: renames the model in the request body. AUTHN phase, priority 800.
//!
//! A body that names no model gets the one that `*` stands for.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};

use super::model_key::ModelKey;
use super::{has_suffix, is_json, mapping, path_suffixes};
use crate::config::model::Phase;
use crate::llm::model_map::ModelMap;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "model-mapper",
    phase: Phase::Authn,
    priority: 800,
    family: Family::Go,
    summary: "Renames the model in the request body: exact, prefix and default mappings",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    model_key: ModelKey,
    map: ModelMap,
    path_suffixes: Vec<String>,
    /// Header that tells the upstream the final name.
    model_to_header: HeaderName,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let header = fields.string("modelToHeader").unwrap_or("x-higress-llm-model-final");
        let model_to_header = HeaderName::try_from(header).unwrap_or_else(|_| {
            fields.problem("modelToHeader", format!("\"{header}\" is not a header name"));
            HeaderName::from_static("x-higress-llm-model-final")
        });
        let config = Config {
            model_key: ModelKey::read(&mut fields),
            map: ModelMap::model_mapper(mapping(&mut fields)),
            path_suffixes: path_suffixes(&mut fields),
            model_to_header,
        };
        (config, fields.finish())
    }
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(ModelMapper { config }))) } else { Err(problems) }
}

struct ModelMapper {
    config: Config,
}

#[async_trait]
impl Plugin for ModelMapper {
    fn wants_body(&self, request: &Request<'_>) -> bool {
        has_suffix(request, &self.config.path_suffixes) && is_json(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let Some(body) = request.state.body.clone() else { return Flow::Continue };
        // A body that is not JSON is the provider's to judge.
        let Ok(model) = self.config.model_key.get(&body) else { return Flow::Continue };
        let model = model.unwrap_or_default();
        let mapped = self.config.map.map(&model);
        if mapped != model
            && let Some(changed) = self.config.model_key.set(&body, &mapped)
        {
            request.state.body = Some(changed);
        }
        if let Ok(value) = HeaderValue::from_str(&mapped)
            && !mapped.is_empty()
        {
            let _ = request.head.insert_header(self.config.model_to_header.clone(), value);
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pingora_http::RequestHeader;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::RequestState;

    fn check(config: &Value, body: &str, expected_body: &str, expected_header: Option<&str>) {
        let (config, problems) = Config::read(&Scope { global: Some(config), rule: None, n_rules: 0 });
        assert!(problems.is_empty(), "{problems:?}");
        let plugin = ModelMapper { config };
        let mut head = RequestHeader::build("POST", b"/v1/chat/completions?x=1", None).unwrap();
        head.insert_header("content-type", "application/json; charset=utf-8").unwrap();
        let mut state = RequestState::new();
        state.body = Some(Bytes::copy_from_slice(body.as_bytes()));
        let mut request = Request { head: &mut head, state: &mut state };
        assert!(plugin.wants_body(&request));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(plugin.on_request_body(&mut request));
        assert_eq!(request.header("x-higress-llm-model-final"), expected_header);
        assert_eq!(state.body.unwrap(), expected_body);
    }

    #[test]
    fn names_are_mapped_and_other_bytes_stay() {
        let config = json!({"modelMapping": {"gpt-4": "qwen-max", "gpt-*": "qwen-turbo", "keep": ""}});
        check(&config, r#"{"model" : "gpt-4", "x":1.0}"#, r#"{"model" : "qwen-max", "x":1.0}"#, Some("qwen-max"));
        check(&config, r#"{"model":"gpt-3.5"}"#, r#"{"model":"qwen-turbo"}"#, Some("qwen-turbo"));
        check(&config, r#"{"model":"keep"}"#, r#"{"model":"keep"}"#, Some("keep"));
        check(&config, r#"{"model":"other"}"#, r#"{"model":"other"}"#, Some("other"));
        check(&config, "not json", "not json", None);
        check(&config, r#"{"x":1}"#, r#"{"x":1}"#, None);
    }

    #[test]
    fn a_body_without_a_model_gets_the_default() {
        let config = json!({"modelMapping": {"gpt-4": "qwen-max", "*": "qwen-turbo"}});
        check(&config, r#"{"x":1}"#, r#"{"x":1,"model":"qwen-turbo"}"#, Some("qwen-turbo"));
        check(&config, r#"{"model":"any"}"#, r#"{"model":"qwen-turbo"}"#, Some("qwen-turbo"));
    }
}
