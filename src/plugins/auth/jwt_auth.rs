//! `jwt-auth`: JSON Web Tokens, each consumer with its keys. AUTHN phase, priority 340.
//!
//! Two plugins of Higress, which differ in what they answer: the C++ one, and its Go port (image `go-jwt-auth`), which refuses
//! with 403 unless a single consumer is allowed. Keys of an issuer are fetched through a service (`remote_jwks`) or from
//! a URL (`jwks_uri`).
//!
//! Differences from Higress: `keep_token: false` takes tokens out of parameters and cookies, too (the C++ plugin leaves them); a
//! claim that is missing makes no empty header; claims that are lists or objects make none either; ES512 is not known.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HOST, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Uri};
use pingora_http::RequestHeader;
use serde_json::Value;

use super::clock;
use super::consumers::{self, Gate};
use super::jwt::{Fault, Jwks, Jwt};
use super::places::Place;
use super::remote_keys::RemoteKeys;
use crate::base::shared::Shared;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Destination, Flow, Host, HttpCall, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "jwt-auth",
    phase: Phase::Authn,
    priority: 340,
    family: Family::Cpp,
    summary: "JSON Web Tokens, each consumer with its keys, with per-route allow lists",
    build: |scope, host| build(scope, host, Family::Cpp),
    check: |scope| Config::read(scope, Family::Cpp).1,
};

pub const GO_SPEC: PluginSpec = PluginSpec {
    name: "go-jwt-auth",
    family: Family::Go,
    summary: "jwt-auth as its Go port answers",
    build: |scope, host| build(scope, host, Family::Go),
    check: |scope| Config::read(scope, Family::Go).1,
    ..SPEC
};

/// Beginning of the C++ plugin's entry in the access log.
const DENIED: &str = "jwt_authn_access_denied";
/// How much of the path the C++ plugin names as the realm.
const MAX_REALM_PATH: usize = 256;

/// What one scope asks for.
struct Config {
    family: Family,
    gate: Gate,
    consumers: Vec<Consumer>,
    /// Where this is not empty, requests without any of these headers are not checked.
    enable_headers: Vec<String>,
}

struct Consumer {
    name: String,
    keys: Keys,
    /// Values that claims must have; the issuer is one of them.
    claims: Vec<(String, String)>,
    claims_to_headers: Vec<ClaimHeader>,
    places: Vec<Place>,
    clock_skew: i64,
    keep_token: bool,
}

enum Keys {
    Given(Jwks),
    Remote { keys: Arc<RemoteKeys>, to: Destination, head: Box<RequestHeader>, keep: Duration, timeout: Duration },
}

struct ClaimHeader {
    claim: String,
    header: HeaderName,
    replaces: bool,
}

impl Config {
    fn read(scope: &Scope<'_>, family: Family) -> (Config, Vec<FieldProblem>) {
        let value = consumers::config_of(scope, family);
        let mut fields = Fields::of(&value, "");
        let gate = Gate::read(scope, family, &mut fields);
        let enable_headers = fields.strings("enable_headers").unwrap_or_default();
        let mut names: Vec<String> = Vec::new();
        let consumers = consumers::each(&mut fields, "consumers", |fields| {
            let consumer = read_consumer(fields);
            if let Some(name) = consumer.as_ref().map(|consumer| &consumer.name) {
                if names.contains(name) {
                    fields.problem("name", format!("\"{name}\" is another consumer's, too"));
                }
                names.push(name.clone());
            }
            consumer
        });
        gate.require(&mut fields, consumers.iter().map(|consumer| Some(consumer.name.as_str())));
        (Config { family, gate, consumers, enable_headers }, fields.finish())
    }
}

