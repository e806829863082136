//! Failures as the client sees them: the OpenAI error object, and the one table of codes, types and statuses.
//!
//! Everything that answers a model request with an error makes an [`ApiError`]. Its message says what was wrong, what that
//! means and what to do; `code` is stable and may be matched on. Nothing here logs, retries or knows a connection.

use std::fmt;

use bytes::Bytes;
use serde_json::json;

use super::json::JsonError;

macro_rules! error_kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $status:literal, $type:literal, $code:literal;)*) => {
        /// What went wrong; decides `code`, `type` and status of the answer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind { $($(#[doc = $doc])* $kind,)* }

        impl ErrorKind {
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$kind,)*];

            /// HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(ErrorKind::$kind => $status,)* }
            }

            /// `error.type`, the coarse class OpenAI clients branch on.
            pub const fn type_name(self) -> &'static str {
                match self { $(ErrorKind::$kind => $type,)* }
            }

            /// `error.code`, one per kind, stable.
            pub const fn code(self) -> &'static str {
                match self { $(ErrorKind::$kind => $code,)* }
            }
        }
    };
}

error_kinds! {
    /// The body is not JSON.
    InvalidJson = 400, "invalid_request_error", "invalid_json";
    /// The body is not UTF-8.
    InvalidUtf8 = 400, "invalid_request_error", "invalid_utf8";
    /// A field has a type that cannot be meant.
    InvalidType = 400, "invalid_request_error", "invalid_type";
    /// A field has the right type and an impossible value.
    InvalidValue = 400, "invalid_request_error", "invalid_value";
    /// The head of the request breaks the rules of HTTP or can be read in two ways.
    MalformedRequest = 400, "invalid_request_error", "malformed_request";
    /// `model` is absent or empty.
    MissingModel = 400, "invalid_request_error", "missing_model";
    /// `messages` is absent.
    MissingMessages = 400, "invalid_request_error", "missing_messages";
    /// `messages` is there and has nothing in it.
    EmptyMessages = 400, "invalid_request_error", "empty_messages";
    /// No credential, or one that is not known.
    Unauthorized = 401, "authentication_error", "unauthorized";
    /// A known consumer that may not do this.
    Forbidden = 403, "permission_error", "forbidden";
    /// No route matches host and path.
    NoRoute = 404, "invalid_request_error", "no_route";
    /// No provider serves this model.
    ModelNotFound = 404, "invalid_request_error", "model_not_found";
    /// The provider of this route has no such endpoint.
    UnsupportedApi = 404, "invalid_request_error", "unsupported_api";
    /// The client took too long to send its request.
    RequestTimeout = 408, "invalid_request_error", "request_timeout";
    /// The request line alone is over the configured limit.
    UriTooLong = 414, "invalid_request_error", "uri_too_long";
    /// The body is compressed, which no provider reads and neither do we.
    UnsupportedEncoding = 415, "invalid_request_error", "unsupported_content_encoding";
    /// Request line and headers are over the configured limit.
    HeadersTooLarge = 431, "invalid_request_error", "headers_too_large";
    /// The body is over the configured limit.
    BodyTooLarge = 413, "invalid_request_error", "body_too_large";
    /// Too many requests or tokens in a window.
    RateLimited = 429, "rate_limit_error", "rate_limited";
    /// The money or token budget is spent.
    BudgetExceeded = 429, "rate_limit_error", "budget_exceeded";
    /// A defect or a state we did not expect.
    Internal = 500, "server_error", "internal_error";
    /// The body is encoded in a way other than `chunked`.
    UnknownTransferCoding = 501, "server_error", "unknown_transfer_coding";
    /// A version of HTTP other than 1.0, 1.1 and 2.
    UnsupportedVersion = 505, "server_error", "unsupported_version";
    /// The provider answered with something that is not an answer.
    UpstreamInvalid = 502, "upstream_error", "upstream_invalid";
    /// The provider's answer ended before it was complete.
    UpstreamCut = 502, "upstream_error", "upstream_cut";
    /// The provider could not be connected to, or closed the connection before it answered. 503 as from Envoy.
    UpstreamUnreachable = 503, "upstream_error", "upstream_unreachable";
    /// No endpoint is known for the service.
    NoUpstream = 503, "upstream_error", "no_upstream";
    /// More work than the gateway is allowed to hold.
    Overloaded = 503, "server_error", "overloaded";
    /// The provider did not answer in time.
    UpstreamTimeout = 504, "upstream_error", "upstream_timeout";
}

/// An error answer in OpenAI's shape: `{"error":{"message","type","param","code"}}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub kind: ErrorKind,
    /// HTTP status; that of `kind` unless the maker knows better.
    pub status: u16,
    pub message: String,
    /// The request field at fault, for example `messages[2].role`.
    pub param: Option<String>,
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError { kind, status: kind.status(), message: message.into(), param: None }
    }

    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The body of the answer, `application/json`.
    pub fn to_json(&self) -> Bytes {
        json!({
            "error": {
                "message": self.message,
                "type": self.kind.type_name(),
                "param": self.param,
                "code": self.kind.code(),
            }
        })
        .to_string()
        .into()
    }

    /// The same in Anthropic's shape: `{"type":"error","error":{"type","message"}}`.
    pub fn to_anthropic_json(&self) -> Bytes {
        json!({"type": "error", "error": {"type": "api_error", "message": self.message}}).to_string().into()
    }

    /// `field` should be `expected` and is something else.
    pub(super) fn wrong_type(field: &str, expected: &str) -> Self {
        let message =
            format!("`{field}` must be {expected}. Send it with that type, or leave it out if it is optional.");
        ApiError::new(ErrorKind::InvalidType, message).with_param(field)
    }
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        let message = format!(
            "The request body is not valid JSON: {error}. Check that the body is complete and that strings are escaped."
        );
        ApiError::new(ErrorKind::InvalidJson, message)
    }
}

/// `body` as text, or the error a client gets for sending something else.
pub(super) fn body_text(body: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(body).map_err(|error| {
        let message = format!(
            "The request body is not valid UTF-8 at byte {}. JSON must be UTF-8: encode the text before sending it.",
            error.valid_up_to()
        );
        ApiError::new(ErrorKind::InvalidUtf8, message)
    })
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        let codes: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(ErrorKind::ALL.iter().all(|kind| (400..600).contains(&kind.status())));
        let client_fault = |kind: &&ErrorKind| kind.type_name() == "invalid_request_error";
        assert!(ErrorKind::ALL.iter().filter(client_fault).all(|kind| kind.status() < 500));
    }

    #[test]
    fn the_answer_is_openai_shaped() {
        let error = ApiError::wrong_type("stream", "true or false");
        assert_eq!(error.status, 400);
        let body: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(body["error"]["code"], "invalid_type");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!(body["error"]["param"], "stream");
        assert!(body["error"]["message"].as_str().unwrap().starts_with("`stream` must be true or false."));
        let body: serde_json::Value =
            serde_json::from_slice(&ApiError::new(ErrorKind::Internal, "x").to_json()).unwrap();
        assert!(body["error"]["param"].is_null());
    }

    #[test]
    fn text_that_is_not_utf8_names_the_byte() {
        let error = body_text(b"{\"a\":\"\xff\"}").unwrap_err();
        assert_eq!((error.status, error.kind), (400, ErrorKind::InvalidUtf8));
        assert!(error.message.contains("at byte 6"));
    }
}
