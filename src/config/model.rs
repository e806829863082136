//! The checked model: what the configuration folder means, as plain data that is valid by construction.
//!
//! [`compile`](crate::config::compile()) makes it, `server` turns it into the running snapshot, plugins and the proxy read
//! parts of it. It holds no live objects (no sockets, no caches) and does no IO. Regular expressions are already compiled
//! and addresses already parsed, so nobody downstream meets a malformed value.

mod https;
mod mcp;
mod policy;
mod registry;
mod rpc;
mod service;
mod telemetry;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::re2::translated;
use crate::base::secret::Secret;

pub use https::*;
pub use mcp::*;
pub use policy::*;
pub use registry::*;
pub use rpc::*;
pub use service::*;
pub use telemetry::*;
pub use traffic::*;

/// Everything the gateway serves: one whole, consistent configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Gateway {
    /// In order of creation (oldest object first); duplicates are gone. The router sorts per host, and uses the position
    /// here as the last tie-breaker.
    pub routes: Vec<Route>,
    /// Keyed by [`Service::host`].
    pub services: BTreeMap<String, Service>,
    /// To be asked for services while the gateway runs; their answers come back as services of the next compilation.
    pub registries: Vec<Registry>,
    /// In chain order: phase, then priority (higher first), then name, then namespace.
    pub plugins: Vec<PluginUse>,
    /// At most one certificate names a given host.
    pub certificates: Vec<Certificate>,
    /// Hosts, as in [`Certificate::hosts`], whose TLS connections go to a service as they are.
    #[serde(skip_serializing_if = "is_default")]
    pub passthrough: BTreeMap<String, Destination>,
    /// `None`: no certificates are ordered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<AutomaticHttps>,
    pub settings: GatewaySettings,
}

/// Where a piece of the model came from; what messages and the admin console name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// For example `Ingress`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub file: PathBuf,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One way in: a host and path with conditions, leading to weighted destinations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// What plugin rules match: the Ingress name in the system namespace, else `<namespace>/<name>`. All rules and paths
    /// of one Ingress share it.
    pub name: String,
    pub origin: ObjectRef,
    pub host: HostMatch,
    pub path: PathMatch,
    /// Exact and prefix comparison of the path ignores ASCII case; as in Envoy, regular expressions do not.
    pub ignore_path_case: bool,
    /// Upper case; empty means any.
    pub methods: Vec<String>,
    /// All must hold.
    pub headers: Vec<HeaderMatch>,
    /// All must hold.
    pub queries: Vec<QueryMatch>,
    /// Made from `spec.defaultBackend`: comes after every other route of its host.
    pub is_default_backend: bool,
    /// Empty only if every request is redirected, or refused with 503 because what is written about the route has a fault. A
    /// destination whose service is absent from [`Gateway::services`] answers 503, too.
    pub destinations: Vec<Destination>,
    /// Parts of the traffic that go elsewhere; the first that takes a request wins, shares of all requests come last.
    pub canaries: Vec<Canary>,
    pub fallback: Option<Fallback>,
    pub mirror: Option<Mirror>,
    #[serde(serialize_with = "as_shared", skip_serializing_if = "Option::is_none")]
    pub reentry: Option<Arc<Reentry>>,
    /// Whole exchange with the upstream; `None` means [`GatewaySettings::route_timeout`].
    #[serde(serialize_with = "as_seconds")]
    pub timeout: Option<Duration>,
    pub retry: RetryPolicy,
    pub rewrite: Rewrite,
    #[serde(skip_serializing_if = "is_default")]
    pub header_control: HeaderControl,
    #[serde(skip_serializing_if = "is_default")]
    pub admission: Admission,
    /// Requests become calls of this Dubbo service at the destination.
    #[serde(serialize_with = "as_shared")]
    pub rpc: Option<Arc<DubboService>>,
}

impl Route {
    /// Whether what is written about it has a fault, so that it refuses what it takes.
    pub fn is_closed(&self) -> bool {
        self.destinations.is_empty() && self.admission.redirect.is_none()
    }

    /// The redirect of requests for exactly `/`, which comes before every other route of its host.
    pub fn is_app_root(&self) -> bool {
        self.admission.redirect.as_ref().is_some_and(Redirect::is_app_root)
    }
}

/// Which `:authority` (without port, lower case) a route takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostMatch {
    Any,
    /// Lower case.
    Exact(String),
    /// The part after `*`, with its dot, lower case: `*.a.com` is `.a.com` and does not match `a.com`.
    Suffix(String),
}

/// Which path (without query) a route takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    Exact(String),
    /// Whole path elements, without trailing slash: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`. The root is `/`.
    Prefix(String),
    /// Must match the whole path.
    Regex(Pattern),
}

