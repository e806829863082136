//! Which headers a configuration may change, in annotations as in filters of the Gateway API.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderName, HeaderValue};

/// Why a change cannot be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no header.
    NoHeader(String),
    /// It would be another message; as in Higress the rest goes on without it.
    WithoutEffect(String),
}

/// A header that is set or added. `Host` is one, so it is always set.
pub(super) fn check_value(name: &str, value: &str) -> Result<(), Refusal> {
    let parsed = check_name(name)?;
    if HeaderValue::from_str(value).is_err() {
        return Err(Refusal::NoHeader(format!("the value of `{name}` cannot stand in a header and has no effect")));
    }
    if parsed == HOST && !is_host(value) {
        return Err(Refusal::WithoutEffect(format!("`{value}` is no host and has no effect")));
    }
    Ok(())
}

pub(super) fn check_removal(name: &str) -> Result<(), Refusal> {
    if check_name(name)? == HOST {
        return Err(Refusal::WithoutEffect(format!("`{name}` cannot be removed; it has no effect")));
    }
    Ok(())
}

/// Whether adding a header means setting it.
pub(super) fn is_single(name: &str) -> bool {
    name.eq_ignore_ascii_case(HOST.as_str())
}

/// A host and perhaps a port, without a user.
pub(super) fn is_host(text: &str) -> bool {
    !text.contains('@') && text.parse::<Authority>().is_ok()
}

fn check_name(name: &str) -> Result<HeaderName, Refusal> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Refusal::NoHeader(format!("`{name}` is not a header name and has no effect")));
    };
    if [CONTENT_LENGTH, TRANSFER_ENCODING].contains(&parsed) {
        let message = format!("`{name}` says where a body ends; to change it has no effect");
        return Err(Refusal::WithoutEffect(message));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_needs_stays() {
        for (name, value, is_good) in [
            ("x-a", "1", true),
            ("Host", "a.com:80", true),
            ("Host", "user@a.com", false),
            ("Content-Length", "1", false),
            ("transfer-encoding", "chunked", false),
            ("x a", "1", false),
            ("x-a", "\n", false),
        ] {
            assert_eq!(check_value(name, value).is_ok(), is_good, "{name}: {value}");
        }
        assert!(
            check_removal("x-a").is_ok() && check_removal("host").is_err() && check_removal("content-length").is_err()
        );
    }
}
