//! Texts and requests that a configuration names by pattern: header names to copy, requests to leave out
//! (Higress `plugins/wasm-go/extensions/ext-auth/expr`; oidc has the same rules without methods).

use regex::{Regex, RegexBuilder};

use super::consumers::{each, required};
use crate::plugins::Request;
use crate::plugins::config::Fields;

const KINDS: [&str; 5] = ["exact", "prefix", "suffix", "contains", "regex"];

/// One pattern over a text.
#[derive(Debug, Clone)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl Pattern {
    fn new(kind: &str, text: &str, ignore_case: bool) -> Result<Pattern, String> {
        let own = || if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        Ok(match kind {
            "exact" => Pattern::Exact(own()),
            "prefix" => Pattern::Prefix(own()),
            "suffix" => Pattern::Suffix(own()),
            "contains" => Pattern::Contains(own()),
            "regex" => {
                let built = RegexBuilder::new(text).case_insensitive(ignore_case).build();
                Pattern::Regex(built.map_err(|error| format!("is no regular expression: {error}"))?)
            }
            other => return Err(format!("\"{other}\" is not one of {}", KINDS.join(", "))),
        })
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(exact) => text == exact,
            Pattern::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Pattern::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Pattern::Contains(part) => text.contains(part.as_str()),
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Header names, by patterns; case does not count.
#[derive(Debug, Clone)]
pub struct HeaderNames(Vec<Pattern>);

impl HeaderNames {
    /// Reads a list of `{exact | prefix | suffix | contains | regex}`; `None` if it is not there.
    pub fn read(fields: &mut Fields<'_>, key: &'static str) -> Option<HeaderNames> {
        fields.get(key)?;
        let patterns = each(fields, key, |fields| {
            fields.boolean("ignore_case");
            let mut given = KINDS.iter().filter_map(|kind| Some((*kind, fields.string(kind)?)));
            let Some((kind, text)) = given.next() else {
                fields.problem("exact", format!("or another pattern must be given: one of {}", KINDS.join(", ")));
                return None;
            };
            Pattern::new(kind, text, true).map_err(|why| fields.problem(kind, why)).ok()
        });
        Some(HeaderNames(patterns))
    }

    /// `name` is in lower case.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}

/// Requests a plugin leaves out (`whitelist`), or the only ones it looks at (`blacklist`).
#[derive(Debug, Clone)]
pub struct MatchRules {
    leaves_out: bool,
    rules: Vec<MatchRule>,
}

/// All that is given must match; a rule that gives nothing matches nothing.
#[derive(Debug, Clone)]
struct MatchRule {
    domain: String,
    methods: Vec<String>,
    path: Option<Pattern>,
}

impl MatchRules {
    /// Reads `match_type` and `match_list`.
    pub fn read(fields: &mut Fields<'_>) -> MatchRules {
        let leaves_out = match fields.string("match_type") {
            None | Some("whitelist") => true,
            Some("blacklist") => false,
            Some(other) => {
                fields.problem("match_type", format!("\"{other}\" is not one of whitelist, blacklist"));
                true
            }
        };
        let rules = each(fields, "match_list", |fields| {
            // As written a client could choose by the spelling of its host.
            let domain = fields.string("match_rule_domain").unwrap_or_default().to_ascii_lowercase();
            let methods = fields.strings("match_rule_method").unwrap_or_default();
            let path = match (fields.string("match_rule_type"), fields.string("match_rule_path")) {
                (None | Some(""), None | Some("")) => None,
                (kind, path) => {
                    let pattern = Pattern::new(kind.unwrap_or_default(), path.unwrap_or_default(), false);
                    let named = if kind == Some("regex") { "match_rule_path" } else { "match_rule_type" };
                    Some(pattern.map_err(|why| fields.problem(named, why)).ok()?)
                }
            };
            Some(MatchRule { domain, methods, path })
        });
        MatchRules { leaves_out, rules }
    }

    /// Whether the plugin has nothing to do with this request.
    pub fn leaves_out(&self, request: &Request<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(request)) == self.leaves_out
    }
}

impl MatchRule {
    fn matches(&self, request: &Request<'_>) -> bool {
        let authority = request.header("host").unwrap_or_default().to_ascii_lowercase();
        let is_empty = self.domain.is_empty() && self.methods.is_empty() && self.path.is_none();
        let domain = || is_like(&self.domain, &request.state.host) || is_like(&self.domain, &authority);
        let method = || self.methods.iter().any(|method| method.eq_ignore_ascii_case(request.head.method.as_str()));
        !is_empty
            && (self.domain.is_empty() || domain())
            && (self.methods.is_empty() || method())
            && self.path.as_ref().is_none_or(|path| path.matches(request.path()))
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
fn is_like(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let Some((middle, end)) = rest.rsplit_once('*') else { return text.ends_with(rest) };
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(end)
}

/// Service and port of a call, as several plugins name them.
pub fn service(fields: &mut Fields<'_>, default_port: Option<u64>) -> Option<(String, u16)> {
    let name = required(fields, "service_name");
    let n_problems = fields.problems.len();
    let port = fields.count("service_port").filter(|port| *port != 0).or(default_port);
    let port = port.and_then(|port| u16::try_from(port).ok());
    if port.is_none() && fields.problems.len() == n_problems {
        fields.problem("service_port", "must be a port number");
    }
    Some((name?, port?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::Exchange;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("a.com", "a.com", true),
            ("a.com", "a.com.de", false),
            ("*.a.com", "x.y.a.com", true),
            ("*.a.com", "a.com", false),
            ("a.*", "a.com", true),
            ("*", "anything", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    fn leaves_out(config: &Value, method: &str, host: &str, path: &str) -> bool {
        let mut fields = Fields::of(config, "");
        let rules = MatchRules::read(&mut fields);
        assert_eq!(fields.finish(), []);
        let mut exchange = Exchange::new(method, path, &[("host", host)]);
        exchange.state.host = host.split(':').next().unwrap_or_default().to_owned();
        rules.leaves_out(&exchange.request())
    }

    #[test]
    fn lists_leave_out_or_narrow() {
        let list = json!([{"match_rule_domain": "*.a.com", "match_rule_method": ["get"], "match_rule_path": "/pub",
            "match_rule_type": "prefix"}, {"match_rule_path": "^/v[0-9]+/x$", "match_rule_type": "regex"},
            {"match_rule_path": ".css", "match_rule_type": "suffix"}, {"match_rule_path": "/open/", "match_rule_type": "contains"},
            {"match_rule_path": "/exact", "match_rule_type": "exact"}, {}]);
        let white = json!({"match_type": "whitelist", "match_list": list});
        let black = json!({"match_type": "blacklist", "match_list": list});
        for (method, host, path, is_matched) in [
            ("GET", "x.a.com:80", "/public?x=1", true),
            ("POST", "x.a.com", "/public", false),
            ("GET", "a.org", "/public", false),
            ("GET", "x.a.com", "/private", false),
            ("DELETE", "a.org", "/v12/x", true),
            ("GET", "a.org", "/a/b.css", true),
            ("GET", "a.org", "/b.css/a", false),
            ("GET", "a.org", "/a/open/b", true),
            ("GET", "a.org", "/exact", true),
            ("GET", "a.org", "/exact/not", false),
        ] {
            assert_eq!(leaves_out(&white, method, host, path), is_matched, "{method} {host} {path}");
            assert_eq!(leaves_out(&black, method, host, path), !is_matched, "{method} {host} {path}");
        }
        assert!(!leaves_out(&json!({}), "GET", "a.org", "/"), "without a list, everything is looked at");
    }

    #[test]
    fn header_names_match_without_case() {
        let config = json!({"h": [{"exact": "X-Auth"}, {"prefix": "X-Up-"}, {"suffix": "-ID"}, {"contains": "Trace"},
            {"regex": "^x-[0-9]$", "ignore_case": true}], "bad": [{}, {"regex": "("}]});
        let mut fields = Fields::of(&config, "");
        let names = HeaderNames::read(&mut fields, "h").unwrap();
        assert!(HeaderNames::read(&mut fields, "none").is_none());
        for (name, expected) in [
            ("x-auth", true),
            ("x-auth2", false),
            ("x-up-1", true),
            ("x-request-id", true),
            ("x-id-of", false),
            ("b3-traceid", true),
            ("x-1", true),
            ("cookie", false),
        ] {
            assert_eq!(names.has(name), expected, "{name}");
        }
        HeaderNames::read(&mut fields, "bad");
        let named: Vec<String> = fields.finish().into_iter().map(|problem| problem.field).collect();
        assert_eq!(named, ["bad[0].exact", "bad[1].regex"]);
    }
}
