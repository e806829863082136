//! Plain requests to URLs outside the configured services: evaluators and judges.

use bytes::{Bytes, BytesMut};
use http::Uri;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::Exchange;

/// Largest answer that is read.
const ANSWER_LIMIT: usize = 1 << 20;

impl Exchange {
    /// POSTs a JSON document; returns status and body. The caller sets the time limit.
    ///
    /// # Errors
    /// A URL that cannot be used, no connection, or an answer that breaks off or is over 1 MiB.
    pub async fn post_json(&self, url: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        let uri: Uri = url.parse().map_err(|error| format!("\"{url}\" is not a URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("\"{url}\" names no host"))?;
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses =
            tokio::net::lookup_host((name, port)).await.map_err(|error| format!("{host} does not resolve: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{host} has no address"))?;
        let peer = HttpPeer::new(address, is_tls, name.to_owned());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let described = |error: Box<pingora_error::Error>| error.to_string();
        let mut head = RequestHeader::build("POST", path.as_bytes(), Some(4)).map_err(described)?;
        head.insert_header(HOST, authority).map_err(described)?;
        head.insert_header(CONTENT_TYPE, "application/json").map_err(described)?;
        head.insert_header(ACCEPT, "application/json").map_err(described)?;
        head.insert_header(CONTENT_LENGTH, body.len()).map_err(described)?;
        // A pooled connection may have been closed meanwhile; asking again on a fresh one is safe, nothing was answered.
        match self.ask(&peer, head.clone(), body.clone()).await {
            Err((_, true)) => self.ask(&peer, head, body).await.map_err(|(error, _)| error),
            result => result.map_err(|(error, _)| error),
        }
    }

    /// One try; the flag of the error says that the connection came from the pool.
    async fn ask(&self, peer: &HttpPeer, head: RequestHeader, body: Bytes) -> Result<(u16, Bytes), (String, bool)> {
        let connected = self.connector.get_http_session(peer).await;
        let (mut session, is_reused) = connected.map_err(|error| (error.to_string(), false))?;
        let failed = |error: Box<pingora_error::Error>| (error.to_string(), is_reused);
        session.write_request_header(Box::new(head)).await.map_err(failed)?;
        session.write_request_body(body, true).await.map_err(failed)?;
        session.finish_request_body().await.map_err(failed)?;
        session.read_response_header().await.map_err(failed)?;
        let status = session.response_header().map_or(0, |head| head.status.as_u16());
        let mut answer = BytesMut::new();
        while let Some(chunk) = session.read_response_body().await.map_err(|error| (error.to_string(), false))? {
            if answer.len() + chunk.len() > ANSWER_LIMIT {
                session.shutdown().await;
                return Err((format!("the answer is longer than {ANSWER_LIMIT} bytes"), false));
            }
            answer.extend_from_slice(&chunk);
        }
        self.connector.release_http_session(session, peer, Some(std::time::Duration::from_secs(30))).await;
        Ok((status, answer.freeze()))
    }
}
