//! Points drafts of routes at services. What is missing is said, and answers 503 at run time, as in Higress: a folder whose
//! services are still to come must start.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::higress::draft::{BackendPort, Draft, RouteState, SideTarget, TargetRef};
use super::model::{
    Admission, Destination, DubboService, Endpoints, Fallback, Mirror, Route, Service, ServicePort, UpstreamPolicy,
};
use super::problem::ObjectReport;

/// Everything a route can name.
pub(super) struct Services {
    pub by_host: BTreeMap<String, Service>,
    /// Http2Rpcs by name; `None` for one with a fault.
    pub rpcs: BTreeMap<String, Option<Arc<DubboService>>>,
    /// Registries have yet to be heard.
    pub may_come: bool,
}

impl Services {
    /// Eureka shows the names of applications in capitals whatever their owners wrote, so their case does not count.
    pub fn get(&self, host: &str) -> Option<&Service> {
        self.by_host.get(host).or_else(|| {
            let is_eureka = host.to_ascii_lowercase().ends_with(".eureka");
            self.by_host.values().find(|service| is_eureka && service.host.eq_ignore_ascii_case(host))
        })
    }

    /// Whether a registry may yet name a service that is not there now.
    pub fn may_come(&self, host: &str) -> bool {
        self.may_come && !is_of_folder(host)
    }
}

/// Whether the name is one that only objects of the folder give.
pub fn is_of_folder(host: &str) -> bool {
    [".static", ".dns", ".svc.cluster.local"].iter().any(|suffix| host.ends_with(suffix))
}

/// `None` if the route takes no requests for a fault.
pub(super) fn link(draft: Draft, services: &Services, report: ObjectReport<'_>) -> Option<Route> {
    let Draft { mut route, mut state, field, targets, policy, rpc, fallback, mirror } = draft;
    if let Some((annotation, name)) = rpc {
        match services.rpcs.get(&name) {
            Some(Some(rpc)) => route.rpc = Some(rpc.clone()),
            // As they are, requests are nothing for its service.
            Some(None) if state == RouteState::Whole => state = RouteState::Closed,
            Some(None) => {}
            None => report.warn(&annotation, format!("there is no Http2Rpc `{name}`; requests go on as they are")),
        }
    }
    route.fallback = fallback.and_then(|fallback| {
        let destination = side(&fallback.target, services, report)?;
        Some(Fallback { destination, service: fallback.service, statuses: fallback.statuses })
    });
    route.mirror = mirror.and_then(|mirror| {
        let destination = side(&mirror, services, report)?;
        Some(Mirror { destination, per_million: mirror.per_million })
    });
    let instead = if route.fallback.is_some() { "the default backend" } else { "503" };
    for target in &targets {
        let (weight, tls) = match target {
            TargetRef::Registry(target) => (target.weight, target.tls),
            TargetRef::Backend { .. } => (100, None),
        };
        let port = port_or_warning(target, services, &field, instead, report);
        route.destinations.push(Destination {
            service: services.get(target.host()).map_or(target.host(), |service| &service.host).to_owned(),
            port,
            weight,
            tls,
            policy: policy.clone(),
        });
    }
    match state {
        RouteState::Whole => Some(route),
        RouteState::Closed => Some(closed(route)),
        RouteState::Unplaced => None,
    }
}

/// With nowhere to go it answers 503.
fn closed(route: Route) -> Route {
    let admission = Admission { redirect: None, ..route.admission };
    Route { destinations: Vec::new(), fallback: None, mirror: None, rpc: None, admission, ..route }
}

/// A service beside those of the backend; without it the annotation has no effect.
fn side(target: &SideTarget, services: &Services, report: ObjectReport<'_>) -> Option<Destination> {
    let named = target.target.host();
    let (host, port) = match services.get(named) {
        Some(service) => (service.host.as_str(), port_of(service, &target.target).map(|port| port.number)),
        None if services.may_come(named) => (named, target.target.port_number()),
        None => {
            report.warn(&target.field, format!("there is no service `{named}`, so this has no effect"));
            return None;
        }
    };
    if port.is_none() && services.get(named).is_some() {
        report.warn(&target.field, format!("the service `{host}` has no such port, so this has no effect"));
        return None;
    }
    let policy = UpstreamPolicy::default();
    Some(Destination { service: host.to_owned(), port, weight: 100, tls: None, policy })
}

fn port_or_warning(
    target: &TargetRef,
    services: &Services,
    field: &str,
    instead: &str,
    report: ObjectReport<'_>,
) -> Option<u16> {
    let host = target.host();
    match services.get(host) {
        Some(service) => find_port(service, target, field, instead, report),
        // What is wrong with the reference has been said.
        None if host.is_empty() || services.may_come(host) => target.port_number(),
        None => {
            report.warn(field, format!("there is no service `{host}`; requests to it are answered with {instead}"));
            target.port_number()
        }
    }
}

fn port_of<'a>(service: &'a Service, target: &TargetRef) -> Option<&'a ServicePort> {
    match target {
        TargetRef::Backend { port: BackendPort::Name(name), .. } => {
            service.ports.iter().find(|port| port.name.as_ref() == Some(name))
        }
        TargetRef::Backend { port: BackendPort::First, .. } => service.ports.first(),
        _ => service.port(target.port_number()),
    }
}

fn find_port(
    service: &Service,
    target: &TargetRef,
    field: &str,
    instead: &str,
    report: ObjectReport<'_>,
) -> Option<u16> {
    let host = &service.host;
    let number = target.port_number();
    let Some(port) = port_of(service, target) else {
        let ports: Vec<String> = service.ports.iter().map(|port| port.number.to_string()).collect();
        let fault = match (number, target) {
            (Some(number), _) => format!("has no port {number}"),
            (None, TargetRef::Backend { port: BackendPort::Name(name), .. }) => format!("has no port named `{name}`"),
            (None, _) => "has several ports and the destination names none".to_owned(),
        };
        report.warn_hint(
            field,
            format!("the service `{host}` {fault}; requests to it are answered with {instead}"),
            format!("its ports are: {}", ports.join(", ")),
        );
        // There is no port 0; none at all would be the service's only one.
        return number.or(Some(0));
    };
    if port.endpoints == Endpoints::Static(Vec::new()) {
        report.warn_hint(
            field,
            format!(
                "the service `{host}` has no ready endpoint at port {}; requests to it are answered with {instead}",
                port.number
            ),
            "add an EndpointSlice or Endpoints object for it",
        );
    }
    Some(port.number)
}
