//! Parts of a configuration that cannot be used: how one is known again after a change, and whether it ends something that is served.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::model::{FailStrategy, PluginUse};
use crate::config::{Gateway, Problem, RawObject};

/// Parts that cannot be used, by file and [`by_name`].
pub type Outages = BTreeSet<(PathBuf, String)>;

/// What `faults` are of.
pub fn outages<'p>(faults: impl Iterator<Item = &'p Problem>, objects: &[RawObject]) -> Outages {
    let by_file: HashMap<&Path, &RawObject> =
        objects.iter().map(|object| (object.origin.file.as_path(), object)).collect();
    let mut out = Outages::new();
    for problem in faults {
        let object = by_file.get(problem.file.as_path());
        let field = problem.field.as_deref().unwrap_or_default();
        let field = object.map_or_else(|| field.to_owned(), |object| by_name(field, &object.value));
        out.insert((problem.file.clone(), field));
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
    const MATCHES: [&str; 4] = ["ingress", "domain", "service", "_match_route_"];
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

/// Whether a part that cannot be used ends something that is served now. One that says `FAIL_OPEN` is gone without, and rules for what
/// was not there before end nothing.
pub fn takes_away(problem: &Problem, before: &Gateway, after: &Gateway) -> bool {
    let Some(plugin) = plugin_of(problem, after) else { return true };
    if plugin.fail_strategy == FailStrategy::FailOpen {
        return false;
    }
    let is_of_rule = problem.field.as_deref().is_some_and(|field| field.starts_with("spec.matchRules"));
    let Some(known) = plugin_of(problem, before).filter(|_| is_of_rule) else { return true };
    let has_route = |name: &String| before.routes.iter().any(|route| route.has_name(name));
    let has_service = |name: &String| before.services.contains_key(name.split(':').next().unwrap_or_default());
    let mut added = plugin.rules.iter().filter(|rule| !known.rules.contains(rule));
    added.any(|rule| {
        let is_wide = !(rule.domains.is_empty() && rule.route_prefixes.is_empty());
        is_wide || rule.routes.iter().any(has_route) || rule.services.iter().any(has_service)
    })
}

fn plugin_of<'g>(problem: &Problem, gateway: &'g Gateway) -> Option<&'g PluginUse> {
    gateway.plugins.iter().find(|plugin| plugin.object.file == problem.file)
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
