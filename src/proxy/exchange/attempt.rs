//! One attempt: connect, send, and read until the first meaningful piece of an answer is there.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_timeout::timeout;

use super::call::Call;
use super::failure::Failure;
use super::pump::Pump;
use super::{DISCARD_LIMIT, Exchange, cork};
use crate::llm::observe::{FirstEvent, Observation, classify_first};
use crate::plugins::{Answered, End};
use crate::proxy::asked::head_for;
use crate::proxy::cluster::{Lease, Visited};
use crate::proxy::failure::was_refused;
use crate::proxy::grpc;
use crate::proxy::hygiene::authority;
use crate::proxy::upstream::NoPeer;

/// What is left of a limit a moment after it began is that limit.
fn ms_rounded_up(limit: Duration) -> u128 {
    limit.as_micros().div_ceil(1000)
}

/// An answer that has begun. Kilobytes, with the connection in it: handed on in a box.
pub struct Opened {
    pub upstream: HttpSession,
    pub peer: HttpPeer,
    pub head: ResponseHeader,
    /// Body read so far.
    pub first: Bytes,
    /// No more body will come.
    pub is_done: bool,
    /// The stream began with an error event.
    pub is_error_event: bool,
    pub started: Instant,
    pub first_byte: Option<Duration>,
    pub call: CallFacts,
    /// Counts the request as in flight at its address.
    pub lease: Lease,
    /// What is still to be sent of the request.
    pub rest: Option<Pump>,
}

/// A connection for one attempt.
pub(super) struct Connected {
    pub upstream: HttpSession,
    pub peer: HttpPeer,
    pub lease: Lease,
    /// It came from the pool.
    pub is_reused: bool,
}

/// What the relay needs to know of the call.
pub struct CallFacts {
    pub model: std::sync::Arc<str>,
    pub service: std::sync::Arc<str>,
    pub api: Option<crate::llm::provider::Api>,
    pub want: Option<crate::llm::observe::Want>,
    pub idle: Option<Duration>,
}

impl CallFacts {
    pub fn of(call: &Call) -> CallFacts {
        CallFacts {
            model: call.model.clone(),
            service: call.service.clone(),
            api: call.api,
            want: call.want,
            idle: call.timeouts.idle,
        }
    }
}

impl Opened {
    pub fn status(&self) -> u16 {
        if self.is_error_event { 502 } else { self.head.status.as_u16() }
    }

    /// Worth giving to the client without looking further.
    pub fn is_usable(&self) -> bool {
        !self.is_error_event && self.head.status.as_u16() < 400
    }

    /// The record of an answer that is an error and goes no further.
    pub fn answered_with_error(&self) -> Answered {
        Answered {
            model: self.call.model.clone(),
            service: self.call.service.clone(),
            status: Some(self.status()),
            end: End::Failed(format!("status {}", self.status())),
            observation: Observation::default(),
            latency: self.started.elapsed(),
            first_token: None,
        }
    }

    pub fn is_event_stream(&self) -> bool {
        is_event_stream(&self.head)
    }
}

