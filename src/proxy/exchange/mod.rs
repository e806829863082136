//! One client request answered by a model provider, possibly after several attempts.
//!
//! 1. `plan`: the targets to try, in order (the route's destination unless a plugin chose)
//! 2. `attempt`: connect, send, wait for the first meaningful piece of the answer
//! 3. retry or fall back while nothing has been committed to the client
//! 4. `relay`: commit the head and pass the answer on, byte for byte
//!
//! `streamed` does the same for requests that an HTTP/2 upstream gets while they come (`pump`).
//!
//! Nothing reaches the client before the first piece of a usable answer has arrived, so every failure up to then can
//! still be repaired. From then on a failure is shown: an error event in a stream, a broken-off connection otherwise.

mod attempt;
mod call;
mod cork;
mod failure;
mod outbound;
mod pump;
mod relay;
mod streamed;
mod tokens;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_error::Result;
use pingora_proxy::Session;
use thread_local::ThreadLocal;
use tokio_util::sync::CancellationToken;

use self::attempt::Opened;
use self::call::Call;
use self::failure::Failure;
pub use self::streamed::is_streamed;
use self::tokens::Tokens;
use super::cluster::Visited;
use super::context::Context;
use super::departure::departure;
use super::resolve::Resolver;
use super::round::{Round, answer_or_again};
use super::snapshot::Snapshot;
use super::{respond, retry};
use crate::config::model::{RetryOn, RetryPolicy};
use crate::llm::error::ErrorKind;
use crate::plugins::{Answered, CompletedCall, End, LlmCall, Reply, Target};
use crate::telemetry::metrics::{AttemptOutcome, Metrics, ServiceOutcome};

/// Shared by all requests: the connection pool towards providers and the health of their tokens.
pub struct Exchange {
    /// Of the threads that keep their connections to themselves.
    own: ThreadLocal<OnceLock<Connector>>,
    /// Of all others, whose tasks may go on in another thread than they began in.
    shared: OnceLock<Connector>,
    pool_size: usize,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    tokens: Tokens,
    /// The process ends: no stream goes on.
    ending: CancellationToken,
}

impl Exchange {
    /// `pool_size`: connections that may wait for work in one pool.
    pub fn new(resolver: Arc<Resolver>, metrics: Arc<Metrics>, pool_size: usize) -> Exchange {
        let (tokens, ending) = (Tokens::default(), CancellationToken::new());
        Exchange { own: ThreadLocal::new(), shared: OnceLock::new(), pool_size, resolver, metrics, tokens, ending }
    }

    /// What this thread connects to, it reuses alone: another one's events would have to be waited for there.
    pub fn keep_connections_to_this_thread(&self) {
        self.own.get_or_default();
    }

    fn connector(&self) -> &Connector {
        let place = self.own.get().unwrap_or(&self.shared);
        place.get_or_init(|| Connector::new(Some(ConnectorOptions::new(self.pool_size))))
    }

    /// Ends every stream that still runs, visibly.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Answers the client, unless the answer is an error that leads to another route. The request's body has been read.
    ///
    /// # Errors
    /// The client went away; there is nobody to answer.
    pub async fn serve(&self, session: &mut Session, ctx: &mut Context) -> Result<Round> {
        let deadline = ctx.route.as_ref().and_then(|route| route.timeout).map(|limit| Instant::now() + limit);
        let mut refusal = None;
        for (position, target) in plan(ctx).into_iter().enumerate() {
            if let Some(Ok(opened)) = refusal.take() {
                self.give_up(ctx, opened).await;
            }
            ctx.state.llm_mut().current = position;
            match self.try_target(session, ctx, &target, deadline).await? {
                Tried::Usable(opened) => return self.relay(session, ctx, opened).await,
                Tried::Refused(opened) if retry::wants_fallback(ctx, opened.status()) && ctx.fall_back() => {
                    self.give_up(ctx, opened).await;
                    let instead =
                        self.try_target(session, ctx, &Target { service: None, model: None }, deadline).await?;
                    return match instead {
                        Tried::Usable(opened) | Tried::Refused(opened) => self.relay(session, ctx, opened).await,
                        Tried::Failed(reply) => answer_or_again(session, ctx, reply).await,
                    };
                }
                // An error answer of the provider is the better thing to pass on than our own words, but only if it is last.
                Tried::Refused(opened) => refusal = Some(Ok(opened)),
                Tried::Failed(reply) => refusal = Some(Err(reply)),
            }
        }
        match refusal {
            Some(Ok(opened)) => self.relay(session, ctx, opened).await,
            Some(Err(reply)) => answer_or_again(session, ctx, reply).await,
            None => {
                let reply =
                    respond::error(ErrorKind::NoUpstream, "No model was left to try for this request.", "no_target");
                answer_or_again(session, ctx, reply).await
            }
        }
    }

