//! `cache-control`: `Expires` and `Cache-Control` for browsers, by file suffix. AUTHN phase, priority 420.
//!
//! Differences from Higress: `expires` that is neither a number nor `epoch` or `max` is a configuration error, where Higress takes it
//! for 0.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use http::header::{CACHE_CONTROL, EXPIRES};
use pingora_http::ResponseHeader;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "cache-control",
    phase: Phase::Authn,
    priority: 420,
    family: Family::Go,
    summary: "Expires and Cache-Control headers for browsers, by file suffix",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    /// With their dot; empty means every path.
    suffixes: Vec<String>,
    expires: Expires,
}

/// When the answer goes stale; the words are nginx's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expires {
    Epoch,
    Max,
    Seconds(u64),
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let suffix = fields.name("suffix").unwrap_or_default();
        let suffixes =
            suffix.split('|').filter(|suffix| !suffix.is_empty()).map(|suffix| format!(".{suffix}")).collect();
        let expires = match fields.text("expires").as_deref().map(str::trim) {
            Some("epoch") => Expires::Epoch,
            Some("max") => Expires::Max,
            written => written.and_then(|text| text.parse().ok()).map(Expires::Seconds).unwrap_or_else(|| {
                fields.problem("expires", "must be a number of seconds, epoch or max");
                Expires::Epoch
            }),
        };
        (Config { suffixes, expires }, fields.finish())
    }
}

impl Expires {
    /// Values of `Expires` and `Cache-Control`.
    fn headers(self) -> (String, String) {
        match self {
            Expires::Epoch => ("Thu, 01 Jan 1970 00:00:01 GMT".into(), "no-cache".into()),
            Expires::Max => ("Thu, 31 Dec 2037 23:55:55 GMT".into(), "max-age=315360000".into()),
            Expires::Seconds(seconds) => (http_date(seconds), format!("max-age={seconds}")),
        }
    }
}

/// The time `seconds` from now; the far end of the calendar if it lies behind that.
fn http_date(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = i64::try_from(now.saturating_add(seconds)).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    at.unwrap_or(jiff::Timestamp::MAX).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

struct CacheControl {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(CacheControl { config }))) } else { Err(problems) }
}

/// Whether the path the client asked for has one of the suffixes; a later plugin may change the path.
#[derive(Clone, Copy)]
struct Hit(bool);

#[async_trait]
impl Plugin for CacheControl {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let suffixes = &self.config.suffixes;
        let hit = suffixes.is_empty() || suffixes.iter().any(|suffix| request.path().ends_with(suffix.as_str()));
        request.state.notes.insert(Hit(hit));
        Flow::Continue
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        if request.state.notes.get::<Hit>().is_none_or(|hit| !hit.0) {
            return;
        }
        let (expires, cache_control) = self.config.expires.headers();
        // Added to what the upstream says, as in Higress. Both texts are made of printable characters.
        let _ = response.append_header(EXPIRES, expires);
        let _ = response.append_header(CACHE_CONTROL, cache_control);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, answer, built, problem_fields};

    /// `Cache-Control` values and `Expires` of an answer to `path`.
    fn check(config: &Value, path: &str) -> (Vec<String>, Option<String>) {
        let plugin = built(&SPEC, config);
        let mut exchange = Exchange::new("GET", path, &[]);
        exchange.run(&plugin);
        let got = exchange.answered(&plugin, answer(404, &[("cache-control", "private")], ""));
        let all = got.head.headers.get_all(CACHE_CONTROL).iter().map(|v| v.to_str().unwrap().to_owned()).collect();
        (all, got.head.headers.get(EXPIRES).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn headers_are_added_for_the_suffixes() {
        let config = json!({"suffix": "png|jpg", "expires": "max"});
        let (all, expires) = check(&config, "/a.jpg?x=.txt");
        assert_eq!(all, ["private", "max-age=315360000"]);
        assert_eq!(expires.as_deref(), Some("Thu, 31 Dec 2037 23:55:55 GMT"));
        assert_eq!(check(&config, "/a.txt?x=.png"), (vec!["private".into()], None));
        assert_eq!(check(&json!({"expires": "epoch"}), "/").0, ["private", "no-cache"]);
    }

    #[test]
    fn seconds_count_from_now() {
        let (all, expires) = check(&json!({"expires": 3600}), "/");
        assert_eq!(all[1], "max-age=3600");
        let date = jiff::fmt::rfc2822::parse(&expires.unwrap().replace("GMT", "+0000")).unwrap().timestamp();
        let ahead = date.as_second() - jiff::Timestamp::now().as_second();
        assert!((3590..=3600).contains(&ahead), "{ahead}");
        assert!(check(&json!({"expires": "9223372036854775807"}), "/").1.unwrap().contains("9999"));
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(
            problem_fields(&SPEC, &json!({"suffix": [1], "expires": "soon", "typo": 1})),
            ["suffix", "expires", "typo"]
        );
        assert_eq!(problem_fields(&SPEC, &json!({})), ["expires"]);
    }
}
