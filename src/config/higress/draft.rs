//! What an Ingress or an object of the Gateway API contributes before its names are linked to services.

use crate::config::annotations::Target;
use crate::config::model::{CanaryTakes, Certificate, HostMatch, Route, TlsOptions, UpstreamPolicy};

/// What one Ingress contributes. Destinations are linked to services later.
#[derive(Debug, Default)]
pub(in crate::config) struct Ingress {
    pub routes: Vec<Draft>,
    /// The routes are parts of those of other Ingresses.
    pub canary: Option<CanaryTakes>,
    /// At most one host each.
    pub certificates: Vec<Certificate>,
    /// What is asked of the clients of hosts whose certificate another object brings.
    pub demands: Vec<(String, TlsOptions)>,
    /// Hosts whose TLS goes through to the service of their root path.
    pub passthrough: Vec<HostMatch>,
}

/// A route whose destinations still carry names.
#[derive(Debug)]
pub(in crate::config) struct Draft {
    /// Without destinations.
    pub route: Route,
    pub state: RouteState,
    /// Dotted path of the backend, for messages.
    pub field: String,
    pub targets: Vec<TargetRef>,
    /// Key of the annotation and name of the Http2Rpc the route is bound to.
    pub rpc: Option<(String, String)>,
    /// For all targets.
    pub policy: UpstreamPolicy,
    pub fallback: Option<FallbackDraft>,
    pub mirror: Option<SideTarget>,
}

/// What faults leave of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RouteState {
    Whole,
    /// It takes its requests and refuses them, so that no broader route serves them.
    Closed,
    /// Which requests it was meant to take is not known. It takes none.
    Unplaced,
}

/// A service beside those of the backend.
#[derive(Debug, Clone)]
pub(in crate::config) struct SideTarget {
    /// Dotted path of the annotation.
    pub field: String,
    pub target: TargetRef,
    /// Of a million requests.
    pub per_million: u32,
}

#[derive(Debug, Clone)]
pub(in crate::config) struct FallbackDraft {
    pub target: SideTarget,
    /// `namespace/name`.
    pub service: String,
    pub statuses: Vec<u16>,
}

/// A service as the Ingress names it.
#[derive(Debug, Clone)]
pub(in crate::config) enum TargetRef {
    Registry(Target),
    Backend { host: String, port: BackendPort },
}

#[derive(Debug, Clone)]
pub(in crate::config) enum BackendPort {
    Number(u16),
    Name(String),
    /// Whatever port the service has first.
    First,
}

impl TargetRef {
    /// Key of the service.
    pub fn host(&self) -> &str {
        match self {
            Self::Registry(target) => &target.host,
            Self::Backend { host, .. } => host,
        }
    }

    /// `None` if no port is written, or a name instead.
    pub fn port_number(&self) -> Option<u16> {
        match self {
            Self::Registry(target) => target.port,
            Self::Backend { port: BackendPort::Number(number), .. } => Some(*number),
            Self::Backend { port: BackendPort::Name(_) | BackendPort::First, .. } => None,
        }
    }
}
