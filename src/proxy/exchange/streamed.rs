//! Requests that are passed on to an HTTP/2 upstream while they come, and their answers with them. Other upstreams, and requests without
//! a body, are pingora's business.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header;
use pingora_core::protocols::http::client::HttpSession;
use pingora_error::{Error, ErrorSource, Result};
use pingora_proxy::Session;

use super::attempt::{CallFacts, Connected, Opened, Reuse};
use super::call::Call;
use super::failure::Failure;
use super::pump::Pump;
use super::{Exchange, Spent, Tried};
use crate::config::model::RetryPolicy;
use crate::plugins::{End, Target};
use crate::proxy::asked::head_for;
use crate::proxy::cluster::Visited;
use crate::proxy::context::Context;
use crate::proxy::round::{Round, answer_or_again};
use crate::proxy::{body, grpc, retry};
use crate::telemetry::metrics::AttemptOutcome;

/// Whether the exchange passes a request on that nobody has read.
pub fn is_streamed(session: &mut Session, ctx: &Context) -> bool {
    let is_http2 = ctx.upstream.as_ref().is_some_and(|upstream| upstream.is_http2());
    is_http2 && !session.as_downstream_mut().is_body_empty()
}

/// How long an answer is waited for.
struct Limits {
    /// The route's for the try, and when that is over.
    try_limit: Option<Duration>,
    until: Option<Instant>,
    /// From the last byte of the request on.
    silence: Option<Duration>,
}

impl Limits {
    fn whose(&self) -> &'static str {
        match self.until {
            Some(_) => "the timeout of the route, or of one try",
            None => "timeouts.first_byte_secs",
        }
    }
}

impl Exchange {
    /// Passes a request on while it comes.
    ///
    /// # Errors
    /// The client went away; there is nobody to answer.
    pub async fn serve_streamed(&self, session: &mut Session, ctx: &mut Context) -> Result<Round> {
        body::invite(session).await?;
        session.as_downstream_mut().enable_retry_buffering();
        match self.try_streamed(session, ctx).await? {
            Tried::Usable(opened) => self.relay(session, ctx, opened).await,
            Tried::Refused(opened)
                if can_repeat(session) && retry::wants_fallback(ctx, opened.status()) && ctx.fall_back() =>
            {
                self.give_up(ctx, opened).await;
                // What was read of the request goes there first.
                Ok(Round::Upstream)
            }
            Tried::Refused(opened) => self.relay(session, ctx, opened).await,
            Tried::Failed(reply) => {
                if !session.is_body_done() {
                    session.set_keepalive(None);
                }
                answer_or_again(session, ctx, reply).await
            }
        }
    }

    async fn try_streamed(&self, session: &mut Session, ctx: &mut Context) -> Result<Tried> {
        let call = match Call::for_request(session, ctx, &Target { service: None, model: None }) {
            Ok(call) => call,
            Err(reply) => return Ok(Tried::Failed(reply)),
        };
        let retry = ctx.route.as_ref().map(|route| route.retry().clone()).unwrap_or_default();
        let mut spent = Spent::default();
        let mut _repeating;
        loop {
            let started = Instant::now();
            let limit = ctx.begin_try(started);
            let is_endless = grpc::is_grpc(&session.req_header().headers) && limit.is_none();
            let limits = Limits {
                try_limit: limit,
                until: limit.map(|limit| started + limit),
                silence: (!is_endless).then_some(call.timeouts.first_byte),
            };
            let n_visited = spent.visited.len();
            let outcome = self.open_streamed(session, ctx, &call, &limits, &mut spent.visited).await;
            let address = spent.visited.last().filter(|_| spent.visited.len() > n_visited);
            ctx.upstream_address = address.map(|address| address.to_string()).unwrap_or_default();
            let (tried, again) = match outcome? {
                Ok(opened) => {
                    let status = opened.status();
                    let again = spent.may_repeat_status(status, &call, &retry, &self.tokens)
                        || spent.may_repeat_grpc(&opened, &retry);
                    if !again && !retry::wants_fallback(ctx, status) {
                        return Ok(Tried::Usable(opened));
                    }
                    spent.visited.answered();
                    (Tried::Refused(opened), again)
                }
                Err(failure) => {
                    self.count(&call, failure.outcome());
                    if matches!(failure, Failure::Stale) {
                        spent.visited.pop();
                    }
                    let again = spent.may_repeat_failure(&failure, &call, &retry, &self.tokens);
                    ctx.state.llm_mut().attempts.push(call.answered(End::Failed(failure.to_string()), None, started));
                    (Tried::Failed(failure.into_reply(&call)), again)
                }
            };
            if !again || !can_repeat(session) || ctx.is_out_of_time() {
                return Ok(tried);
            }
            _repeating = None;
            _repeating = call.upstream.retry();
            if _repeating.is_none() {
                return Ok(tried);
            }
            if let Tried::Refused(opened) = tried {
                self.give_up(ctx, opened).await;
            }
            spent.attempts += 1;
        }
    }

