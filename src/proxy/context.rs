//! Everything the proxy keeps about one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_http::{RequestHeader, ResponseHeader};

use super::arm::Arm;
use super::balance;
use super::cluster::{Lease, Retrying, Visited};
use super::limit::Limiter;
use super::mcp_session::Announcement;
use super::respond;
use super::route::RouteEntry;
use super::snapshot::Snapshot;
use super::upstream::Upstream;
use crate::config::model::{DubboService, HeaderControl, LoadBalance, Reentry};
use crate::llm::error::ErrorKind;
use crate::plugins::rules::Place;
use crate::plugins::{Plugin, Reply, Request, RequestState};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::TraceContext;

/// Made when a request arrives; ends with its access log line. The snapshot is taken once, so a request never sees two
/// configurations.
pub struct Context {
    pub snapshot: Arc<Snapshot>,
    pub state: RequestState,
    pub route: Option<Arc<RouteEntry>>,
    pub upstream: Option<Arc<Upstream>>,
    /// The answer has a status without body, whatever a plugin made it of.
    pub is_bare: bool,
    /// Position of the arm that takes the request in [`RouteEntry::arms`].
    arm: usize,
    /// What the upstream balances by.
    pub balance: balance::Key,
    /// Counts the attempt in progress, and is told how it went.
    pub lease: Option<Lease>,
    /// The place of a repeated request.
    pub retrying: Option<Retrying>,
    /// A WebSocket is asked for where plugins hold answers back, which cannot be done with a conversation.
    pub is_unheld_upgrade: bool,
    /// The default backend was asked, because of the status of an answer.
    pub has_fallen_back: bool,
    /// The default backend was chosen, because nobody else can serve.
    is_default_backend: bool,
    /// The request as the client sent it, if errors of some route lead to another.
    received: Option<Box<RequestHeader>>,
    /// The body as the client sent it, once it was read.
    pub received_body: Option<Bytes>,
    /// How often the request was matched again.
    n_reentries: u32,
    /// The answer if no plugin changes the request so that a route takes it.
    pub unrouted: Option<Reply>,
    /// Plugins that saw this request, in order.
    pub ran: Vec<Arc<dyn Plugin>>,
    pub trace: Option<TraceContext>,
    pub method: http::Method,
    pub path: String,
    pub status: Option<u16>,
    pub upstream_address: String,
    pub tries: u32,
    /// When the last try on the streaming path began.
    pub asked_upstream: Option<Instant>,
    /// Endpoints the request has been to on the streaming path.
    pub visited: Visited,
    /// When the route's timeout is over, counted from the first try on the streaming path.
    deadline: Option<Instant>,
    /// When the last try must be over, its answer complete.
    try_deadline: Option<Instant>,
    /// Limiters that have counted this request.
    counted_by: Vec<Arc<Limiter>>,
    /// From asking the upstream to its answer's head, in milliseconds.
    pub upstream_service_time: Option<u64>,
    /// Of a session that the answer may begin.
    pub announcement: Option<Announcement>,
    /// A plugin's answer instead of the upstream's, on its way to the client.
    pub replacement: Option<(ResponseHeader, Bytes)>,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
}

/// Counted here and not where the request is logged, so that a panic on the way does not leave it counted for ever.
impl Drop for Context {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
    }
}

impl Context {
    pub fn new(snapshot: Arc<Snapshot>, metrics: Arc<Metrics>, stopping: Arc<AtomicBool>) -> Context {
        metrics.requests_in_flight.inc();
        Context {
            metrics,
            stopping,
            snapshot,
            state: RequestState::new(),
            route: None,
            upstream: None,
            arm: 0,
            balance: balance::Key::default(),
            lease: None,
            retrying: None,
            is_unheld_upgrade: false,
            has_fallen_back: false,
            is_default_backend: false,
            received: None,
            received_body: None,
            n_reentries: 0,
            unrouted: None,
            ran: Vec::new(),
            trace: None,
            method: http::Method::GET,
            path: String::new(),
            status: None,
            upstream_address: String::new(),
            tries: 0,
            asked_upstream: None,
            visited: Visited::default(),
            deadline: None,
            try_deadline: None,
            counted_by: Vec::new(),
            upstream_service_time: None,
            announcement: None,
            replacement: None,
            is_bare: false,
        }
    }

