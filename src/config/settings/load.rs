//! Reads `config.toml` and names everything wrong with it: every unknown key, the first value of a wrong type, every
//! value out of range.

use std::path::Path;

use serde_json::Value;
use toml::Table;

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
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![problem(path, None, String::new(), format!("cannot be read: {error}"), None)])?;
        Self::parse(&text, path)
    }

    /// As [`Settings::load`], from text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<Problem>> {
        let line_of = |error: &toml::de::Error| error.span().map(|span| line_at(text, span.start));
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            vec![problem(path, line_of(&error), String::new(), format!("is not valid TOML: {}", error.message()), None)]
        })?;
        let mut problems = Vec::new();
        unknown_keys(&table, &json_schema(), "", &mut |key, hint| {
            problems.push(problem(path, None, key, "is not a setting".to_owned(), hint));
        });
        match toml::from_str::<Self>(text) {
            Ok(settings) => {
                let mut add = |key: &str, message: &str| {
                    problems.push(problem(path, None, key.to_owned(), message.to_owned(), None));
                };
                settings.check(&mut add);
                if problems.is_empty() { Ok(settings) } else { Err(problems) }
            }
            Err(error) => {
                let line = line_of(&error);
                let key = line.and_then(|line| text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?));
                let key = key.and_then(|line| line.split('=').next()).unwrap_or_default().trim().to_owned();
                problems.push(problem(path, line, key, error.message().to_owned(), None));
                Err(problems)
            }
        }
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

fn unknown_keys(table: &Table, schema: &Value, prefix: &str, add: &mut impl FnMut(String, Option<String>)) {
    let Some(Value::Object(known)) = schema.get("properties") else { return };
    for (key, value) in table {
        let full = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if !known.contains_key(key) {
            add(full, did_you_mean(key, known.keys().map(String::as_str)));
        } else if let toml::Value::Table(inner) = value {
            unknown_keys(inner, property(schema, key), &full, add);
        }
    }
}

fn line_at(text: &str, offset: usize) -> u64 {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() as u64 + 1
}

fn problem(path: &Path, line: Option<u64>, key: String, message: String, hint: Option<String>) -> Problem {
    let field = (!key.is_empty()).then_some(key);
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
                error: config.toml: dat_dir: is not a setting (did you mean `data_dir`?)
                error: config.toml: listen.colour: is not a setting
                error: config.toml: listen.http-port: is not a setting (did you mean `http_port`?)
                error: config.toml: limits.max_body_bytes: must be greater than 0
                error: config.toml: telemetry.otlp_endpoint: must be a URL such as http://127.0.0.1:4318
            "#]],
        );
        check(
            "[rag]\nmodel = 'rag/x'\nurl = 'y'\n[rag.web]\nresults = 0\nkee = 'z'\n",
            &expect_test::expect![[r#"
                error: config.toml: rag.web.kee: is not a setting (did you mean `key`?)
                error: config.toml: rag.url: must be a URL such as https://api.openai.com/v1
                error: config.toml: rag.model: must be the name of a model that writes; rag/... is answered by a knowledge base itself
                error: config.toml: rag.web.results: must be between 1 and 10
            "#]],
        );
        check(
            "[listen]\nhttp_port = 'x'\n[listn]\n",
            &expect_test::expect![[r#"
            error: config.toml: listn: is not a setting (did you mean `listen`?)
            error: config.toml:2: http_port: invalid type: string "x", expected u16
        "#]],
        );
        check(
            "[listen]\nhttp_port = 70000\n",
            &expect_test::expect![[r#"
            error: config.toml:2: http_port: invalid value: integer `70000`, expected u16
        "#]],
        );
        check(
            "[telemetry]\nlog_format = 'xml'\n",
            &expect_test::expect![[r#"
            error: config.toml:2: log_format: unknown variant `xml`, expected `text` or `json`
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
