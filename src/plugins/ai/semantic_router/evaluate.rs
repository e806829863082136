//! Asking the evaluation service for the score of an answer.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::config::Evaluate;
use super::record::{is_answer, text_of};
use crate::llm::request::ChatRequest;
use crate::plugins::{Answered, Host, HttpCall};

#[derive(Deserialize)]
struct Scored {
    score: f64,
}

/// The score of an answer, if it is one and has text: what calls tools says nothing that could be judged.
pub async fn of_answer(
    host: &Arc<dyn Host>,
    evaluate: Option<&Evaluate>,
    chat: &ChatRequest,
    answered: &Answered,
) -> Option<f64> {
    let text = text_of(answered);
    if !is_answer(answered) || text.is_empty() {
        return None;
    }
    score(host, evaluate?, &chat.last_user_text(), text).await
}

/// The score in 0..1; `None` if the service does not know the question or the answer (a negative score), or failed (logged).
async fn score(host: &Arc<dyn Host>, evaluate: &Evaluate, question: &str, answer: &str) -> Option<f64> {
    let body = Bytes::from(json!({"question": question, "answer": answer}).to_string());
    let failed = |reason: String| {
        tracing::warn!(url = evaluate.url, reason, "An answer could not be scored; it is kept without a score");
        None
    };
    let call = match HttpCall::post_json(&evaluate.url, body, evaluate.timeout) {
        Ok(call) => call,
        Err(reason) => return failed(reason),
    };
    match host.http(call).await {
        Ok(answer) if answer.status() == 200 => match serde_json::from_slice::<Scored>(&answer.body) {
            Ok(Scored { score }) if (0.0..=1.0).contains(&score) => Some(score),
            Ok(Scored { score }) if score < 0.0 => None,
            Ok(Scored { score }) => failed(format!("score {score} is above 1")),
            Err(error) => failed(format!("the answer is not {{\"score\": number}}: {error}")),
        },
        Ok(answer) => failed(format!("status {}", answer.status())),
        Err(reason) => failed(reason),
    }
}
