//! `ext-auth`: an HTTP service decides on each request. AUTHN phase, priority 360.
//!
//! In mode `envoy` the service is asked with the request's own method and path below `path_prefix`; in mode `forward_auth`
//! with a fixed method and path, the request described in headers. Only status 200 lets pass
//! (Higress `plugins/wasm-go/extensions/ext-auth`).
//!
//! Differences from Higress: the path is not cleaned (`//`, `..`) before the service sees it, so that it judges what the upstream
//! gets; properties are those that exist here, others are a problem of the configuration.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use serde_json::Value;

use super::consumers;
use super::matching::{self, HeaderNames, MatchRules};
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Destination, Flow, Host, HttpAnswer, HttpCall, Plugin, Reply, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "ext-auth",
    phase: Phase::Authn,
    priority: 360,
    family: Family::Go,
    summary: "an HTTP service decides which requests pass",
    build,
    check: |scope| Config::read(scope).1,
};

const DETAILS: &str = "ext-auth.unauthorized";
const FAILURE_HEADER: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
/// Of one connection or one body, and so never copied to another.
const NOT_COPIED: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE];
const DEFAULT_MAX_BODY_BYTES: u64 = 10 * 1024 * 1024;

/// What one scope asks for.
struct Config {
    service: Service,
    matches: MatchRules,
    failure_mode_allow: bool,
    failure_mode_allow_header_add: bool,
    status_on_error: u16,
}

struct Service {
    endpoint: Endpoint,
    to: Destination,
    host: Option<String>,
    timeout: Duration,
    allowed_headers: Option<HeaderNames>,
    allowed_properties: Vec<(Property, HeaderName)>,
    headers_to_add: Vec<(HeaderName, HeaderValue)>,
    with_request_body: bool,
    max_request_body_bytes: usize,
    allowed_upstream_headers: Option<HeaderNames>,
    allowed_client_headers: Option<HeaderNames>,
}

enum Endpoint {
    Envoy { path_prefix: String },
    ForwardAuth { path: String, method: Method },
}

/// What the gateway knows of a request besides its head, by Envoy's names.
#[derive(Debug, Clone, Copy)]
enum Property {
    RouteName,
    ClusterName,
    SourceAddress,
    RequestId,
    Consumer,
}

const PROPERTIES: [(&str, Property); 7] = [
    ("route_name", Property::RouteName),
    ("xds.route_name", Property::RouteName),
    ("cluster_name", Property::ClusterName),
    ("xds.cluster_name", Property::ClusterName),
    ("source.address", Property::SourceAddress),
    ("request.id", Property::RequestId),
    ("mse_consumer", Property::Consumer),
];

impl Config {
    fn read(scope: &Scope<'_>) -> (Option<Config>, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let service = match fields.object("http_service") {
            Some(value) => {
                let mut service = Fields::of(value, "http_service");
                let read = read_service(&mut service);
                fields.problems.extend(service.finish());
                read
            }
            None => {
                fields.problem("http_service", "must be given");
                None
            }
        };
        let matches = MatchRules::read(&mut fields);
        let failure_mode_allow = fields.boolean("failure_mode_allow").unwrap_or(false);
        let failure_mode_allow_header_add = fields.boolean("failure_mode_allow_header_add").unwrap_or(false);
        let status = fields.count("status_on_error").filter(|status| *status != 0).unwrap_or(403);
        let status_on_error = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
        if status_on_error.is_none() {
            fields.problem("status_on_error", format!("{status} is no status of a final answer"));
        }
        let config = service.zip(status_on_error).map(|(service, status_on_error)| Config {
            service,
            matches,
            failure_mode_allow,
            failure_mode_allow_header_add,
            status_on_error,
        });
        (config, fields.finish())
    }
}