/// A condition on a request header. Pseudo headers keep their colon (`:method`, `:authority`, …).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    pub value: StringMatch,
}

/// A condition on a query parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryMatch {
    pub name: String,
    pub value: StringMatch,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    /// Must match the whole value.
    Regex(Pattern),
}

impl StringMatch {
    pub fn is_match(&self, value: &str) -> bool {
        match self {
            Self::Exact(expected) => value == expected,
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

/// A compiled regular expression together with the text it was written as. Cheap to clone.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: regex::Regex,
}

impl Pattern {
    /// An expression that has to match the whole text, as Envoy's matchers do.
    pub fn full(source: &str) -> Result<Self, regex::Error> {
        Self::build(source, &format!(r"\A(?:{source})\z"), false)
    }

    /// An expression that may match anywhere, for substitution.
    pub fn search(source: &str, ignore_case: bool) -> Result<Self, regex::Error> {
        Self::build(source, source, ignore_case)
    }

    fn build(source: &str, expression: &str, ignore_case: bool) -> Result<Self, regex::Error> {
        // A route table may hold thousands of expressions; the default of 10 MiB each would let one folder take the machine.
        let regex = regex::RegexBuilder::new(&translated(expression))
            .case_insensitive(ignore_case)
            .size_limit(1024 * 1024)
            .build()?;
        Ok(Self { source: source.into(), regex })
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn regex(&self) -> &regex::Regex {
        &self.regex
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.regex.as_str() == other.regex.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// Where a route sends its share of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// Key in [`Gateway::services`].
    pub service: String,
    /// `None` only if the service is missing or has several ports and the configuration names none.
    pub port: Option<u16>,
    /// Relative to the sum over the route. Zero gets no traffic.
    pub weight: u32,
    /// `Some` when the destination was written with `http://` or `https://`: overrides [`Service::tls`].
    pub tls: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub policy: UpstreamPolicy,
}

/// When and how often a failed attempt is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Repetitions after the first attempt; zero switches retries off.
    pub attempts: u32,
    /// Limit of one attempt.
    #[serde(serialize_with = "as_seconds")]
    pub per_try_timeout: Option<Duration>,
    pub on: Vec<RetryOn>,
    /// Repeat requests whose method is not idempotent (POST, PATCH, LOCK) even after the upstream may have begun to work.
    /// [`RetryOn::ConnectFailure`] and [`RetryOn::RefusedStream`] never need this.
    pub non_idempotent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection, or the connection was refused or timed out.
    ConnectFailure,
    /// The upstream refused the HTTP/2 stream or closed a reused connection before any response byte.
    RefusedStream,
    /// Any 5xx response, a reset, or a timeout before the response headers.
    ServerError,
    /// This response status.
    Status(u16),
}

impl Default for RetryPolicy {
    /// What a route without retry annotations gets from Istio: two more attempts where no harm is possible.
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Status(503)],
            non_idempotent: false,
        }
    }
}

/// What changes in the request line on the way upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rewrite {
    /// The `:authority` the upstream sees.
    pub host: Option<String>,
    pub path: Option<PathRewrite>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// Replace the path, keep the query.
    Full(String),
    /// Replace the leading `from` by `to`, with exactly one slash between `to` and a rest.
    Prefix { from: String, to: String, ignore_case: bool },
    /// Replace every match of the pattern; `substitution` uses the syntax of the `regex` crate (`${1}`).
    Regex { pattern: Pattern, substitution: String },
}

/// One WasmPlugin object: which plugin runs, where in the chain, with which configuration for whom.
///
/// Configurations hold tokens and passwords. `Debug` leaves them out; what is serialised must not reach people.
#[derive(Clone, PartialEq, Serialize)]
pub struct PluginUse {
    pub object: ObjectRef,
    /// Name of the built-in, for example `key-auth`.
    pub plugin: String,
    pub url: Option<String>,
    pub phase: Phase,
    pub priority: i32,
    pub fail_strategy: FailStrategy,
    /// Configuration where no rule matches; `None` makes the plugin inert there.
    pub global: Option<serde_json::Value>,
    /// Tried in order, first match wins.
    pub rules: Vec<PluginRule>,
}

impl fmt::Debug for PluginUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginUse")
            .field("object", &self.object)
            .field("plugin", &self.plugin)
            .field("phase", &self.phase)
            .field("priority", &self.priority)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// A configuration for some routes, domains or services. Which of the keys counts when several are set depends on the
