//! `response-cache`: answers kept under a key taken from the request, and given again without asking the upstream. Default phase,
//! priority 0.
//!
//! Answers are kept in a Redis that gateways share, or in this process where none is configured. If Redis cannot be used requests pass.
//!
//! Differences from Higress: the cache in this process (bounded, see `base::cache`). Event streams are neither held back nor kept, and
//! neither are the gateway's own errors.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;

use super::{bag, status};
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, store};
use crate::stores::redis::RedisConfig;
use crate::stores::{Store, StoreError};

pub const SPEC: PluginSpec = PluginSpec {
    name: "response-cache",
    phase: Phase::Unspecified,
    priority: 0,
    family: Family::Go,
    summary: "Keeps answers under a key from header or body and gives them again",
    build,
    check: |scope| Config::read(scope).1,
};

const SKIP_HEADER: &str = "x-higress-skip-response-cache";
const STATUS_HEADER: HeaderName = HeaderName::from_static("x-cache-status");
/// Longest body of an answer that is kept, as in Higress.
const MAX_BODY: usize = 10 << 20;

struct Config {
    prefix: String,
    time: Option<Duration>,
    statuses: Vec<u16>,
    key: KeySource,
    /// Content type of a cached answer.
    value_type: String,
    /// gjson path of what is kept; empty keeps the whole body.
    value_path: String,
    redis: Option<RedisConfig>,
}

enum KeySource {
    Header(String),
    /// gjson path; empty is the whole body.
    Body(String),
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let mut prefix = fields.name("cacheKeyPrefix");
        let mut time = None;
        let mut redis = None;
        if let Some(cache) = fields.object("cache") {
            let mut cache = Fields::of(cache, "cache");
            match cache.string("type") {
                Some("redis") => redis = store::cache(&mut cache),
                Some("memory") | None => {}
                Some(_) => cache.problem("type", "must be redis or memory"),
            }
            // The name of a host says nothing to a Redis; the others have an effect with one.
            for other in ["serviceName", "serviceHost", "servicePort", "username", "password", "timeout", "database"] {
                cache.get(other);
            }
            time = cache.count("cacheTTL").filter(|seconds| *seconds > 0).map(Duration::from_secs);
            prefix = cache.name("cacheKeyPrefix").or(prefix);
            fields.problems.extend(cache.finish());
        }
        let mut statuses = Vec::new();
        for (index, value) in fields.list("cacheResponseCode").unwrap_or_default().iter().enumerate() {
            match status(value) {
                Some(status) => statuses.push(status),
                None => fields.problem(&format!("cacheResponseCode[{index}]"), "must be a status between 100 and 999"),
            }
        }
        if statuses.is_empty() {
            statuses.push(200);
        }
        let header = fields.name("cacheKeyFromHeader").unwrap_or_default().to_ascii_lowercase();
        let path = fields.name("cacheKeyFromBody").unwrap_or_default();
        if !header.is_empty() && !path.is_empty() {
            fields.problem("cacheKeyFromBody", "cannot be combined with cacheKeyFromHeader");
        }
        let key = if header.is_empty() { KeySource::Body(path) } else { KeySource::Header(header) };
        let or = |text: Option<&str>, default: &str| text.filter(|text| !text.is_empty()).unwrap_or(default).to_owned();
        let value_type = or(fields.string("cacheValueFromBodyType"), "application/json");
        if HeaderValue::from_str(&value_type).is_err() {
            fields.problem("cacheValueFromBodyType", "is no content type that can be sent");
        }
        let value_path = or(fields.string("cacheValueFromBody"), "");
        let prefix = prefix.unwrap_or_else(|| "higress-response-cache:".to_owned());
        (Config { prefix, time, statuses, key, value_type, value_path, redis }, fields.finish())
    }
}

struct ResponseCache {
    config: Config,
    store: Arc<dyn Store>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let store = host.store(config.redis.as_ref());
    Ok(Some(Arc::new(ResponseCache { config, store })))
}

