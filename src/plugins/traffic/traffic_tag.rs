//! `traffic-tag`: marks requests with a header, by their content or by chance, so that routes can tell them apart. Default
//! phase, priority 400.
//!
//! The first condition group that matches sets its header; otherwise the weight groups share 100 parts of chance; otherwise
//! the default is set. A header that the request has already stays. The route is matched again afterwards.
//!
//! Differences from Higress: a group without conditions is a configuration error (there it never matches).

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use regex::Regex;
use sha2::{Digest, Sha256};

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::values::{self, Extent};
use crate::plugins::{Flow, Host, Plugin, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "traffic-tag",
    phase: Phase::Unspecified,
    priority: 400,
    family: Family::Go,
    summary: "Marks requests with a header, by their content or by chance",
    build,
    check: |scope| Config::read(scope).1,
};

const TOTAL_WEIGHT: u64 = 100;

struct Config {
    groups: Vec<Group>,
    /// Tags with the upper end of their part of the 100.
    weights: Vec<(Tag, u64)>,
    default: Option<Tag>,
}

struct Tag {
    name: HeaderName,
    value: HeaderValue,
}

struct Group {
    tag: Tag,
    /// Every condition must hold, or one.
    is_and: bool,
    conditions: Vec<Condition>,
}

struct Condition {
    place: Place,
    key: String,
    operator: Operator,
}

#[derive(Clone, Copy)]
enum Place {
    Header,
    Parameter,
    Cookie,
}

enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Prefix(String),
    Pattern(Regex),
    /// Of all values, by their hash.
    Percentage(u64),
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut groups = Vec::new();
        for (index, value) in fields.list("conditionGroups").unwrap_or_default().iter().enumerate() {
            let mut group = Fields::of(value, &format!("conditionGroups[{index}]"));
            groups.extend(Group::read(&mut group));
            fields.problems.extend(group.finish());
        }
        let (mut weights, mut total) = (Vec::new(), 0);
        for (index, value) in fields.list("weightGroups").unwrap_or_default().iter().enumerate() {
            let mut group = Fields::of(value, &format!("weightGroups[{index}]"));
            let tag = Tag::read(&mut group, "headerName", "headerValue");
            total += group.count("weight").unwrap_or(0).min(TOTAL_WEIGHT + 1);
            weights.extend(tag.map(|tag| (tag, total)));
            fields.problems.extend(group.finish());
        }
        if total > TOTAL_WEIGHT {
            fields.problem("weightGroups", format!("weigh {total} together; at most {TOTAL_WEIGHT}"));
        }
        let named = |fields: &mut Fields<'_>, key| fields.name(key).is_some_and(|text| !text.is_empty());
        let is_default = [named(&mut fields, "defaultTagKey"), named(&mut fields, "defaultTagVal")] == [true, true];
        let default = if is_default { Tag::read(&mut fields, "defaultTagKey", "defaultTagVal") } else { None };
        (Config { groups, weights, default }, fields.finish())
    }
}

impl Tag {
    fn read(fields: &mut Fields<'_>, name_key: &'static str, value_key: &'static str) -> Option<Tag> {
        let name = fields.name(name_key).unwrap_or_default();
        let value = fields.name(value_key).unwrap_or_default();
        let header = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value));
        match header {
            (Ok(name), Ok(header)) if !value.is_empty() => return Some(Tag { name, value: header }),
            (Err(_), _) => fields.problem(name_key, format!("must be the name of a header, found \"{name}\"")),
            _ => fields.problem(value_key, format!("must be the value of a header, found \"{value}\"")),
        }
        None
    }
}

impl Group {
    fn read(fields: &mut Fields<'_>) -> Option<Group> {
        let tag = Tag::read(fields, "headerName", "headerValue");
        let is_and = match fields.string("logic").map(str::to_ascii_lowercase).as_deref() {
            Some("and") => true,
            Some("or") => false,
            _ => {
                fields.problem("logic", "must be and, or or");
                false
            }
        };
        let written = fields.list("conditions").unwrap_or_default();
        if written.is_empty() {
            fields.problem("conditions", "must not be empty: the group would never match");
        }
        let mut conditions = Vec::with_capacity(written.len());
        for (index, value) in written.iter().enumerate() {
            let mut condition = Fields::of(value, &format!("{}[{index}]", fields.at("conditions")));
            conditions.extend(Condition::read(&mut condition));
            fields.problems.extend(condition.finish());
        }
        Some(Group { tag: tag?, is_and, conditions })
    }

