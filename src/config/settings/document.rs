//! The settings described: the commented default file and the JSON schema, both generated from the structs.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Settings;

const HEAD: &str = "\
# Settings of the Weirgate process. Every key is optional; the values below are the defaults.
# Routes, services and plugins are not here: they are YAML objects in config_dir.
# Written by `weirgate config default`.

";

/// JSON schema of `config.toml`, without references.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Settings>().to_value()
}

/// The whole default `config.toml`: every key with its description and default; keys without a default are commented out.
pub fn commented_default() -> String {
    let schema = json_schema();
    // Serialising keeps the order of the structs; nothing in them can fail to be TOML.
    let defaults = toml::to_string(&Settings::default()).unwrap_or_default();
    let mut out = HEAD.to_owned();
    let mut section: Option<&str> = None;
    for line in defaults.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            optional_keys(&mut out, section_of(&schema, section));
            out.push('\n');
            comment(&mut out, section_of(&schema, Some(name)));
            section = Some(name);
        } else if let Some((key, _)) = line.split_once(" = ") {
            comment(&mut out, property(section_of(&schema, section), key));
        }
        out.push_str(line);
        out.push('\n');
    }
    optional_keys(&mut out, section_of(&schema, section));
    out
}

fn section_of<'a>(schema: &'a Value, section: Option<&str>) -> &'a Value {
    section.map_or(schema, |name| name.split('.').fold(schema, property))
}

pub(super) fn property<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema.get("properties").and_then(|properties| properties.get(name)).unwrap_or(&Value::Null)
}

fn comment(out: &mut String, schema: &Value) {
    for line in schema.get("description").and_then(Value::as_str).into_iter().flat_map(str::lines) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# {line}");
    }
}

/// Keys without a default show an example.
fn optional_keys(out: &mut String, schema: &Value) {
    let Some(Value::Object(properties)) = schema.get("properties") else { return };
    for (key, property) in properties {
        if let Some(example) = property.get("examples").and_then(|examples| examples.get(0)) {
            comment(out, property);
            let _ = writeln!(out, "# {key} = {example}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file at the top of the repository is the generated one; `WEIRGATE_UPDATE_GOLDEN=1` writes it.
    #[test]
    fn committed_file_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
        if std::env::var_os("WEIRGATE_UPDATE_GOLDEN").is_some() {
            std::fs::write(path, commented_default()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap();
        assert_eq!(committed, commented_default(), "run the tests with WEIRGATE_UPDATE_GOLDEN=1");
    }

    #[test]
    fn generated_file_says_the_defaults_and_describes_every_key() {
        let text = commented_default();
        assert_eq!(Settings::parse(&text, "config.toml".as_ref()).unwrap(), Settings::default());
        let uncommented = text.replace("# otlp_endpoint", "otlp_endpoint");
        let settings = Settings::parse(&uncommented, "config.toml".as_ref()).unwrap();
        assert_eq!(settings.telemetry.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4318"));
    }
}
