//! What behaves differently from Higress, plugin by plugin, and the document made of it (docs/compatibility.md).
//!
//! The fields are asked of the plugins themselves: what the parser knows is what is listed. Rows of `differences` are added
//! by whoever adds a plugin; one without a row has no known differences. Read by `weirgate import` too.

mod differences;
#[cfg(test)]
mod document;

use serde_json::json;

use self::differences::DIFFERENCES;
use super::config::known_fields;
use super::registry::{PluginSpec, Scope};

/// Differences of one plugin.
pub fn differences(plugin: &str) -> &'static [&'static str] {
    DIFFERENCES.iter().find(|(name, _)| *name == plugin).map_or(&[], |(_, differences)| differences)
}

/// The fields that stand at the top of a plugin's configuration.
pub fn fields(spec: &PluginSpec) -> Vec<String> {
    // No plugin has a field of this name, and the complaint about it lists those there are.
    let config = json!({"\u{0}": null});
    let problems = (spec.check)(&Scope { global: Some(&config), rule: None, n_rules: 0 });
    let known = problems.iter().find_map(|problem| known_fields(&problem.message));
    known.map(|fields| fields.into_iter().map(str::to_owned).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::registry::{PLUGINS, find};

    #[test]
    fn every_row_is_of_a_plugin_and_every_plugin_tells_its_fields() {
        for (name, differences) in DIFFERENCES {
            assert!(find(name).is_some_and(|spec| spec.name == *name), "{name} is no plugin");
            assert!(!differences.is_empty(), "{name}");
        }
        let silent: Vec<&str> = PLUGINS.iter().filter(|spec| fields(spec).is_empty()).map(|spec| spec.name).collect();
        assert!(silent.is_empty(), "these do not name what they know: {silent:?}");
        assert!(fields(find("cache-control").unwrap()).iter().eq(["suffix", "expires"]));
    }
}
