//! The direction of dependencies, read from the source: the table of ARCHITECTURE.md as a test.
//!
//! A module may use those in its row; a new edge is a change of this table, which is rare and discussed.

use std::path::{Path, PathBuf};

/// Module and what it may use. `base` and the module itself are always allowed.
const MAY_USE: &[(&str, &[&str])] = &[
    ("acme", &["config"]),
    ("base", &[]),
    ("llm", &[]),
    ("telemetry", &[]),
    ("config", &[]),
    ("discovery", &["config"]),
    ("flywheel", &[]),
    ("routing", &[]),
    ("rpc", &["config"]),
    ("stores", &[]),
    ("infer", &[]),
    ("rag", &["infer"]),
    ("mcp", &["rag", "config"]),
    ("learning", &["routing", "infer", "flywheel", "telemetry"]),
    ("plugins", &["learning", "rag", "routing", "flywheel", "config", "telemetry", "llm", "stores"]),
    ("proxy", &["plugins", "mcp", "rpc", "config", "telemetry", "llm"]),
    ("admin", &["mcp", "rag", "telemetry"]),
    (
        "server",
        &[
            "acme",
            "admin",
            "proxy",
            "plugins",
            "mcp",
            "rag",
            "learning",
            "routing",
            "infer",
            "flywheel",
            "discovery",
            "config",
            "telemetry",
            "llm",
            "stores",
        ],
    ),
    ("cli", &["server", "proxy", "plugins", "rag", "learning", "routing", "infer", "flywheel", "config"]),
];

/// Crates that only the named places may use.
const FENCES: &[(&str, &[&str])] = &[
    ("pingora_core", &["proxy/", "server/"]),
    ("pingora_proxy", &["proxy/", "server/"]),
    ("pingora_error", &["proxy/", "server/"]),
    ("axum", &["admin/"]),
    ("rmcp", &["mcp/"]),
    ("rusqlite", &["flywheel/"]),
    ("serde_saphyr", &["config/yaml.rs"]),
    ("notify", &["config/source/"]),
    ("hickory_resolver", &["proxy/resolve.rs"]),
    ("clap", &["cli/"]),
    ("flate2", &["infer/folder.rs", "proxy/gzip.rs", "rag/read/pdf/bounds.rs"]),
    ("indicatif", &["cli/"]),
    ("prometheus_client", &["telemetry/"]),
    ("governor", &["proxy/limit.rs"]),
    ("rustls", &["base/tls.rs", "proxy/tls.rs"]),
    ("redis", &["stores/redis.rs"]),
    ("reqwest", &["server/outside/"]),
    ("instant_acme", &["acme/"]),
    ("rcgen", &["acme/"]),
    ("zentinel_modsec", &["plugins/security/waf/"]),
    ("jsonschema", &["plugins/security/request_validation.rs"]),
    ("candle_core", &["infer/"]),
    ("tokenizers", &["infer/"]),
    ("rayon", &["infer/"]),
    ("rustix", &["infer/"]),
    ("zip", &["infer/", "rag/read/docx.rs", "rag/read/testing.rs"]),
    ("lancedb", &["rag/store/"]),
    ("lance_core", &["rag/store/s3.rs"]),
    ("lance_io", &["rag/store/s3.rs"]),
    ("object_store", &["rag/store/s3.rs"]),
    ("arrow_array", &["rag/store/"]),
    ("arrow_schema", &["rag/store/"]),
    ("lopdf", &["rag/read/pdf", "rag/read/testing.rs"]),
    ("multer", &["rag/api/files.rs"]),
    ("pulldown_cmark", &["rag/read/markdown.rs"]),
    ("scraper", &["rag/read/html"]),
    ("quick_xml", &["rag/read/docx.rs"]),
    ("jieba_rs", &["rag/terms.rs"]),
    ("rust_stemmers", &["rag/terms.rs"]),
    ("zookeeper_client", &["discovery/zookeeper.rs"]),
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Path below `src/` and text without line comments, of everything but these tests.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&src(), &mut files);
    let sources: Vec<(String, String)> = files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(src()).unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(path).unwrap();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (name, code.join("\n"))
        })
        .filter(|(name, _)| !name.starts_with("tests/"))
        .collect();
    assert!(sources.len() > 50, "the sources were found");
    sources
}

/// Names that follow `prefix` in the text.
fn names_after<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    text.match_indices(prefix)
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default()
        })
        .collect()
}

/// Whether a path in the text begins with this crate.
fn uses_crate(text: &str, name: &str) -> bool {
    text.match_indices(&format!("{name}::"))
        .any(|(at, _)| !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':'))
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let module = name.split('/').next().unwrap_or_default();
        let Some((_, allowed)) = MAY_USE.iter().find(|(own, _)| *own == module) else {
            assert!(["lib.rs", "main.rs"].contains(&module), "{module} is missing in the table");
            continue;
        };
        // What stands in braces there would not be seen.
        if text.contains("crate::{") {
            wrong.push(format!("{name} imports several modules at once"));
        }
        for used in names_after(&text, "crate::") {
            let is_module = MAY_USE.iter().any(|(own, _)| *own == used);
            if is_module && used != module && used != "base" && !allowed.contains(&used) {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_stay_behind_their_fences() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for (fenced, places) in FENCES {
            if uses_crate(&text, fenced) && !places.iter().any(|place| name.starts_with(place)) {
                wrong.push(format!("{name} uses {fenced}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Family and name of a plugin's file or folder: a module that has a `SPEC`. Other modules of a family are there to be shared.
fn plugin_of<'a>(name: &'a str, plugins: &[(String, String)]) -> Option<(&'a str, &'a str)> {
    let (family, rest) = name.strip_prefix("plugins/")?.split_once('/')?;
    let own = rest.split('/').next()?.trim_end_matches(".rs");
    plugins.iter().any(|(f, p)| f == family && p == own).then_some((family, own))
}

#[test]
fn plugins_do_not_import_each_other() {
    let sources = sources();
    let plugins: Vec<(String, String)> = sources
        .iter()
        .filter(|(_, text)| text.contains("pub const SPEC: PluginSpec"))
        .filter_map(|(name, _)| {
            let (family, rest) = name.strip_prefix("plugins/")?.split_once('/')?;
            Some((family.to_owned(), rest.split('/').next()?.trim_end_matches(".rs").to_owned()))
        })
        .collect();
    assert!(plugins.len() >= 6, "the plugins were found: {plugins:?}");
    let mut wrong = Vec::new();
    for (name, text) in &sources {
        let Some((family, own)) = plugin_of(name, &plugins) else { continue };
        let is_other = |used: &&str, of: &str| {
            !(of == family && *used == own) && plugins.iter().any(|(f, p)| f == of && p == used)
        };
        for (of, _) in &plugins {
            let used = names_after(text, &format!("crate::plugins::{of}::"));
            wrong.extend(used.into_iter().filter(|used| is_other(used, of)).map(|used| format!("{name} uses {used}")));
        }
        // `super` is the family in a plugin's own file, `super::super` in the files of its folder.
        let near =
            if name.matches('/').count() == 2 || name.ends_with("/mod.rs") { "super::" } else { "super::super::" };
        let used = names_after(text, near);
        wrong.extend(used.into_iter().filter(|used| is_other(used, family)).map(|used| format!("{name} uses {used}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !name.ends_with("tests.rs"))
        .map(|(name, _)| (std::fs::read_to_string(src().join(&name)).unwrap().lines().count(), name))
        .filter(|(lines, _)| *lines > 600)
        .map(|(lines, name)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "find a seam in {long:#?}");
}
