//! `semantic-router`: sends each prompt to the model that answers it best, and records what came of it. Priority 860.
//!
//! Ours, not Higress'. A request for one of `models` (default `auto`) is routed: features, predicted score, cost and latency
//! of each candidate, best utility under hard limits. Every model call that passes is recorded in the flywheel; a sample is
//! also answered by the baseline (`shadow`), out of the client's sight. In training mode all candidates answer, every answer
//! is scored, and the client gets the best (`training`).

pub mod config;
mod evaluate;
mod feedback;
mod record;
mod shadow;
mod training;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use self::config::{Config, Embedding};
use self::record::{Decided, Routed};
use super::{chat_request, error_reply};
use crate::config::model::Phase;
use crate::flywheel::Flywheel;
use crate::learning::live::{LiveRouter, Setup};
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::observe::Want;
use crate::llm::provider::Api;
use crate::llm::request::ChatRequest;
use crate::plugins::config::is_usable;
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, LlmCall, Plugin, Reply, Request, Target};
use crate::routing::{ColdStart, Decision, Domain, FeatureVector, Prompt, Reason, decide, extract};

pub const SPEC: PluginSpec = PluginSpec {
    name: "semantic-router",
    phase: Phase::Unspecified,
    priority: 860,
    family: Family::Go,
    summary: "Routes each prompt to the model that answers it best, learns from recorded outcomes",
    build,
    check: |scope| Config::read(scope).1,
};

/// The model that answered (or was asked first, while streaming).
pub const MODEL_HEADER: HeaderName = HeaderName::from_static("x-weirgate-model");
/// Key of the record in the flywheel; what feedback refers to.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("x-weirgate-decision-id");
/// The domain the prompt was taken for.
pub const DOMAIN_HEADER: HeaderName = HeaderName::from_static("x-weirgate-domain");

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let live = host.router(&config.router);
    Ok(Some(Arc::new(SemanticRouter::new(config, live, host.clone()))))
}

struct SemanticRouter {
    config: Arc<Config>,
    setup: Arc<Setup>,
    cold_start: ColdStart,
    live: Arc<LiveRouter>,
    host: Arc<dyn Host>,
}

#[async_trait]
impl Plugin for SemanticRouter {
    /// Tells the learner what it trains for; only once the configuration is live.
    fn activate(&self) {
        self.live.configure(&self.setup);
        if self.config.embedding != Embedding::Off {
            self.host.prepare_embedding();
        }
    }

    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        if request.head.method != Method::GET {
            return Flow::Continue;
        }
        let asked = request.path().split_once("/v1/models").map(|(_, rest)| rest.strip_prefix('/').unwrap_or(rest));
        match asked {
            None => Flow::Continue,
            Some("") => {
                let list = json!({"object": "list", "data": self.models().collect::<Vec<_>>()});
                Flow::respond(Reply::new(200, "semantic-router.models").json(Bytes::from(list.to_string())))
            }
            // Another may be the provider's.
            Some(id) => match self.models().find(|model| model["id"] == id) {
                Some(model) => {
                    Flow::respond(Reply::new(200, "semantic-router.models").json(Bytes::from(model.to_string())))
                }
                None => Flow::Continue,
            },
        }
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        request.head.method == Method::POST && (is_chat(request) || feedback::is_feedback(request))
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        if feedback::is_feedback(request) {
            return Flow::respond(feedback::accept(self.host.flywheel(), &self.config.training.consumers, request));
        }
        let chat = match chat_request(request) {
            None => return Flow::Continue,
            Some(Ok(chat)) => chat,
            Some(Err(error)) => return Flow::respond(error_reply(&error, "semantic-router.bad_request")),
        };
        let is_routed = self.config.models.iter().any(|model| model == chat.model());
        let llm = request.state.llm_mut();
        llm.api = Some(Api::ChatCompletions);
        llm.requested_model = chat.model().to_owned();
        llm.stream = chat.stream();
        llm.want = Some(Want::default());
        if training::is_asked(&self.config.training, request) {
            return training::run(&self.config, &self.live, &self.host, request, &chat).await;
        }
        let is_redacting = self.host.flywheel().is_some_and(Flywheel::is_redacting);
        let features = (is_routed || is_redacting).then(|| features_of(&chat));
        let decided = match features.as_ref().filter(|_| is_routed) {
            Some(features) => Some(self.decide(features, &chat).await),
            None => None,
        };
        announce(request, decided.as_ref().and_then(|decided| decided.domain));
        if let Some(decided) = &decided {
            self.aim(request, &decided.decision);
            shadow::consider(&self.config, &self.live, &self.host, request, &chat, &decided.decision);
        }
        // Training extracts them again from the stored messages, unless those are not stored or do not tell everything.
        let features = features.filter(|_| is_redacting || chat.has_tools());
        request.state.notes.insert(Arc::new(Routed { features, decided, chat }));
        Flow::Continue
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut pingora_http::ResponseHeader) {
        // After a fallback another candidate answers than the one announced.
        let is_routed = request.state.notes.get::<Arc<Routed>>().is_some_and(|routed| routed.decided.is_some());
        let Some(llm) = request.state.llm.as_deref().filter(|_| is_routed) else { return };
        if let Some(model) = llm.targets.get(llm.current).and_then(|target| target.model.as_ref())
            && let Ok(value) = HeaderValue::from_str(model)
        {
            let _ = response.insert_header(MODEL_HEADER, value);
        }
    }

    fn on_log(&self, request: &mut Request<'_>) {
        record::served(&self.config, &self.live, &self.host, request);
    }
}

