//! Why an attempt came to no answer, and what that means: for the record, for retries, for the client.

use std::fmt;

use pingora_error::{Error, ErrorType};

use super::call::Call;
use crate::llm::error::{ApiError, ErrorKind};
use crate::plugins::Reply;
use crate::proxy::failure::{BROKEN_BODY, was_refused};
use crate::proxy::respond;
use crate::telemetry::metrics::AttemptOutcome;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection.
    Unreachable(String),
    /// No connection in time.
    NotConnected(String),
    /// No answer in time.
    TimedOut(String),
    /// The service has as much to do as it may have.
    Overflow(String),
    /// The connection ended before an answer began.
    Reset(String),
    /// What came is no answer in HTTP.
    Nonsense(String),
    /// An HTTP/2 upstream did nothing with the request.
    Refused(String),
    /// As `Reset`, on a pooled connection the other side had closed meanwhile: try again at once.
    Stale,
    /// The request cannot be put to this provider.
    Invalid(ApiError),
    /// The process ends, and the answer has not begun.
    Stopping,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(reason) => write!(f, "cannot connect: {reason}"),
            Failure::NotConnected(reason) | Failure::TimedOut(reason) => write!(f, "timed out: {reason}"),
            Failure::Reset(reason) => write!(f, "connection ended before an answer: {reason}"),
            Failure::Refused(reason) => write!(f, "the upstream did not take the request: {reason}"),
            Failure::Nonsense(reason) => write!(f, "not an answer in HTTP: {reason}"),
            Failure::Overflow(reason) => f.write_str(reason),
            Failure::Stale => f.write_str("a pooled connection had been closed"),
            Failure::Invalid(error) => f.write_str(&error.message),
            Failure::Stopping => f.write_str(STOPPING),
        }
    }
}

/// Why an answer ends before its time when the process does.
pub(super) const STOPPING: &str = "the gateway stops";

impl Failure {
    pub fn outcome(&self) -> AttemptOutcome {
        match self {
            Failure::Unreachable(_)
            | Failure::Overflow(_)
            | Failure::Reset(_)
            | Failure::Refused(_)
            | Failure::Stale => AttemptOutcome::Unreachable,
            Failure::Stopping => AttemptOutcome::Cancelled,
            Failure::NotConnected(_) | Failure::TimedOut(_) => AttemptOutcome::TimedOut,
            Failure::Invalid(_) | Failure::Nonsense(_) => AttemptOutcome::ErrorStatus,
        }
    }

    /// The status that a provider in the same state would answer with, for policies that are about statuses.
    pub fn as_status(&self) -> Option<u16> {
        match self {
            Failure::Unreachable(_) | Failure::Reset(_) | Failure::Refused(_) => Some(503),
            Failure::Nonsense(_) => Some(502),
            Failure::NotConnected(_) | Failure::TimedOut(_) => Some(504),
            Failure::Overflow(_) | Failure::Stale | Failure::Invalid(_) | Failure::Stopping => None,
        }
    }

    /// The answer if no other target helps.
    pub fn into_reply(self, call: &Call) -> Reply {
        let service = &call.service;
        let whose = if call.api.is_some() || call.provider.is_some() { "Provider service" } else { "Service" };
        match self {
            Failure::Invalid(error) => respond::api_error(&error, "ai-proxy.proc_req_body_failed"),
            Failure::NotConnected(reason) | Failure::TimedOut(reason) => {
                let reason = without_context(&reason);
                let message =
                    format!("{whose} \"{service}\" did not answer in time: {reason}. Retry, or raise that limit.");
                respond::error(ErrorKind::UpstreamTimeout, message, "upstream_response_timeout")
            }
            Failure::Overflow(reason) => {
                let message = format!("The gateway sends no more for now: {reason}. Retry later.");
                respond::error(ErrorKind::Overloaded, message, respond::OVERFLOW_DETAILS)
                    .header(respond::OVERLOADED, "true")
            }
            Failure::Nonsense(_) => {
                let message =
                    format!("{whose} \"{service}\" did not answer as HTTP has it. Check what listens at its address.");
                respond::error(ErrorKind::UpstreamInvalid, message, "protocol_error")
            }
            Failure::Stopping => {
                let message = "The gateway stops, and the model has not begun to answer. Retry the request.";
                respond::error(ErrorKind::NoUpstream, message, "gateway_stopping")
            }
            failure => {
                let what = without_context(&failure.to_string());
                let message =
                    format!("{whose} \"{service}\": {what}. Check its address in the McpBridge and that it is up.");
                respond::error(ErrorKind::UpstreamUnreachable, message, "upstream_reset_before_response_started")
            }
        }
    }

    /// A failure on an open connection. `may_be_stale`: it looks as if the pool had handed out a dead connection.
    pub(super) fn from_error(error: &Error, may_be_stale: bool) -> Failure {
        match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::TimedOut(error.to_string()),
            _ if was_refused(error) => Failure::Refused(error.to_string()),
            kind if is_nonsense(kind) => Failure::Nonsense(error.to_string()),
            _ if may_be_stale && !says_something(error) => Failure::Stale,
            _ => Failure::Reset(error.to_string()),
        }
    }
}

/// Whether the other side did more than to close: a stream that was reset after work began, an answer that makes no sense.
pub(super) fn says_something(error: &Error) -> bool {
    *error.etype() == ErrorType::H2Error || is_nonsense(error.etype())
}

fn is_nonsense(kind: &ErrorType) -> bool {
    matches!(kind, ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2) || BROKEN_BODY.contains(&kind.as_str())
}

/// What pingora says of an error, without what is for the record and the log: addresses, and its own words.
pub(super) fn without_context(text: &str) -> String {
    let what = text.split(" context:").next().unwrap_or_default();
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}
