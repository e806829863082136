//! `nginx-rewrite-compatible`: what nginx configurations do with `rewrite` and `set`. Default phase, priority 0.
//!
//! Difference from Higress: a variable without one of the prefixes `arg_`, `http_` and `cookie_` can only be passed to the upstream as a
//! header; the Envoy property that Higress sets beside has no reader here.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};
use regex::{Captures, Regex};

use super::bag;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "nginx-rewrite-compatible",
    phase: Phase::Unspecified,
    priority: 0,
    family: Family::Go,
    summary: "Rewrites path and query and sets query parameters, headers and cookies as nginx' rewrite and set do",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    rules: Vec<Rule>,
}

struct Rule {
    pattern: Regex,
    replacement: String,
    query: Option<QueryChange>,
    variables: Vec<Variable>,
    pass_to_upstream: bool,
    /// Later rules are not looked at, and the route stays.
    is_break: bool,
}

enum QueryChange {
    Append(String),
    Template(String),
}

struct Variable {
    group: usize,
    place: VariablePlace,
    /// The header it may be passed to the upstream in.
    upstream_header: HeaderName,
}

enum VariablePlace {
    Query(String),
    Header(HeaderName),
    Cookie(String),
    Nowhere,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let list = fields.list("rules").unwrap_or_default();
        if list.is_empty() && fields.is_usable() {
            fields.problem("rules", "must have at least one rule");
        }
        let mut rules = Vec::new();
        let mut problems = Vec::new();
        for (index, rule) in list.iter().enumerate() {
            let mut rule = Fields::of(rule, &format!("rules[{index}]"));
            rules.extend(read_rule(&mut rule, &mut problems));
            problems.extend(rule.finish());
        }
        problems.extend(fields.finish());
        (Config { rules }, problems)
    }
}

