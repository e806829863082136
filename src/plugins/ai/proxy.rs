//! `ai-proxy`: names the model provider behind a service. Default phase, priority 100.
//!
//! The plugin itself only reads configuration and marks the request as a model call; the exchange asks it for the provider of
//! each service it tries, because one request may try several. Rules are laid over the global configuration, so a rule that
//! says `activeProviderId` keeps the global `providers`.
//!
//! Differences from Higress: calls to providers that need translation of bodies are answered with 503 (they come with their
//! own change); the client's credential is not sent to the provider beside the provider's own; mapping keys with patterns are
//! tried in a fixed order.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::{chat_request, error_reply, is_json};
use crate::config::Severity;
use crate::config::model::Phase;
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::provider::{Api, FieldError, FieldErrorKind, Protocol, Provider, recognise};
use crate::llm::request::{ChatRequest, peek_field};
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "ai-proxy",
    phase: Phase::Unspecified,
    priority: 100,
    family: Family::Go,
    summary: "Calls model providers: credentials, paths, model names, token pools, retries",
    build,
    check: |scope| read(scope).1,
};

/// The field that picks from the pool.
const NAMED: &str = "activeProviderId";

/// The active provider of the scope, if one is named.
fn read(scope: &Scope<'_>) -> (Option<Provider>, Vec<FieldProblem>) {
    let value = scope.overlaid();
    let mut fields = Fields::of(&value, "");
    let mut active = None;
    if let Some(single) = fields.object("provider") {
        active = parse(&mut fields, single, "provider", true);
    }
    let wanted = fields.string(NAMED);
    for (index, provider) in fields.list("providers").unwrap_or_default().iter().enumerate() {
        // Every provider is checked where the pool is written; the rules that pick from it need only theirs.
        let is_wanted = wanted.is_some_and(|id| provider.get("id").and_then(Value::as_str) == Some(id));
        if scope.rule.is_none() || is_wanted {
            // A rule that picks from a pool written elsewhere has only the name to be told about.
            let is_own = scope.rule.is_none_or(|rule| rule.get("providers").is_some());
            let at = if is_own { format!("providers[{index}]") } else { NAMED.to_owned() };
            let parsed = parse(&mut fields, provider, &at, is_wanted);
            if is_wanted && active.is_none() {
                active = parsed;
            }
        }
    }
    if let Some(id) = wanted
        && active.is_none()
        && fields.is_usable()
    {
        fields.problem(NAMED, format!("\"{id}\" is not the id of any entry of providers"));
    }
    (active, fields.finish())
}

/// A provider this program cannot speak to costs those that use it (`is_active`), not the others of its pool.
fn parse(fields: &mut Fields<'_>, provider: &Value, at: &str, is_active: bool) -> Option<Provider> {
    match Provider::parse(provider) {
        Ok(provider) => {
            // What a provider leaves undone is told once, where the pool is written.
            for note in provider.config().unsupported.iter().filter(|_| at != NAMED) {
                fields.warn(at, note);
            }
            Some(provider)
        }
        Err(errors) => {
            for FieldError { field, message, kind } in errors {
                let severity = match kind {
                    FieldErrorKind::Wrong => Severity::Error,
                    FieldErrorKind::Unsupported if is_active => Severity::Outage,
                    FieldErrorKind::Unsupported => Severity::Warning,
                };
                if at == NAMED {
                    let id = provider.get("id").and_then(Value::as_str).unwrap_or_default();
                    fields.add(severity, at, format!("names the provider \"{id}\", whose `{field}` {message}"));
                } else {
                    fields.add(severity, &format!("{at}.{field}"), message);
                }
            }
            None
        }
    }
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (active, problems) = read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    Ok(active.map(|provider| Arc::new(AiProxy { provider: Arc::new(provider) }) as Arc<dyn Plugin>))
}

/// The only other member of a body that the exchange must know, in any API.
#[derive(Deserialize)]
struct StreamFlag {
    #[serde(default)]
    stream: bool,
}

struct AiProxy {
    provider: Arc<Provider>,
}

