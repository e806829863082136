//! Active health checks: one task for each port of a service whose policy asks for them. It reads what to do from the serving
//! configuration each time, so a changed check is taken up without a second task beside the first, and a task whose service
//! is gone ends.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use http::header::{HOST, USER_AGENT};
use parking_lot::Mutex;
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;
use tokio::net::TcpStream;

use super::{Cluster, Clusters};
use crate::base::tasks::Tasks;
use crate::config::model::{HealthCheck, Probe};
use crate::proxy::asked::head_for;
use crate::proxy::resolve::Resolver;
use crate::proxy::snapshot::Snapshot;
use crate::proxy::upstream::Upstream;
use crate::telemetry::metrics::{ByService, CheckResult, Metrics};

/// Whom checks say they are.
const AGENT: &str = "weirgate-health-check";

pub struct Checks {
    snapshot: Arc<ArcSwap<Snapshot>>,
    pub resolver: Arc<Resolver>,
    pub clusters: Arc<Clusters>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    connector: Connector,
    /// Host and port of what is being checked.
    running: Mutex<HashSet<(String, u16)>>,
}

impl Checks {
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        resolver: Arc<Resolver>,
        clusters: Arc<Clusters>,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Arc<Checks> {
        let (connector, running) = (Connector::new(None), Mutex::default());
        Arc::new(Checks { snapshot, resolver, clusters, metrics, tasks, connector, running })
    }

    /// Starts what the serving configuration wants checked and nobody checks, and forgets what no service has any more. Called after each swap.
    pub fn follow(self: &Arc<Self>) {
        let snapshot = self.snapshot.load_full();
        let mut running = self.running.lock();
        for upstream in snapshot.upstreams().filter(|upstream| upstream.policy().health_check.is_some()) {
            let key = (upstream.service.to_string(), upstream.port);
            if running.insert(key.clone()) {
                self.tasks.spawn_until_stopped(self.clone().check(key, upstream.cluster().clone()));
            }
        }
        self.clusters.forget_unused();
    }

    async fn check(self: Arc<Self>, key: (String, u16), cluster: Arc<Cluster>) {
        while let Some((upstream, check)) = self.wanted(&key) {
            self.round(&upstream, &cluster, &check).await;
            tokio::time::sleep(check.interval).await;
        }
        cluster.unchecked();
        self.tell(&cluster);
    }

    /// What to check, and how; takes the task off the list if there is nothing. Under the lock of the list, so that a
    /// configuration that wants it again finds the task either on the list and staying, or off it.
    fn wanted(&self, key: &(String, u16)) -> Option<(Arc<Upstream>, HealthCheck)> {
        let mut running = self.running.lock();
        let upstream = self.snapshot.load().upstream(&key.0, Some(key.1)).cloned();
        let found = upstream.and_then(|upstream| {
            let check = upstream.policy().health_check.clone()?;
            Some((upstream, check))
        });
        if found.is_none() {
            running.remove(key);
        }
        found
    }

    async fn round(&self, upstream: &Upstream, cluster: &Cluster, check: &HealthCheck) {
        let addresses = match upstream.addresses(&self.resolver).await {
            Ok(addresses) => addresses,
            Err(error) => return tracing::debug!(service = %upstream.service, error, "Nothing to check"),
        };
        let results = join_all(addresses.iter().map(|address| async {
            let probed = tokio::time::timeout(check.timeout, self.probe(upstream, *address, &check.probe)).await;
            probed.unwrap_or_else(|_| Err(format!("no answer within {} ms", check.timeout.as_millis())))
        }));
        for (address, result) in addresses.iter().zip(results.await) {
            let label = CheckResult {
                service: upstream.service.to_string(),
                result: ["failed", "passed"][usize::from(result.is_ok())],
            };
            self.metrics.upstream_checks.get_or_create(&label).inc();
            let changed = cluster.checked(&addresses, *address, result.is_ok(), check, Instant::now());
            let service = &upstream.service;
            match (changed, &result) {
                (Some(false), Err(error)) => tracing::warn!(%service, %address, error, "An endpoint is unwell"),
                (Some(true), _) => tracing::info!(%service, %address, "An endpoint is well again"),
                _ => {}
            }
        }
        self.tell(cluster);
    }

    fn tell(&self, cluster: &Cluster) {
        let label = ByService { service: cluster.service.to_string() };
        self.metrics.upstream_unwell.get_or_create(&label).set(i64::try_from(cluster.n_unwell()).unwrap_or(i64::MAX));
    }

    async fn probe(&self, upstream: &Upstream, address: SocketAddr, probe: &Probe) -> Result<(), String> {
        let Probe::Http { path, host, expected } = probe else {
            return TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string());
        };
        let host = host.clone().or_else(|| upstream.dns_authority()).unwrap_or_else(|| address.to_string());
        let described = |error: Box<pingora_error::Error>| error.to_string();
        let mut head = RequestHeader::build("GET", path.as_bytes(), Some(2)).map_err(described)?;
        head.insert_header(HOST, &host).map_err(described)?;
        head.insert_header(USER_AGENT, AGENT).map_err(described)?;
        let peer = upstream.peer_at(address, &host, &self.snapshot.load().limits.timeouts);
        // Over HTTP/1.1 each on a connection of its own: that one can be made is part of what is asked.
        let (mut session, _) = self.connector.get_http_session(&peer).await.map_err(described)?;
        let head = head_for(&session, &peer, head);
        session.write_request_header(head).await.map_err(described)?;
        session.finish_request_body().await.map_err(described)?;
        session.read_response_header().await.map_err(described)?;
        let status = session.response_header().map(|head| head.status.as_u16()).unwrap_or_default();
        session.shutdown().await;
        match expected.iter().any(|range| (range.start..=range.end).contains(&status)) {
            true => Ok(()),
            false => Err(format!("status {status}")),
        }
    }
}

impl Cluster {
    /// Takes the result of a check of one of the addresses.
    fn checked(
        &self,
        addresses: &[SocketAddr],
        address: SocketAddr,
        is_good: bool,
        check: &HealthCheck,
        now: Instant,
    ) -> Option<bool> {
        let members = self.members(addresses, now);
        let endpoint = members.endpoints.iter().find(|endpoint| endpoint.address == address)?;
        endpoint.checked(is_good, check, self.millis(now))
    }

    fn unchecked(&self) {
        self.members.load().endpoints.iter().for_each(|endpoint| endpoint.unchecked());
    }

    fn n_unwell(&self) -> usize {
        self.members.load().endpoints.iter().filter(|endpoint| endpoint.is_unwell()).count()
    }
}