    /// One attempt: up to the head of the answer.
    async fn open_streamed(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        call: &Call,
        limits: &Limits,
        visited: &mut Visited,
    ) -> Result<std::result::Result<Box<Opened>, Failure>> {
        let started = Instant::now();
        let (mut head, _) = match call.prepare(None) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(Failure::Invalid(error))),
        };
        head.remove_header(&header::CONTENT_LENGTH);
        if let Some(length) = session.req_header().headers.get(header::CONTENT_LENGTH).cloned() {
            head.insert_header(header::CONTENT_LENGTH, length)?;
        }
        let patience = limits.until.map_or(call.timeouts.first_byte, |until| until.saturating_duration_since(started));
        let connected = match self.connected(call, &head, patience, limits.whose(), visited).await {
            Ok(connected) => connected,
            Err(failure) => return Ok(Err(failure)),
        };
        let Connected { mut upstream, peer, mut lease, is_reused } = connected;
        let reuse = is_reused.then(|| Reuse::new(call.bears_repetition()));
        let head = head_for(&upstream, &peer, head);
        let HttpSession::H2(stream) = &mut upstream else {
            return Ok(Err(Failure::Nonsense("it does not speak HTTP/2".to_owned())));
        };
        // The limits are kept here.
        stream.read_timeout = None;
        let failed = |error: &Error, reuse: &Option<Reuse>| {
            Failure::from_error(error, reuse.as_ref().is_some_and(Reuse::explains_an_end))
        };
        if let Err(error) = stream.write_request_header(head, false) {
            return Ok(Err(failed(&error, &reuse)));
        }
        let Some(writer) = stream.take_request_body_writer() else {
            return Ok(Err(Failure::Reset("the request cannot be written".to_owned())));
        };
        let before = session.as_downstream_mut().get_retry_buffer();
        let mut pump = Pump::new(writer, before, session, ctx, call.timeouts.between_reads);
        let mut sent_last = Instant::now();
        let outcome = loop {
            let silence = limits.silence.filter(|_| pump.is_over() || pump.is_read()).map(|limit| sent_last + limit);
            let until = [limits.until, silence].into_iter().flatten().min();
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = stream.read_response_header() => break read.map_err(|error| failed(&error, &reuse)),
                moved = pump.step(session, ctx) => match moved {
                    Ok(()) => sent_last = Instant::now(),
                    Err(error) if error.esource() == &ErrorSource::Upstream => break Err(Failure::TimedOut(error.to_string())),
                    Err(error) => {
                        self.count(call, AttemptOutcome::Cancelled);
                        return Err(error);
                    }
                },
                () = over => break Err(Failure::TimedOut(format!("no answer in time ({})", limits.whose()))),
                () = self.ending.cancelled() => break Err(Failure::Stopping),
            }
        };
        if let Err(failure) = outcome {
            if !matches!(failure, Failure::Stale | Failure::Refused(_) | Failure::Stopping) {
                lease.failed();
            }
            return Ok(Err(failure));
        }
        let Some(head) = stream.response_header().cloned() else {
            return Ok(Err(Failure::Reset("no response head".to_owned())));
        };
        lease.answered(grpc::http_status(&head));
        let between_reads = limits.silence.map(|_| call.timeouts.between_reads);
        stream.read_timeout = [between_reads, limits.try_limit].into_iter().flatten().min();
        Ok(Ok(Box::new(Opened {
            is_done: upstream.response_done(),
            upstream,
            peer,
            lease,
            head,
            first: Bytes::new(),
            is_error_event: false,
            started,
            first_byte: None,
            call: CallFacts::of(call),
            rest: Some(pump),
        })))
    }
}

impl Spent {
    /// As Istio's default has it: a server that says it is not available, or took the call back, has done nothing with it.
    fn may_repeat_grpc(&self, opened: &Opened, retry: &RetryPolicy) -> bool {
        self.attempts < retry.attempts && *retry == RetryPolicy::default() && grpc::is_unavailable(&opened.head)
    }
}

/// Whether what was read of the body can be sent again.
fn can_repeat(session: &Session) -> bool {
    !session.as_downstream().retry_buffer_truncated()
}
