//! `oauth`: the gateway as issuer of access tokens for machines (OAuth 2.0, client credentials; tokens of RFC 9068), and their
//! check. AUTHN phase, priority 350.
//!
//! Differences from Higress: a method other than GET and POST at the token path is checked like any request (the original lets
//! it through unchecked); a rule's `allow` works (the original takes every rule for one with consumers of its own); the token
//! answer may not be cached (RFC 6749, section 5.1).

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderName;
use http::Method;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use serde_json::json;
use uuid::Uuid;

use super::clock;
use super::consumers::{self, Gate};
use super::jwt::{self, Jwks, Jwt};
use crate::base::secret::Secret;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, flag, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "oauth",
    phase: Phase::Authn,
    priority: 350,
    family: Family::Cpp,
    summary: "issues access tokens to clients with a secret, and checks them",
    build,
    check: |scope| Config::read(scope).1,
};

/// Beginning of the entries in the access log.
const DENIED: &str = "oauth_access_denied";
const TOKEN_TYPE: &str = "application/at+jwt";
/// How much of the path is named as the realm.
const MAX_REALM_PATH: usize = 256;

/// What one scope asks for.
struct Config {
    gate: Gate,
    /// Whether tokens are issued here, checked or not.
    issues: bool,
    consumers: Vec<Consumer>,
    issuer: String,
    auth_path: String,
    auth_header: HeaderName,
    /// Tokens are good on every route, not only on the one they were issued on.
    global_credentials: bool,
    token_ttl: i64,
    clock_skew: i64,
    keep_token: bool,
}

struct Consumer {
    name: String,
    client_id: String,
    secret: Secret,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = consumers::config_of(scope, Family::Cpp);
        let mut fields = Fields::of(&value, "");
        let gate = Gate::read(scope, Family::Cpp, &mut fields);
        let consumers: Vec<Consumer> = consumers::each(&mut fields, "consumers", read_consumer);
        for (index, consumer) in consumers.iter().enumerate() {
            let before = &consumers[..index];
            if before.iter().any(|other| other.client_id == consumer.client_id || other.name == consumer.name) {
                let message = format!("\"{}\" has the name or client_id of another consumer", consumer.name);
                fields.problem(&format!("consumers[{index}]"), message);
            }
        }
        let header = fields.string("auth_header").or(fields.string("auth_header_name")).unwrap_or("authorization");
        let auth_header = HeaderName::try_from(header).unwrap_or_else(|_| {
            fields.problem("auth_header", format!("\"{header}\" is no header name"));
            http::header::AUTHORIZATION
        });
        let auth_path = fields.string("auth_path").unwrap_or("/oauth2/token");
        let slash = if auth_path.starts_with('/') { "" } else { "/" };
        let mut seconds = |key, default| {
            let given = fields.count(key).unwrap_or(default);
            i64::try_from(given).unwrap_or(i64::from(u32::MAX)).min(i64::from(u32::MAX))
        };
        let (token_ttl, clock_skew) = (seconds("token_ttl", 7200), seconds("clock_skew_seconds", 60));
        let is_on_everywhere = scope.global.and_then(|global| global.get("global_auth")).and_then(flag) == Some(true);
        let is_off = scope.rule.and_then(|rule| rule.get("_disable_")).and_then(flag) == Some(true);
        let config = Config {
            issues: !is_off && (scope.rule.is_some() || scope.n_rules == 0 || is_on_everywhere),
            issuer: fields.string("issuer").unwrap_or("Higress-Gateway").to_owned(),
            auth_path: format!("{slash}{auth_path}"),
            global_credentials: fields.boolean("global_credentials").unwrap_or(true),
            keep_token: fields.boolean("keep_token").unwrap_or(true),
            gate,
            consumers,
            auth_header,
            token_ttl,
            clock_skew,
        };
        config.gate.require(&mut fields, config.consumers.iter().map(|consumer| Some(consumer.name.as_str())));
        (config, fields.finish())
    }
}

fn read_consumer(fields: &mut Fields<'_>) -> Option<Consumer> {
    let name = consumers::required(fields, "name");
    let client_id = consumers::required(fields, "client_id");
    let n_problems = fields.problems.len();
    let secret = fields.secret("client_secret").filter(|secret| !secret.is_empty());
    if secret.is_none() && fields.problems.len() == n_problems {
        fields.problem("client_secret", "must be given");
    }
    Some(Consumer { name: name?, client_id: client_id?, secret: secret? })
}