fn read_consumer(fields: &mut Fields<'_>) -> Option<Consumer> {
    let name = consumers::required(fields, "name");
    let mut claims = Vec::new();
    if let Some(wanted) = fields.object("claims").and_then(Value::as_object) {
        for (claim, value) in wanted {
            match value.as_str() {
                Some(text) => claims.push((claim.clone(), text.trim().to_owned())),
                None => fields.problem(&format!("claims.{claim}"), "must be a string"),
            }
        }
    }
    if let Some(issuer) = fields.string("issuer") {
        claims.push(("iss".to_owned(), issuer.trim().to_owned()));
    }
    let keys = read_keys(fields);
    let places = read_places(fields);
    let claims_to_headers = consumers::each(fields, "claims_to_headers", |fields| {
        let claim = consumers::required(fields, "claim");
        let header = consumers::required(fields, "header").and_then(|name| {
            let parsed = HeaderName::try_from(name.as_str());
            parsed.map_err(|_| fields.problem("header", format!("\"{name}\" is no header name"))).ok()
        });
        let replaces = fields.boolean("override").unwrap_or(true);
        Some(ClaimHeader { claim: claim?, header: header?, replaces })
    });
    let clock_skew = fields.count("clock_skew_seconds").unwrap_or(60);
    let keep_token = fields.boolean("keep_token").unwrap_or(true);
    let clock_skew = i64::try_from(clock_skew).unwrap_or(i64::MAX);
    Some(Consumer { name: name?, keys: keys?, claims, claims_to_headers, places, clock_skew, keep_token })
}

/// One of `jwks`, `remote_jwks` and `jwks_uri`.
fn read_keys(fields: &mut Fields<'_>) -> Option<Keys> {
    let keep = Duration::from_secs(fields.count("jwks_cache_duration").unwrap_or(600));
    let timeout = Duration::from_millis(fields.count("jwks_fetch_timeout").unwrap_or(1500));
    let given = fields.string("jwks").map(str::trim).filter(|text| !text.is_empty());
    let service = fields.object("remote_jwks");
    let uri = fields.string("jwks_uri").map(str::trim).filter(|text| !text.is_empty());
    let (to, path, host) = match (given, service, uri) {
        (Some(text), None, None) => {
            let keys = Jwks::parse(text.as_bytes());
            return keys.map(Keys::Given).map_err(|why| fields.problem("jwks", why)).ok();
        }
        (None, Some(service), None) => {
            let mut service = Fields::of(service, &fields.at("remote_jwks"));
            let name = consumers::required(&mut service, "service_name");
            let host = service.string("service_host").filter(|host| !host.is_empty()).map(str::to_owned);
            let port = service.count("service_port").unwrap_or(443);
            let port = u16::try_from(port).map_err(|_| service.problem("service_port", "is no port number")).ok();
            let path = consumers::required(&mut service, "path");
            fields.problems.extend(service.finish());
            (Destination::Service { host: name?, port: Some(port?) }, path?, host)
        }
        (None, None, Some(uri)) => {
            let parsed: Option<Uri> = uri.parse().ok().filter(|uri: &Uri| uri.host().is_some());
            let Some(parsed) = parsed.filter(|uri| uri.scheme_str() == Some("https")) else {
                fields.problem("jwks_uri", format!("\"{uri}\" is no https URL"));
                return None;
            };
            let path = parsed.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            (Destination::Url(uri.to_owned()), path, None)
        }
        (None, None, None) => {
            fields.problem("jwks", "must be given (or remote_jwks, or jwks_uri)");
            return None;
        }
        _ => {
            fields.problem("jwks", "is one of several: give jwks, remote_jwks or jwks_uri, not two of them");
            return None;
        }
    };
    let head = RequestHeader::build("GET", path.as_bytes(), None).and_then(|mut head| {
        host.map_or(Ok(()), |host| head.insert_header(HOST, host))?;
        Ok(head)
    });
    match head {
        Ok(head) => {
            let keys = Arc::new(RemoteKeys::new(keep));
            Some(Keys::Remote { keys, to, head: Box::new(head), keep, timeout })
        }
        Err(_) => {
            fields.problem("remote_jwks", "has a path or service_host that cannot be sent");
            None
        }
    }
}