impl SemanticRouter {
    fn new(config: Config, live: Arc<LiveRouter>, host: Arc<dyn Host>) -> SemanticRouter {
        let cold_start = ColdStart::new(&config.candidates, &config.baseline);
        SemanticRouter { setup: Arc::new(config.setup()), config: Arc::new(config), cold_start, live, host }
    }

    /// Made from the features alone first: that is fast and always possible.
    async fn decide(&self, features: &FeatureVector, chat: &ChatRequest) -> Decided {
        let first = self.decide_from(features, None);
        let wants_embedding = match self.config.embedding {
            Embedding::Off => false,
            Embedding::Auto => is_close(&first.decision),
            Embedding::Always => true,
        };
        if !(wants_embedding && self.live.reads_embedding()) {
            return first;
        }
        match self.host.embed(&chat.last_user_text()).await {
            Some(embedding) => self.decide_from(features, Some(&embedding)),
            None => first,
        }
    }

    fn decide_from(&self, features: &FeatureVector, embedding: Option<&[f32]>) -> Decided {
        let started = Instant::now();
        let outlook = self.live.predict(features, embedding, &self.cold_start);
        let decision = decide(&outlook.predictions, &self.config.policy, &self.config.baseline);
        self.host.metrics().decision_seconds.observe(started.elapsed().as_secs_f64());
        Decided { decision, version: outlook.version, domain: outlook.domain }
    }

    /// Points the exchange at the chosen candidate, then the next best ones.
    fn aim(&self, request: &mut Request<'_>, decision: &Decision) {
        let next = decision.ranked.iter().map(|(model, _)| model).filter(|model| **model != decision.model);
        let models = std::iter::once(&decision.model).chain(next).take(1 + self.config.fallbacks);
        request.state.llm_mut().targets = models.map(|model| target(&self.config, model)).collect();
    }

    /// The names clients may ask for, in the shape of OpenAI's models.
    fn models(&self) -> impl Iterator<Item = Value> {
        let named = |id: &str, owner: &str| json!({"id": id, "object": "model", "created": 0, "owned_by": owner});
        let routed = self.config.models.iter().map(move |model| named(model, "weirgate"));
        routed.chain(self.config.candidates.iter().map(move |candidate| {
            named(&candidate.model, if candidate.provider.is_empty() { "provider" } else { &candidate.provider })
        }))
    }
}

/// Names the record, and what the prompt was taken for, in the answer's head.
fn announce(request: &mut Request<'_>, domain: Option<Domain>) {
    let id = request.state.id.to_string();
    let headers = &mut request.state.reply_headers;
    headers.extend(HeaderValue::from_str(&id).ok().map(|value| (DECISION_HEADER, value)));
    headers.extend(domain.map(|domain| (DOMAIN_HEADER, HeaderValue::from_static(domain.name()))));
}

/// Expected utility by which the best candidate must lead for a decision to stand without an embedding.
const CLEAR: f64 = 0.1;

fn is_close(decision: &Decision) -> bool {
    decision
        .reasons
        .iter()
        .any(|reason| matches!(reason, Reason::BestUtility { margin, runner_up: Some(_), .. } if *margin < CLEAR))
}

/// The target of a candidate.
fn target(config: &Config, model: &str) -> Target {
    Target { service: config.service(model), model: Some(Arc::from(model)) }
}

/// The client's request as a call of `model` beside the exchange; where the candidate names no provider, to the service the
/// request goes to.
fn call_beside(config: &Config, request: &Request<'_>, chat: &ChatRequest, model: &str, timeout: Duration) -> LlmCall {
    let mut target = target(config, model);
    let port = if target.service.is_none() { request.state.service_port } else { None };
    target.service.get_or_insert_with(|| request.state.service.clone());
    LlmCall {
        head: request.head.clone(),
        credentials: request.state.credentials.clone(),
        body: request.state.body.clone().unwrap_or_default(),
        is_stream: chat.stream(),
        route: request.state.route.clone(),
        host: request.state.host.clone(),
        target,
        port,
        timeout,
    }
}

fn features_of(chat: &ChatRequest) -> FeatureVector {
    extract(&Prompt {
        text: &chat.last_user_text(),
        n_turns: u32::try_from(chat.n_turns()).unwrap_or(u32::MAX),
        n_chars_total: chat.messages_json().len(),
        has_tools: chat.has_tools(),
    })
}

fn is_chat(request: &Request<'_>) -> bool {
    // Whatever it is called, only one thing can be meant: curl sends JSON as a form unless told otherwise.
    request.path().ends_with("/chat/completions")
        && !request.content_type().is_some_and(|kind| kind.starts_with("multipart/"))
}

fn refuse(kind: ErrorKind, message: &str, details: &str) -> Reply {
    error_reply(&ApiError::new(kind, message), details)
}

#[cfg(test)]
mod embedding_tests;