fn read_service(fields: &mut Fields<'_>) -> Option<Service> {
    let mode = fields.string("endpoint_mode").filter(|mode| !mode.is_empty()).unwrap_or("envoy");
    let timeout = fields.count("timeout").filter(|timeout| *timeout != 0).unwrap_or(1000);
    let endpoint = match fields.object("endpoint") {
        Some(value) => {
            let mut endpoint = Fields::of(value, &fields.at("endpoint"));
            let read = read_endpoint(&mut endpoint, mode);
            fields.problems.extend(endpoint.finish());
            read
        }
        None => {
            fields.problem("endpoint", "must be given");
            None
        }
    };
    if !["envoy", "forward_auth"].contains(&mode) {
        fields.problem("endpoint_mode", format!("\"{mode}\" is not one of envoy, forward_auth"));
    }
    let empty = Value::Object(serde_json::Map::new());
    let of_request = fields.object("authorization_request").unwrap_or(&empty);
    let mut request = Fields::of(of_request, &fields.at("authorization_request"));
    let of_response = fields.object("authorization_response").unwrap_or(&empty);
    let mut response = Fields::of(of_response, &fields.at("authorization_response"));
    let with_request_body = request.boolean("with_request_body").unwrap_or(false);
    let has_no_body = |method: &Method| [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    if let Some((Endpoint::ForwardAuth { method, .. }, ..)) = &endpoint
        && with_request_body
        && has_no_body(method)
    {
        request
            .problem("with_request_body", format!("is true, and the endpoint is asked with {method}, which has none"));
    }
    let max_bytes = request.count("max_request_body_bytes").filter(|max| *max != 0).unwrap_or(DEFAULT_MAX_BODY_BYTES);
    let allowed_headers = HeaderNames::read(&mut request, "allowed_headers");
    let allowed_properties = read_properties(&mut request);
    let headers_to_add = read_added(&mut request);
    let allowed_upstream_headers = HeaderNames::read(&mut response, "allowed_upstream_headers");
    let allowed_client_headers = HeaderNames::read(&mut response, "allowed_client_headers");
    fields.problems.extend(request.finish());
    fields.problems.extend(response.finish());
    let (endpoint, to, host) = endpoint?;
    Some(Service {
        endpoint,
        to,
        host,
        timeout: Duration::from_millis(timeout),
        allowed_headers,
        allowed_properties,
        headers_to_add,
        with_request_body,
        max_request_body_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        allowed_upstream_headers,
        allowed_client_headers,
    })
}

fn read_endpoint(fields: &mut Fields<'_>, mode: &str) -> Option<(Endpoint, Destination, Option<String>)> {
    let service = matching::service(fields, Some(80));
    let host = fields.string("service_host").filter(|host| !host.is_empty()).map(str::to_owned);
    let (path_prefix, path) = (fields.string("path_prefix"), fields.string("path"));
    let method = fields.string("request_method").unwrap_or("GET").to_ascii_uppercase();
    let endpoint = if mode == "forward_auth" {
        let Some(path) = path.map(str::to_owned) else {
            fields.problem("path", "must be given in mode forward_auth");
            return None;
        };
        let Ok(method) = Method::from_bytes(method.as_bytes()) else {
            fields.problem("request_method", format!("\"{method}\" is no method"));
            return None;
        };
        Endpoint::ForwardAuth { path, method }
    } else {
        let Some(path_prefix) = path_prefix else {
            fields.problem("path_prefix", "must be given in mode envoy");
            return None;
        };
        Endpoint::Envoy { path_prefix: path_prefix.trim_end_matches('/').to_owned() }
    };
    let (name, port) = service?;
    Some((endpoint, Destination::Service { host: name, port: Some(port) }, host))
}

fn read_properties(fields: &mut Fields<'_>) -> Vec<(Property, HeaderName)> {
    consumers::each(fields, "allowed_properties", |fields| {
        let path = fields.strings("path").unwrap_or_default().join(".");
        let header = consumers::required(fields, "header")?;
        let Ok(header) = HeaderName::try_from(header.as_str()) else {
            fields.problem("header", format!("\"{header}\" is no header name"));
            return None;
        };
        let Some((_, property)) = PROPERTIES.iter().find(|(name, _)| *name == path) else {
            let known: Vec<&str> = PROPERTIES.iter().map(|(name, _)| *name).collect();
            fields.problem("path", format!("\"{path}\" is no property known here; these are: {}", known.join(", ")));
            return None;
        };
        Some((*property, header))
    })
}

fn read_added(fields: &mut Fields<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut added = Vec::new();
    for (name, value) in fields.object("headers_to_add").and_then(Value::as_object).into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(text)) {
            (Ok(name), Ok(value)) => added.push((name, value)),
            _ => fields.problem(&format!("headers_to_add.{name}"), "is no header that can be sent"),
        }
    }
    added
}

struct ExtAuth {
    config: Config,
    host: Arc<dyn Host>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    match Config::read(scope) {
        (Some(config), problems) if is_usable(&problems) => {
            Ok(Some(Arc::new(ExtAuth { config, host: host.clone() }) as Arc<dyn Plugin>))
        }
        (_, problems) => Err(problems),
    }
}

#[async_trait]
impl Plugin for ExtAuth {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        if self.config.matches.leaves_out(request) || self.wants_body(request) {
            return Flow::Continue;
        }
        self.decide(request, Bytes::new()).await
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        self.config.service.with_request_body
            && parts::may_have_body(request)
            && !self.config.matches.leaves_out(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let body = request.state.body.clone().unwrap_or_default();
        if body.len() > self.config.service.max_request_body_bytes {
            return Flow::respond(consumers::told(413, "request_payload_too_large", "Payload Too Large"));
        }
        self.decide(request, body).await
    }
}

/// What is judged is what the upstream gets: of several values the service would see one and the upstream perhaps another.
fn only_first(request: &mut Request<'_>, name: &HeaderName) {
    let first = request.head.headers.get(name).cloned();
    if let Some(first) = first.filter(|_| request.head.headers.get_all(name).iter().nth(1).is_some()) {
        // A header before.
        let _ = request.head.insert_header(name, first);
    }
}

