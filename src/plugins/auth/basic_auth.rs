//! `basic-auth`: user name and password of HTTP. AUTHN phase, priority 320.
//!
//! Two plugins of Higress: the C++ one, and its Go port (image `go-basic-auth`), which knows no `credentials`, `encrypted` and
//! `realm` and tells the client what the C++ one tells the access log only.
//!
//! Differences from Higress: passwords may contain a colon everywhere (the Go port and `encrypted` refuse them); the password
//! form DES is refused when the configuration is read.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use super::consumers::{self, Gate};
use super::password::PasswordHash;
use crate::base::secret::Secret;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "basic-auth",
    phase: Phase::Authn,
    priority: 320,
    family: Family::Cpp,
    summary: "user name and password of HTTP, plain or hashed, with consumers and per-route allow lists",
    build: |scope, _| build(scope, Family::Cpp),
    check: |scope| Config::read(scope, Family::Cpp).1,
};

pub const GO_SPEC: PluginSpec = PluginSpec {
    name: "go-basic-auth",
    family: Family::Go,
    summary: "basic-auth as its Go port answers",
    build: |scope, _| build(scope, Family::Go),
    check: |scope| Config::read(scope, Family::Go).1,
    ..SPEC
};

/// What one scope asks for.
struct Config {
    family: Family,
    gate: Gate,
    realm: String,
    users: Vec<Arc<User>>,
}

struct User {
    consumer: Option<String>,
    name: String,
    password: Password,
}

enum Password {
    Plain(Secret),
    Hashed(Box<Hashed>),
}

/// Slow to check on purpose, so the password that was right last is remembered as its code under `key`.
struct Hashed {
    hash: PasswordHash,
    key: hmac::Key,
    last: Mutex<Option<hmac::Tag>>,
}

impl Config {
    fn read(scope: &Scope<'_>, family: Family) -> (Config, Vec<FieldProblem>) {
        let value = consumers::config_of(scope, family);
        let mut fields = Fields::of(&value, "");
        let gate = Gate::read(scope, family, &mut fields);
        let mut is_hashed = false;
        let mut realm = "MSE Gateway".to_owned();
        let mut credentials = None;
        if family == Family::Cpp {
            is_hashed = fields.boolean("encrypted").unwrap_or(false);
            realm = fields.string("realm").map_or(realm, str::to_owned);
            credentials = fields.secrets("credentials");
        }
        let mut known = HashSet::new();
        let mut users = consumers::each(&mut fields, "consumers", |fields| {
            let name = consumers::required(fields, "name");
            let Some(credential) = fields.secret("credential") else {
                if fields.is_usable() {
                    fields.problem("credential", "must be given as user:password");
                }
                return None;
            };
            if !known.insert(credential.expose().to_owned()) {
                fields.problem("credential", "is that of a consumer before it, too");
            }
            let user = User::read(name, &credential, is_hashed);
            user.map_err(|why| fields.problem("credential", why)).ok().map(Arc::new)
        });
        if credentials.is_some() && !users.is_empty() {
            fields.problem("credentials", "cannot be combined with consumers; name a consumer for each credential");
        }
        for (index, credential) in credentials.iter().flatten().enumerate() {
            match User::read(None, credential, is_hashed) {
                Ok(user) => users.push(Arc::new(user)),
                Err(why) => fields.problem(&format!("credentials[{index}]"), why),
            }
        }
        gate.require(&mut fields, users.iter().map(|user| user.consumer.as_deref()));
        (Config { family, gate, realm, users }, fields.finish())
    }
}

impl User {
    /// `user:password`, plain, as base64, or with a hash as password.
    fn read(consumer: Option<String>, credential: &Secret, is_hashed: bool) -> Result<User, String> {
        let text = credential.expose();
        let decoded;
        let (name, password) = match text.split_once(':') {
            Some(pair) => pair,
            None if is_hashed => return Err("must be user:hash".into()),
            None => {
                let bytes = STANDARD.decode(text).unwrap_or_default();
                decoded = String::from_utf8(bytes).unwrap_or_default();
                decoded.split_once(':').ok_or("must be user:password, or that as base64")?
            }
        };
        let password = if is_hashed {
            let hash = PasswordHash::parse(password).map_err(|why| format!("of user \"{name}\": the hash {why}"))?;
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .map_err(|_| "cannot be kept: the system gives no random numbers")?;
            Password::Hashed(Box::new(Hashed { hash, key, last: Mutex::default() }))
        } else {
            Password::Plain(Secret::new(password))
        };
        Ok(User { consumer, name: name.to_owned(), password })
    }
}

