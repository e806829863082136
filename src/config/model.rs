//! The checked model: what the configuration folder means, as plain data that is valid by construction.
//!
//! [`compile`](crate::config::compile()) makes it, `server` turns it into the running snapshot, plugins and the proxy read
//! parts of it. It holds no live objects (no sockets, no caches) and does no IO. Regular expressions are already compiled
//! and addresses already parsed, so nobody downstream meets a malformed value.

mod https;
mod mcp;
mod pattern;
mod plugin;
mod policy;
mod registry;
mod route;
mod rpc;
mod service;
mod settings;
mod telemetry;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::base::secret::Secret;

pub use https::*;
pub use mcp::*;
pub use pattern::*;
pub use plugin::*;
pub use policy::*;
pub use registry::*;
pub use route::*;
pub use rpc::*;
pub use service::*;
pub use settings::*;
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
