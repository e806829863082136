//! `key-auth`: API key in a header or query parameter. AUTHN phase, priority 310.
//!
//! Differences from Higress: none known in the consumers form; the human-readable reason is also in the body, because an
//! empty 401 helps nobody (Higress puts it only into the access log).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::base::secret::Secret;
use crate::config::model::Phase;
use crate::llm::error::{ApiError, ErrorKind};
use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "key-auth",
    phase: Phase::Authn,
    priority: 310,
    family: Family::Cpp,
    summary: "API key in a header or query parameter, with consumers and per-route allow lists",
    build,
    check: |scope| Config::read(scope).1,
};

/// Header the authenticated consumer's name is sent upstream in.
const CONSUMER_HEADER: HeaderName = HeaderName::from_static("x-mse-consumer");
/// The client's own credential, kept when a fallback re-enters the chain after `ai-proxy` replaced it.
const ORIGINAL_AUTH_HEADER: &str = "x-hi-original-auth";

/// What one scope (global, or a rule over it) asks for.
#[derive(Debug, Clone)]
struct Config {
    consumers: Vec<Consumer>,
    /// Header or query names tried for consumers that have none of their own.
    keys: Vec<String>,
    in_header: bool,
    in_query: bool,
    realm: String,
    /// `None`: any known consumer.
    allow: Option<Vec<String>>,
    /// Whether this scope checks at all.
    is_active: bool,
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
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        // A rule that brings its own consumers stands alone; one with `allow` only extends the global configuration.
        let own = scope.rule.is_some_and(|rule| rule.get("consumers").is_some() || rule.get("credentials").is_some());
        let value = if own { scope.alone() } else { scope.overlaid() };
        let mut fields = Fields::of(&value, "");
        let is_disabled = scope.rule.is_some() && fields.boolean("_disable_").unwrap_or(false);
        let global_auth = scope.global.and_then(|global| global.get("global_auth")).and_then(Value::as_bool);
        fields.boolean("global_auth");
        let in_header = fields.boolean("in_header").unwrap_or(true);
        let in_query = fields.boolean("in_query").unwrap_or(true);
        if !in_header && !in_query {
            fields.problem("in_query", "and in_header are both false, so no key could ever be found");
        }
        let keys = fields.strings("keys").unwrap_or_default();
        let realm = fields.string("realm").unwrap_or("MSE Gateway").to_owned();
        let mut consumers = read_consumers(&mut fields, keys.is_empty());
        if let Some(credentials) = fields.strings("credentials") {
            if !consumers.is_empty() {
                fields.problem("credentials", "cannot be combined with consumers; name a consumer for each credential");
            }
            if keys.is_empty() {
                fields.problem("keys", "must name at least one header or query parameter");
            }
            let credentials = credentials.into_iter().map(Secret::new).collect();
            consumers.push(Consumer { name: None, credentials, keys: vec![], in_header: None, in_query: None });
        }
        let allow = match scope.rule {
            // A rule with consumers of its own is used without an allow list, as in Higress.
            Some(_) if !own => fields.strings("allow"),
            _ => {
                fields.get("allow");
                None
            }
        };
        let is_rule_check = scope.rule.is_some() && allow.is_some();
        let is_active = match global_auth {
            _ if is_disabled => false,
            Some(true) => true,
            Some(false) => is_rule_check,
            None => scope.rule.is_some() || scope.n_rules == 0,
        };
        // A global part without consumers is fine where rules bring their own.
        let is_needed = is_active && (scope.rule.is_some() || scope.n_rules == 0 || global_auth == Some(true));
        if consumers.is_empty() && is_needed && fields.problems.is_empty() {
            fields.problem("consumers", "must name at least one consumer");
        }
        let config = Config { consumers, keys, in_header, in_query, realm, allow, is_active };
        (config, fields.finish())
    }
}

