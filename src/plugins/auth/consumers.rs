//! Whom an authentication plugin checks and whom it lets pass: `consumers`, `allow`, `global_auth` and `_disable_`, the same
//! for all of them (Higress `plugins/wasm-cpp/common/route_rule_matcher.h`; the Go ports have copies of it).
//!
//! | `global_auth` | What is checked |
//! |---|---|
//! | `true` | every request; where a rule matches, its `allow` applies |
//! | `false` | requests that match a rule with `allow` |
//! | not given | everything if there are no rules, otherwise what matches one |
//!
//! A rule with consumers of its own stands alone. Beside them the Go ports read `allow` for the common consumers.
//! Differences from Higress: an `allow` beside consumers of the rule's own counts (there such a rule has none, so that `global_auth: false`
//! leaves the route open), and an empty one lets nobody pass in the Go ports, too, which refuse it and go on without the plugin.

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::plugins::config::{Fields, flag, type_name};
use crate::plugins::registry::Scope;
use crate::plugins::rules::Family;
use crate::plugins::{Reply, Request};

/// Header the authenticated consumer's name is sent upstream in.
const CONSUMER_HEADER: HeaderName = HeaderName::from_static("x-mse-consumer");

/// Who is known.
const LISTS: [&str; 2] = ["consumers", "credentials"];

/// The configuration that `scope` is read from.
pub fn config_of(scope: &Scope<'_>, family: Family) -> Value {
    let Some(rule) = scope.rule.and_then(Value::as_object).filter(|_| !stands_alone(scope, family)) else {
        return if scope.rule.is_some() { scope.alone() } else { scope.overlaid() };
    };
    let mut rule = rule.clone();
    rule.retain(|key, _| !LISTS.contains(&key.as_str()));
    Scope { rule: Some(&Value::Object(rule)), ..*scope }.overlaid()
}

fn stands_alone(scope: &Scope<'_>, family: Family) -> bool {
    let Some(rule) = scope.rule else { return false };
    if family == Family::Go && rule.get("allow").is_some() {
        return false;
    }
    LISTS.iter().filter_map(|list| rule.get(list)).any(|list| match list {
        Value::Null => false,
        // Beside `allow` it is no list of its own: it would open what `allow` closes.
        Value::Array(list) if list.is_empty() => rule.get("allow").is_none(),
        _ => true,
    })
}

/// Whether a scope checks, and who passes there.
#[derive(Debug, Clone)]
pub struct Gate {
    pub is_active: bool,
    /// `None`: every known consumer.
    allow: Option<Vec<String>>,
    /// Where there is nobody to know, nobody could pass.
    needs_consumers: bool,
}

impl Gate {
    /// Reads the fields that all these plugins have besides their own; `fields` is over [`config_of`] the scope.
    pub fn read(scope: &Scope<'_>, family: Family, fields: &mut Fields<'_>) -> Gate {
        let is_rule = scope.rule.is_some();
        let of_rule = |key: &str| scope.rule.and_then(|rule| rule.get(key));
        fields.boolean("global_auth");
        fields.boolean("_disable_");
        let global_auth = scope.global.and_then(|global| global.get("global_auth")).and_then(flag);
        let says_disabled = of_rule("_disable_").and_then(flag).unwrap_or(false);
        if says_disabled && family == Family::Go {
            fields.warn("_disable_", "has no effect: only the C++ plugins know it; use configDisable");
        }
        let is_disabled = says_disabled && family == Family::Cpp;
        if is_rule && fields.is_null("allow") {
            fields.problem("allow", "has no value; write the consumers that may pass, or [] for nobody");
        }
        // The global part may carry an `allow`, which means nothing there (the console writes an empty one).
        let allow = fields.strings("allow").filter(|_| of_rule("allow").is_some());
        if is_rule && allow.is_none() && global_auth == Some(false) && !is_disabled {
            fields.warn(
                "allow",
                "is missing, so the rule asks for nobody: with global_auth false only rules with `allow` are checked",
            );
        }
        if of_rule("global_auth").is_some() {
            fields.warn("global_auth", "has no effect in a rule; write it into defaultConfig");
        }
        let is_go_with_allow = family == Family::Go && of_rule("allow").is_some();
        for list in LISTS.iter().filter(|list| is_go_with_allow && of_rule(list).is_some()) {
            fields.warn(list, "has no effect beside `allow`, as in Higress' Go ports; write it into defaultConfig");
        }
        let is_active = match global_auth {
            _ if is_disabled => false,
            Some(true) => true,
            Some(false) => allow.is_some(),
            None => is_rule || scope.n_rules == 0,
        };
        // A global part without consumers is fine where rules bring their own.
        let needs_consumers = is_active && (is_rule || scope.n_rules == 0 || global_auth == Some(true));
        Gate { is_active, allow, needs_consumers }
    }

    /// Says so if a check can never succeed: there is nobody, or not the one that may pass.
    pub fn require<'n>(&self, fields: &mut Fields<'_>, consumers: impl Iterator<Item = Option<&'n str>>) {
        let names: Vec<Option<&str>> = consumers.collect();
        if names.is_empty() && self.needs_consumers && fields.is_usable() {
            // What the console writes before the first consumer is made.
            fields.warn("consumers", "are none; every request that is checked is refused");
        }
        for name in self.allow.iter().flatten() {
            if !names.is_empty() && !names.contains(&Some(name.as_str())) {
                fields.warn("allow", format!("names `{name}`, who is no consumer here"));
            }
        }
    }

    /// The consumer that may pass, if it is one only.
    pub fn only(&self) -> Option<&str> {
        match self.allow.as_deref() {
            Some([only]) => Some(only),
            _ => None,
        }
    }

    /// Whether a known consumer may pass.
    pub fn admits(&self, consumer: Option<&str>) -> bool {
        match &self.allow {
            None => true,
            Some(allow) => consumer.is_some_and(|name| allow.iter().any(|allowed| allowed == name)),
        }
    }
}

