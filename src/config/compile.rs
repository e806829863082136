//! Raw objects to the checked model, with all problems collected. Pure: no IO, same input same output.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::assembly::{Assembled, Assembly};
use super::higress::https::Https;
use super::higress::secret::Secrets;
use super::higress::{
    config_map, destination_rule, envoy_filter, gateway_api, http2rpc, mcp_bridge, secret_refs, service, wasm_plugin,
};
use super::link::{Services, is_of_folder};
use super::model::{Gateway, GatewaySettings, PluginUse, Registry, Route, Service};
use super::problem::{Problem, Report};
use super::source::RawObject;
use super::suggest::Hints;
use super::{PluginCatalog, Severity};

/// The outcome of [`compile`].
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Must not go live if a problem is an error: what the error is about is missing here, or a guess. What an outage is about
    /// is missing, or takes its requests and refuses them.
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
pub const INERT_KINDS: &[&str] = &[
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
    /// Their endpoints are [`Endpoints::Discovered`](super::model::Endpoints::Discovered).
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

    let (mut services, registries) = services(&resolved, discovered, &secrets, &report);
    let rpcs = of_kind("Http2Rpc").filter_map(|object| http2rpc::read(object, &report)).collect();
    let may_come = registries.iter().any(|registry| !discovered.heard.contains(&registry.key()));
    destination_rule::apply(of_kind("DestinationRule"), &secrets, &mut services, may_come, &report);
    let services = Services { by_host: services, rpcs, may_come };
    let https = of_kind("ConfigMap").find_map(|object| Https::read(object, &secrets, &report)).unwrap_or_default();
    let mut assembly = Assembly::new(&services, &report);
    assembly.ingresses(of_kind("Ingress").collect(), &secrets, &https);
    let objects_of_gateways: Vec<&RawObject> = resolved.iter().map(Cow::as_ref).collect();
    assembly.gateway_api(gateway_api::read(&objects_of_gateways, &secrets, &report));
    for object in of_kind("EnvoyFilter") {
        assembly.reentries(envoy_filter::read(object, &report), report.on(&object.origin));
    }
    let Assembled { routes, certificates, passthrough } = assembly.finish();
    let mut plugins: Vec<_> =
        of_kind("WasmPlugin").filter_map(|object| wasm_plugin::read(object, catalog, &report)).collect();
    plugins.sort_by(|a, b| {
        let key = |plugin: &super::model::PluginUse| (plugin.phase, std::cmp::Reverse(plugin.priority));
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.object.name, &a.object.namespace).cmp(&(&b.object.name, &b.object.namespace)))
    });
    report_missing_routes(&plugins, &routes, &report);
    report_missing_rule_services(&plugins, &services, &report);
    report_missing_services(&plugins, &services, &report);
    let mut settings = GatewaySettings::default();
    of_kind("ConfigMap").for_each(|object| config_map::read(object, &services, &secrets, &report, &mut settings));
    report_unsupported(objects, &report);
    let services = services.by_host;
    let https = https.automatic(&secrets);
    let gateway = Gateway { routes, services, registries, plugins, certificates, passthrough, https, settings };
    Compiled { gateway, problems: report.into_problems() }
}

fn resolve_references<'a>(objects: &'a [RawObject], secrets: &Secrets, report: &Report) -> Vec<Cow<'a, RawObject>> {
    let resolve = |object: &'a RawObject| {
        // What a ConfigMap has is text that becomes YAML first: a secret must not become more of it than a value.
        if matches!(object.origin.kind.as_str(), "Secret" | "ConfigMap") || !object.has_references {
            return Cow::Borrowed(object);
        }
        match secret_refs::resolve(&object.value, "", secrets, report.on(&object.origin)) {
            Cow::Borrowed(_) => Cow::Borrowed(object),
            Cow::Owned(value) => Cow::Owned(RawObject { value: value.into(), ..object.clone() }),
        }
    };
    objects.iter().map(resolve).collect()
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
            Some(first) => report.on_parts_of(&service.origin).error_hint(
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

/// A rule for a route that does not exist takes no request: what it was to guard is open.
fn report_missing_routes(plugins: &[PluginUse], routes: &[Route], report: &Report) {
    let names: BTreeSet<&str> = routes.iter().flat_map(Route::names).collect();
    let own_names: BTreeMap<&str, &str> =
        names.iter().filter_map(|known| Some((known.rsplit_once('/')?.1, *known))).collect();
    let mut hints = Hints::new();
    for plugin in plugins {
        for name in plugin.rules.iter().flat_map(|rule| &rule.routes).filter(|name| !names.contains(name.as_str())) {
            let hint = match own_names.get(name.as_str()) {
                Some(known) => Some(format!("with its namespace it is named `{known}`")),
                None => hints.did_you_mean(name, names.iter().copied()),
            };
            let message = format!("name the route `{name}`, which there is not; the rule takes no request of it");
            report.on(&plugin.object).add(Severity::Warning, "spec.matchRules", message, hint);
        }
    }
}

/// A rule for a service that does not exist takes no request either.
fn report_missing_rule_services(plugins: &[PluginUse], services: &Services, report: &Report) {
    let mut hints = Hints::new();
    for plugin in plugins {
        for name in plugin.rules.iter().flat_map(|rule| &rule.services) {
            let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
            if is_of_folder(host) && services.get(host).is_none() {
                let hint = hints.did_you_mean(host, services.by_host.keys().map(String::as_str));
                let message = format!("name the service `{name}`, which there is not; the rule takes no request of it");
                report.on(&plugin.object).add(Severity::Warning, "spec.matchRules", message, hint);
            }
        }
    }
}

/// A plugin that calls a service which does not exist refuses requests, or silently goes without it.
fn report_missing_services(plugins: &[PluginUse], services: &Services, report: &Report) {
    for plugin in plugins {
        let mut named = BTreeSet::new();
        let rules = plugin.rules.iter().map(|rule| &rule.config);
        plugin.global.iter().chain(rules).for_each(|config| service_names(config, &mut named));
        for name in named.into_iter().filter(|name| services.get(name).is_none()) {
            report.on(&plugin.object).warn("spec", format!("calls the service `{name}`, which there is not"));
        }
    }
}

/// Services in a plugin's configuration, by the names of the fields and of what they hold.
fn service_names<'a>(config: &'a Value, found: &mut BTreeSet<&'a str>) {
    match config {
        Value::Object(map) => {
            for (key, value) in map {
                let name = value.as_str().filter(|_| matches!(key.as_str(), "service_name" | "serviceName"));
                found.extend(name.filter(|name| is_of_folder(name)));
                service_names(value, found);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| service_names(element, found)),
        _ => {}
    }
}

fn report_unsupported(objects: &[RawObject], report: &Report) {
    const READ: &[&str] = &[
        "ConfigMap",
        "DestinationRule",
        "EndpointSlice",
        "Endpoints",
        "EnvoyFilter",
        "GRPCRoute",
        "Gateway",
        "GatewayClass",
        "HTTPRoute",
        "Http2Rpc",
        "Ingress",
        "McpBridge",
        "ReferenceGrant",
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
