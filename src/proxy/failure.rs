//! What pingora's errors mean: for the client, for the access log, and what to do about them.

use pingora_error::{Error, ErrorSource, ErrorType};

use super::{departure, respond};
use crate::llm::error::ErrorKind;

/// What pingora calls the faults of a chunked body.
pub const BROKEN_BODY: &[&str] = &["InvalidChunk", "InvalidTrailerEnd"];

/// Marks the error of a request that its service has no room for.
pub const OVERFLOW: ErrorType = ErrorType::Custom("the service is at its limit");

/// Whether an HTTP/2 upstream says that it did nothing with the request: it refused the stream, or closes the connection and has not come
/// to it (RFC 9113, section 8.7).
pub fn was_refused(error: &Error) -> bool {
    const SAID: [&str; 2] = ["refused stream before processing", "connection error received: not a result of an error"];
    let cause = error.root_cause().to_string();
    error.etype() == &ErrorType::H2Error && SAID.iter().any(|said| cause.contains(said))
}

/// Error class and log detail; `None` when the client itself went away. `is_over`: the route's time for the try is.
pub fn classify(error: &Error, is_over: bool) -> (Option<ErrorKind>, &'static str) {
    match (error.etype(), error.esource()) {
        // As in Envoy, where the limit on connecting is the service's and no part of an answer's time.
        (ErrorType::ConnectTimedout, ErrorSource::Upstream) if !is_over => {
            (Some(ErrorKind::UpstreamUnreachable), "upstream_reset_before_response_started")
        }
        (ErrorType::HTTPStatus(503), _) => (Some(ErrorKind::NoUpstream), "no_healthy_upstream"),
        (&OVERFLOW, _) => (Some(ErrorKind::Overloaded), respond::OVERFLOW_DETAILS),
        (ErrorType::HTTPStatus(413), _) => (Some(ErrorKind::BodyTooLarge), "request_payload_too_large"),
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => (Some(ErrorKind::RequestTimeout), "request_timeout"),
        (kind, ErrorSource::Downstream) if BROKEN_BODY.contains(&kind.as_str()) => {
            (Some(ErrorKind::MalformedRequest), "malformed_request_body")
        }
        (_, ErrorSource::Downstream) => (None, departure::LEFT),
        (ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout, _) => {
            (Some(ErrorKind::UpstreamTimeout), "upstream_response_timeout")
        }
        (ErrorType::InvalidHTTPHeader, ErrorSource::Upstream) => (Some(ErrorKind::UpstreamInvalid), "protocol_error"),
        (_, ErrorSource::Upstream) => (Some(ErrorKind::UpstreamUnreachable), "upstream_reset_before_response_started"),
        _ => (Some(ErrorKind::Internal), "internal_error"),
    }
}

/// What it means for whoever sees it, and what to do.
pub fn explain(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NoUpstream => "no endpoint is available. Check that the service exists and has ready endpoints.",
        ErrorKind::Overloaded => "it has as much to do as its DestinationRule allows. Retry later.",
        ErrorKind::UpstreamTimeout => {
            "the upstream did not answer in time. Retry, or raise the route's timeout or timeouts.first_byte_secs."
        }
        ErrorKind::UpstreamUnreachable => {
            "the upstream could not be reached or closed the connection. Check its address and health."
        }
        ErrorKind::UpstreamInvalid => "the upstream did not answer as HTTP has it. Check what listens there.",
        ErrorKind::RequestTimeout => "the request was not sent completely in time.",
        ErrorKind::BodyTooLarge => "the request body is over the limit.",
        ErrorKind::MalformedRequest => "the chunks of the request body are not well formed.",
        _ => "the gateway failed to proxy the request; its log has the cause.",
    }
}
