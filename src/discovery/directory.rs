//! All registries together: who is watched, what they said, and what of it is news.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::watch::watch;
use super::{Fetch, Listed, Listing, RegistryStatus, Sink};
use crate::base::tasks::Tasks;
use crate::config::Discovered;
use crate::config::model::{Endpoints, Protocol, Registry, Service, ServicePort, TrafficPolicy, UpstreamTls};

/// What registries say, and the watchers that ask them.
pub struct Directory {
    fetch: Arc<dyn Fetch>,
    sink: Arc<dyn Sink>,
    tasks: Tasks,
    state: Mutex<State>,
    heard: Notify,
}

#[derive(Default)]
struct State {
    /// In the order of the configuration: of two registries with the same service the first counts.
    watched: Vec<Watched>,
    merged: BTreeMap<String, Known>,
}

struct Watched {
    registry: Arc<Registry>,
    stop: CancellationToken,
    /// `None` until the first answer.
    known: Option<BTreeMap<String, Known>>,
    /// When this watcher heard of it last.
    answered: Option<Instant>,
    /// Why it cannot be asked now.
    error: Option<String>,
    /// Services without an instance any more.
    kept: BTreeSet<String>,
}

/// A service with everything about it that is compiled, and its addresses.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    service: Service,
    addresses: Vec<SocketAddr>,
}

impl Known {
    fn port(&self) -> u16 {
        self.service.ports.first().map_or(0, |port| port.number)
    }
}

impl Directory {
    pub fn new(fetch: Arc<dyn Fetch>, sink: Arc<dyn Sink>, tasks: Tasks) -> Directory {
        Directory { fetch, sink, tasks, state: Mutex::default(), heard: Notify::new() }
    }

    /// Watches these registries from now on: those that are new or different are asked, those that are gone are not.
    pub fn follow(self: &Arc<Self>, registries: &[Registry]) {
        let mut state = self.state.lock();
        let mut before = std::mem::take(&mut state.watched);
        for registry in registries {
            let key = registry.key();
            let old = before.iter().position(|watched| watched.registry.key() == key).map(|at| before.swap_remove(at));
            match old {
                Some(watched) if *watched.registry == *registry => state.watched.push(watched),
                old => {
                    // What the registry said before the change stays until the new watcher knows better.
                    let known = old.and_then(|old| {
                        old.stop.cancel();
                        old.known
                    });
                    let (registry, stop) = (Arc::new(registry.clone()), CancellationToken::new());
                    self.start(registry.clone(), stop.clone());
                    let (answered, error, kept) = (None, None, BTreeSet::new());
                    state.watched.push(Watched { registry, stop, known, answered, error, kept });
                }
            }
        }
        for gone in before {
            gone.stop.cancel();
            self.sink.registry(&gone.registry, None);
        }
        self.settle(&mut state, false);
    }

    /// What is known now, for the compiler.
    pub fn discovered(&self) -> Discovered {
        let state = self.state.lock();
        let heard = state.watched.iter().filter(|watched| watched.known.is_some());
        Discovered {
            services: state.merged.values().map(|known| known.service.clone()).collect(),
            heard: heard.map(|watched| watched.registry.key()).collect(),
        }
    }

    /// How each registry does, in the order of the configuration.
    pub fn status(&self) -> Vec<RegistryStatus> {
        let state = self.state.lock();
        let of = |watched: &Watched| RegistryStatus {
            name: watched.registry.name.clone(),
            kind: watched.registry.kind.name(),
            last_answer_secs_ago: watched.answered.map(|at| at.elapsed().as_secs()),
            error: watched.error.clone(),
            services: watched.known.as_ref().map_or(0, BTreeMap::len),
            kept: watched.kept.iter().cloned().collect(),
        };
        state.watched.iter().map(of).collect()
    }

    /// Whether a registry has yet to answer.
    pub fn is_partial(&self) -> bool {
        self.state.lock().watched.iter().any(|watched| watched.known.is_none())
    }

