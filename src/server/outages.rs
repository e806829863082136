//! Parts of a configuration that cannot be used: how one is known again after a change, and whether it ends something that is served.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::model::{FailStrategy, PluginRule, PluginUse, Route, Service};
use crate::config::{Gateway, Problem, RawObject};
use crate::plugins::registry::says_how_to_speak;

/// Parts that cannot be used, by file and [`by_name`], and whether their object says that requests pass without it.
pub type Outages = BTreeSet<(PathBuf, String, bool)>;

/// What `faults` are of.
pub fn outages<'p>(faults: impl Iterator<Item = &'p Problem>, objects: &[RawObject]) -> Outages {
    let by_file: HashMap<&Path, &RawObject> =
        objects.iter().map(|object| (object.origin.file.as_path(), object)).collect();
    let mut out = Outages::new();
    for problem in faults {
        let object = by_file.get(problem.file.as_path());
        let field = problem.field.as_deref().unwrap_or_default();
        let field = object.map_or_else(|| field.to_owned(), |object| by_name(field, &object.value));
        let is_open = object.is_some_and(|object| object.value["spec"]["failStrategy"] == "FAIL_OPEN");
        out.insert((problem.file.clone(), field, is_open));
    }
    out
}

/// A field with the elements of lists by what they are, and not by where they stand, which moves when something is added before them:
/// `spec.registries[1].domain` as `spec.registries[shop].domain`.
fn by_name(field: &str, object: &Value) -> String {
    let (mut rest, mut at, mut named) = (field, Some(object), String::with_capacity(field.len()));
    while !rest.is_empty() {
        if let Some((inside, tail)) = rest.strip_prefix('[').and_then(|after| after.split_once(']')) {
            at = match inside.parse::<usize>() {
                Ok(place) => at.and_then(|list| list.get(place)),
                Err(_) => at.and_then(|map| map.get(inside)),
            };
            let is_place = inside.bytes().all(|byte| byte.is_ascii_digit());
            let name = at.filter(|_| is_place).map_or_else(|| inside.to_owned(), identity);
            named.extend(["[", &name, "]"]);
            rest = tail;
        } else {
            rest = rest.trim_start_matches('.');
            let (name, tail) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            at = at.and_then(|map| map.get(name));
            // A bracket that nothing closes.
            if name.is_empty() {
                break;
            }
            named.extend([".", name]);
            rest = tail;
        }
    }
    named
}

/// What an element of a list is called, or matches, or else all of it.
fn identity(element: &Value) -> String {
    const MATCHES: [&str; 7] =
        ["ingress", "domain", "service", "_match_route_", "_match_domain_", "_match_service_", "_match_route_prefix_"];
    let name = ["name", "id", "path"].iter().find_map(|key| element.get(key)?.as_str());
    let is_rule_of_host = element.get("http").is_some();
    if let Some(name) = name {
        return name.to_owned();
    }
    if is_rule_of_host {
        return element.get("host").and_then(Value::as_str).unwrap_or_default().to_owned();
    }
    let matched: Vec<String> = MATCHES.iter().filter_map(|key| Some(element.get(key)?.to_string())).collect();
    if matched.is_empty() { element.to_string() } else { matched.join(" ") }
}

/// A change of the configuration in force, for the question whether a fault ends something that is served.
pub struct Change<'g> {
    /// Names of the routes there are.
    routes: HashSet<&'g str>,
    services: &'g BTreeMap<String, Service>,
    /// By file.
    plugins_before: HashMap<&'g Path, &'g PluginUse>,
    plugins_after: HashMap<&'g Path, &'g PluginUse>,
}

impl<'g> Change<'g> {
    pub fn new(before: &'g Gateway, after: &'g Gateway) -> Change<'g> {
        let by_file = |gateway: &'g Gateway| {
            gateway.plugins.iter().map(|plugin| (plugin.object.file.as_path(), plugin)).collect::<HashMap<_, _>>()
        };
        Change {
            routes: before.routes.iter().flat_map(Route::names).collect(),
            services: &before.services,
            plugins_before: by_file(before),
            plugins_after: by_file(after),
        }
    }

    /// Whether a part that cannot be used ends something that is served, or the protection of it. Where nothing is served nothing ends, nor by
    /// rules for what was not there.
    pub fn ends_something(&self, problem: &Problem) -> bool {
        if self.routes.is_empty() {
            return false;
        }
        let Some(plugin) = self.plugins_after.get(problem.file.as_path()) else { return true };
        let known = self.plugins_before.get(problem.file.as_path());
        // Whoever says so is gone without; but what works now is not lost by a slip.
        if known.is_none() && plugin.fail_strategy == FailStrategy::FailOpen {
            return false;
        }
        let field = problem.field.as_deref().unwrap_or_default();
        let Some(rule) = plugin.rules.iter().find(|rule| field.starts_with(&rule.path)) else { return true };
        match known {
            // Something else broke it.
            Some(known) if known.rules.iter().any(|before| before.says_the_same(rule)) => true,
            // Before there was a rule for that, requests to the service came to nothing.
            None if says_how_to_speak(&plugin.plugin) => self.takes_anything(rule),
            _ => self.takes_anything(rule) || rule.services.iter().any(|name| self.has_service(name)),
        }
    }

    /// Whether a rule is for requests that are served, other than by where they go.
    fn takes_anything(&self, rule: &PluginRule) -> bool {
        let is_wide = !(rule.domains.is_empty() && rule.route_prefixes.is_empty());
        is_wide || rule.routes.iter().any(|name| self.routes.contains(name.as_str()))
    }

    fn has_service(&self, name: &str) -> bool {
        self.services.contains_key(name.split(':').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_of_lists_are_known_by_name() {
        let object = json!({"metadata": {"annotations": {"higress.io/destination": "x"}}, "spec": {
            "registries": [{"name": "a"}, {"name": "b"}],
            "rules": [{"http": {"paths": [{"path": "/x"}]}}],
            "matchRules": [{"ingress": ["r"], "config": {"consumers": [{"name": "ann"}]}}, {"config": 5}]}});
        for (field, expected) in [
            ("spec.registries[1].domain", ".spec.registries[b].domain"),
            ("spec.rules[0].http.paths[0].backend", ".spec.rules[].http.paths[/x].backend"),
            ("spec.matchRules[0].config.consumers[0].key", ".spec.matchRules[[\"r\"]].config.consumers[ann].key"),
            ("spec.matchRules[1].config", ".spec.matchRules[{\"config\":5}].config"),
            ("spec.matchRules[7].config", ".spec.matchRules[7].config"),
            ("metadata.annotations[higress.io/destination]", ".metadata.annotations[higress.io/destination]"),
            ("spec.x[", ".spec.x"),
            ("", ""),
        ] {
            assert_eq!(by_name(field, &object), expected, "{field}");
        }
    }
}
