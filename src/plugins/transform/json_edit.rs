//! Setting and removing one value of a JSON text, named by a dotted path; every other byte stays.
//!
//! The path language for writing is that of sjson, which Higress' plugins use: names and array positions joined by dots,
//! `-1` for one past the end (or the last, when removing), `\.` for a dot inside a name, a leading `:` for a name that looks like
//! a position. Objects and arrays on the way are made where they are absent or null.

use std::ops::Range;

use crate::llm::json::{Cursor, JsonError, Kind, quote};

/// Why a text was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("the body is not JSON: {0}")]
    Json(#[from] JsonError),
    #[error("the path `{0}` cannot be written to: it is empty or has one of `|#@*?`, which only searches have")]
    Path(String),
    #[error("`{0}` is neither an object nor an array, so nothing can be set inside it")]
    NotInside(String),
    #[error("`{0}` is no position in an array that can be set")]
    Position(String),
}

/// Furthest position beyond an array's end that is filled up with nulls.
const MAX_FILL: usize = 1024;

/// Gives `path` the JSON text `value`.
///
/// # Errors
/// The text is not JSON, the path cannot be written, or leads through a text, number or boolean.
pub fn set(text: &str, path: &str, value: &str) -> Result<String, EditError> {
    edit(text, &parse(path)?, Some(value))
}

/// Removes `path`, if it is there.
///
/// # Errors
/// As [`set`].
pub fn remove(text: &str, path: &str) -> Result<String, EditError> {
    edit(text, &parse(path)?, None)
}

/// Whether `text` is one JSON value.
pub fn is_json(text: &str) -> bool {
    let mut cursor = Cursor::new(text.as_bytes());
    cursor.value().is_ok() && cursor.end().is_ok()
}

/// One step of a path.
struct Part {
    name: String,
    /// Written with a colon: a name even if it is all digits.
    is_name: bool,
}

impl Part {
    fn position(&self) -> Option<usize> {
        if self.is_name { None } else { self.name.parse().ok() }
    }

    fn is_end(&self) -> bool {
        !self.is_name && self.name == "-1"
    }
}

fn parse(path: &str) -> Result<Vec<Part>, EditError> {
    let mut parts = Vec::new();
    let mut part = Part { name: String::new(), is_name: false };
    let mut chars = path.chars();
    let mut is_start = true;
    while let Some(char) = chars.next() {
        match char {
            '.' => {
                parts.push(std::mem::replace(&mut part, Part { name: String::new(), is_name: false }));
                is_start = true;
                continue;
            }
            ':' if is_start => part.is_name = true,
            '\\' => part.name.extend(chars.next()),
            '|' | '#' | '@' | '*' | '?' => return Err(EditError::Path(path.to_owned())),
            _ => part.name.push(char),
        }
        is_start = false;
    }
    parts.push(part);
    if parts.iter().all(|part| part.name.is_empty()) {
        return Err(EditError::Path(path.to_owned()));
    }
    Ok(parts)
}

/// `text` with what stands at `parts` set or removed.
fn edit(text: &str, parts: &[Part], new: Option<&str>) -> Result<String, EditError> {
    let Some((part, rest)) = parts.split_first() else { return Ok(new.unwrap_or(text).to_owned()) };
    let mut cursor = Cursor::new(text.as_bytes());
    let (whole, items) = match cursor.kind()? {
        Kind::Object => members(&mut cursor)?,
        Kind::Array => elements(&mut cursor)?,
        Kind::Null => return new.map_or_else(|| Ok(text.to_owned()), |new| build(parts, new)),
        _ if new.is_none() => return Ok(text.to_owned()),
        _ => return Err(EditError::NotInside(part.name.clone())),
    };
    let is_object = text.as_bytes().get(whole.start) == Some(&b'{');
    let found = if is_object {
        items.iter().position(|item| item.name.as_deref() == Some(part.name.as_str()))
    } else if part.is_end() {
        new.is_none().then(|| items.len().checked_sub(1)).flatten()
    } else {
        part.position().filter(|position| *position < items.len())
    };
    match (found, new) {
        (Some(at), None) if rest.is_empty() => Ok(cut(text, &items, at)),
        (Some(at), _) => {
            let Range { start, end } = items[at].value.clone();
            Ok(format!("{}{}{}", &text[..start], edit(&text[start..end], rest, new)?, &text[end..]))
        }
        (None, None) => Ok(text.to_owned()),
        (None, Some(new)) => {
            let mut added = if items.is_empty() { String::new() } else { ",".to_owned() };
            if is_object {
                added.push_str(&quote(&part.name));
                added.push(':');
            } else if !part.is_end() {
                let position = part.position().filter(|position| position - items.len() <= MAX_FILL);
                let position = position.ok_or_else(|| EditError::Position(part.name.clone()))?;
                added.push_str(&"null,".repeat(position - items.len()));
            }
            added.push_str(&build(rest, new)?);
            let close = whole.end - 1;
            Ok(format!("{}{added}{}", &text[..close], &text[close..]))
        }
    }
}

