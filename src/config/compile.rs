//! Raw objects to the checked model, with all problems collected. Pure: no IO, same input same output.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::PluginCatalog;
use super::higress::ingress::Draft;
use super::higress::secret::Secrets;
use super::higress::{config_map, ingress, mcp_bridge, secret_refs, service, wasm_plugin};
use super::link::link;
use super::model::{
    Canary, CanaryTakes, Certificate, Destination, Gateway, GatewaySettings, HostMatch, ObjectRef, PathMatch, Route,
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

/// Compiles the objects of a folder. Problems of reading the folder are not repeated here.
pub fn compile(objects: &[RawObject], catalog: &dyn PluginCatalog) -> Compiled {
    let report = Report::default();
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| object.origin.kind == kind);
    let secrets = Secrets::read(of_kind("Secret"), &report);
    let resolved = resolve_references(objects, &secrets, &report);
    let of_kind =
        |kind: &'static str| resolved.iter().map(Cow::as_ref).filter(move |object| object.origin.kind == kind);

    let services = services(&resolved, &report);
    let Ingresses { routes, certificates, passthrough } =
        ingresses(of_kind("Ingress").collect(), &services, &secrets, &report);
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
    let gateway = Gateway { routes, services, plugins, certificates, passthrough, settings };
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

fn services(objects: &[Cow<'_, RawObject>], report: &Report) -> BTreeMap<String, Service> {
    let objects: Vec<&RawObject> = objects.iter().map(Cow::as_ref).collect();
    let mut found = service::read_all(&objects, report);
    for object in objects.iter().filter(|object| object.origin.kind == "McpBridge") {
        found.extend(mcp_bridge::read(object, report));
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
    services
}

fn ingresses(
    mut objects: Vec<&RawObject>,
    services: &BTreeMap<String, Service>,
    secrets: &Secrets,
    report: &Report,
) -> Ingresses {
    objects.sort_by_key(|object| ingress::creation_order(object));
    let mut routes: Vec<Route> = Vec::new();
    let mut certificates: Vec<Certificate> = Vec::new();
    let mut first_of: HashMap<RouteKey, usize> = HashMap::new();
    let mut certified: HashMap<String, usize> = HashMap::new();
    let mut passthrough: Vec<(HostMatch, ObjectReport<'_>)> = Vec::new();
    let mut canaries: Vec<(Draft, CanaryTakes, ObjectReport<'_>)> = Vec::new();
    for object in objects {
        let report_on = report.on(&object.origin);
        let ingress = ingress::read(object, secrets, report);
        passthrough.extend(ingress.passthrough.into_iter().map(|host| (host, report_on)));
        for draft in ingress.routes {
            if let Some(takes) = &ingress.canary {
                canaries.push((draft, takes.clone(), report_on));
                continue;
            }
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
    for (draft, takes, report_on) in canaries {
        let base = first_of.get(&route_key(&draft.route)).and_then(|first| routes.get_mut(*first));
        add_canary(base, draft, takes, services, report_on);
    }
    let passthrough =
        passthrough.into_iter().filter_map(|(host, report)| pass_through(host, &routes, report)).collect();
    Ingresses { passthrough, certificates: merge(certificates), routes }
}

/// What all Ingresses come to.
struct Ingresses {
    routes: Vec<Route>,
    certificates: Vec<Certificate>,
    passthrough: BTreeMap<String, Destination>,
}

/// The service of a host's root path gets the TLS connections to the host.
fn pass_through(host: HostMatch, routes: &[Route], report: ObjectReport<'_>) -> Option<(String, Destination)> {
    let root = PathMatch::Prefix("/".to_owned());
    let owner = routes.iter().find(|route| route.host == host && route.path == root && !route.is_default_backend);
    let destination = owner.and_then(|route| route.destinations.first()).cloned();
    let name = match host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Exact(name) => name,
        HostMatch::Suffix(suffix) => format!("*{suffix}"),
    };
    if destination.is_none() {
        report.warn("", format!("ssl-passthrough has no effect: `{name}` has no path `/` to take the service from"));
    }
    destination.map(|destination| (name, destination))
}

/// Gives a canary its part of a route. Those that look at the request come before those that take a share.
fn add_canary(
    base: Option<&mut Route>,
    draft: Draft,
    takes: CanaryTakes,
    services: &BTreeMap<String, Service>,
    report: ObjectReport<'_>,
) {
    let Some(base) = base else {
        return report.warn_hint(
            &draft.field,
            "is a canary of nothing: no other Ingress has this host, path and conditions; it has no effect",
            "give both Ingresses the same host, path, path type and match annotations",
        );
    };
    let Route { name, origin, destinations, header_control, .. } = link(draft, services, report);
    // The share of a route's requests is still the route's in plugin rules.
    let name = if matches!(takes, CanaryTakes::Share { .. }) { base.name.clone() } else { name };
    base.canaries.push(Canary { name, origin, takes, destinations, header_control });
    base.canaries.sort_by_key(|canary| matches!(canary.takes, CanaryTakes::Share { .. }));
}

/// One entry per secret and options instead of one per host.
fn merge(certificates: Vec<Certificate>) -> Vec<Certificate> {
    let mut merged: Vec<Certificate> = Vec::new();
    let mut position: HashMap<(ObjectRef, String), usize> = HashMap::new();
    for certificate in certificates {
        let key = (certificate.secret.clone(), format!("{:?}", certificate.options));
        match position.get(&key).and_then(|i| merged.get_mut(*i)) {
            Some(first) => first.hosts.extend(certificate.hosts),
            None => {
                position.insert(key, merged.len());
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
    let kind = if route.is_app_root() { "app-root" } else { kind };
    let conditions = format!("{kind}{path} {methods:?} {:?} {:?}", route.headers, route.queries);
    (route.host.clone(), route.is_default_backend, conditions)
}

fn report_unsupported(objects: &[RawObject], report: &Report) {
    const READ: &[&str] =
        &["ConfigMap", "EndpointSlice", "Endpoints", "Ingress", "McpBridge", "Secret", "Service", "WasmPlugin"];
    for object in objects {
        let kind = object.origin.kind.as_str();
        if !READ.contains(&kind) && !INERT_KINDS.contains(&kind) {
            report
                .on(&object.origin)
                .warn("", format!("objects of kind {kind} are not supported yet; it has no effect"));
        }
    }
}
