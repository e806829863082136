//! The rules as steps: what is written per operation becomes what is done per header, query parameter and body field.

use http::{HeaderName, HeaderValue};
use regex::Regex;
use serde_json::Value;

use super::super::json_edit::is_json;
use super::fields::Place;
use crate::llm::json::quote;
use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::Scope;

pub struct Config {
    /// Match the route again once headers or query were changed.
    pub reroute: bool,
    pub request: Rules,
    pub response: Rules,
}

/// The steps for each part, in written order.
#[derive(Default)]
pub struct Rules {
    pub headers: Vec<Step>,
    pub querys: Vec<Step>,
    pub body: Vec<Step>,
    /// A step takes a value from the body, so headers and query wait for it.
    pub reads_body: bool,
}

impl Rules {
    pub fn needs_body(&self) -> bool {
        self.reads_body || !self.body.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Headers,
    Querys,
    Body,
}

/// One change of one field.
pub enum Step {
    Remove { key: String },
    Rename { from: String, to: String },
    Replace { key: String, value: Template },
    Add { key: String, value: Template },
    Append { key: String, value: Template },
    Map { source: Part, from: String, to: String },
    Dedupe { key: String, strategy: Strategy },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    Unique,
    Last,
    First,
    SplitFirst,
    SplitLast,
}

/// A value to write, perhaps made from host or path, perhaps for matching requests only.
pub struct Template {
    text: String,
    pattern: Option<(Subject, Regex)>,
    kind: ValueType,
}

#[derive(Clone, Copy)]
enum Subject {
    Host,
    Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueType {
    String,
    Number,
    Boolean,
    Object,
}

impl Template {
    /// The text for a request; `None` if its host or path does not match.
    pub fn text(&self, place: &Place) -> Option<String> {
        let Some((subject, pattern)) = &self.pattern else { return Some(self.text.clone()) };
        let subject = match subject {
            Subject::Host => &place.host,
            Subject::Path => &place.path,
        };
        pattern.is_match(subject).then(|| pattern.replace_all(subject, self.text.as_str()).into_owned())
    }

    /// The same as JSON of the configured type; the error is a text that is not of that type.
    pub fn json(&self, place: &Place) -> Option<Result<String, String>> {
        let text = self.text(place)?;
        Some(self.kind.json(&text).ok_or(text))
    }
}

impl ValueType {
    fn json(self, text: &str) -> Option<String> {
        match self {
            ValueType::String => Some(quote(text)),
            ValueType::Object => is_json(text).then(|| text.to_owned()),
            ValueType::Boolean => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Some("true".into()),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Some("false".into()),
                _ => None,
            },
            ValueType::Number => {
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite())?;
                let is_spelled_so = serde_json::from_str::<serde_json::Number>(text).is_ok();
                Some(if is_spelled_so { text.to_owned() } else { number.to_string() })
            }
        }
    }
}

const OPERATIONS: &str = "remove, rename, replace, add, append, map, dedupe";

impl Config {
    pub fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let reroute = fields.boolean("reroute").unwrap_or(true);
        let request = fields.list("reqRules");
        let response = fields.list("respRules");
        if request.is_none() && response.is_none() && fields.is_usable() {
            fields.problem("reqRules", "or respRules must be given; without rules nothing is transformed");
        }
        let mut problems = Vec::new();
        let request = read_rules(request.unwrap_or_default(), "reqRules", &mut problems);
        let mut response = read_rules(response.unwrap_or_default(), "respRules", &mut problems);
        // An answer has no query; Higress accepts such rules and does nothing either.
        response.querys.clear();
        problems.extend(fields.finish());
        (Config { reroute, request, response }, problems)
    }
}

fn read_rules(list: &[Value], field: &str, problems: &mut Vec<FieldProblem>) -> Rules {
    let mut rules = Rules::default();
    for (index, value) in list.iter().enumerate() {
        let mut rule = Fields::of(value, &format!("{field}[{index}]"));
        let operate = rule.string("operate").unwrap_or_default().to_ascii_lowercase();
        if !OPERATIONS.split(", ").any(|known| known == operate) {
            rule.problem("operate", format!("must be one of {OPERATIONS}"));
        }
        let source = match rule.string("mapSource").filter(|_| operate == "map") {
            None | Some("self") => None,
            Some("headers") => Some(Part::Headers),
            Some("querys") => Some(Part::Querys),
            Some("body") => Some(Part::Body),
            Some(_) => {
                rule.problem("mapSource", "must be headers, querys or body");
                None
            }
        };
        for (key, part) in [("headers", Part::Headers), ("querys", Part::Querys), ("body", Part::Body)] {
            for (position, item) in rule.list(key).unwrap_or_default().iter().enumerate() {
                let mut item = Fields::of(item, &rule.at(&format!("{key}[{position}]")));
                let step = read_step(&mut item, &operate, part, source.unwrap_or(part));
                let steps = match part {
                    Part::Headers => &mut rules.headers,
                    Part::Querys => &mut rules.querys,
                    Part::Body => &mut rules.body,
                };
                steps.extend(step);
                problems.extend(item.finish());
            }
        }
        rules.reads_body |= operate == "map" && source == Some(Part::Body);
        problems.extend(rule.finish());
    }
    rules
}

