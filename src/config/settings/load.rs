//! Reads `config.toml` and names everything wrong with it: every unknown key, every value of a wrong type or out of range.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value as Schema;
use toml::de::DeTable;
use toml::{Table, Value};

use super::document::{json_schema, property};
use super::{Flywheel, Limits, RagEmbedding, Settings, Telemetry, Timeouts};
use crate::config::suggest::did_you_mean;
use crate::config::{Problem, Severity};

impl Settings {
    /// Reads the file. Its absence is an error only here: callers that were given no file use the defaults.
    ///
    /// # Errors
    /// Every problem found; at least one.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        all_or_nothing(Self::read(path))
    }

    /// As [`Settings::load`], from text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<Problem>> {
        all_or_nothing(Self::read_text(text, path))
    }

    /// What can be used of the file, with defaults in place of the rest, and every problem found: for looking further.
    pub fn read(path: &Path) -> (Self, Vec<Problem>) {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::read_text(&text, path),
            Err(error) => (Self::default(), vec![problem(path, None, "", format!("cannot be read: {error}"), None)]),
        }
    }

    fn read_text(text: &str, path: &Path) -> (Self, Vec<Problem>) {
        let (spans, faults) = DeTable::parse_recoverable(text);
        if !faults.is_empty() {
            let line_of = |fault: &toml::de::Error| fault.span().map(|span| line_at(text, span.start));
            let invalid = |fault: &toml::de::Error| {
                problem(path, line_of(fault), "", format!("is not valid TOML: {}", fault.message()), None)
            };
            return (Self::default(), faults.iter().map(invalid).collect());
        }
        let mut reader = Reader { path, text, lines: BTreeMap::new(), problems: Vec::new() };
        let table = toml::from_str(text).unwrap_or_default();
        let usable = reader.usable(table, spans.get_ref(), &json_schema(), &[]);
        let settings = Self::deserialize(Value::Table(usable)).unwrap_or_default();
        settings.check(&mut |key, message| reader.add(key, message.to_owned(), None));
        (settings, reader.problems)
    }

    fn check(&self, add: &mut impl FnMut(&str, &str)) {
        let mut positive = |key: &str, value: u64| {
            if value == 0 {
                add(key, "must be greater than 0");
            }
        };
        let Limits { max_body_bytes, max_header_bytes, .. } = self.limits;
        positive("limits.max_body_bytes", max_body_bytes as u64);
        positive("limits.max_header_bytes", max_header_bytes as u64);
        let Timeouts { request_read_secs, connect_ms, first_byte_secs, stream_idle_secs, .. } = self.timeouts;
        positive("timeouts.request_read_secs", request_read_secs);
        positive("timeouts.connect_ms", connect_ms);
        positive("timeouts.first_byte_secs", first_byte_secs);
        positive("timeouts.stream_idle_secs", stream_idle_secs);
        positive("timeouts.client_idle_secs", self.timeouts.client_idle_secs);
        positive("timeouts.upstream_idle_secs", self.timeouts.upstream_idle_secs);
        positive("outlier_detection.base_ejection_secs", self.outlier_detection.base_ejection_secs);
        let Flywheel { flush_interval_ms, queue_rows, .. } = self.flywheel;
        positive("flywheel.flush_interval_ms", flush_interval_ms);
        positive("flywheel.queue_rows", queue_rows as u64);
        let Telemetry { log_level, otlp_endpoint, .. } = &self.telemetry;
        if self.outlier_detection.max_ejection_percent > 100 {
            add("outlier_detection.max_ejection_percent", "must be a percentage between 0 and 100");
        }
        if log_level.is_empty() {
            add("telemetry.log_level", "must not be empty");
        }
        let is_url =
            |url: &String| url.parse::<http::Uri>().is_ok_and(|url| url.scheme().is_some() && url.host().is_some());
        if otlp_endpoint.as_ref().is_some_and(|url| !is_url(url)) {
            add("telemetry.otlp_endpoint", "must be a URL such as http://127.0.0.1:4318");
        }
        let rag = &self.rag;
        if rag.storage_url.as_ref().is_some_and(|url| !url.starts_with("s3://") || !is_url(url)) {
            add("rag.storage_url", "must be a URL such as s3://bucket/folder");
        }
        if rag.storage_endpoint.as_ref().is_some_and(|url| !is_url(url)) {
            add("rag.storage_endpoint", "must be a URL such as http://127.0.0.1:9000");
        }
        if self.rag.timeout_secs == 0 {
            add("rag.timeout_secs", "must be greater than 0");
        }
        if self.rag.url.as_ref().is_some_and(|url| !is_url(url)) {
            add("rag.url", "must be a URL such as https://api.openai.com/v1");
        }
        if self.rag.model.as_ref().is_some_and(|model| model.is_empty() || model.starts_with("rag/")) {
            add("rag.model", "must be the name of a model that writes; rag/... is answered by a knowledge base itself");
        }
        let RagEmbedding { url, model, dimensions, batch, timeout_secs, .. } = &rag.embedding;
        if url.as_ref().is_some_and(|url| !is_url(url)) {
            add("rag.embedding.url", "must be a URL such as https://api.openai.com/v1");
        }
        if url.is_some() != model.as_ref().is_some_and(|model| !model.is_empty()) {
            add("rag.embedding.model", "must be set together with rag.embedding.url: one is no use without the other");
        }
        if dimensions.is_some_and(|dimensions| !(8..=16_384).contains(&dimensions)) {
            add("rag.embedding.dimensions", "must be between 8 and 16384");
        }
        if !(1..=2_048).contains(batch) {
            add("rag.embedding.batch", "must be between 1 and 2048");
        }
        if *timeout_secs == 0 {
            add("rag.embedding.timeout_secs", "must be greater than 0");
        }
        if !(1..=10).contains(&self.rag.web.results) {
            add("rag.web.results", "must be between 1 and 10");
        }
        if !is_url(&self.acme.directory) {
            add("acme.directory", "must be a URL such as https://acme-v02.api.letsencrypt.org/directory");
        }
    }
}

