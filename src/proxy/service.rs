//! pingora's phases, each of which names its stage.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio_util::task::TaskTracker;

use super::challenge::Challenges;
use super::context::Context;
use super::dubbo::Dubbo;
use super::exchange::Exchange;
use super::failure::{OVERFLOW, classify, explain};
use super::resolve::Resolver;
use super::round::Round;
use super::snapshot::Snapshot;
use super::upstream::NoPeer;
use super::{answer_head, body, conversation, finish, grpc, gzip, http10, hygiene, mirror, outgoing, respond, retry};
use crate::base::tasks::Tasks;
use crate::llm::error::ErrorKind;
use crate::mcp::Mcp;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::SpanSink;

/// What all requests share.
pub struct Gateway {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub resolver: Arc<Resolver>,
    pub exchange: Arc<Exchange>,
    pub dubbo: Dubbo,
    pub mcp: Arc<Mcp>,
    pub challenges: Arc<Challenges>,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    pub spans: SpanSink,
    /// For copies of requests.
    pub tasks: Tasks,
    pub mirrors: mirror::Room,
    /// The process drains.
    pub stopping: Arc<AtomicBool>,
    /// Has a token of each connection on which a request is about to begin, or that is passed through.
    pub at_work: TaskTracker,
}

/// The stages of a request in the order [`Gateway`] runs them; the list in the module documentation is checked against it.
pub const STAGES: &[&str] = &["listener", "hygiene", "gate", "chain", "outgoing", "respond", "finish"];

