//! `bot-detect`: keeps crawlers out by their User-Agent. AUTHZ phase, priority 310.
//!
//! An expression of `allow` lets pass, one of `deny` blocks, then the built-in crawlers (`crawlers`) are blocked. An
//! expression must match the whole User-Agent; in `go-bot-detect`, Higress' port to Go, any part of it, and there who has no
//! User-Agent is refused, too.
//!
//! Differences from Higress: expressions may be longer than 100 instructions; the details say which list matched instead of
//! being empty. Its port to Go has a few other crawlers.

mod crawlers;

use std::sync::Arc;

use async_trait::async_trait;
use regex::Regex;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::values::{self, Extent};
use crate::plugins::{Flow, Plugin, Reply, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "bot-detect",
    phase: Phase::Authz,
    priority: 310,
    family: Family::Cpp,
    summary: "Keeps crawlers out by their User-Agent",
    build: |scope, _| build(scope, Family::Cpp),
    check: |scope| Config::read(scope, Family::Cpp).1,
};

pub const GO_SPEC: PluginSpec = PluginSpec {
    name: "go-bot-detect",
    family: Family::Go,
    build: |scope, _| build(scope, Family::Go),
    check: |scope| Config::read(scope, Family::Go).1,
    ..SPEC
};

struct Config {
    family: Family,
    allow: Vec<Regex>,
    deny: Vec<Regex>,
    status: u16,
    message: String,
}

impl Config {
    fn read(scope: &Scope<'_>, family: Family) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let allow = values::patterns(&mut fields, "allow", Extent::of(family), false).unwrap_or_default();
        let deny = values::patterns(&mut fields, "deny", Extent::of(family), false).unwrap_or_default();
        let status = values::status(&mut fields, "blocked_code", 403);
        let usual = if family == Family::Go { "Invalid User-Agent" } else { "" };
        let message = fields.string("blocked_message").filter(|text| !text.is_empty()).unwrap_or(usual).to_owned();
        (Config { family, allow, deny, status, message }, fields.finish())
    }
}

struct BotDetect {
    config: Config,
    crawlers: Vec<Regex>,
}

fn build(scope: &Scope<'_>, family: Family) -> BuildResult {
    let (config, problems) = Config::read(scope, family);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let crawlers =
        crawlers::expressions(Extent::of(family)).map_err(|message| vec![FieldProblem::error("", message)])?;
    Ok(Some(Arc::new(BotDetect { config, crawlers })))
}

#[async_trait]
impl Plugin for BotDetect {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let agent = parts::text(request, "user-agent").unwrap_or_default();
        let is_one_of = |list: &[Regex]| list.iter().any(|expression| expression.is_match(&agent));
        let details = if self.config.family == Family::Go && agent.is_empty() {
            "bot-detect.no_agent"
        } else if is_one_of(&self.config.allow) {
            return Flow::Continue;
        } else if is_one_of(&self.config.deny) {
            "bot-detect.denied"
        } else if is_one_of(&self.crawlers) {
            "bot-detect.crawler"
        } else {
            return Flow::Continue;
        };
        Flow::respond(Reply::new(self.config.status, details).text(self.config.message.clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    fn details(config: &Value, agent: &str) -> Option<String> {
        let mut exchange = Exchange::new("GET", "/", &[("user-agent", agent)]);
        exchange.run(&built(&SPEC, config)).map(|reply| reply.details)
    }

    #[test]
    fn built_in_crawlers_are_blocked_and_browsers_are_not() {
        let config = json!({});
        for agent in [
            "BaiduMobaider/1.1.0",
            "Googlebot",
            "Googlebot/2.1",
            "AdsBot-Google-mobile",
            "bingbot/2.0",
            "my favourite-crawler 1.2.3",
            "/app.1 web-indexer/3",
            "Twitterbot/1.0",
            "Slurp",
            "SPIDER",
            "/Nutch 1.2",
            "favicon",
            "Yandexblog/1",
        ] {
            assert_eq!(details(&config, agent).as_deref(), Some("bot-detect.crawler"), "{agent}");
        }
        for agent in [
            "",
            "Mozilla/5.0",
            "curl/8.5.0",
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        ] {
            assert_eq!(details(&config, agent), None, "{agent}: the whole text must match");
        }
        assert!(Exchange::new("GET", "/", &[]).run(&built(&SPEC, &config)).is_none(), "no User-Agent");
    }

    #[test]
    fn own_lists_come_first() {
        let config = json!({"allow": ["Tailsweep", ".*Good.*"], "deny": ["Go-Client", "Good.*"]});
        assert_eq!(details(&config, "Tailsweep"), None);
        assert_eq!(details(&config, "Go-Client").as_deref(), Some("bot-detect.denied"));
        assert_eq!(details(&config, "Go-Client/2"), None, "the whole text must match");
        assert_eq!(details(&config, "Goodbot"), None, "allow wins");
    }

    #[test]
    fn the_port_to_go_looks_anywhere() {
        let blocked = |agent: &str| {
            let config = json!({"allow": ["Tailsweep"], "deny": ["Go-Client"]});
            Exchange::new("GET", "/", &[("user-agent", agent)])
                .run(&built(&GO_SPEC, &config))
                .map(|reply| reply.details)
        };
        assert_eq!(blocked("x Go-Client/2").as_deref(), Some("bot-detect.denied"));
        assert_eq!(blocked("Mozilla/5.0 (compatible; Googlebot/2.1)").as_deref(), Some("bot-detect.crawler"));
        assert_eq!(blocked("a Tailsweep bingbot/2.0"), None);
        let reply = Exchange::new("GET", "/", &[]).run(&built(&GO_SPEC, &json!({}))).unwrap();
        assert_eq!((reply.status, &reply.body[..]), (403, &b"Invalid User-Agent"[..]), "who says nothing is refused");
    }

    #[test]
    fn the_answer_is_as_configured() {
        let plugin = built(&SPEC, &json!({"blocked_code": 401, "blocked_message": "deny by bot detect"}));
        let reply = Exchange::new("GET", "/", &[("user-agent", "bingbot")]).run(&plugin).unwrap();
        assert_eq!((reply.status, reply.body.as_ref()), (401, &b"deny by bot detect"[..]));
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"allow": "x", "deny": ["a", "["], "blocked_code": "4xx"});
        assert_eq!(problem_fields(&SPEC, &config), ["allow", "deny[1]", "blocked_code"]);
    }
}
