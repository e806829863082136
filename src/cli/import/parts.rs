//! What the parts of each plugin come to, its global configuration and its rules: whether they work, and who gets a 503 otherwise.

use serde_json::Value;

use crate::config::model::{HostMatch, PluginRule, PluginUse, Route};
use crate::config::{Gateway, Problem, Severity};
use crate::plugins::config::is_usable;
use crate::plugins::registry::{self, Scope};
use crate::plugins::rules::{Family, Place, matches};
use crate::plugins::unavailable::closes;

/// What becomes of requests that a part is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Works,
    /// It is for no request.
    Idle,
    Refuses,
    LetsPass,
}

/// One plugin object.
pub struct Parts<'a> {
    pub plugin: &'a PluginUse,
    family: Family,
    global: Option<State>,
    rules: Vec<(&'a PluginRule, State)>,
}

/// Those of all objects.
pub fn parts<'a>(gateway: &'a Gateway, problems: &[Problem]) -> Vec<Parts<'a>> {
    gateway.plugins.iter().map(|plugin| Parts::of(plugin, problems)).collect()
}

impl<'a> Parts<'a> {
    fn of(plugin: &'a PluginUse, problems: &[Problem]) -> Parts<'a> {
        let family = registry::find(&plugin.plugin).map_or(Family::Go, |spec| spec.family);
        let global = plugin.global.as_ref().map(|_| state(plugin, None, &plugin.global_path, problems));
        let rules = plugin.rules.iter().map(|rule| {
            let is_idle =
                [&rule.routes, &rule.route_prefixes, &rule.domains, &rule.services].iter().all(|l| l.is_empty());
            let state = if is_idle { State::Idle } else { state(plugin, Some(&rule.config), &rule.path, problems) };
            (rule, state)
        });
        Parts { plugin, family, global, rules: rules.collect() }
    }

    /// The states of all parts.
    pub fn states(&self) -> impl Iterator<Item = State> {
        self.global.into_iter().chain(self.rules.iter().map(|(_, state)| *state))
    }

    /// The field of the part that refuses all requests of a route.
    pub fn refusing(&self, route: &Route) -> Option<&str> {
        let host = match &route.host {
            HostMatch::Any => String::new(),
            HostMatch::Exact(host) => host.clone(),
            // One of those that it takes.
            HostMatch::Suffix(suffix) => format!("any{suffix}"),
        };
        let at = |service: &str, port: Option<u16>| {
            let place = Place { route: &route.name, host: &host, service, port };
            match self.rules.iter().find(|(rule, _)| matches(rule, self.family, place)) {
                Some((rule, state)) => (*state == State::Refuses).then_some(rule.path.as_str()),
                None => (self.global == Some(State::Refuses)).then_some(self.plugin.global_path.as_str()),
            }
        };
        let mut refusing = None;
        for to in &route.destinations {
            refusing = Some(at(&to.service, to.port)?);
        }
        refusing.or_else(|| at("", None))
    }
}

fn state(plugin: &PluginUse, rule: Option<&Value>, path: &str, problems: &[Problem]) -> State {
    let out = |is_wrong: bool| if closes(plugin, rule, is_wrong) { State::Refuses } else { State::LetsPass };
    let Some(spec) = registry::find(&plugin.plugin) else { return out(true) };
    let scope = Scope { global: plugin.global.as_ref(), rule, n_rules: plugin.rules.len() };
    if spec.is_switched_off(&scope) {
        return State::Idle;
    }
    let found = (spec.check)(&scope);
    if !is_usable(&found) {
        return out(found.iter().any(|problem| problem.severity == Severity::Error));
    }
    // What only its files show is an outage.
    let has_fault = problems.iter().any(|problem| is_fault_of(problem, plugin, path));
    if has_fault { out(false) } else { State::Works }
}

/// Whether a problem is in a part, and in no rule that is written inside of it.
fn is_fault_of(problem: &Problem, plugin: &PluginUse, path: &str) -> bool {
    let field = problem.field.as_deref().unwrap_or_default();
    let is_in =
        |path: &str| field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    let is_of_rule = || plugin.rules.iter().any(|rule| rule.path.len() > path.len() && is_in(&rule.path));
    problem.is_fault() && problem.file == plugin.object.file && is_in(path) && !is_of_rule()
}