struct OAuth {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    Ok((config.issues || config.gate.is_active).then(|| Arc::new(OAuth { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for OAuth {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        match self.asks_for_token(request) {
            Some(Asked::InQuery) => {
                // Hides it in the access log.
                request.state.credentials.push(CredentialPlace::Query("client_secret".into()));
                let Some(query) = request.head.uri.query() else {
                    return Flow::respond(bad_request("Authorize parameters are missing"));
                };
                Flow::respond(self.answer(query.as_bytes(), &request.state.route))
            }
            Some(Asked::InForm) => {
                let content_type = request.header("content-type").unwrap_or_default().to_ascii_lowercase();
                match content_type.contains("application/x-www-form-urlencoded") {
                    true => Flow::Continue,
                    false => Flow::respond(bad_request("Invalid content-type")),
                }
            }
            None if self.config.gate.is_active => self.check(request),
            None => Flow::Continue,
        }
    }

    fn secret_parameters(&self) -> Vec<String> {
        vec!["client_secret".to_owned()]
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        matches!(self.asks_for_token(request), Some(Asked::InForm))
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let body = request.state.body.clone().unwrap_or_default();
        Flow::respond(self.answer(&body, &request.state.route))
    }
}

/// How a client sends its credentials.
enum Asked {
    InQuery,
    InForm,
}

impl OAuth {
    fn asks_for_token(&self, request: &Request<'_>) -> Option<Asked> {
        if !self.config.issues || !request.path().ends_with(&self.config.auth_path) {
            return None;
        }
        match request.head.method {
            Method::GET => Some(Asked::InQuery),
            Method::POST => Some(Asked::InForm),
            _ => None,
        }
    }

    fn answer(&self, parameters: &[u8], route: &str) -> Reply {
        match self.issue(parameters, route) {
            Ok(token) => {
                let answer =
                    json!({"token_type": "bearer", "access_token": token, "expires_in": self.config.token_ttl});
                let mut reply = Reply::new(200, "oauth.token").header(CACHE_CONTROL, "no-store");
                reply.headers.push((CONTENT_TYPE, http::HeaderValue::from_static("application/json")));
                reply.body = Bytes::from(answer.to_string());
                reply
            }
            Err(reason) => bad_request(&reason),
        }
    }

    fn issue(&self, parameters: &[u8], route: &str) -> Result<String, String> {
        let mut given = HashMap::new();
        for (name, value) in form_urlencoded::parse(parameters) {
            given.entry(name).or_insert(value);
        }
        let parameter = |name: &str| given.get(name).ok_or_else(|| format!("{name} is missing"));
        let grant_type = parameter("grant_type")?;
        if grant_type != "client_credentials" {
            return Err(format!("grant_type:{grant_type} is not support"));
        }
        let (client_id, secret) = (parameter("client_id")?, parameter("client_secret"));
        let unknown = || "invalid client_id or client_secret".to_owned();
        let consumer = self.config.consumers.iter().find(|consumer| consumer.client_id == *client_id);
        let consumer = consumer.ok_or_else(unknown)?;
        if !consumer.secret.matches(secret?.as_bytes()) {
            return Err(unknown());
        }
        let now = clock::now();
        let mut claims = json!({
            "iss": self.config.issuer,
            "sub": consumer.name,
            "aud": if self.config.global_credentials { "default" } else { route },
            "iat": now,
            "exp": now + self.config.token_ttl,
            "client_id": consumer.client_id,
            "jti": Uuid::now_v7().to_string(),
        });
        if let Some(scope) = given.get("scope") {
            claims["scope"] = json!(scope);
        }
        Ok(jwt::sign(TOKEN_TYPE, &claims, consumer.secret.expose().as_bytes()))
    }

    fn check(&self, request: &mut Request<'_>) -> Flow {
        let config = &self.config;
        let token = request.header(config.auth_header.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        let Some((consumer, jwt)) = token.and_then(|token| self.verified(token)) else {
            let scheme = if request.state.is_tls { "https" } else { "http" };
            let host = request.header("host").unwrap_or_default();
            let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str());
            let path: String = path.chars().take(MAX_REALM_PATH).collect();
            let reply = consumers::told(401, DENIED, "Invalid Jwt token");
            let realm = format!("Bearer realm=\"{scheme}://{host}{path}\"");
            return Flow::respond(reply.header(WWW_AUTHENTICATE, &realm));
        };
        let is_for_route = config.global_credentials || jwt.text("aud") == Some(&request.state.route);
        if !config.gate.admits(Some(&consumer.name)) || !is_for_route {
            return Flow::respond(consumers::told(403, DENIED, "Access Denied"));
        }
        request.state.credentials.push(CredentialPlace::Header(config.auth_header.to_string()));
        if !config.keep_token {
            request.head.remove_header(&config.auth_header);
        }
        consumers::let_pass(request, Some(&consumer.name));
        Flow::Continue
    }

    /// The consumer a token was issued to, if it was issued here and has not run out.
    fn verified(&self, token: &str) -> Option<(&Consumer, Jwt)> {
        let config = &self.config;
        let jwt = Jwt::parse(token).ok()?;
        let client_id = jwt.text("client_id")?;
        let consumer = config.consumers.iter().find(|consumer| consumer.client_id == client_id)?;
        Jwks::of_secret(consumer.secret.expose().as_bytes()).verify(&jwt).ok()?;
        let is_ours = jwt.text("iss") == Some(&config.issuer)
            && jwt.text("sub") == Some(&consumer.name)
            && jwt.text("aud").is_some()
            && jwt.header.get("typ").and_then(serde_json::Value::as_str) == Some(TOKEN_TYPE);
        let now = clock::now();
        let made = jwt.time("iat")?;
        jwt.time("exp")?;
        jwt.check_time(now, config.clock_skew).ok()?;
        (is_ours && made <= now.saturating_add(config.clock_skew)).then_some((consumer, jwt))
    }
}

fn bad_request(reason: &str) -> Reply {
    consumers::told(400, format!("{DENIED}{{{}}}", reason.replace(' ', "_")), reason)
}

#[cfg(test)]
mod tests;