/// What this request's answer has to do with the cache.
#[derive(Clone, PartialEq)]
enum Use {
    /// The client wants none of it.
    Skip,
    /// The body is still to be looked at for the key.
    Pending,
    /// Nothing was kept under this key.
    Miss(String),
}

#[async_trait]
impl Plugin for ResponseCache {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        request.state.notes.remove::<Use>();
        if request.header(SKIP_HEADER) == Some("on") {
            request.state.notes.insert(Use::Skip);
            return Flow::Continue;
        }
        match &self.config.key {
            KeySource::Header(name) => {
                let key = bag::header_values(request, name).into_iter().next().unwrap_or_default();
                return if key.is_empty() { Flow::Continue } else { self.look_up(request, &key).await };
            }
            KeySource::Body(_) if request.content_type().is_some_and(|kind| kind.contains("application/json")) => {
                request.state.notes.insert(Use::Pending);
            }
            KeySource::Body(_) => {}
        }
        Flow::Continue
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        request.state.notes.get::<Use>() == Some(&Use::Pending)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        request.state.notes.remove::<Use>();
        let body = request.state.body.clone().unwrap_or_default();
        let Ok(text) = std::str::from_utf8(&body) else { return Flow::Continue };
        let key = match &self.config.key {
            KeySource::Body(path) if !path.is_empty() => gjson::get(text, path).str().to_owned(),
            _ => text.to_owned(),
        };
        if key.is_empty() { Flow::Continue } else { self.look_up(request, &key).await }
    }

    fn may_hold_answer(&self, request: &Request<'_>) -> bool {
        matches!(request.state.notes.get::<Use>(), Some(Use::Miss(_)))
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        if !request.state.is_upstream_answer {
            return;
        }
        let is_kept_status = self.config.statuses.contains(&response.status.as_u16());
        let said = match request.state.notes.get::<Use>() {
            _ if !is_kept_status => "skip",
            Some(Use::Skip) => "skip",
            Some(Use::Miss(_)) => "miss",
            Some(Use::Pending) | None => return,
        };
        // Name and value are header text.
        let _ = response.append_header(STATUS_HEADER, said);
    }

    fn wants_response_body(&self, request: &Request<'_>, response: &ResponseHeader) -> bool {
        let kind = response.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        request.state.is_upstream_answer
            && matches!(request.state.notes.get::<Use>(), Some(Use::Miss(_)))
            && self.config.statuses.contains(&response.status.as_u16())
            && !kind.starts_with(b"text/event-stream")
            // Given out without the header that says so it could not be read.
            && !response.headers.contains_key(CONTENT_ENCODING)
    }

    async fn on_response_body(&self, request: &mut Request<'_>, _response: &mut ResponseHeader, body: &mut Bytes) {
        let Some(Use::Miss(key)) = request.state.notes.remove::<Use>() else { return };
        let value = if self.config.value_path.is_empty() {
            body.clone()
        } else {
            let text = std::str::from_utf8(body).unwrap_or_default();
            let is_json = self.config.value_type.contains("application/json");
            Bytes::from(if is_json {
                gjson::get(text, &self.config.value_path).str().to_owned()
            } else {
                String::new()
            })
        };
        if !value.trim_ascii().is_empty() && value.len() <= MAX_BODY {
            let kept = self.store.keep(&key, &value, self.config.time).await;
            kept.unwrap_or_else(|error| without(&error));
        }
    }
}

fn without(error: &StoreError) {
    tracing::debug!(%error, "response-cache does without its store");
}