/// Where tokens may stand; without any such field, where they usually do.
fn read_places(fields: &mut Fields<'_>) -> Vec<Place> {
    let mut places = consumers::each(fields, "from_headers", |fields| {
        let name = consumers::required(fields, "name");
        let prefix = fields.string("value_prefix").unwrap_or_default().to_owned();
        Some(Place::Header { name: name?, prefix })
    });
    places.extend(fields.strings("from_params").unwrap_or_default().into_iter().map(Place::Query));
    places.extend(fields.strings("from_cookies").unwrap_or_default().into_iter().map(Place::Cookie));
    if places.is_empty() {
        places.push(Place::Header { name: "authorization".into(), prefix: "Bearer ".into() });
        places.push(Place::Query("access_token".into()));
    }
    places
}

/// The sets of all configurations: who has one goes on with it after a change.
static KEY_SETS: LazyLock<Shared<RemoteKeys>> = LazyLock::new(Shared::new);

struct JwtAuth {
    config: Config,
    host: Arc<dyn Host>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>, family: Family) -> BuildResult {
    let (mut config, problems) = Config::read(scope, family);
    if !is_usable(&problems) {
        return Err(problems);
    }
    for consumer in &mut config.consumers {
        if let Keys::Remote { keys, to, head, keep, .. } = &mut consumer.keys {
            let of = format!("{:p} {to:?} {:?} {:?} {keep:?}", Arc::as_ptr(host), head.uri, head.headers);
            *keys = KEY_SETS.get(of, || RemoteKeys::new(*keep));
        }
    }
    let is_active = config.gate.is_active;
    Ok(is_active.then(|| Arc::new(JwtAuth { config, host: host.clone() }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for JwtAuth {
    fn secret_parameters(&self) -> Vec<String> {
        let places = self.config.consumers.iter().flat_map(|consumer| &consumer.places);
        let names = places.filter_map(|place| if let Place::Query(name) = place { Some(name.clone()) } else { None });
        names.collect()
    }

    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let enable = &self.config.enable_headers;
        if !enable.is_empty() && !enable.iter().any(|name| request.head.headers.contains_key(name.as_str())) {
            return Flow::Continue;
        }
        let now = clock::now();
        // What came of each consumer that did not pass; `None` is one that is known and not allowed.
        let mut results: Vec<(&str, Option<Fault>)> = Vec::with_capacity(self.config.consumers.len());
        for consumer in &self.config.consumers {
            let fault = match self.verified(consumer, request, now).await {
                Ok(tokens) if self.config.gate.admits(Some(&consumer.name)) => {
                    consumer.let_pass(request, &tokens);
                    return Flow::Continue;
                }
                Ok(_) => None,
                Err(fault) => Some(fault),
            };
            results.push((&consumer.name, fault));
        }
        // A token that was refused is a token all the same.
        let places = self.config.consumers.iter().flat_map(|consumer| &consumer.places);
        let found: Vec<CredentialPlace> =
            places.filter(|place| place.read(request).is_some()).map(Place::credential).collect();
        request.state.credentials.extend(found);
        Flow::respond(match self.config.family {
            Family::Cpp => refuse(request, &results),
            Family::Go => self.refuse_as_go(&results),
        })
    }
}

impl JwtAuth {
    /// The tokens a request has for a consumer, all of them verified. The Go port looks at the first only.
    async fn verified<'c>(
        &self,
        consumer: &'c Consumer,
        request: &Request<'_>,
        now: i64,
    ) -> Result<Vec<(&'c Place, Jwt)>, Fault> {
        let found = consumer.places.iter().filter_map(|place| Some((place, place.read(request)?)));
        let n_wanted = if self.config.family == Family::Go { 1 } else { usize::MAX };
        let mut tokens = Vec::new();
        for (place, token) in found.take(n_wanted) {
            let jwt = Jwt::parse(&token)?;
            let has_claims = consumer.claims.iter().all(|(claim, value)| jwt.text(claim) == Some(value));
            if !has_claims {
                return Err(Fault::Unverified);
            }
            // The Go port looks at the time last, so that it tells nothing of tokens that are not genuine.
            if self.config.family == Family::Cpp {
                jwt.check_time(now, consumer.clock_skew)?;
            }
            self.check_signature(consumer, &jwt).await?;
            jwt.check_time(now, consumer.clock_skew)?;
            tokens.push((place, jwt));
        }
        if tokens.is_empty() { Err(Fault::Missing) } else { Ok(tokens) }
    }

    async fn check_signature(&self, consumer: &Consumer, jwt: &Jwt) -> Result<(), Fault> {
        match &consumer.keys {
            Keys::Given(keys) => keys.verify(jwt),
            Keys::Remote { keys, to, head, timeout, .. } => {
                let call = || {
                    let head = RequestHeader::clone(head);
                    self.host.http(HttpCall {
                        to: to.clone(),
                        head,
                        body: Bytes::new(),
                        timeout: *timeout,
                        is_question: true,
                        may_cut: false,
                    })
                };
                keys.verify(jwt, call).await
            }
        }
    }

    fn refuse_as_go(&self, results: &[(&str, Option<Fault>)]) -> Reply {
        let (status, details, reason) = match self.config.gate.only() {
            Some(_) if results.iter().any(|(_, fault)| fault.is_none()) => {
                (403, "jwt-auth.unauthorized_customer", "Unauthorized consumer.")
            }
            Some(only) => match results.iter().find(|(name, _)| *name == only) {
                Some((_, Some(Fault::Missing))) => (401, "jwt-auth.token_missing", "JWT is missing."),
                Some((_, Some(Fault::Expired | Fault::NotYetValid))) => {
                    (401, "jwt-auth.token_expired", "JWT is expired.")
                }
                Some(_) => (401, "jwt-auth.verification_failed", "JWT verification fails"),
                None => (403, "jwt-auth.not_allowed_by_default", "JWT token not allow."),
            },
            None => (403, "jwt-auth.not_allowed_by_default", "JWT token not allow."),
        };
        consumers::told(status, details, format!("Request denied by JWT Auth check. {reason}"))
            .header(WWW_AUTHENTICATE, "JWT realm=MSE Gateway")
    }
}

/// As the C++ plugin: the first consumer's fault, unless one is known and not allowed.
fn refuse(request: &Request<'_>, results: &[(&str, Option<Fault>)]) -> Reply {
    if results.iter().any(|(_, fault)| fault.is_none()) {
        return consumers::told(403, DENIED, "Access Denied");
    }
    let fault = results.first().and_then(|(_, fault)| *fault).unwrap_or(Fault::Missing);
    let text = fault.to_string();
    let scheme = if request.state.is_tls { "https" } else { "http" };
    let host = request.header("host").unwrap_or_default();
    let path: String =
        request.head.uri.path_and_query().map_or("/", |path| path.as_str()).chars().take(MAX_REALM_PATH).collect();
    let error = if fault == Fault::Missing { "" } else { ", error=\"invalid_token\"" };
    consumers::told(401, format!("{DENIED}{{{}}}", text.replace(' ', "_")), text)
        .header(WWW_AUTHENTICATE, &format!("Bearer realm=\"{scheme}://{host}{path}\"{error}"))
}

impl Consumer {
    fn let_pass(&self, request: &mut Request<'_>, tokens: &[(&Place, Jwt)]) {
        for (place, jwt) in tokens {
            let credential = place.credential();
            if !self.keep_token {
                credential.clear(request.head);
            }
            request.state.credentials.push(credential);
            for to in &self.claims_to_headers {
                // Without the claim there is no header either: the client's own would pass for the token's.
                if to.replaces {
                    request.head.remove_header(&to.header);
                }
                let text = match jwt.claims.get(&to.claim) {
                    Some(Value::String(text)) => text.clone(),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                    _ => continue,
                };
                let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) else { continue };
                // The name is a header name, so neither can fail.
                let _ = request.head.append_header(to.header.clone(), value);
            }
        }
        consumers::let_pass(request, Some(&self.name));
    }
}

#[cfg(test)]
mod tests;
