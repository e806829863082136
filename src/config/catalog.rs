//! What the configuration needs to know about plugins, as a trait: `plugins::registry` implements it, `server` and
//! `weirgate validate` hand it in. So `config` checks plugin settings without knowing any plugin.

use serde_json::Value;

pub trait PluginCatalog {
    /// Names of the built-in plugins, for example `key-auth`.
    fn names(&self) -> Vec<&str>;

    fn knows(&self, plugin: &str) -> bool {
        self.names().contains(&plugin)
    }

    /// Checks one configuration of a known plugin and returns every fault as (dotted field, message); an empty list means
    /// that the plugin can be built from it. `config` is the global configuration, or with `is_rule` that of one rule;
    /// `global` is then the global one, for plugins whose rules extend it.
    fn check(&self, plugin: &str, config: &Value, is_rule: bool, global: Option<&Value>) -> Vec<(String, String)>;
}
