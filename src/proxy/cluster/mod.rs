//! What is known of a service's endpoints from one request to the next: who is busy, failing, unwell or new, and how much the
//! service has to do altogether. It outlives configurations; what to make of it is in the policy of the configuration a
//! request runs under.
//!
//! `upstream` asks here for a [`Lease`] on an endpoint, and whoever makes the attempt tells the lease how it went. `endpoint`
//! is the state of one, `limits` the circuit breakers, `checks` asks endpoints how they are.

pub mod checks;
mod endpoint;
mod limits;
mod visited;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_error::{Error, ErrorType};

pub use self::endpoint::{Endpoint, Outcome};
use self::limits::Load;
pub use self::limits::{Admitted, Limit, Retrying};
pub use self::visited::Visited;
use super::balance::Balancer;
use crate::config::model::{OutlierDetection, TrafficPolicy};
use crate::telemetry::metrics::{ByService, Metrics};

/// How long a failure took, for whom asks which endpoint is fast. It fades within a minute.
const FAILURE_COUNTS_AS: Duration = Duration::from_secs(10);

/// The clusters of all services, by host and port.
pub struct Clusters {
    known: Mutex<HashMap<(String, u16), Arc<Cluster>>>,
    metrics: Arc<Metrics>,
}

impl Clusters {
    pub fn new(metrics: Arc<Metrics>) -> Clusters {
        Clusters { known: Mutex::default(), metrics }
    }

    pub fn get(&self, service: &str, port: u16) -> Arc<Cluster> {
        let fresh = || Arc::new(Cluster::new(service, self.metrics.clone()));
        self.known.lock().entry((service.to_owned(), port)).or_insert_with(fresh).clone()
    }

    /// Drops those that no configuration and no request uses any more.
    pub fn forget_unused(&self) {
        self.known.lock().retain(|_, cluster| Arc::strong_count(cluster) > 1);
    }
}

/// One port of a service.
pub struct Cluster {
    service: Arc<str>,
    members: ArcSwap<Members>,
    /// Held while members change or one is ejected.
    change: Mutex<()>,
    load: Load,
    /// Times are kept as milliseconds since then.
    began: Instant,
    metrics: Arc<Metrics>,
}

/// The addresses seen last, with their endpoints in the same order.
#[derive(Default)]
struct Members {
    addresses: Vec<SocketAddr>,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Cluster {
    pub fn new(service: &str, metrics: Arc<Metrics>) -> Cluster {
        Cluster {
            service: Arc::from(service),
            members: ArcSwap::default(),
            change: Mutex::default(),
            load: Load::default(),
            began: Instant::now(),
            metrics,
        }
    }

    /// An endpoint for the next attempt: one that is well, unless too few are, and none that was `visited` for this request if there
    /// is another: one that is left out only if none of those answers at all.
    pub fn pick(
        &self,
        addresses: &[SocketAddr],
        balancer: &Balancer,
        key: Option<u64>,
        policy: &TrafficPolicy,
        visited: &Visited,
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        let members = self.members(addresses, now);
        let now = self.millis(now);
        let mut usable = self.usable(&members.endpoints, policy, now);
        let is_fresh = |endpoint: &Arc<Endpoint>| !visited.contains(endpoint.address);
        if visited.is_empty() {
            // The first attempt.
        } else if usable.iter().any(is_fresh) {
            usable.to_mut().retain(is_fresh);
        } else if !visited.has_answer() && members.endpoints.iter().any(is_fresh) {
            // One that is left out may be well again; those that gave no answer are not.
            usable = Cow::Owned(members.endpoints.iter().filter(|endpoint| is_fresh(endpoint)).cloned().collect());
        }
        match &policy.slow_start {
            None => balancer.pick(&usable, key, now, None),
            Some(slow_start) => {
                let share = |endpoint: &Endpoint| endpoint.share(slow_start, now);
                balancer.pick(&usable, key, now, Some(&share))
            }
        }
    }

    fn usable<'a>(&self, all: &'a [Arc<Endpoint>], policy: &TrafficPolicy, now: u64) -> Cow<'a, [Arc<Endpoint>]> {
        if all.iter().all(|endpoint| endpoint.is_usable(now)) {
            return Cow::Borrowed(all);
        }
        let usable: Vec<_> = all.iter().filter(|endpoint| endpoint.is_usable(now)).cloned().collect();
        // Where most seem unwell, sparing them would only bring the others down, too; Envoy calls it panic.
        if usable.is_empty() || usable.len() * 100 < all.len() * policy.min_health_percent as usize {
            self.metrics.upstream_panics.get_or_create(&self.label()).inc();
            return Cow::Borrowed(all);
        }
        Cow::Owned(usable)
    }

    /// Notes how an attempt went, and ejects the endpoint when it was one failure too many.
    fn report(&self, endpoint: &Endpoint, outcome: Outcome, policy: &TrafficPolicy, now: Instant) {
        let Some(outlier) = &policy.outlier else { return };
        if !endpoint.count(outcome, outlier) {
            return;
        }
        let now = self.millis(now);
        let _deciding = self.change.lock();
        if self.may_eject(endpoint, outlier, now) {
            let spell = endpoint.eject(outlier, now);
            self.metrics.upstream_ejections.get_or_create(&self.label()).inc();
            tracing::warn!(
                service = %self.service, address = %endpoint.address, for_ms = spell,
                "An endpoint keeps failing and is left out for a while"
            );
        }
    }

    fn may_eject(&self, endpoint: &Endpoint, outlier: &OutlierDetection, now: u64) -> bool {
        let members = self.members.load();
        let n = members.endpoints.len();
        let n_ejected = members.endpoints.iter().filter(|member| member.is_ejected(now)).count();
        let within = (n_ejected + 1) * 100 <= n * outlier.max_ejection_percent as usize;
        // Whose service has no other endpoint is asked all the same; it would only be said to be out.
        n > 1 && !endpoint.is_ejected(now) && (within || (n_ejected == 0 && outlier.max_ejection_percent > 0))
    }

    /// The members at these addresses; what is known of those that stay is kept.
    fn members(&self, addresses: &[SocketAddr], now: Instant) -> Arc<Members> {
        let members = self.members.load();
        if members.addresses == addresses {
            return arc_swap::Guard::into_inner(members);
        }
        let _changing = self.change.lock();
        let before = self.members.load();
        let known: HashMap<SocketAddr, &Arc<Endpoint>> =
            before.endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        let now = self.millis(now);
        let fresh = |address: SocketAddr| Arc::new(Endpoint::new(address, now));
        let endpoints = addresses
            .iter()
            .map(|address| known.get(address).map_or_else(|| fresh(*address), |known| Arc::clone(known)))
            .collect();
        let members = Arc::new(Members { addresses: addresses.to_vec(), endpoints });
        self.members.store(members.clone());
        members
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    fn label(&self) -> ByService {
        ByService { service: self.service.to_string() }
    }
}