struct BasicAuth {
    config: Config,
}

fn build(scope: &Scope<'_>, family: Family) -> BuildResult {
    let (config, problems) = Config::read(scope, family);
    if !is_usable(&problems) {
        return Err(problems);
    }
    Ok(config.gate.is_active.then(|| Arc::new(BasicAuth { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for BasicAuth {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let Some(encoded) = request.header("authorization").and_then(|value| value.strip_prefix("Basic ")) else {
            return self.refuse(401, "No Basic Authentication information found.", "basic-auth.no_auth_data");
        };
        let user = match self.known(encoded).await {
            Ok(Some(user)) => user,
            Ok(None) => return self.refuse(401, "Invalid username and/or password", "basic-auth.bad_credential"),
            Err(Busy) => {
                let reply = consumers::told(503, "basic-auth.busy", "Too many logins at once. Retry in a moment.");
                return Flow::respond(reply.header(RETRY_AFTER, "2"));
            }
        };
        if !self.config.gate.admits(user.consumer.as_deref()) {
            return self.refuse(403, "Unauthorized consumer", "basic-auth.unauthorized");
        }
        request.state.credentials.push(CredentialPlace::Header("authorization".into()));
        consumers::let_pass(request, user.consumer.as_deref());
        Flow::Continue
    }
}

impl BasicAuth {
    async fn known(&self, encoded: &str) -> Result<Option<&Arc<User>>, Busy> {
        let decoded = STANDARD.decode(encoded.trim()).unwrap_or_default();
        let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return Ok(None) };
        let (name, password) = (&decoded[..colon], &decoded[colon + 1..]);
        let (mut is_named, mut found) = (false, None);
        for user in self.config.users.iter().filter(|user| user.name.as_bytes() == name) {
            is_named = true;
            if user.has(password).await? {
                found = Some(user);
            }
        }
        if !is_named && let Some(other) = self.config.users.first() {
            // As slow as a wrong password, so that the time does not tell which names there are.
            other.has(password).await?;
        }
        Ok(found)
    }

    /// The C++ plugin tells its reason to the access log only, the Go port tells it the client.
    fn refuse(&self, status: u16, reason: &str, go_details: &str) -> Flow {
        let text = format!("Request denied by Basic Auth check. {reason}");
        let reply = match self.config.family {
            Family::Cpp => Reply::new(status, text),
            Family::Go => consumers::told(status, go_details, text.trim_end_matches('.').to_owned() + "."),
        };
        Flow::respond(reply.header(WWW_AUTHENTICATE, &format!("Basic realm={}", self.config.realm)))
    }
}

/// How many slow hashes are computed at once in the process: guesses of passwords take no more of the machine than this.
static HASHING: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2))));

/// How many requests may wait for that. A hash takes tenths of a second, so that with more of them nobody new would get in for long.
const WAITING_LIMIT: usize = 16;
static WAITING: Semaphore = Semaphore::const_new(WAITING_LIMIT);

/// More passwords to check than can be waited for.
struct Busy;

impl User {
    async fn has(self: &Arc<User>, password: &[u8]) -> Result<bool, Busy> {
        let Password::Hashed(hashed) = &self.password else { return Ok(self.has_now(password)) };
        let code = hmac::sign(&hashed.key, password);
        if hashed.last.lock().as_ref().is_some_and(|last| last.as_ref().ct_eq(code.as_ref()).into()) {
            return Ok(true);
        }
        let place = WAITING.try_acquire().map_err(|_| Busy)?;
        let (user, password) = (self.clone(), password.to_vec());
        let Ok(_permit) = HASHING.acquire().await else { return Err(Busy) };
        drop(place);
        // Off the proxy's threads, which carry all other requests.
        let is_right = tokio::task::spawn_blocking(move || user.has_now(&password)).await.unwrap_or(false);
        if is_right {
            *hashed.last.lock() = Some(code);
        }
        Ok(is_right)
    }