impl ExtAuth {
    async fn decide(&self, request: &mut Request<'_>, body: Bytes) -> Flow {
        let service = &self.config.service;
        only_first(request, &AUTHORIZATION);
        let answered = match service.head(request) {
            Ok(head) => {
                let (to, timeout) = (service.to.clone(), service.timeout);
                self.host.http(HttpCall { to, head, body, timeout, is_question: true, may_cut: true }).await
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok(answer) if answer.status() == 200 => {
                service.copy_upstream(&answer, request);
                Flow::Continue
            }
            Ok(answer) => self.refuse(request, answer.status(), Some(&answer)),
            Err(reason) => {
                tracing::warn!(%reason, route = %request.state.route, "The authorisation service did not answer");
                self.refuse(request, 500, None)
            }
        }
    }

    fn refuse(&self, request: &mut Request<'_>, status: u16, answer: Option<&HttpAnswer>) -> Flow {
        let is_failure = status >= 500;
        if is_failure && self.config.failure_mode_allow {
            if self.config.failure_mode_allow_header_add {
                // A valid name and value.
                let _ = request.head.insert_header(FAILURE_HEADER, "true");
            }
            return Flow::Continue;
        }
        let mut reply = Reply::new(if is_failure { self.config.status_on_error } else { status }, DETAILS);
        if let Some(answer) = answer {
            let allowed = &self.config.service.allowed_client_headers;
            let told = answer.head.headers.iter().filter(|(name, _)| {
                !NOT_COPIED.contains(name) && allowed.as_ref().is_none_or(|allowed| allowed.has(name.as_str()))
            });
            reply.headers = told.map(|(name, value)| (name.clone(), value.clone())).collect();
            reply.body = answer.body.clone();
        }
        Flow::respond(reply)
    }
}

impl Service {
    /// What the service is asked with.
    fn head(&self, request: &Request<'_>) -> Result<RequestHeader, String> {
        let failed = |error: Box<dyn std::error::Error>| format!("the question cannot be sent: {error}");
        let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let (method, asked) = match &self.endpoint {
            Endpoint::Envoy { path_prefix } => (&request.head.method, format!("{path_prefix}{path}")),
            Endpoint::ForwardAuth { path, method } => (method, path.clone()),
        };
        let mut head =
            RequestHeader::build(method.clone(), asked.as_bytes(), None).map_err(|error| failed(error.into()))?;
        let allowed = |name: &HeaderName| self.allowed_headers.as_ref().is_some_and(|names| names.has(name.as_str()));
        for (name, value) in &request.head.headers {
            if name == AUTHORIZATION || (allowed(name) && !NOT_COPIED.contains(name)) {
                head.append_header(name, value).map_err(|error| failed(error.into()))?;
            }
        }
        let mut set = |name: &HeaderName, value: &HeaderValue| {
            head.insert_header(name, value).map_err(|error| failed(error.into()))
        };
        for (property, header) in &self.allowed_properties {
            if let Ok(value) = HeaderValue::try_from(property.of(request)) {
                set(header, &value)?;
            }
        }
        for (name, value) in &self.headers_to_add {
            set(name, value)?;
        }
        if let Some(host) = &self.host {
            set(&HOST, &HeaderValue::try_from(host.as_str()).map_err(|error| failed(error.into()))?)?;
        }
        if matches!(self.endpoint, Endpoint::ForwardAuth { .. }) {
            let authority = request.header("host").unwrap_or(&request.state.host);
            for (name, value) in [
                ("x-original-method", request.head.method.as_str()),
                ("x-original-uri", path),
                ("x-forwarded-proto", if request.state.is_tls { "https" } else { "http" }),
                ("x-forwarded-method", request.head.method.as_str()),
                ("x-forwarded-uri", path),
                ("x-forwarded-host", authority),
            ] {
                let value = HeaderValue::try_from(value).map_err(|error| failed(error.into()))?;
                set(&HeaderName::from_static(name), &value)?;
            }
        }
        Ok(head)
    }

    /// Headers of a yes that the upstream is to see.
    fn copy_upstream(&self, answer: &HttpAnswer, request: &mut Request<'_>) {
        let Some(allowed) = &self.allowed_upstream_headers else { return };
        for name in answer.head.headers.keys() {
            if allowed.has(name.as_str())
                && !NOT_COPIED.contains(name)
                && let Some(value) = answer.head.headers.get(name)
            {
                // Name and value were a header before.
                let _ = request.head.insert_header(name, value);
            }
        }
    }
}

impl Property {
    fn of(self, request: &Request<'_>) -> String {
        let state = &request.state;
        match self {
            Property::RouteName => state.route.to_string(),
            Property::ClusterName => state.service.to_string(),
            Property::SourceAddress => state.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            Property::RequestId => state.id.to_string(),
            Property::Consumer => state.consumer.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
