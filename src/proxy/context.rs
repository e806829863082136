//! Everything the proxy keeps about one request.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pingora_http::{RequestHeader, ResponseHeader};

use super::arm::Arm;
use super::balance;
use super::cluster::{Lease, Retrying};
use super::respond;
use super::route::RouteEntry;
use super::snapshot::Snapshot;
use super::upstream::Upstream;
use crate::config::model::HeaderControl;
use crate::llm::error::ErrorKind;
use crate::plugins::rules::Place;
use crate::plugins::{Plugin, Reply, RequestState};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::TraceContext;

/// Made when a request arrives; ends with its access log line. The snapshot is taken once, so a request never sees two
/// configurations.
pub struct Context {
    pub snapshot: Arc<Snapshot>,
    pub state: RequestState,
    pub route: Option<Arc<RouteEntry>>,
    pub upstream: Option<Arc<Upstream>>,
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
    /// From asking the upstream to its answer's head, in milliseconds.
    pub upstream_service_time: Option<u64>,
    /// A plugin's answer instead of the upstream's, on its way to the client.
    pub replacement: Option<(ResponseHeader, Bytes)>,
    metrics: Arc<Metrics>,
}

/// Counted here and not where the request is logged, so that a panic on the way does not leave it counted for ever.
impl Drop for Context {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
    }
}

impl Context {
    pub fn new(snapshot: Arc<Snapshot>, metrics: Arc<Metrics>) -> Context {
        metrics.requests_in_flight.inc();
        Context {
            metrics,
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
            unrouted: None,
            ran: Vec::new(),
            trace: None,
            method: http::Method::GET,
            path: String::new(),
            status: None,
            upstream_address: String::new(),
            tries: 0,
            asked_upstream: None,
            upstream_service_time: None,
            replacement: None,
        }
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
                let message = format!("Route \"{}\" has no destination with a weight above zero.", entry.route.name);
                return Err(respond::error(ErrorKind::NoUpstream, message, "no_destination"));
            }
        }
        self.arm = position;
        self.route = Some(entry.clone());
        Ok(())
    }

    /// What is changed in headers on the way to and from the upstream.
    pub fn header_control(&self) -> Option<&HeaderControl> {
        self.route.as_ref()?.arms.get(self.arm).map(|arm| &arm.header_control)
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
