//! `cors`: answers preflight requests and marks answers for scripts of other origins. AUTHZ phase, priority 340.
//!
//! A request is cross-origin if its Origin differs from its own scheme, host and port. A preflight is answered here: 204, with
//! the CORS headers if origin, method and headers are allowed, without them if not. Other cross-origin requests go on; their
//! answers lose whatever CORS headers the upstream set and get those of this configuration if the request is allowed.
//! Every answer carries `X-Cors-Version`, as in Higress.
//!
//! Differences from Higress: `*` together with `allow_credentials` is a configuration error (there it is logged and one of
//! the two is ignored).

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderName, HeaderValue, Method};
use pingora_http::ResponseHeader;
use regex::Regex;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::values::{self, Extent};
use crate::plugins::{Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "cors",
    phase: Phase::Authz,
    priority: 340,
    family: Family::Go,
    summary: "Cross-origin resource sharing: preflights and answer headers",
    build,
    check: |scope| Config::read(scope).1,
};

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-cors-version");
const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const DEFAULT_METHODS: &str = "GET,PUT,POST,DELETE,PATCH,OPTIONS";
const DEFAULT_HEADERS: &str = "DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Authorization";

struct Config {
    origins: Allowed,
    origin_patterns: Vec<Regex>,
    methods: Allowed,
    headers: Allowed,
    expose_headers: Vec<String>,
    credentials: bool,
    max_age: u64,
}

/// A list in which `*` is everything.
enum Allowed {
    Any,
    Listed(Vec<String>),
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let origins = texts(&mut fields, "allow_origins");
        let patterns = texts(&mut fields, "allow_origin_patterns");
        let credentials = fields.boolean("allow_credentials").unwrap_or(false);
        let mut origins = Allowed::of(origins.iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect());
        if credentials && matches!(origins, Allowed::Any) {
            let message = "is \"*\" while allow_credentials is true, which browsers refuse; use allow_origin_patterns";
            fields.problem("allow_origins", message);
        }
        if origins.is_empty() && patterns.is_empty() && !credentials {
            origins = Allowed::Any;
        }
        let mut origin_patterns = Vec::with_capacity(patterns.len());
        for (index, pattern) in patterns.iter().enumerate() {
            match origin_pattern(pattern) {
                Ok(regex) => origin_patterns.push(regex),
                Err(message) => fields.problem(&format!("allow_origin_patterns[{index}]"), message),
            }
        }
        let mut or_default = |key, default: &str| {
            let written = texts(&mut fields, key);
            Allowed::of(if written.is_empty() { default.split(',').map(str::to_owned).collect() } else { written })
        };
        let mut methods = or_default("allow_methods", DEFAULT_METHODS);
        let headers = or_default("allow_headers", DEFAULT_HEADERS);
        if let Allowed::Listed(methods) = &mut methods {
            methods.iter_mut().for_each(|method| method.make_ascii_uppercase());
        }
        let expose_headers = texts(&mut fields, "expose_headers");
        let max_age = fields.count("max_age").filter(|seconds| *seconds > 0).unwrap_or(86400);
        (Config { origins, origin_patterns, methods, headers, expose_headers, credentials, max_age }, fields.finish())
    }
}

/// Trimmed elements that are not empty.
fn texts(fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
    let written = fields.strings(key).unwrap_or_default();
    written.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// `https://*.example.com`, with `:[80,443]` or `:[*]` for ports.
fn origin_pattern(pattern: &str) -> Result<Regex, String> {
    let lower = pattern.trim_end_matches('/').to_ascii_lowercase();
    let (origin, ports) = match lower.strip_suffix(']').and_then(|rest| rest.rsplit_once(":[")) {
        Some((origin, "*")) => (origin, r"(?::\d+)?".to_owned()),
        Some((origin, ports)) if ports.split(',').all(|port| port.parse::<u16>().is_ok()) => {
            (origin, format!(":(?:{})", ports.replace(',', "|")))
        }
        _ => (lower.as_str(), String::new()),
    };
    let literal: Vec<String> = origin.split('*').map(regex::escape).collect();
    values::pattern(&format!("{}{ports}", literal.join(".*")), Extent::Whole, false)
}

impl Allowed {
    fn of(list: Vec<String>) -> Allowed {
        if list.iter().any(|element| element == "*") { Allowed::Any } else { Allowed::Listed(list) }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Allowed::Listed(list) if list.is_empty())
    }

    fn has(&self, element: &str) -> bool {
        match self {
            Allowed::Any => true,
            Allowed::Listed(list) => list.iter().any(|own| own.eq_ignore_ascii_case(element)),
        }
    }

    /// What is told: the list, or the asked for where everything is allowed.
    fn told(&self, asked: &str) -> String {
        match self {
            Allowed::Any => asked.to_owned(),
            Allowed::Listed(list) => list.join(","),
        }
    }
}