impl Gateway {
    /// For another thread: the same, but for connections, which stay on the thread that made them.
    pub fn for_thread(&self) -> Gateway {
        Gateway {
            snapshot: self.snapshot.clone(),
            resolver: self.resolver.clone(),
            exchange: self.exchange.clone(),
            dubbo: Dubbo::new(self.tasks.clone()),
            mcp: self.mcp.clone(),
            challenges: self.challenges.clone(),
            metrics: self.metrics.clone(),
            access_log: self.access_log.clone(),
            spans: self.spans.clone(),
            tasks: self.tasks.clone(),
            mirrors: self.mirrors.clone(),
            stopping: self.stopping.clone(),
            at_work: self.at_work.clone(),
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        let mut ctx = Context::new(self.snapshot.load_full(), self.metrics.clone(), self.stopping.clone());
        ctx.state.is_logged = self.access_log.is_on();
        ctx
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(gzip::module());
        modules.add_module(http10::module());
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        gzip::configure(session, ctx.snapshot.gzip.as_ref());
        let limits = &ctx.snapshot.limits;
        session.set_write_timeout(Some(limits.timeouts.between_reads));
        session.set_read_timeout(Some(limits.client_read_timeout));
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(limits.client_idle.as_secs().max(1)));
        }
        if let (Version::HTTP_10, ServerSession::H1(client)) =
            (session.req_header().version, session.as_downstream_mut())
        {
            // It would take what comes before the answer for the answer.
            client.set_ignore_info_resp(true);
        }
        if let Err(reply) = hygiene::admit(session, ctx) {
            respond::write(session, ctx, reply).await?;
            return Ok(true);
        }
        if let Some(reply) = self.challenges.texts.reply(session.req_header()) {
            respond::write(session, ctx, reply).await?;
            return Ok(true);
        }
        ctx.remember(session.req_header());
        loop {
            match self.round(session, ctx).await? {
                Round::Answered => return Ok(true),
                Round::Upstream => return Ok(false),
                Round::Again => ctx.reenter(session.req_header_mut()),
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        // The attempt before is over; it must not take the place of this one.
        ctx.lease = None;
        let limit = ctx.begin_try(Instant::now());
        let rewritten = ctx.route.as_ref().and_then(|route| route.route.rewrite.host.as_deref());
        let authority = rewritten.or_else(|| hygiene::authority(session.req_header())).unwrap_or_default();
        let Some(upstream) = &ctx.upstream else {
            return Error::e_explain(
                ErrorType::HTTPStatus(503),
                format!("service {} is not configured", ctx.state.service),
            );
        };
        let found =
            upstream.peer(authority, &ctx.snapshot.limits.timeouts, &self.resolver, ctx.balance.hash, &ctx.visited);
        // A name server that is silent must not take longer than the route may.
        let Ok(found) = tokio::time::timeout(limit.unwrap_or(Duration::MAX), found).await else {
            return Error::e_explain(ErrorType::ReadTimedout, "no address of the service in the route's time");
        };
        match found {
            Ok((mut peer, lease)) => {
                ctx.visited.push(lease.address());
                ctx.lease = Some(lease);
                if let Some(limit) = limit {
                    peer.options.read_timeout = Some(limit);
                    let within = |own: Option<Duration>| own.map(|own| own.min(limit));
                    // An upstream that takes no more of a body is as slow as one that does not answer.
                    peer.options.write_timeout = within(peer.options.write_timeout);
                    peer.options.connection_timeout = within(peer.options.connection_timeout);
                    peer.options.total_connection_timeout = within(peer.options.total_connection_timeout);
                }
                conversation::prepare_peer(session.req_header(), &mut peer, limit.is_some());
                ctx.upstream_address = peer._address.to_string();
                Ok(Box::new(peer))
            }
            Err(NoPeer::Missing(reason)) => Error::e_explain(ErrorType::HTTPStatus(503), reason),
            Err(full @ NoPeer::Full { .. }) => Error::e_explain(OVERFLOW, full.to_string()),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        chunk: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        if end_of_stream && chunk.as_ref().is_some_and(Bytes::is_empty) {
            // pingora would write it as the chunk that ends the body, and end the body once more.
            *chunk = None;
        }
        if let Some(chunk) = chunk {
            respond::pass_request_chunk(session, ctx, chunk);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if request.version == Version::HTTP_2 && body::invite(session).await? {
            // Here, because the client of HTTP/2 does not pass on what an upstream says before its answer.
            request.remove_header(&http::header::EXPECT);
        }
        outgoing::prepare(request, ctx)?;
        if ctx.snapshot.settings.disable_x_envoy_headers {
            hygiene::strip_x_envoy(request);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        answer_head::clean(session.req_header(), response)?;
        let is_final = !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(lease) = ctx.lease.as_mut().filter(|_| is_final) {
            lease.answered(grpc::http_status(response));
            ctx.visited.answered();
        }
        retry::after_answer(session, ctx, response.status.as_u16())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let is_upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if response.status.is_informational() && !is_upgraded {
            return Ok(());
        }
        if is_upgraded {
            session.set_read_timeout(None);
        } else if ctx.is_unheld_upgrade && response.status.is_success() {
            // Asking for an upgrade that nobody wants must not be a way around the plugins that hold answers back.
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "the upstream answered a WebSocket as a request");
            return Err(error.into_up());
        }
        if let Some(asked) = ctx.asked_upstream {
            respond::mark_upstream_answer(ctx, response, asked.elapsed());
        }
        match respond::finish_upstream_head(session, ctx, response)? {
            None => Ok(()),
            Some(body) => {
                // `fail_to_proxy` writes it: only there the upstream's body is out of the way.
                ctx.replacement = Some((response.clone(), body));
                Error::e_explain(ErrorType::InternalError, "a plugin answers instead of the upstream")
            }
        }
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        if ctx.is_out_of_time() && !session.was_upgraded() {
            // The limit on a read alone would let an answer that drips go on for ever.
            let error = Error::explain(ErrorType::ReadTimedout, "the answer took longer than the route allows");
            return Err(error.into_up());
        }
        respond::pass_chunk(session, ctx, chunk);
        if chunk.is_some() && ctx.is_bare {
            *chunk = Some(Bytes::new());
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(lease) = &mut ctx.lease {
            lease.not_connected(&error);
        }
        error.set_retry(retry::after_no_connection(session, ctx));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        is_reused: bool,
    ) -> Box<Error> {
        // Undecided it must not be asked.
        error.retry.decide_reuse(is_reused);
        // A connection that the pool had kept too long says nothing about the endpoint.
        let is_stale = is_reused && (error.retry.retry() || error.etype() == &ErrorType::WriteError);
        // Nor does the time that a client takes to send what the endpoint waits for.
        let is_of_client = error.etype() == &ErrorType::ReadTimedout && !session.as_mut().is_body_done();
        let is_of_endpoint = error.esource() == &ErrorSource::Upstream && !is_stale && !is_of_client;
        if let Some(lease) = ctx.lease.as_mut().filter(|_| is_of_endpoint) {
            lease.failed();
        }
        let again = retry::after_failure(session, ctx, &error, is_reused);
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        if let Some((head, body)) = ctx.replacement.take() {
            let error_code = head.status.as_u16();
            // pingora ends the connection here, and the answer says so.
            session.set_keepalive(None);
            let written = respond::finish_and_write(session, ctx, head, body).await;
            return FailToProxy { error_code, can_reuse_downstream: written.is_ok() };
        }
        let (kind, details) = classify(error, ctx.is_try_over());
        let is_out = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
        let is_head_out = session.response_written().is_some_and(|head| is_out(head.status));
        if kind.is_none() {
            ctx.state.details = details.into();
        } else if is_head_out {
            // The status says that all went well.
            ctx.state.details = match kind {
                Some(ErrorKind::UpstreamTimeout) => "upstream_response_timeout".into(),
                _ => "upstream_reset_after_response_started".into(),
            };
        }
        if is_head_out || kind.is_none() {
            // The head is out, or nobody is left to answer: ending the connection is the only honest sign.
            session.shutdown().await;
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let kind = kind.unwrap_or(ErrorKind::Internal);
        let message = format!("Route \"{}\", service \"{}\": {}", ctx.state.route, ctx.state.service, explain(kind));
        tracing::warn!(route = %ctx.state.route, service = %ctx.state.service, %error, "Request failed");
        let mut reply = respond::error(kind, message, details);
        if kind == ErrorKind::Overloaded {
            reply = reply.header(respond::OVERLOADED, "true");
        }
        let error_code = reply.status;
        // The request may not have been read to its end: the connection ends, and the answer says so.
        session.set_keepalive(None);
        // Nobody is left to hear that it could not be written.
        let _ = respond::write(session, ctx, reply).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        // From here on what came behind the request forbids to keep the connection; `Front` says why it was let in.
        session.as_downstream_mut().set_pipelining_enabled(false);
        finish::finish(session, ctx, &self.metrics, &self.access_log, &self.spans);
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        // The access log and `fail_to_proxy` report it.
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_stages_are_the_stages() {
        let documented: Vec<&str> = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
            .filter_map(|line| line.split('`').nth(1))
            .collect();
        assert_eq!(documented, STAGES);
    }
}
