//! Which configuration of a plugin applies to a request (Higress `_rules_` semantics).
//!
//! Rules are tried in written order and the first that matches wins. A rule with several kinds of keys has one category
//! only, and the two plugin families of Higress rank the categories differently; the lower ones are ignored.

use crate::config::model::PluginRule;

/// Which of Higress' two matchers a plugin was written against, and so, where Higress has it twice, which of the two is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// route (and service) > domain > service > route prefix
    Go,
    /// route (and service) > route prefix > service > domain
    Cpp,
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub route: &'a str,
    /// Without port, in lower case, as the domains of rules are read.
    pub host: &'a str,
    pub service: &'a str,
    pub port: Option<u16>,
}

/// Whether `rule` takes a request at `place`.
pub fn matches(rule: &PluginRule, family: Family, place: Place<'_>) -> bool {
    let by_route = || rule.routes.iter().any(|route| route == place.route);
    let by_prefix = || rule.route_prefixes.iter().any(|prefix| place.route.starts_with(prefix.as_str()));
    let by_domain = || rule.domains.iter().any(|domain| domain_matches(domain, place.host));
    let by_service = || rule.services.iter().any(|service| service_matches(service, place));
    if !rule.routes.is_empty() {
        return by_route() && (rule.services.is_empty() || by_service());
    }
    match family {
        Family::Go if !rule.domains.is_empty() => by_domain(),
        Family::Go if !rule.services.is_empty() => by_service(),
        Family::Go => by_prefix(),
        Family::Cpp if !rule.route_prefixes.is_empty() => by_prefix(),
        Family::Cpp if !rule.services.is_empty() => by_service(),
        Family::Cpp => by_domain(),
    }
}

/// `*x` is a suffix, `x*` a prefix, anything else the whole name.
fn domain_matches(pattern: &str, host: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        host.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        host.starts_with(prefix)
    } else {
        host == pattern
    }
}

/// `fqdn` or `fqdn:port`.
fn service_matches(pattern: &str, place: Place<'_>) -> bool {
    if pattern == place.service {
        return true;
    }
    match (pattern.rsplit_once(':'), place.port) {
        (Some((name, port)), Some(actual)) => name == place.service && port.parse() == Ok(actual),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(routes: &[&str], prefixes: &[&str], domains: &[&str], services: &[&str]) -> PluginRule {
        let own = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        PluginRule {
            routes: own(routes),
            route_prefixes: own(prefixes),
            domains: own(domains),
            services: own(services),
            config: serde_json::Value::Null,
            path: String::new(),
        }
    }

    const PLACE: Place<'_> =
        Place { route: "team/chat", host: "api.a.com", service: "llm-x.internal.dns", port: Some(443) };

    #[test]
    fn one_category_counts_and_families_rank_them_differently() {
        for (rule, go, cpp) in [
            (rule(&["team/chat"], &[], &[], &[]), true, true),
            (rule(&["team/chat"], &[], &[], &["other.dns"]), false, false),
            (rule(&["team/chat"], &[], &["no.com"], &["llm-x.internal.dns"]), true, true),
            (rule(&["other"], &["team/"], &["api.a.com"], &[]), false, false),
            (rule(&[], &["team/"], &["no.com"], &[]), false, true),
            (rule(&[], &["nope"], &["*.a.com"], &[]), true, false),
            (rule(&[], &[], &["no.com"], &["llm-x.internal.dns:443"]), false, true),
            (rule(&[], &[], &[], &["llm-x.internal.dns:80"]), false, false),
            (rule(&[], &[], &["api.*"], &[]), true, true),
            (rule(&[], &[], &["*.api.a.com"], &[]), false, false),
        ] {
            assert_eq!(matches(&rule, Family::Go, PLACE), go, "go {rule:?}");
            assert_eq!(matches(&rule, Family::Cpp, PLACE), cpp, "cpp {rule:?}");
        }
    }
}
