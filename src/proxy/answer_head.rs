//! The head of an upstream's answer as far as it concerns its own connection, and what of it no client may get.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::conversation;
use super::hygiene::{nominated, present};

/// Removes from an upstream's answer what it says about its own connection only. After 101 there is no other connection.
///
/// # Errors
/// What no client may get: a switch of protocols that `request` did not ask for, a transfer coding besides `chunked`.
pub fn clean(request: &RequestHeader, head: &mut ResponseHeader) -> Result<()> {
    if head.version == Version::HTTP_10 {
        // That of the other connection.
        head.set_version(Version::HTTP_11);
    }
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return if conversation::is_websocket(request) { Ok(()) } else { unusable("switches protocols unasked") };
    }
    one_length(head)?;
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let coding = codings.next();
    if codings.next().is_some() {
        return unusable("has more than one transfer coding");
    }
    match coding {
        Some(coding) if coding.eq_ignore_ascii_case(b"identity") => drop(head.remove_header(&TRANSFER_ENCODING)),
        Some(coding) if !coding.eq_ignore_ascii_case(b"chunked") => return unusable("has an unknown transfer coding"),
        _ => {}
    }
    for name in nominated(&head.headers) {
        head.remove_header(name.as_str());
    }
    for name in present(&head.headers, &["connection", "keep-alive", "proxy-connection", "upgrade"]) {
        head.remove_header(&name);
    }
    Ok(())
}

fn unusable<T>(what: &str) -> Result<T> {
    Err(Error::explain(ErrorType::InvalidHTTPHeader, format!("the upstream's answer {what}")).into_up())
}

/// A length that is said more than once, which pingora has found to be the same each time, is said once.
fn one_length(head: &mut ResponseHeader) -> Result<()> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    if lengths.next().is_none() && !first.as_bytes().contains(&b',') {
        return Ok(());
    }
    let digits: Vec<u8> = first.as_bytes().iter().copied().take_while(|byte| *byte != b',').collect();
    head.insert_header(CONTENT_LENGTH, digits.trim_ascii())
}