    fn takes(&self, request: &Request<'_>) -> bool {
        let mut held = self.conditions.iter().map(|condition| condition.holds(request));
        if self.is_and { held.all(|holds| holds) } else { held.any(|holds| holds) }
    }
}

impl Condition {
    fn read(fields: &mut Fields<'_>) -> Option<Condition> {
        let place = match fields.string("conditionType").map(str::to_ascii_lowercase).as_deref() {
            Some("header") => Some(Place::Header),
            Some("parameter") => Some(Place::Parameter),
            Some("cookie") => Some(Place::Cookie),
            _ => {
                fields.problem("conditionType", "must be header, parameter or cookie");
                None
            }
        };
        let key = fields.name("key").unwrap_or_default();
        if key.is_empty() {
            fields.problem("key", "must be given");
        }
        let texts = values::texts(fields, "value");
        let name = fields.string("operator").unwrap_or_default().to_ascii_lowercase();
        let single = match &texts[..] {
            [one] => Ok(one.clone()),
            _ => Err(format!("must have exactly one element with the operator {name}")),
        };
        let operator = match name.as_str() {
            "in" | "not_in" if texts.is_empty() => Err(("value", "must have at least one element".to_owned())),
            "in" => Ok(Operator::In(texts)),
            "not_in" => Ok(Operator::NotIn(texts)),
            "equal" => single.map(|value| Operator::In(vec![value])).map_err(|message| ("value", message)),
            "not_equal" => single.map(|value| Operator::NotIn(vec![value])).map_err(|message| ("value", message)),
            "prefix" => single.map(Operator::Prefix).map_err(|message| ("value", message)),
            "regex" => single
                .and_then(|value| values::pattern(&value, Extent::Anywhere, false))
                .map(Operator::Pattern)
                .map_err(|message| ("value", message)),
            "percentage" => single
                .and_then(|value| percentage(&value))
                .map(Operator::Percentage)
                .map_err(|message| ("value", message)),
            _ => Err(("operator", "must be equal, not_equal, prefix, in, not_in, regex or percentage".to_owned())),
        };
        match operator {
            Ok(operator) => Some(Condition { place: place?, key, operator }),
            Err((field, message)) => {
                fields.problem(field, message);
                None
            }
        }
    }

    /// False if the request has no such value.
    fn holds(&self, request: &Request<'_>) -> bool {
        let value = match self.place {
            Place::Header => parts::text(request, &self.key),
            Place::Parameter => parts::parameter(request, &self.key),
            Place::Cookie => parts::cookie(request, &self.key).map(Into::into),
        };
        value.is_some_and(|value| self.operator.holds(&value))
    }
}

impl Operator {
    fn holds(&self, value: &str) -> bool {
        match self {
            Operator::In(list) => list.iter().any(|own| own == value),
            Operator::NotIn(list) => list.iter().all(|own| own != value),
            Operator::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Operator::Pattern(pattern) => pattern.is_match(value),
            Operator::Percentage(percent) => bucket(value) < *percent,
        }
    }
}

/// Which of 100 equal parts of all values this one is in.
fn bucket(value: &str) -> u64 {
    let hash = Sha256::digest(value.as_bytes());
    hash.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte)) % 100
}

fn percentage(value: &str) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| format!("must be a whole number from 0 to 100, found \"{value}\""))
}

