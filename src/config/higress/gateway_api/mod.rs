//! Gateway API (`gateway.networking.k8s.io`): GatewayClass, Gateway, HTTPRoute, GRPCRoute, ReferenceGrant. They become the
//! same routes and certificates as Ingresses do.
//!
//! - The process has one port for HTTP and one for HTTPS, so a listener's protocol counts and its `port` only where a
//!   `parentRefs` entry names it. A route of HTTP listeners only is not there for requests over TLS, and the other way round.
//! - A backend that may not be used or does not exist answers 503, as everywhere in this gateway; the specification asks for
//!   500. Status conditions are not written: the folder belongs to its owner. What does not work is a warning instead.

mod filters;
mod gateway;
mod grants;
mod listener_tls;
mod matches;
mod route;

use super::draft::Draft;
use super::secret::Secrets;
use crate::config::model::{Certificate, ObjectRef};
use crate::config::problem::Report;
use crate::config::source::RawObject;

/// Group of all these objects but services.
const GROUP: &str = "gateway.networking.k8s.io";

/// What the objects contribute, routes in order of creation.
#[derive(Debug, Default)]
pub(in crate::config) struct GatewayApi {
    pub routes: Vec<(ObjectRef, Vec<Draft>)>,
    /// By Gateway.
    pub certificates: Vec<(ObjectRef, Vec<Certificate>)>,
}

pub(in crate::config) fn read(objects: &[&RawObject], secrets: &Secrets, report: &Report) -> GatewayApi {
    let of_kind = |kind: &'static str| objects.iter().copied().filter(move |object| object.origin.kind == kind);
    let grants = grants::Grants::read(of_kind("ReferenceGrant"), report);
    let (gateways, certificates) = gateway::Gateways::read(objects, secrets, &grants, report);
    let mut routes: Vec<&RawObject> = of_kind("HTTPRoute").chain(of_kind("GRPCRoute")).collect();
    routes.sort_by_key(|object| super::ingress::creation_order(object));
    let routes = routes
        .into_iter()
        .map(|object| (object.origin.clone(), route::read(object, &gateways, &grants, report)))
        .collect();
    GatewayApi { routes, certificates }
}
