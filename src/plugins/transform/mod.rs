//! Plugins that change requests and answers, or answer in the upstream's place.
//!
//! `bag` is how several of them see headers and query parameters, `form` and `json_edit` how they change bodies.

pub mod bag;
pub mod cache_control;
pub mod custom_response;
pub mod form;
pub mod gw_error_format;
pub mod http_call;
pub mod json_edit;
pub mod jsonrpc_converter;
pub mod log_request_response;
pub mod nginx_rewrite_compatible;
pub mod response_cache;
pub mod traffic_editor;
pub mod transformer;

use serde_json::Value;

/// Content type of a body somebody configured without one: Higress tells JSON from text.
fn guessed_content_type(body: &str) -> &'static str {
    if serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json; charset=utf-8"
    } else {
        "text/plain; charset=utf-8"
    }
}

/// What an answer may have: those below announce one, and there are none above.
const STATUSES: std::ops::RangeInclusive<u16> = 200..=599;

/// A response status as YAML has it, number or text.
fn status(value: &Value) -> Option<u16> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    number.filter(|status| STATUSES.contains(status))
}
