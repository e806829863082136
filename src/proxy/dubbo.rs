//! Requests of routes that are bound to an Http2Rpc: one call over a connection of the service, its answer as JSON.
//!
//! Connections wait for the next call; one that has anything to say meanwhile (an end, a heartbeat) is not used again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use parking_lot::Mutex;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cluster::Lease;
use super::context::Context;
use super::resolve::Resolver;
use super::upstream::Upstream;
use super::{outgoing, respond};
use crate::config::model::DubboService;
use crate::llm::error::ErrorKind;
use crate::plugins::Reply;
use crate::rpc::dubbo::{self, HEAD_BYTES, Head};
use crate::rpc::mapping::{self, Misfit, Source};

/// Connections to one address that wait for work.
const MAX_IDLE: usize = 64;

/// How long connections to an address wait that nobody calls.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// The connections to Dubbo services.
#[derive(Default)]
pub struct Dubbo {
    /// With the time of the last call to the address.
    idle: Mutex<HashMap<SocketAddr, (Instant, Vec<TcpStream>)>>,
    n_calls: AtomicU64,
}

/// Why a call has no answer.
enum Failure {
    Unreachable(String),
    TimedOut(Duration),
    Broken(String),
    Refused(dubbo::Refusal),
}

impl Dubbo {
    /// Answers the client, whose request's body has been read. `Some` is the answer to give where there is none of the service.
    ///
    /// # Errors
    /// The client went away.
    pub async fn serve(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        service: &DubboService,
        resolver: &Resolver,
    ) -> Result<Option<Reply>> {
        let started = Instant::now();
        let whole = ctx.state.body.clone().unwrap_or_default();
        let id = self.n_calls.fetch_add(1, Ordering::Relaxed);
        let mut head = session.req_header().clone();
        outgoing::control(&mut head, ctx)?;
        let frame = match frame(&head, service, &whole, id) {
            Ok(frame) => frame,
            Err(misfit) => return Ok(Some(misfit_reply(&misfit))),
        };
        let json = match self.answer(ctx, frame, id, resolver).await {
            Ok(json) => json,
            Err(reply) => return Ok(Some(reply)),
        };
        let mut answer = ResponseHeader::build(200, Some(4))?;
        answer.insert_header(CONTENT_TYPE, "application/json; charset=utf-8")?;
        answer.set_content_length(json.len())?;
        respond::mark_upstream_answer(ctx, &mut answer, started.elapsed());
        let instead = respond::finish_upstream_head(session, ctx, &mut answer)?;
        respond::finish_and_write(session, ctx, answer, instead.unwrap_or(json)).await?;
        Ok(None)
    }

    async fn answer(
        &self,
        ctx: &mut Context,
        frame: Vec<u8>,
        id: u64,
        resolver: &Resolver,
    ) -> std::result::Result<Bytes, Reply> {
        let service = ctx.state.service.clone();
        let Some(upstream) = ctx.upstream.clone() else {
            let message = format!("Service \"{service}\" of route \"{}\" is not configured.", ctx.state.route);
            return Err(respond::error(ErrorKind::NoUpstream, message, "no_healthy_upstream"));
        };
        let limits = &ctx.snapshot.limits;
        let (limit, connect, max_bytes) =
            (ctx.route.as_ref().and_then(|route| route.timeout), limits.timeouts.connect, limits.max_body_bytes);
        let limit = limit.unwrap_or(limits.timeouts.first_byte);
        let n_more = ctx.route.as_ref().map_or(0, |route| route.retry().attempts);
        let called = async {
            // The lease counts the call until it is over.
            let (stream, mut lease) = self.connect(&upstream, connect, n_more, resolver).await?;
            let address = lease.address();
            ctx.upstream_address = address.to_string();
            let called = self.call(stream, address, &frame, id, max_bytes).await;
            match &called {
                Ok(_) | Err(Failure::Refused(_)) => lease.answered(200),
                Err(_) => lease.failed(),
            }
            called
        };
        let outcome = tokio::time::timeout(limit, called).await.unwrap_or(Err(Failure::TimedOut(limit)));
        outcome.map_err(|failure| failure.into_reply(&service))
    }

