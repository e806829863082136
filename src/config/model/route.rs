//! Routes: which requests they take, where they send them, and how often.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{
    Admission, Canary, DubboService, Fallback, HeaderControl, Mirror, ObjectRef, Pattern, Redirect, Reentry,
    UpstreamPolicy, as_seconds, as_shared, is_default,
};

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
    /// destination whose service is absent from [`Gateway::services`](super::Gateway::services) answers 503, too.
    pub destinations: Vec<Destination>,
    /// Parts of the traffic that go elsewhere; the first that takes a request wins, shares of all requests come last.
    pub canaries: Vec<Canary>,
    pub fallback: Option<Fallback>,
    pub mirror: Option<Mirror>,
    #[serde(serialize_with = "as_shared", skip_serializing_if = "Option::is_none")]
    pub reentry: Option<Arc<Reentry>>,
    /// Whole exchange with the upstream; `None` means [`GatewaySettings::route_timeout`](super::GatewaySettings::route_timeout).
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

    /// What plugin rules know it and its canaries by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.canaries.iter().map(|canary| canary.name.as_str()))
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

/// Where a route sends its share of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// Key in [`Gateway::services`](super::Gateway::services).
    pub service: String,
    /// `None` only if the service is missing or has several ports and the configuration names none.
    pub port: Option<u16>,
    /// Relative to the sum over the route. Zero gets no traffic.
    pub weight: u32,
    /// `Some` when the destination was written with `http://` or `https://`: overrides [`Service::tls`](super::Service::tls).
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
