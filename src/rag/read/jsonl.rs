//! JSONL, JSON arrays of objects, and one JSON object: a document per object, by the rules of [`row`](super::row).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Limits;
use super::error::ReadError;
use super::row::Rows;
use crate::rag::document::Document;

/// `by_line`: the file is declared to have one object per line; otherwise that is one of the things that are tried.
///
/// # Errors
/// A line or an element is no JSON object, or two have the same id.
pub fn read(text: &str, by_line: bool, limits: &Limits) -> Result<Vec<Document>, ReadError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('[') {
        return array(text, limits);
    }
    // Many objects in a row are JSONL under another name.
    let first_line = text.lines().next().unwrap_or_default();
    if by_line || serde_json::from_str::<Map<String, Value>>(first_line).is_ok() {
        return lines(text, limits);
    }
    let object = serde_json::from_str(text).map_err(|error| ReadError::BadJson { what: error.to_string() })?;
    let mut rows = Rows::new(limits);
    rows.push(1, fields(object))?;
    let mut documents = rows.into_documents();
    if let [document] = documents.as_mut_slice()
        && document.key == "1"
    {
        document.key.clear();
    }
    Ok(documents)
}

fn lines(text: &str, limits: &Limits) -> Result<Vec<Document>, ReadError> {
    let mut rows = Rows::new(limits);
    for (line, row) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(line).map_err(|error| ReadError::BadRow { row, what: error.to_string() })?;
        rows.push(row, fields(object))?;
    }
    Ok(rows.into_documents())
}

/// Element by element, so that a large array is never in memory as a tree.
fn array(text: &str, limits: &Limits) -> Result<Vec<Document>, ReadError> {
    let mut rows = Rows::new(limits);
    let mut failed = None;
    let mut row = 0;
    let elements = Elements { rows: &mut rows, failed: &mut failed, row: &mut row };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = elements.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (failed, read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(ReadError::BadRow { row: row + 1, what: error.to_string() }),
        (None, Ok(())) => Ok(rows.into_documents()),
    }
}

struct Elements<'a, 'b> {
    rows: &'a mut Rows<'b>,
    failed: &'a mut Option<ReadError>,
    /// The last element that was read, from 1.
    row: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(object) = sequence.next_element()? {
            *self.row += 1;
            if let Err(error) = self.rows.push(*self.row, fields(object)) {
                *self.failed = Some(error);
                return Err(serde::de::Error::custom("a bad element"));
            }
        }
        Ok(())
    }
}

/// Strings as they are, other values as JSON; the members of `metadata` count as members of the object itself.
fn fields(object: Map<String, Value>) -> Vec<(String, String)> {
    let mut fields = Vec::with_capacity(object.len());
    for (name, value) in object {
        match value {
            Value::Object(inner) if name == "metadata" => {
                let is_plain = |name: &str| !["id", "title", "text"].contains(&name);
                fields.extend(inner.into_iter().filter(|(name, _)| is_plain(name)).filter_map(written));
            }
            value => fields.extend(written((name, value))),
        }
    }
    fields
}

fn written((name, value): (String, Value)) -> Option<(String, String)> {
    match value {
        Value::Null => None,
        Value::String(text) => Some((name, text)),
        value => Some((name, value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str, &str)]) {
        for by_line in [false, !text.starts_with('[')] {
            let documents = read(text, by_line, &Limits::default()).unwrap();
            let found: Vec<_> =
                documents.iter().map(|d| (d.key.as_str(), d.title.as_str(), d.blocks[0].text.as_str())).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn lines_arrays_and_objects_are_read_alike() {
        let lines = "{\"_id\":\"a\",\"title\":\"Weir\",\"text\":\"A dam.\"}\n\n{\"text\":\"No id.\"}";
        check(lines, &[("a", "Weir", "A dam."), ("3", "", "No id.")]);
        check(
            "[{\"id\":7,\"name\":\"Weir\",\"content\":\"A dam.\"},{\"height\":3,\"of\":[\"x\"]}]",
            &[("7", "Weir", "A dam."), ("2", "", "height: 3; of: [\"x\"]")],
        );
        let object = read("{\n\"title\":\"Weir\",\n\"text\":\"A dam.\"}", false, &Limits::default()).unwrap();
        assert_eq!((object[0].key.as_str(), object[0].title.as_str()), ("", "Weir"));
    }

    #[test]
    fn other_members_become_metadata_nested_ones_as_json() {
        let text = r#"{"text":"x y","metadata":{"lang":"en"},"tags":["a",1],"score":0.5,"none":null}"#;
        let metadata = &read(text, true, &Limits::default()).unwrap()[0].metadata;
        let expected = [("lang", "en"), ("score", "0.5"), ("tags", r#"["a",1]"#)];
        assert!(metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{metadata:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_or_element() {
        for (text, by_line, parts) in [
            ("{\"text\":\"a\"}\n{\"text\":", true, &["row 2", "EOF"][..]),
            ("{\"text\":\"a\"}\n[1]", true, &["row 2", "expected a map"]),
            ("[{\"text\":\"a\"},3]", false, &["row 2", "expected a map"]),
            ("[{\"id\":1,\"text\":\"a\"},{\"id\":\"1\",\"text\":\"b\"}]", false, &["rows 1 and 2", "same id"]),
            ("[{\"text\":\"a\"}", false, &["row 2", "EOF"]),
            ("text", false, &["JSON cannot be read", "one object per line"]),
        ] {
            let error = read(text, by_line, &Limits::default()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
        }
    }
}
