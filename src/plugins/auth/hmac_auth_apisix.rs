//! `hmac-auth-apisix`: requests signed as for Apache APISIX, `Authorization: Signature keyId="…",algorithm="…",headers="…",
//! signature="…"`. AUTHN phase, priority 200.
//!
//! The string to sign has a line for the key, then one for each header named: `@request-target` is method and path, any other
//! `name: value` (Higress `plugins/wasm-go/extensions/hmac-auth-apisix`).
//!
//! Differences from Higress: with `validate_request_body`, a request whose body is announced by no header is checked, too; an
//! empty `allow` lets nobody pass.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use ring::{digest, hmac};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::clock;
use super::consumers::{self, Gate};
use crate::base::secret::Secret;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Host, Plugin, Reply, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "hmac-auth-apisix",
    phase: Phase::Authn,
    priority: 200,
    family: Family::Go,
    summary: "requests signed as for Apache APISIX, with consumers and per-route allow lists",
    build,
    check: |scope| Config::read(scope).1,
};

const ALGORITHMS: [(&str, hmac::Algorithm); 3] = [
    ("hmac-sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
    ("hmac-sha256", hmac::HMAC_SHA256),
    ("hmac-sha512", hmac::HMAC_SHA512),
];

/// What one scope asks for.
struct Config {
    gate: Gate,
    consumers: Vec<Consumer>,
    algorithms: Vec<String>,
    /// Seconds the Date may be off.
    clock_skew: u64,
    signed_headers: Vec<String>,
    validate_request_body: bool,
    hide_credentials: bool,
    anonymous_consumer: Option<String>,
}

struct Consumer {
    name: String,
    access_key: String,
    secret_key: Secret,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = consumers::config_of(scope, Family::Go);
        let mut fields = Fields::of(&value, "");
        let gate = Gate::read(scope, Family::Go, &mut fields);
        let mut known = HashSet::new();
        let consumers = consumers::each(&mut fields, "consumers", |fields| {
            let consumer = read_consumer(fields)?;
            if !known.insert(consumer.access_key.clone()) {
                fields.problem("access_key", "is that of a consumer before it, too");
            }
            Some(consumer)
        });
        let known = || ALGORITHMS.iter().map(|(name, _)| (*name).to_owned());
        let mut algorithms = fields.strings("allowed_algorithms").unwrap_or_default();
        if algorithms.is_empty() {
            algorithms = known().collect();
        }
        for (index, algorithm) in algorithms.iter().enumerate() {
            if !known().any(|known| known == *algorithm) {
                let names: Vec<String> = known().collect();
                let message = format!("\"{algorithm}\" is not one of {}", names.join(", "));
                fields.problem(&format!("allowed_algorithms[{index}]"), message);
            }
        }
        let config = Config {
            clock_skew: fields.count("clock_skew").unwrap_or(300),
            signed_headers: fields.strings("signed_headers").unwrap_or_default(),
            validate_request_body: fields.boolean("validate_request_body").unwrap_or(false),
            hide_credentials: fields.boolean("hide_credentials").unwrap_or(false),
            anonymous_consumer: fields.string("anonymous_consumer").filter(|name| !name.is_empty()).map(str::to_owned),
            gate,
            consumers,
            algorithms,
        };
        config.gate.require(&mut fields, config.consumers.iter().map(|consumer| Some(consumer.name.as_str())));
        (config, fields.finish())
    }
}

