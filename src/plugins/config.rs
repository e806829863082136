//! Reading a plugin's configuration: a checked view of a JSON object that collects every problem with its field.
//!
//! Values are read as Higress' plugins read them: a number or a flag in quotes is one, an unquoted number in a list of texts is
//! its digits, and what stands where a list should is a list of one.

use serde_json::{Map, Value};

use crate::base::secret::{Secret, has_reference};
pub use crate::config::FieldProblem;
use crate::config::Severity;

/// Whether a plugin can be built from a configuration with these problems.
pub fn is_usable(problems: &[FieldProblem]) -> bool {
    problems.iter().all(|problem| problem.severity == Severity::Warning)
}

/// Reads the members of one object; afterwards [`Fields::finish`] names what was not read.
pub struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    path: String,
    read: Vec<&'static str>,
    pub problems: Vec<FieldProblem>,
}

impl<'a> Fields<'a> {
    /// `path` is the dotted path of `value` itself, empty at the top.
    pub fn of(value: &'a Value, path: &str) -> Fields<'a> {
        let object = value.as_object();
        let mut problems = Vec::new();
        if object.is_none() {
            problems.push(FieldProblem::error(path, format!("must be an object, found {}", kind(value))));
        }
        Fields { object, path: path.to_owned(), read: Vec::new(), problems }
    }

    /// Dotted path of a member.
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The raw member, if present and not null.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.read.contains(&key) {
            self.read.push(key);
        }
        self.object.and_then(|object| object.get(key)).filter(|value| !value.is_null())
    }

    /// Whether a member is there and has no value.
    pub fn is_null(&self, key: &str) -> bool {
        self.object.and_then(|object| object.get(key)).is_some_and(Value::is_null)
    }

    /// Whether a member is a list without elements.
    pub fn is_empty(&self, key: &str) -> bool {
        self.object.and_then(|object| object.get(key)).and_then(Value::as_array).is_some_and(Vec::is_empty)
    }

    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Error, key, message);
    }

    pub fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Warning, key, message);
    }

    pub fn add(&mut self, severity: Severity, key: &str, message: impl Into<String>) {
        let problem = FieldProblem { field: self.at(key), message: message.into(), severity };
        self.problems.push(problem);
    }

    /// Whether nothing is wrong so far: what a later check would say of an unreadable value is no news.
    pub fn is_usable(&self) -> bool {
        is_usable(&self.problems)
    }

    fn typed<T>(&mut self, key: &'static str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let result = read(value);
        if result.is_none() {
            self.problem(key, format!("must be {expected}, found {}", kind(value)));
        }
        result
    }

    pub fn string(&mut self, key: &'static str) -> Option<&'a str> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A string, or what an unquoted number, true or false spells, as Higress' plugins in Go read texts.
    pub fn name(&mut self, key: &'static str) -> Option<String> {
        self.typed(key, "a string", |value| scalar_text(value).or_else(|| value.as_bool().map(|flag| flag.to_string())))
    }

    /// A value as text, however YAML spelled it: `10`, `"10"` and `true` alike; objects and lists as JSON.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// A string that no message may show: problems name its type only.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let value = self.get(key)?;
        let secret = scalar_text(value);
        match &secret {
            None => self.problem(key, format!("must be a string, found {}", type_name(value))),
            Some(text) if has_reference(text) => self.problem(key, NO_SECRET),
            Some(_) => {}
        }
        secret.map(Secret::new)
    }

    /// A list of [`Fields::secret`]; `None` if one of them is none.
    pub fn secrets(&mut self, key: &'static str) -> Option<Vec<Secret>> {
        let list = self.list(key)?;
        for (index, value) in list.iter().enumerate().filter(|(_, value)| scalar_text(value).is_none()) {
            self.problem(&format!("{key}[{index}]"), format!("must be a string, found {}", type_name(value)));
        }
        let texts = list.iter().enumerate().filter_map(|(index, value)| Some((index, scalar_text(value)?)));
        for (index, _) in texts.filter(|(_, text)| has_reference(text)) {
            self.problem(&format!("{key}[{index}]"), NO_SECRET);
        }
        list.iter().map(|value| scalar_text(value).map(Secret::new)).collect()
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", flag)
    }

    /// A number that is finite and not negative.
    pub fn amount(&mut self, key: &'static str) -> Option<f64> {
        self.typed(key, "a number that is not negative", |value| {
            unquoted(value, Value::as_f64).filter(|n| n.is_finite() && *n >= 0.0)
        })
    }

    pub fn count(&mut self, key: &'static str) -> Option<u64> {
        self.typed(key, "a whole number that is not negative", |value| unquoted(value, Value::as_u64))
    }

    /// One value that is no list counts as its only element, with a warning.
    pub fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        let value = self.get(key)?;
        let list = value.as_array().map(Vec::as_slice);
        if list.is_none() {
            self.warn(key, format!("should be a list, found {}; it is read as a list of that", type_name(value)));
        }
        Some(list.unwrap_or(std::slice::from_ref(value)))
    }

    pub fn object(&mut self, key: &'static str) -> Option<&'a Value> {
        self.typed(key, "an object", |value| value.is_object().then_some(value))
    }

    /// A list of strings; other elements are named as problems.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let list = self.list(key)?;
        let mut strings = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            match scalar_text(value) {
                Some(text) => strings.push(text),
                None => self.problem(&format!("{key}[{index}]"), format!("must be a string, found {}", kind(value))),
            }
        }
        Some(strings)
    }

    /// Names every member nobody asked for, which has no effect, and returns all problems.
    pub fn finish(mut self) -> Vec<FieldProblem> {
        if let Some(object) = self.object {
            for key in object.keys() {
                if !self.read.contains(&key.as_str()) {
                    let known = self.read.join(", ");
                    self.warn(key, format!("{UNKNOWN_FIELD}{known}"));
                }
            }
        }
        self.problems
    }
}

