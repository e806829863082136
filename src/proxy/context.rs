//! Everything the proxy keeps about one request.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pingora_http::{RequestHeader, ResponseHeader};

use super::respond;
use super::route::RouteEntry;
use super::snapshot::Snapshot;
use super::upstream::Upstream;
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
        let Some(destination) = entry.destination(self.state.id.sample("destination")) else {
            let message = format!("Route \"{}\" has no destination with a weight above zero.", entry.name);
            return Err(respond::error(ErrorKind::NoUpstream, message, "no_destination"));
        };
        self.state.route = entry.name.clone();
        self.state.service = destination.service.clone();
        self.state.service_port = destination.port;
        self.upstream = destination.upstream.clone();
        self.route = Some(entry.clone());
        Ok(())
    }
}