    /// An idle connection, or a new one. Only connecting is tried again: a call that was sent may have been made.
    async fn connect(
        &self,
        upstream: &Upstream,
        limit: Duration,
        n_more: u32,
        resolver: &Resolver,
    ) -> std::result::Result<(TcpStream, Lease), Failure> {
        let mut n_left = n_more;
        let mut tried = Vec::new();
        loop {
            let leased = upstream.lease(resolver, None, &tried, limit).await;
            let mut lease = leased.map_err(|error| Failure::Unreachable(error.to_string()))?;
            let address = lease.address();
            if let Some(stream) = self.take(address) {
                return Ok((stream, lease));
            }
            let failure = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small frames that wait for an answer must not wait for each other.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, lease));
                }
                Ok(Err(error)) => Failure::Unreachable(format!("{address}: {error}")),
                Err(_) => Failure::Unreachable(format!("{address}: no connection within {} ms", limit.as_millis())),
            };
            lease.failed();
            tried.push(address);
            if n_left == 0 {
                return Err(failure);
            }
            n_left -= 1;
        }
    }

    /// A connection that is silent and open.
    fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.idle.lock();
        let (_, waiting) = idle.get_mut(&address)?;
        while let Some(stream) = waiting.pop() {
            let peeked = stream.try_read(&mut [0]);
            if peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
        None
    }

    async fn call(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        frame: &[u8],
        id: u64,
        max_bytes: usize,
    ) -> std::result::Result<Bytes, Failure> {
        let broken = |error: std::io::Error| Failure::Broken(error.to_string());
        stream.write_all(frame).await.map_err(broken)?;
        loop {
            let mut head = [0; HEAD_BYTES];
            stream.read_exact(&mut head).await.map_err(broken)?;
            let head = Head::read(head).ok_or_else(|| Failure::Broken("what came is not Dubbo".to_owned()))?;
            if head.body_bytes > max_bytes {
                return Err(Failure::Broken(format!("the answer is longer than {max_bytes} bytes")));
            }
            let mut body = vec![0; head.body_bytes];
            stream.read_exact(&mut body).await.map_err(broken)?;
            if head.answers(id) {
                let answer = dubbo::response(head, &body).map_err(Failure::Refused);
                let mut idle = self.idle.lock();
                // Providers come and go; what leads to those that are gone is closed by nobody else.
                idle.retain(|_, (last, _)| last.elapsed() < LONGEST_IDLE);
                let (last, waiting) = idle.entry(address).or_insert_with(|| (Instant::now(), Vec::new()));
                *last = Instant::now();
                if waiting.len() < MAX_IDLE {
                    waiting.push(stream);
                }
                return answer;
            }
        }
    }
}

impl Failure {
    fn into_reply(self, service: &str) -> Reply {
        let (kind, text, details) = match self {
            Failure::Unreachable(reason) => (ErrorKind::NoUpstream, reason, "no_healthy_upstream"),
            Failure::TimedOut(limit) => {
                let text = format!("no answer within {} ms", limit.as_millis());
                (ErrorKind::UpstreamTimeout, text, "upstream_response_timeout")
            }
            Failure::Broken(reason) => {
                (ErrorKind::UpstreamUnreachable, reason, "upstream_reset_before_response_started")
            }
            Failure::Refused(refusal) => (ErrorKind::UpstreamInvalid, refusal.to_string(), "dubbo_refused"),
        };
        respond::error(kind, format!("Dubbo service \"{service}\": {text}."), details)
    }
}

fn frame(head: &RequestHeader, service: &DubboService, body: &[u8], id: u64) -> std::result::Result<Vec<u8>, Misfit> {
    let fields = head.headers.iter();
    let texts = fields.filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)));
    let source = Source {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: texts.collect(),
        body,
    };
    Ok(dubbo::request(id, &mapping::call(service, &source)?))
}

fn misfit_reply(misfit: &Misfit) -> Reply {
    let (kind, details) = match misfit {
        Misfit::NoMethod { .. } => (ErrorKind::NoRoute, "http2rpc.no_method"),
        Misfit::Missing { .. } | Misfit::Type { .. } => (ErrorKind::InvalidValue, "http2rpc.bad_parameter"),
        Misfit::Body(_) => (ErrorKind::InvalidJson, "http2rpc.bad_body"),
    };
    respond::error(kind, format!("The request is no call: {misfit}."), details)
}
