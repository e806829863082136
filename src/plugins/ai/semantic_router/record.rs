//! From what happened to the flywheel's records, the router's metrics and a sampled score.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::config::Config;
use super::evaluate;
use crate::flywheel::{
    AnswerOutcome, AnswerRecord, DecisionRecord, ExchangeRecord, JsonText, Mode, Role, ScoreRecord, ScoreSource,
    ScoreTarget,
};
use crate::learning::live::LiveRouter;
use crate::llm::request::ChatRequest;
use crate::llm::tokens::estimate_tokens;
use crate::plugins::{Answered, End, Host, Request};
use crate::routing::{Decision, Domain, FEATURES_VERSION, FeatureVector};
use crate::telemetry::metrics::ByModel;

/// Served answers being scored at a time; beyond it answers stay without a score rather than pile up in memory.
const MAX_SCORINGS: usize = 64;

/// What the request half notes for the log half.
pub struct Routed {
    /// To be stored in place of the text; otherwise training extracts them from it.
    pub features: Option<FeatureVector>,
    /// `None` when the client named the model.
    pub decided: Option<Decided>,
    pub chat: Arc<ChatRequest>,
}

/// A decision and where it came from.
pub struct Decided {
    pub decision: Decision,
    /// Version of the router; `None` is the shipped seed.
    pub version: Option<i64>,
    pub domain: Option<Domain>,
}

/// Records a served exchange and counts it.
pub fn served(config: &Arc<Config>, live: &Arc<LiveRouter>, host: &Arc<dyn Host>, request: &mut Request<'_>) {
    let Some(routed) = request.state.notes.get::<Arc<Routed>>().cloned() else { return };
    let attempts = request.state.llm.as_deref().map(|llm| llm.attempts.as_slice()).unwrap_or_default();
    let Some(last) = attempts.last() else { return };
    if routed.decided.is_some() {
        host.metrics().count_routed(&last.model, config.is_large(&last.model));
        let elapsed = request.state.started.elapsed().as_secs_f64();
        host.metrics().response_time.get_or_create(&ByModel { model: last.model.to_string() }).observe(elapsed);
    }
    let Some(flywheel) = host.flywheel() else { return };
    let mut record = exchange_record(config, request, &routed, Mode::Serve);
    let n_last = attempts.len() - 1;
    record.answers = attempts
        .iter()
        .enumerate()
        .map(|(index, attempt)| {
            answer_record(config, &routed.chat, attempt, if index == n_last { Role::Served } else { Role::Candidate })
        })
        .collect();
    flywheel.record(record);
    score_in_background(config, live, host, request, &routed, last);
}

fn score_in_background(
    config: &Arc<Config>,
    live: &Arc<LiveRouter>,
    host: &Arc<dyn Host>,
    request: &Request<'_>,
    routed: &Arc<Routed>,
    last: &Answered,
) {
    let Some(evaluate) = config.evaluate.clone() else { return };
    if !is_answer(last) || request.state.id.sample("evaluate") >= evaluate.rate {
        return;
    }
    let Some(slot) = live.scoring_slot(MAX_SCORINGS) else { return };
    let (routed, last, id) = (routed.clone(), last.clone(), request.state.id.to_string());
    let (live, own_host) = (live.clone(), host.clone());
    host.spawn(Box::pin(async move {
        let _slot = slot;
        let scored = evaluate::of_answer(&own_host, Some(&evaluate), &routed.chat, &last).await;
        let Some(score) = scored else { return };
        live.observe_score(own_host.metrics(), &last.model, score);
        if let Some(flywheel) = own_host.flywheel() {
            let target = ScoreTarget::Served;
            flywheel.record_score(ScoreRecord {
                exchange_id: id,
                target,
                score,
                source: ScoreSource::Evaluate,
                at_ms: now_ms(),
            });
        }
    }));
}

/// The exchange without its answers.
pub fn exchange_record(config: &Config, request: &Request<'_>, routed: &Routed, mode: Mode) -> ExchangeRecord {
    let state = &request.state;
    ExchangeRecord {
        id: state.id.to_string(),
        at_ms: now_ms() - i64::try_from(state.started.elapsed().as_millis()).unwrap_or(0),
        tenant: tenant(request).to_owned(),
        route: state.route.to_string(),
        consumer: state.consumer.clone(),
        mode,
        prompt_hash: prompt_hash(&routed.chat),
        messages: Some(JsonText(routed.chat.messages_json().to_owned())),
        features: routed.features.as_ref().map(FeatureVector::to_bytes),
        features_version: (routed.decided.is_some() || routed.features.is_some()).then_some(FEATURES_VERSION),
        stream: routed.chat.stream(),
        decision: routed.decided.as_ref().map(|decided| DecisionRecord {
            router: config.router.clone(),
            router_version: decided.version,
            chosen: decided.decision.model.clone(),
            reasons: JsonText(serde_json::to_string(&decided.decision.reasons).unwrap_or_else(|_| "null".into())),
        }),
        answers: Vec::new(),
    }
}

/// One attempt as the flywheel stores it. Tokens the provider did not report are estimated for the cost, not stored.
pub fn answer_record(config: &Config, chat: &ChatRequest, answered: &Answered, role: Role) -> AnswerRecord {
    let usage = answered.observation.usage.as_ref();
    let cost = config.price(&answered.model).filter(|_| is_answer(answered)).map(|price| match usage {
        Some(usage) => price.usd(usage.prompt_tokens, usage.completion_tokens),
        None => price.usd(chat.estimate_prompt_tokens(), estimate_tokens(text_of(answered))),
    });
    let (outcome, error) = match &answered.end {
        End::Complete if is_answer(answered) => (AnswerOutcome::Ok, None),
        End::Complete if answered.is_ok() => {
            (AnswerOutcome::Failed, Some("the answer is no chat completion".to_owned()))
        }
        End::Complete => (AnswerOutcome::Failed, answered.status.map(|status| format!("status {status}"))),
        End::Cut(reason) => (AnswerOutcome::Cut, Some(reason.clone())),
        End::Cancelled => (AnswerOutcome::Cancelled, None),
        End::Failed(reason) => (AnswerOutcome::Failed, Some(reason.clone())),
    };
    let text = text_of(answered);
    AnswerRecord {
        role,
        model: answered.model.to_string(),
        provider: answered.service.to_string(),
        output: (!text.is_empty()).then(|| text.to_owned()),
        outcome,
        error,
        http_status: answered.status,
        latency_ms: answered.latency.as_secs_f64() * 1e3,
        first_token_ms: answered
            .first_token
            .filter(|_| answered.observation.n_events > 0)
            .map(|time| time.as_secs_f64() * 1e3),
        prompt_tokens: usage.and_then(|usage| u32::try_from(usage.prompt_tokens).ok()),
        completion_tokens: usage.and_then(|usage| u32::try_from(usage.completion_tokens).ok()),
        cost_usd: cost,
        score: None,
        score_source: None,
        scored_at_ms: None,
    }
}

/// Whether it is an answer, and not only a success: an empty body, or a page of HTML that some proxy sent with status 200, is none.
pub fn is_answer(answered: &Answered) -> bool {
    let seen = &answered.observation;
    answered.is_ok() && (seen.n_unreadable == 0 || seen.is_complete())
}

/// What the model said, as text.
pub fn text_of(answered: &Answered) -> &str {
    &answered.observation.answer
}

/// SHA-256 of the messages as sent, hex.
fn prompt_hash(chat: &ChatRequest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(chat.messages_json().as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// There is one tenant until tenants can be configured.
pub fn tenant<'a>(_request: &'a Request<'_>) -> &'a str {
    "default"
}

pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
