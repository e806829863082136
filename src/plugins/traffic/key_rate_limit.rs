//! `key-rate-limit`: limits the requests of known keys in this process. Default phase, priority 10.
//!
//! A key is the exact value of one header or query parameter; other values pass. A counter belongs to one key of one rule (or
//! of the global configuration) and survives a reload that leaves the rule in its place.
//!
//! Differences from Higress: an interval begins with a key's first request instead of with a timer of the worker; several
//! rate fields of a key are a configuration error (there the shortest interval counts); parameters are decoded before they are
//! compared.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;

use super::rate::Rate;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts};
use crate::stores::{Store, Window};

pub const SPEC: PluginSpec = PluginSpec {
    name: "key-rate-limit",
    phase: Phase::Unspecified,
    priority: 10,
    family: Family::Cpp,
    summary: "Limits the requests of known keys, per gateway",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    selector: Selector,
    limits: HashMap<String, Rate>,
}

/// Where the key of a request stands.
enum Selector {
    Header(String),
    Parameter(String),
}

impl Config {
    /// Without a usable selector there is a problem, and what is returned beside it does not matter.
    fn read(scope: &Scope<'_>) -> (Option<Config>, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut name = |key| fields.string(key).filter(|name| !name.is_empty()).map(str::to_owned);
        let selector = match (name("limit_by_header"), name("limit_by_param")) {
            (Some(header), None) => Some(Selector::Header(header)),
            (None, Some(parameter)) => Some(Selector::Parameter(parameter)),
            _ => {
                fields.problem("limit_by_header", "is to be given, or limit_by_param: one of them, and not both");
                None
            }
        };
        let mut limits = HashMap::new();
        for (index, value) in fields.list("limit_keys").unwrap_or_default().iter().enumerate() {
            let mut item = Fields::of(value, &format!("limit_keys[{index}]"));
            let key = item.name("key");
            if key.is_none() && item.is_usable() {
                item.problem("key", "must be given");
            }
            if let (Some(key), Some(rate)) = (key, Rate::read(&mut item)) {
                // The first of equal keys counts.
                limits.entry(key).or_insert(rate);
            }
            fields.problems.extend(item.finish());
        }
        if limits.is_empty() && fields.is_usable() {
            fields.problem("limit_keys", "must name at least one key");
        }
        (selector.map(|selector| Config { selector, limits }), fields.finish())
    }
}

struct KeyRateLimit {
    config: Config,
    store: Arc<dyn Store>,
    /// Begins the names of this scope's counters.
    place: OnceLock<String>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    match Config::read(scope) {
        (Some(config), problems) if is_usable(&problems) => {
            Ok(Some(Arc::new(KeyRateLimit { config, store: host.store(None), place: OnceLock::new() })))
        }
        (_, problems) => Err(problems),
    }
}

#[async_trait]
impl Plugin for KeyRateLimit {
    fn placed(&self, place: &str) {
        // Told once; the first name stays.
        let _ = self.place.set(format!("key-rate-limit:{place}"));
    }

    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let key = match &self.config.selector {
            Selector::Header(name) => parts::text(request, name),
            Selector::Parameter(name) => parts::parameter(request, name),
        };
        let key = key.unwrap_or_default();
        let Some(Rate { limit, seconds }) = self.config.limits.get(key.as_ref()).copied() else {
            return Flow::Continue;
        };
        let place = self.place.get().map_or("", String::as_str);
        let window = Window { key: format!("{place}:{seconds}:{key}"), limit, seconds };
        match self.store.count(&[window]).await {
            Ok(counted) if counted.iter().any(|counted| counted.count > limit) => {
                Flow::respond(Reply::new(429, "Too many requests").text("rate_limited"))
            }
            Ok(_) => Flow::Continue,
            Err(error) => {
                tracing::debug!(%error, "key-rate-limit lets a request pass uncounted");
                Flow::Continue
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, built, built_with, problem_fields};

    fn status(plugin: &Arc<dyn Plugin>, path: &str, headers: &[(&'static str, &str)]) -> u16 {
        Exchange::new("GET", path, headers).run(plugin).map_or(200, |reply| reply.status)
    }

    fn by_header(limit: u64) -> Value {
        json!({"limit_by_header": "x-api-key", "limit_keys": [{"key": "a", "query_per_day": limit}, {"key": "b", "query_per_hour": 1}]})
    }

    #[test]
    fn each_known_key_has_its_own_limit() {
        let plugin = built(&SPEC, &by_header(2));
        let a = [("x-api-key", "a")];
        assert_eq!([(); 3].map(|()| status(&plugin, "/", &a)), [200, 200, 429]);
        assert_eq!([(); 2].map(|()| status(&plugin, "/", &[("x-api-key", "b")])), [200, 429]);
        assert_eq!([(); 3].map(|()| status(&plugin, "/", &[("x-api-key", "c")])), [200; 3], "unknown");
        assert_eq!([(); 3].map(|()| status(&plugin, "/", &[])), [200; 3], "none");
        let reply = Exchange::new("GET", "/", &a).run(&plugin).unwrap();
        assert_eq!((reply.details.as_str(), reply.body.as_ref()), ("Too many requests", &b"rate_limited"[..]));
    }

    #[test]
    fn a_limit_per_second_begins_anew_with_the_next() {
        let plugin = built(&SPEC, &json!({"limit_by_param": "k", "limit_keys": [{"key": "a", "query_per_second": 1}]}));
        let started = Instant::now();
        for expected in [200, 429, 200] {
            while status(&plugin, "/?k=a", &[]) != expected {
                assert!(started.elapsed() < Duration::from_secs(30), "never {expected}");
            }
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let plugin =
            built(&SPEC, &json!({"limit_by_param": "k", "limit_keys": [{"key": "a b", "query_per_minute": 1}]}));
        assert_eq!([(); 2].map(|()| status(&plugin, "/?x=1&k=a%20b", &[])), [200, 429]);
    }

    #[test]
    fn keys_may_be_written_as_numbers() {
        let plugin =
            built(&SPEC, &json!({"limit_by_param": "k", "limit_keys": [{"key": 102_234, "query_per_minute": "1"}]}));
        assert_eq!([(); 2].map(|()| status(&plugin, "/?k=102234", &[])), [200, 429]);
    }

    #[test]
    fn counters_belong_to_a_rule_and_outlive_a_reload() {
        let host = FakeHost::silent();
        let at = |place: &str| {
            let plugin = built_with(&SPEC, &by_header(1), None, host.clone());
            plugin.placed(place);
            plugin
        };
        let a = [("x-api-key", "a")];
        assert_eq!(status(&at("one/0"), "/", &a), 200);
        assert_eq!(status(&at("one/0"), "/", &a), 429, "built again at the same place");
        assert_eq!(status(&at("one/1"), "/", &a), 200, "another rule");
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({"limit_by_header": "a"})), ["limit_keys"]);
        let config = json!({"limit_keys": [{"key": "a"}, {"query_per_day": 1}, {"key": "c", "query_per_day": 1, "query_per_hour": 1}]});
        let expected = [
            "limit_by_header",
            "limit_keys[0].query_per_second",
            "limit_keys[1].key",
            "limit_keys[2].query_per_second",
        ];
        assert_eq!(problem_fields(&SPEC, &config), expected);
    }
}
