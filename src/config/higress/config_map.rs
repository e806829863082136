//! ConfigMap `higress-config`: settings for all traffic, as YAML under `data.higress`, and Istio's under `data.mesh`. Other
//! ConfigMaps are the console's notes (AI routes, domains) and have no effect on traffic in Higress either, except
//! `higress-https`, which [`https`](super::https) reads.

mod log_format;
mod mcp_rag;
mod mcp_server;
mod mesh;
mod tracing;

use std::time::Duration;

use super::secret::Secrets;
use super::{secret_refs, skip_common};
use crate::config::SYSTEM_NAMESPACE;
use crate::config::fields::Fields;
use crate::config::link::Services;
use crate::config::model::{GatewaySettings, Gzip};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;
use crate::config::suggest::nearest;
use crate::config::yaml;

const NAME: &str = "higress-config";
/// Read elsewhere, and by the console.
const HTTPS: &str = "higress-https";
const CONSOLE: &str = "higress-console";
/// Envoy's limit.
const MAX_HEADERS_KB: usize = 8192;

/// The ConfigMaps that count are those of one namespace; one of the same name elsewhere was hardly meant to do nothing.
pub(super) fn is_of_system(object: &RawObject, report: &Report) -> bool {
    let is_of_system = object.origin.namespace == SYSTEM_NAMESPACE;
    if !is_of_system {
        report.on(&object.origin).warn_hint(
            "metadata.namespace",
            format!("only the ConfigMap of the namespace {SYSTEM_NAMESPACE} is read; this one has no effect"),
            "`weirgate import DIR --flatten COPY` writes a folder as Higress standalone reads it, without namespaces",
        );
    }
    is_of_system
}

/// Changes `settings` if this is the ConfigMap that holds them.
pub(in crate::config) fn read(
    object: &RawObject,
    services: &Services,
    secrets: &Secrets,
    report: &Report,
    settings: &mut GatewaySettings,
) {
    let name = object.origin.name.as_str();
    if name != NAME {
        let meant = nearest(name, [NAME, HTTPS]).filter(|_| ![HTTPS, CONSOLE].contains(&name));
        if let Some(meant) = meant {
            let message = "is none of the ConfigMaps that are read, so this one has no effect";
            report.on(&object.origin).warn_hint("metadata.name", message, format!("did you mean `{meant}`?"));
        }
        return;
    }
    if !is_of_system(object, report) {
        return;
    }
    let report = report.on_parts_of(&object.origin);
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    fields.inert(&["binaryData", "immutable"]);
    let data = fields.text_map("data");
    fields.finish();
    for (key, text) in data {
        let path = format!("data.{key}");
        match key {
            "higress" => {
                if let Some(value) = parsed(&text, &path, secrets, report) {
                    read_settings(Fields::new(&value, path, report), services, settings);
                }
            }
            "mesh" => {
                if let Some(value) = parsed(&text, &path, secrets, report) {
                    mesh::read(Fields::new(&value, path, report), settings);
                }
            }
            // Networks of several clusters.
            "meshNetworks" => {}
            _ => report.warn(&path, "is not a key of this ConfigMap and has no effect"),
        }
    }
}

/// The YAML under one key, with references to Secrets replaced; `None` if it is none, which has been reported.
pub(super) fn parsed(text: &str, path: &str, secrets: &Secrets, report: ObjectReport<'_>) -> Option<serde_json::Value> {
    match yaml::parse(text) {
        Ok(value) => Some(secret_refs::resolve(&value, path, secrets, report).into_owned()),
        Err(error) => {
            let line = error.line.map(|line| format!("line {line} ")).unwrap_or_default();
            report.error(path, format!("{line}is not valid YAML: {}", error.message));
            None
        }
    }
}

fn read_settings(mut fields: Fields<'_>, services: &Services, settings: &mut GatewaySettings) {
    let seconds =
        |fields: &mut Fields<'_>, key| fields.integer::<u32>(key).map(|value| Duration::from_secs(value.into()));
    if let Some(mut downstream) = fields.object("downstream") {
        settings.downstream_idle_timeout = seconds(&mut downstream, "idleTimeout");
        settings.route_timeout = seconds(&mut downstream, "routeTimeout").filter(|timeout| !timeout.is_zero());
        if let Some(kilobytes) = downstream.integer::<usize>("maxRequestHeadersKb") {
            if (1..=MAX_HEADERS_KB).contains(&kilobytes) {
                settings.max_request_header_bytes = Some(kilobytes * 1024);
            } else {
                let path = downstream.path_of("maxRequestHeadersKb");
                downstream.report().error(&path, format!("must be between 1 and {MAX_HEADERS_KB}, not {kilobytes}"));
            }
        }
        if let Some(mut http2) = downstream.object("http2") {
            read_http2(&mut http2, settings);
            http2.finish();
        }
        check_buffer_limit(&mut downstream);
        downstream.finish();
    }
    if let Some(mut upstream) = fields.object("upstream") {
        settings.upstream_idle_timeout = seconds(&mut upstream, "idleTimeout");
        check_buffer_limit(&mut upstream);
        upstream.finish();
    }
    settings.add_x_real_ip = fields.boolean("addXRealIpHeader").unwrap_or_default();
    settings.disable_x_envoy_headers = fields.boolean("disableXEnvoyHeaders").unwrap_or_default();
    settings.gzip = match fields.object("gzip") {
        Some(gzip) => read_gzip(gzip),
        // Higress compresses unless told not to.
        None => Some(Gzip::default()),
    };
    settings.tracing = fields.object("tracing").and_then(|section| tracing::read(section, services));
    if let Some(section) = fields.object("mcpServer") {
        settings.mcp_servers = mcp_server::read(section);
    }
    fields.finish();
}

