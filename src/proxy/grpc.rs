//! What gRPC puts on top of HTTP: its statuses. A client reads them in trailers, or in the head of an answer without body.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Version};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use pingora_error::Result;
use pingora_http::ResponseHeader;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Bytes of an explanation that go into a header.
const MESSAGE_LIMIT: usize = 1024;

/// Everything outside printable ASCII, and the sign itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Whether the content type is that of gRPC, as Envoy tells it.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || matches!(rest.first(), Some(b'+' | b';')))
}

/// Whether a server says, at once, that it is not available or took the call back.
pub fn is_unavailable(head: &ResponseHeader) -> bool {
    // CANCELLED, UNAVAILABLE
    head.headers.get(STATUS).is_some_and(|code| code == "1" || code == "14")
}

/// The status a balancer goes by: that of gRPC, in HTTP's terms, where the answer's head names one.
pub fn http_status(head: &ResponseHeader) -> u16 {
    let code = head.headers.get(STATUS).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u8>().ok());
    match code {
        // DEADLINE_EXCEEDED
        Some(4) => 504,
        // UNAVAILABLE
        Some(14) => 503,
        // UNKNOWN, INTERNAL, DATA_LOSS
        Some(2 | 13 | 15) => 500,
        _ => head.status.as_u16(),
    }
}

/// Turns an answer of the gateway itself into one that a gRPC client understands, as Envoy does with its own.
///
/// # Errors
/// Never in practice: what is inserted is header text.
pub fn translate(head: &mut ResponseHeader, body: &mut Bytes, version: Version) -> Result<()> {
    if head.status.is_success() || is_grpc(&head.headers) {
        return Ok(());
    }
    let code = match head.status.as_u16() {
        // INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, UNAVAILABLE, else UNKNOWN
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    };
    let message = words(std::mem::take(body));
    let message = percent_encode(message.get(..MESSAGE_LIMIT).unwrap_or(&message), ESCAPED).to_string();
    head.set_status(http::StatusCode::OK)?;
    head.remove_header(&CONTENT_LENGTH);
    if version != Version::HTTP_2 {
        head.set_content_length(0)?;
    }
    head.insert_header(CONTENT_TYPE, "application/grpc")?;
    head.insert_header(STATUS, code)?;
    head.insert_header(MESSAGE, message)
}

/// The message of an error that is JSON, and anything else as it is.
fn words(body: Bytes) -> Bytes {
    let error: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let message = error.and_then(|error| error["error"]["message"].as_str().map(str::to_owned));
    message.map_or(body, Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn own_answers_are_translated() {
        for (status, code) in [(400, "13"), (401, "16"), (403, "7"), (404, "12"), (429, "14"), (503, "14"), (500, "2")]
        {
            let mut head = ResponseHeader::build(status, None).unwrap();
            head.insert_header(CONTENT_LENGTH, 3).unwrap();
            let mut body = Bytes::from_static("50%\n\u{e4}".as_bytes());
            translate(&mut head, &mut body, Version::HTTP_2).unwrap();
            assert_eq!((head.status.as_u16(), head.headers[STATUS].to_str().unwrap()), (200, code));
            assert_eq!(head.headers[MESSAGE], "50%25%0A%C3%A4");
            assert!(body.is_empty() && !head.headers.contains_key(CONTENT_LENGTH));
        }
        let mut head = ResponseHeader::build(204, None).unwrap();
        translate(&mut head, &mut Bytes::new(), Version::HTTP_2).unwrap();
        assert_eq!(head.status, 204);
    }

    #[test]
    fn answers_without_body_tell_their_status_in_the_head() {
        for (code, expected) in [("0", 200), ("5", 200), ("14", 503), ("4", 504), ("13", 500), ("x", 200)] {
            let mut head = ResponseHeader::build(200, None).unwrap();
            head.insert_header(STATUS, code).unwrap();
            assert_eq!(http_status(&head), expected, "{code}");
        }
    }
}
