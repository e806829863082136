//! `de-graphql`: answers a REST request with the result of a GraphQL query. AUTHN phase, priority 430.
//!
//! The query's variables (`$name: String`, `Int`, `Float` or `Boolean`, with or without `!`) are taken from query parameters of
//! the same name, several values joined by commas. The query is posted to the endpoint of the route's own service with the
//! request's headers, and the answer is passed on.
//!
//! Differences from Higress: a value that does not fit its type is sent as a string, which the GraphQL server refuses with a
//! reason (there it is pasted into the JSON); if the service does not answer the client gets 502 with details
//! `de-graphql.failed`; answers over 1 MiB fail; hop-by-hop headers are not passed on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use serde_json::{Map, Value, json};

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::values::{self, Extent};
use crate::plugins::{Destination, Flow, Host, HttpAnswer, HttpCall, Plugin, Reply, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "de-graphql",
    phase: Phase::Authn,
    priority: 430,
    family: Family::Go,
    summary: "Answers REST requests with the results of GraphQL queries",
    build,
    check: |scope| Config::read(scope).1,
};

/// Headers of one connection, which the call beside it and its answer do not share.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

struct Config {
    query: String,
    variables: Vec<Variable>,
    endpoint: String,
    timeout: Duration,
    /// Host header of the call; empty keeps the request's.
    domain: String,
}

struct Variable {
    name: String,
    is_string: bool,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let query = fields.name("gql").unwrap_or_default();
        if query.trim().is_empty() && fields.is_usable() {
            fields.problem("gql", "must be a GraphQL query");
        }
        let endpoint = fields.string("endpoint").map(str::trim).filter(|path| !path.is_empty()).unwrap_or("/graphql");
        let endpoint = endpoint.to_owned();
        if !endpoint.starts_with('/') {
            fields.problem("endpoint", format!("must be a path, found \"{endpoint}\""));
        }
        let timeout = fields.count("timeout").filter(|millis| *millis > 0).unwrap_or(5000);
        let domain = fields.name("domain").unwrap_or_default();
        if HeaderValue::from_str(&domain).is_err() {
            fields.problem("domain", "must be a host name");
        }
        let variables = variables(&query).unwrap_or_else(|message| {
            fields.problem("gql", message);
            Vec::new()
        });
        (Config { query, variables, endpoint, timeout: Duration::from_millis(timeout), domain }, fields.finish())
    }
}

/// The variables a query declares.
fn variables(query: &str) -> Result<Vec<Variable>, String> {
    let declared = values::pattern(r"\$(\w+)\s*:\s*(String|Float|Int|Boolean)", Extent::Anywhere, false)?;
    let found = declared.captures_iter(query).map(|captures| captures.extract::<2>().1);
    Ok(found.map(|[name, kind]| Variable { name: name.to_owned(), is_string: kind == "String" }).collect())
}

struct DeGraphql {
    config: Config,
    host: Arc<dyn Host>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(DeGraphql { config, host: host.clone() }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for DeGraphql {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let answered = match self.config.call(request) {
            Ok(call) => self.host.http(call).await,
            Err(error) => Err(error.to_string()),
        };
        Flow::respond(match answered {
            Ok(answer) => self.config.reply(answer),
            Err(reason) => {
                tracing::warn!(service = %request.state.service, reason, "de-graphql got no answer");
                let message = format!("Service \"{}\" did not answer the GraphQL query.", request.state.service);
                Reply::new(502, "de-graphql.failed").text(message)
            }
        })
    }
}

impl Config {
    fn call(&self, request: &Request<'_>) -> Result<HttpCall, Box<dyn std::error::Error + Send + Sync>> {
        let mut head = RequestHeader::build("POST", self.endpoint.as_bytes(), Some(request.head.headers.len() + 1))?;
        for (name, value) in request.head.headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name)) {
            head.append_header(name, value)?;
        }
        head.insert_header(CONTENT_TYPE, "application/json")?;
        if !self.domain.is_empty() {
            head.insert_header(HOST, self.domain.as_str())?;
        }
        let service =
            Destination::Service { host: request.state.service.to_string(), port: request.state.service_port };
        Ok(HttpCall {
            to: service,
            head,
            body: self.body(request),
            timeout: self.timeout,
            is_question: false,
            may_cut: false,
        })
    }

    fn body(&self, request: &Request<'_>) -> Bytes {
        let mut values = Map::new();
        for variable in &self.variables {
            let given: Vec<String> = parts::query(request)
                .filter(|(name, _)| *name == variable.name)
                .map(|(_, value)| value.into_owned())
                .collect();
            if !given.is_empty() {
                values.insert(variable.name.clone(), variable.value(given.join(",")));
            }
        }
        let mut body = json!({"query": self.query});
        if !values.is_empty() {
            body["variables"] = Value::Object(values);
        }
        Bytes::from(body.to_string())
    }

    fn reply(&self, answer: HttpAnswer) -> Reply {
        let mut reply = Reply::new(answer.status(), "de-graphql");
        for (name, value) in answer.head.headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name)) {
            reply.headers.push((name.clone(), value.clone()));
        }
        reply.body = answer.body;
        reply
            .header(HeaderName::from_static("x-degraphql-endpoint"), &self.endpoint)
            .header(HeaderName::from_static("x-degraphql-timeout"), &self.timeout.as_millis().to_string())
            .header(HeaderName::from_static("x-degraphql-version"), "1.0.0")
    }
}

