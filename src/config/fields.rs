//! Reading one JSON object field by field: wrong types become errors with the dotted path, and what nobody asked for
//! becomes a warning. Every kind is read through this, so no reader stops at the first fault or drops a field in silence.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::problem::ObjectReport;
use super::suggest::did_you_mean;

pub(super) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
    /// Keys this reader understands; the rest is reported by [`Fields::finish`].
    known: Vec<&'static str>,
    report: ObjectReport<'a>,
}

impl<'a> Fields<'a> {
    /// `path` is empty for the object itself. `null` counts as an empty object.
    pub fn new(value: &'a Value, path: impl Into<String>, report: ObjectReport<'a>) -> Self {
        let path = path.into();
        let map = match value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            other => {
                report.error(&path, format!("must be a mapping, not {}", type_name(other)));
                None
            }
        };
        Self { map, path, known: Vec::new(), report }
    }

    /// `false` if something else stood there, which has been reported.
    pub fn is_mapping(&self) -> bool {
        self.map.is_some()
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn report(&self) -> ObjectReport<'a> {
        self.report
    }

    /// The dotted path of a field.
    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// `null` is the same as absent.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map?.get(key).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        match self.value(key)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong_type(key, "a string", other);
                None
            }
        }
    }

    /// A string that must be there and not be empty.
    pub fn required_text(&mut self, key: &'static str) -> Option<&'a str> {
        if self.value(key).is_none() {
            self.report.error(&self.path_of(key), "is missing");
            return None;
        }
        let text = self.text(key)?;
        if text.is_empty() {
            self.report.error(&self.path_of(key), "must not be empty");
            return None;
        }
        Some(text)
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            other => {
                self.wrong_type(key, "true or false", other);
                None
            }
        }
    }

    /// A whole number that fits `T`; also in the form `"100"`, which appears in real files.
    pub fn integer<T: TryFrom<i64>>(&mut self, key: &'static str) -> Option<T> {
        let value = self.value(key)?;
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number.map(T::try_from) {
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => {
                self.report.error(&self.path_of(key), format!("{value} is out of range"));
                None
            }
            None => {
                self.wrong_type(key, "a whole number", value);
                None
            }
        }
    }

    /// A TCP port. Everything else that is written there is an error.
    pub fn port(&mut self, key: &'static str) -> Option<u16> {
        let value = self.value(key)?;
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number.and_then(|number| u16::try_from(number).ok()) {
            Some(port @ 1..) => Some(port),
            _ => {
                self.report.error(&self.path_of(key), "must be a port between 1 and 65535");
                None
            }
        }
    }

    /// A span of time as `1m30s`.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let text = self.text(key)?;
        let parsed = parse_duration(text);
        if parsed.is_none() {
            self.report.error_hint(
                &self.path_of(key),
                format!("`{text}` is not a duration"),
                "for example 10s, 500ms, 1m30s",
            );
        }
        parsed
    }

    pub fn object(&mut self, key: &'static str) -> Option<Fields<'a>> {
        let value = self.value(key)?;
        Some(Fields::new(value, self.path_of(key), self.report))
    }

    /// The elements of a list with their paths; absent is empty.
    pub fn list(&mut self, key: &'static str) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let path = self.path_of(key);
        let elements = match self.value(key) {
            None => &[],
            Some(Value::Array(elements)) => elements.as_slice(),
            Some(other) => {
                self.wrong_type(key, "a list", other);
                &[]
            }
        };
        elements.iter().enumerate().map(move |(i, element)| (format!("{path}[{i}]"), element))
    }

    /// The mappings of a list. What is none is reported and left out: read as an empty one it would mean everything.
    pub fn objects(&mut self, key: &'static str) -> Vec<Fields<'a>> {
        let report = self.report;
        let read = |(path, element): (String, &'a Value)| {
            if element.is_null() {
                report.error(&path, "must be a mapping, not null");
            }
            Some(Fields::new(element, path, report)).filter(Fields::is_mapping)
        };
        self.list(key).filter_map(read).collect()
    }

    pub fn texts(&mut self, key: &'static str) -> Vec<String> {
        let report = self.report;
        self.list(key)
            .filter_map(|(path, element)| match element {
                Value::String(text) => Some(text.clone()),
                other => {
                    report.error(&path, format!("must be a string, not {}", type_name(other)));
                    None
                }
            })
            .collect()
    }

    /// A mapping of names to strings, as in labels; numbers and booleans are taken as their text.
    pub fn text_map(&mut self, key: &'static str) -> Vec<(&'a str, Cow<'a, str>)> {
        let path = self.path_of(key);
        let map = match self.value(key) {
            None => return Vec::new(),
            Some(Value::Object(map)) => map,
            Some(other) => {
                self.wrong_type(key, "a mapping", other);
                return Vec::new();
            }
        };
        map.iter()
            .filter_map(|(name, value)| match value {
                Value::String(text) => Some((name.as_str(), Cow::Borrowed(text.as_str()))),
                Value::Number(_) | Value::Bool(_) => {
                    self.report.warn_hint(
                        &format!("{path}[{name}]"),
                        format!("must be a string, not {}; read as \"{value}\"", type_name(value)),
                        "put it in quotes: Kubernetes and Higress reject it otherwise",
                    );
                    Some((name.as_str(), Cow::Owned(value.to_string())))
                }
                Value::Null => Some((name.as_str(), Cow::Borrowed(""))),
                other => {
                    self.report
                        .error(&format!("{path}[{name}]"), format!("must be a string, not {}", type_name(other)));
                    None
                }
            })
            .collect()
    }

    /// Fields that are valid here and rightly have no effect on this gateway.
    pub fn inert(&mut self, keys: &[&'static str]) {
        self.known.extend_from_slice(keys);
    }

    /// Fields of Higress whose effect is missing here: said once each, when present.
    pub fn unsupported(&mut self, keys: &[&'static str]) {
        for key in keys {
            if self.value(key).is_some() {
                self.report.warn(&self.path_of(key), "is not supported yet and has no effect");
            }
        }
    }

    /// Warns about every field nobody asked for.
    pub fn finish(self) {
        let Some(map) = self.map else { return };
        for key in map.keys() {
            if !self.known.contains(&key.as_str()) {
                let hint = did_you_mean(key, self.known.iter().copied());
                self.report.add(
                    super::Severity::Warning,
                    &join(&self.path, key),
                    "is not a field of this object and has no effect".to_owned(),
                    hint,
                );
            }
        }
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &Value) {
        self.report.error(&self.path_of(key), format!("must be {expected}, not {}", type_name(found)));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Names the type only: the value may be a secret.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// `1h2m3s4ms`, any of them, each with up to nine decimals.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut nanos = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let unit: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            _ => return None,
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let scale = 10_u128.pow(u32::try_from(decimals.len()).ok().filter(|n| *n <= 9)?);
        nanos +=
            unit * u128::from(whole.parse::<u64>().ok()?) + unit * u128::from(decimals.parse::<u64>().ok()?) / scale;
        rest = tail;
    }
    (!text.is_empty()).then(|| u64::try_from(nanos).ok().map(Duration::from_nanos))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h0m0s1ms", 3_600_001),
            ("0s", 0),
            ("1.5s", 1500),
            ("0.25h", 900_000),
            ("2.0ms", 2),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "10s5",
            "1d",
            "-1s",
            "1.s",
            ".5s",
            "1.2.3s",
            "1.5",
            "1.12345678901s",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
