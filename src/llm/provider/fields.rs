//! Reading a configuration object field by field, collecting every problem instead of stopping at the first. Numbers and flags
//! may stand in quotes, as in Higress.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

/// One problem of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path from the provider object, for example `failover.failureThreshold`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
    pub kind: FieldErrorKind,
}

/// How much an error costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The object means nothing.
    Wrong,
    /// The object means something that this program cannot do.
    Unsupported,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// An object that is being read. A field that is null counts as absent.
pub struct Fields<'a> {
    path: String,
    object: &'a Map<String, Value>,
    read: Vec<&'a str>,
    pub errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &str, object: &'a Map<String, Value>) -> Self {
        Fields { path: path.to_owned(), object, read: Vec::new(), errors: Vec::new() }
    }

    /// The field as it is.
    pub fn value(&mut self, name: &'a str) -> Option<&'a Value> {
        self.read.push(name);
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// A string that is not empty.
    pub fn string(&mut self, name: &'a str) -> Option<&'a str> {
        let value = self.value(name)?;
        let string = value.as_str();
        if string.is_none() {
            self.error(name, format!("must be a string, and is {}", describe(value)));
        }
        string.filter(|string| !string.is_empty())
    }

    pub fn boolean(&mut self, name: &'a str) -> Option<bool> {
        let value = self.value(name)?;
        let in_quotes = |text: &str| text.trim().to_ascii_lowercase().parse().ok();
        let boolean = value.as_str().map_or_else(|| value.as_bool(), in_quotes);
        if boolean.is_none() {
            self.error(name, format!("must be true or false, and is {}", describe(value)));
        }
        boolean
    }

    /// A whole number; 0 counts as absent, as it does in Higress.
    pub fn count(&mut self, name: &'a str) -> Option<u32> {
        let value = self.value(name)?;
        let count = value.as_str().map_or_else(|| value.as_u64(), |text| text.trim().parse().ok());
        let count = count.and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            self.error(name, format!("must be a whole number from 0 to {}, and is {}", u32::MAX, describe(value)));
        }
        count.filter(|count| *count > 0)
    }

    /// A duration in milliseconds; 0 counts as absent.
    pub fn millis(&mut self, name: &'a str) -> Option<Duration> {
        self.count(name).map(|millis| Duration::from_millis(u64::from(millis)))
    }

    /// A list of strings; numbers count as their digits (statuses).
    pub fn strings(&mut self, name: &'a str) -> Vec<String> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.error(name, format!("must be a list of strings, and is {}", describe(value)));
            return Vec::new();
        };
        let mut strings = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match item {
                Value::String(string) => strings.push(string.clone()),
                Value::Number(number) => strings.push(number.to_string()),
                _ => self.error(&format!("{name}[{i}]"), format!("must be a string, and is {}", describe(item))),
            }
        }
        strings
    }

    /// A map of strings, in the order the configuration has them.
    pub fn string_map(&mut self, name: &'a str) -> Vec<(String, String)> {
        let Some(object) = self.object(name) else { return Vec::new() };
        let mut entries = Vec::new();
        for (key, value) in object {
            match value {
                Value::String(string) => entries.push((key.clone(), string.clone())),
                _ => self.error(&format!("{name}.{key}"), format!("must be a string, and is {}", describe(value))),
            }
        }
        entries
    }

    pub fn object(&mut self, name: &'a str) -> Option<&'a Map<String, Value>> {
        let value = self.value(name)?;
        let object = value.as_object();
        if object.is_none() {
            self.error(name, format!("must be an object, and is {}", describe(value)));
        }
        object
    }

    pub fn error(&mut self, name: &str, message: impl Into<String>) {
        self.add(FieldErrorKind::Wrong, name, message);
    }

    pub fn unsupported(&mut self, name: &str, message: impl Into<String>) {
        self.add(FieldErrorKind::Unsupported, name, message);
    }

    fn add(&mut self, kind: FieldErrorKind, name: &str, message: impl Into<String>) {
        self.errors.push(FieldError { field: self.path_of(name), message: message.into(), kind });
    }

    /// Fields that are set and that nobody asked for.
    pub fn unread(&self) -> Vec<&'a str> {
        self.object.keys().map(String::as_str).filter(|name| !self.read.contains(name)).collect()
    }

    /// Notes what nobody asked for, which has no effect, and hands over all errors.
    pub fn finish(self, notes: &mut Vec<String>) -> Vec<FieldError> {
        let unread = self.unread().into_iter();
        notes.extend(unread.map(|name| format!("{}: is not a field, and has no effect", self.path_of(name))));
        self.errors
    }

    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// What a value is, for messages. Strings and what may hold them stay untold: they may be secrets.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
