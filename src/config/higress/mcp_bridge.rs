//! McpBridge: registries of services. `static` and `dns` become services of their own, `<name>.static` and `<name>.dns`
//! (Higress `registry/direct/watcher.go`); the other types are asked while the gateway runs, see [`registry`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::registry;
use super::secret::Secrets;
use super::skip_common;
use crate::config::fields::Fields;
use crate::config::model::{
    ConnectProxy, Endpoints, Protocol, Registry, Service, ServicePort, TrafficPolicy, UpstreamTls,
};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;

/// Higress reads only the object of this name.
const NAME: &str = "default";

/// How long a proxy has to connect, unless it says otherwise.
const PROXY_TIMEOUT_MS: u64 = 1200;

/// What the bridge brings.
#[derive(Debug, Default)]
pub(in crate::config) struct Bridge {
    pub services: Vec<Service>,
    pub registries: Vec<Registry>,
}

pub(in crate::config) fn read(object: &RawObject, secrets: &Secrets, report: &Report) -> Bridge {
    let report = report.on_parts_of(&object.origin);
    let mut bridge = Bridge::default();
    if object.origin.name != NAME {
        report.warn_hint("", "is ignored: only the McpBridge named `default` counts", "move its registries there");
        return bridge;
    }
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    if let Some(mut spec) = fields.object("spec") {
        let proxies = proxies(&mut spec, report);
        for mut entry in spec.objects("registries") {
            let part = report.part();
            let path = entry.path_of("name");
            let Some(kind) = entry.required_text("type") else { continue };
            let Some(name) = entry.required_text("name") else { continue };
            if matches!(kind, "static" | "dns") {
                let service = read_direct(object, kind, name, &proxies, entry);
                let Some(service) = service.filter(|_| part.is_whole()) else { continue };
                if bridge.services.iter().any(|other| other.host == service.host) {
                    report.error(&path, format!("`{}` is already the service of a registry above", service.host));
                } else {
                    bridge.services.push(service);
                }
                continue;
            }
            let registry = registry::read(object, kind, name, secrets, entry);
            let Some(registry) = registry.filter(|_| part.is_whole()) else { continue };
            if bridge.registries.iter().any(|other| other.key() == registry.key()) {
                report.error(&path, format!("`{name}` is already a registry of type {kind} above"));
            } else {
                bridge.registries.push(registry);
            }
        }
        spec.finish();
    }
    fields.finish();
    bridge
}

/// The proxies by name; `None` for one with a fault.
fn proxies(spec: &mut Fields<'_>, report: ObjectReport<'_>) -> BTreeMap<String, Option<ConnectProxy>> {
    let mut proxies = BTreeMap::new();
    for mut proxy in spec.objects("proxies") {
        let part = report.part();
        let name = proxy.required_text("name").map(str::to_owned);
        let kind = proxy.text("type").unwrap_or_default();
        let is_http = kind.eq_ignore_ascii_case("http");
        if !is_http {
            report.warn_hint(
                &proxy.path_of("type"),
                format!("`{kind}` is not a type of proxy that works; its registries are connected to directly"),
                "use http",
            );
        }
        let host = proxy.required_text("serverAddress").map(str::to_owned);
        if proxy.value("serverPort").is_none() {
            report.error(&proxy.path_of("serverPort"), "is missing");
        }
        let port = proxy.port("serverPort");
        let timeout = proxy.integer::<u64>("connectTimeout").filter(|ms| *ms > 0).unwrap_or(PROXY_TIMEOUT_MS);
        // Higress needs a listener of its own to reach the proxy; here the connection is made directly.
        proxy.inert(&["listenerPort"]);
        proxy.finish();
        let connect_timeout = Duration::from_millis(timeout);
        let usable = host.zip(port).filter(|_| part.is_whole());
        if let (true, Some(name)) = (is_http, name) {
            proxies.insert(name, usable.map(|(host, port)| ConnectProxy { host, port, connect_timeout }));
        }
    }
    proxies
}

