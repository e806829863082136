//! Service with its Endpoints or EndpointSlices: `<name>.<namespace>.svc.cluster.local`. Files of these kinds stand in
//! for what a Kubernetes cluster would say; where a Service has slices, they count and Endpoints do not.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::skip_common;
use crate::config::fields::Fields;
use crate::config::model::{Endpoints, Protocol, Service, ServicePort, TrafficPolicy};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;

/// The name under which routes and plugins know a Kubernetes service.
pub(in crate::config) fn host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.cluster.local")
}

/// Addresses of a service by port name (empty where the port has none).
type Addresses = BTreeMap<String, Vec<SocketAddr>>;

/// Reads the three kinds together.
pub(in crate::config) fn read_all(objects: &[&RawObject], report: &Report) -> Vec<Service> {
    let mut endpoints: BTreeMap<String, Addresses> = BTreeMap::new();
    let mut slices: BTreeMap<String, Addresses> = BTreeMap::new();
    for object in objects {
        let report = report.on_parts_of(&object.origin);
        match object.origin.kind.as_str() {
            "Endpoints" => {
                let host = host(&object.origin.name, &object.origin.namespace);
                read_endpoints(object, endpoints.entry(host).or_default(), report);
            }
            "EndpointSlice" => read_slice(object, &mut slices, report),
            _ => {}
        }
    }
    objects
        .iter()
        .filter(|object| object.origin.kind == "Service")
        .filter_map(|object| {
            let host = host(&object.origin.name, &object.origin.namespace);
            let addresses = slices.get(&host).or_else(|| endpoints.get(&host));
            read_service(object, host, addresses, report.on_parts_of(&object.origin))
        })
        .collect()
}

fn read_service(
    object: &RawObject,
    host: String,
    addresses: Option<&Addresses>,
    report: ObjectReport<'_>,
) -> Option<Service> {
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let Some(mut spec) = fields.object("spec") else {
        report.error("spec", "is missing");
        return None;
    };
    let external_name = spec.text("externalName").filter(|name| !name.is_empty());
    let mut ports: Vec<ServicePort> = Vec::new();
    let written = spec.objects("ports");
    let is_only = written.len() == 1;
    for mut port in written {
        let part = report.part();
        let name = port.text("name").filter(|name| !name.is_empty());
        let app_protocol = port.text("appProtocol");
        if port.value("port").is_none() {
            report.error(&port.path_of("port"), "is missing");
        }
        if let Some(number) = port.port("port").filter(|_| part.is_whole()) {
            if ports.iter().any(|other| other.number == number) {
                // The same number over UDP is common for DNS and QUIC.
                continue;
            }
            let endpoints = match external_name {
                Some(external) => Endpoints::Dns { names: vec![external.to_owned()], port: number },
                None => Endpoints::Static(addresses.map(|found| of_port(found, name, is_only)).unwrap_or_default()),
            };
            let protocol = protocol(app_protocol, name);
            ports.push(ServicePort { number, name: name.map(str::to_owned), protocol, endpoints, traffic: None });
        }
        port.inert(&["protocol", "targetPort", "nodePort"]);
        port.finish();
    }
    // How traffic finds its way inside a cluster does not matter to a gateway that dials the endpoints.
    spec.inert(&[
        "allocateLoadBalancerNodePorts",
        "clusterIP",
        "clusterIPs",
        "externalIPs",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "internalTrafficPolicy",
        "ipFamilies",
        "ipFamilyPolicy",
        "loadBalancerClass",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
        "publishNotReadyAddresses",
        "selector",
        "sessionAffinity",
        "sessionAffinityConfig",
        "trafficDistribution",
        "type",
    ]);
    spec.finish();
    fields.finish();
    if ports.is_empty() {
        report.warn_hint("spec.ports", "names no port, so nothing can be sent to this service", "add a port");
        return None;
    }
    let origin = object.origin.clone();
    Some(Service { host, origin, ports, tls: None, proxy: None, traffic: TrafficPolicy::default() })
}

