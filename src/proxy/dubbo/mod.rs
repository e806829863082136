//! Requests of routes that are bound to an Http2Rpc: one call over a connection of the service, its answer as JSON.
//!
//! Connections wait for the next call; one that has anything to say meanwhile (an end, a heartbeat) is not used again.

mod pool;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::pool::Pool;
use super::cluster::{Lease, Visited};
use super::context::Context;
use super::resolve::Resolver;
use super::upstream::Upstream;
use super::{outgoing, respond};
use crate::base::tasks::Tasks;
use crate::config::model::DubboService;
use crate::llm::error::ErrorKind;
use crate::plugins::Reply;
use crate::rpc::dubbo::{self, HEAD_BYTES, Head};
use crate::rpc::mapping::{self, Misfit, Source};

/// The connections of one thread to Dubbo services.
pub struct Dubbo {
    idle: Pool,
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
    pub fn new(tasks: Tasks) -> Dubbo {
        Dubbo { idle: Pool::new(tasks), n_calls: AtomicU64::new(0) }
    }

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
        // Counts the call until it is over, however that comes.
        let mut lease = None;
        let called = async {
            let stream = self.connect(&upstream, connect, n_more, resolver, &mut lease).await?;
            self.call(stream, &frame, id, max_bytes).await
        };
        let outcome = tokio::time::timeout(limit, called).await.unwrap_or(Err(Failure::TimedOut(limit)));
        if let Some(lease) = &mut lease {
            ctx.upstream_address = lease.address().to_string();
            match &outcome {
                Ok(_) | Err(Failure::Refused(_)) => lease.answered(200),
                Err(_) => lease.failed(),
            }
        }
        outcome.map_err(|failure| failure.into_reply(&service))
    }

    /// An idle connection, or a new one, and the lease of its endpoint. Only connecting is tried again: a call that was sent may have
    /// been made.
    async fn connect(
        &self,
        upstream: &Upstream,
        limit: Duration,
        n_more: u32,
        resolver: &Resolver,
        lease: &mut Option<Lease>,
    ) -> std::result::Result<TcpStream, Failure> {
        let mut n_left = n_more;
        let mut visited = Visited::default();
        loop {
            let leased = upstream.lease(resolver, None, &visited, limit).await;
            let current = lease.insert(leased.map_err(|error| Failure::Unreachable(error.to_string()))?);
            let address = current.address();
            if let Some(stream) = self.idle.take(address) {
                return Ok(stream);
            }
            let failure = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small frames that wait for an answer must not wait for each other.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => Failure::Unreachable(format!("{address}: {error}")),
                Err(_) => Failure::Unreachable(format!("{address}: no connection within {} ms", limit.as_millis())),
            };
            if n_left == 0 {
                return Err(failure);
            }
            current.failed();
            visited.push(address);
            n_left -= 1;
        }
    }

    async fn call(
        &self,
        mut stream: TcpStream,
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
                self.idle.put(stream);
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
