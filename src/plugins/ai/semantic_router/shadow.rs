//! Shadow calls: the baseline answers a sample of routed prompts too, so that the router learns what it gave up.
//!
//! A shadow call runs beside the client's exchange, never delays or changes it, and is bounded in number and in money. Its
//! failure is an outcome to record, not an error.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::config::Config;
use super::record::{answer_record, is_answer};
use super::{call_beside, evaluate};
use crate::flywheel::{Role, ScoreSource};
use crate::learning::live::LiveRouter;
use crate::llm::request::ChatRequest;
use crate::plugins::{Host, Request};
use crate::routing::Decision;
use crate::telemetry::metrics::ShadowResult;

/// Starts a shadow call if this request is in the sample and the bounds allow it.
pub fn consider(
    config: &Arc<Config>,
    live: &Arc<LiveRouter>,
    host: &Arc<dyn Host>,
    request: &mut Request<'_>,
    chat: &Arc<ChatRequest>,
    decision: &Decision,
) {
    let is_sampled = request.state.id.sample("shadow") < config.shadow.rate;
    if !is_sampled || decision.model == config.baseline {
        return;
    }
    let count = |result: &'static str| {
        host.metrics().shadow_calls.get_or_create(&ShadowResult { result }).inc();
    };
    if live.spend_on_shadow(0.0) >= config.shadow.budget_usd_per_day {
        return count("over_budget");
    }
    let Some(slot) = live.shadow_slot(config.shadow.max_concurrent) else { return count("over_concurrency") };
    let call = call_beside(config, request, chat, &config.baseline, config.shadow.timeout);
    let id = request.state.id.to_string();
    let chat = chat.clone();
    let (config, live, own_host) = (config.clone(), live.clone(), host.clone());
    // The exchange must be recorded before an answer can be added to it. The request holds the other end until it is.
    let (ticket, recorded) = oneshot::channel::<()>();
    request.state.notes.insert(Arc::new(ticket));
    host.spawn(Box::pin(async move {
        let completed = own_host.complete(call).await;
        let answered = &completed.answered;
        let result = if is_answer(answered) { "answered" } else { "failed" };
        own_host.metrics().shadow_calls.get_or_create(&ShadowResult { result }).inc();
        let mut answer = answer_record(&config, &chat, answered, Role::Shadow);
        live.spend_on_shadow(answer.cost_usd.unwrap_or(0.0));
        answer.score = evaluate::of_answer(&own_host, config.evaluate.as_ref(), &chat, answered).await;
        answer.score_source = answer.score.map(|_| ScoreSource::Evaluate);
        let _ = recorded.await;
        if let Some(flywheel) = own_host.flywheel() {
            flywheel.record_answer(&id, answer);
        }
        drop(slot);
    }));
}