/// Reads each object of a list that may hold secrets. Messages show nothing of an element that is no object.
pub fn each<T>(
    fields: &mut Fields<'_>,
    key: &'static str,
    mut read: impl FnMut(&mut Fields<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(list) = fields.list(key) else { return Vec::new() };
    let mut found = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let at = format!("{key}[{index}]");
        if !value.is_object() {
            fields.problem(&at, format!("must be an object, found {}", type_name(value)));
            continue;
        }
        let mut element = Fields::of(value, &fields.at(&at));
        found.extend(read(&mut element));
        fields.problems.extend(element.finish());
    }
    found
}

/// A name that must be there and not be empty.
pub fn required(fields: &mut Fields<'_>, key: &'static str) -> Option<String> {
    let n_problems = fields.problems.len();
    let value = fields.name(key).filter(|value| !value.is_empty());
    if value.is_none() && fields.problems.len() == n_problems {
        fields.problem(key, "must be given");
    }
    value
}

/// Notes who is calling, and tells the upstream.
pub fn let_pass(request: &mut Request<'_>, consumer: Option<&str>) {
    let Some(name) = consumer else { return };
    request.state.consumer = Some(name.to_owned());
    if let Ok(value) = HeaderValue::from_str(name) {
        // Appended, as Higress does; the edge has removed what the client may have sent.
        let _ = request.head.append_header(CONSUMER_HEADER, value);
        request.state.told_upstream = true;
    }
}

/// A refusal that tells the client its reason as plain text.
pub fn told(status: u16, details: impl Into<String>, text: impl Into<String>) -> Reply {
    let mut reply = Reply::new(status, details);
    reply.headers.push((CONTENT_TYPE, HeaderValue::from_static("text/plain")));
    reply.body = text.into().into();
    reply
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gate(global: &Value, rule: Option<&Value>, n_rules: usize) -> Gate {
        let scope = Scope { global: Some(global), rule, n_rules };
        let value = config_of(&scope, Family::Cpp);
        Gate::read(&scope, Family::Cpp, &mut Fields::of(&value, ""))
    }

    #[test]
    fn global_auth_decides_what_is_checked() {
        let own = json!({"consumers": []});
        let allow = json!({"allow": ["a"]});
        let disabled = json!({"allow": ["a"], "_disable_": true});
        for (global_auth, rule, n_rules, expected) in [
            (Value::Null, None, 0, true),
            (Value::Null, None, 1, false),
            (Value::Null, Some(&allow), 1, true),
            (Value::Null, Some(&own), 1, true),
            (json!(true), None, 1, true),
            (json!(true), Some(&disabled), 1, false),
            (json!(false), None, 0, false),
            (json!(false), Some(&allow), 1, true),
            (json!(false), Some(&own), 1, false),
        ] {
            let global = json!({"global_auth": global_auth, "allow": []});
            assert_eq!(gate(&global, rule, n_rules).is_active, expected, "{global_auth} {rule:?} {n_rules}");
        }
    }

    /// Regression: an empty list of consumers in the rule opened the route, and `_disable_` and `allow` were inherited.
    #[test]
    fn what_a_rule_allows_counts_whatever_stands_beside_it() {
        let global = json!({"global_auth": false, "consumers": [{"name": "a"}], "allow": [], "_disable_": true});
        let consumers = |scope: &Scope<'_>, family| config_of(scope, family)["consumers"][0]["name"].clone();
        for (own, of_cpp) in [(json!(null), "a"), (json!([]), "a"), (json!([{"name": "b"}]), "b")] {
            for (family, expected) in [(Family::Cpp, of_cpp), (Family::Go, "a")] {
                let rule = json!({"allow": [expected], "consumers": own, "credentials": null});
                let scope = Scope { global: Some(&global), rule: Some(&rule), n_rules: 1 };
                let value = config_of(&scope, family);
                let gate = Gate::read(&scope, family, &mut Fields::of(&value, ""));
                assert_eq!(consumers(&scope, family), expected, "{rule}");
                assert!(gate.is_active && gate.admits(Some(expected)) && !gate.admits(Some("c")), "{rule}");
            }
        }
        let global = json!({"global_auth": true, "allow": []});
        let keys = json!({"keys": ["x-other"]});
        assert!(gate(&global, Some(&keys), 1).admits(Some("a")));
    }

    #[test]
    fn allow_names_who_passes() {
        let global = json!({"global_auth": true});
        let everybody = gate(&global, None, 1);
        assert!(everybody.admits(Some("a")) && everybody.admits(None));
        let one = gate(&global, Some(&json!({"allow": ["a"]})), 1);
        assert!(one.admits(Some("a")) && !one.admits(Some("b")) && !one.admits(None));
        assert!(!gate(&global, Some(&json!({"allow": []})), 1).admits(Some("a")));
    }

    #[test]
    fn an_element_that_is_no_object_is_not_shown() {
        let value = json!({"consumers": ["admin:secret", {"name": 1}], "credentials": "admin:secret"});
        let mut fields = Fields::of(&value, "");
        let names = each(&mut fields, "consumers", |consumer| consumer.string("name").map(str::to_owned));
        assert!(names.is_empty());
        assert!(each(&mut fields, "credentials", |_| Some(())).is_empty());
        let told = format!("{:?}", fields.finish());
        assert!(told.contains("consumers[0]") && told.contains("consumers[1].name"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }
}
