//! McpBridge: registries of services. `static` and `dns` become services of their own, `<name>.static` and `<name>.dns`
//! (Higress `registry/direct/watcher.go`); registries that need a client are not supported yet.

use std::net::{IpAddr, SocketAddr};

use super::skip_common;
use crate::config::fields::Fields;
use crate::config::model::{Endpoints, Protocol, Service, ServicePort, UpstreamTls};
use crate::config::problem::Report;
use crate::config::source::RawObject;

/// Higress reads only the object of this name.
const NAME: &str = "default";

pub(in crate::config) fn read(object: &RawObject, report: &Report) -> Vec<Service> {
    let report = report.on(&object.origin);
    if object.origin.name != NAME {
        report.warn_hint("", "is ignored: only the McpBridge named `default` counts", "move its registries there");
        return Vec::new();
    }
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let mut services = Vec::new();
    if let Some(mut spec) = fields.object("spec") {
        for registry in spec.objects("registries") {
            let path = registry.path_of("name");
            let Some(service) = read_registry(object, registry) else { continue };
            if services.iter().any(|other: &Service| other.host == service.host) {
                report.error(&path, format!("`{}` is already the service of a registry above", service.host));
            } else {
                services.push(service);
            }
        }
        spec.unsupported(&["proxies"]);
        spec.finish();
    }
    fields.finish();
    services
}

fn read_registry(object: &RawObject, mut registry: Fields<'_>) -> Option<Service> {
    let report = registry.report();
    let kind = registry.required_text("type")?;
    let name = registry.required_text("name")?;
    let path = registry.path().to_owned();
    if !matches!(kind, "static" | "dns") {
        let known = ["nacos", "nacos2", "nacos3", "zookeeper", "consul", "eureka", "etcd"];
        if known.contains(&kind) {
            report.warn(
                &path,
                format!("the registry `{name}` of type {kind} is not supported yet; its services are missing"),
            );
        } else {
            report.error(&registry.path_of("type"), format!("`{kind}` is not a registry type"));
        }
        return None;
    }
    let domain = registry.required_text("domain");
    if registry.value("port").is_none() {
        report.error(&registry.path_of("port"), "is missing");
    }
    let port = registry.port("port");
    let (protocol, is_tls) = protocol(&mut registry)?;
    let sni = registry.text("sni").filter(|sni| !sni.is_empty()).map(str::to_owned);
    registry.inert(&["authSecretName", "metadata", "zkServicesPath"]);
    registry.unsupported(&["proxyName", "vport"]);
    let (domain, number) = (domain?, port?);
    let domain_path = registry.path_of("domain");
    let mut entries = domain.split(',').map(str::trim).filter(|entry| !entry.is_empty()).peekable();
    if entries.peek().is_none() {
        report.error(&domain_path, "names no address");
        return None;
    }
    let endpoints = if kind == "static" {
        let mut addresses = Vec::new();
        for entry in entries {
            match entry.parse::<SocketAddr>() {
                Ok(address) if address.port() > 0 => addresses.push(address),
                _ => report.error_hint(
                    &domain_path,
                    format!("`{entry}` is not an address with a port"),
                    "write 10.0.0.1:8080 or [fd00::1]:8080; for host names use a registry of type dns",
                ),
            }
        }
        Endpoints::Static(addresses)
    } else {
        let names: Vec<String> = entries.map(str::to_owned).collect();
        for name in &names {
            if name.parse::<IpAddr>().is_ok() {
                report.warn_hint(
                    &domain_path,
                    format!("`{name}` is an address, which Higress rejects here"),
                    "use the type static",
                );
            } else if !is_host_name(name) {
                report.error(&domain_path, format!("`{name}` is not a host name"));
            }
        }
        Endpoints::Dns { names, port: number }
    };
    let default_sni = match &endpoints {
        Endpoints::Dns { names, .. } if names.len() == 1 => names.first().cloned(),
        _ => None,
    };
    let tls = is_tls.then(|| UpstreamTls { sni: sni.or(default_sni) });
    // Registry types share one message, so the fields of the others are valid here and mean nothing.
    registry.inert(&[
        "allowMcpServers",
        "consulDatacenter",
        "consulNamespace",
        "consulRefreshInterval",
        "consulServiceTag",
        "enableMCPServer",
        "enableScopeMcpServers",
        "mcpServerBaseUrl",
        "mcpServerExportDomains",
        "nacosAccessKey",
        "nacosAddressServer",
        "nacosGroups",
        "nacosNamespace",
        "nacosNamespaceId",
        "nacosRefreshInterval",
        "nacosSecretKey",
        "nacosTimeout",
    ]);
    registry.finish();
    let port = ServicePort { number, name: None, protocol, endpoints };
    Some(Service { host: format!("{name}.{kind}"), origin: object.origin.clone(), ports: vec![port], tls })
}

/// The application protocol and whether it goes over TLS.
fn protocol(registry: &mut Fields<'_>) -> Option<(Protocol, bool)> {
    match registry.text("protocol").unwrap_or("http").to_ascii_lowercase().as_str() {
        "" | "http" | "tcp" => Some((Protocol::Http1, false)),
        "https" => Some((Protocol::Http1, true)),
        "http2" | "grpc" | "triple" | "tri" => Some((Protocol::Http2, false)),
        "grpcs" => Some((Protocol::Http2, true)),
        "dubbo" => {
            registry.report().warn(&registry.path_of("protocol"), "dubbo is not supported yet; the service is missing");
            None
        }
        other => {
            registry.report().error_hint(
                &registry.path_of("protocol"),
                format!("`{other}` is not a protocol"),
                "one of http, https, http2, grpc, grpcs, tcp, dubbo",
            );
            None
        }
    }
}

/// Wider than Higress, which wants a dot in it: names of containers and `localhost` are useful on a single machine.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.trim_end_matches('.').split('.').all(is_label)
}
