//! `config.toml`: settings of the process, not of the traffic (those are objects in the configuration folder). Every key
//! has a default, so the file may be missing; flags of `weirgate serve` win over it.
//!
//! The descriptions below are the comments of the generated file and of the JSON schema.

mod document;
mod load;
mod rag;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::rag::{Rag, RagEmbedding, RagWeb};
pub use document::{commented_default, json_schema};

/// Settings of one Weirgate process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Folder of YAML objects in the layout of a Higress standalone installation; watched for changes.
    pub config_dir: PathBuf,
    /// Folder for what the gateway itself writes: database, knowledge bases, certificates.
    pub data_dir: PathBuf,
    /// Folder of model files.
    pub models_dir: PathBuf,
    pub listen: Listen,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub outlier_detection: OutlierDetection,
    pub flywheel: Flywheel,
    pub routing: Routing,
    pub rag: Rag,
    pub telemetry: Telemetry,
    pub acme: Acme,
}

/// Where certificates come from that the ConfigMap higress-https wants ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Acme {
    /// URL of the authority's directory. Ordering from it is agreeing to its terms of service.
    pub directory: String,
    /// How domains are proved: `http-01` on port 80 or `tls-alpn-01` on port 443 of each domain.
    pub challenge: AcmeChallenge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Default for Acme {
    /// The authority and the challenge of Higress.
    fn default() -> Self {
        let directory = "https://acme-v02.api.letsencrypt.org/directory".to_owned();
        Self { directory, challenge: AcmeChallenge::Http01 }
    }
}

/// Where the process listens. Port 0 takes a free one and prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Listen {
    /// Address for traffic.
    pub bind: IpAddr,
    pub http_port: u16,
    pub https_port: u16,
    /// Address for console, REST API and metrics. Loopback unless something in front of it keeps strangers out.
    pub admin_bind: IpAddr,
    pub admin_port: u16,
}

/// What one request may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// Body that has to be read before it is forwarded, as prompts are; 413 beyond. Bodies that stream through have no limit.
    pub max_body_bytes: usize,
    /// Request line and headers together; 431 beyond, 414 if the request line alone is longer. The ConfigMap higress-config
    /// wins over it.
    pub max_header_bytes: usize,
    /// Refuse upstreams whose TLS certificate is not valid for their name. Higress does not check it; without the check,
    /// API keys go to whoever answers.
    pub verify_upstream_tls: bool,
}

/// How long each phase of a request may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Timeouts {
    /// For the whole head of a request, and between two pieces of its body; 408 beyond.
    pub request_read_secs: u64,
    /// TCP and TLS towards the upstream.
    pub connect_ms: u64,
    /// From the request being sent to the first byte of the answer; a model that does not stream thinks all that time.
    pub first_byte_secs: u64,
    /// Between two pieces of a model's streamed answer. Other routes have one limit for both, the longer one.
    pub stream_idle_secs: u64,
    /// A client's connection without a request. The ConfigMap higress-config wins over it.
    pub client_idle_secs: u64,
    /// A pooled upstream connection without a request. The ConfigMap higress-config wins over it.
    pub upstream_idle_secs: u64,
    /// Requests in flight when the process is told to stop.
    pub drain_secs: u64,
}

/// When an endpoint that keeps failing is left out for a while, as long as its service has others. A DestinationRule for
/// the service wins over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OutlierDetection {
    /// Failures to connect or to answer, and statuses 502, 503 and 504, in a row; 0 never.
    pub consecutive_gateway_errors: u32,
    /// Those, and every other status from 500 on, in a row; 0 never.
    pub consecutive_5xx_errors: u32,
    /// The first time; the second in a row takes twice as long, and so on up to max_ejection_secs.
    pub base_ejection_secs: u64,
    pub max_ejection_secs: u64,
    /// Of a service's endpoints at once; one may always be left out, unless this is 0.
    pub max_ejection_percent: u32,
}

/// The record of requests, answers and scores that the router learns from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Flywheel {
    /// A crash loses at most the rows of this interval.
    pub flush_interval_ms: u64,
    /// Rows waiting to be written; beyond this they are dropped and counted, requests never wait.
    pub queue_rows: usize,
    /// Store hashes instead of the text of prompts and answers. The router then learns from features only.
    pub redact: bool,
    /// Rows older than this are deleted; 0 keeps them.
    pub retention_days: u32,
    /// The oldest rows are deleted when the database grows beyond this; 0 sets no bound.
    pub retention_max_mb: u64,
}

/// When the router retrains itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Routing {
    /// After this many new scored rows; 0 never.
    pub retrain_rows: u64,
    /// At the latest after this long, if there is any new scored row; 0 never.
    pub retrain_interval_secs: u64,
}

/// What the process tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Telemetry {
    /// `text` or `json`, on standard error.
    pub log_format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,weirgate::proxy=debug`.
    pub log_level: String,
    /// One JSON line per request: `stdout`, `off`, or the path of a file.
    pub access_log: AccessLog,
    /// OpenTelemetry collector (OTLP over HTTP). Nothing is exported without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "http://127.0.0.1:4318")]
    pub otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

impl From<String> for AccessLog {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            _ => Self::File(text.into()),
        }
    }
}

impl From<AccessLog> for String {
    fn from(target: AccessLog) -> Self {
        match target {
            AccessLog::Off => "off".to_owned(),
            AccessLog::Stdout => "stdout".to_owned(),
            AccessLog::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config_dir: "config".into(),
            data_dir: "data".into(),
            models_dir: "models".into(),
            listen: Listen::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            outlier_detection: OutlierDetection::default(),
            flywheel: Flywheel::default(),
            routing: Routing::default(),
            rag: Rag::default(),
            telemetry: Telemetry::default(),
            acme: Acme::default(),
        }
    }
}

impl Default for Listen {
    /// The ports of Higress all-in-one.
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            http_port: 8080,
            https_port: 8443,
            admin_bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            admin_port: 8001,
        }
    }
}

impl Default for Limits {
    /// 100 MiB is the buffer Higress' AI plugins ask for, 60 KiB its limit for headers.
    fn default() -> Self {
        Self { max_body_bytes: 100 << 20, max_header_bytes: 60 << 10, verify_upstream_tls: true }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_read_secs: 10,
            connect_ms: 5_000,
            first_byte_secs: 300,
            stream_idle_secs: 120,
            client_idle_secs: 180,
            upstream_idle_secs: 10,
            drain_secs: 30,
        }
    }
}

impl Default for OutlierDetection {
    /// Times are Envoy's.
    fn default() -> Self {
        Self {
            consecutive_gateway_errors: 5,
            consecutive_5xx_errors: 0,
            base_ejection_secs: 30,
            max_ejection_secs: 300,
            max_ejection_percent: 50,
        }
    }
}

impl Default for Flywheel {
    fn default() -> Self {
        Self { flush_interval_ms: 200, queue_rows: 10_000, redact: false, retention_days: 90, retention_max_mb: 4_096 }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self { retrain_rows: 500, retrain_interval_secs: 3_600 }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            access_log: AccessLog::Stdout,
            otlp_endpoint: None,
        }
    }
}
