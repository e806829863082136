//! `POST …/v1/feedback`: what a client says about an answer it got.
//!
//! `{"request_id": "<x-weirgate-decision-id>", "score": 0..1 | "thumb": "up" | "down", "text": "…"}`

use bytes::Bytes;
use serde::Deserialize;

use super::record::{now_ms, tenant};
use super::{error_reply, refuse};
use crate::flywheel::{FeedbackRecord, Flywheel, Rates};
use crate::llm::error::{ApiError, ErrorKind};
use crate::plugins::{Reply, Request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Feedback {
    #[serde(alias = "id", alias = "decision_id")]
    request_id: String,
    score: Option<f64>,
    thumb: Option<Thumb>,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Thumb {
    Up,
    Down,
}

pub fn is_feedback(request: &Request<'_>) -> bool {
    request.path().ends_with("/v1/feedback")
}

/// Takes the feedback, or says what is wrong with it. 202: it is stored off the request path.
/// Who may use training mode may rate the answers to others, too.
pub fn accept(flywheel: Option<&Flywheel>, trainers: &[String], request: &Request<'_>) -> Reply {
    let Some(flywheel) = flywheel else {
        let message = "Feedback cannot be stored because the flywheel is not open; the gateway's start log says why.";
        return refuse(ErrorKind::Overloaded, message, "semantic-router.no_flywheel");
    };
    match parse(request.state.body.as_deref().unwrap_or_default()) {
        Ok((id, mut record)) => {
            record.consumer.clone_from(&request.state.consumer);
            let is_trainer = record.consumer.as_ref().is_some_and(|name| trainers.contains(name));
            let rates = if is_trainer { Rates::All } else { Rates::Own };
            if !flywheel.record_feedback(&id, tenant(request), rates, record) {
                let message =
                    "Feedback cannot be stored now, because too much waits to be written. Send it again later.";
                return refuse(ErrorKind::Overloaded, message, "semantic-router.flywheel_full");
            }
            Reply::new(202, "semantic-router.feedback").json(Bytes::from_static(b"{\"status\":\"accepted\"}"))
        }
        Err(error) => error_reply(&error, "semantic-router.bad_feedback"),
    }
}

fn parse(body: &[u8]) -> Result<(String, FeedbackRecord), ApiError> {
    let feedback: Feedback = serde_json::from_slice(body).map_err(|error| {
        let message = format!(
            "Feedback must be a JSON object with request_id and score (0 to 1), thumb (\"up\" or \"down\") or text: {error}."
        );
        ApiError::new(if error.is_data() { ErrorKind::InvalidType } else { ErrorKind::InvalidJson }, message)
    })?;
    let bad = |message: &str, param: &str| Err(ApiError::new(ErrorKind::InvalidValue, message).with_param(param));
    if feedback.request_id.is_empty() || feedback.request_id.len() > 200 {
        return bad("request_id must be the x-weirgate-decision-id of the answer you mean.", "request_id");
    }
    let score = match (feedback.score, feedback.thumb) {
        (Some(_), Some(_)) => return bad("Send score or thumb, not both.", "thumb"),
        (Some(score), None) if !(0.0..=1.0).contains(&score) => return bad("score must be between 0 and 1.", "score"),
        (score, None) => score,
        (None, Some(Thumb::Up)) => Some(1.0),
        (None, Some(Thumb::Down)) => Some(0.0),
    };
    if score.is_none() && feedback.text.is_none() {
        return bad("Send a score, a thumb or a text; without one there is nothing to store.", "score");
    }
    Ok((feedback.request_id, FeedbackRecord { at_ms: now_ms(), score, text: feedback.text, consumer: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_thumbs_and_texts_are_read() {
        let read = |body: &str| parse(body.as_bytes()).map(|(id, record)| (id, record.score, record.text));
        assert_eq!(read(r#"{"request_id":"a","score":0.5}"#).unwrap(), ("a".into(), Some(0.5), None));
        assert_eq!(read(r#"{"id":"a","thumb":"down","text":"x"}"#).unwrap(), ("a".into(), Some(0.0), Some("x".into())));
        assert_eq!(read(r#"{"request_id":"a","text":"x"}"#).unwrap(), ("a".into(), None, Some("x".into())));
    }

    #[test]
    fn anything_else_is_refused_with_its_field() {
        for (body, param) in [
            (r#"{"request_id":"a","score":2}"#, Some("score")),
            (r#"{"request_id":"","score":1}"#, Some("request_id")),
            (r#"{"request_id":"a"}"#, Some("score")),
            (r#"{"request_id":"a","score":1,"thumb":"up"}"#, Some("thumb")),
            ("[]", None),
            (r#"{"request_id":"a","score":1,"stars":5}"#, None),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, param), "{body}");
        }
    }
}