/// plugin's family, so all are kept.
#[derive(Clone, PartialEq, Serialize)]
pub struct PluginRule {
    pub routes: Vec<String>,
    pub route_prefixes: Vec<String>,
    pub domains: Vec<String>,
    pub services: Vec<String>,
    pub config: serde_json::Value,
}

impl fmt::Debug for PluginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginRule")
            .field("routes", &self.routes)
            .field("route_prefixes", &self.route_prefixes)
            .field("domains", &self.domains)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

/// Position in the chain, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    Authn,
    Authz,
    Stats,
    Unspecified,
}

/// What happens to requests when the plugin cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailStrategy {
    FailClose,
    FailOpen,
}

/// A server certificate and the hosts it is presented for. The PEM text is not parsed here: a chain and key that do not
/// fit are found when the TLS listener loads them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Certificate {
    /// Lower case; `*.a.com` for wildcards, `*` for any name.
    pub hosts: Vec<String>,
    pub secret: ObjectRef,
    /// PEM chain, leaf first.
    pub chain: String,
    /// PEM private key.
    pub key: Secret,
    #[serde(skip_serializing_if = "is_default")]
    pub options: TlsOptions,
}

/// What the ConfigMap `higress-config` says about all traffic. Where a field is `None`, `config.toml` decides; an idle
/// timeout of zero means no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GatewaySettings {
    /// Client connection or stream without activity.
    #[serde(serialize_with = "as_seconds")]
    pub downstream_idle_timeout: Option<Duration>,
    /// Bytes of request line and headers.
    pub max_request_header_bytes: Option<usize>,
    pub http2: Http2Settings,
    /// For routes that set none. `None`: no limit.
    #[serde(serialize_with = "as_seconds")]
    pub route_timeout: Option<Duration>,
    /// Pooled upstream connection without activity.
    #[serde(serialize_with = "as_seconds")]
    pub upstream_idle_timeout: Option<Duration>,
    /// Proxies in front of this gateway that tell the truth about who asked them, counted from the gateway.
    #[serde(skip_serializing_if = "is_default")]
    pub trusted_proxies: usize,
    /// Send `x-real-ip` upstream.
    pub add_x_real_ip: bool,
    /// Keep `x-envoy-*` headers out of requests and responses.
    pub disable_x_envoy_headers: bool,
    /// Compression of answers; `None`: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gzip: Option<Gzip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// What a line of the access log looks like; `None`: as this gateway has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<LogFormat>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mcp_servers: Vec<McpServer>,
}

/// Which answers are compressed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gzip {
    /// Answers whose announced length is below this stay as they are.
    pub min_content_length: u64,
    /// Media types, lower case.
    pub content_types: Vec<String>,
    /// Leave answers with an `etag` alone; otherwise compression drops a strong tag, which names other bytes.
    pub disable_on_etag_header: bool,
    /// 1 (fast) to 9 (small).
    pub level: u32,
    /// Base-two logarithm of the window, 9 to 15.
    pub window_bits: u8,
    /// Bytes of room made at a time for what comes out.
    pub chunk_size: usize,
}

impl Default for Gzip {
    /// Higress' default object.
    fn default() -> Self {
        let types = [
            "text/html",
            "text/css",
            "text/plain",
            "text/xml",
            "application/json",
            "application/javascript",
            "application/xhtml+xml",
            "image/svg+xml",
        ];
        Self {
            min_content_length: 1024,
            content_types: types.map(str::to_owned).to_vec(),
            disable_on_etag_header: true,
            level: 9,
            window_bits: 12,
            chunk_size: 4096,
        }
    }
}

#[expect(clippy::ref_option, reason = "the signature serde asks for")]
fn as_shared<T: Serialize, S: Serializer>(shared: &Option<Arc<T>>, serializer: S) -> Result<S::Ok, S::Error> {
    shared.as_deref().serialize(serializer)
}

/// What most objects leave at its default is not shown.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Durations are shown in seconds.
#[expect(clippy::ref_option, reason = "the signature serde asks for")]
fn as_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// HTTP/2 towards clients. Windows in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Http2Settings {
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self { max_concurrent_streams: 100, initial_stream_window: 65_535, initial_connection_window: 1_048_576 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_patterns_match_the_whole_text() {
        let pattern = Pattern::full("/a|/b.*").unwrap();
        for (text, expected) in [("/a", true), ("/ax", false), ("x/a", false), ("/bx", true), ("/a\n", false)] {
            assert_eq!(pattern.is_match(text), expected, "{text:?}");
        }
        assert_eq!(pattern.as_str(), "/a|/b.*");
        assert_ne!(pattern, Pattern::search("/a|/b.*", false).unwrap());
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(Pattern::full(r"(\w{100}){100}").is_err());
    }
}