#[async_trait]
impl Plugin for AiProxy {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let api = recognise(request.path()).map(|recognised| recognised.api);
        let llm = request.state.llm_mut();
        llm.api = llm.api.or(api);
        Flow::Continue
    }

    /// Also requests without a body take the exchange path: they need the provider's credentials.
    fn wants_body(&self, _request: &Request<'_>) -> bool {
        true
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let Some(body) = request.state.body.clone().filter(|_| is_json(request)) else { return Flow::Continue };
        let chat = match self.chat(request) {
            Ok(chat) => chat,
            Err(error) => return Flow::respond(error_reply(&error, "ai-proxy.bad_request")),
        };
        let (model, is_stream) = match chat {
            Some(chat) => (Some(chat.model().to_owned()), chat.stream()),
            None => {
                let model = peek_field(&body, "model").ok().flatten().map(|model| model.into_owned());
                (model, serde_json::from_slice::<StreamFlag>(&body).is_ok_and(|flag| flag.stream))
            }
        };
        let llm = request.state.llm_mut();
        if llm.requested_model.is_empty() {
            llm.requested_model = model.unwrap_or_default();
        }
        llm.stream |= is_stream;
        Flow::Continue
    }

    fn provider(&self) -> Option<&Arc<Provider>> {
        Some(&self.provider)
    }
}

impl AiProxy {
    /// The body as a chat request, if it is one. What no provider could make sense of is an error here, where the message can say why; what
    /// one may know and we do not (a role, a model of its own choice) is left to it, and so is its own protocol.
    fn chat(&self, request: &mut Request<'_>) -> Result<Option<Arc<ChatRequest>>, ApiError> {
        let is_chat = request.state.llm.as_deref().is_some_and(|llm| llm.api == Some(Api::ChatCompletions));
        if !is_chat || self.provider.config().protocol != Protocol::OpenAi {
            return Ok(None);
        }
        match chat_request(request).transpose() {
            Err(error) if matches!(error.kind, ErrorKind::InvalidValue | ErrorKind::MissingModel) => Ok(None),
            chat => chat,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_picks_from_the_global_pool() {
        let global = json!({"providers": [
            {"id": "a", "type": "openai", "apiTokens": ["t"]},
            {"id": "b", "type": "qwen", "apiTokens": ["t"], "qwenEnableCompatible": true},
        ]});
        let pick = |id: &str| {
            let rule = json!({"activeProviderId": id});
            read(&Scope { global: Some(&global), rule: Some(&rule), n_rules: 1 })
        };
        assert_eq!(pick("a").0.map(|provider| provider.config().id.clone()).as_deref(), Some("a"));
        assert_eq!(pick("zzz").1[0].field, "activeProviderId");
        let (active, problems) = read(&Scope { global: Some(&global), rule: None, n_rules: 1 });
        assert!(active.is_none() && is_usable(&problems), "{problems:?}");
    }

    #[test]
    fn a_provider_that_is_not_supported_costs_only_those_that_use_it() {
        let global = json!({"providers": [
            {"id": "a", "type": "openai", "apiTokens": ["t"]}, {"id": "b", "type": "spark", "apiTokens": ["t"]},
        ]});
        let severities = |rule: Option<&Value>| {
            let (active, problems) = read(&Scope { global: Some(&global), rule, n_rules: 2 });
            (active.is_some(), problems.into_iter().map(|problem| problem.severity).collect::<Vec<_>>())
        };
        assert_eq!(severities(None), (false, vec![Severity::Warning]));
        assert_eq!(severities(Some(&json!({"activeProviderId": "a"}))), (true, vec![]));
        assert_eq!(severities(Some(&json!({"activeProviderId": "b"}))), (false, vec![Severity::Outage]));
    }

    #[test]
    fn problems_carry_the_path_of_their_provider() {
        let global = json!({"providers": [{"id": "a", "type": "openai", "apiTokens": "t"}], "extra": 1});
        let (_, problems) = read(&Scope { global: Some(&global), rule: None, n_rules: 0 });
        let named: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(named, ["providers[0].apiTokens", "extra"]);
    }
}
