//! ZooKeeper: every folder is read with a watch on it, so that a change arrives at once (Higress `registry/zookeeper/watcher.go`).
//!
//! Dubbo services are below `/dubbo`: the instances are the names in `<interface>/providers`, and the service is
//! `providers:<interface>:<version>:<group>`. Spring Cloud services are below `/services` and the configured paths: the instances
//! are the nodes in `<service>`, and the service is `<service>.<path>` with `/` as `-`. Higress puts `.zookeeper` behind these
//! names where it generates the service, and its documents leave it out; both names lead there.
//!
//! Unlike Higress, changes of an instance's own data count, an instance whose `instance_status` is not `UP` gets nothing, and a
//! service that loses its last instance gets no more requests.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use zookeeper_client::{Client, Error, EventType, OneshotWatcher};

use super::fetch::authority;
use super::{Instance, Listed, Listing};
use crate::config::model::Registry;

/// As long as Higress has it. A server that says nothing for two fifths of it is given up.
const SESSION: Duration = Duration::from_secs(10);

/// Nodes read at a time.
const N_AT_ONCE: usize = 16;

/// What Dubbo keeps beside its interfaces.
const NO_SERVICES: [&str; 3] = ["config", "mapping", "metadata"];

/// Ends with a failure; one that the client can mend itself (a lost connection, a session that is still known) is none.
pub(super) async fn follow(
    registry: &Registry,
    paths: &[String],
    publish: &(dyn Fn(Listing) + Send + Sync),
) -> Result<Infallible, String> {
    let server = authority(registry);
    let connector = Client::connector().with_session_timeout(SESSION).with_fail_eagerly();
    let client = connector.connect(&server).await.map_err(|error| format!("{server}: {error}"))?;
    let dubbo = Root { path: "/dubbo", layout: Layout::Dubbo };
    let spring = std::iter::once("/services").chain(paths.iter().map(String::as_str));
    let roots: Vec<Root<'_>> =
        std::iter::once(dubbo).chain(spring.map(|path| Root { path, layout: Layout::SpringCloud })).collect();
    Reader { client: &client, roots: &roots }.follow(publish).await
}

#[derive(Clone, Copy)]
enum Layout {
    Dubbo,
    SpringCloud,
}

/// A folder of services.
struct Root<'a> {
    /// Empty: the whole tree.
    path: &'a str,
    layout: Layout,
}

impl Root<'_> {
    /// Where the instances of one of its services are.
    fn folder(&self, child: &str) -> String {
        match self.layout {
            Layout::Dubbo => format!("{}/{child}/providers", self.path),
            Layout::SpringCloud => format!("{}/{child}", self.path),
        }
    }
}

/// Instances by the host of their service.
type Found = BTreeMap<String, Vec<Instance>>;

/// A service that is being read.
struct Followed {
    root: usize,
    child: String,
    /// Tells it from one of the same name that is gone.
    turn: u64,
    /// `None` until the first answer.
    found: Option<Found>,
}

/// An answer that has arrived, with what says that it is out of date.
enum News {
    Root { root: usize, children: Vec<String>, watches: Watches },
    Service { folder: String, turn: u64, found: Found, watches: Watches },
}

type Watches = Vec<OneshotWatcher>;
type Pending<'a> = Pin<Box<dyn Future<Output = Result<News, String>> + Send + 'a>>;

#[derive(Clone, Copy)]
struct Reader<'a> {
    client: &'a Client,
    roots: &'a [Root<'a>],
}

