//! What `cluster-key-rate-limit` is configured with.

use ipnet::IpNet;
use regex::Regex;

use crate::plugins::address::{self, AddressSource};
use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::Scope;
use crate::plugins::store;
use crate::plugins::traffic::rate::Rate;
use crate::plugins::values::{self, Extent};
use crate::stores::redis::RedisConfig;

/// Most elements of `rule_items`.
const MOST_ITEMS: usize = 10;

pub struct Config {
    pub rule_name: String,
    pub global: Option<Rate>,
    pub items: Vec<Item>,
    pub show_quota: bool,
    pub rejected_code: u16,
    pub rejected_msg: String,
    /// `None` counts in this process.
    pub redis: Option<RedisConfig>,
}

/// One selector and the rates of its values.
pub struct Item {
    /// The configuration's own name of it, part of the counter's key.
    pub kind: &'static str,
    /// What it looks at, as in the counter's key.
    pub name: String,
    pub selector: Selector,
    /// In the order they are tried.
    pub limits: Vec<(Matcher, Rate)>,
}

pub enum Selector {
    Header(String),
    Parameter(String),
    Cookie(String),
    Address(AddressSource),
}

pub enum Matcher {
    Exact(String),
    Pattern(Regex),
    Network(IpNet),
    Any,
}

/// Header that the consumer's name stands in.
const CONSUMER_HEADER: &str = "x-mse-consumer";

/// Fields that select, and whether every value has a counter of its own.
const KINDS: [(&str, bool); 9] = [
    ("limit_by_header", false),
    ("limit_by_param", false),
    ("limit_by_cookie", false),
    ("limit_by_consumer", false),
    ("limit_by_per_header", true),
    ("limit_by_per_param", true),
    ("limit_by_per_cookie", true),
    ("limit_by_per_consumer", true),
    ("limit_by_per_ip", true),
];

impl Config {
    pub fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let rule_name = fields.name("rule_name").unwrap_or_default();
        if rule_name.is_empty() && fields.is_usable() {
            fields.problem("rule_name", "must be given; counters are kept under it");
        }
        let global = fields.object("global_threshold").and_then(|value| {
            let mut section = Fields::of(value, "global_threshold");
            let rate = Rate::read(&mut section);
            fields.problems.extend(section.finish());
            rate
        });
        let written = fields.list("rule_items").unwrap_or_default();
        if written.len() > MOST_ITEMS {
            fields.problem("rule_items", format!("has {} elements; at most {MOST_ITEMS} are counted", written.len()));
        }
        let mut items = Vec::with_capacity(written.len());
        for (index, value) in written.iter().enumerate() {
            let mut item = Fields::of(value, &format!("rule_items[{index}]"));
            items.extend(Item::read(&mut item));
            fields.problems.extend(item.finish());
        }
        if global.is_none() && items.is_empty() && fields.is_usable() {
            fields.problem("rule_items", "or global_threshold must be given");
        }
        let show_quota = fields.boolean("show_limit_quota_header").unwrap_or(false);
        let rejected_code = values::status(&mut fields, "rejected_code", 429);
        let rejected_msg = fields.string("rejected_msg").unwrap_or("Too many requests").to_owned();
        let redis = fields.object("redis").and_then(|value| {
            let mut section = Fields::of(value, "redis");
            let redis = store::redis(&mut section);
            fields.problems.extend(section.finish());
            redis
        });
        (Config { rule_name, global, items, show_quota, rejected_code, rejected_msg, redis }, fields.finish())
    }
}

impl Item {
    fn read(fields: &mut Fields<'_>) -> Option<Item> {
        let mut chosen = Vec::new();
        for (kind, is_per_value) in KINDS {
            // The consumer needs no name, so there an empty one selects too.
            let name = fields.string(kind).filter(|name| !name.is_empty() || kind.ends_with("_consumer"));
            chosen.extend(name.map(|name| (kind, is_per_value, name)));
        }
        let [(kind, is_per_value, written)] = chosen[..] else {
            if fields.is_usable() {
                let names: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
                fields.problem(
                    "limit_by_header",
                    format!("or another selector must be given, exactly one of {}", names.join(", ")),
                );
            }
            return None;
        };
        let name = if kind.ends_with("_consumer") { CONSUMER_HEADER } else { written }.to_owned();
        let selector = match kind {
            "limit_by_param" | "limit_by_per_param" => Selector::Parameter(name.clone()),
            "limit_by_cookie" | "limit_by_per_cookie" => Selector::Cookie(name.clone()),
            "limit_by_per_ip" => Selector::Address(address_source(fields, &name)?),
            _ => Selector::Header(name.clone()),
        };
        let is_address = matches!(selector, Selector::Address(_));
        let mut limits = Vec::new();
        for (index, value) in fields.list("limit_keys").unwrap_or_default().iter().enumerate() {
            let mut limit = Fields::of(value, &format!("{}[{index}]", fields.at("limit_keys")));
            let key = limit.name("key").filter(|key| !key.is_empty());
            if key.is_none() && limit.is_usable() {
                limit.problem("key", "must be given");
            }
            let rate = Rate::read(&mut limit);
            match key.map(|key| Matcher::of(&key, is_per_value, is_address)) {
                Some(Ok(matcher)) => limits.extend(rate.map(|rate| (matcher, rate))),
                Some(Err(message)) => limit.problem("key", message),
                None => {}
            }
            fields.problems.extend(limit.finish());
        }
        if limits.is_empty() && fields.is_usable() {
            fields.problem("limit_keys", "must name at least one key");
        }
        // Whatever is listed by name comes before everything else.
        limits.sort_by_key(|(matcher, _)| matches!(matcher, Matcher::Any));
        Some(Item { kind, name, selector, limits })
    }
}

fn address_source(fields: &mut Fields<'_>, written: &str) -> Option<AddressSource> {
    match (written, written.strip_prefix("from-header-")) {
        ("from-remote-addr", _) => Some(AddressSource::Connection),
        (_, Some(header)) if !header.is_empty() => Some(AddressSource::Header(header.to_owned())),
        _ => {
            let message = format!("must be from-remote-addr or from-header-<name>, found \"{written}\"");
            fields.problem("limit_by_per_ip", message);
            None
        }
    }
}

impl Matcher {
    fn of(key: &str, is_per_value: bool, is_address: bool) -> Result<Matcher, String> {
        match (key, key.strip_prefix("regexp:")) {
            _ if is_address => address::network(key)
                .map(Matcher::Network)
                .ok_or_else(|| format!("must be an IP address or network, found \"{key}\"")),
            _ if !is_per_value => Ok(Matcher::Exact(key.to_owned())),
            ("*", _) => Ok(Matcher::Any),
            (_, Some(pattern)) => values::pattern(pattern, Extent::Anywhere, false).map(Matcher::Pattern),
            _ => Err(format!("must be * or regexp:<expression> with this selector, found \"{key}\"")),
        }
    }

    pub fn takes(&self, value: &str) -> bool {
        match self {
            Matcher::Exact(own) => own == value,
            Matcher::Pattern(pattern) => pattern.is_match(value),
            Matcher::Network(network) => {
                value.parse().is_ok_and(|address: std::net::IpAddr| network.contains(&address))
            }
            Matcher::Any => true,
        }
    }
}
