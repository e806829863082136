//! Registries that are asked while the gateway runs: consul, nacos, nacos2, nacos3, eureka, zookeeper (Higress `registry/*/watcher.go`).
//! What is read here is where and how to ask; `discovery` does it.

use std::net::IpAddr;
use std::time::Duration;

use super::mcp_bridge::is_host_name;
use super::secret::Secrets;
use crate::base::secret::Secret;
use crate::config::fields::Fields;
use crate::config::model::{NacosApi, Registry, RegistryKind, VirtualPorts};
use crate::config::source::RawObject;

/// Fields of single registry types. All types share one message, so each is valid in every registry and counts in its own.
pub(super) const FIELDS: &[&str] = &[
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
    "zkServicesPath",
];

/// Nacos is asked this often (Higress `DefaultRefreshInterval`), and never more often than the limit.
const NACOS_REFRESH: Duration = Duration::from_secs(30);
const NACOS_REFRESH_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn read<'a>(
    object: &'a RawObject,
    kind: &str,
    name: &str,
    secrets: &'a Secrets,
    mut entry: Fields<'a>,
) -> Option<Registry> {
    let report = entry.report();
    let credentials = Credentials::read(object, secrets, &mut entry);
    let kind = match kind {
        "consul" => Some(consul(&credentials, &mut entry)),
        "nacos" => Some(nacos(NacosApi::V1, &credentials, &mut entry)),
        "nacos2" => Some(nacos(NacosApi::V2, &credentials, &mut entry)),
        "nacos3" => Some(nacos(NacosApi::V3, &credentials, &mut entry)),
        "eureka" => Some(RegistryKind::Eureka),
        "zookeeper" => Some(zookeeper(&mut entry)),
        // Higress knows it by name only.
        "etcd" => {
            report.warn(
                &entry.path_of("type"),
                format!("the registry `{name}` of type {kind} is not supported yet; its services are missing"),
            );
            None
        }
        other => {
            report.error(&entry.path_of("type"), format!("`{other}` is not a registry type"));
            None
        }
    }?;
    let domain = entry.required_text("domain");
    if let Some(domain) = domain.filter(|domain| domain.parse::<IpAddr>().is_err() && !is_host_name(domain)) {
        report.error(&entry.path_of("domain"), format!("`{domain}` is neither a host name nor an address"));
    }
    if entry.value("port").is_none() {
        report.error(&entry.path_of("port"), "is missing");
    }
    let port = entry.port("port");
    let virtual_ports = virtual_ports(&mut entry);
    // Instances say their protocol themselves.
    entry.inert(&["metadata", "protocol", "sni"]);
    entry.inert(FIELDS);
    entry.unsupported(&["proxyName"]);
    entry.finish();
    let (domain, port) = (domain?.to_owned(), port?);
    Some(Registry { name: name.to_owned(), origin: object.origin.clone(), domain, port, kind, virtual_ports })
}

/// The Secret that `authSecretName` names.
struct Credentials<'a> {
    secrets: &'a Secrets,
    namespace: &'a str,
    name: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    fn read(object: &'a RawObject, secrets: &'a Secrets, entry: &mut Fields<'a>) -> Self {
        let name = entry.text("authSecretName").filter(|name| !name.is_empty());
        let namespace = object.origin.namespace.as_str();
        if let Some(name) = name.filter(|name| secrets.get(namespace, name).is_none()) {
            entry.report().warn(
                &entry.path_of("authSecretName"),
                format!("there is no Secret {namespace}/{name}; the registry is asked without credentials"),
            );
        }
        Credentials { secrets, namespace, name }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.secrets.get(self.namespace, self.name?)?.text(key).map(str::trim).filter(|text| !text.is_empty())
    }
}

fn consul(credentials: &Credentials<'_>, entry: &mut Fields<'_>) -> RegistryKind {
    RegistryKind::Consul {
        datacenter: text(entry, "consulDatacenter").unwrap_or_default(),
        tag: text(entry, "consulServiceTag").map(|tag| tag.trim().to_ascii_lowercase()).filter(|tag| !tag.is_empty()),
        token: credentials.text("consulToken").map(Secret::new),
    }
}

fn nacos(api: NacosApi, credentials: &Credentials<'_>, entry: &mut Fields<'_>) -> RegistryKind {
    let groups: Vec<String> = entry.texts("nacosGroups").into_iter().filter(|group| !group.is_empty()).collect();
    if groups.is_empty() {
        entry.report().warn_hint(
            &entry.path_of("nacosGroups"),
            "names no group, so no service is found",
            "DEFAULT_GROUP is the one services are in unless they say otherwise",
        );
    }
    // Nanoseconds, as the field is a Go duration there.
    let refresh = entry.integer::<u64>("nacosRefreshInterval").filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    let namespace_id = text(entry, "nacosNamespaceId").unwrap_or_else(|| "public".to_owned());
    let namespace = text(entry, "nacosNamespace").unwrap_or_else(|| namespace_id.clone());
    entry.unsupported(&["nacosAddressServer"]);
    let signer = signer(entry);
    if api == NacosApi::V3 && entry.boolean("enableMCPServer").unwrap_or(false) {
        entry.unsupported(&["enableMCPServer"]);
    }
    let password = credentials.text("nacosPassword").unwrap_or_default();
    RegistryKind::Nacos {
        api,
        namespace_id,
        namespace,
        groups,
        refresh: refresh.unwrap_or(NACOS_REFRESH).max(NACOS_REFRESH_LIMIT),
        user: credentials.text("nacosUsername").map(|user| (user.to_owned(), Secret::new(password))),
        signer,
    }
}

fn signer(entry: &mut Fields<'_>) -> Option<(String, Secret)> {
    match (text(entry, "nacosAccessKey"), text(entry, "nacosSecretKey")) {
        (Some(access), Some(secret)) => Some((access, Secret::new(secret))),
        (None, None) => None,
        (Some(_), None) => {
            entry.report().warn(&entry.path_of("nacosAccessKey"), "has no effect without `nacosSecretKey`");
            None
        }
        (None, Some(_)) => {
            entry.report().warn(&entry.path_of("nacosSecretKey"), "has no effect without `nacosAccessKey`");
            None
        }
    }
}

fn zookeeper(entry: &mut Fields<'_>) -> RegistryKind {
    let mut paths = Vec::new();
    for path in entry.texts("zkServicesPath") {
        if !path.starts_with('/') {
            entry.report().error_hint(
                &entry.path_of("zkServicesPath"),
                format!("`{path}` is not a path"),
                "paths begin with a slash, as in /services",
            );
            continue;
        }
        let path = path.strip_suffix('/').unwrap_or(&path).to_owned();
        // These are looked into anyway.
        if path != "/dubbo" && path != "/services" && !paths.contains(&path) {
            paths.push(path);
        }
    }
    RegistryKind::ZooKeeper { paths }
}

fn virtual_ports(entry: &mut Fields<'_>) -> VirtualPorts {
    let mut ports = VirtualPorts::default();
    let Some(mut vport) = entry.object("vport") else { return ports };
    // Zero stands for none there.
    ports.default = vport.integer::<u16>("default").filter(|port| *port > 0);
    for mut service in vport.objects("services") {
        let (name, value) = (service.required_text("name"), service.port("value"));
        if let (Some(name), Some(value)) = (name, value) {
            ports.services.insert(name.to_owned(), value);
        }
        service.finish();
    }
    vport.finish();
    ports
}

fn text(entry: &mut Fields<'_>, key: &'static str) -> Option<String> {
    entry.text(key).filter(|text| !text.is_empty()).map(str::to_owned)
}