impl<'a> Reader<'a> {
    async fn follow(self, publish: &(dyn Fn(Listing) + Send + Sync)) -> Result<Infallible, String> {
        let mut services: BTreeMap<String, Followed> = BTreeMap::new();
        let mut heard = BTreeSet::new();
        let mut published = None;
        let mut turn = 0;
        let mut pending: FuturesUnordered<Pending<'a>> = FuturesUnordered::new();
        pending.extend((0..self.roots.len()).map(|root| Box::pin(self.root(root, Watches::new())) as Pending<'a>));
        while let Some(news) = pending.next().await {
            match news? {
                News::Root { root, children, watches } => {
                    services.retain(|_, followed| followed.root != root || children.contains(&followed.child));
                    for child in children {
                        let folder = self.roots[root].folder(&child);
                        services.entry(folder).or_insert_with(|| {
                            turn += 1;
                            pending.push(Box::pin(self.service(root, child.clone(), turn, Watches::new())));
                            Followed { root, child, turn, found: None }
                        });
                    }
                    heard.insert(root);
                    pending.push(Box::pin(self.root(root, watches)));
                }
                News::Service { folder, turn, mut found, watches } => {
                    // A service that is gone is not read again.
                    let Some(followed) = services.get_mut(&folder).filter(|followed| followed.turn == turn) else {
                        continue;
                    };
                    // One that has lost its instances is still a service.
                    for host in followed.found.take().into_iter().flat_map(Found::into_keys) {
                        found.entry(host).or_default();
                    }
                    followed.found = Some(found);
                    pending.push(Box::pin(self.service(followed.root, followed.child.clone(), turn, watches)));
                }
            }
            if heard.len() < self.roots.len() {
                continue;
            }
            if let Some(listing) = listing(&services)
                && published.as_ref() != Some(&listing)
            {
                publish(listing.clone());
                published = Some(listing);
            }
        }
        Err("no folder is left to read".to_owned())
    }

    /// The services of a folder, once what is known of them is out of date.
    async fn root(self, root: usize, watches: Watches) -> Result<News, String> {
        outdated(watches).await?;
        let path = Some(self.roots[root].path).filter(|path| !path.is_empty()).unwrap_or("/");
        let (mut children, watch) = self.children(path).await?;
        children.retain(|child| !NO_SERVICES.contains(&child.as_str()));
        Ok(News::Root { root, children, watches: vec![watch] })
    }

    /// The instances of a service, once what is known of them is out of date.
    async fn service(self, root: usize, child: String, turn: u64, watches: Watches) -> Result<News, String> {
        outdated(watches).await?;
        let root = &self.roots[root];
        let folder = root.folder(&child);
        let (names, watch) = self.children(&folder).await?;
        let mut watches = vec![watch];
        let mut found = Found::new();
        match root.layout {
            Layout::Dubbo => {
                for (host, instance) in names.iter().filter_map(|name| provider(&child, name)) {
                    found.entry(host).or_default().push(instance);
                }
            }
            Layout::SpringCloud => {
                let read = stream::iter(names).map(|name| self.data(format!("{folder}/{name}"))).buffered(N_AT_ONCE);
                let read: Vec<_> = read.try_collect().await?;
                let instances = found.entry(spring_host(root.path, &child)).or_default();
                for (data, watch) in read.into_iter().flatten() {
                    instances.extend(instance(&data));
                    watches.push(watch);
                }
            }
        }
        for instances in found.values_mut() {
            instances.sort_unstable();
            instances.dedup();
        }
        Ok(News::Service { folder, turn, found, watches })
    }

    /// The names in a folder; none if there is no such folder yet.
    async fn children(self, path: &str) -> Result<(Vec<String>, OneshotWatcher), String> {
        loop {
            match self.client.list_and_watch_children(path).await {
                Ok(found) => return Ok(found),
                Err(Error::NoNode) => {}
                Err(error) => return Err(format!("{path}: {error}")),
            }
            let (stat, watch) =
                self.client.check_and_watch_stat(path).await.map_err(|error| format!("{path}: {error}"))?;
            // Otherwise it came in between.
            if stat.is_none() {
                return Ok((Vec::new(), watch));
            }
        }
    }

    /// What a node says; nothing if it has gone meanwhile.
    async fn data(self, path: String) -> Result<Option<(Vec<u8>, OneshotWatcher)>, String> {
        match self.client.get_and_watch_data(&path).await {
            Ok((data, _, watch)) => Ok(Some((data, watch))),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }
}

/// Waits for the first change of what is watched; nothing watched is nothing known.
async fn outdated(watches: Watches) -> Result<(), String> {
    let mut changes: FuturesUnordered<_> = watches.into_iter().map(OneshotWatcher::changed).collect();
    match changes.next().await {
        Some(event) if event.event_type == EventType::Session => {
            Err(format!("the session is over ({})", event.session_state))
        }
        _ => Ok(()),
    }
}

/// `None` while a service has not been read: one publication is cheaper than one for each.
fn listing(services: &BTreeMap<String, Followed>) -> Option<Listing> {
    let mut listing = Listing::new();
    for followed in services.values() {
        for (host, instances) in followed.found.as_ref()? {
            let listed = Listed { name: host.clone(), instances: instances.clone(), is_stale: false };
            listing.insert(format!("{host}.zookeeper"), listed.clone());
            listing.insert(host.clone(), listed);
        }
    }
    Some(listing)
}

/// Service and instance of `dubbo://<address>/<interface>?<parameters>`, percent-encoded as it is the name of a node.
fn provider(interface: &str, node: &str) -> Option<(String, Instance)> {
    let url = percent_decode_str(node).decode_utf8().ok()?;
    let (place, query) = url.split_once('?').unwrap_or((&url, ""));
    let address = place.strip_prefix("dubbo://")?.split('/').next()?;
    let parameter = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let (version, group) = (parameter("version").unwrap_or("0.0.0"), parameter("group").unwrap_or_default());
    let (ip, port) = address.rsplit_once(':')?;
    let instance = Instance::new(ip.trim_matches(['[', ']']), port.parse().ok()?, "dubbo")?;
    Some((format!("providers:{interface}:{version}:{group}"), instance))
}

fn spring_host(path: &str, service: &str) -> String {
    match path.strip_prefix('/') {
        None => service.to_owned(),
        Some(path) => format!("{service}.{}", path.replace('/', "-")),
    }
}

/// What Curator's service discovery writes, with Spring Cloud's metadata in it.
fn instance(data: &[u8]) -> Option<Instance> {
    let written: Value = serde_json::from_slice(data).ok()?;
    let metadata = &written["payload"]["metadata"];
    if metadata["instance_status"].as_str().is_some_and(|status| status != "UP") {
        return None;
    }
    let port = u16::try_from(written["port"].as_u64()?).ok()?;
    Instance::new(written["address"].as_str()?, port, metadata["protocol"].as_str().unwrap_or_default())
}

#[cfg(test)]
pub mod mock;
#[cfg(test)]
mod tests;
