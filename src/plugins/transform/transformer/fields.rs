//! Steps on headers, query parameters and form fields: names with lists of texts.

use super::super::bag::Bag;
use super::super::form::Values;
use super::config::{Part, Step, Strategy};

/// Host and path a request came with.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub host: String,
    /// With query.
    pub path: String,
}

/// Where `map` may take values from, besides what is being changed.
pub struct Sources<'a> {
    pub headers: Option<&'a dyn Bag>,
    pub querys: Option<&'a dyn Bag>,
    pub body: Option<BodySource<'a>>,
}

/// A body as it arrived.
#[derive(Clone, Copy)]
pub enum BodySource<'a> {
    Json(&'a str),
    Form(&'a Values),
}

impl Sources<'_> {
    /// Values of `key` in another part; `None` if it is not there.
    pub fn values(&self, part: Part, key: &str) -> Option<Vec<String>> {
        let values = match part {
            Part::Headers => self.headers?.values(key),
            Part::Querys => self.querys?.values(key),
            Part::Body => match self.body? {
                BodySource::Form(values) => values.get(key).to_vec(),
                BodySource::Json(text) => text_at(text, key).into_iter().collect(),
            },
        };
        (!values.is_empty()).then_some(values)
    }
}

/// What stands at a path of a JSON text, as a header or query parameter can carry it.
fn text_at(json: &str, path: &str) -> Option<String> {
    let value = gjson::get(json, path);
    let text = match value.kind() {
        gjson::Kind::Null => "",
        gjson::Kind::String => value.str(),
        _ => value.json(),
    };
    (value.exists() && !text.is_empty()).then(|| text.to_owned())
}

/// Applies `steps` to `bag`, which is the part `own`.
pub fn run(steps: &[Step], own: Part, bag: &mut dyn Bag, place: &Place, sources: &Sources<'_>) {
    for step in steps {
        match step {
            Step::Remove { key } => bag.set(key, &[]),
            Step::Rename { from, to } => {
                let moved = bag.values(from);
                if !moved.is_empty() && from != to {
                    let mut values = bag.values(to);
                    values.extend(moved);
                    bag.set(to, &values);
                    bag.set(from, &[]);
                }
            }
            Step::Replace { key, value } => {
                if let Some(text) = value.text(place) {
                    bag.set(key, &[text]);
                }
            }
            Step::Add { key, value } => {
                if bag.values(key).is_empty()
                    && let Some(text) = value.text(place)
                {
                    bag.set(key, &[text]);
                }
            }
            Step::Append { key, value } => {
                if let Some(text) = value.text(place) {
                    let mut values = bag.values(key);
                    values.push(text);
                    bag.set(key, &values);
                }
            }
            Step::Map { source, from, to } => {
                let found = if *source == own {
                    Some(bag.values(from)).filter(|values| !values.is_empty())
                } else {
                    sources.values(*source, from)
                };
                if let Some(values) = found {
                    bag.set(to, &values);
                }
            }
            Step::Dedupe { key, strategy } => {
                let values = bag.values(key);
                if !values.is_empty() {
                    bag.set(key, &deduped(values, *strategy));
                }
            }
        }
    }
}

fn deduped(mut values: Vec<String>, strategy: Strategy) -> Vec<String> {
    let first = values.first().cloned().unwrap_or_default();
    match strategy {
        Strategy::First => vec![first],
        Strategy::Last => values.pop().into_iter().collect(),
        Strategy::SplitFirst => first.split(',').next().map(str::to_owned).into_iter().collect(),
        Strategy::SplitLast => first.split(',').next_back().map(str::to_owned).into_iter().collect(),
        Strategy::Unique => {
            let mut unique: Vec<String> = Vec::new();
            for value in values {
                if !unique.contains(&value) {
                    unique.push(value);
                }
            }
            unique
        }
    }
}
