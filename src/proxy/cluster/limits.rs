//! Circuit breakers: how many requests, connections and repetitions a service has at once. What is more is refused at once,
//! so that a service that is slow does not make the gateway slow for all others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Cluster;
use crate::config::model::CircuitBreakers;
use crate::telemetry::metrics::ServiceLimit;

/// What a service has to do now.
#[derive(Default)]
pub(super) struct Load {
    requests: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
    /// With the number it was made for. A changed limit holds for new requests; those that have a place keep it.
    connections: Mutex<Option<(u32, Arc<Semaphore>)>>,
}

/// Which limit was reached; the names are labels of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Connections,
    Pending,
    Requests,
    Retries,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Pending => "pending",
            Limit::Requests => "requests",
            Limit::Retries => "retries",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place among the service's requests.
pub struct Admitted {
    cluster: Arc<Cluster>,
    _connection: Option<OwnedSemaphorePermit>,
}

impl Admitted {
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.cluster.load.requests.fetch_sub(1, Relaxed);
    }
}

/// A place among the service's repeated requests.
pub struct Retrying(Arc<Cluster>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.load.retries.fetch_sub(1, Relaxed);
    }
}

impl Cluster {
    /// A place for a request; one that needs a connection of its own may have to wait for it, up to `patience`.
    ///
    /// # Errors
    /// The limit that was reached.
    pub async fn admit(
        self: &Arc<Self>,
        limits: &CircuitBreakers,
        needs_connection: bool,
        patience: Duration,
    ) -> Result<Admitted, Limit> {
        if !enter(&self.load.requests, limits.max_requests) {
            return Err(self.overflow(Limit::Requests));
        }
        let mut admitted = Admitted { cluster: self.clone(), _connection: None };
        if let Some(max) = limits.max_connections.filter(|_| needs_connection) {
            admitted._connection = Some(self.connection(max, limits.max_pending, patience).await?);
        }
        Ok(admitted)
    }

    async fn connection(
        &self,
        max: u32,
        max_pending: Option<u32>,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit, Limit> {
        let places = {
            let mut connections = self.load.connections.lock();
            match connections.as_ref().filter(|(of, _)| *of == max) {
                Some((_, places)) => places.clone(),
                None => connections.insert((max, Arc::new(Semaphore::new(max as usize)))).1.clone(),
            }
        };
        if let Ok(permit) = places.clone().try_acquire_owned() {
            return Ok(permit);
        }
        if !enter(&self.load.pending, max_pending) {
            return Err(self.overflow(Limit::Pending));
        }
        let _waiting = Waiting(&self.load.pending);
        match tokio::time::timeout(patience, places.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed, so this is time running out.
            Ok(Err(_)) | Err(_) => Err(self.overflow(Limit::Connections)),
        }
    }

    /// A place for a repetition; `None` if there are enough. Without a limit nothing is refused.
    pub fn retry(self: &Arc<Self>, limits: &CircuitBreakers) -> Option<Retrying> {
        let budget = limits.retry_budget.map(|budget| {
            let share = f64::from(self.load.requests.load(Relaxed)) * budget.percent / 100.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u32 fits in one")]
            (share as u32).max(budget.min_concurrency)
        });
        if enter(&self.load.retries, budget.or(limits.max_retries)) {
            return Some(Retrying(self.clone()));
        }
        self.overflow(Limit::Retries);
        None
    }

    fn overflow(&self, limit: Limit) -> Limit {
        let label = ServiceLimit { service: self.service.to_string(), limit: limit.name() };
        self.metrics.upstream_overflow.get_or_create(&label).inc();
        limit
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counts one more, unless there are `max` already.
fn enter(counter: &AtomicU32, max: Option<u32>) -> bool {
    let before = counter.fetch_add(1, Relaxed);
    let may = max.is_none_or(|max| before < max);
    if !may {
        counter.fetch_sub(1, Relaxed);
    }
    may
}
