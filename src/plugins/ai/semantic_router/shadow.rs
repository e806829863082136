//! Shadow calls: the baseline answers a sample of routed prompts too, so that the router learns what it gave up.
//!
//! A shadow call runs beside the client's exchange, never delays or changes it, and is bounded in number and in money. Its
//! failure is an outcome to record, not an error.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::config::{Config, Shadow};
use super::record::{answer_record, text_of};
use super::{evaluate, target};
use crate::flywheel::{Role, ScoreSource};
use crate::llm::request::ChatRequest;
use crate::plugins::{Host, LlmCall, Request};
use crate::routing::Decision;
use crate::telemetry::metrics::ShadowResult;

/// Bounds of the shadow calls of one configuration.
pub struct ShadowCalls {
    slots: Arc<Semaphore>,
    spent: Arc<Mutex<Spent>>,
}

/// Money spent on one day (days since the epoch, UTC).
#[derive(Default)]
struct Spent {
    day: u64,
    usd: f64,
}

impl ShadowCalls {
    pub fn new(config: &Shadow) -> ShadowCalls {
        let slots = Arc::new(Semaphore::new(config.max_concurrent));
        ShadowCalls { slots, spent: Arc::new(Mutex::new(Spent::default())) }
    }

    /// Starts a shadow call if this request is in the sample and the bounds allow it.
    pub fn consider(&self, config: &Arc<Config>, host: &Arc<dyn Host>, request: &mut Request<'_>, chat: &ChatRequest, decision: &Decision) {
        let is_sampled = request.state.id.sample() < config.shadow.rate;
        if !is_sampled || decision.model == config.baseline {
            return;
        }
        let count = |result: &'static str| {
            host.metrics().shadow_calls.get_or_create(&ShadowResult { result }).inc();
        };
        if self.spent.lock().today() >= config.shadow.budget_usd_per_day {
            return count("over_budget");
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return count("over_concurrency") };
        let mut target = target(config, &config.baseline);
        target.service.get_or_insert_with(|| request.state.service.clone());
        let call = LlmCall {
            head: request.head.clone(),
            body: request.state.body.clone().unwrap_or_default(),
            is_stream: chat.stream(),
            route: request.state.route.clone(),
            host: request.state.host.clone(),
            target,
            timeout: config.shadow.timeout,
        };
        let id = request.state.id.to_string();
        let question = chat.last_user_text().into_owned();
        let (config, spent, own_host) = (config.clone(), self.spent.clone(), host.clone());
        // The exchange must be recorded before an answer can be added to it. The request holds the other end until it is.
        let (ticket, recorded) = oneshot::channel::<()>();
        request.state.notes.insert(Arc::new(ticket));
        host.spawn(Box::pin(async move {
            let completed = own_host.complete(call).await;
            let answered = &completed.answered;
            let result = if answered.is_ok() { "answered" } else { "failed" };
            own_host.metrics().shadow_calls.get_or_create(&ShadowResult { result }).inc();
            let mut answer = answer_record(&config, answered, Role::Shadow);
            spent.lock().add(answer.cost_usd.unwrap_or(0.0));
            if let (Some(evaluate), true) = (&config.evaluate, answered.is_ok()) {
                answer.score = evaluate::score(&own_host, evaluate, &question, text_of(answered)).await;
                answer.score_source = answer.score.map(|_| ScoreSource::Evaluate);
            }
            let _ = recorded.await;
            if let Some(flywheel) = own_host.flywheel() {
                flywheel.record_answer(&id, answer);
            }
            drop(slot);
        }));
    }
}

impl Spent {
    fn today(&mut self) -> f64 {
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
        if day != self.day {
            *self = Spent { day, usd: 0.0 };
        }
        self.usd
    }

    fn add(&mut self, usd: f64) {
        self.today();
        self.usd += usd;
    }
}