fn all_or_nothing((settings, problems): (Settings, Vec<Problem>)) -> Result<Settings, Vec<Problem>> {
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// One pass over the file's keys.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    /// Of each key, by its dotted path.
    lines: BTreeMap<String, u64>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The table without the keys that are none and the values that cannot be read, which have been reported.
    fn usable(&mut self, table: Table, spans: &DeTable<'_>, schema: &Schema, parents: &[&str]) -> Table {
        let Some(Schema::Object(known)) = schema.get("properties") else { return table };
        let mut usable = Table::new();
        for (key, value) in table {
            let names = [parents, &[key.as_str()]].concat();
            let path = names.join(".");
            let span = spans.iter().find(|(name, _)| *name.get_ref() == key);
            self.lines.extend(span.map(|(name, _)| (path.clone(), line_at(self.text, name.span().start))));
            let schema = property(schema, &key);
            let is_section = schema.get("properties").is_some();
            match (value, span.and_then(|(_, value)| value.get_ref().as_table())) {
                _ if !known.contains_key(&key) => {
                    let hint = did_you_mean(&key, known.keys().map(String::as_str));
                    self.add(&path, "is not a setting".to_owned(), hint);
                }
                (Value::Table(inner), Some(spans)) if is_section => {
                    let inner = self.usable(inner, spans, schema, &names);
                    usable.insert(key, Value::Table(inner));
                }
                _ if is_section => self.add(&path, format!("is a section: write [{path}] and its keys below"), None),
                (value, _) => match unreadable(&names, &value) {
                    None => drop(usable.insert(key, value)),
                    Some(message) => self.add(&path, message, None),
                },
            }
        }
        usable
    }

    fn add(&mut self, key: &str, message: String, hint: Option<String>) {
        self.problems.push(problem(self.path, self.lines.get(key).copied(), key, message, hint));
    }
}

