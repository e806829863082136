//! `key-auth`: API key in a header or query parameter. AUTHN phase, priority 310.
//!
//! Two plugins of Higress: the C++ one, and its Go port (image `go-key-auth`), which has no keys per consumer, looks either
//! into headers or into the query, and answers 403 to an unknown key and 401 to several keys.
//!
//! Differences from Higress: where a model's API is called, the C++ plugin's refusal has the error object as body that SDKs read
//! (elsewhere it is empty, as in Higress); the Go port takes `allow: []` as nobody.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::WWW_AUTHENTICATE;

use super::consumers::{self, Gate};
use super::places::query_values;
use crate::base::secret::Secret;
use crate::config::model::Phase;
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::provider::recognise;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "key-auth",
    phase: Phase::Authn,
    priority: 310,
    family: Family::Cpp,
    summary: "API key in a header or query parameter, with consumers and per-route allow lists",
    build: |scope, _| build(scope, Family::Cpp),
    check: |scope| Config::read(scope, Family::Cpp).1,
};

pub const GO_SPEC: PluginSpec = PluginSpec {
    name: "go-key-auth",
    family: Family::Go,
    summary: "key-auth as its Go port answers: 403 for an unknown key, 401 for several",
    build: |scope, _| build(scope, Family::Go),
    check: |scope| Config::read(scope, Family::Go).1,
    ..SPEC
};

/// The client's own credential, kept when a fallback re-enters the chain after `ai-proxy` replaced it.
const ORIGINAL_AUTH_HEADER: &str = "x-hi-original-auth";

/// What one scope (global, or a rule over it) asks for.
#[derive(Debug, Clone)]
struct Config {
    family: Family,
    gate: Gate,
    consumers: Vec<Consumer>,
    /// Header or query names tried for consumers that have none of their own.
    keys: Vec<String>,
    in_header: bool,
    in_query: bool,
    realm: String,
}

#[derive(Debug, Clone)]
struct Consumer {
    name: Option<String>,
    credentials: Vec<Secret>,
    /// Own header or query names; empty means the common ones.
    keys: Vec<String>,
    in_header: Option<bool>,
    in_query: Option<bool>,
}

impl Config {
    /// Reads the scope and every problem in it.
    fn read(scope: &Scope<'_>, family: Family) -> (Config, Vec<FieldProblem>) {
        let value = consumers::config_of(scope, family);
        let mut fields = Fields::of(&value, "");
        let gate = Gate::read(scope, family, &mut fields);
        let (in_header, in_query) = (fields.boolean("in_header"), fields.boolean("in_query"));
        let is_given = in_header.is_some() || in_query.is_some();
        // The Go port looks only where it is told to.
        let otherwise = family == Family::Cpp;
        let (in_header, in_query) = (in_header.unwrap_or(otherwise), in_query.unwrap_or(otherwise));
        if !in_header && !in_query && is_given {
            fields.problem("in_query", "and in_header are both false, so no key could ever be found");
        }
        if !is_given && family == Family::Go && gate.is_active {
            fields.problem("in_header", "or in_query must be given");
        }
        let keys = fields.strings("keys").unwrap_or_default();
        let realm = fields.string("realm").unwrap_or("MSE Gateway").to_owned();
        let needs_keys = keys.is_empty() || family == Family::Go;
        let mut consumers =
            consumers::each(&mut fields, "consumers", |fields| read_consumer(fields, needs_keys, family));
        if family == Family::Cpp
            && let Some(credentials) = fields.secrets("credentials")
        {
            if !consumers.is_empty() {
                fields.problem("credentials", "cannot be combined with consumers; name a consumer for each credential");
            }
            if keys.is_empty() {
                fields.problem("keys", "must name at least one header or query parameter");
            }
            consumers.push(Consumer { name: None, credentials, keys: vec![], in_header: None, in_query: None });
        }
        if family == Family::Go && keys.is_empty() && !consumers.is_empty() {
            fields.problem("keys", "must name at least one header or query parameter");
        }
        report_doubles(&mut fields, &consumers);
        gate.require(&mut fields, consumers.iter().map(|consumer| consumer.name.as_deref()));
        let config = Config { family, gate, consumers, keys, in_header, in_query, realm };
        (config, fields.finish())
    }
}