impl Variable {
    fn value(&self, text: String) -> Value {
        match serde_json::from_str(&text) {
            Ok(value @ (Value::Number(_) | Value::Bool(_))) if !self.is_string => value,
            _ => Value::String(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, answer, built_with, problem_fields};

    const QUERY: &str = "query ($owner: String!, $name: String!, $first: Int, $ratio:Float, $open : Boolean) {\n  repo(owner: $owner) { name }\n}";

    #[test]
    fn parameters_become_variables_of_their_type() {
        let host = FakeHost::answering(|_| {
            Ok(answer(200, &[("content-type", "application/json"), ("transfer-encoding", "chunked")], "{}"))
        });
        let plugin =
            built_with(&SPEC, &json!({"gql": QUERY, "domain": "api.github.com", "timeout": 700}), None, host.clone());
        let path = "/api?owner=a%22b&first=3&ratio=x&open=true&name=1&name=2&other=9";
        let mut exchange =
            Exchange::new("GET", path, &[("host", "own.com"), ("authorization", "token"), ("content-length", "0")]);
        exchange.state.service = Arc::from("github.dns");
        exchange.state.service_port = Some(443);
        let reply = exchange.run(&plugin).unwrap();
        assert_eq!((reply.status, reply.details.as_str(), reply.body.as_ref()), (200, "de-graphql", &b"{}"[..]));
        let names: Vec<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "x-degraphql-endpoint", "x-degraphql-timeout", "x-degraphql-version"]);

        let calls = host.calls.lock();
        let call = &calls[0];
        assert_eq!(call.to, Destination::Service { host: "github.dns".into(), port: Some(443) });
        assert_eq!(
            (call.head.method.as_str(), call.head.uri.path(), call.timeout.as_millis()),
            ("POST", "/graphql", 700)
        );
        assert_eq!(call.head.headers["host"], "api.github.com");
        assert_eq!(call.head.headers["authorization"], "token");
        assert!(!call.head.headers.contains_key("content-length"));
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        let variables = json!({"owner": "a\"b", "name": "1,2", "first": 3, "ratio": "x", "open": true});
        assert_eq!(body, json!({"query": QUERY, "variables": variables}));
    }

    #[test]
    fn a_query_without_parameters_has_no_variables_and_no_answer_is_a_502() {
        let host = FakeHost::answering(|_| Err("refused".into()));
        let plugin = built_with(&SPEC, &json!({"gql": "{ viewer { login } }", "endpoint": "/v2"}), None, host.clone());
        let reply = Exchange::new("GET", "/api", &[]).run(&plugin).unwrap();
        assert_eq!((reply.status, reply.details.as_str()), (502, "de-graphql.failed"));
        let calls = host.calls.lock();
        assert_eq!(
            (calls[0].head.uri.path(), calls[0].body.as_ref()),
            ("/v2", &br#"{"query":"{ viewer { login } }"}"#[..])
        );
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"endpoint": "graphql", "timeout": -1, "domain": "a\nb"});
        assert_eq!(problem_fields(&SPEC, &config), ["gql", "endpoint", "timeout", "domain"]);
    }
}
