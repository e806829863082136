//! Plain HTTP calls beside the client's exchange: evaluators, authorisation services, identity providers, collectors.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST};
use http::{StatusCode, Uri};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Error;
use pingora_http::RequestHeader;

use super::Exchange;
use super::attempt::Reuse;
use super::failure::says_something;
use crate::plugins::{Destination, HttpAnswer, HttpCall};
use crate::proxy::asked::head_for;
use crate::proxy::cluster::Visited;
use crate::proxy::snapshot::Snapshot;

/// Largest answer that is read.
const ANSWER_LIMIT: usize = 1 << 20;

/// How long a connection waits for the next call.
const IDLE: Duration = Duration::from_secs(30);

impl Exchange {
    /// Makes the call and reads the answer whole.
    ///
    /// # Errors
    /// A destination that cannot be used, no connection, no answer in time, or one that breaks off or is over 1 MiB.
    pub async fn http(&self, snapshot: &Snapshot, call: HttpCall) -> Result<HttpAnswer, String> {
        self.http_up_to(snapshot, call, ANSWER_LIMIT).await
    }

    /// The same with another limit for the answer, bytes.
    ///
    /// # Errors
    /// As for [`Exchange::http`].
    pub async fn http_up_to(&self, snapshot: &Snapshot, call: HttpCall, limit: usize) -> Result<HttpAnswer, String> {
        let timeout = call.timeout;
        match tokio::time::timeout(timeout, self.call_out(snapshot, call, limit)).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
        }
    }

    /// An address of a configured service, for what is not HTTP.
    ///
    /// # Errors
    /// There is no such service or port, or it has no address now.
    pub async fn locate(&self, snapshot: &Snapshot, service: &str, port: u16) -> Result<SocketAddr, String> {
        let upstream = snapshot.upstream(service, Some(port)).ok_or_else(|| {
            format!("service {service} is not configured with port {port}; add it to the McpBridge or as a Service")
        })?;
        upstream.address(&self.resolver).await
    }

    async fn call_out(&self, snapshot: &Snapshot, call: HttpCall, limit: usize) -> Result<HttpAnswer, String> {
        let HttpCall { to, mut head, body, is_question, may_cut, .. } = call;
        let limit = Limit { bytes: limit, may_cut };
        let bears_repetition = is_question || head.method.is_idempotent();
        let (peer, authority, mut lease) = match &to {
            Destination::Url(url) => {
                let (peer, authority) = self.by_url(url).await?;
                (peer, authority, None)
            }
            Destination::Service { host, port } => {
                let upstream = snapshot.upstream(host, *port).ok_or_else(|| {
                    format!("service {host} is not configured; add it to the McpBridge or as a Service")
                })?;
                let authority = upstream.dns_authority().unwrap_or_else(|| host.clone());
                let peer = upstream
                    .peer(&authority, &snapshot.limits.timeouts, &self.resolver, None, &Visited::default())
                    .await;
                let (peer, lease) = peer.map_err(|error| error.to_string())?;
                (peer, authority, Some(lease))
            }
        };
        let described = |error: Box<Error>| error.to_string();
        if !head.headers.contains_key(HOST) {
            head.insert_header(HOST, authority).map_err(described)?;
        }
        head.insert_header(CONTENT_LENGTH, body.len()).map_err(described)?;
        // A pooled connection may have been closed meanwhile; then a fresh one is asked.
        let answer = match self.ask(&peer, head.clone(), body.clone(), limit).await {
            Err((_, true)) if bears_repetition => self.ask(&peer, head, body, limit).await.map_err(|(error, _)| error),
            result => result.map_err(|(error, _)| error),
        };
        if let Some(lease) = &mut lease {
            match &answer {
                Ok(answer) => lease.answered(answer.status()),
                Err(_) => lease.failed(),
            }
        }
        answer
    }

    /// One try; the flag of the error says that the connection had been closed while it waited in the pool.
    async fn ask(
        &self,
        peer: &HttpPeer,
        head: RequestHeader,
        body: Bytes,
        limit: Limit,
    ) -> Result<HttpAnswer, (String, bool)> {
        let connected = self.connector().get_http_session(peer).await;
        let (mut session, is_reused) = connected.map_err(|error| (error.to_string(), false))?;
        let reuse = is_reused.then(|| Reuse::new(true));
        let failed = |error: Box<Error>| {
            let is_stale = !says_something(&error) && reuse.as_ref().is_some_and(Reuse::explains_an_end);
            (error.to_string(), is_stale)
        };
        let head = head_for(&session, peer, head);
        session.write_request_header(head).await.map_err(failed)?;
        session.write_request_body(body, true).await.map_err(failed)?;
        session.finish_request_body().await.map_err(failed)?;
        let head = loop {
            session.read_response_header().await.map_err(failed)?;
            let head = session.response_header().ok_or_else(|| ("no response head".to_owned(), false))?;
            // 1xx announce the answer and have no body. Nobody asked to switch protocols.
            if !head.status.is_informational() {
                break head.clone();
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(("the service switches protocols".to_owned(), false));
            }
        };
        let mut answer = BytesMut::new();
        while let Some(chunk) = session.read_response_body().await.map_err(|error| (error.to_string(), false))? {
            if answer.len() + chunk.len() > limit.bytes {
                session.shutdown().await;
                return match limit.may_cut {
                    true => Ok(HttpAnswer { head, body: answer.freeze() }),
                    false => Err((format!("the answer is longer than {} bytes", limit.bytes), false)),
                };
            }
            answer.extend_from_slice(&chunk);
        }
        self.connector().release_http_session(session, peer, Some(IDLE)).await;
        Ok(HttpAnswer { head, body: answer.freeze() })
    }
}

/// How much of an answer is read.
#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes: usize,
    /// Whether what is beyond it is left out, rather than an error.
    may_cut: bool,
}

impl Exchange {
    /// Peer and authority of a URL outside the configured services: of several addresses the first that takes connections, those of
    /// IPv4 before.
    async fn by_url(&self, url: &str) -> Result<(HttpPeer, String), String> {
        let uri: Uri = url.parse().map_err(|error| format!("\"{url}\" is not a URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("\"{url}\" names no host"))?;
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found =
            tokio::net::lookup_host((name, port)).await.map_err(|error| format!("{host} does not resolve: {error}"))?;
        let mut addresses: Vec<SocketAddr> = found.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let authority = uri.authority().map_or(host, |authority| authority.as_str()).to_owned();
        let mut peers = addresses.into_iter().map(|address| HttpPeer::new(address, is_tls, name.to_owned()));
        let Some(mut peer) = peers.next() else { return Err(format!("{host} has no address")) };
        for other in peers {
            match self.connector().get_http_session(&peer).await {
                Ok((session, _)) => {
                    self.connector().release_http_session(session, &peer, Some(IDLE)).await;
                    break;
                }
                // The error of the last is told by whoever asks there.
                Err(_) => peer = other,
            }
        }
        Ok((peer, authority))
    }
}
