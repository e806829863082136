//! A workload: a TOML file that says what is sent how. The bodies are built once, before anything is measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::numbers::RATES;

const PROSE: &str = "the gateway forwards each request to the chosen model and counts the tokens that come back ";

#[derive(Debug, Clone)]
pub struct Workload {
    /// The file's name without `.toml`.
    pub name: String,
    pub fields: Fields,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    #[serde(default = "chat_path")]
    pub path: String,
    /// Size of the user message in UTF-8; a character that would go beyond it is left out.
    pub prompt_bytes: usize,
    /// Repeated up to `prompt_bytes`.
    #[serde(default = "prose")]
    pub prompt: String,
    pub model: String,
    #[serde(default)]
    pub stream: bool,
    /// `1.1` or `2`.
    #[serde(default)]
    pub http: HttpVersion,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Host asked for, in place of the target's own; `{n}` becomes the number of the variant.
    pub host: Option<String>,
    /// How many different prompts (and hosts) take turns; each prompt starts with its number if there are several.
    #[serde(default = "one")]
    pub variants: usize,
    #[serde(default = "all_connections")]
    pub connections: Vec<usize>,
    /// Requests per second over all connections; closed loop if not given.
    pub rate: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
pub enum HttpVersion {
    #[default]
    #[serde(rename = "1.1")]
    Http1,
    #[serde(rename = "2")]
    Http2,
}

impl Workload {
    pub fn load(path: &Path) -> Result<Workload> {
        let file = || format!("workload file {}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", file()))?;
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Workload::parse(name, &text).with_context(file)
    }

    fn parse(name: String, text: &str) -> Result<Workload> {
        let fields: Fields = toml::from_str(text)?;
        if fields.prompt.is_empty()
            || fields.variants == 0
            || fields.connections.contains(&0)
            || fields.connections.is_empty()
        {
            bail!("fields prompt, variants and connections must not be empty or 0");
        }
        if fields.rate.is_some_and(|rate| !RATES.contains(&rate)) {
            bail!("field rate: must be between {} and {} requests per second", RATES.start(), RATES.end());
        }
        Ok(Workload { name, fields })
    }

    /// The host of each variant; one for all if they do not differ.
    pub fn hosts(&self, target: &str) -> Vec<String> {
        match &self.fields.host {
            Some(host) if host.contains("{n}") => {
                (0..self.fields.variants).map(|n| host.replace("{n}", &n.to_string())).collect()
            }
            Some(host) => vec![host.clone()],
            None => vec![target.to_string()],
        }
    }

    /// One request body per variant, asking for `model`.
    pub fn bodies(&self, model: &str) -> Vec<Bytes> {
        let fields = &self.fields;
        let body = |i: usize| {
            let mut prompt = if fields.variants > 1 { format!("{i}. ") } else { String::new() };
            while prompt.len() < fields.prompt_bytes {
                prompt.push_str(&fields.prompt);
            }
            prompt.truncate(prompt.floor_char_boundary(fields.prompt_bytes));
            let messages = json!([
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": prompt},
            ]);
            let body = json!({
                "model": model, "stream": fields.stream, "temperature": 0.2, "max_tokens": 256, "messages": messages,
            });
            Bytes::from(body.to_string())
        };
        (0..fields.variants).map(body).collect()
    }
}

fn chat_path() -> String {
    "/v1/chat/completions".to_string()
}

fn prose() -> String {
    PROSE.to_string()
}

fn one() -> usize {
    1
}

fn all_connections() -> Vec<usize> {
    vec![1, 16, 64, 256]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_workload_parses_and_has_the_size_it_names() {
        let mut n_workloads = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/workloads")).unwrap() {
            let workload = Workload::load(&entry.unwrap().path()).unwrap();
            let bodies = workload.bodies("m");
            assert_eq!(bodies.len(), workload.fields.variants);
            let size = bodies[0].len() - workload.fields.prompt_bytes;
            assert!((150..250).contains(&size), "{}: {size}", workload.name);
            n_workloads += 1;
        }
        assert!(n_workloads >= 4);
    }

    #[test]
    fn bad_fields_are_named() {
        let error = |text: &str| format!("{:#}", Workload::parse("w".into(), text).unwrap_err());
        assert!(error("prompt_bytes = 1\nmodel = \"m\"\nhttp = \"3\"").contains("http"));
        assert!(error("prompt_bytes = 1").contains("model"));
        assert!(error("prompt_bytes = 1\nmodel = \"m\"\nrate = -1.0").contains("rate: must be between 0.001"));
        assert!(error("prompt_bytes = 1\nmodel = \"m\"\nmodle = 1").contains("modle"));
    }

    #[test]
    fn the_size_is_in_bytes_whatever_the_language() {
        let prompt = |n_bytes: usize| {
            let text = format!("prompt_bytes = {n_bytes}\nprompt = \"网关转发\"\nmodel = \"m\"");
            let body = Workload::parse("w".into(), &text).unwrap().bodies("m").remove(0);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            body["messages"][1]["content"].as_str().unwrap().to_string()
        };
        assert_eq!(prompt(15), "网关转发网");
        assert_eq!(prompt(17), "网关转发网", "two bytes of the next character do not fit");
        assert_eq!(prompt(0), "");
    }

    #[test]
    fn variants_differ() {
        let workload =
            Workload::parse("w".into(), "prompt_bytes = 40\nmodel = \"m\"\nvariants = 3\nstream = true").unwrap();
        let bodies = workload.bodies("m");
        assert!(bodies[0] != bodies[1] && bodies[1] != bodies[2]);
        assert!(memchr::memmem::find(&bodies[0], b"\"stream\":true").is_some());
        assert_eq!(workload.hosts("a:80"), ["a:80"]);
        let named = "prompt_bytes = 40\nmodel = \"m\"\nvariants = 2\nhost = \"h{n}.test\"";
        assert_eq!(Workload::parse("w".into(), named).unwrap().hosts("a:80"), ["h0.test", "h1.test"]);
    }
}