fn read_consumer(fields: &mut Fields<'_>) -> Option<Consumer> {
    let access_key = consumers::required(fields, "access_key");
    let n_problems = fields.problems.len();
    let secret_key = fields.secret("secret_key").filter(|secret| !secret.is_empty());
    if secret_key.is_none() && fields.problems.len() == n_problems {
        fields.problem("secret_key", "must be given");
    }
    let name = fields.string("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let access_key = access_key?;
    Some(Consumer { name: name.unwrap_or_else(|| access_key.clone()), access_key, secret_key: secret_key? })
}

struct HmacAuthApisix {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    Ok(config.gate.is_active.then(|| Arc::new(HmacAuthApisix { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for HmacAuthApisix {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let config = &self.config;
        let (signature, consumer) = match config.claimed(request) {
            Ok(claimed) => claimed,
            Err(reason) => {
                let Some(anonymous) = &config.anonymous_consumer else { return Flow::respond(refuse(401, &reason)) };
                request.state.notes.insert(Anonymous);
                consumers::let_pass(request, Some(anonymous));
                return Flow::Continue;
            }
        };
        if !config.gate.admits(Some(&consumer.name)) {
            return Flow::respond(refuse(403, &format!("consumer '{}' is not allowed", consumer.name)));
        }
        if let Err(reason) = config.check(request, &signature, consumer) {
            return Flow::respond(refuse(401, &reason));
        }
        request.state.credentials.push(CredentialPlace::Header("authorization".into()));
        consumers::let_pass(request, Some(&consumer.name));
        if config.hide_credentials {
            request.head.remove_header(&AUTHORIZATION);
        }
        Flow::Continue
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        self.config.validate_request_body && request.state.notes.get::<Anonymous>().is_none()
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let body = request.state.body.as_deref().unwrap_or_default();
        let told = request.header("digest").unwrap_or_default();
        if body.is_empty() && told.is_empty() {
            return Flow::Continue;
        }
        let found = format!("SHA-256={}", STANDARD.encode(digest::digest(&digest::SHA256, body)));
        if found == told { Flow::Continue } else { Flow::respond(refuse(401, "Invalid digest")) }
    }
}

/// Noted on a request that nobody signed: its body needs no digest.
#[derive(Clone)]
struct Anonymous;

/// What the Authorization header says.
#[derive(Debug, Default)]
struct Signature {
    key_id: String,
    algorithm: String,
    headers: Vec<String>,
    signature: String,
}

impl Signature {
    /// `name="value"` pairs, whatever stands between them.
    fn parse(text: &str) -> Signature {
        let mut signature = Signature::default();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("=\"") {
            let Some((value, after)) = after.split_once('"') else { break };
            let name = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
            match name {
                "keyId" => signature.key_id = value.to_owned(),
                "algorithm" => signature.algorithm = value.to_owned(),
                "signature" => signature.signature = value.to_owned(),
                "headers" if !value.is_empty() => signature.headers = value.split(' ').map(str::to_owned).collect(),
                _ => {}
            }
            rest = after;
        }
        signature
    }
}

impl Config {
    /// The signature and who claims to have made it.
    fn claimed(&self, request: &Request<'_>) -> Result<(Signature, &Consumer), String> {
        let header = request.header("authorization").filter(|value| !value.is_empty());
        let header = header.ok_or("missing Authorization header")?;
        let text = header.strip_prefix("Signature ").ok_or("Authorization header does not start with 'Signature '")?;
        let signature = Signature::parse(text);
        if signature.key_id.is_empty() || signature.signature.is_empty() {
            return Err("keyId or signature missing".into());
        }
        if signature.algorithm.is_empty() {
            return Err("algorithm missing".into());
        }
        let consumer = self.consumers.iter().find(|consumer| consumer.access_key == signature.key_id);
        Ok((signature, consumer.ok_or("Invalid keyId")?))
    }

    fn check(&self, request: &Request<'_>, signature: &Signature, consumer: &Consumer) -> Result<(), String> {
        if self.clock_skew > 0 {
            let date = request.header("date").filter(|date| !date.is_empty());
            let date = date.ok_or("Date header missing. failed to validate clock skew")?;
            let seconds = clock::http_date(date).ok_or("Invalid GMT format time")?;
            if clock::now().abs_diff(seconds) > self.clock_skew {
                return Err("Clock skew exceeded".into());
            }
        }
        let algorithm = ALGORITHMS.iter().find(|(name, _)| *name == signature.algorithm);
        let algorithm = algorithm.filter(|(name, _)| self.algorithms.iter().any(|allowed| allowed == name));
        let (_, algorithm) = algorithm.ok_or("Invalid algorithm")?;
        if !self.signed_headers.is_empty() && signature.headers.is_empty() {
            return Err("headers missing".into());
        }
        if let Some(missing) = self.signed_headers.iter().find(|name| !signature.headers.contains(name)) {
            return Err(format!("expected header \"{missing}\" missing in signing"));
        }
        let key = hmac::Key::new(*algorithm, consumer.secret_key.expose().as_bytes());
        let code = STANDARD.encode(hmac::sign(&key, string_to_sign(request, signature).as_bytes()));
        match code.as_bytes().ct_eq(signature.signature.as_bytes()).into() {
            true => Ok(()),
            false => Err("Invalid signature".into()),
        }
    }
}

fn string_to_sign(request: &Request<'_>, signature: &Signature) -> String {
    let mut text = format!("{}\n", signature.key_id);
    for name in &signature.headers {
        if name == "@request-target" {
            let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str());
            text += &format!("{} {path}\n", request.head.method);
        } else if let Some(value) = parts::text(request, name) {
            text += &format!("{name}: {value}\n");
        }
    }
    text
}

fn refuse(status: u16, reason: &str) -> Reply {
    let message = json!({"message": format!("client request can't be validated: {reason}")});
    consumers::told(status, "hmac-auth-apisix.invalid_signature", message.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, built_with, problem_fields};

    const DATE: &str = "Fri, 01 Jan 2021 00:00:00 GMT";

    fn config(more: &Value) -> Value {
        let mut config = json!({"clock_skew": 0, "global_auth": true, "consumers": [
            {"name": "one", "access_key": "ak1", "secret_key": "sk1"}, {"access_key": "ak2", "secret_key": "sk2"}]});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn authorization(key: &str, secret: &str, headers: &str, lines: &str) -> String {
        let code =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), format!("{key}\n{lines}").as_bytes());
        let signature = STANDARD.encode(code);
        format!("Signature keyId=\"{key}\",algorithm=\"hmac-sha256\",headers=\"{headers}\",signature=\"{signature}\"")
    }

    fn check(
        more: &Value,
        rule: Option<&Value>,
        authorization: &str,
        body: &str,
        digest: &str,
    ) -> Result<String, String> {
        let plugin = built_with(&SPEC, &config(more), rule, FakeHost::silent());
        let mut exchange =
            Exchange::new("POST", "/api?x=1", &[("authorization", authorization), ("date", DATE), ("digest", digest)]);
        exchange = exchange.with_body(body.to_owned());
        match exchange.run(&plugin) {
            None => Ok(format!(
                "{}{}",
                exchange.header("x-mse-consumer").unwrap_or_default(),
                if exchange.header("authorization").is_some() { "" } else { " hidden" }
            )),
            Some(reply) => Err(format!("{} {}", reply.status, String::from_utf8(reply.body.to_vec()).unwrap())),
        }
    }

    fn refused(status: u16, reason: &str) -> Result<String, String> {
        Err(format!("{status} {}", json!({"message": format!("client request can't be validated: {reason}")})))
    }

    #[test]
    fn signed_requests_pass() {
        let one = authorization("ak1", "sk1", "@request-target date", &format!("POST /api?x=1\ndate: {DATE}\n"));
        let two = authorization("ak2", "sk2", "", "");
        let none = json!({});
        assert_eq!(check(&none, None, &one, "", ""), Ok("one".into()));
        assert_eq!(check(&json!({"hide_credentials": true}), None, &one, "", ""), Ok("one hidden".into()));
        assert_eq!(check(&none, None, &two, "", ""), Ok("ak2".into()), "the key is the name of a consumer without one");
        let rule = json!({"allow": ["ak2"]});
        assert_eq!(check(&none, Some(&rule), &one, "", ""), refused(403, "consumer 'one' is not allowed"));
        assert_eq!(check(&none, Some(&rule), &two, "", ""), Ok("ak2".into()));
        assert_eq!(check(&json!({"signed_headers": ["date"]}), None, &one, "", ""), Ok("one".into()));
        let missing = refused(401, "expected header \"host\" missing in signing");
        assert_eq!(check(&json!({"signed_headers": ["host"]}), None, &one, "", ""), missing);
        assert_eq!(check(&json!({"clock_skew": 300}), None, &one, "", ""), refused(401, "Clock skew exceeded"));
        let other = json!({"allowed_algorithms": ["hmac-sha512"]});
        assert_eq!(check(&other, None, &one, "", ""), refused(401, "Invalid algorithm"));
    }

    #[test]
    fn each_algorithm_makes_its_own_signature() {
        let sha1 = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
        let known = [("hmac-sha1", sha1), ("hmac-sha256", hmac::HMAC_SHA256), ("hmac-sha512", hmac::HMAC_SHA512)];
        for (told, _) in known {
            for (made, algorithm) in known {
                let code = STANDARD.encode(hmac::sign(&hmac::Key::new(algorithm, b"sk2"), b"ak2\n"));
                let text = format!("Signature keyId=\"ak2\",algorithm=\"{told}\",signature=\"{code}\"");
                let expected = if told == made { Ok("ak2".into()) } else { refused(401, "Invalid signature") };
                assert_eq!(check(&json!({}), None, &text, "", ""), expected, "{told} {made}");
            }
        }
    }

    #[test]
    fn what_is_no_signature_is_refused_or_anonymous() {
        for (text, reason) in [
            ("", "missing Authorization header"),
            ("Bearer x", "Authorization header does not start with 'Signature '"),
            ("Signature invalid-format", "keyId or signature missing"),
            ("Signature keyId=\"ak1\",signature=\"x\"", "algorithm missing"),
            ("Signature keyId=\"no\",algorithm=\"hmac-sha1\",signature=\"x\"", "Invalid keyId"),
        ] {
            assert_eq!(check(&json!({}), None, text, "", ""), refused(401, reason));
            let anonymous = json!({"anonymous_consumer": "nobody", "validate_request_body": true});
            assert_eq!(check(&anonymous, None, text, "body", ""), Ok("nobody".into()));
        }
        let wrong = authorization("ak1", "sk2", "", "");
        assert_eq!(check(&json!({"anonymous_consumer": "x"}), None, &wrong, "", ""), refused(401, "Invalid signature"));
    }

    #[test]
    fn the_body_must_have_the_digest() {
        let one = authorization("ak1", "sk1", "", "");
        let validate = json!({"validate_request_body": true});
        let digest = format!("SHA-256={}", STANDARD.encode(digest::digest(&digest::SHA256, b"body")));
        assert_eq!(check(&validate, None, &one, "body", &digest), Ok("one".into()));
        assert_eq!(check(&validate, None, &one, "", ""), Ok("one".into()));
        for (body, digest) in [("body", ""), ("other", digest.as_str()), ("", digest.as_str())] {
            assert_eq!(check(&validate, None, &one, body, digest), refused(401, "Invalid digest"));
        }
    }

    #[test]
    fn problems_name_their_field() {
        let wrong =
            json!({"allowed_algorithms": ["md5"], "consumers": [{"access_key": "", "secret_key": [1]}], "x": 1});
        let named = problem_fields(&SPEC, &wrong);
        assert_eq!(named, ["consumers[0].access_key", "consumers[0].secret_key", "allowed_algorithms[0]", "x"]);
        let twice =
            json!({"consumers": [{"access_key": "k", "secret_key": "a"}, {"access_key": "k", "secret_key": "b"}]});
        assert_eq!(problem_fields(&SPEC, &twice), ["consumers[1].access_key"]);
    }
}
