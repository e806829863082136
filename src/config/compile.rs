//! Raw objects to the checked model, with all problems collected. Pure: no IO, same input same output.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::PluginCatalog;
use super::higress::ingress::{BackendPort, Draft, TargetRef};
use super::higress::secret::Secrets;
use super::higress::{config_map, http2rpc, ingress, mcp_bridge, secret_refs, service, wasm_plugin};
use super::model::{
    Certificate, Destination, DubboService, Endpoints, Gateway, GatewaySettings, HostMatch, PathMatch, Registry, Route,
    Service,
};
use super::problem::{ObjectReport, Problem, Report};
use super::source::RawObject;

/// The outcome of [`compile`].
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Must not go live if a problem is an error: what the error is about is missing here.
    pub gateway: Gateway,
    /// Errors first, then by file.
    pub problems: Vec<Problem>,
}

impl Compiled {
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// Kinds without effect on traffic, in Higress as here.
const INERT_KINDS: &[&str] = &[
    "CustomResourceDefinition",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "Pod",
    "SubjectAccessReview",
    "ValidatingWebhookConfiguration",
];

/// What the registries have said so far.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// Their endpoints are [`Endpoints::Discovered`].
    pub services: Vec<Service>,
    /// Keys of the registries that have answered. While one has not, a service that is missing may still come.
    pub heard: BTreeSet<String>,
}

/// Compiles the objects of a folder alone, as `validate` does. Problems of reading the folder are not repeated here.
pub fn compile(objects: &[RawObject], catalog: &dyn PluginCatalog) -> Compiled {
    compile_with(objects, &Discovered::default(), catalog)
}

/// Compiles the objects of a folder together with what the registries they name have said.
pub fn compile_with(objects: &[RawObject], discovered: &Discovered, catalog: &dyn PluginCatalog) -> Compiled {
    let report = Report::default();
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| object.origin.kind == kind);
    let secrets = Secrets::read(of_kind("Secret"), &report);
    let resolved = resolve_references(objects, &secrets, &report);
    let of_kind =
        |kind: &'static str| resolved.iter().map(Cow::as_ref).filter(move |object| object.origin.kind == kind);

    let (services, registries) = services(&resolved, discovered, &secrets, &report);
    let rpcs = of_kind("Http2Rpc").filter_map(|object| http2rpc::read(object, &report)).collect();
    let may_come = registries.iter().any(|registry| !discovered.heard.contains(&registry.key()));
    let services = Services { by_host: services, rpcs, may_come };
    let (routes, certificates) = ingresses(of_kind("Ingress").collect(), &services, &secrets, &report);
    let mut plugins: Vec<_> =
        of_kind("WasmPlugin").filter_map(|object| wasm_plugin::read(object, catalog, &report)).collect();
    plugins.sort_by(|a, b| {
        let key = |plugin: &super::model::PluginUse| (plugin.phase, std::cmp::Reverse(plugin.priority));
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.object.name, &a.object.namespace).cmp(&(&b.object.name, &b.object.namespace)))
    });
    let mut settings = GatewaySettings::default();
    of_kind("ConfigMap").for_each(|object| config_map::read(object, &report, &mut settings));
    report_unsupported(objects, &report);
    let gateway = Gateway { routes, services: services.by_host, registries, plugins, certificates, settings };
    Compiled { gateway, problems: report.into_problems() }
}

fn resolve_references<'a>(objects: &'a [RawObject], secrets: &Secrets, report: &Report) -> Vec<Cow<'a, RawObject>> {
    let resolve = |object: &'a RawObject| {
        if object.origin.kind == "Secret" {
            return Cow::Borrowed(object);
        }
        match secret_refs::resolve(&object.value, secrets, report.on(&object.origin)) {
            Cow::Borrowed(_) => Cow::Borrowed(object),
            Cow::Owned(value) => Cow::Owned(RawObject { value: value.into(), ..object.clone() }),
        }
    };
    objects.iter().map(resolve).collect()
}

/// Everything a route can name.
struct Services {
    by_host: BTreeMap<String, Service>,
    /// Http2Rpcs by name.
    rpcs: BTreeMap<String, Arc<DubboService>>,
    /// Registries have yet to be heard.
    may_come: bool,
}

