//! YAML text to a JSON value: the only place that names the YAML parser.
//!
//! Kubernetes reads YAML 1.1, so `yes` and `0755` keep the meaning they have there. Duplicate keys, tabs and several
//! documents in one file are errors with a line number. Aliases and nesting are bounded by the parser.

use serde_json::Value;

/// Where and why the text is not YAML (or not YAML that can be an object).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct YamlError {
    /// 1-based.
    pub line: Option<u64>,
    /// Quotes no values: the text may be a Secret.
    pub message: String,
}

/// The value as YAML.
///
/// # Errors
/// None that a value which was parsed can cause.
pub(super) fn print(value: &Value) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

/// An empty document is `null`.
pub(super) fn parse(text: &str) -> Result<Value, YamlError> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(without_end(text), options).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let message = match error.without_snippet() {
            serde_saphyr::Error::MultipleDocuments { .. } => "more than one YAML document".to_owned(),
            serde_saphyr::Error::DuplicateMappingKey { key, .. } => match key {
                Some(key) => format!("key `{key}` appears twice in one mapping"),
                None => "a key appears twice in one mapping".to_owned(),
            },
            other => {
                let rendered = other.to_string();
                // The position is reported separately.
                let text = rendered.lines().next().unwrap_or_default();
                text.split(" at line ").next().unwrap_or(text).to_owned()
            }
        };
        YamlError { line, message }
    })
}

/// Programs that write objects one after another end each with the line that begins a document, or ends one.
fn without_end(text: &str) -> &str {
    let text = text.trim_end();
    match text.strip_suffix("---").or_else(|| text.strip_suffix("...")) {
        Some(before) if before.ends_with('\n') => before,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, line: u64, message: &str) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, Some(line), "{error:?}");
        assert!(error.message.contains(message), "{error:?}");
    }

    #[test]
    fn errors_name_line_and_reason() {
        check_error("a: 1\nb: 2\na: 3\n", 3, "key `a` appears twice");
        check_error("a:\n\tb: 1\n", 2, "tab");
        check_error("a: 1\n---\nb: 2\n", 3, "more than one YAML document");
        check_error("a: *nope\n", 1, "unknown anchor");
        check_error(&"[".repeat(100_000), 1, "limit");
    }

    #[test]
    fn values_mean_what_kubernetes_reads() {
        let value = parse("a: yes\nb: 0755\nc: 2025-01-01T00:00:00Z\nd: '5'\n8080: x\ne: &e {k: 1}\nf: *e\n").unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a": true, "b": 493, "c": "2025-01-01T00:00:00Z", "d": "5", "8080": "x", "e": {"k": 1}, "f": {"k": 1}})
        );
        assert_eq!(parse("").unwrap(), Value::Null);
        for text in ["a: 1\n---\n", "---\na: 1\n---", "a: 1\n...\n\n"] {
            assert_eq!(parse(text).unwrap(), serde_json::json!({"a": 1}), "{text}");
        }
    }

    #[test]
    fn errors_do_not_quote_values() {
        let error = parse("password: hunter2\npassword: [\n").unwrap_err();
        assert!(!error.message.contains("hunter2"), "{error:?}");
    }
}
