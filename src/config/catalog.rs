//! What the configuration needs to know about plugins, as a trait: `plugins::registry` implements it, `server` and
//! `weirgate validate` hand it in. So `config` checks plugin settings without knowing any plugin.

use serde_json::Value;

use super::Severity;

/// A problem in a plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Dotted path; empty for the whole.
    pub field: String,
    pub message: String,
    pub severity: Severity,
}

impl FieldProblem {
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), severity: Severity::Error }
    }
}

pub trait PluginCatalog {
    /// Names of the built-in plugins, for example `key-auth`.
    fn names(&self) -> Vec<&str>;

    fn knows(&self, plugin: &str) -> bool {
        self.names().contains(&plugin)
    }

    /// Whether requests must not pass without this plugin, whatever its object says.
    fn guards(&self, plugin: &str) -> bool;

    /// Whether this is a plugin of Higress that is not built in.
    fn lacks(&self, plugin: &str) -> bool;

    /// Checks one configuration of a known plugin; with nothing worse than warnings the plugin can be built from it.
    fn check(&self, plugin: &str, scope: &Scope<'_>) -> Vec<FieldProblem>;
}

/// What a plugin is configured with: the global configuration, and that of one rule when it is built for a rule.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub global: Option<&'a Value>,
    pub rule: Option<&'a Value>,
    /// Rules of the whole object; some plugins act everywhere only if there are none.
    pub n_rules: usize,
}
