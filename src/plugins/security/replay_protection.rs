//! `replay-protection`: takes each nonce once. AUTHN phase, priority 800.
//!
//! A nonce is a header the client makes up for each request; one that was seen within its life time is refused. Nonces are
//! kept in Redis (`SET NX EX` under `<key_prefix>:<nonce>`); if it cannot be used the request passes.
//!
//! Differences from Higress: without `redis` the nonces are kept in this process; the answers carry details.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts, store, values};
use crate::stores::Store;
use crate::stores::redis::RedisConfig;

pub const SPEC: PluginSpec = PluginSpec {
    name: "replay-protection",
    phase: Phase::Authn,
    priority: 800,
    family: Family::Go,
    summary: "Refuses a request whose nonce has been used",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    is_required: bool,
    header: String,
    life: Duration,
    lengths: std::ops::RangeInclusive<usize>,
    is_base64: bool,
    reject_code: u16,
    reject_msg: String,
    key_prefix: String,
    redis: Option<RedisConfig>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let is_required = fields.boolean("force_nonce").unwrap_or(false);
        let header =
            fields.string("nonce_header").filter(|name| !name.is_empty()).unwrap_or("x-higress-nonce").to_owned();
        let life = Duration::from_secs(fields.count("nonce_ttl").filter(|seconds| *seconds > 0).unwrap_or(900));
        let mut length = |key, default| {
            let written = fields.count(key).filter(|length| *length > 0);
            written.map_or(default, |length| usize::try_from(length).unwrap_or(usize::MAX))
        };
        let lengths = length("nonce_min_length", 8)..=length("nonce_max_length", 128);
        if lengths.is_empty() && fields.is_usable() {
            let message =
                format!("is {}, above nonce_max_length ({}): no nonce could pass", lengths.start(), lengths.end());
            fields.problem("nonce_min_length", message);
        }
        let is_base64 = fields.boolean("validate_base64").unwrap_or(false);
        let reject_code = values::status(&mut fields, "reject_code", 429);
        let reject_msg =
            fields.string("reject_msg").filter(|text| !text.is_empty()).unwrap_or("Replay Attack Detected");
        let reject_msg = reject_msg.to_owned();
        let mut key_prefix = "replay-protection".to_owned();
        let redis = fields.object("redis").and_then(|value| {
            let mut section = Fields::of(value, "redis");
            let redis = store::redis(&mut section);
            if let Some(prefix) = section.string("key_prefix").filter(|prefix| !prefix.is_empty()) {
                prefix.clone_into(&mut key_prefix);
            }
            fields.problems.extend(section.finish());
            redis
        });
        let config =
            Config { is_required, header, life, lengths, is_base64, reject_code, reject_msg, key_prefix, redis };
        (config, fields.finish())
    }
}

struct ReplayProtection {
    config: Config,
    store: Arc<dyn Store>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let store = host.store(config.redis.as_ref());
    Ok(Some(Arc::new(ReplayProtection { config, store })))
}

#[async_trait]
impl Plugin for ReplayProtection {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let config = &self.config;
        let nonce = parts::text(request, &config.header).filter(|nonce| !nonce.is_empty());
        let Some(nonce) = nonce else {
            return match config.is_required {
                true => refuse(400, "missing_header", "Missing Required Header"),
                false => Flow::Continue,
            };
        };
        if !config.lengths.contains(&nonce.len()) || (config.is_base64 && STANDARD.decode(nonce.as_bytes()).is_err()) {
            return refuse(400, "invalid_nonce", "Invalid Nonce");
        }
        match self.store.claim(&format!("{}:{nonce}", config.key_prefix), config.life).await {
            Ok(true) => Flow::Continue,
            Ok(false) => refuse(config.reject_code, "replayed", &config.reject_msg),
            Err(error) => {
                tracing::debug!(%error, "replay-protection lets a request pass unchecked");
                Flow::Continue
            }
        }
    }
}

fn refuse(status: u16, cause: &str, message: &str) -> Flow {
    Flow::respond(Reply::new(status, format!("replay-protection.{cause}")).text(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    fn status(plugin: &Arc<dyn Plugin>, nonce: Option<&str>) -> u16 {
        let headers: Vec<(&'static str, &str)> = nonce.map(|nonce| ("x-higress-nonce", nonce)).into_iter().collect();
        Exchange::new("GET", "/", &headers).run(plugin).map_or(200, |reply| reply.status)
    }

    #[test]
    fn a_nonce_passes_once() {
        let plugin = built(&SPEC, &json!({"validate_base64": true, "nonce_max_length": 12}));
        for (nonce, expected) in [
            (Some("YWJjZGVm"), 200),
            (Some("YWJjZGVm"), 429),
            (Some("YWJjZGVn"), 200),
            (Some("abc"), 400),
            (Some("YWJjZGVmYWJjZGVm"), 400),
            (Some("not base64"), 400),
            (Some(""), 200),
            (None, 200),
            (None, 200),
        ] {
            assert_eq!(status(&plugin, nonce), expected, "{nonce:?}");
        }
    }

    #[test]
    fn header_and_shortest_nonce_are_configured() {
        let plugin = built(&SPEC, &json!({"nonce_header": "X-Once", "nonce_min_length": 3}));
        let status = |header: &'static str, nonce: &str| {
            Exchange::new("GET", "/", &[(header, nonce)]).run(&plugin).map_or(200, |reply| reply.status)
        };
        assert_eq!(["ab", "abc", "abc"].map(|nonce| status("x-once", nonce)), [400, 200, 429]);
        assert_eq!(["ab", "abc", "abc"].map(|nonce| status("x-higress-nonce", nonce)), [200, 200, 200]);
    }

    #[test]
    fn a_nonce_may_come_again_after_its_time() {
        let plugin = built(&SPEC, &json!({"nonce_ttl": 1}));
        let started = Instant::now();
        for expected in [200, 429, 200] {
            while status(&plugin, Some("long enough")) != expected {
                assert!(started.elapsed() < Duration::from_secs(30), "never {expected}");
            }
        }
    }

    #[test]
    fn answers_are_the_documented_ones() {
        let plugin = built(&SPEC, &json!({"force_nonce": true, "reject_code": 409, "reject_msg": "again"}));
        let mut told = Vec::new();
        for nonce in ["", "short", "long enough", "long enough"] {
            let reply = Exchange::new("GET", "/", &[("x-higress-nonce", nonce)]).run(&plugin);
            told.extend(reply.map(|reply| (reply.status, reply.body, reply.details)));
        }
        let told: Vec<_> =
            told.iter().map(|(status, body, details)| (*status, body.as_ref(), details.as_str())).collect();
        assert_eq!(
            told,
            [
                (400, &b"Missing Required Header"[..], "replay-protection.missing_header"),
                (400, b"Invalid Nonce", "replay-protection.invalid_nonce"),
                (409, b"again", "replay-protection.replayed"),
            ]
        );
    }

    #[test]
    fn without_redis_requests_pass() {
        let plugin = built(&SPEC, &json!({"redis": {"service_name": "gone.dns", "key_prefix": "p"}}));
        assert_eq!([(); 2].map(|()| status(&plugin, Some("long enough"))), [200, 200]);
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"nonce_min_length": 9, "nonce_max_length": 8, "reject_code": 1, "redis": {}});
        assert_eq!(problem_fields(&SPEC, &config), ["nonce_min_length", "reject_code", "redis.service_name"]);
    }
}
