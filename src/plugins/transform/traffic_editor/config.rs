//! Commands and conditions as they are written.

use regex::Regex;
use serde_json::Value;

use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::Scope;

pub struct Config {
    default: Option<CommandSet>,
    conditional: Vec<(Vec<Condition>, CommandSet)>,
}

pub struct CommandSet {
    pub commands: Vec<Command>,
    pub disable_reroute: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    RequestHeader,
    RequestQuery,
    ResponseHeader,
}

/// A header or query parameter. Names of headers are lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    pub place: Place,
    pub name: String,
}

#[derive(Debug, Clone)]
pub enum Command {
    Set { target: Ref, value: String },
    Concat { target: Ref, pieces: Vec<Piece> },
    Copy { source: Ref, target: Ref },
    Delete { target: Ref },
    Rename { target: Ref, new_name: String },
}

#[derive(Debug, Clone)]
pub enum Piece {
    Text(String),
    Of(Ref),
}

impl Command {
    pub fn target(&self) -> &Ref {
        match self {
            Command::Set { target, .. }
            | Command::Concat { target, .. }
            | Command::Copy { target, .. }
            | Command::Delete { target }
            | Command::Rename { target, .. } => target,
        }
    }
}

struct Condition {
    of: Ref,
    test: Test,
}

enum Test {
    Equals(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl Condition {
    /// Whether one of the values passes.
    fn holds(&self, values: &[String]) -> bool {
        values.iter().any(|value| match &self.test {
            Test::Equals(text) => value == text,
            Test::Prefix(text) => value.starts_with(text.as_str()),
            Test::Suffix(text) => value.ends_with(text.as_str()),
            Test::Contains(text) => value.contains(text.as_str()),
            Test::Regex(pattern) => pattern.is_match(value),
        })
    }
}

impl Config {
    /// The commands for a request whose fields `values` reads.
    pub fn effective(&self, values: impl Fn(&Ref) -> Vec<String>) -> Option<&CommandSet> {
        let matching = self
            .conditional
            .iter()
            .find(|(conditions, _)| conditions.iter().all(|condition| condition.holds(&values(&condition.of))));
        matching.map(|(_, set)| set).or(self.default.as_ref())
    }

    pub fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut problems = Vec::new();
        let default = fields.object("defaultConfig").map(|value| {
            let mut set = Fields::of(value, "defaultConfig");
            let commands = read_set(&mut set, &mut problems);
            problems.extend(set.finish());
            commands
        });
        let mut conditional = Vec::new();
        for (index, value) in fields.list("conditionalConfigs").unwrap_or_default().iter().enumerate() {
            let mut set = Fields::of(value, &format!("conditionalConfigs[{index}]"));
            let mut conditions = Vec::new();
            for (position, value) in set.list("conditions").unwrap_or_default().iter().enumerate() {
                let mut condition = Fields::of(value, &set.at(&format!("conditions[{position}]")));
                conditions.extend(read_condition(&mut condition, &mut problems));
                problems.extend(condition.finish());
            }
            conditional.push((conditions, read_set(&mut set, &mut problems)));
            problems.extend(set.finish());
        }
        problems.extend(fields.finish());
        (Config { default, conditional }, problems)
    }
}

fn read_set(fields: &mut Fields<'_>, problems: &mut Vec<FieldProblem>) -> CommandSet {
    let disable_reroute = fields.boolean("disableReroute").unwrap_or(false);
    let list = fields.list("commands");
    if list.is_none() {
        fields.problem("commands", "must be a list of commands");
    }
    let mut commands = Vec::new();
    for (index, value) in list.unwrap_or_default().iter().enumerate() {
        let mut command = Fields::of(value, &fields.at(&format!("commands[{index}]")));
        commands.extend(read_command(&mut command, problems));
        problems.extend(command.finish());
    }
    CommandSet { commands, disable_reroute }
}

fn read_command(fields: &mut Fields<'_>, problems: &mut Vec<FieldProblem>) -> Option<Command> {
    match fields.string("type").unwrap_or_default() {
        "set" => {
            let target = read_ref(fields, "target", problems);
            let value = fields.text("value").unwrap_or_default();
            if value.is_empty() {
                fields.problem("value", "must be given; to remove a field use delete");
            }
            Some(Command::Set { target: target?, value })
        }
        "concat" => {
            let target = read_ref(fields, "target", problems);
            let mut pieces = Vec::new();
            for (index, value) in fields.list("values").unwrap_or_default().iter().enumerate() {
                let at = fields.at(&format!("values[{index}]"));
                pieces.extend(read_piece(value, &at, problems));
            }
            let target = target?;
            for (index, piece) in pieces.iter().enumerate() {
                if let Piece::Of(source) = piece {
                    check_order(fields, &format!("values[{index}]"), source, &target);
                }
            }
            Some(Command::Concat { target, pieces })
        }
        "copy" => {
            let source = read_ref(fields, "source", problems);
            let target = read_ref(fields, "target", problems);
            let (source, target) = (source?, target?);
            check_order(fields, "source", &source, &target);
            Some(Command::Copy { source, target })
        }
        "delete" => Some(Command::Delete { target: read_ref(fields, "target", problems)? }),
        "rename" => read_rename(fields, problems),
        _ => {
            fields.problem("type", "must be set, concat, copy, delete or rename");
            None
        }
    }
}

/// `target` and `newName`, or `source` and `target`.
fn read_rename(fields: &mut Fields<'_>, problems: &mut Vec<FieldProblem>) -> Option<Command> {
    let target = read_ref(fields, "target", problems);
    if fields.get("source").is_some() {
        let source = read_ref(fields, "source", problems);
        let (source, target) = (source?, target?);
        if source.place != target.place {
            fields.problem("target", "must be of the same type as source; use copy and delete to move between types");
        }
        return Some(Command::Rename { target: source, new_name: target.name });
    }
    let target = target?;
    let new_name = named(&fields.name("newName").unwrap_or_default(), target.place);
    if new_name.is_empty() {
        fields.problem("newName", "must be given");
    }
    Some(Command::Rename { target, new_name })
}

fn read_piece(value: &Value, at: &str, problems: &mut Vec<FieldProblem>) -> Option<Piece> {
    if !value.is_object() {
        return Some(Piece::Text(value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    let mut fields = Fields::of(value, at);
    let piece = ref_of(&mut fields).map(Piece::Of);
    problems.extend(fields.finish());
    piece
}

fn read_condition(fields: &mut Fields<'_>, problems: &mut Vec<FieldProblem>) -> Option<Condition> {
    let kind = fields.string("type").unwrap_or_default();
    let of = read_ref(fields, if kind == "equals" { "value1" } else { "value" }, problems);
    let mut text = |key| fields.text(key).unwrap_or_default();
    let test = match kind {
        "equals" => Some(Test::Equals(text("value2"))),
        "prefix" => Some(Test::Prefix(text("prefix"))),
        "suffix" => Some(Test::Suffix(text("suffix"))),
        "contains" => {
            let substr = text("substr");
            Some(Test::Contains(if substr.is_empty() { text("part") } else { substr }))
        }
        "regex" => match Regex::new(&text("pattern")) {
            Ok(pattern) => Some(Test::Regex(pattern)),
            Err(error) => {
                fields.problem("pattern", format!("is not a regular expression: {error}"));
                None
            }
        },
        _ => {
            fields.problem("type", "must be equals, prefix, suffix, contains or regex");
            None
        }
    };
    let of = of?;
    if of.place == Place::ResponseHeader {
        fields.problem("value", "must be of the request: conditions are judged before there is an answer");
    }
    Some(Condition { of, test: test? })
}

fn read_ref(fields: &mut Fields<'_>, key: &'static str, problems: &mut Vec<FieldProblem>) -> Option<Ref> {
    let Some(value) = fields.object(key) else {
        fields.problem(key, "must be an object with type and name");
        return None;
    };
    let mut inner = Fields::of(value, &fields.at(key));
    let found = ref_of(&mut inner);
    problems.extend(inner.finish());
    found
}

fn ref_of(fields: &mut Fields<'_>) -> Option<Ref> {
    let place = match fields.string("type").unwrap_or_default() {
        "request_header" => Some(Place::RequestHeader),
        "request_query" => Some(Place::RequestQuery),
        "response_header" => Some(Place::ResponseHeader),
        _ => {
            fields.problem("type", "must be request_header, request_query or response_header");
            None
        }
    };
    let name = fields.name("name").unwrap_or_default();
    if name.is_empty() {
        fields.problem("name", "must be given");
    }
    let place = place?;
    Some(Ref { place, name: named(&name, place) })
}

fn named(name: &str, place: Place) -> String {
    if place == Place::RequestQuery { name.to_owned() } else { name.to_ascii_lowercase() }
}

/// A request is over before its answer begins.
fn check_order(fields: &mut Fields<'_>, key: &str, source: &Ref, target: &Ref) {
    if source.place == Place::ResponseHeader && target.place != Place::ResponseHeader {
        fields.problem(key, "is of the answer, which does not exist yet when the target is written");
    }
}
