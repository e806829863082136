//! Reading a plugin's configuration: a checked view of a JSON object that collects every problem with its field.

use serde_json::{Map, Value};

use crate::base::secret::Secret;

/// A problem in a plugin's configuration: dotted field path and message.
pub type FieldProblem = (String, String);

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
            problems.push((path.to_owned(), format!("must be an object, found {}", kind(value))));
        }
        Fields { object, path: path.to_owned(), read: Vec::new(), problems }
    }

    /// Dotted path of a member.
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The raw member, if present and not null.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.object.and_then(|object| object.get(key)).filter(|value| !value.is_null())
    }

    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        let at = self.at(key);
        self.problems.push((at, message.into()));
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

    /// A value as text, however YAML spelled it: `10`, `"10"` and `true` alike; objects and lists as JSON.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// A string that no message may show: problems name its type only.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let value = self.get(key)?;
        match value.as_str() {
            Some(text) => Some(Secret::new(text)),
            None => {
                self.problem(key, format!("must be a string, found {}", type_name(value)));
                None
            }
        }
    }

    /// A list of [`Fields::secret`]; `None` if one of them is none.
    pub fn secrets(&mut self, key: &'static str) -> Option<Vec<Secret>> {
        let value = self.get(key)?;
        let Some(list) = value.as_array() else {
            self.problem(key, format!("must be a list, found {}", type_name(value)));
            return None;
        };
        for (index, value) in list.iter().enumerate().filter(|(_, value)| !value.is_string()) {
            self.problem(&format!("{key}[{index}]"), format!("must be a string, found {}", type_name(value)));
        }
        list.iter().map(|value| value.as_str().map(Secret::new)).collect()
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A number that is finite and not negative.
    pub fn amount(&mut self, key: &'static str) -> Option<f64> {
        self.typed(key, "a number that is not negative", |value| value.as_f64().filter(|n| n.is_finite() && *n >= 0.0))
    }

    pub fn count(&mut self, key: &'static str) -> Option<u64> {
        self.typed(key, "a whole number that is not negative", Value::as_u64)
    }

    pub fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub fn object(&mut self, key: &'static str) -> Option<&'a Value> {
        self.typed(key, "an object", |value| value.is_object().then_some(value))
    }

    /// A list of strings; other elements are named as problems.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let list = self.list(key)?;
        let mut strings = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            match value.as_str() {
                Some(text) => strings.push(text.to_owned()),
                None => self.problem(&format!("{key}[{index}]"), format!("must be a string, found {}", kind(value))),
            }
        }
        Some(strings)
    }

    /// Names every member nobody asked for and returns all problems.
    pub fn finish(mut self) -> Vec<FieldProblem> {
        if let Some(object) = self.object {
            for key in object.keys() {
                if !self.read.contains(&key.as_str()) {
                    let known = self.read.join(", ");
                    self.problem(key, format!("{UNKNOWN_FIELD}{known}"));
                }
            }
        }
        self.problems
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

const UNKNOWN_FIELD: &str = "is not a field of this plugin; known here: ";

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
        let value = json!({"rate": "fast", "names": ["a", 3], "extra": 1});
        let mut fields = Fields::of(&value, "shadow");
        assert_eq!(fields.amount("rate"), None);
        assert_eq!(fields.strings("names"), Some(vec!["a".to_owned()]));
        let problems = fields.finish();
        let named: Vec<&str> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(named, ["shadow.rate", "shadow.names[1]", "shadow.extra"]);
        assert!(problems[0].1.contains("the string \"fast\""), "{}", problems[0].1);
    }

    #[test]
    fn secrets_do_not_show_in_problems() {
        let value = json!({"key": 4711, "keys": "hunter2", "list": [4712, "ok"]});
        let mut fields = Fields::of(&value, "");
        assert!(fields.secret("key").is_none());
        assert!(fields.secrets("keys").is_none());
        assert!(fields.secrets("list").is_none());
        let told = format!("{:?}", fields.finish());
        assert!(!told.contains("471") && !told.contains("hunter2"), "{told}");
    }
}