/// One key means one consumer; the second of two could never be recognised.
fn report_doubles(fields: &mut Fields<'_>, consumers: &[Consumer]) {
    let mut known = HashSet::new();
    for (index, consumer) in consumers.iter().enumerate() {
        let own: HashSet<_> = consumer.credentials.iter().map(|key| (&consumer.keys, key.expose())).collect();
        if !known.is_disjoint(&own) {
            fields.problem(&format!("consumers[{index}].credential"), "is that of a consumer before it, too");
        }
        known.extend(own);
    }
}

fn read_consumer(fields: &mut Fields<'_>, needs_keys: bool, family: Family) -> Option<Consumer> {
    let name = consumers::required(fields, "name");
    let n_problems = fields.problems.len();
    let mut credentials = fields.secrets("credentials").unwrap_or_default();
    credentials.extend(fields.secret("credential"));
    if credentials.is_empty() && fields.problems.len() == n_problems {
        fields.problem("credential", "must be given (or credentials, a list)");
    }
    if credentials.iter().any(Secret::is_empty) {
        fields.problem("credential", "must not be empty");
    }
    let mut keys = Vec::new();
    let (mut in_header, mut in_query) = (None, None);
    if family == Family::Cpp {
        keys = fields.strings("keys").unwrap_or_default();
        if needs_keys && keys.is_empty() {
            fields.problem("keys", "must name a header or query parameter here or in the plugin's own keys");
        }
        (in_header, in_query) = (fields.boolean("in_header"), fields.boolean("in_query"));
    }
    Some(Consumer { name, credentials, keys, in_header, in_query })
}

/// What the Higress console writes for `keys` where each consumer has its own.
const CONSOLE_KEY: &str = "x-higress-dummy-key";

struct KeyAuth {
    config: Config,
}

