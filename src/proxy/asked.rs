//! The head of a request of our own making, as the protocol of its connection wants it.

use http::Uri;
use http::header::HOST;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_http::RequestHeader;

/// Over HTTP/2 the authority and the scheme stand in the target, and nowhere else: servers refuse a request with two hosts.
pub fn head_for(session: &HttpSession, peer: &HttpPeer, head: RequestHeader) -> Box<RequestHeader> {
    match session {
        HttpSession::H2(_) => Box::new(with_authority(head, if peer.tls() { "https" } else { "http" })),
        _ => Box::new(head),
    }
}

fn with_authority(mut head: RequestHeader, scheme: &str) -> RequestHeader {
    let host = head.headers.get(HOST).map(|host| host.as_bytes().to_vec());
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let target = host.and_then(|host| Uri::builder().scheme(scheme).authority(host).path_and_query(path).build().ok());
    // What is no authority is told by who sends it.
    if let Some(target) = target {
        head.remove_header(&HOST);
        head.set_uri(target);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_said_once() {
        let mut head = RequestHeader::build("POST", b"/v1/chat?x=1", None).unwrap();
        head.insert_header(HOST, "a.com:8443").unwrap();
        let head = with_authority(head, "https");
        assert_eq!((head.uri.to_string().as_str(), head.headers.get(HOST)), ("https://a.com:8443/v1/chat?x=1", None));
        let bare = with_authority(RequestHeader::build("GET", b"/", None).unwrap(), "http");
        assert_eq!(bare.uri.authority(), None);
    }
}
