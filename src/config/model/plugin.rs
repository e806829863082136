//! Plugins as the configuration has them: which, where in the chain, with what, for whom.

use std::fmt;

use serde::Serialize;

use super::ObjectRef;

/// One WasmPlugin object: which plugin runs, where in the chain, with which configuration for whom.
///
/// Configurations hold tokens and passwords. `Debug` leaves them out; what is serialised must not reach people.
#[derive(Clone, PartialEq, Serialize)]
pub struct PluginUse {
    pub object: ObjectRef,
    /// Name of the built-in, for example `key-auth`.
    pub plugin: String,
    pub url: Option<String>,
    pub phase: Phase,
    pub priority: i32,
    pub fail_strategy: FailStrategy,
    /// Configuration where no rule matches; `None` makes the plugin inert there.
    pub global: Option<serde_json::Value>,
    /// The field of the object that it is written in.
    #[serde(skip)]
    pub global_path: String,
    /// Tried in order, first match wins.
    pub rules: Vec<PluginRule>,
}

impl fmt::Debug for PluginUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginUse")
            .field("object", &self.object)
            .field("plugin", &self.plugin)
            .field("phase", &self.phase)
            .field("priority", &self.priority)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// A configuration for some routes, domains or services. Which of the keys counts when several are set depends on the
/// plugin's family, so all are kept.
#[derive(Clone, PartialEq, Serialize)]
pub struct PluginRule {
    pub routes: Vec<String>,
    pub route_prefixes: Vec<String>,
    pub domains: Vec<String>,
    pub services: Vec<String>,
    pub config: serde_json::Value,
    /// The field of the object that `config` is written in, such as `spec.matchRules[2].config`.
    #[serde(skip)]
    pub path: String,
}

impl PluginRule {
    /// Whether it says the same, wherever it is written.
    pub fn says_the_same(&self, other: &PluginRule) -> bool {
        fn said(rule: &PluginRule) -> ([&[String]; 4], &serde_json::Value) {
            ([&rule.routes, &rule.route_prefixes, &rule.domains, &rule.services], &rule.config)
        }
        said(self) == said(other)
    }
}

impl fmt::Debug for PluginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginRule")
            .field("routes", &self.routes)
            .field("route_prefixes", &self.route_prefixes)
            .field("domains", &self.domains)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

/// Position in the chain, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    Authn,
    Authz,
    Stats,
    Unspecified,
}

/// What happens to requests when the plugin cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailStrategy {
    FailClose,
    FailOpen,
}