fn read_rule(rule: &mut Fields<'_>, problems: &mut Vec<FieldProblem>) -> Option<Rule> {
    let pattern = match rule.string("regex").map(Regex::new) {
        Some(Ok(pattern)) => Some(pattern),
        Some(Err(error)) => {
            rule.problem("regex", format!("is not a regular expression: {error}"));
            None
        }
        None => {
            rule.problem("regex", "must be given");
            None
        }
    };
    let replacement = rule.name("replacement").unwrap_or_default();
    if replacement.is_empty() {
        rule.problem("replacement", "must be given");
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let query = match (given(rule.name("query_append")), given(rule.name("query_template"))) {
        (Some(_), Some(_)) => {
            rule.problem("query_template", "cannot be combined with query_append");
            None
        }
        (Some(append), None) => Some(QueryChange::Append(append)),
        (None, template) => template.map(QueryChange::Template),
    };
    let is_break = match rule.string("mode").unwrap_or_default().to_ascii_lowercase().as_str() {
        "break" => true,
        "" | "last" => false,
        _ => {
            rule.problem("mode", "must be last or break");
            false
        }
    };
    let pass_to_upstream = rule.boolean("pass_to_upstream").unwrap_or(false);
    let mut variables = Vec::new();
    for (index, variable) in rule.list("set_vars").unwrap_or_default().iter().enumerate() {
        let mut variable = Fields::of(variable, &rule.at(&format!("set_vars[{index}]")));
        let n_groups = pattern.as_ref().map_or(usize::MAX, Regex::captures_len);
        variables.extend(read_variable(&mut variable, n_groups));
        problems.extend(variable.finish());
    }
    Some(Rule { pattern: pattern?, replacement, query, variables, pass_to_upstream, is_break })
}

fn read_variable(fields: &mut Fields<'_>, n_groups: usize) -> Option<Variable> {
    let name = fields.string("name").unwrap_or_default().trim();
    let group = usize::try_from(fields.count("capture_group").unwrap_or(0)).unwrap_or(usize::MAX);
    if group >= n_groups {
        fields.problem("capture_group", format!("is {group}, but the expression has {} groups", n_groups - 1));
    }
    let header = |name: &str| name.to_ascii_lowercase().replace(['_', ' '], "-").parse::<HeaderName>();
    let Ok(upstream_header) = header(&format!("x-higress-rewrite-var-{name}")) else {
        fields.problem("name", "cannot be part of a header name");
        return None;
    };
    let place = if let Some(parameter) = name.strip_prefix("arg_") {
        VariablePlace::Query(parameter.to_owned())
    } else if let Some(cookie) = name.strip_prefix("cookie_") {
        VariablePlace::Cookie(cookie.to_owned())
    } else if let Some(name) = name.strip_prefix("http_").filter(|name| !name.is_empty()) {
        VariablePlace::Header(header(name).ok()?)
    } else {
        VariablePlace::Nowhere
    };
    if name.is_empty() {
        fields.problem("name", "must be given");
    }
    Some(Variable { group, place, upstream_header })
}

struct NginxRewrite {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(NginxRewrite { config }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for NginxRewrite {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let mut path = request.path().to_owned();
        let mut query = request.head.uri.query().unwrap_or_default().to_owned();
        let mut set: Vec<(&Variable, String, bool)> = Vec::new();
        let (mut is_changed, mut stays) = (false, false);
        for rule in &self.config.rules {
            let Some(captures) = rule.pattern.captures(&path) else { continue };
            is_changed = true;
            match &rule.query {
                Some(QueryChange::Template(template)) => query = expanded(&captures, template),
                Some(QueryChange::Append(suffix)) => join(&mut query, &expanded(&captures, suffix), "&"),
                None => {}
            }
            for variable in &rule.variables {
                let value = captures.get(variable.group).map_or("", |found| found.as_str()).to_owned();
                // A later rule that sets the same variable wins.
                set.retain(|(earlier, ..)| earlier.upstream_header != variable.upstream_header);
                set.push((variable, value, rule.pass_to_upstream));
            }
            let rewritten = rule.pattern.replace_all(&path, rule.replacement.as_str()).into_owned();
            path = rewritten;
            if rule.is_break {
                stays = true;
                break;
            }
        }
        if !is_changed {
            return Flow::Continue;
        }
        for (variable, value, passes) in set {
            apply(request, &mut query, variable, &value, passes);
        }
        let path = if query.is_empty() { path } else { format!("{path}?{query}") };
        bag::set_path_and_query(request, &path);
        request.state.reroute |= !stays;
        Flow::Continue
    }
}

fn apply(request: &mut Request<'_>, query: &mut String, variable: &Variable, value: &str, passes: bool) {
    match &variable.place {
        VariablePlace::Query(name) => *query = with_pair(query, "&", name, value),
        VariablePlace::Cookie(name) => {
            let cookie = with_pair(request.header("cookie").unwrap_or_default(), "; ", name, value);
            put(request, &COOKIE, &cookie);
        }
        VariablePlace::Header(name) => put(request, name, value),
        VariablePlace::Nowhere => {}
    }
    if passes {
        put(request, &variable.upstream_header, value);
    } else {
        // Nobody but this plugin may say what a variable holds.
        let _ = request.head.remove_header(&variable.upstream_header);
    }
}

fn put(request: &mut Request<'_>, name: &HeaderName, value: &str) {
    // Where the body ends, and whom the request is for, is no variable.
    if [CONTENT_LENGTH, TRANSFER_ENCODING, HOST].contains(name) {
        return;
    }
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        // Insertion fails only on names that are not header names.
        let _ = request.head.insert_header(name.clone(), value);
    }
}

fn expanded(captures: &Captures<'_>, template: &str) -> String {
    let mut text = String::new();
    captures.expand(template, &mut text);
    text
}

fn join(text: &mut String, suffix: &str, separator: &str) {
    if !(text.is_empty() || suffix.is_empty()) {
        text.push_str(separator);
    }
    text.push_str(suffix);
}

/// `pairs` with `name=value` where `name` stood first, or at the end; further pairs of that name are dropped.
fn with_pair(pairs: &str, separator: &str, name: &str, value: &str) -> String {
    let mut result = String::new();
    let mut is_set = false;
    for pair in pairs.split(separator.trim_end()).map(str::trim).filter(|pair| !pair.is_empty()) {
        if pair.split('=').next() != Some(name) {
            join(&mut result, pair, separator);
        } else if !std::mem::replace(&mut is_set, true) {
            join(&mut result, &format!("{name}={value}"), separator);
        }
    }
    if !is_set {
        join(&mut result, &format!("{name}={value}"), separator);
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    /// The new path and whether the route is matched again.
    fn check(rules: &Value, path: &str) -> (String, bool) {
        let mut exchange = Exchange::new("GET", path, &[]);
        exchange.run(&built(&SPEC, &json!({"rules": rules})));
        (exchange.head.uri.to_string(), exchange.state.reroute)
    }

    #[test]
    fn rules_follow_one_another_until_break() {
        let staged = |mode: &str| {
            json!([{"regex": "^/stage/(.*)$", "replacement": "/mid/$1", "mode": mode},
                {"regex": "^/mid/(.*)$", "replacement": "/final/$1"}])
        };
        assert_eq!(check(&staged("last"), "/stage/a?x=1"), ("/final/a?x=1".into(), true));
        assert_eq!(check(&staged("break"), "/stage/a?x=1"), ("/mid/a?x=1".into(), false));
        assert_eq!(check(&staged("last"), "/other"), ("/other".into(), false));
    }

    #[test]
    fn queries_are_appended_or_replaced() {
        let append = json!([{"regex": "^/api/(.*)$", "replacement": "/internal", "query_append": "from=$1"}]);
        assert_eq!(check(&append, "/api/a?x=1").0, "/internal?x=1&from=a");
        assert_eq!(check(&append, "/api/a").0, "/internal?from=a");
        let template = json!([{"regex": "^/x/(.*)/(.*)$", "replacement": "/y", "query_template": "a=$1&b=$2"}]);
        assert_eq!(check(&template, "/x/1/2?c=3").0, "/y?a=1&b=2");
    }

    #[test]
    fn variables_go_where_their_prefix_says() {
        let config = json!({"rules": [{"regex": "^/api/(.*)/(.*)$", "replacement": "/internal", "pass_to_upstream": true, "set_vars": [
            {"name": "original_path", "capture_group": 1}, {"name": "http_x_original", "capture_group": 1},
            {"name": "arg_source", "capture_group": 2}, {"name": "cookie_track_id", "capture_group": 0},
        ]}, {"regex": "^/internal$", "replacement": "/end", "set_vars": [{"name": "secret"}]}]});
        let sent = [("cookie", "a=1; track_id=old; track_id=older"), ("x-higress-rewrite-var-secret", "forged")];
        let mut exchange = Exchange::new("GET", "/api/one/two?source=0&q=1", &sent);
        exchange.run(&built(&SPEC, &config));
        assert_eq!(exchange.head.uri.to_string(), "/end?source=two&q=1");
        for (name, expected) in [
            ("x-original", Some("one")),
            ("cookie", Some("a=1; track_id=/api/one/two")),
            ("x-higress-rewrite-var-original-path", Some("one")),
            ("x-higress-rewrite-var-arg-source", Some("two")),
            ("x-higress-rewrite-var-secret", None),
        ] {
            assert_eq!(exchange.header(name), expected, "{name}");
        }
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({})), ["rules"]);
        let config = json!({"rules": [
            {"regex": "(", "mode": "once", "query_append": "a", "query_template": "b"},
            {"regex": "(a)", "replacement": "/", "set_vars": [{"name": "x", "capture_group": 2}, {"name": "ü"}], "typo": 1},
        ]});
        let expected = [
            "rules[0].regex",
            "rules[0].replacement",
            "rules[0].query_template",
            "rules[0].mode",
            "rules[1].set_vars[0].capture_group",
            "rules[1].set_vars[1].name",
            "rules[1].typo",
        ];
        assert_eq!(problem_fields(&SPEC, &config), expected);
    }
}
