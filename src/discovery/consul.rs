//! Consul: blocking queries, one for the catalogue and one for each service, so that a change arrives at once.
//! `<service>.<datacenter>.consul`, with `_` written as `-` (Higress `registry/consul/watcher.go`).
//!
//! Unlike Higress, services that come are noticed at once too (it asks every 30 s), and an instance without an address of its own
//! has that of its node.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::fetch::{self, Ask};
use super::{Fetch, Instance, Listed, Listing};
use crate::base::secret::Secret;
use crate::config::model::Registry;

/// How long Consul may hold an answer back, and what it adds to that at most (a sixteenth), with a margin. A server that hangs is noticed
/// after that.
const WAIT: Duration = Duration::from_secs(55);
const TIMEOUT: Duration = Duration::from_secs(70);

/// Between two questions where the answer had no index to wait on.
const WITHOUT_INDEX: Duration = Duration::from_secs(5);

/// An answer to a blocking query that came at once and says what was known: somebody on the way does not know such queries.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Services whose questions wait at the server, each on a connection of its own. Consul gives a client 200; the other services are asked
/// now and then.
const MOST_WAITING: usize = 100;

/// After a question about one service that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

pub(super) struct Query<'a> {
    pub registry: &'a Registry,
    pub fetch: &'a dyn Fetch,
    pub datacenter: &'a str,
    pub tag: Option<&'a str>,
    pub token: Option<&'a Secret>,
}

/// An answer that has arrived.
enum News {
    Catalogue {
        names: Vec<String>,
        index: u64,
    },
    Service {
        name: String,
        instances: Vec<Instance>,
        index: u64,
    },
    /// The registry would not say. It has been reported, and some time has passed.
    Failed {
        name: String,
        index: Option<u64>,
    },
}

/// What is known of a service.
#[derive(Default)]
struct Known {
    /// `None` until its first answer.
    instances: Option<Vec<Instance>>,
    has_failed: bool,
    /// Asked now and then.
    is_polled: bool,
}

type Pending<'a> = Pin<Box<dyn Future<Output = Result<News, String>> + Send + 'a>>;

impl<'a> Query<'a> {
    pub async fn follow(&'a self, publish: &(dyn Fn(Listing) + Send + Sync)) -> Result<Infallible, String> {
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        let mut pending: FuturesUnordered<Pending<'a>> = FuturesUnordered::new();
        pending.push(Box::pin(self.catalogue(None)));
        let mut is_first = true;
        while let Some(news) = pending.next().await {
            let is_new = match news? {
                News::Catalogue { names, index } => {
                    let before = known.len();
                    known.retain(|name, _| names.contains(name));
                    let mut is_new = known.len() != before || is_first;
                    for name in names {
                        let is_polled = known.len() >= MOST_WAITING;
                        if let Entry::Vacant(vacant) = known.entry(name) {
                            pending.push(Box::pin(self.service(vacant.key().clone(), None)));
                            vacant.insert(Known { is_polled, ..Known::default() });
                            is_new = true;
                        }
                    }
                    is_first = false;
                    pending.push(Box::pin(self.catalogue(Some(index))));
                    is_new
                }
                News::Service { name, instances, index } => {
                    // A service that is gone is not asked for again.
                    let Some(entry) = known.get_mut(&name) else { continue };
                    let is_new = entry.instances.as_ref() != Some(&instances) || entry.has_failed;
                    (entry.instances, entry.has_failed) = (Some(instances), false);
                    pending.push(Box::pin(self.service(name, Some(if entry.is_polled { 0 } else { index }))));
                    is_new
                }
                News::Failed { name, index } => {
                    let Some(entry) = known.get_mut(&name) else { continue };
                    let is_new = !entry.has_failed;
                    entry.has_failed = true;
                    pending.push(Box::pin(self.service(name, index)));
                    is_new
                }
            };
            if is_new && let Some(listing) = self.listing(&known) {
                publish(listing);
            }
        }
        Err("no question is left to ask".to_owned())
    }