const NO_SECRET: &str =
    "is a reference to a Secret or key that is not there; taken as it stands anybody could write it";

/// What `read` gets from the value or, where that is a text, from the number it spells.
fn unquoted<T: std::str::FromStr>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
    value.as_str().map_or_else(|| read(value), |text| text.trim().parse().ok())
}

/// True or false, also in quotes.
pub fn flag(value: &Value) -> Option<bool> {
    value.as_str().map_or_else(|| value.as_bool(), |text| text.trim().to_ascii_lowercase().parse().ok())
}

/// A text, or the digits of a number.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The type of a JSON value without anything of its content.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

const UNKNOWN_FIELD: &str = "is not a field of this plugin and has no effect; known here: ";

/// The fields there are, from the message about one that is not.
pub fn known_fields(message: &str) -> Option<Vec<&str>> {
    Some(message.strip_prefix(UNKNOWN_FIELD)?.split(", ").collect())
}

/// How a message names the type of a JSON value.
pub fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) if value.len() <= 40 => format!("the string \"{value}\""),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_is_named_with_its_field() {
        let value = json!({"rate": "fast", "names": ["a", true], "extra": 1});
        let mut fields = Fields::of(&value, "shadow");
        assert_eq!(fields.amount("rate"), None);
        assert_eq!(fields.strings("names"), Some(vec!["a".to_owned()]));
        let problems = fields.finish();
        let named: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(named, ["shadow.rate", "shadow.names[1]", "shadow.extra"]);
        assert!(problems[0].message.contains("the string \"fast\""), "{}", problems[0].message);
    }

    #[test]
    fn scalars_are_read_as_higress_reads_them() {
        let value = json!({"n": "10", "x": " 1.5 ", "on": "True", "off": "false", "names": ["a", 3], "key": 4711});
        let mut fields = Fields::of(&value, "");
        assert_eq!((fields.count("n"), fields.amount("x")), (Some(10), Some(1.5)));
        assert_eq!((fields.boolean("on"), fields.boolean("off")), (Some(true), Some(false)));
        assert_eq!(fields.strings("names").unwrap(), ["a", "3"]);
        assert_eq!(fields.secret("key").unwrap().expose(), "4711");
        assert_eq!(fields.finish(), []);
        let wrong = json!({"n": "-1", "x": "NaN", "on": "yes"});
        let mut fields = Fields::of(&wrong, "");
        assert_eq!((fields.count("n"), fields.amount("x"), fields.boolean("on")), (None, None, None));
        assert_eq!(fields.finish().len(), 3);
    }

    /// Regression: the text of a reference to a missing Secret was a key that anybody could send.
    #[test]
    fn a_reference_to_a_missing_secret_is_no_credential() {
        let value = json!({"key": "${secret.gone.k}", "keys": ["a", "${configmap.c.k}"]});
        let mut fields = Fields::of(&value, "");
        fields.secret("key");
        fields.secrets("keys");
        let named: Vec<String> = fields.finish().into_iter().map(|problem| problem.field).collect();
        assert_eq!(named, ["key", "keys[1]"]);
    }

    /// gjson's `Array()`, which Higress' plugins in Go read lists with, makes a list of anything.
    #[test]
    fn one_value_is_a_list_of_one() {
        let value = json!({"names": "a", "keys": 4711, "objects": {"a": 1}, "wrong": {"a": 1}});
        let mut fields = Fields::of(&value, "");
        assert_eq!(fields.strings("names").unwrap(), ["a"]);
        assert_eq!(fields.secrets("keys").unwrap()[0].expose(), "4711");
        assert_eq!(fields.list("objects").unwrap(), [json!({"a": 1})]);
        assert!(fields.is_usable());
        assert_eq!(fields.strings("wrong").unwrap().len(), 0);
        assert!(!fields.is_usable(), "an object is no text, in a list or not");
        let problems = fields.finish();
        assert!(problems[1].field == "keys" && !problems[1].message.contains("4711"), "{problems:?}");
    }

    #[test]
    fn secrets_do_not_show_in_problems() {
        let value = json!({"key": [4711], "keys": "hunter2", "list": [{"a": 4712}, "ok"]});
        let mut fields = Fields::of(&value, "");
        assert!(fields.secret("key").is_none());
        assert!(fields.secrets("keys").is_some());
        assert!(fields.secrets("list").is_none());
        let told = format!("{:?}", fields.finish());
        assert!(!told.contains("471") && !told.contains("hunter2"), "{told}");
    }
}
