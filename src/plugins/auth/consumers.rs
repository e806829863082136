//! Whom an authentication plugin checks and whom it lets pass: `consumers`, `allow`, `global_auth` and `_disable_`, the same
//! for all of them (Higress `plugins/wasm-cpp/common/route_rule_matcher.h`; the Go ports have copies of it).
//!
//! | `global_auth` | What is checked |
//! |---|---|
//! | `true` | every request; where a rule matches, its `allow` applies |
//! | `false` | requests that match a rule with `allow` |
//! | not given | everything if there are no rules, otherwise what matches one |
//!
//! A rule with consumers of its own stands alone and has no `allow`. Difference from Higress: the Go ports refuse an empty
//! `allow` and go on without the plugin; here it lets nobody pass, as in the C++ plugins.

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::plugins::config::{Fields, flag, type_name};
use crate::plugins::registry::Scope;
use crate::plugins::{Reply, Request};

/// Header the authenticated consumer's name is sent upstream in.
const CONSUMER_HEADER: HeaderName = HeaderName::from_static("x-mse-consumer");

/// The configuration that `scope` is read from.
pub fn config_of(scope: &Scope<'_>) -> Value {
    if stands_alone(scope) { scope.alone() } else { scope.overlaid() }
}

fn stands_alone(scope: &Scope<'_>) -> bool {
    scope.rule.is_some_and(|rule| rule.get("consumers").is_some() || rule.get("credentials").is_some())
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
    pub fn read(scope: &Scope<'_>, fields: &mut Fields<'_>) -> Gate {
        let is_rule = scope.rule.is_some();
        fields.boolean("global_auth");
        let global_auth = scope.global.and_then(|global| global.get("global_auth")).and_then(flag);
        let is_disabled = is_rule && fields.boolean("_disable_").unwrap_or(false);
        if is_rule && fields.is_null("allow") {
            fields.problem("allow", "has no value; write the consumers that may pass, or [] for nobody");
        }
        let written = fields.strings("allow");
        if written.is_some() && is_rule && stands_alone(scope) {
            fields.warn("allow", "has no effect beside consumers or credentials of the rule's own");
        }
        // The global part may carry an `allow`, which means nothing there (the console writes an empty one).
        let allow = written.filter(|_| is_rule && !stands_alone(scope));
        if stands_alone(scope) && global_auth == Some(false) && !is_disabled {
            fields.warn("consumers", "are not asked for: with global_auth false only rules with `allow` are checked");
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
        let value = config_of(&scope);
        Gate::read(&scope, &mut Fields::of(&value, ""))
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