pub fn is_event_stream(head: &ResponseHeader) -> bool {
    let kind = head.headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

impl Exchange {
    /// Makes one attempt. `limit` bounds the time until the answer begins, as the first-byte timeout does. `visited` has where the call was
    /// before, and gets where it goes.
    pub(super) async fn open(
        &self,
        call: &Call,
        token: Option<usize>,
        limit: Option<Duration>,
        visited: &mut Visited,
    ) -> Result<Box<Opened>, Failure> {
        let started = Instant::now();
        let first_byte =
            call.provider.as_ref().and_then(|provider| provider.config().first_byte_timeout).filter(|_| call.is_stream);
        let (own, whose) = match first_byte {
            Some(limit) => (limit, "firstByteTimeout of the provider"),
            None => (call.timeouts.first_byte, "timeouts.first_byte_secs"),
        };
        let (patience, whose) = match limit {
            Some(limit) if limit < own => (limit, "the timeout of the route, or of one try"),
            _ => (own, whose),
        };
        let left = || patience.saturating_sub(started.elapsed());
        let (head, body) = call.prepare(token).map_err(Failure::Invalid)?;
        let connected = self.connected(call, &head, patience, whose, visited).await?;
        let Connected { mut upstream, peer, mut lease, is_reused } = connected;
        upstream.set_write_timeout(Some(call.timeouts.between_reads));
        let reuse = is_reused.then(|| Reuse::of(call));
        // Of a model nothing is sent on before it has begun to answer, so that another may be asked. Others may be silent for long
        // after their head.
        let is_model = call.api.is_some() || call.provider.is_some();
        let head = head_for(&upstream, &peer, head);
        let waited = timeout(left(), send_and_await(&mut upstream, head, body, reuse, is_model));
        let Ok(begun) = waited.await else {
            lease.failed();
            upstream.shutdown().await;
            return Err(Failure::TimedOut(format!("no answer within {} ms ({whose})", ms_rounded_up(patience))));
        };
        let begun = begun.inspect_err(|failure| {
            if !matches!(failure, Failure::Stale) {
                lease.failed();
            }
        })?;
        lease.answered(grpc::http_status(&begun.head));
        // `patience` covered the start; from here on silence between two reads is what counts.
        upstream.set_read_timeout(Some(call.timeouts.between_reads));
        Ok(Box::new(Opened {
            upstream,
            peer,
            lease,
            head: begun.head,
            first: begun.first,
            is_done: begun.is_done,
            is_error_event: begun.is_error_event,
            started,
            first_byte: begun.first_byte_at.map(|at| at.duration_since(started)),
            call: CallFacts::of(call),
            rest: None,
        }))
    }

    /// An endpoint and a connection to it, within `patience`, which is that of `whose`.
    pub(super) async fn connected(
        &self,
        call: &Call,
        head: &RequestHeader,
        patience: Duration,
        whose: &str,
        visited: &mut Visited,
    ) -> Result<Connected, Failure> {
        let started = Instant::now();
        let host = authority(head).unwrap_or_default();
        let peer = call.upstream.peer(host, &call.timeouts, &self.resolver, call.balance_key, visited);
        let found = timeout(patience, peer).await;
        let found = found.unwrap_or_else(|_| Err(NoPeer::Missing("the name does not resolve in time".into())));
        let (peer, mut lease) = found.map_err(|error| match error {
            NoPeer::Missing(reason) => Failure::Unreachable(reason),
            NoPeer::Full { .. } => Failure::Overflow(error.to_string()),
        })?;
        visited.push(lease.address());
        let left = patience.saturating_sub(started.elapsed());
        let Ok(connected) = timeout(left, connect(self.connector(), &peer, &mut lease)).await else {
            lease.failed();
            let message = format!("no connection within {} ms ({whose})", ms_rounded_up(patience));
            return Err(Failure::NotConnected(message));
        };
        let (upstream, is_reused) = connected?;
        Ok(Connected { upstream, peer, lease, is_reused })
    }

    /// Reads an unwanted answer to its end if that is quick, so that the connection can serve again.
    pub(super) async fn discard(&self, mut opened: Box<Opened>) {
        let drained = tokio::time::timeout(DISCARD_LIMIT, async {
            while !opened.is_done {
                match opened.upstream.read_response_body().await {
                    Ok(Some(_)) => {}
                    Ok(None) => opened.is_done = true,
                    Err(_) => break,
                }
            }
        });
        let _ = drained.await;
        self.finish(opened.upstream, &opened.peer, opened.is_done, opened.call.idle).await;
    }

    /// Returns a connection to the pool, or closes it when its answer was not read to the end.
    pub(super) async fn finish(
        &self,
        mut upstream: HttpSession,
        peer: &HttpPeer,
        is_done: bool,
        idle: Option<Duration>,
    ) {
        if is_done {
            self.connector().release_http_session(upstream, peer, idle).await;
        } else {
            upstream.shutdown().await;
        }
    }
}

async fn connect(connector: &Connector, peer: &HttpPeer, lease: &mut Lease) -> Result<(HttpSession, bool), Failure> {
    match connector.get_http_session(peer).await.inspect_err(|error| lease.not_connected(error)) {
        Ok(session) => Ok(session),
        Err(error) if *error.etype() == ErrorType::ConnectTimedout => {
            let limit = peer.options.connection_timeout.unwrap_or_default().as_millis();
            Err(Failure::Unreachable(format!("no connection within {limit} ms (timeouts.connect_ms)")))
        }
        Err(error) => Err(Failure::Unreachable(error.to_string())),
    }
}

/// A connection from the pool, which the other side may have closed while it waited there.
pub(super) struct Reuse {
    bears_repetition: bool,
    since: Instant,
}

/// A connection that was closed says so within a round trip. One that ends later may have done what was asked.
const STALE_WITHIN: Duration = Duration::from_millis(250);

impl Reuse {
    /// What is sent now.
    fn of(call: &Call) -> Reuse {
        Reuse::new(call.bears_repetition())
    }

    pub(super) fn new(bears_repetition: bool) -> Reuse {
        Reuse { bears_repetition, since: Instant::now() }
    }

    /// Whether an end without an answer, now, comes from having waited too long in the pool.
    pub(super) fn explains_an_end(&self) -> bool {
        self.bears_repetition && self.since.elapsed() < STALE_WITHIN
    }
}

struct Begun {
    head: ResponseHeader,
    first: Bytes,
    is_done: bool,
    is_error_event: bool,
    first_byte_at: Option<Instant>,
}

/// How long an answer is waited for after the request could not be sent completely.
const EARLY_ANSWER: Duration = Duration::from_millis(500);

async fn send_body(upstream: &mut HttpSession, body: Bytes) -> Result<(), Box<Error>> {
    let is_empty = body.is_empty();
    if !is_empty {
        upstream.write_request_body(body, true).await?;
    }
    if is_empty || upstream.as_http1().is_some() {
        upstream.finish_request_body().await?;
    }
    Ok(())
}

/// Bytes of an unfinished first event after which it counts as meaningful whatever it is.
const FIRST_EVENT_LIMIT: usize = 64 * 1024;

async fn send_and_await(
    upstream: &mut HttpSession,
    head: Box<RequestHeader>,
    body: Bytes,
    reuse: Option<Reuse>,
    is_model: bool,
) -> Result<Begun, Failure> {
    let broken = |error: Box<Error>| Failure::from_error(&error, reuse.as_ref().is_some_and(Reuse::explains_an_end));
    cork::hold(upstream);
    // Where not even the head can be sent, nothing is done twice.
    let head_sent = upstream.write_request_header(head).await;
    head_sent.map_err(|error| Failure::from_error(&error, reuse.is_some()))?;
    let sent = send_body(upstream, body).await;
    cork::release(upstream);
    if let Err(failure) = sent.map_err(broken) {
        // A provider may refuse (401, 413) before it has read everything; its answer tells more than our broken pipe.
        match tokio::time::timeout(EARLY_ANSWER, upstream.read_response_header()).await {
            Ok(Ok(())) => {}
            // Why nothing could be sent: the connection went away before it came to this request, for one.
            Ok(Err(error)) if was_refused(&error) => return Err(broken(error)),
            Ok(Err(_)) | Err(_) => return Err(failure),
        }
    }
    let head = loop {
        if upstream.response_header().is_none_or(|head| head.status.is_informational()) {
            upstream.read_response_header().await.map_err(broken)?;
        }
        match upstream.response_header() {
            // 100 and 103 say nothing about the answer.
            Some(head) if head.status.is_informational() => {}
            Some(head) => break head.clone(),
            None => return Err(Failure::Reset("no response head".into())),
        }
    };
    let is_stream = is_event_stream(&head);
    let mut begun = Begun { head, first: Bytes::new(), is_done: false, is_error_event: false, first_byte_at: None };
    // From here the provider has answered: a failure is no longer a stale connection.
    let cut = |error: Box<Error>| Failure::from_error(&error, false);
    if is_stream && !is_model {
        return Ok(begun);
    }
    let Some(first) = upstream.read_response_body().await.map_err(cut)? else {
        begun.is_done = true;
        return Ok(begun);
    };
    begun.first_byte_at = Some(Instant::now());
    begun.first = first;
    if !is_stream || !begun.head.status.is_success() {
        return Ok(begun);
    }
    loop {
        match classify_first(&begun.first) {
            FirstEvent::Meaningful => return Ok(begun),
            FirstEvent::Error(_) => {
                begun.is_error_event = true;
                return Ok(begun);
            }
            FirstEvent::NeedMore if begun.first.len() >= FIRST_EVENT_LIMIT => return Ok(begun),
            FirstEvent::NeedMore => {}
        }
        let Some(more) = upstream.read_response_body().await.map_err(cut)? else {
            begun.is_done = true;
            return Ok(begun);
        };
        let mut joined = BytesMut::from(begun.first);
        joined.extend_from_slice(&more);
        begun.first = joined.freeze();
    }
}