    /// `None` while a service has neither answered nor failed: one publication is cheaper than one for each.
    fn listing(&self, known: &BTreeMap<String, Known>) -> Option<Listing> {
        let mut listing = Listing::new();
        for (name, known) in known {
            let host = format!("{name}.{}.consul", self.datacenter).replace('_', "-");
            let (instances, is_stale) = match &known.instances {
                Some(instances) => (instances.clone(), false),
                None if known.has_failed => (Vec::new(), true),
                None => return None,
            };
            listing.insert(host, Listed { name: name.clone(), instances, is_stale });
        }
        Some(listing)
    }

    async fn catalogue(&self, index: Option<u64>) -> Result<News, String> {
        let (index, answer) = self.ask("/v1/catalog/services".to_owned(), index, "").await?;
        let services = answer.as_object().ok_or("the catalogue is no mapping of services")?;
        let has_tag = |tags: &Value| {
            let mut tags = tags.as_array().into_iter().flatten().filter_map(Value::as_str);
            self.tag.is_none_or(|wanted| tags.any(|tag| tag.eq_ignore_ascii_case(wanted)))
        };
        let names = services.iter().filter(|(_, tags)| has_tag(tags)).map(|(name, _)| name.clone()).collect();
        Ok(News::Catalogue { names, index })
    }

    async fn service(&self, name: String, index: Option<u64>) -> Result<News, String> {
        let path = format!("/v1/health/service/{}", fetch::encode(&name));
        let asked = self.ask(path, index, "&passing=true").await;
        let listed = asked.and_then(|(index, answer)| match answer {
            Value::Array(entries) => Ok((index, entries)),
            _ => Err("the service's health is no list".to_owned()),
        });
        let (index, entries) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(service = name, error, "Consul does not list a service's instances; those before stay");
                tokio::time::sleep(AFTER_FAILURE).await;
                return Ok(News::Failed { name, index });
            }
        };
        let mut instances: Vec<Instance> = entries.iter().filter_map(instance).collect();
        instances.sort_unstable();
        Ok(News::Service { name, instances, index })
    }

    /// The answer once it differs from that of `index`, and its own index.
    async fn ask(&self, path: String, index: Option<u64>, more: &str) -> Result<(u64, Value), String> {
        let mut pairs = vec![("dc", self.datacenter.to_owned())];
        match index {
            None => {}
            Some(0) => tokio::time::sleep(WITHOUT_INDEX).await,
            Some(index) => {
                pairs.push(("index", index.to_string()));
                pairs.push(("wait", format!("{}s", WAIT.as_secs())));
            }
        }
        pairs.retain(|(_, value)| !value.is_empty());
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mut ask = Ask::get(self.registry, &format!("{path}?{}{more}", fetch::query(&pairs)));
        if index.is_some_and(|index| index > 0) {
            ask = ask.timeout(TIMEOUT);
        }
        if let Some(token) = self.token {
            ask = ask.header("x-consul-token", token.expose());
        }
        let asked = Instant::now();
        let (headers, answer) = fetch::json(self.fetch, ask).await?;
        let is_nothing = answer.as_array().is_some_and(Vec::is_empty) || answer.as_object().is_some_and(Map::is_empty);
        if is_nothing && headers.get("x-consul-results-filtered-by-acls").is_some_and(|value| value == "true") {
            return Err("Consul hides everything from this token: it needs service:read and node:read".to_owned());
        }
        let said = headers.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        // An index that goes back means that the servers' state was restored: begin anew.
        let next = if index.is_some_and(|before| said < before) { 0 } else { said };
        if index == Some(next) && asked.elapsed() < AT_ONCE {
            tokio::time::sleep(WITHOUT_INDEX).await;
        }
        Ok((next, answer))
    }
}

fn instance(entry: &Value) -> Option<Instance> {
    let checks = entry["Checks"].as_array();
    if checks.is_some_and(|checks| checks.iter().any(|check| check["Status"] != "passing")) {
        return None;
    }
    let service = &entry["Service"];
    let own = service["Address"].as_str().filter(|address| !address.is_empty());
    let address = own.or_else(|| entry["Node"]["Address"].as_str())?;
    let port = u16::try_from(service["Port"].as_u64()?).ok()?;
    Instance::new(address, port, service["Meta"]["protocol"].as_str().unwrap_or_default())
}
