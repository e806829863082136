//! Steps on a JSON body. Paths are gjson's for reading and sjson's for writing.

use bytes::Bytes;

use super::super::form::shown;
use super::super::json_edit::{EditError, remove, set};
use super::config::{Part, Step, Strategy};
use super::fields::{Place, Sources};
use crate::llm::json::quote;

/// The body after all steps; `None` if one of them cannot be done, for then the body stays as it was.
pub fn run(steps: &[Step], original: &str, place: &Place, sources: &Sources<'_>) -> Option<Bytes> {
    let mut text = original.to_owned();
    for step in steps {
        match apply(step, &text, original, place, sources) {
            Ok(Some(changed)) => text = changed,
            Ok(None) => {}
            Err(reason) => {
                tracing::debug!(reason, "transformer leaves the body as it is");
                return None;
            }
        }
    }
    Some(text.into())
}

/// `Ok(None)`: nothing to do. `map` reads the body as it arrived, as in Higress.
fn apply(
    step: &Step,
    text: &str,
    original: &str,
    place: &Place,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    let said = |error: EditError| error.to_string();
    let put = |key: &str, value: &str| set(text, key, value).map(Some).map_err(said);
    match step {
        Step::Remove { key } => remove(text, key).map(Some).map_err(said),
        Step::Rename { from, to } => {
            let value = gjson::get(text, from);
            if !value.exists() {
                return Ok(None);
            }
            let renamed = set(text, to, value.json()).map_err(said)?;
            remove(&renamed, from).map(Some).map_err(said)
        }
        Step::Replace { key, value } => match value.json(place).transpose()? {
            Some(value) => put(key, &value),
            None => Ok(None),
        },
        Step::Add { key, value } => match value.json(place).transpose()? {
            Some(value) if !gjson::get(text, key).exists() => put(key, &value),
            _ => Ok(None),
        },
        Step::Append { key, value } => {
            let Some(new) = value.json(place).transpose()? else { return Ok(None) };
            let old = gjson::get(text, key);
            match old.kind() {
                _ if !old.exists() => put(key, &new),
                gjson::Kind::Array => {
                    let mut values: Vec<String> = old.array().iter().map(|value| value.json().to_owned()).collect();
                    values.push(new);
                    put(key, &format!("[{}]", values.join(",")))
                }
                _ => put(key, &format!("[{},{new}]", old.json())),
            }
        }
        Step::Map { source: Part::Body, from, to } => {
            let value = gjson::get(original, from);
            if value.exists() { put(to, value.json()) } else { Ok(None) }
        }
        Step::Map { source, from, to } => match sources.values(*source, from) {
            Some(values) => {
                let quoted: Vec<String> = values.iter().map(|value| quote(&shown(value))).collect();
                put(to, &format!("[{}]", quoted.join(",")))
            }
            None => Ok(None),
        },
        Step::Dedupe { key, strategy } => match deduped(text, key, *strategy) {
            Some(value) => put(key, &value),
            None => Ok(None),
        },
    }
}

/// What is left of the array at `key`; `None` if there is none, it is empty, or the choice is null.
fn deduped(text: &str, key: &str, strategy: Strategy) -> Option<String> {
    let value = gjson::get(text, key);
    if value.kind() != gjson::Kind::Array {
        return None;
    }
    let values = value.array();
    let (first, last) = (values.first()?, values.last()?);
    let chosen = match strategy {
        Strategy::First => first.json().to_owned(),
        Strategy::Last => last.json().to_owned(),
        Strategy::SplitFirst => quote(first.str().split(',').next()?),
        Strategy::SplitLast => quote(first.str().split(',').next_back()?),
        Strategy::Unique => {
            let mut seen: Vec<(&str, &str)> = Vec::new();
            for value in &values {
                if !seen.iter().any(|(text, _)| *text == value.str()) {
                    seen.push((value.str(), value.json()));
                }
            }
            match seen.as_slice() {
                [(_, only)] => (*only).to_owned(),
                several => {
                    let json: Vec<&str> = several.iter().map(|(_, json)| *json).collect();
                    format!("[{}]", json.join(","))
                }
            }
        }
    };
    (chosen != "null").then_some(chosen)
}