fn build(scope: &Scope<'_>, family: Family) -> BuildResult {
    let (config, problems) = Config::read(scope, family);
    if !is_usable(&problems) {
        return Err(problems);
    }
    Ok(config.gate.is_active.then(|| Arc::new(KeyAuth { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for KeyAuth {
    fn secret_parameters(&self) -> Vec<String> {
        let own = self.config.consumers.iter().flat_map(|consumer| &consumer.keys);
        self.config.keys.iter().chain(own).cloned().collect()
    }

    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let found = match self.config.family {
            Family::Cpp => {
                self.config.any_known(request).ok_or_else(|| self.refuse(request, 401, "Invalid API key", ""))
            }
            Family::Go => self.one_known(request),
        };
        let name = found.map(|consumer| consumer.name.clone());
        // Also of those that are refused: what stands there is a key, perhaps that of another route.
        let places = self.config.places(request);
        request.state.credentials.extend(places);
        let name = match name {
            Ok(name) => name,
            Err(reply) => return Flow::respond(reply),
        };
        if !self.config.gate.admits(name.as_deref()) {
            return Flow::respond(self.refuse(request, 403, "Unauthorized consumer", "key-auth.unauthorized"));
        }
        consumers::let_pass(request, name.as_deref());
        Flow::Continue
    }
}

/// Whether clients of models ask here; they look for an error object. What is not known below `/v1/` goes to the provider of its route.
fn is_models(path: &str) -> bool {
    recognise(path).is_some() || path.contains("/v1/")
}

impl KeyAuth {
    /// As the Go port looks: there must be one key, and it must be known.
    fn one_known(&self, request: &Request<'_>) -> Result<&Consumer, Reply> {
        let config = &self.config;
        // Both switched on, it looks into headers only.
        let mut values = config.keys.iter().flat_map(|key| found(request, key, config.in_header, !config.in_header));
        let Some((value, _)) = values.next() else {
            return Err(self.refuse(request, 401, "No Key Authentication information found", "key-auth.no_key"));
        };
        if values.next().is_some() {
            return Err(self.refuse(request, 401, "Multi Key Authentication information found", "key-auth.multi_key"));
        }
        match config.consumers.iter().find(|consumer| consumer.has(&value)) {
            Some(consumer) => Ok(consumer),
            None => Err(self.refuse(request, 403, "Unauthorized consumer", "key-auth.unauthorized")),
        }
    }

    /// The C++ plugin tells its reason to the access log, the Go port tells it the client.
    fn refuse(&self, request: &Request<'_>, status: u16, reason: &str, go_details: &str) -> Reply {
        let text = format!("Request denied by Key Auth check. {reason}");
        let reply = match self.config.family {
            Family::Go => consumers::told(status, go_details, text + "."),
            Family::Cpp if is_models(request.path()) => {
                let kind = if status == 401 { ErrorKind::Unauthorized } else { ErrorKind::Forbidden };
                let config = &self.config;
                let own = config.consumers.iter().flat_map(|consumer| &consumer.keys);
                let mut keys: Vec<&str> = config.keys.iter().chain(own).map(String::as_str).collect();
                // A name the console writes where each consumer has its own.
                keys.retain(|key| *key != CONSOLE_KEY);
                keys.dedup();
                let message = match keys.is_empty() || !config.places(request).is_empty() {
                    true => text.clone(),
                    false => format!("{text}: no key came with the request. Send it as `{}`.", keys.join("` or `")),
                };
                let body = ApiError::new(kind, message).to_json();
                Reply::new(status, text).json(body)
            }
            Family::Cpp => Reply::new(status, text),
        };
        reply.header(WWW_AUTHENTICATE, &format!("Key realm={}", self.config.realm))
    }
}

impl Config {
    /// The consumer whose credential the request carries, and where. Common keys are tried first, header before query;
    /// unknown values are skipped.
    fn any_known(&self, request: &Request<'_>) -> Option<&Consumer> {
        let common = self.keys.iter().flat_map(|key| found(request, key, self.in_header, self.in_query));
        for (value, _) in common {
            if let Some(consumer) = self.consumers.iter().find(|c| c.keys.is_empty() && c.has(&value)) {
                return Some(consumer);
            }
        }
        self.consumers.iter().filter(|consumer| !consumer.keys.is_empty()).find(|consumer| {
            let in_header = consumer.in_header.unwrap_or(self.in_header);
            let in_query = consumer.in_query.unwrap_or(self.in_query);
            let original = found(request, ORIGINAL_AUTH_HEADER, true, false);
            let own = consumer.keys.iter().flat_map(|key| found(request, key, in_header, in_query));
            original.into_iter().chain(own).any(|(value, _)| consumer.has(&value))
        })
    }

    /// Where the request has something in the place of a key.
    fn places(&self, request: &Request<'_>) -> Vec<CredentialPlace> {
        let common = self.keys.iter().map(|key| (key, self.in_header, self.in_query));
        let own = self.consumers.iter().flat_map(|consumer| {
            let in_header = consumer.in_header.unwrap_or(self.in_header);
            let in_query = consumer.in_query.unwrap_or(self.in_query);
            consumer.keys.iter().map(move |key| (key, in_header, in_query))
        });
        let mut places: Vec<CredentialPlace> = Vec::new();
        for (_, place) in common.chain(own).flat_map(|(key, header, query)| found(request, key, header, query)) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }
}

impl Consumer {
    /// Every credential is compared, so the time does not tell which one was close.
    fn has(&self, value: &str) -> bool {
        self.credentials.iter().fold(false, |known, credential| known | credential.matches(value.as_bytes()))
    }
}

fn found(request: &Request<'_>, key: &str, in_header: bool, in_query: bool) -> Vec<(String, CredentialPlace)> {
    let mut values = Vec::new();
    if in_header {
        let value = request.header(key).filter(|value| !value.is_empty());
        values.extend(value.map(|value| (value.to_owned(), CredentialPlace::Header(key.to_owned()))));
    }
    if in_query {
        let query = request.head.uri.query().unwrap_or_default();
        values
            .extend(query_values(query, key).map(|value| (value.into_owned(), CredentialPlace::Query(key.to_owned()))));
    }
    values
}

#[cfg(test)]
mod tests;
