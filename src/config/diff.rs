//! What changed between two models, by name: the log line after a reload, and later the history.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::base::secret::Secret;

use super::model::{Certificate, Gateway, PluginUse, Registry, Route, TlsOptions};

/// Names of what came, went and changed, by part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// By route name; several paths of one Ingress count once.
    pub routes: Delta,
    pub services: Delta,
    /// By type and name.
    pub registries: Delta,
    /// By object.
    pub plugins: Delta,
    /// By host.
    pub certificates: Delta,
    /// By host whose TLS is passed through.
    pub passthrough: Delta,
    pub settings_changed: bool,
    /// The same routes in another order: the older takes what two of them ask for.
    pub order_changed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Delta {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

pub fn diff(old: &Gateway, new: &Gateway) -> Changes {
    let (old_routes, new_routes) = (routes(old), routes(new));
    Changes {
        order_changed: stayed(old, &new_routes) != stayed(new, &old_routes),
        routes: delta(&old_routes, &new_routes),
        services: delta(&old.services, &new.services),
        registries: delta(&registries(old), &registries(new)),
        plugins: delta(&plugins(old), &plugins(new)),
        certificates: delta(&certificates(old), &certificates(new)),
        passthrough: delta(&old.passthrough, &new.passthrough),
        settings_changed: old.settings != new.settings || old.https != new.https,
    }
}

fn delta<K: Ord + ToString, T: PartialEq>(old: &BTreeMap<K, T>, new: &BTreeMap<K, T>) -> Delta {
    let mut delta = Delta::default();
    for (name, value) in new {
        match old.get(name) {
            None => delta.added.push(name.to_string()),
            Some(before) if before != value => delta.changed.push(name.to_string()),
            Some(_) => {}
        }
    }
    delta.removed = old.keys().filter(|name| !new.contains_key(*name)).map(ToString::to_string).collect();
    delta
}

fn routes(gateway: &Gateway) -> BTreeMap<&str, Vec<&Route>> {
    let mut routes: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
    for route in &gateway.routes {
        routes.entry(&route.name).or_default().push(route);
    }
    routes
}

/// Routes that are there in both, in order; several paths of one Ingress count once.
fn stayed<'a>(gateway: &'a Gateway, others: &BTreeMap<&str, Vec<&Route>>) -> Vec<&'a str> {
    let names = gateway.routes.iter().map(|route| route.name.as_str());
    let mut names: Vec<&str> = names.filter(|name| others.contains_key(name)).collect();
    names.dedup();
    names
}

fn registries(gateway: &Gateway) -> BTreeMap<String, &Registry> {
    gateway.registries.iter().map(|registry| (registry.key(), registry)).collect()
}

fn plugins(gateway: &Gateway) -> BTreeMap<String, &PluginUse> {
    gateway.plugins.iter().map(|plugin| (plugin.object.to_string(), plugin)).collect()
}

fn certificates(gateway: &Gateway) -> BTreeMap<String, (&str, &Secret, &TlsOptions)> {
    let pairs = gateway.certificates.iter().flat_map(|certificate| {
        let Certificate { hosts, chain, key, options, .. } = certificate;
        hosts.iter().map(move |host| (host.clone(), (chain.as_str(), key, options)))
    });
    pairs.collect()
}

/// `routes +a +b -c ~d; settings changed`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("routes", &self.routes),
            ("services", &self.services),
            ("registries", &self.registries),
            ("plugins", &self.plugins),
            ("certificates", &self.certificates),
            ("passthrough", &self.passthrough),
        ];
        let mut separator = "";
        if self.order_changed {
            f.write_str("order of routes changed")?;
            separator = "; ";
        }
        for (name, delta) in parts.into_iter().filter(|(_, delta)| !delta.is_empty()) {
            write!(f, "{separator}{name}{delta}")?;
            separator = "; ";
        }
        if self.settings_changed {
            write!(f, "{separator}settings changed")?;
        } else if separator.is_empty() {
            f.write_str("nothing changed")?;
        }
        Ok(())
    }
}

/// At most this many names of each sort in a log line.
const MAX_NAMES: usize = 10;

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, names) in [('+', &self.added), ('-', &self.removed), ('~', &self.changed)] {
            for name in names.iter().take(MAX_NAMES) {
                write!(f, " {sign}{name}")?;
            }
            if names.len() > MAX_NAMES {
                write!(f, " {sign}({} more)", names.len() - MAX_NAMES)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_changed() {
        let delta = |signs: [&[&str]; 3]| {
            let [added, removed, changed] = signs.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            Delta { added, removed, changed }
        };
        let old = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 3)]);
        let new = BTreeMap::from([("b".to_owned(), 2), ("c".to_owned(), 4), ("d".to_owned(), 5)]);
        assert_eq!(super::delta(&old, &new), delta([&["d"], &["a"], &["c"]]));
        let changes = Changes {
            routes: delta([&["d"], &["a"], &["c"]]),
            certificates: delta([&[], &["a.com"], &[]]),
            settings_changed: true,
            ..Changes::default()
        };
        assert_eq!(changes.to_string(), "routes +d -a ~c; certificates -a.com; settings changed");
        assert_eq!(Changes::default().to_string(), "nothing changed");
        assert_eq!(Changes { order_changed: true, ..Changes::default() }.to_string(), "order of routes changed");
    }
}
