//! Rules of plugins and conditions of routes, against any host, route and service.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_fuzz::config::model::{Pattern, PluginRule};
use weirgate_fuzz::plugins::rules::{Family, Place, matches};

type Rule = (Vec<String>, Vec<String>, Vec<String>, Vec<String>);

fuzz_target!(|input: (Rule, String, String, String, Option<u16>)| {
    let ((routes, route_prefixes, domains, services), route, host, service, port) = input;
    if let Ok(pattern) = Pattern::full(domains.first().map_or("", String::as_str)) {
        pattern.is_match(&host);
    }
    let is_empty = routes.is_empty() && route_prefixes.is_empty() && domains.is_empty() && services.is_empty();
    let rule =
        PluginRule { routes, route_prefixes, domains, services, config: serde_json::Value::Null, path: String::new() };
    let place = Place { route: &route, host: &host, service: &service, port };
    let matched = [Family::Go, Family::Cpp].map(|family| matches(&rule, family, place));
    assert!(!is_empty || matched == [false, false], "a rule without keys matches nothing");
    assert!(rule.routes.is_empty() || matched[0] == matched[1], "families agree about routes");
});