/// Why the value cannot be what its key means. Every key has a default, so each can be read by itself.
fn unreadable(names: &[&str], value: &Value) -> Option<String> {
    let within = |inner: Value, name: &&str| Value::Table(Table::from_iter([((*name).to_owned(), inner)]));
    let alone = names.iter().rev().fold(value.clone(), within);
    let message = Settings::deserialize(alone).err()?.message().to_owned();
    let Some((found, kind)) = message.rsplit_once(", expected ") else { return Some(message) };
    let expected = match kind {
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number from 0 on",
        other => other,
    };
    Some(format!("{found}, expected {expected}"))
}

fn line_at(text: &str, offset: usize) -> u64 {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() as u64 + 1
}

fn problem(path: &Path, line: Option<u64>, key: &str, message: String, hint: Option<String>) -> Problem {
    let field = (!key.is_empty()).then(|| key.to_owned());
    Problem { severity: Severity::Error, file: path.to_owned(), line, object: None, field, message, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &expect_test::Expect) {
        let problems = Settings::parse(text, Path::new("config.toml")).unwrap_err();
        expected.assert_eq(&problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
    }

    #[test]
    fn empty_file_is_the_default() {
        assert_eq!(Settings::parse("", Path::new("config.toml")).unwrap(), Settings::default());
    }

    #[test]
    fn some_keys_may_be_set() {
        let settings =
            Settings::parse("data_dir = '/var/lib/weirgate'\n[telemetry]\naccess_log = 'off'\n", Path::new("c"))
                .unwrap();
        assert_eq!(settings.data_dir, Path::new("/var/lib/weirgate"));
        assert_eq!(settings.telemetry.access_log, super::super::AccessLog::Off);
        assert_eq!(settings.listen, super::super::Listen::default());
    }

    #[test]
    fn every_problem_is_named() {
        check(
            "dat_dir = 'x'\n[listen]\nhttp-port = 1\ncolour = 'red'\n[limits]\nmax_body_bytes = 0\n[telemetry]\notlp_endpoint = 'x'\n",
            &expect_test::expect![[r#"
                error: config.toml:1: dat_dir: is not a setting (did you mean `data_dir`?)
                error: config.toml:4: listen.colour: is not a setting
                error: config.toml:3: listen.http-port: is not a setting (did you mean `http_port`?)
                error: config.toml:6: limits.max_body_bytes: must be greater than 0
                error: config.toml:8: telemetry.otlp_endpoint: must be a URL such as http://127.0.0.1:4318
            "#]],
        );
        check(
            "[rag]\nmodel = 'rag/x'\nurl = 'y'\n[rag.web]\nresults = 0\nkee = 'z'\n",
            &expect_test::expect![[r#"
                error: config.toml:6: rag.web.kee: is not a setting (did you mean `key`?)
                error: config.toml:3: rag.url: must be a URL such as https://api.openai.com/v1
                error: config.toml:2: rag.model: must be the name of a model that writes; rag/... is answered by a knowledge base itself
                error: config.toml:5: rag.web.results: must be between 1 and 10
            "#]],
        );
        check(
            "[listen]\nhttp_port = 'x'\n[listn]\n",
            &expect_test::expect![[r#"
                error: config.toml:2: listen.http_port: invalid type: string "x", expected a whole number from 0 to 65535
                error: config.toml:3: listn: is not a setting (did you mean `listen`?)
            "#]],
        );
        check(
            "[listen]\nhttp_port = 70000\n",
            &expect_test::expect![[r#"
                error: config.toml:2: listen.http_port: invalid value: integer `70000`, expected a whole number from 0 to 65535
            "#]],
        );
        check(
            "[telemetry]\nlog_format = 'xml'\n",
            &expect_test::expect![[r#"
                error: config.toml:2: telemetry.log_format: unknown variant `xml`, expected `text` or `json`
            "#]],
        );
        check(
            "a = \nb = 1\n",
            &expect_test::expect![[r#"
            error: config.toml:1: is not valid TOML: string values must be quoted, expected literal string
        "#]],
        );
    }

    #[test]
    fn missing_file_is_named() {
        let problems = Settings::load(Path::new("/nonexistent/config.toml")).unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.to_string().contains("/nonexistent/config.toml: cannot be read"))
        );
    }
}