/// What stands at a path that was not there: the value inside new objects and arrays.
fn build(parts: &[Part], new: &str) -> Result<String, EditError> {
    let Some((part, rest)) = parts.split_first() else { return Ok(new.to_owned()) };
    let inner = build(rest, new)?;
    if part.is_end() {
        return Ok(format!("[{inner}]"));
    }
    match part.position() {
        Some(position) if position > MAX_FILL => Err(EditError::Position(part.name.clone())),
        Some(position) => Ok(format!("[{}{inner}]", "null,".repeat(position))),
        None => Ok(format!("{{{}:{inner}}}", quote(&part.name))),
    }
}

/// A member of an object, or an element of an array.
struct Item {
    name: Option<String>,
    /// From the opening quote of its name, or where its value begins.
    start: usize,
    value: Range<usize>,
}

fn members(cursor: &mut Cursor<'_>) -> Result<(Range<usize>, Vec<Item>), JsonError> {
    let mut items = Vec::new();
    let whole = cursor.object(|cursor, key| {
        let value = cursor.value()?;
        items.push(Item { name: Some(key.text().into_owned()), start: key.start, value });
        Ok(())
    })?;
    Ok((whole, items))
}

fn elements(cursor: &mut Cursor<'_>) -> Result<(Range<usize>, Vec<Item>), JsonError> {
    let mut items = Vec::new();
    let whole = cursor.array(|cursor| {
        let value = cursor.value()?;
        items.push(Item { name: None, start: value.start, value });
        Ok(())
    })?;
    Ok((whole, items))
}

/// `text` without item `at` and one comma beside it.
fn cut(text: &str, items: &[Item], at: usize) -> String {
    let (start, end) = match (at.checked_sub(1).and_then(|before| items.get(before)), items.get(at + 1)) {
        (Some(before), _) => (before.value.end, items[at].value.end),
        (None, Some(next)) => (items[at].start, next.start),
        (None, None) => (items[at].start, items[at].value.end),
    };
    format!("{}{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_where_the_path_leads() {
        for (text, path, expected) in [
            (r#"{"a":1}"#, "a", r#"{"a":9}"#),
            (r#"{"a":1}"#, "b", r#"{"a":1,"b":9}"#),
            ("{ }", "a.b", r#"{ "a":{"b":9}}"#),
            (r#"{"a" : {"b":[1, 2]} , "n":1e400}"#, "a.b.1", r#"{"a" : {"b":[1, 9]} , "n":1e400}"#),
            (r#"{"a":[]}"#, "a.2", r#"{"a":[null,null,9]}"#),
            (r#"{"a":[1]}"#, "a.-1", r#"{"a":[1,9]}"#),
            (r#"{"a.b":1}"#, r"a\.b", r#"{"a.b":9}"#),
            (r#"{"a":{"1":2}}"#, "a.1", r#"{"a":{"1":9}}"#),
            ("{}", "a.:1", r#"{"a":{"1":9}}"#),
            ("{}", "a.1.c", r#"{"a":[null,{"c":9}]}"#),
            (r#"{"a":null}"#, "a.b", r#"{"a":{"b":9}}"#),
            ("[1]", "0", "[9]"),
            (r#"{"\u0061":1}"#, "a", r#"{"\u0061":9}"#),
        ] {
            assert_eq!(set(text, path, "9").as_deref(), Ok(expected), "{text} {path}");
        }
    }

    #[test]
    fn values_are_cut_with_one_comma() {
        for (text, path, expected) in [
            (r#"{"a":1, "b":2}"#, "a", r#"{"b":2}"#),
            (r#"{"a":1, "b":2}"#, "b", r#"{"a":1}"#),
            (r#"{"a":1}"#, "a", "{}"),
            (r#"{"a":[1,2,3]}"#, "a.1", r#"{"a":[1,3]}"#),
            (r#"{"a":[1,2,3]}"#, "a.-1", r#"{"a":[1,2]}"#),
            (r#"{"a":1}"#, "b.c", r#"{"a":1}"#),
            (r#"{"a":1}"#, "a.c", r#"{"a":1}"#),
            (r#"{"a":{"b":{"c":1}}}"#, "a.b.c", r#"{"a":{"b":{}}}"#),
        ] {
            assert_eq!(remove(text, path).as_deref(), Ok(expected), "{text} {path}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        assert_eq!(set("{}", "a.#.b", "9"), Err(EditError::Path("a.#.b".into())));
        assert_eq!(set("{}", "", "9"), Err(EditError::Path(String::new())));
        assert_eq!(set(r#"{"a":1}"#, "a.b", "9"), Err(EditError::NotInside("b".into())));
        assert_eq!(set("[]", "a", "9"), Err(EditError::Position("a".into())));
        assert_eq!(set("[]", "99999999", "9"), Err(EditError::Position("99999999".into())));
        assert!(matches!(set("{", "a", "9"), Err(EditError::Json(_))));
    }

    proptest::proptest! {
        #[test]
        fn what_was_set_is_found_again_and_the_text_stays_json(
            path in "[a-c0-2]{1,2}(\\.[a-c0-2]{1,2}){0,3}",
            text in proptest::sample::select(vec!["{}", r#"{"a":{"b":[1,{"c":2}]},"0":3}"#, r#"[[],{"a":null}]"#]),
        ) {
            if let Ok(edited) = set(text, &path, "\"v\"") {
                proptest::prop_assert!(is_json(&edited), "{}", edited);
                proptest::prop_assert!(is_json(&remove(&edited, &path).unwrap()));
            }
        }
    }
}