/// What the answer of an allowed cross-origin request says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Granted {
    origin: String,
    /// Methods and headers, of a preflight only.
    preflight: Option<(String, String)>,
}

struct Cors {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(Cors { config }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for Cors {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        request.state.notes.remove::<Granted>();
        let origin = request.header("origin").map(|origin| origin.trim().trim_end_matches('/').to_owned());
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else { return Flow::Continue };
        if is_same_origin(request, &origin) {
            return Flow::Continue;
        }
        let is_preflight =
            request.head.method == Method::OPTIONS && asked(request, "access-control-request-method").is_some();
        let granted = self.config.grant(request, origin, is_preflight);
        let is_granted = granted.is_some();
        if let Some(granted) = granted {
            request.state.notes.insert(granted);
        }
        match (is_preflight, is_granted) {
            (false, _) => Flow::Continue,
            (true, true) => Flow::respond(Reply::new(204, "cors.preflight")),
            (true, false) => Flow::respond(Reply::new(204, "cors.preflight.invalid")),
        }
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ] {
            response.remove_header(&name);
        }
        // The names are header names already; insertion cannot fail for them.
        let _ = response.insert_header(VERSION_HEADER, VERSION);
        let Some(granted) = request.state.notes.get::<Granted>() else { return };
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                let _ = response.insert_header(name, value);
            }
        };
        set(ACCESS_CONTROL_ALLOW_ORIGIN, &granted.origin);
        if let Some((methods, headers)) = &granted.preflight {
            set(ACCESS_CONTROL_ALLOW_METHODS, methods);
            if !headers.is_empty() {
                set(ACCESS_CONTROL_ALLOW_HEADERS, headers);
            }
            set(ACCESS_CONTROL_MAX_AGE, &self.config.max_age.to_string());
        }
        if !self.config.expose_headers.is_empty() {
            set(ACCESS_CONTROL_EXPOSE_HEADERS, &self.config.expose_headers.join(","));
        }
        if self.config.credentials {
            set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        vary_by_origin(response);
    }
}

impl Config {
    /// What is granted to this cross-origin request; `None` if it is not allowed.
    fn grant(&self, request: &Request<'_>, origin: String, is_preflight: bool) -> Option<Granted> {
        let lower = origin.to_ascii_lowercase();
        if !self.origins.has(&origin) && !self.origin_patterns.iter().any(|pattern| pattern.is_match(&lower)) {
            return None;
        }
        if !is_preflight {
            return self.methods.has(request.head.method.as_str()).then_some(Granted { origin, preflight: None });
        }
        let method = asked(request, "access-control-request-method")?;
        let wanted = asked(request, "access-control-request-headers").unwrap_or_default();
        let wanted: Vec<&str> = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let is_allowed = self.methods.has(method) && wanted.iter().all(|name| self.headers.has(name));
        let preflight = Some((self.methods.told(method), self.headers.told(&wanted.join(","))));
        is_allowed.then_some(Granted { origin, preflight })
    }
}

fn asked<'a>(request: &'a Request<'_>, name: &str) -> Option<&'a str> {
    request.header(name).map(str::trim).filter(|value| !value.is_empty())
}

fn is_same_origin(request: &Request<'_>, origin: &str) -> bool {
    let scheme = if request.state.is_tls { "https" } else { "http" };
    let own = request.header("host").unwrap_or_default();
    let Some((origin_scheme, authority)) = origin.split_once("://") else { return false };
    scheme.eq_ignore_ascii_case(origin_scheme) && host_and_port(own, scheme) == host_and_port(authority, scheme)
}

/// Lower-case host, and the port the scheme means if none is written.
fn host_and_port(authority: &str, scheme: &str) -> (String, String) {
    let default = if scheme == "https" { "443" } else { "80" };
    // A colon inside brackets belongs to an IPv6 address.
    match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (host.to_ascii_lowercase(), port.to_owned()),
        None => (authority.to_ascii_lowercase(), default.to_owned()),
    }
}

/// Caches must not give this answer to another origin.
fn vary_by_origin(response: &mut ResponseHeader) {
    let said = response.headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let is_said = said
        .flat_map(|value| value.split(','))
        .any(|name| ["*", "origin"].contains(&name.trim().to_ascii_lowercase().as_str()));
    if !is_said {
        let _ = response.append_header(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests;
