//! What a route does besides leading to its destinations: canaries, fallback, mirror, header control, admission. Plain data
//! like the rest of the model.

use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Destination, DubboService, HeaderMatch, ObjectRef, PathRewrite, Protocol, StringMatch, as_shared, is_default,
};
use crate::base::secret::Secret;

/// Another Ingress that takes part of a route's requests. Everything but name, destinations and header control is that of
/// the route.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Canary {
    /// What plugin rules match for these requests.
    pub name: String,
    pub origin: ObjectRef,
    pub takes: CanaryTakes,
    pub destinations: Vec<Destination>,
    pub header_control: HeaderControl,
    /// Instead of the route's own.
    #[serde(serialize_with = "as_shared", skip_serializing_if = "Option::is_none")]
    pub rpc: Option<Arc<DubboService>>,
}

/// Which requests a canary takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryTakes {
    Header(HeaderMatch),
    /// Those with the cookie of this name set to `always`.
    Cookie(String),
    /// `weight` of `total` requests; `total` is not zero.
    Share {
        weight: u32,
        total: u32,
    },
}

/// A service that answers when the chosen one has no endpoint, or answered with one of some statuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fallback {
    pub destination: Destination,
    /// `namespace/name` as Higress tells the service.
    pub service: String,
    /// Statuses for which the service is asked instead, at the path `/`.
    pub statuses: Vec<u16>,
}

/// Answers with an error are not given out: the request as the client sent it is matched again, with more headers, so that
/// another route can take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reentry {
    /// First digits of the statuses.
    pub classes: Vec<u16>,
    /// How often one request may be matched again.
    pub limit: u32,
    /// Set in the request.
    pub request_headers: Vec<(String, String)>,
    /// Set in the answer that the client gets.
    pub response_headers: Vec<(String, String)>,
}

/// A service that gets a copy of requests; its answers are not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mirror {
    pub destination: Destination,
    /// Of a million requests.
    pub per_million: u32,
}

/// Changes of headers, each in the order remove, update, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderControl {
    /// On the way to the upstream, after all plugins.
    #[serde(skip_serializing_if = "is_default")]
    pub request: HeaderOperations,
    /// Of answers of the upstream, before all plugins.
    #[serde(skip_serializing_if = "is_default")]
    pub response: HeaderOperations,
}

/// Names are header names and values header values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderOperations {
    pub remove: Vec<String>,
    pub update: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
}

/// What a route asks of a request before it goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Admission {
    /// Networks of clients that may use the route; `None`: all.
    pub allowed_sources: Option<Vec<IpNet>>,
    /// Networks of clients that may not.
    pub denied_sources: Vec<IpNet>,
    pub cors: Option<Cors>,
    pub rate_limit: Option<RateLimit>,
    /// Requests without TLS are sent to `https`.
    pub https_only: bool,
    pub redirect: Option<Redirect>,
}

/// Cross-origin requests that browsers are told to allow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cors {
    /// Any of them admits an origin.
    pub origins: Vec<StringMatch>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
    pub credentials: bool,
    pub max_age_secs: u64,
}

/// A token bucket: `tokens` more per period, at most `burst` at once. Neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct RateLimit {
    pub tokens: NonZeroU32,
    pub period_secs: u32,
    pub burst: NonZeroU32,
}

/// Where requests are sent instead. What is `None` stays as it is in the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Redirect {
    pub scheme: Option<String>,
    /// With its port, unless `port` has one.
    pub authority: Option<String>,
    pub port: RedirectPort,
    /// A full path may have a query, which then replaces that of the request.
    pub path: Option<PathRewrite>,
    pub status: u16,
}

impl Redirect {
    /// Sends requests to another path of the same place.
    pub fn is_app_root(&self) -> bool {
        self.scheme.is_none() && self.authority.is_none() && self.port == RedirectPort::Kept
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPort {
    /// As the authority has it.
    Kept,
    /// None: that of the scheme.
    OfScheme,
    Number(u16),
}

/// How a route speaks to a service where that differs from what the service says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UpstreamPolicy {
    pub protocol: Option<Protocol>,
    /// TLS, whatever the service says.
    pub tls: Option<TlsPolicy>,
    /// How, if it is the service that wants TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_of_service: Option<TlsPolicy>,
    /// `None`: as the service says.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balance: Option<LoadBalance>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TlsPolicy {
    /// `None`: as the service says.
    pub sni: Option<String>,
    /// `None`: as the process is set.
    pub verify: Option<bool>,
    pub identity: Option<Identity>,
}

/// By what the gateway and the upstream know each other: a certificate to show, authorities to believe, or both. The PEM text
/// is parsed where it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    pub secret: ObjectRef,
    #[serde(flatten)]
    pub shown: Option<Shown>,
    /// PEM certificates of the authorities that may have signed the other side's.
    pub ca: Option<String>,
}

