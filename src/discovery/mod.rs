//! Registries: who runs where, asked while the gateway serves.
//!
//! [`Directory`] keeps one watcher per registry of the configuration and merges what they say. `server` starts it, compiles
//! its services into the next configuration and hands new addresses to the proxy. Addresses that change need no new
//! configuration; a service that comes, goes, or changes its port or protocol does.
//!
//! A registry that fails keeps what it said last: stale addresses are better than none. So does one that lists no instance where there were some:
//! in Higress nothing is taken away by an answer without instances, and whoever restarts a registry would lose every service for a while. This module opens no connection of
//! its own (it asks over [`Fetch`]; only ZooKeeper, which has a protocol of its own, is asked by its client library) and knows
//! nothing of routes or requests.

mod consul;
mod directory;
mod eureka;
mod fetch;
mod nacos;
#[cfg(test)]
mod testing;
mod watch;
mod zookeeper;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use parking_lot::Mutex;
use serde::Serialize;

use crate::config::model::Registry;

pub use directory::Directory;
pub use fetch::{Ask, Fetch, Fetched};

/// Where news go. Called with the directory locked: implementations take note and return.
pub trait Sink: Send + Sync {
    /// The addresses of a service from now on.
    fn addresses(&self, service: &str, port: u16, addresses: Vec<SocketAddr>);

    /// The services are no longer those that were compiled.
    fn services_changed(&self);

    /// A registry answers or fails; `None`: it is no longer asked.
    fn registry(&self, registry: &Registry, is_up: Option<bool>);
}

/// How a registry does, for those who look after it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegistryStatus {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `None` until it has answered.
    pub last_answer_secs_ago: Option<u64>,
    /// Why it cannot be asked now.
    pub error: Option<String>,
    pub services: usize,
    /// Those of which it lists no instance any more; the last ones stay in use.
    pub kept: Vec<String>,
}

/// What a registry lists, by the host under which routes know the service.
type Listing = std::collections::BTreeMap<String, Listed>;

/// One service as a registry lists it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Listed {
    /// The registry's own name for it.
    name: String,
    /// Those that may get requests; there may be none at the moment.
    instances: Vec<Instance>,
    /// The registry would not say: what it said last holds.
    is_stale: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Instance {
    address: SocketAddr,
    /// Empty unless the instance says one.
    protocol: String,
}

/// Says once of each name that it gets no requests.
fn warn_of_name(name: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    /// Names come from others.
    const MOST_TOLD: usize = 1000;
    let mut told = TOLD.lock();
    if told.len() < MOST_TOLD && told.insert(name.to_owned()) {
        tracing::warn!(
            instance = name,
            "An instance in a registry has a name in the place of its address and gets no requests"
        );
    }
}

impl Instance {
    /// `None` if this is no address: registries may hold host names, which would have to be resolved first.
    fn new(ip: &str, port: u16, protocol: &str) -> Option<Instance> {
        let Ok(ip) = ip.parse() else {
            warn_of_name(ip);
            return None;
        };
        (port > 0).then(|| Instance { address: SocketAddr::new(ip, port), protocol: protocol.to_owned() })
    }
}
