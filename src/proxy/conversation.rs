//! Exchanges that are conversations and not a question with its answer: WebSocket and gRPC. Either side may be silent for as
//! long as it likes; that the other end is gone is found by TCP keep-alive.
//!
//! WebSocket is passed through over HTTP/1.1 only; browsers that speak HTTP/2 open a connection of their own for it.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Version};
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::grpc;

/// Whether a request asks to go on as a WebSocket.
pub fn is_websocket(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && head.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && head.headers.contains_key("sec-websocket-key")
        && head.headers.contains_key(HOST)
        && !head.headers.contains_key(TRANSFER_ENCODING)
        && head.headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
}

/// Lifts the limits on silence. As in Envoy, the timeout of the route is one for answers, so a WebSocket has none.
pub fn prepare_peer(head: &RequestHeader, peer: &mut HttpPeer, has_timeout: bool) {
    if is_websocket(head) {
        peer.options.read_timeout = None;
        if peer.options.alpn != ALPN::H2 {
            // A server that prefers HTTP/2 would be offered it, and an upgrade does not exist there.
            peer.options.alpn = ALPN::H1;
        }
    } else if grpc::is_grpc(&head.headers) && !has_timeout {
        peer.options.read_timeout = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_asks_for_itself_in_full() {
        let whole = || {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            for (name, value) in [("host", "a.com"), ("upgrade", "WebSocket"), ("sec-websocket-key", "x")] {
                head.insert_header(name, value).unwrap();
            }
            head
        };
        assert!(is_websocket(&whole()));
        for missing in ["upgrade", "sec-websocket-key", "host"] {
            let mut head = whole();
            head.remove_header(missing);
            assert!(!is_websocket(&head), "{missing}");
        }
        let mut with_body = whole();
        with_body.insert_header("transfer-encoding", "chunked").unwrap();
        assert!(!is_websocket(&with_body));
        let mut with_length = whole();
        with_length.insert_header("content-length", "5").unwrap();
        assert!(!is_websocket(&with_length));
        let mut other = whole();
        other.insert_header("upgrade", "h2c").unwrap();
        assert!(!is_websocket(&other));
    }
}