    /// Waits until every registry has answered once, but no longer than `patience`.
    pub async fn first_answers(&self, patience: Duration) {
        let all = async {
            loop {
                let mut heard = std::pin::pin!(self.heard.notified());
                // From here on no answer is missed.
                heard.as_mut().enable();
                if !self.is_partial() {
                    break;
                }
                heard.await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("Not every registry has answered; their services follow when they do");
        }
    }

    fn start(self: &Arc<Self>, registry: Arc<Registry>, stop: CancellationToken) {
        let own = self.clone();
        self.tasks.spawn_until_stopped(async move {
            let publish = |listing| own.publish(&registry, listing);
            let failed = |error| own.failed(&registry, error);
            tokio::select! {
                () = stop.cancelled() => {}
                () = watch(&registry, &*own.fetch, &publish, &failed) => {}
            }
        });
    }

    fn publish(&self, registry: &Arc<Registry>, listing: Listing) {
        let mut state = self.state.lock();
        // A watcher that was stopped a moment ago has nothing to say any more.
        let Some(watched) = state.watched.iter_mut().find(|watched| Arc::ptr_eq(&watched.registry, registry)) else {
            return;
        };
        let is_first = watched.known.is_none();
        let mut before = watched.known.take().unwrap_or_default();
        // What was said while the registry was configured otherwise is no reason to go on with it.
        let may_keep = watched.answered.is_some();
        let mut services = BTreeMap::new();
        for (host, listed) in listing {
            let old = before.remove(&host);
            if let Some(known) = known(registry, &host, &listed, old.as_ref()) {
                services.insert(host, known);
            } else if let Some(old) = old {
                before.insert(host, old);
            }
        }
        let kept: BTreeSet<String> = before.keys().filter(|_| may_keep).cloned().collect();
        if may_keep {
            services.append(&mut before);
        }
        for service in kept.difference(&watched.kept) {
            tracing::warn!(
                registry = registry.name,
                service,
                "A registry lists no instance of a service any more; the last ones stay in use"
            );
        }
        watched.known = Some(services);
        watched.kept = kept;
        watched.answered = Some(Instant::now());
        watched.error = None;
        self.sink.registry(registry, Some(true));
        self.settle(&mut state, is_first);
        drop(state);
        self.heard.notify_waiters();
    }

    fn failed(&self, registry: &Arc<Registry>, error: String) {
        let mut state = self.state.lock();
        let watched = state.watched.iter_mut().find(|watched| Arc::ptr_eq(&watched.registry, registry));
        let Some(watched) = watched else { return };
        watched.error = Some(error);
        self.sink.registry(registry, Some(false));
    }

    /// Merges what all say and tells what is new in it.
    fn settle(&self, state: &mut State, mut is_changed: bool) {
        let mut merged: BTreeMap<String, Known> = BTreeMap::new();
        for (host, known) in state.watched.iter().filter_map(|watched| watched.known.as_ref()).flatten() {
            merged.entry(host.clone()).or_insert_with(|| known.clone());
        }
        for (host, known) in &merged {
            let before = state.merged.get(host);
            is_changed |= before.is_none_or(|before| before.service != known.service);
            if before != Some(known) {
                self.sink.addresses(host, known.port(), known.addresses.clone());
                if let Some(before) = before.filter(|before| before.port() != known.port()) {
                    // The configuration that knows the old port goes on until the next one is there.
                    self.sink.addresses(host, before.port(), known.addresses.clone());
                }
            }
        }
        for (host, gone) in state.merged.iter().filter(|(host, _)| !merged.contains_key(*host)) {
            is_changed = true;
            self.sink.addresses(host, gone.port(), Vec::new());
        }
        state.merged = merged;
        if is_changed {
            self.sink.services_changed();
        }
    }
}

/// What a listed service means; `None` without an instance.
fn known(registry: &Registry, host: &str, listed: &Listed, before: Option<&Known>) -> Option<Known> {
    if listed.is_stale {
        return before.cloned();
    }
    let addresses: Vec<SocketAddr> = listed.instances.iter().map(|instance| instance.address).collect();
    let first = listed.instances.first()?;
    let ports = || addresses.iter().map(SocketAddr::port);
    let own_port = before.map(Known::port).filter(|port| ports().any(|other| other == *port)).or_else(|| ports().min());
    let number = registry.virtual_ports.of(&listed.name).or(own_port)?;
    // What Higress does not know either is taken for HTTP.
    let (protocol, is_tls) = Protocol::parse(&first.protocol).unwrap_or((Protocol::Http1, false));
    let port = ServicePort { number, name: None, protocol, endpoints: Endpoints::Discovered, traffic: None };
    let service = Service {
        host: host.to_owned(),
        origin: registry.origin.clone(),
        ports: vec![port],
        tls: is_tls.then_some(UpstreamTls { sni: None }),
        proxy: None,
        traffic: TrafficPolicy::default(),
    };
    Some(Known { service, addresses })
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
