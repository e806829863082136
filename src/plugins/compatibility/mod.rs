//! What behaves differently from Higress, plugin by plugin, and the document made of it (docs/compatibility.md).
//!
//! The fields are asked of the plugins themselves: what the parser knows is what is listed. Rows of `differences` are added
//! by whoever adds a plugin; one without a row has no known differences. Read by `weirgate import` too.

mod differences;

use serde_json::json;

use self::differences::DIFFERENCES;
use super::config::known_fields;
use super::registry::{PLUGINS, PluginSpec, Scope};
use crate::config::model::Phase;

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

/// The text of docs/compatibility.md.
pub fn document() -> String {
    let mut text = String::from(
        "# Compatibility with Higress plugins\n\n\
         Made from the registry by a test; do not edit (`WEIRGATE_UPDATE_GOLDEN=1 cargo test compatibility` writes it).\n\n\
         The plugins below are part of the program and read the configuration of their namesakes in Higress, in the order of the\n\
         chain. Unknown fields have no effect and are named in a warning. A plugin that is not listed is left out where its object says\n\
         `FAIL_OPEN`; otherwise the requests it is for get a 503.\n\n\
         | Plugin | Phase | Priority | Fields |\n|---|---|---|---|\n",
    );
    for spec in PLUGINS {
        let fields: Vec<String> = fields(spec).iter().map(|field| format!("`{field}`")).collect();
        let phase = match spec.phase {
            Phase::Authn => "AUTHN",
            Phase::Authz => "AUTHZ",
            Phase::Stats => "STATS",
            Phase::Unspecified => "default",
        };
        text.push_str(&format!("| {} | {phase} | {} | {} |\n", spec.name, spec.priority, fields.join(", ")));
    }
    for spec in PLUGINS {
        text.push_str(&format!("\n## {}\n\n{}.\n\n", spec.name, spec.summary));
        match differences(spec.name) {
            [] => text.push_str("No known differences.\n"),
            differences => differences.iter().for_each(|difference| text.push_str(&format!("- {difference}\n"))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::registry::find;

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

    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
        if std::env::var_os("WEIRGATE_UPDATE_GOLDEN").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed,
            document(),
            "run WEIRGATE_UPDATE_GOLDEN=1 cargo test compatibility and read the difference"
        );
    }
}