    /// Whether the process drains, and no connection is to be kept.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// What plugin rules compare with.
    pub fn place(&self) -> Place<'_> {
        Place {
            route: &self.state.route,
            host: &self.state.host,
            service: &self.state.service,
            port: self.state.service_port,
        }
    }

    /// Matches the route and chooses a destination by weight.
    ///
    /// # Errors
    /// The 404 or 503 to answer with.
    pub fn match_route(&mut self, head: &RequestHeader) -> Result<(), Reply> {
        let snapshot = self.snapshot.clone();
        let Some(entry) = snapshot.routes.find(&self.state.host, head) else {
            let nowhere: Arc<str> = Arc::from("");
            self.state.route = nowhere.clone();
            self.state.service = nowhere;
            self.state.service_port = None;
            self.upstream = None;
            self.route = None;
            let message = format!(
                "No route takes host \"{}\" and path \"{}\". Check the hosts and paths of the Ingress objects in the configuration folder.",
                self.state.host,
                head.uri.path()
            );
            return Err(respond::error(ErrorKind::NoRoute, message, "route_not_found"));
        };
        let arms = &entry.arms;
        // Most routes have one arm, and need no sample to find it.
        let share = if arms.len() > 1 { self.state.id.sample("canary") } else { 0.0 };
        let position = Arm::choose(arms, &self.state.host, head, share);
        let chosen = arms.get(position).and_then(|arm| {
            let drawn = arm.destination(self.state.id.sample("destination"))?;
            Some((arm, Arm::available(drawn, arms, entry.fallback.as_ref())))
        });
        match chosen {
            Some((arm, destination)) => {
                self.is_default_backend =
                    entry.fallback.as_ref().is_some_and(|fallback| std::ptr::eq(fallback, destination));
                self.state.route = arm.name.clone();
                self.state.service = destination.service.clone();
                self.state.service_port = destination.port;
                self.upstream = destination.upstream.clone();
                if let Some(upstream) = &self.upstream {
                    let (state, method) = (&self.state, upstream.load_balance());
                    self.balance = balance::key(method, head, &state.host, state.client_ip, state.id);
                }
            }
            // A redirect needs no destination.
            None if entry.route.admission.redirect.is_some() => self.state.route = Arc::from(entry.route.name.as_str()),
            None => {
                let message = format!(
                    "Route \"{}\" has no destination it could be sent to. `weirgate validate` says what is wrong with it.",
                    entry.route.name
                );
                return Err(respond::error(ErrorKind::NoUpstream, message, "no_destination"));
            }
        }
        self.arm = position;
        self.route = Some(entry.clone());
        Ok(())
    }

    /// Begins a try on the streaming path. How long it may take, if the route limits that: one try, and all of them together.
    pub fn begin_try(&mut self, now: Instant) -> Option<Duration> {
        self.tries += 1;
        self.asked_upstream = Some(now);
        let route = self.route.as_ref()?;
        self.deadline = self.deadline.or_else(|| Some(now + route.timeout?));
        let of_try = route.retry().per_try_timeout.map(|limit| now + limit);
        self.try_deadline = self.deadline.into_iter().chain(of_try).min();
        Some(self.try_deadline?.saturating_duration_since(now))
    }

    /// Whether the route's timeout leaves no time for another try.
    pub fn is_out_of_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Whether the last try has taken all the time that the route gives one.
    pub fn is_try_over(&self) -> bool {
        self.try_deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Takes a token of the route's rate limit; a request that comes past it again has paid already.
    pub fn is_within_rate_limit(&mut self) -> bool {
        let Some(limiter) = self.route.as_ref().and_then(|entry| entry.limiter.as_ref()) else { return true };
        if self.counted_by.iter().any(|counted| Arc::ptr_eq(counted, limiter)) {
            return true;
        }
        self.counted_by.push(limiter.clone());
        limiter.admit()
    }

    /// The query parameter that names sessions which the upstream keeps.
    pub fn session_parameter(&self) -> Option<&str> {
        match self.upstream.as_ref()?.load_balance() {
            LoadBalance::McpSession(parameter) => Some(parameter),
            _ => None,
        }
    }

    /// What is changed in headers on the way to and from the upstream.
    pub fn header_control(&self) -> Option<&HeaderControl> {
        self.route.as_ref()?.arms.get(self.arm).map(|arm| &arm.header_control)
    }

    /// The Dubbo service that requests become calls of; a default backend is asked as it is.
    pub fn rpc(&self) -> Option<Arc<DubboService>> {
        if self.has_fallen_back || self.is_default_backend {
            return None;
        }
        self.route.as_ref()?.arms.get(self.arm)?.rpc.clone()
    }

    /// Notes the request before anything changes it, if it may be needed again.
    pub fn remember(&mut self, head: &RequestHeader) {
        if self.snapshot.has_reentries {
            self.received = Some(Box::new(head.clone()));
        }
    }

    /// Whether errors of the matched route lead to another one, and this request may yet take that way.
    pub fn reentry(&self) -> Option<&Arc<Reentry>> {
        let route = &self.route.as_ref()?.route;
        // Requests that a canary with a name of its own takes are another route's, as names go.
        let reentry = route.reentry.as_ref().filter(|_| *route.name == *self.state.route)?;
        (self.received.is_some() && self.n_reentries < reentry.limit).then_some(reentry)
    }

    /// Whether an answer with this status is to be replaced by that of another route.
    pub fn wants_reentry(&self, status: u16) -> bool {
        self.reentry().is_some_and(|reentry| reentry.classes.contains(&(status / 100)))
    }

    /// Begins anew with the request as the client sent it and the headers that lead to another route.
    pub fn reenter(&mut self, head: &mut RequestHeader) {
        let (Some(reentry), Some(received)) = (self.reentry().cloned(), &self.received) else { return };
        for plugin in self.ran.iter().rev() {
            // What it noted is about this round.
            plugin.on_log(&mut Request::of(plugin, head, &mut self.state));
        }
        *head = RequestHeader::clone(received);
        let valid = |(name, value): &(String, String)| {
            Some((http::HeaderName::try_from(name).ok()?, http::HeaderValue::from_str(value).ok()?))
        };
        for (name, value) in reentry.request_headers.iter().filter_map(valid) {
            // Both are valid.
            let _ = head.insert_header(name, value);
        }
        let before = std::mem::take(&mut self.state);
        self.state = RequestState {
            id: before.id,
            started: before.started,
            client_ip: before.client_ip,
            is_tls: before.is_tls,
            server_name: before.server_name,
            host: before.host,
            body: self.received_body.clone(),
            reply_headers: reentry.response_headers.iter().filter_map(valid).collect(),
            ..RequestState::new()
        };
        self.ran.clear();
        self.has_fallen_back = false;
        self.deadline = None;
        self.visited.clear();
        self.lease = None;
        self.upstream_address.clear();
        self.n_reentries += 1;
    }

    /// Sends the request to the route's default backend from here on; `false` if there is none or it has been asked.
    pub fn fall_back(&mut self) -> bool {
        let Some(fallback) = self.route.as_ref().and_then(|route| route.fallback.as_ref()) else { return false };
        if self.has_fallen_back {
            return false;
        }
        self.has_fallen_back = true;
        self.state.service = fallback.service.clone();
        self.state.service_port = fallback.port;
        self.upstream = fallback.upstream.clone();
        true
    }
}
