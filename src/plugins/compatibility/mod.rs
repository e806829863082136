//! What behaves differently from Higress, plugin by plugin, and the document made of it (docs/compatibility.md).
//!
//! Rows of `differences` are added by whoever adds a plugin; one without a row has no known differences. Read by `weirgate
//! import`, and by the test `document` that keeps the document true.

mod differences;
#[cfg(test)]
mod document;

use self::differences::DIFFERENCES;

/// Differences of one plugin.
pub fn differences(plugin: &str) -> &'static [&'static str] {
    DIFFERENCES.iter().find(|(name, _)| *name == plugin).map_or(&[], |(_, differences)| differences)
}

#[cfg(test)]
mod tests {
    use super::document::fields;
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