/// Ports belong together by name; a single one belongs to any if it has no name, or if the service has but one.
fn of_port(addresses: &Addresses, name: Option<&str>, is_only: bool) -> Vec<SocketAddr> {
    let named = addresses.get(name.unwrap_or_default());
    let only = if addresses.len() == 1 { addresses.iter().next() } else { None };
    let only = only.filter(|(name, _)| is_only || name.is_empty()).map(|(_, found)| found);
    named.or(only).cloned().unwrap_or_default()
}

/// As Istio does: `appProtocol` first, then the prefix of the port's name.
fn protocol(app_protocol: Option<&str>, port_name: Option<&str>) -> Protocol {
    let text = app_protocol.or(port_name).unwrap_or_default().to_ascii_lowercase();
    let word = text.rsplit('/').next().unwrap_or_default();
    match word.split('-').next() {
        Some("grpc" | "http2" | "h2c") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

fn read_endpoints(object: &RawObject, addresses: &mut Addresses, report: ObjectReport<'_>) {
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    for mut subset in fields.objects("subsets") {
        let mut ips = Vec::new();
        for mut address in subset.objects("addresses") {
            ips.extend(ip(&mut address));
            address.inert(&["hostname", "nodeName", "targetRef"]);
            address.finish();
        }
        subset.inert(&["notReadyAddresses"]);
        add(addresses, &ips, subset.objects("ports"));
        subset.finish();
    }
    fields.finish();
}

fn ip(address: &mut Fields<'_>) -> Option<IpAddr> {
    let text = address.required_text("ip")?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        address.report().error(&address.path_of("ip"), format!("`{text}` is not an IP address"));
    }
    parsed
}

fn read_slice(object: &RawObject, slices: &mut BTreeMap<String, Addresses>, report: ObjectReport<'_>) {
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let label = object.value.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str);
    let Some(service) = label else {
        report.warn_hint(
            "metadata.labels",
            "do not say to which Service these endpoints belong, so they are ignored",
            "add the label kubernetes.io/service-name",
        );
        return;
    };
    if fields.text("addressType").is_some_and(|kind| kind == "FQDN") {
        report.warn("addressType", "FQDN is not supported; these endpoints are ignored");
        return;
    }
    let mut ips = Vec::new();
    for mut endpoint in fields.objects("endpoints") {
        let mut is_ready = true;
        let part = report.part();
        if let Some(mut conditions) = endpoint.object("conditions") {
            is_ready = conditions.boolean("ready").unwrap_or(true) && part.is_whole();
            conditions.inert(&["serving", "terminating"]);
            conditions.finish();
        }
        let path = endpoint.path_of("addresses");
        for text in endpoint.texts("addresses") {
            match text.parse::<IpAddr>() {
                Ok(ip) if is_ready => ips.push(ip),
                Ok(_) => {}
                Err(_) => report.error(&path, format!("`{text}` is not an IP address")),
            }
        }
        endpoint.inert(&["deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "zone"]);
        endpoint.finish();
    }
    let entry = slices.entry(host(service, &object.origin.namespace)).or_default();
    add(entry, &ips, fields.objects("ports"));
    fields.finish();
}

fn add(addresses: &mut Addresses, ips: &[IpAddr], ports: Vec<Fields<'_>>) {
    for mut port in ports {
        let report = port.report();
        let part = report.part();
        let name = port.text("name").unwrap_or_default().to_owned();
        let number = port.port("port");
        let entry = addresses.entry(name).or_default();
        // A port with a fault keeps its name, so that another is not taken for it.
        if let Some(number) = number.filter(|_| part.is_whole()) {
            for ip in ips {
                let address = SocketAddr::new(*ip, number);
                if !entry.contains(&address) {
                    entry.push(address);
                }
            }
        }
        port.inert(&["appProtocol", "protocol"]);
        port.finish();
    }
}