    fn has_now(&self, password: &[u8]) -> bool {
        match &self.password {
            Password::Plain(plain) => plain.matches(password),
            Password::Hashed(hashed) => hashed.hash.matches(password),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, built, built_with, problem_fields};

    fn seen(plugin: &Arc<dyn Plugin>, credentials: Option<&str>) -> (u16, String, String) {
        let value = credentials.map(|pair| format!("Basic {}", STANDARD.encode(pair)));
        let headers: Vec<(&'static str, &str)> = value.iter().map(|value| ("authorization", value.as_str())).collect();
        let mut exchange = Exchange::new("GET", "/", &headers);
        match exchange.run(plugin) {
            None => (200, exchange.header("x-mse-consumer").unwrap_or_default().to_owned(), String::new()),
            Some(reply) => (reply.status, reply.details, String::from_utf8(reply.body.to_vec()).unwrap()),
        }
    }

    fn consumers() -> Value {
        json!({"global_auth": false, "consumers": [
            {"name": "one", "credential": "admin:12:34"}, {"name": "two", "credential": "Z3Vlc3Q6YWJj"}]})
    }

    #[test]
    fn the_cpp_plugin_tells_the_access_log() {
        let rule = json!({"allow": ["one"]});
        let plugin = built_with(&SPEC, &consumers(), Some(&rule), FakeHost::silent());
        assert_eq!(seen(&plugin, Some("admin:12:34")).1, "one");
        for (credentials, status, reason) in [
            (None, 401, "No Basic Authentication information found."),
            (Some("admin:wrong"), 401, "Invalid username and/or password"),
            (Some("nobody"), 401, "Invalid username and/or password"),
            (Some("guest:abc"), 403, "Unauthorized consumer"),
        ] {
            let expected = (status, format!("Request denied by Basic Auth check. {reason}"), String::new());
            assert_eq!(seen(&plugin, credentials), expected, "{credentials:?}");
        }
    }

    #[test]
    fn the_go_port_tells_the_client() {
        let rule = json!({"allow": ["one"]});
        let plugin = built_with(&GO_SPEC, &consumers(), Some(&rule), FakeHost::silent());
        assert_eq!(seen(&plugin, Some("admin:12:34")).0, 200);
        for (credentials, status, details, reason) in [
            (None, 401, "basic-auth.no_auth_data", "No Basic Authentication information found."),
            (Some("admin:wrong"), 401, "basic-auth.bad_credential", "Invalid username and/or password."),
            (Some("guest:abc"), 403, "basic-auth.unauthorized", "Unauthorized consumer."),
        ] {
            let text = format!("Request denied by Basic Auth check. {reason}");
            assert_eq!(seen(&plugin, credentials), (status, details.to_owned(), text));
        }
    }

    #[test]
    fn hashed_passwords_are_checked_once() {
        let config = json!({"encrypted": true, "realm": "here",
            "credentials": ["myName:$apr1$r31....$0sgGvUE2ebRwj3EuTo/yP1"]});
        let plugin = built(&SPEC, &config);
        for _ in 0..2 {
            assert_eq!(seen(&plugin, Some("myName:test123")).0, 200);
            assert_eq!(seen(&plugin, Some("myName:test124")).0, 401);
        }
        let reply = Exchange::new("GET", "/", &[]).run(&plugin).unwrap();
        assert_eq!(reply.headers[0].1, "Basic realm=here");
    }

    #[test]
    fn problems_name_their_field_and_show_no_password() {
        let config = json!({"encrypted": true, "credentials": ["someone:hunter2", "hunter2"], "typo": 1});
        assert_eq!(problem_fields(&SPEC, &config), ["credentials[0]", "credentials[1]", "typo"]);
        assert_eq!(problem_fields(&SPEC, &json!({"credentials": [7, "a:b"]})), ["credentials[0]"]);
        let twice = json!({"consumers": [{"name": "a", "credential": "x:y"}, {"name": "b", "credential": "x:y"}]});
        assert_eq!(problem_fields(&SPEC, &twice), ["consumers[1].credential"]);
        let scope = Scope { global: Some(&config), rule: None, n_rules: 0 };
        let told = format!("{:?}", Config::read(&scope, Family::Cpp).1);
        assert!(!told.contains("hunter2"), "{told}");
        let both = json!({"consumers": [{"name": "a"}], "credentials": ["a:b"]});
        assert_eq!(problem_fields(&SPEC, &both), ["consumers[0].credential"]);
        assert_eq!(problem_fields(&GO_SPEC, &both), ["consumers[0].credential", "credentials"]);
    }
}