impl ResponseCache {
    /// Answers from the cache, or notes under which key the answer is to be kept.
    async fn look_up(&self, request: &mut Request<'_>, key: &str) -> Flow {
        let key = format!("{}{key}", self.config.prefix);
        let kept = self.store.value(&key).await.unwrap_or_else(|error| {
            without(&error);
            None
        });
        match kept {
            Some(body) => {
                let mut reply = Reply::new(200, "response-cache.hit")
                    .header(CONTENT_TYPE, &self.config.value_type)
                    .header(STATUS_HEADER, "hit");
                reply.body = body;
                Flow::respond(reply)
            }
            None => {
                request.state.notes.insert(Use::Miss(key));
                Flow::Continue
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, answer, built, built_with, problem_fields};

    /// One request through the plugin; returns the body, the cache status and whether the upstream was asked.
    fn ask(plugin: &Arc<dyn Plugin>, mut exchange: Exchange, upstream: (u16, &str)) -> (String, String, bool) {
        let text = |body: &Bytes| String::from_utf8(body.to_vec()).unwrap();
        if let Some(reply) = exchange.run(plugin) {
            let status = reply.headers.iter().find(|(name, _)| name == STATUS_HEADER);
            return (text(&reply.body), status.unwrap().1.to_str().unwrap().to_owned(), false);
        }
        let got = exchange.answered(plugin, answer(upstream.0, &[("content-type", "application/json")], upstream.1));
        let status = got.head.headers.get(STATUS_HEADER).map_or("", |value| value.to_str().unwrap());
        (text(&got.body), status.to_owned(), true)
    }

    fn post(body: &'static str) -> Exchange {
        Exchange::new("POST", "/", &[("content-type", "application/json")]).with_body(body)
    }

    fn seen(body: &str, status: &str, is_asked: bool) -> (String, String, bool) {
        (body.to_owned(), status.to_owned(), is_asked)
    }

    #[test]
    fn answers_are_kept_by_header_and_survive_a_reload() {
        let config = json!({"cache": {"type": "memory", "cacheTTL": 60}, "cacheKeyFromHeader": "X-Key",
            "cacheValueFromBody": "messages.@reverse.0.content"});
        let host = FakeHost::silent();
        let plugin = built_with(&SPEC, &config, None, host.clone());
        let get = |key: &str| Exchange::new("GET", "/", &[("x-key", key)]);
        let sent = r#"{"messages":[{"content":"1"},{"content":"2"}]}"#;
        assert_eq!(ask(&plugin, get("a"), (500, "bad")), seen("bad", "skip", true));
        assert_eq!(ask(&plugin, get("a"), (200, sent)), seen(sent, "miss", true));
        let reloaded = built_with(&SPEC, &config, None, host);
        assert_eq!(ask(&reloaded, get("a"), (200, "")), seen("2", "hit", false));
        assert_eq!(ask(&reloaded, get("b"), (200, "other")), seen("other", "miss", true));
        let skipping = Exchange::new("GET", "/", &[("x-key", "a"), (SKIP_HEADER, "on")]);
        assert_eq!(ask(&reloaded, skipping, (200, "new")), seen("new", "skip", true));
        assert_eq!(ask(&reloaded, Exchange::new("GET", "/", &[]), (200, "none")), seen("none", "", true));
    }

    #[test]
    fn answers_are_kept_by_body() {
        let check = |config: Value, first: &'static str, same: &'static str, other: &'static str| {
            let plugin = built(&SPEC, &config);
            assert_eq!(ask(&plugin, post(first), (200, "answer")).1, "miss");
            assert_eq!(ask(&plugin, post(same), (200, "")), seen("answer", "hit", false));
            assert_eq!(ask(&plugin, post(other), (200, "x")).1, "miss");
        };
        check(
            json!({"cacheKeyFromBody": "q.id"}),
            r#"{"q":{"id":7}}"#,
            r#"{"q":{"id":"7"},"n":1}"#,
            r#"{"q":{"id":8}}"#,
        );
        check(json!({}), r#"{"a":1}"#, r#"{"a":1}"#, r#"{"a":2}"#);
        let plain = Exchange::new("POST", "/", &[("content-type", "text/plain")]).with_body("x");
        assert_eq!(ask(&built(&SPEC, &json!({})), plain, (200, "a")), seen("a", "", true));
    }

    #[test]
    fn what_is_kept_and_under_which_name_is_configured() {
        let host = FakeHost::silent();
        let with = |more: &Value| {
            let mut config = json!({"cacheKeyFromHeader": "x-key"});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            built_with(&SPEC, &config, None, host.clone())
        };
        let get = |key: &str| Exchange::new("GET", "/", &[("x-key", key)]);
        let own = with(&json!({"cacheKeyPrefix": "own:"}));
        assert_eq!(ask(&own, get("a"), (200, "1")), seen("1", "miss", true));
        for (config, status) in [
            (json!({}), "miss"),
            (json!({"cache": {"cacheKeyPrefix": "own:"}}), "hit"),
            (json!({"cacheKeyPrefix": "other:", "cache": {"cacheKeyPrefix": "own:"}}), "hit"),
        ] {
            assert_eq!(ask(&with(&config), get("a"), (200, "2")).1, status, "{config}");
        }

        let created = with(&json!({"cacheResponseCode": [201, "203"], "cacheValueFromBodyType": "text/html"}));
        for (key, status, said) in [("b", 200, "skip"), ("b", 201, "miss"), ("b", 201, "hit"), ("c", 203, "miss")] {
            assert_eq!(ask(&created, get(key), (status, "<p>")).1, said, "{key} {status}");
        }
        let reply = get("b").run(&created).unwrap();
        assert_eq!((reply.headers[0].0.as_str(), reply.headers[0].1.to_str().unwrap()), ("content-type", "text/html"));
        // A part can be taken of JSON only.
        let part = with(&json!({"cacheValueFromBodyType": "text/html", "cacheValueFromBody": "a"}));
        assert_eq!([(); 2].map(|()| ask(&part, get("d"), (200, r#"{"a":"b"}"#)).1), ["miss", "miss"]);
    }

    #[test]
    fn answers_are_kept_for_their_time() {
        let plugin = built(&SPEC, &json!({"cache": {"cacheTTL": 1}, "cacheKeyFromHeader": "x-key"}));
        let started = Instant::now();
        for expected in ["miss", "hit", "miss"] {
            while ask(&plugin, Exchange::new("GET", "/", &[("x-key", "a")]), (200, "1")).1 != expected {
                assert!(started.elapsed() < Duration::from_secs(30), "never a {expected}");
            }
        }
    }

    #[test]
    fn without_its_redis_requests_pass() {
        let config = json!({"cache": {"type": "redis", "serviceName": "gone.dns"}, "cacheKeyFromHeader": "x-key"});
        let plugin = built(&SPEC, &config);
        for _ in 0..2 {
            let exchange = Exchange::new("GET", "/", &[("x-key", "a")]);
            assert_eq!(ask(&plugin, exchange, (200, "answer")), seen("answer", "miss", true));
        }
    }

    #[test]
    fn streams_pass() {
        let plugin = built(&SPEC, &json!({"cacheKeyFromHeader": "k"}));
        let mut exchange = Exchange::new("GET", "/", &[("k", "1")]);
        exchange.run(&plugin);
        let head = answer(200, &[("content-type", "text/event-stream; charset=utf-8")], "").head;
        exchange.state.is_upstream_answer = true;
        assert!(plugin.may_hold_answer(&exchange.request()) && !plugin.wants_response_body(&exchange.request(), &head));
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"cache": {"type": "etcd", "typo": 1}, "cacheKeyFromHeader": "a", "cacheKeyFromBody": "b", "cacheResponseCode": [200, "x"]});
        let expected = ["cache.type", "cache.typo", "cacheResponseCode[1]", "cacheKeyFromBody"];
        assert_eq!(problem_fields(&SPEC, &config), expected);
        let redis = json!({"cache": {"type": "redis", "servicePort": 70000}});
        assert_eq!(problem_fields(&SPEC, &redis), ["cache.serviceName"]);
        let redis = json!({"cache": {"type": "redis", "serviceName": "r.dns", "servicePort": 70000}});
        assert_eq!(problem_fields(&SPEC, &redis), ["cache.servicePort"]);
    }
}
