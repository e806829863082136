//! `data.mesh` of the ConfigMap `higress-config`: Istio's mesh configuration, of which the access log and the proxies in front
//! concern this gateway.

use super::log_format;
use crate::config::fields::Fields;
use crate::config::model::GatewaySettings;

/// How Istio's parts find each other and what they do to each other; no traffic of this gateway.
const INERT: &[&str] = &[
    "accessLogEncoding",
    "configSources",
    "connectTimeout",
    "defaultDestinationRuleExportTo",
    "defaultProviders",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "disableEnvoyListenerLog",
    "dnsRefreshRate",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "extensionProviders",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "localityLbSetting",
    "outboundTrafficPolicy",
    "pathNormalization",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyListenPort",
    "rootNamespace",
    "trustDomain",
    "trustDomainAliases",
    "verifyCertificateAtClient",
];

pub(super) fn read(mut fields: Fields<'_>, settings: &mut GatewaySettings) {
    let report = fields.report();
    match fields.text("accessLogFile") {
        None | Some("/dev/stdout") => {}
        Some(file) => report.warn(
            &fields.path_of("accessLogFile"),
            format!("\"{file}\" has no effect: `telemetry.access_log` of config.toml says where lines go"),
        ),
    }
    let path = fields.path_of("accessLogFormat");
    let format = fields.text("accessLogFormat").filter(|format| !format.trim().is_empty());
    settings.access_log = format.and_then(|format| log_format::parse(format, &path, report));
    // Of the proxy's own settings the rest concerns the parts of Istio.
    if let Some(mut topology) = fields.object("defaultConfig").and_then(|mut proxy| proxy.object("gatewayTopology")) {
        let trusted = topology.integer("numTrustedProxies");
        if trusted.is_none() && topology.value("numTrustedProxies").is_some() {
            let path = topology.path_of("numTrustedProxies");
            report
                .of_the_whole()
                .error(&path, "says whose word on client addresses is taken; nothing is served with a guess");
        }
        settings.trusted_proxies = trusted.unwrap_or_default();
        topology.unsupported(&["forwardClientCertDetails", "proxyProtocol"]);
        topology.finish();
    }
    if let Some(mut global) = fields.object("mseIngressGlobalConfig") {
        for key in ["enableH3", "enableProxyProtocol"] {
            if global.boolean(key).unwrap_or(false) {
                report.warn(&global.path_of(key), "is not supported: neither HTTP/3 nor the PROXY protocol is spoken");
            }
        }
        global.finish();
    }
    fields.inert(INERT);
    fields.finish();
}