/// An attempt in progress: counted at its service and endpoint until it is dropped.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    policy: Arc<TrafficPolicy>,
    began: Instant,
    is_reported: bool,
    /// The name that the endpoint's certificate is to have is the client's choice.
    pub is_named_by_client: bool,
    admitted: Admitted,
}

impl Lease {
    pub fn new(admitted: Admitted, endpoint: Arc<Endpoint>, policy: Arc<TrafficPolicy>) -> Lease {
        endpoint.enter();
        Lease { endpoint, policy, began: Instant::now(), is_reported: false, is_named_by_client: false, admitted }
    }

    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The head of an answer is there. Only the first report of an attempt counts.
    pub fn answered(&mut self, status: u16) {
        let now = Instant::now();
        if !self.is_reported {
            let cluster = self.admitted.cluster();
            self.endpoint.took(now.saturating_duration_since(self.began), cluster.millis(now));
        }
        self.report(Outcome::Answered(status), now);
    }

    /// There is no connection. A handshake that the other side ends over a name of the client's, or whose certificate is another
    /// name's, says nothing about the endpoint: a stranger could have it left out.
    pub fn not_connected(&mut self, error: &Error) {
        let is_of_handshake = matches!(error.etype(), ErrorType::InvalidCert | ErrorType::TLSHandshakeFailure);
        if !(is_of_handshake && self.is_named_by_client && is_about_name(error)) {
            self.failed();
        }
    }

    /// There is no connection, or no answer on it.
    pub fn failed(&mut self) {
        let now = Instant::now();
        if !self.is_reported {
            // Whoever refuses at once is not the fastest.
            let took = now.saturating_duration_since(self.began).max(FAILURE_COUNTS_AS);
            self.endpoint.took(took, self.admitted.cluster().millis(now));
        }
        self.report(Outcome::Failed, now);
    }

    fn report(&mut self, outcome: Outcome, now: Instant) {
        if !std::mem::replace(&mut self.is_reported, true) {
            self.admitted.cluster().report(&self.endpoint, outcome, &self.policy, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.leave();
    }
}

/// As rustls tells it: an alert of the server's, or a certificate that is not valid for the name.
fn is_about_name(error: &Error) -> bool {
    let told = error.to_string();
    ["fatal alert", "not valid for name", "NotValidForName"].iter().any(|sign| told.contains(sign))
}

#[cfg(test)]
mod tests;
