//! Training mode: every candidate answers, every answer is scored and stored, the client gets the best.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::config::{Config, Training};
use super::record::{Routed, answer_record, exchange_record, is_answer};
use super::{DECISION_HEADER, MODEL_HEADER, call_beside, evaluate, features_of, refuse};
use crate::flywheel::{Mode, Role, ScoreSource};
use crate::learning::live::LiveRouter;
use crate::llm::error::ErrorKind;
use crate::llm::request::ChatRequest;
use crate::plugins::{CompletedCall, Flow, Host, Reply, Request};

/// Whether the client asked for training mode; "false" and "0" do not ask.
pub fn is_asked(training: &Training, request: &Request<'_>) -> bool {
    let value = request.header(training.header.as_str());
    value.is_some_and(|value| !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "false" | "0"))
}

/// Answers in training mode.
pub async fn run(
    config: &Arc<Config>,
    live: &LiveRouter,
    host: &Arc<dyn Host>,
    request: &mut Request<'_>,
    chat: &Arc<ChatRequest>,
) -> Flow {
    if let Some(refusal) = refusal(&config.training, request) {
        return Flow::respond(refusal);
    }
    let calls = config
        .candidates
        .iter()
        .map(|candidate| host.complete(call_beside(config, request, chat, &candidate.model, config.training.timeout)));
    let completed = join_all(calls).await;
    let scored = |call| evaluate::of_answer(host, config.evaluate.as_ref(), chat, call);
    let scores = join_all(completed.iter().map(|call| scored(&call.answered))).await;
    let best = best(config, &completed, &scores);
    store(config, host, request, chat, &completed, &scores, best);
    let Some(best) = best else {
        let message = "No candidate model answered; the flywheel has each failure. Check the providers of the route.";
        return Flow::respond(refuse(ErrorKind::UpstreamUnreachable, message, "semantic-router.training_failed"));
    };
    for (call, score) in completed.iter().zip(&scores) {
        if let Some(score) = score {
            live.observe_score(host.metrics(), &call.answered.model, *score);
        }
    }
    Flow::respond(answer(request, &completed[best]))
}

fn refusal(training: &Training, request: &Request<'_>) -> Option<Reply> {
    if !training.enabled {
        let message = "Training mode is off on this route. Set training.enabled in the semantic-router plugin, or leave the header out.";
        return Some(refuse(ErrorKind::Forbidden, message, "semantic-router.training_off"));
    }
    let consumer = request.state.consumer.as_deref();
    let is_allowed =
        training.consumers.is_empty() || consumer.is_some_and(|name| training.consumers.iter().any(|c| c == name));
    (!is_allowed).then(|| {
        let message =
            "This consumer may not use training mode. Ask for it in training.consumers of the semantic-router plugin.";
        refuse(ErrorKind::Forbidden, message, "semantic-router.training_forbidden")
    })
}

/// Index of the answer to give: best score; without scores the baseline's, else any.
fn best(config: &Config, completed: &[CompletedCall], scores: &[Option<f64>]) -> Option<usize> {
    let answered = || (0..completed.len()).filter(|index| is_answer(&completed[*index].answered));
    let by_score = answered().filter(|index| scores[*index].is_some()).max_by(|a, b| {
        let score = |index: &usize| scores[*index].unwrap_or(f64::MIN);
        // Of equal scores the faster answer.
        score(a).total_cmp(&score(b)).then(completed[*b].answered.latency.cmp(&completed[*a].answered.latency))
    });
    by_score
        .or_else(|| answered().find(|index| *completed[*index].answered.model == *config.baseline))
        .or_else(|| answered().next())
}

fn store(
    config: &Config,
    host: &Arc<dyn Host>,
    request: &Request<'_>,
    chat: &Arc<ChatRequest>,
    completed: &[CompletedCall],
    scores: &[Option<f64>],
    best: Option<usize>,
) {
    let Some(flywheel) = host.flywheel() else { return };
    let routed = Routed { features: Some(features_of(chat)), decided: None, chat: chat.clone() };
    let mut record = exchange_record(config, request, &routed, Mode::Training);
    record.answers = completed
        .iter()
        .zip(scores)
        .enumerate()
        .map(|(index, (call, score))| {
            let role = if best == Some(index) { Role::Served } else { Role::Candidate };
            let mut answer = answer_record(config, chat, &call.answered, role);
            answer.score = *score;
            answer.score_source = score.map(|_| ScoreSource::Evaluate);
            answer
        })
        .collect();
    flywheel.record(record);
}

fn answer(request: &Request<'_>, call: &CompletedCall) -> Reply {
    let (status, content_type, body) = call.response.clone().unwrap_or((502, None, Bytes::new()));
    let mut reply = Reply::new(status, "semantic-router.training").header(MODEL_HEADER, &call.answered.model);
    reply = reply.header(DECISION_HEADER, &request.state.id.to_string());
    reply.headers.push((CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/json"))));
    reply.body = body;
    reply
}