impl Services {
    /// Eureka shows the names of applications in capitals whatever their owners wrote, so their case does not count.
    fn get(&self, host: &str) -> Option<&Service> {
        self.by_host.get(host).or_else(|| {
            let is_eureka = host.to_ascii_lowercase().ends_with(".eureka");
            self.by_host.values().find(|service| is_eureka && service.host.eq_ignore_ascii_case(host))
        })
    }
}

fn services(
    objects: &[Cow<'_, RawObject>],
    discovered: &Discovered,
    secrets: &Secrets,
    report: &Report,
) -> (BTreeMap<String, Service>, Vec<Registry>) {
    let objects: Vec<&RawObject> = objects.iter().map(Cow::as_ref).collect();
    let mut found = service::read_all(&objects, report);
    let mut registries = Vec::new();
    for object in objects.iter().filter(|object| object.origin.kind == "McpBridge") {
        let bridge = mcp_bridge::read(object, secrets, report);
        found.extend(bridge.services);
        registries.extend(bridge.registries);
    }
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    for service in found {
        match services.get(&service.host) {
            None => drop(services.insert(service.host.clone(), service)),
            Some(first) => report.on(&service.origin).error_hint(
                "",
                format!("the service `{}` is already defined by {}", service.host, first.origin),
                "rename or remove one of them",
            ),
        }
    }
    // What a registry says must not take the configuration down: the folder's own service stays.
    for service in &discovered.services {
        match services.get(&service.host) {
            None => drop(services.insert(service.host.clone(), service.clone())),
            Some(first) => report.on(&service.origin).warn(
                "spec.registries",
                format!(
                    "name a service `{}`, which {} defines already; the latter is used",
                    service.host, first.origin
                ),
            ),
        }
    }
    (services, registries)
}

fn ingresses(
    mut objects: Vec<&RawObject>,
    services: &Services,
    secrets: &Secrets,
    report: &Report,
) -> (Vec<Route>, Vec<Certificate>) {
    objects.sort_by_key(|object| ingress::creation_order(object));
    let mut routes: Vec<Route> = Vec::new();
    let mut certificates: Vec<Certificate> = Vec::new();
    let mut first_of: HashMap<RouteKey, usize> = HashMap::new();
    let mut certified: HashMap<String, usize> = HashMap::new();
    for object in objects {
        let report_on = report.on(&object.origin);
        let ingress = ingress::read(object, secrets, report);
        for draft in ingress.routes {
            let key = route_key(&draft.route);
            match first_of.get(&key).and_then(|first| routes.get(*first)) {
                // A second default backend for `*` is no mistake: each Ingress brings one.
                Some(_) if draft.route.is_default_backend => {}
                Some(first) => report_on.warn(
                    &draft.field,
                    format!(
                        "this host, path and conditions are taken by the older {}; the route is ignored",
                        first.origin
                    ),
                ),
                None => {
                    first_of.insert(key, routes.len());
                    routes.push(link(draft, services, report_on));
                }
            }
        }
        for certificate in ingress.certificates {
            let host = certificate.hosts.first().cloned().unwrap_or_default();
            match certified.get(&host).and_then(|first| certificates.get(*first)) {
                Some(first) if first.secret == certificate.secret => {}
                Some(first) => report_on.warn(
                    "spec.tls",
                    format!(
                        "`{host}` already has the certificate of {}; {} is not used",
                        first.secret, certificate.secret
                    ),
                ),
                None => {
                    certified.insert(host, certificates.len());
                    certificates.push(certificate);
                }
            }
        }
    }
    (routes, merge(certificates))
}

/// One entry per secret instead of one per host.
fn merge(certificates: Vec<Certificate>) -> Vec<Certificate> {
    let mut merged: Vec<Certificate> = Vec::new();
    let mut position: HashMap<super::model::ObjectRef, usize> = HashMap::new();
    for certificate in certificates {
        match position.get(&certificate.secret).and_then(|i| merged.get_mut(*i)) {
            Some(first) => first.hosts.extend(certificate.hosts),
            None => {
                position.insert(certificate.secret.clone(), merged.len());
                merged.push(certificate);
            }
        }
    }
    merged
}

type RouteKey = (HostMatch, bool, String);

/// Two routes with the same key take the same requests.
fn route_key(route: &Route) -> RouteKey {
    let (kind, path) = match &route.path {
        PathMatch::Exact(path) => ("=", path.as_str()),
        PathMatch::Prefix(path) => ("^", path.as_str()),
        PathMatch::Regex(pattern) => ("~", pattern.as_str()),
    };
    let mut methods = route.methods.clone();
    methods.sort_unstable();
    let conditions = format!("{kind}{path} {methods:?} {:?} {:?}", route.headers, route.queries);
    (route.host.clone(), route.is_default_backend, conditions)
}

/// Points a route at services. What is missing is said, and answers 503 at run time, as in Higress: a folder whose
/// services are still to come must start.
fn link(draft: Draft, services: &Services, report: ObjectReport<'_>) -> Route {
    let Draft { mut route, field, targets, rpc } = draft;
    if let Some((annotation, name)) = rpc {
        route.rpc = services.rpcs.get(&name).cloned();
        if route.rpc.is_none() {
            report.warn(&annotation, format!("there is no usable Http2Rpc `{name}`; requests go on as they are"));
        }
    }
    for target in targets {
        let (host, weight, tls) = match &target {
            TargetRef::Registry(target) => (&target.host, target.weight, target.tls),
            TargetRef::Backend { host, .. } => (host, 100, None),
        };
        let found = services.get(host);
        let port = match found {
            Some(service) => find_port(service, &target, &field, report),
            None if services.may_come && !is_of_folder(host) => target.port_number(),
            None => {
                report.warn(&field, format!("there is no service `{host}`; requests to it are answered with 503"));
                target.port_number()
            }
        };
        let service = found.map_or_else(|| host.clone(), |service| service.host.clone());
        route.destinations.push(Destination { service, port, weight, tls });
    }
    route
}

/// Whether only the folder itself can define a service of this name.
fn is_of_folder(host: &str) -> bool {
    [".static", ".dns", ".svc.cluster.local"].iter().any(|suffix| host.ends_with(suffix))
}

fn find_port(service: &Service, target: &TargetRef, field: &str, report: ObjectReport<'_>) -> Option<u16> {
    let host = &service.host;
    let number = target.port_number();
    let found = match target {
        TargetRef::Backend { port: BackendPort::Name(name), .. } => {
            service.ports.iter().find(|port| port.name.as_ref() == Some(name))
        }
        _ => service.port(number),
    };
    let Some(port) = found else {
        let ports: Vec<String> = service.ports.iter().map(|port| port.number.to_string()).collect();
        let fault = match (number, target) {
            (Some(number), _) => format!("has no port {number}"),
            (None, TargetRef::Backend { port: BackendPort::Name(name), .. }) => format!("has no port named `{name}`"),
            (None, _) => "has several ports and the destination names none".to_owned(),
        };
        report.warn_hint(
            field,
            format!("the service `{host}` {fault}; requests to it are answered with 503"),
            format!("its ports are: {}", ports.join(", ")),
        );
        return number;
    };
    if port.endpoints == Endpoints::Static(Vec::new()) {
        report.warn_hint(
            field,
            format!(
                "the service `{host}` has no ready endpoint at port {}; requests to it are answered with 503",
                port.number
            ),
            "add an EndpointSlice or Endpoints object for it",
        );
    }
    Some(port.number)
}

fn report_unsupported(objects: &[RawObject], report: &Report) {
    const READ: &[&str] = &[
        "ConfigMap",
        "EndpointSlice",
        "Endpoints",
        "Http2Rpc",
        "Ingress",
        "McpBridge",
        "Secret",
        "Service",
        "WasmPlugin",
    ];
    for object in objects {
        let kind = object.origin.kind.as_str();
        if !READ.contains(&kind) && !INERT_KINDS.contains(&kind) {
            report
                .on(&object.origin)
                .warn("", format!("objects of kind {kind} are not supported yet; it has no effect"));
        }
    }
}
