//! What the ConfigMap `higress-config` says about all traffic.

use std::time::Duration;

use serde::Serialize;

use super::{LogFormat, McpServer, Tracing, as_seconds, is_default};

/// What the ConfigMap `higress-config` says about all traffic. Where a field is `None`, `config.toml` decides; an idle
/// timeout of zero means no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GatewaySettings {
    /// Client connection or stream without activity.
    #[serde(serialize_with = "as_seconds")]
    pub downstream_idle_timeout: Option<Duration>,
    /// Bytes of request line and headers.
    pub max_request_header_bytes: Option<usize>,
    pub http2: Http2Settings,
    /// For routes that set none. `None`: no limit.
    #[serde(serialize_with = "as_seconds")]
    pub route_timeout: Option<Duration>,
    /// Pooled upstream connection without activity.
    #[serde(serialize_with = "as_seconds")]
    pub upstream_idle_timeout: Option<Duration>,
    /// Proxies in front of this gateway that tell the truth about who asked them, counted from the gateway.
    #[serde(skip_serializing_if = "is_default")]
    pub trusted_proxies: usize,
    /// Send `x-real-ip` upstream.
    pub add_x_real_ip: bool,
    /// Keep `x-envoy-*` headers out of requests and responses.
    pub disable_x_envoy_headers: bool,
    /// Compression of answers; `None`: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gzip: Option<Gzip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// What a line of the access log looks like; `None`: as this gateway has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<LogFormat>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mcp_servers: Vec<McpServer>,
}

/// Which answers are compressed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gzip {
    /// Answers whose announced length is below this stay as they are.
    pub min_content_length: u64,
    /// Media types, lower case.
    pub content_types: Vec<String>,
    /// Leave answers with an `etag` alone; otherwise compression drops a strong tag, which names other bytes.
    pub disable_on_etag_header: bool,
    /// 1 (fast) to 9 (small).
    pub level: u32,
    /// Base-two logarithm of the window, 9 to 15.
    pub window_bits: u8,
    /// Bytes of room made at a time for what comes out.
    pub chunk_size: usize,
}

impl Default for Gzip {
    /// Higress' default object.
    fn default() -> Self {
        let types = [
            "text/html",
            "text/css",
            "text/plain",
            "text/xml",
            "application/json",
            "application/javascript",
            "application/xhtml+xml",
            "image/svg+xml",
        ];
        Self {
            min_content_length: 1024,
            content_types: types.map(str::to_owned).to_vec(),
            disable_on_etag_header: true,
            level: 9,
            window_bits: 12,
            chunk_size: 4096,
        }
    }
}

/// HTTP/2 towards clients. Windows in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Http2Settings {
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self { max_concurrent_streams: 100, initial_stream_window: 65_535, initial_connection_window: 1_048_576 }
    }
}