/// `None` for an operation that was already named as unknown.
fn read_step(item: &mut Fields<'_>, operate: &str, part: Part, source: Part) -> Option<Step> {
    // The console writes every field of its form, whatever the operation.
    for field in ["key", "oldKey", "newKey", "newValue", "value", "appendValue", "fromKey", "toKey", "strategy"] {
        item.get(field);
    }
    for field in ["value_type", "host_pattern", "path_pattern"] {
        item.get(field);
    }
    let reads = match operate {
        "replace" => "newValue",
        "add" => "value",
        "append" => "appendValue",
        _ => "",
    };
    if !reads.is_empty() && item.text(reads).unwrap_or_default().is_empty() {
        for other in ["value", "newValue", "appendValue"] {
            if !item.text(other).unwrap_or_default().is_empty() {
                item.warn(other, format!("has no effect in `{operate}`, which reads `{reads}`"));
            }
        }
    }
    let step = match operate {
        "remove" => Step::Remove { key: key(item, "key", part) },
        "rename" => Step::Rename { from: key(item, "oldKey", part), to: key(item, "newKey", part) },
        "replace" => Step::Replace { key: key(item, "key", part), value: template(item, "newValue", part) },
        "add" => Step::Add { key: key(item, "key", part), value: template(item, "value", part) },
        "append" => Step::Append { key: key(item, "key", part), value: template(item, "appendValue", part) },
        "map" => Step::Map { source, from: key(item, "fromKey", source), to: key(item, "toKey", part) },
        "dedupe" => Step::Dedupe { key: key(item, "key", part), strategy: strategy(item) },
        _ => return None,
    };
    Some(step)
}

/// Names of headers are compared in lower case.
fn key(item: &mut Fields<'_>, field: &'static str, part: Part) -> String {
    let key = item.text(field).unwrap_or_default();
    if key.is_empty() {
        item.problem(field, "must be given");
    }
    // `:path` and the like stand among the headers, too.
    let is_named = !key.is_empty() && !key.starts_with(':');
    if part == Part::Headers && is_named && HeaderName::try_from(&key).is_err() {
        item.warn(field, format!("`{key}` is not a name of a header and has no effect"));
    }
    if part == Part::Headers { key.to_ascii_lowercase() } else { key }
}

fn template(item: &mut Fields<'_>, field: &'static str, part: Part) -> Template {
    let text = item.text(field).unwrap_or_default();
    let kind = match item.text("value_type").unwrap_or_default().to_ascii_lowercase().as_str() {
        _ if part != Part::Body => ValueType::String,
        "" | "string" => ValueType::String,
        "number" => ValueType::Number,
        "boolean" => ValueType::Boolean,
        "object" => ValueType::Object,
        _ => {
            item.problem("value_type", "must be object, boolean, number or string");
            ValueType::String
        }
    };
    // Only one may count; Higress takes the host's.
    let host = pattern(item, "host_pattern").map(|pattern| (Subject::Host, pattern));
    let path = pattern(item, "path_pattern").map(|pattern| (Subject::Path, pattern));
    let template = Template { text, pattern: host.or(path), kind };
    if part == Part::Headers && template.pattern.is_none() && HeaderValue::from_str(&template.text).is_err() {
        item.warn(field, "cannot stand in a header and has no effect".to_owned());
    }
    if template.pattern.is_none() && kind.json(&template.text).is_none() {
        item.problem(field, format!("is not of the type {kind:?} that value_type says"));
    }
    template
}

fn pattern(item: &mut Fields<'_>, field: &'static str) -> Option<Regex> {
    let source = item.string(field).filter(|source| !source.is_empty())?;
    match Regex::new(source) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            item.problem(field, format!("is not a regular expression: {error}"));
            None
        }
    }
}

fn strategy(item: &mut Fields<'_>) -> Strategy {
    match item.text("strategy").unwrap_or_default().to_ascii_uppercase().as_str() {
        "RETAIN_UNIQUE" => Strategy::Unique,
        "RETAIN_LAST" => Strategy::Last,
        "" | "RETAIN_FIRST" => Strategy::First,
        "SPLIT_AND_RETAIN_FIRST" => Strategy::SplitFirst,
        "SPLIT_AND_RETAIN_LAST" => Strategy::SplitLast,
        _ => {
            item.problem(
                "strategy",
                "must be RETAIN_UNIQUE, RETAIN_LAST, RETAIN_FIRST, SPLIT_AND_RETAIN_FIRST or SPLIT_AND_RETAIN_LAST",
            );
            Strategy::First
        }
    }
}