fn read_direct(
    object: &RawObject,
    kind: &str,
    name: &str,
    proxies: &BTreeMap<String, Option<ConnectProxy>>,
    mut entry: Fields<'_>,
) -> Option<Service> {
    let report = entry.report();
    let domain = entry.required_text("domain");
    if entry.value("port").is_none() {
        report.error(&entry.path_of("port"), "is missing");
    }
    let port = entry.port("port");
    let (protocol, is_tls) = protocol(&mut entry)?;
    let sni = entry.text("sni").filter(|sni| !sni.is_empty()).map(str::to_owned);
    let proxy = entry.text("proxyName").filter(|name| !name.is_empty()).and_then(|proxy| {
        let (found, field) = (proxies.get(proxy), entry.path_of("proxyName"));
        if let (Some(None), true) = (found, is_tls) {
            report.error(&field, format!("the proxy `{proxy}` has a fault; directly nothing is sent"));
        } else if found.is_none() {
            report.warn(&field, format!("there is no usable proxy `{proxy}`; connections are made directly"));
        } else if !is_tls {
            report.warn(&field, "has no effect: only services with TLS (https, grpcs) go through a proxy");
        }
        found.filter(|_| is_tls).cloned().flatten()
    });
    entry.inert(&["authSecretName", "metadata"]);
    entry.inert(registry::FIELDS);
    entry.unsupported(&["vport"]);
    let (domain, number) = (domain?, port?);
    let domain_path = entry.path_of("domain");
    let mut names = domain.split(',').map(str::trim).filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() {
        report.error(&domain_path, "names no address");
        return None;
    }
    let endpoints = if kind == "static" {
        Endpoints::Static(addresses(names, &domain_path, report))
    } else {
        let names: Vec<String> = names.map(str::to_owned).collect();
        check_names(&names, &domain_path, report);
        Endpoints::Dns { names, port: number }
    };
    let default_sni = match &endpoints {
        Endpoints::Dns { names, .. } if names.len() == 1 => names.first().cloned(),
        _ => None,
    };
    let tls = is_tls.then(|| UpstreamTls { sni: sni.or(default_sni) });
    entry.finish();
    let port = ServicePort { number, name: None, protocol, endpoints, traffic: None };
    Some(Service {
        host: format!("{name}.{kind}"),
        origin: object.origin.clone(),
        ports: vec![port],
        tls,
        proxy,
        traffic: TrafficPolicy::default(),
    })
}

fn addresses<'a>(entries: impl Iterator<Item = &'a str>, path: &str, report: ObjectReport<'_>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for entry in entries {
        match entry.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => addresses.push(address),
            _ => report.error_hint(
                path,
                format!("`{entry}` is not an address with a port"),
                "write 10.0.0.1:8080 or [fd00::1]:8080; for host names use a registry of type dns",
            ),
        }
    }
    addresses
}

fn check_names(names: &[String], path: &str, report: ObjectReport<'_>) {
    for name in names {
        if name.parse::<IpAddr>().is_ok() {
            report.warn_hint(
                path,
                format!("`{name}` is an address, which Higress rejects here"),
                "use the type static",
            );
        } else if !is_host_name(name) {
            report.error(path, format!("`{name}` is not a host name"));
        }
    }
}

/// The application protocol and whether it goes over TLS.
fn protocol(entry: &mut Fields<'_>) -> Option<(Protocol, bool)> {
    let written = entry.text("protocol").unwrap_or_default();
    let parsed = Protocol::parse(written);
    if parsed.is_none() {
        entry.report().error_hint(
            &entry.path_of("protocol"),
            format!("`{written}` is not a protocol"),
            "one of http, https, http2, grpc, grpcs, tcp, dubbo",
        );
    }
    parsed
}

/// Wider than Higress, which wants a dot in it: names of containers and `localhost` are useful on a single machine.
pub(super) fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.trim_end_matches('.').split('.').all(is_label)
}