/// Envoy's buffers. Here a connection's buffers have sizes of their own and a body's limit is `limits.max_body_bytes`, so the value
/// only has to be one.
fn check_buffer_limit(fields: &mut Fields<'_>) {
    fields.integer::<u32>("connectionBufferLimits");
}

const LEVELS: &[(&str, u32)] = &[
    ("DEFAULT_COMPRESSION", 6),
    ("BEST_SPEED", 1),
    ("COMPRESSION_LEVEL_1", 1),
    ("COMPRESSION_LEVEL_2", 2),
    ("COMPRESSION_LEVEL_3", 3),
    ("COMPRESSION_LEVEL_4", 4),
    ("COMPRESSION_LEVEL_5", 5),
    ("COMPRESSION_LEVEL_6", 6),
    ("COMPRESSION_LEVEL_7", 7),
    ("COMPRESSION_LEVEL_8", 8),
    ("COMPRESSION_LEVEL_9", 9),
    ("BEST_COMPRESSION", 9),
];
const STRATEGIES: &[&str] = &["DEFAULT_STRATEGY", "FILTERED", "HUFFMAN_ONLY", "RLE", "FIXED"];

/// `None` where it is switched off, which a section that does not say `enable: true` is.
fn read_gzip(mut fields: Fields<'_>) -> Option<Gzip> {
    let is_enabled = fields.boolean("enable").unwrap_or(false);
    let mut gzip = Gzip::default();
    let mut within = |key, low: u64, high: u64| {
        let value = fields.integer::<u64>(key)?;
        if (low..=high).contains(&value) {
            return Some(value);
        }
        fields.report().error(&fields.path_of(key), format!("must be between {low} and {high}, not {value}"));
        None
    };
    if let Some(length) = within("minContentLength", 1, u64::from(u32::MAX)) {
        gzip.min_content_length = length;
    }
    if let Some(bits) = within("windowBits", 9, 15).and_then(|bits| u8::try_from(bits).ok()) {
        gzip.window_bits = bits;
    }
    if let Some(size) = within("chunkSize", 4096, 65536).and_then(|size| usize::try_from(size).ok()) {
        gzip.chunk_size = size;
    }
    // How much memory the search for repetitions takes is the library's choice.
    within("memoryLevel", 1, 9);
    if let Some(disable) = fields.boolean("disableOnEtagHeader") {
        gzip.disable_on_etag_header = disable;
    }
    let types = fields.texts("contentType");
    if !types.is_empty() {
        gzip.content_types = types.iter().map(|kind| kind.trim().to_ascii_lowercase()).collect();
    }
    if let Some(level) = fields.text("compressionLevel") {
        match LEVELS.iter().find(|(name, _)| *name == level) {
            Some((_, level)) => gzip.level = *level,
            None => {
                let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
                let message = format!("`{level}` is no level; these are: {}", names.join(", "));
                fields.report().error(&fields.path_of("compressionLevel"), message);
            }
        }
    }
    if let Some(strategy) = fields.text("compressionStrategy").filter(|strategy| !STRATEGIES.contains(strategy)) {
        let message = format!("`{strategy}` is no strategy; these are: {}", STRATEGIES.join(", "));
        fields.report().error(&fields.path_of("compressionStrategy"), message);
    }
    fields.finish();
    is_enabled.then_some(gzip)
}

fn read_http2(http2: &mut Fields<'_>, settings: &mut GatewaySettings) {
    // RFC 9113, 6.5.2 and 6.9.1: at least one stream, windows of 65,535 to 2^31-1 bytes.
    let mut within = |key, low: u32, target: &mut u32| {
        if let Some(value) = http2.integer::<u32>(key) {
            if (low..=0x7fff_ffff).contains(&value) {
                *target = value;
            } else {
                http2.report().error(&http2.path_of(key), format!("must be between {low} and 2147483647, not {value}"));
            }
        }
    };
    within("maxConcurrentStreams", 1, &mut settings.http2.max_concurrent_streams);
    within("initialStreamWindowSize", 65_535, &mut settings.http2.initial_stream_window);
    within("initialConnectionWindowSize", 65_535, &mut settings.http2.initial_connection_window);
}
