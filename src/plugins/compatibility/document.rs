//! docs/compatibility.md: what the registry says of each plugin, which tests it has (they pass where this one does, in the same run),
//! and where its fields are explained.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::differences;
use crate::config::model::Phase;
use crate::plugins::config::known_fields;
use crate::plugins::registry::{NOT_HERE, PLUGINS, PluginSpec, Scope};

const HEAD: &str = "# Compatibility with Higress plugins

Made from the registry and the tests by a test; do not edit (`WEIRGATE_UPDATE_GOLDEN=1 cargo test compatibility` writes it).

The plugins below are part of the program and read the configuration of their namesakes in Higress, in the order of the
chain. Unknown fields have no effect and are named in a warning. A plugin that is not listed is left out where its object says
`FAIL_OPEN`; otherwise the requests it is for get a 503. With a value it cannot use a plugin is out in the same way, but only
where that value applies, and plugins that keep requests out never let them pass for that. All tests named here pass with every change.

Of the 40 end-to-end tests of Higress for routes, TLS, registries, Http2Rpc, settings and these plugins 38 pass. One wants a cipher suite in CBC mode, which the
TLS stack does not have; the Go case of request-block looks for a text in an answer that is the request's own body.

| Plugin | Phase | Priority | Unit tests | Tests of the whole gateway | Higress' e2e cases | Fields at the top |
|---|---|---|--:|--:|---|---|
";

/// Documents with the tables of fields, nested ones included.
const REFERENCES: [&str; 5] =
    ["plugins.md", "plugins-traffic.md", "plugins-transform.md", "configuration.md", "rag.md"];

fn document() -> String {
    let repository = Repository::read();
    let mut text = HEAD.to_owned();
    for spec in PLUGINS {
        let fields = fields(spec).into_iter().filter(|field| !field.is_empty());
        let fields: Vec<String> = fields.map(|field| format!("`{field}`")).collect();
        let phase = match spec.phase {
            Phase::Authn => "AUTHN",
            Phase::Authz => "AUTHZ",
            Phase::Stats => "STATS",
            Phase::Unspecified => "default",
        };
        let (n_unit, n_whole) = (repository.n_unit_tests(spec), repository.n_tests_of_the_whole(spec));
        let e2e = if repository.has_e2e_cases(spec) { "yes" } else { "" };
        let link =
            repository.reference(spec).map_or_else(|| spec.name.to_owned(), |to| format!("[{}]({to})", spec.name));
        let row = format!(
            "| {link} | {phase} | {} | {n_unit} | {n_whole} | {e2e} | {} |\n",
            spec.priority,
            fields.join(", ")
        );
        text.push_str(&row);
    }
    let missing: Vec<String> = NOT_HERE.iter().map(|name| format!("`{name}`")).collect();
    text.push_str(&format!(
        "\nOf the plugins of Higress these are not here, and wait for the Wasm host or a native form: {}.\n",
        missing.join(", ")
    ));
    for spec in PLUGINS {
        text.push_str(&format!("\n## {}\n\n{}.\n\n", spec.name, spec.summary));
        match differences(spec.name) {
            [] => text.push_str("No known differences.\n"),
            differences => differences.iter().for_each(|difference| text.push_str(&format!("- {difference}\n"))),
        }
    }
    text
}

/// The fields that stand at the top of a plugin's configuration, asked of the plugin: what its parser knows is what is listed.
pub(super) fn fields(spec: &PluginSpec) -> Vec<String> {
    // No plugin has a field of this name, and the complaint about it lists those there are.
    let config = json!({"\u{0}": null});
    let problems = (spec.check)(&Scope { global: Some(&config), rule: None, n_rules: 0 });
    let known = problems.iter().find_map(|problem| known_fields(&problem.message));
    known.map(|fields| fields.into_iter().map(str::to_owned).collect()).unwrap_or_default()
}

/// The name without the mark of a port to Go, which shares code and tests with the other.
fn base(spec: &PluginSpec) -> &str {
    spec.name.strip_prefix("go-").unwrap_or(spec.name)
}

/// The texts that tell about plugins.
struct Repository {
    /// Sources of plugins, with path.
    sources: Vec<(PathBuf, String)>,
    /// Each test of the integration binary.
    whole: Vec<String>,
    e2e: String,
    /// File and text of [`REFERENCES`].
    references: Vec<(&'static str, String)>,
}

impl Repository {
    fn read() -> Repository {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let mut paths = Vec::new();
        files(&root.join("src/plugins"), &mut paths);
        let sources = paths.into_iter().map(|path| (path.clone(), read(&path))).collect();
        let mut paths = Vec::new();
        files(&root.join("src/tests"), &mut paths);
        let whole = paths.iter().flat_map(|path| tests(&read(path))).collect();
        let e2e = read(&root.join("scripts/peer-tests"));
        let references = REFERENCES.map(|name| (name, read(&root.join("docs").join(name)))).into();
        Repository { sources, whole, e2e, references }
    }

    fn n_unit_tests(&self, spec: &PluginSpec) -> usize {
        let name = base(spec).replace('-', "_");
        let names = [name.as_str(), name.strip_prefix("ai_").unwrap_or(&name)];
        let is_own = |path: &Path| {
            path.iter().filter_map(|part| part.to_str()).any(|part| names.contains(&part.trim_end_matches(".rs")))
        };
        self.sources.iter().filter(|(path, _)| is_own(path)).map(|(_, text)| tests(text).len()).sum()
    }

    /// Tests that name the plugin, or what only this port of it does.
    fn n_tests_of_the_whole(&self, spec: &PluginSpec) -> usize {
        let name = format!("\"{}\"", base(spec));
        self.whole.iter().filter(|test| test.contains(&name)).count()
    }

    fn has_e2e_cases(&self, spec: &PluginSpec) -> bool {
        let cases = self.e2e.lines().filter(|line| line.starts_with("implemented") || line.contains("implemented+="));
        // Of some that Higress has twice only one is among the cases.
        let is_other_port = |line: &&str| spec.name != base(spec) && line.contains(&format!("{} CPP", base(spec)));
        let mut words =
            cases.filter(|line| !is_other_port(line)).flat_map(|line| line.split(['(', ')', '|', ':', '\'', ' ']));
        words.any(|word| word == base(spec))
    }

    /// Where the fields are explained: the heading that names the plugin.
    fn reference(&self, spec: &PluginSpec) -> Option<String> {
        [spec.name, base(spec)].into_iter().find_map(|name| {
            self.references.iter().find_map(|(file, text)| {
                let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                let mut headings = headings.map(|line| line.trim_start_matches('#').trim());
                let heading = headings.find(|heading| heading.split([' ', ',', '`', '(']).any(|word| word == name))?;
                Some(format!("{file}#{}", slug(heading)))
            })
        })
    }
}

/// A heading's anchor, as code hosts make it.
fn slug(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

/// The tests of a source, each from its attribute to the next one's.
fn tests(source: &str) -> Vec<String> {
    let source = source.replace("#[tokio::test", "#[test]");
    source.split("#[test]").skip(1).map(str::to_owned).collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
    if std::env::var_os("WEIRGATE_UPDATE_GOLDEN").is_some() {
        fs::write(path, document()).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    let hint = "run WEIRGATE_UPDATE_GOLDEN=1 cargo test compatibility and read the difference";
    assert_eq!(committed, document(), "{hint}");
}
