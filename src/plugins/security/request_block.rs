//! `request-block`: refuses requests by address, headers or body. AUTHZ phase, priority 320.
//!
//! URL lists are compared with path and query: whole, then by expression, then by part. A header list is compared with every
//! name and every value, those of HTTP/2 pseudo-headers included; a body list with the body. In `go-request-block`, Higress' port
//! to Go, an expression need not match the whole, case is ignored unless `case_sensitive` says otherwise, and the details
//! tell the list of URLs.
//!
//! Differences from Higress: `block_exact_urls` and `block_regexp_urls` work without `block_urls` (there they are silently
//! ignored); expressions may be longer than 100 instructions; the details name what matched instead of being empty (C++); a
//! body over `limits.max_body_bytes` is refused instead of passing unseen.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use memchr::memmem;
use regex::Regex;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::values::{self, Extent};
use crate::plugins::{Flow, Plugin, Reply, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "request-block",
    phase: Phase::Authz,
    priority: 320,
    family: Family::Cpp,
    summary: "Refuses requests whose URL, headers or body contain what is listed",
    build: |scope, _| build(scope, Family::Cpp),
    check: |scope| Config::read(scope, Family::Cpp).1,
};

pub const GO_SPEC: PluginSpec = PluginSpec {
    name: "go-request-block",
    family: Family::Go,
    build: |scope, _| build(scope, Family::Go),
    check: |scope| Config::read(scope, Family::Go).1,
    ..SPEC
};

struct Config {
    family: Family,
    exact_urls: Vec<String>,
    url_patterns: Vec<Regex>,
    urls: Vec<String>,
    headers: Vec<String>,
    bodies: Vec<String>,
    ignore_case: bool,
    status: u16,
    message: String,
}

impl Config {
    fn read(scope: &Scope<'_>, family: Family) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let ignore_case = !fields.boolean("case_sensitive").unwrap_or(family == Family::Cpp);
        let mut list = |key| read_list(&mut fields, key, family, ignore_case);
        let (urls, exact_urls, headers) = (list("block_urls"), list("block_exact_urls"), list("block_headers"));
        let mut bodies = list("block_bodies");
        bodies.extend(list("block_bodys"));
        let patterns = values::patterns(&mut fields, "block_regexp_urls", Extent::of(family), ignore_case);
        let url_patterns = patterns.unwrap_or_default();
        let status = values::status(&mut fields, "blocked_code", 403);
        let message = fields.string("blocked_message").unwrap_or_default().to_owned();
        let lists = [&urls, &exact_urls, &headers, &bodies];
        if url_patterns.is_empty() && lists.iter().all(|list| list.is_empty()) && fields.is_usable() {
            let message =
                "or another list (block_exact_urls, block_regexp_urls, block_headers, block_bodies) must be given";
            fields.problem("block_urls", message);
        }
        let config = Config { family, exact_urls, url_patterns, urls, headers, bodies, ignore_case, status, message };
        (config, fields.finish())
    }
}

fn read_list(fields: &mut Fields<'_>, key: &'static str, family: Family, ignore_case: bool) -> Vec<String> {
    let mut list = fields.strings(key).unwrap_or_default();
    if family == Family::Go {
        list.retain(|element| !element.is_empty());
    }
    if let Some(index) = list.iter().position(String::is_empty) {
        fields.problem(&format!("{key}[{index}]"), "must not be empty: it would block every request");
    }
    if ignore_case { list.iter().map(|text| lower_case(family, text)).collect() } else { list }
}

/// Of ASCII alone in the C++ plugin, which compares bytes.
fn lower_case(family: Family, text: &str) -> String {
    if family == Family::Go { text.to_lowercase() } else { text.to_ascii_lowercase() }
}

struct RequestBlock {
    config: Config,
}