    async fn relay(&self, session: &mut Session, ctx: &mut Context, opened: Box<Opened>) -> Result<Round> {
        if ctx.wants_reentry(opened.status()) {
            self.give_up(ctx, opened).await;
            return Ok(Round::Again);
        }
        relay::relay(self, session, ctx, opened).await?;
        Ok(Round::Answered)
    }

    /// One target with its retries. `deadline` is that of the whole exchange.
    async fn try_target(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        target: &Target,
        deadline: Option<Instant>,
    ) -> Result<Tried> {
        let call = match Call::for_request(session, ctx, target) {
            Ok(call) => call,
            Err(reply) => return Ok(Tried::Failed(reply)),
        };
        let retry = ctx.route.as_ref().map(|route| route.retry().clone()).unwrap_or_default();
        let mut spent = Spent::default();
        let mut _repeating;
        loop {
            let Ok(token) = self.tokens.choose(&call, ctx.state.consumer.as_deref(), &spent.tokens) else {
                let message = format!("Provider service \"{}\" has no usable API token.", call.service);
                return Ok(Tried::Failed(respond::error(ErrorKind::NoUpstream, message, "no_token")));
            };
            let started = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(started));
            // A provider's retries have a limit of their own.
            let again = call
                .provider
                .as_ref()
                .and_then(|provider| provider.config().retry.as_ref())
                .map(|policy| policy.timeout);
            let limit = [left, retry.per_try_timeout, again.filter(|_| spent.attempts > 0)].into_iter().flatten().min();
            let n_visited = spent.visited.len();
            let outcome = tokio::select! {
                outcome = self.open(&call, token, limit, &mut spent.visited) => outcome,
                () = self.ending.cancelled() => Err(Failure::Stopping),
                gone = departure(session) => {
                    self.count(&call, AttemptOutcome::Cancelled);
                    ctx.state.llm_mut().attempts.push(call.answered(End::Cancelled, None, started));
                    return Err(gone);
                }
            };
            if let Some(token) = token {
                spent.tokens.push(token);
            }
            let address = spent.visited.last().filter(|_| spent.visited.len() > n_visited);
            ctx.upstream_address = address.map(|address| address.to_string()).unwrap_or_default();
            let verdict = match outcome {
                Ok(opened) if opened.is_usable() => {
                    self.tokens.report(&call, token, opened.status());
                    return Ok(Tried::Usable(opened));
                }
                Ok(opened) => {
                    spent.visited.answered();
                    self.tokens.report(&call, token, opened.status());
                    let again = spent.may_repeat_status(opened.status(), &call, &retry, &self.tokens);
                    (Tried::Refused(opened), again)
                }
                Err(failure) => {
                    self.count(&call, failure.outcome());
                    if matches!(failure, Failure::Stale) {
                        // The connection was at fault and not the endpoint, which keeps its sessions.
                        spent.visited.pop();
                    }
                    let again = spent.may_repeat_failure(&failure, &call, &retry, &self.tokens);
                    ctx.state.llm_mut().attempts.push(call.answered(End::Failed(failure.to_string()), None, started));
                    (Tried::Failed(failure.into_reply(&call)), again)
                }
            };
            let (tried, again) = verdict;
            let is_out_of_time = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !again || is_out_of_time {
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

    /// Records an error answer that is not passed on, and gives its connection back.
    async fn give_up(&self, ctx: &mut Context, opened: Box<Opened>) {
        let labels = ServiceOutcome { service: opened.call.service.to_string(), outcome: AttemptOutcome::ErrorStatus };
        self.metrics.attempts.get_or_create(&labels).inc();
        ctx.state.llm_mut().attempts.push(opened.answered_with_error());
        self.discard(opened).await;
    }

    /// One call beside the client's exchange, collected whole. No retries: a failure is an outcome to record.
    pub async fn complete(&self, snapshot: &Arc<Snapshot>, call: LlmCall) -> CompletedCall {
        let started = Instant::now();
        let limit = call.timeout;
        let prepared = match Call::beside(snapshot, call) {
            Ok(prepared) => prepared,
            Err((answered, reason)) => {
                let answered = Answered { end: End::Failed(reason), ..answered };
                return CompletedCall { answered, response: None };
            }
        };
        match tokio::time::timeout(limit, self.collect(&prepared)).await {
            Ok(completed) => completed,
            Err(_) => {
                self.count(&prepared, AttemptOutcome::TimedOut);
                let reason = format!("no complete answer within {} ms", limit.as_millis());
                CompletedCall { answered: prepared.answered(End::Failed(reason), None, started), response: None }
            }
        }
    }

    async fn collect(&self, call: &Call) -> CompletedCall {
        let started = Instant::now();
        let failed = |reason: String| CompletedCall {
            answered: call.answered(End::Failed(reason), None, started),
            response: None,
        };
        let Ok(token) = self.tokens.choose(call, None, &[]) else {
            return failed("every API token of the provider is out".into());
        };
        match self.open(call, token, None, &mut Visited::default()).await {
            Ok(opened) => {
                self.tokens.report(call, token, opened.status());
                relay::collect(self, opened).await
            }
            Err(failure) => {
                self.count(call, failure.outcome());
                failed(failure.to_string())
            }
        }
    }

    /// Counts an answer that was read or passed on.
    fn count_answered(&self, answered: &Answered) {
        let outcome = match &answered.end {
            End::Complete if answered.is_ok() => AttemptOutcome::Answered,
            End::Complete | End::Failed(_) => AttemptOutcome::ErrorStatus,
            End::Cut(_) => AttemptOutcome::Cut,
            End::Cancelled => AttemptOutcome::Cancelled,
        };
        let labels = ServiceOutcome { service: answered.service.to_string(), outcome };
        self.metrics.attempts.get_or_create(&labels).inc();
    }

    fn count(&self, call: &Call, outcome: AttemptOutcome) {
        let labels = ServiceOutcome { service: call.service.to_string(), outcome };
        self.metrics.attempts.get_or_create(&labels).inc();
    }
}

/// What became of a target.
enum Tried {
    Usable(Box<Opened>),
    /// The provider answered with an error that may be passed on.
    Refused(Box<Opened>),
    Failed(Reply),
}

/// Attempts made at one target.
#[derive(Default)]
struct Spent {
    attempts: u32,
    tokens: Vec<usize>,
    visited: Visited,
}

impl Spent {
    fn may_repeat_status(&self, status: u16, call: &Call, retry: &RetryPolicy, tokens: &Tokens) -> bool {
        let listed = |on: &RetryOn| *on == RetryOn::Status(status) || (*on == RetryOn::ServerError && status >= 500);
        self.provider_repeats(status, call, tokens)
            || (self.attempts < retry.attempts && is_safe(call, retry) && retry.on.iter().any(listed))
    }

    /// Whether the provider's own `retryOnFailure` asks for another attempt.
    fn provider_repeats(&self, status: u16, call: &Call, tokens: &Tokens) -> bool {
        call.provider
            .as_ref()
            .and_then(|provider| provider.config().retry.as_ref())
            .is_some_and(|policy| self.attempts < policy.max_retries && policy.retry_on.matches(status))
            && tokens.has_another(call, &self.tokens)
    }

    fn may_repeat_failure(&self, failure: &Failure, call: &Call, retry: &RetryPolicy, tokens: &Tokens) -> bool {
        let was_sent = matches!(failure, Failure::Reset(_) | Failure::Nonsense(_) | Failure::TimedOut(_));
        let may_be_sent = !was_sent || is_safe(call, retry) || call.bears_repetition();
        if may_be_sent && failure.as_status().is_some_and(|status| self.provider_repeats(status, call, tokens)) {
            return true;
        }
        let is_listed = |on: RetryOn| retry.on.contains(&on);
        let allowed = match failure {
            Failure::Refused(_) => is_listed(RetryOn::RefusedStream) || is_listed(RetryOn::ServerError),
            // Nothing was sent, so nothing can be done twice.
            Failure::Unreachable(_) | Failure::NotConnected(_) => {
                is_listed(RetryOn::ConnectFailure) || is_listed(RetryOn::ServerError)
            }
            Failure::Reset(_) | Failure::Nonsense(_) | Failure::TimedOut(_) => {
                is_listed(RetryOn::ServerError) && is_safe(call, retry)
            }
            // Our own pool was at fault, whatever the route says about retries.
            Failure::Stale => return self.attempts < retry.attempts.max(1),
            Failure::Overflow(_) | Failure::Invalid(_) | Failure::Stopping => false,
        };
        allowed && self.attempts < retry.attempts
    }
}

/// Whether asking twice is allowed for this request.
fn is_safe(call: &Call, retry: &RetryPolicy) -> bool {
    retry.non_idempotent || call.head.method.is_idempotent()
}

/// Where to go: what a plugin chose, or the route's destination.
fn plan(ctx: &Context) -> Vec<Target> {
    let chosen = ctx.state.llm.as_ref().map(|llm| llm.targets.clone()).unwrap_or_default();
    if chosen.is_empty() { vec![Target { service: None, model: None }] } else { chosen }
}

/// Time allowed for reading away an answer nobody wants, so that its connection can be reused.
const DISCARD_LIMIT: Duration = Duration::from_millis(200);