struct TrafficTag {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(TrafficTag { config }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for TrafficTag {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let by_content = self.config.groups.iter().find(|group| group.takes(request)).map(|group| &group.tag);
        let drawn = request.state.id.sample("traffic-tag") * TOTAL_WEIGHT as f64;
        let by_chance = || self.config.weights.iter().find(|(_, end)| drawn < *end as f64).map(|(tag, _)| tag);
        let tag = by_content.or_else(by_chance).or(self.config.default.as_ref());
        if let Some(tag) = tag
            && parts::text(request, tag.name.as_str()).is_none_or(|value| value.is_empty())
        {
            request.set_header_and_reroute(tag.name.clone(), tag.value.clone());
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    fn tag(config: &Value, path: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let mut exchange = Exchange::new("GET", path, headers);
        assert!(exchange.run(&built(&SPEC, config)).is_none());
        exchange.header("x-tag").map(str::to_owned)
    }

    fn group(value: &str, logic: &str, conditions: &Value) -> Value {
        json!({"headerName": "x-tag", "headerValue": value, "logic": logic, "conditions": conditions})
    }

    #[test]
    fn every_operator_decides() {
        for (operator, values, yes, no) in [
            ("equal", json!(["v1"]), "v1", "v12"),
            ("equal", json!(7), "7", "8"),
            ("not_equal", json!(["v1"]), "v2", "v1"),
            ("prefix", json!(["v1"]), "v12", "av1"),
            ("in", json!(["a", "b"]), "b", "c"),
            ("not_in", json!(["a", "b"]), "c", "a"),
            ("regex", json!(["^v[12]$"]), "v2", "v3"),
            ("Percentage", json!(["50"]), "b", "a"),
        ] {
            let config = json!({"conditionGroups": [group("hit", "AND", &json!([
                {"conditionType": "Header", "key": "x-v", "operator": operator, "value": values}]))]});
            assert_eq!(
                tag(&config, "/", &[("x-v", yes)]).as_deref(),
                Some("hit"),
                "{operator} {yes} ({})",
                bucket(yes)
            );
            assert_eq!(tag(&config, "/", &[("x-v", no)]), None, "{operator} {no} ({})", bucket(no));
            assert_eq!(tag(&config, "/", &[]), None, "{operator}: no value");
        }
    }

    #[test]
    fn groups_come_in_order_and_combine_their_conditions() {
        let conditions = json!([
            {"conditionType": "parameter", "key": "p", "operator": "equal", "value": ["a b"]},
            {"conditionType": "cookie", "key": "c", "operator": "equal", "value": ["1"]},
        ]);
        let config = json!({"conditionGroups": [group("both", "and", &conditions), group("one", "or", &conditions)],
            "defaultTagKey": "x-tag", "defaultTagVal": "none"});
        assert_eq!(tag(&config, "/?p=a+b", &[("cookie", "c=1")]).as_deref(), Some("both"));
        assert_eq!(tag(&config, "/?p=a+b", &[]).as_deref(), Some("one"));
        assert_eq!(tag(&config, "/", &[("cookie", "c=1")]).as_deref(), Some("one"));
        assert_eq!(tag(&config, "/", &[]).as_deref(), Some("none"));
        assert_eq!(tag(&config, "/", &[("x-tag", "own")]).as_deref(), Some("own"), "what is there stays");
    }

    #[test]
    fn weights_share_what_conditions_left_over() {
        let config = json!({"weightGroups": [
            {"headerName": "x-tag", "headerValue": "a", "weight": 30}, {"headerName": "x-tag", "headerValue": "b", "weight": 70}]});
        let mut counts = [0; 2];
        for _ in 0..1000 {
            match tag(&config, "/", &[]).as_deref() {
                Some("a") => counts[0] += 1,
                Some("b") => counts[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!((200..400).contains(&counts[0]), "{counts:?}");
        assert_eq!(
            tag(&json!({"weightGroups": [{"headerName": "x-tag", "headerValue": "a", "weight": 0}]}), "/", &[]),
            None
        );
    }

    #[test]
    fn the_route_is_matched_again() {
        let mut exchange = Exchange::new("GET", "/", &[]);
        exchange.run(&built(&SPEC, &json!({"defaultTagKey": "x-tag", "defaultTagVal": "d"})));
        assert!(exchange.state.reroute);
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({
            "conditionGroups": [
                {"headerName": "x tag", "headerValue": "a", "logic": "xor", "conditions": []},
                group("a", "or", &json!([
                    {"conditionType": "body", "key": "k", "operator": "equal", "value": ["a", "b"]},
                    {"conditionType": "header", "operator": "like", "value": ["a"]},
                    {"conditionType": "header", "key": "k", "operator": "regex", "value": ["("]},
                    {"conditionType": "header", "key": "k", "operator": "percentage", "value": [101]},
                    {"conditionType": "header", "key": "k", "operator": "in", "value": []}])),
            ],
            "weightGroups": [{"headerName": "a", "headerValue": "b", "weight": 60}, {"headerName": "a", "weight": 60}],
        });
        assert_eq!(
            problem_fields(&SPEC, &config),
            [
                "conditionGroups[0].headerName",
                "conditionGroups[0].logic",
                "conditionGroups[0].conditions",
                "conditionGroups[1].conditions[0].conditionType",
                "conditionGroups[1].conditions[0].value",
                "conditionGroups[1].conditions[1].key",
                "conditionGroups[1].conditions[1].operator",
                "conditionGroups[1].conditions[2].value",
                "conditionGroups[1].conditions[3].value",
                "conditionGroups[1].conditions[4].value",
                "weightGroups[1].headerValue",
                "weightGroups",
            ]
        );
    }
}
