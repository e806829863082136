//! Checked values of plugin configurations that are more than JSON types: regular expressions, texts, HTTP statuses. Expressions are
//! compiled once, every bad one is named with its field.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::config::{Fields, kind};
use super::rules::Family;

/// What part of the text an expression must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it (RE2's full match, which Higress' C++ plugins use).
    Whole,
    /// Any of it (Go's `MatchString`).
    Anywhere,
}

impl Extent {
    pub fn of(family: Family) -> Extent {
        match family {
            Family::Cpp => Extent::Whole,
            Family::Go => Extent::Anywhere,
        }
    }
}

/// Compiles one expression.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn pattern(text: &str, extent: Extent, ignore_case: bool) -> Result<Regex, String> {
    let whole = match extent {
        Extent::Whole => format!(r"\A(?:{text})\z"),
        Extent::Anywhere => text.to_owned(),
    };
    RegexBuilder::new(&whole).case_insensitive(ignore_case).build().map_err(|error| {
        let told = error.to_string();
        let reason = told.lines().last().unwrap_or("cannot be compiled").trim_start_matches("error: ");
        format!("\"{text}\" is not a usable regular expression: {reason}")
    })
}

/// A list of expressions; `None` if the field is absent.
pub fn patterns(fields: &mut Fields<'_>, key: &'static str, extent: Extent, ignore_case: bool) -> Option<Vec<Regex>> {
    let written = fields.strings(key)?;
    let mut compiled = Vec::with_capacity(written.len());
    for (index, text) in written.iter().enumerate() {
        match pattern(text, extent, ignore_case) {
            Ok(regex) => compiled.push(regex),
            Err(message) => fields.problem(&format!("{key}[{index}]"), message),
        }
    }
    Some(compiled)
}

/// One text or a list of them; numbers and booleans count as their text.
pub fn texts(fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
    let elements = match fields.get(key) {
        None => return Vec::new(),
        Some(Value::Array(list)) => list.as_slice(),
        Some(single) => std::slice::from_ref(single),
    };
    let mut found = Vec::with_capacity(elements.len());
    for element in elements {
        match text(element) {
            Some(text) => found.push(text),
            None => fields.problem(key, format!("must be text, found {}", kind(element))),
        }
    }
    found
}

/// An object whose values are texts, in the order written.
pub fn text_map(fields: &mut Fields<'_>, key: &'static str) -> Vec<(String, String)> {
    let members = fields.object(key).and_then(Value::as_object);
    let mut found = Vec::new();
    for (name, value) in members.into_iter().flatten() {
        match text(value) {
            Some(text) => found.push((name.clone(), text)),
            None => fields.problem(&format!("{key}.{name}"), format!("must be text, found {}", kind(value))),
        }
    }
    found
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// An HTTP status a plugin may answer with.
pub fn status(fields: &mut Fields<'_>, key: &'static str, default: u16) -> u16 {
    let Some(written) = fields.count(key) else { return default };
    match u16::try_from(written).ok().filter(|status| (200..600).contains(status)) {
        Some(status) => status,
        None => {
            fields.problem(key, format!("must be an HTTP status from 200 to 599, found {written}"));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_extent_is_what_must_be_covered() {
        assert!(pattern("a|ab", Extent::Whole, false).unwrap().is_match("ab"));
        assert!(!pattern("a|b", Extent::Whole, false).unwrap().is_match("ab"));
        assert!(pattern("B", Extent::Anywhere, true).unwrap().is_match("abc"));
    }

    #[test]
    fn bad_expressions_and_statuses_are_named() {
        let value = json!({"deny": ["ok", "a("], "code": 99});
        let mut fields = Fields::of(&value, "");
        assert_eq!(patterns(&mut fields, "deny", Extent::Whole, false).map(|list| list.len()), Some(1));
        assert_eq!(status(&mut fields, "code", 403), 403);
        let named: Vec<String> = fields.finish().into_iter().map(|problem| problem.field).collect();
        assert_eq!(named, ["deny[1]", "code"]);
    }
}