fn read_consumers(fields: &mut Fields<'_>, needs_keys: bool) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    for (index, value) in fields.list("consumers").unwrap_or_default().iter().enumerate() {
        let mut consumer = Fields::of(value, &format!("consumers[{index}]"));
        let name = consumer.string("name").map(str::to_owned);
        if name.is_none() && consumer.problems.is_empty() {
            consumer.problem("name", "must be given");
        }
        let mut credentials: Vec<Secret> =
            consumer.strings("credentials").unwrap_or_default().into_iter().map(Secret::new).collect();
        credentials.extend(consumer.string("credential").map(Secret::new));
        if credentials.is_empty() && consumer.problems.is_empty() {
            consumer.problem("credential", "must be given (or credentials, a list)");
        }
        let keys = consumer.strings("keys").unwrap_or_default();
        if needs_keys && keys.is_empty() {
            consumer.problem("keys", "must name a header or query parameter here or in the plugin's own keys");
        }
        let (in_header, in_query) = (consumer.boolean("in_header"), consumer.boolean("in_query"));
        consumers.push(Consumer { name, credentials, keys, in_header, in_query });
        fields.problems.extend(consumer.finish());
    }
    consumers
}

struct KeyAuth {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(config.is_active.then(|| Arc::new(KeyAuth { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for KeyAuth {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let Some((consumer, place)) = self.config.authenticate(request) else {
            return Flow::respond(self.deny(
                ErrorKind::Unauthorized,
                "Request denied by Key Auth check. Invalid API key",
                "key-auth.invalid_key",
            ));
        };
        if let Some(allow) = &self.config.allow
            && !consumer.name.as_ref().is_some_and(|name| allow.contains(name))
        {
            return Flow::respond(self.deny(
                ErrorKind::Forbidden,
                "Request denied by Key Auth check. Unauthorized consumer",
                "key-auth.unauthorized",
            ));
        }
        request.state.credential = Some(place);
        if let Some(name) = &consumer.name {
            request.state.consumer = Some(name.clone());
            if let Ok(value) = HeaderValue::from_str(name) {
                // Appended, as Higress does; the edge has removed what the client may have sent.
                let _ = request.head.append_header(CONSUMER_HEADER, value);
            }
        }
        Flow::Continue
    }
}

impl KeyAuth {
    fn deny(&self, kind: ErrorKind, message: &str, details: &str) -> Reply {
        let body: Bytes = ApiError::new(kind, message).to_json();
        Reply::new(kind.status(), details)
            .header(WWW_AUTHENTICATE, &format!("Key realm={}", self.config.realm))
            .json(body)
    }
}

impl Config {
    /// The consumer whose credential the request carries, and where. Common keys are tried first, header before query;
    /// unknown values are skipped.
    fn authenticate(&self, request: &Request<'_>) -> Option<(&Consumer, CredentialPlace)> {
        let common = self.keys.iter().flat_map(|key| found(request, key, self.in_header, self.in_query));
        for (value, place) in common {
            if let Some(consumer) = self.consumers.iter().find(|c| c.keys.is_empty() && c.has(&value)) {
                return Some((consumer, place));
            }
        }
        self.consumers.iter().filter(|consumer| !consumer.keys.is_empty()).find_map(|consumer| {
            let in_header = consumer.in_header.unwrap_or(self.in_header);
            let in_query = consumer.in_query.unwrap_or(self.in_query);
            let original = found(request, ORIGINAL_AUTH_HEADER, true, false);
            let own = consumer.keys.iter().flat_map(|key| found(request, key, in_header, in_query));
            let (_, place) = original.into_iter().chain(own).find(|(value, _)| consumer.has(value))?;
            Some((consumer, place))
        })
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
        values.extend(request.header(key).map(|value| (value.to_owned(), CredentialPlace::Header(key.to_owned()))));
    }
    if in_query {
        let query = request.head.uri.query().unwrap_or_default();
        values.extend(query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (name == key).then(|| (percent_decoded(value), CredentialPlace::Query(key.to_owned())))
        }));
    }
    values
}

/// `%XX` and `+` of a query value; malformed escapes stay as written.
fn percent_decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%')
            .then(|| value.get(index + 1..index + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(if bytes[index] == b'+' { b' ' } else { bytes[index] });
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;
    use serde_json::json;

    use super::*;
    use crate::plugins::RequestState;

    /// Builds the plugin for a scope and runs one request; returns the status and the consumer.
    fn check(
        global: &Value,
        rule: Option<&Value>,
        n_rules: usize,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> (u16, Option<String>) {
        let scope = Scope { global: Some(global), rule, n_rules };
        let (config, problems) = Config::read(&scope);
        assert!(problems.is_empty(), "{problems:?}");
        if !config.is_active {
            return (0, None);
        }
        let mut head = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let mut state = RequestState::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut request = Request { head: &mut head, state: &mut state };
        let flow = runtime.block_on(KeyAuth { config }.on_request_headers(&mut request));
        match flow {
            Flow::Continue => (200, state.consumer),
            Flow::Respond(reply) => (reply.status, None),
        }
    }

    fn two_consumers(global_auth: &Value) -> Value {
        json!({
            "global_auth": global_auth,
            "keys": ["x-api-key", "apikey"],
            "consumers": [
                {"name": "one", "credential": "k1"},
                {"name": "two", "credentials": ["k2", "Bearer k2"], "keys": ["authorization"], "in_query": false},
            ],
        })
    }

    #[test]
    fn keys_are_found_in_headers_and_queries() {
        let global = two_consumers(&json!(true));
        let one = (200, Some("one".to_owned()));
        let two = (200, Some("two".to_owned()));
        assert_eq!(check(&global, None, 0, "/", &[("x-api-key", "k1")]), one);
        assert_eq!(check(&global, None, 0, "/?apikey=k1", &[]), one);
        assert_eq!(check(&global, None, 0, "/?a=b&apikey=%6b1", &[]), one);
        assert_eq!(check(&global, None, 0, "/", &[("x-api-key", "nope"), ("apikey", "k1")]), one);
        assert_eq!(check(&global, None, 0, "/", &[("authorization", "Bearer k2")]), two);
        assert_eq!(check(&global, None, 0, "/", &[("x-hi-original-auth", "k2")]), two);
        assert_eq!(check(&global, None, 0, "/?authorization=k2", &[]), (401, None));
        assert_eq!(check(&global, None, 0, "/", &[("x-api-key", "k2")]), (401, None), "k2 has keys of its own");
        assert_eq!(check(&global, None, 0, "/", &[]), (401, None));
    }

    #[test]
    fn allow_lists_apply_to_their_rule() {
        let global = two_consumers(&json!(false));
        let allow_two = json!({"allow": ["two"]});
        assert_eq!(check(&global, None, 1, "/", &[]), (0, None), "not checked without a rule");
        assert_eq!(check(&global, Some(&allow_two), 1, "/", &[("x-api-key", "k1")]), (403, None));
        assert_eq!(check(&global, Some(&allow_two), 1, "/", &[("authorization", "k2")]).0, 200);
        assert_eq!(check(&global, Some(&json!({"allow": []})), 1, "/", &[("x-api-key", "k1")]), (403, None));
    }

    #[test]
    fn unset_global_auth_checks_everything_only_without_rules() {
        let mut global = two_consumers(&json!(true));
        global.as_object_mut().unwrap().remove("global_auth");
        assert_eq!(check(&global, None, 0, "/", &[]), (401, None));
        assert_eq!(check(&global, None, 1, "/", &[]), (0, None));
    }

    #[test]
    fn problems_name_their_field() {
        let global = json!({"global_auth": true, "consumers": [{"credential": 5}], "in_header": false, "in_query": false, "typo": 1});
        let (_, problems) = Config::read(&Scope { global: Some(&global), rule: None, n_rules: 0 });
        let named: Vec<&str> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(named, ["in_query", "consumers[0].name", "consumers[0].credential", "consumers[0].keys", "typo"]);
    }
}