/// The certificate by which the gateway shows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// PEM chain, leaf first.
    pub chain: String,
    /// PEM private key.
    pub key: Secret,
}

/// Which endpoint of a service takes a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalance {
    #[default]
    RoundRobin,
    LeastRequest,
    /// Least request, weighed with how long answers took of late.
    LeastLatency,
    Random,
    Hash(HashKey),
    /// In turn, but what belongs to a session of MCP goes where the session is. The query parameter that names it.
    McpSession(String),
}

/// What requests that belong together have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// Path and query.
    Uri,
    Host,
    SourceAddress,
    /// Lower case.
    Header(String),
    Query(String),
    /// Made by the gateway where the client sends none; without an age it ends with the browser's session.
    Cookie {
        name: String,
        path: String,
        max_age_secs: Option<u64>,
    },
}

/// How clients may connect to the hosts of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TlsOptions {
    /// Clients must show a certificate of these authorities.
    pub client_ca: Option<ClientCa>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    /// Suites of TLS 1.2; empty: all there are.
    pub ciphers: Vec<CipherSuite>,
    /// What is asked for cannot be had: nobody gets a connection.
    #[serde(skip_serializing_if = "is_default")]
    pub is_closed: bool,
}

impl TlsOptions {
    /// Adds what another object asks of the clients of the same host. `false` if none could meet both, which closes it.
    pub fn tighten(&mut self, other: &TlsOptions) -> bool {
        let min = self.min_version.max(other.min_version);
        let max = self.max_version.into_iter().chain(other.max_version).min();
        let is_same_ca = match (&self.client_ca, &other.client_ca) {
            (Some(own), Some(other)) => own.pem == other.pem,
            _ => true,
        };
        let common: Vec<CipherSuite> = match (self.ciphers.as_slice(), other.ciphers.as_slice()) {
            ([], either) | (either, []) => either.to_vec(),
            (own, other) => own.iter().filter(|suite| other.contains(suite)).copied().collect(),
        };
        let have_common = !common.is_empty() || (self.ciphers.is_empty() && other.ciphers.is_empty());
        let can_be_met = is_same_ca && have_common && min.zip(max).is_none_or(|(min, max)| min <= max);
        self.client_ca = self.client_ca.take().or_else(|| other.client_ca.clone());
        (self.min_version, self.max_version, self.ciphers) = (min, max, common);
        self.is_closed |= other.is_closed || !can_be_met;
        can_be_met
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientCa {
    pub secret: ObjectRef,
    /// Key in the Secret.
    pub key: &'static str,
    pub pem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// The suites of TLS 1.2 that are spoken, by the names OpenSSL and Higress use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CipherSuite {
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaChacha20,
    EcdheRsaAes128Gcm,
    EcdheRsaAes256Gcm,
    EcdheRsaChacha20,
}

impl CipherSuite {
    pub fn by_name(name: &str) -> Option<CipherSuite> {
        Some(match name {
            "ECDHE-ECDSA-AES128-GCM-SHA256" => CipherSuite::EcdheEcdsaAes128Gcm,
            "ECDHE-ECDSA-AES256-GCM-SHA384" => CipherSuite::EcdheEcdsaAes256Gcm,
            "ECDHE-ECDSA-CHACHA20-POLY1305" => CipherSuite::EcdheEcdsaChacha20,
            "ECDHE-RSA-AES128-GCM-SHA256" => CipherSuite::EcdheRsaAes128Gcm,
            "ECDHE-RSA-AES256-GCM-SHA384" => CipherSuite::EcdheRsaAes256Gcm,
            "ECDHE-RSA-CHACHA20-POLY1305" => CipherSuite::EcdheRsaChacha20,
            _ => return None,
        })
    }
}
