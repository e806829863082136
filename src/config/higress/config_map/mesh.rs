//! `data.mesh` of the ConfigMap `higress-config`: Istio's mesh configuration, of which the access log concerns this gateway.

use super::log_format;
use crate::config::fields::Fields;
use crate::config::model::LogFormat;

/// How Istio's parts find each other and what they do to each other; no traffic of this gateway.
const INERT: &[&str] = &[
    "accessLogEncoding",
    "configSources",
    "connectTimeout",
    "defaultConfig",
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

/// The form of the access log, if one is given.
pub(super) fn read(mut fields: Fields<'_>) -> Option<LogFormat> {
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
    let format = format.and_then(|format| log_format::parse(format, &path, report));
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
    format
}
