//! What the gateway tells about requests: traces and the form of the access log. Plain data like the rest of the model.

use std::time::Duration;

use serde::Serialize;

use crate::base::secret::Secret;

/// Where traces are exported to, and which.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tracing {
    pub collector: Collector,
    /// Key in [`Gateway::services`](super::Gateway::services), unless it is missing there.
    pub service: String,
    pub port: u16,
    /// Percentage of the traces that begin here.
    pub sampling: f64,
    /// For one POST to the collector.
    pub timeout: Duration,
}

/// Whose form spans and the headers towards upstreams have.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Collector {
    OpenTelemetry,
    SkyWalking { access_token: Option<Secret> },
    Zipkin,
}

/// A line of the access log, piece by piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogFormat {
    pub pieces: Vec<LogPiece>,
    /// The line is JSON: what stands in values is escaped.
    pub is_json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogPiece {
    Text(String),
    Value {
        of: LogValue,
        /// Characters; the rest is cut off.
        longest: Option<usize>,
    },
}

/// What a format of Envoy can name and this gateway knows; all else is [`LogValue::Unknown`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogValue {
    /// Lower case; the second counts where the first is missing.
    RequestHeader(String, Option<String>),
    ResponseHeader(String, Option<String>),
    /// With a format as `strftime` has it; `None` is RFC 3339 with milliseconds.
    StartTime(Option<String>),
    BytesReceived,
    BytesSent,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    Duration,
    RouteName,
    UpstreamCluster,
    UpstreamHost,
    /// As the proxies in front say, if they are trusted.
    ClientAddress {
        with_port: bool,
    },
    /// The other end of the connection.
    PeerAddress {
        with_port: bool,
    },
    LocalAddress {
        with_port: bool,
    },
    ServerName,
    TraceId,
    /// What a plugin left under this name.
    PluginValue(String),
    /// Shown as `-`, as Envoy shows what there is not.
    Unknown,
}