fn build(scope: &Scope<'_>, family: Family) -> BuildResult {
    let (config, problems) = Config::read(scope, family);
    if is_usable(&problems) { Ok(Some(Arc::new(RequestBlock { config }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for RequestBlock {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        if let Some(list) = self.config.list_with_url(parts::path_and_query(request)) {
            let details = match self.config.family {
                Family::Cpp => "request-block.url".to_owned(),
                Family::Go => format!("request-block.url_blocked.{list}"),
            };
            return self.config.refuse(&details);
        }
        if self.config.blocks_headers(request) {
            return self.config.refuse("request-block.header");
        }
        Flow::Continue
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        !self.config.bodies.is_empty() && parts::may_have_body(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let body = request.state.body.as_deref().unwrap_or_default();
        if self.config.contains_any(&self.config.bodies, body) {
            return self.config.refuse("request-block.body");
        }
        Flow::Continue
    }
}

impl Config {
    fn refuse(&self, details: &str) -> Flow {
        Flow::respond(Reply::new(self.status, details).text(self.message.clone()))
    }

    /// What Higress calls the list that has the URL.
    fn list_with_url(&self, url: &str) -> Option<&'static str> {
        let folded = self.folded(url.as_bytes());
        let is_exact = self.exact_urls.iter().any(|blocked| blocked.as_bytes() == folded.as_ref());
        let is_matched = || self.url_patterns.iter().any(|pattern| pattern.is_match(url));
        let has_part = || self.contains_any(&self.urls, url.as_bytes());
        if is_exact {
            Some("exact")
        } else if is_matched() {
            Some("regexp")
        } else {
            has_part().then_some("keyword")
        }
    }

    fn blocks_headers(&self, request: &Request<'_>) -> bool {
        if self.headers.is_empty() {
            return false;
        }
        let pseudo: [(&str, &[u8]); 4] = [
            (":path", parts::path_and_query(request).as_bytes()),
            (":method", request.head.method.as_str().as_bytes()),
            (":scheme", if request.state.is_tls { b"https" } else { b"http" }),
            (":authority", request.head.headers.get(http::header::HOST).map_or(b"", |host| host.as_bytes())),
        ];
        let real = request.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        pseudo.into_iter().chain(real).any(|(name, value)| {
            self.contains_any(&self.headers, name.as_bytes()) || self.contains_any(&self.headers, value)
        })
    }

    fn contains_any(&self, blocked: &[String], text: &[u8]) -> bool {
        if blocked.is_empty() {
            return false;
        }
        let folded = self.folded(text);
        blocked.iter().any(|part| memmem::find(&folded, part.as_bytes()).is_some())
    }

    fn folded<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.ignore_case {
            return Cow::Borrowed(text);
        }
        // A byte that is no Unicode must not keep the letters around it as they are.
        Cow::Owned(lower_case(self.family, &String::from_utf8_lossy(text)).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    fn blocked(config: &Value, path: &str, headers: &[(&'static str, &str)], body: &str) -> Option<String> {
        let length = body.len().to_string();
        let mut exchange = Exchange::new("POST", path, headers).with_body(body.to_owned());
        exchange.head.insert_header("content-length", length).unwrap();
        exchange.run(&built(&SPEC, config)).map(|reply| reply.details)
    }

    #[test]
    fn every_list_blocks_by_itself() {
        let urls = json!({"block_urls": ["swagger.html", "a=1"]});
        let exact = json!({"block_exact_urls": ["/web/info"]});
        let pattern = json!({"block_regexp_urls": ["/env.*"]});
        let headers = json!({"block_headers": ["example-key", "example-value"]});
        let bodies = json!({"block_bodys": ["hello world"]});
        let (url, header, body) = (Some("request-block.url"), Some("request-block.header"), Some("request-block.body"));
        for (config, path, sent, content, expected) in [
            (&urls, "/docs/swagger.html?x", &[][..], "", url),
            (&urls, "/?b=2&a=1", &[], "", url),
            (&urls, "/Swagger.html", &[], "", None),
            (&exact, "/web/info", &[], "", url),
            (&exact, "/web/info?x", &[], "", None),
            (&pattern, "/env/info", &[], "", url),
            (&pattern, "/x/env/info", &[], "", None),
            (&headers, "/", &[("x-example-key", "1")], "", header),
            (&headers, "/", &[("x", "an example-value here")], "", header),
            (&headers, "/", &[("x", "Example-Value")], "", None),
            (&bodies, "/", &[], "say hello world", body),
            (&bodies, "/", &[], "say hello higress", None),
        ] {
            assert_eq!(blocked(config, path, sent, content).as_deref(), expected, "{config} {path} {sent:?} {content}");
        }
    }

    #[test]
    fn the_port_to_go_looks_anywhere_ignores_case_and_tells_the_list() {
        let config =
            json!({"block_regexp_urls": ["/env[0-9]"], "block_exact_urls": ["/Web", ""], "block_urls": ["Swagger"]});
        let plugin = built(&GO_SPEC, &config);
        let details = |path: &str| Exchange::new("GET", path, &[]).run(&plugin).map(|reply| reply.details);
        for (path, list) in [("/x/ENV1/info", "regexp"), ("/web", "exact"), ("/docs/swagger.html", "keyword")] {
            assert_eq!(details(path), Some(format!("request-block.url_blocked.{list}")), "{path}");
        }
        assert_eq!(details("/x/env/info"), None);
        let sensitive = json!({"block_urls": ["Swagger"], "case_sensitive": true});
        assert!(Exchange::new("GET", "/swagger", &[]).run(&built(&GO_SPEC, &sensitive)).is_none());
    }

    #[test]
    fn case_may_be_ignored_everywhere() {
        let config = json!({"case_sensitive": false, "block_urls": ["Swagger"], "block_exact_urls": ["/Web"],
            "block_regexp_urls": ["/ENV.*"], "block_headers": ["KEY"], "block_bodies": ["Hello"]});
        for (path, headers, body) in [
            ("/sWAGGER", &[][..], ""),
            ("/wEB", &[], ""),
            ("/env/x", &[], ""),
            ("/", &[("x", "my kEy")], ""),
            ("/", &[], "hELLO"),
        ] {
            assert!(blocked(&config, path, headers, body).is_some(), "{path} {headers:?} {body}");
        }
    }

    #[test]
    fn the_answer_is_as_configured() {
        let plugin = built(&SPEC, &json!({"block_urls": ["x"], "blocked_code": 404, "blocked_message": "gone"}));
        let reply = Exchange::new("GET", "/x", &[]).run(&plugin).unwrap();
        assert_eq!(
            (reply.status, reply.body.as_ref(), reply.headers[0].1.as_bytes()),
            (404, &b"gone"[..], &b"text/plain"[..])
        );
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({})), ["block_urls"]);
        let config = json!({"block_urls": [""], "block_regexp_urls": ["("], "blocked_code": 1000, "block_cookies": []});
        assert_eq!(
            problem_fields(&SPEC, &config),
            ["block_urls[0]", "block_regexp_urls[0]", "blocked_code", "block_cookies"]
        );
    }
}
