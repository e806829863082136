//! How the endpoints of a service are treated: which of them are left out, and how much they get at once. Plain data like
//! the rest of the model; the terms are those of Envoy and Istio.

use std::time::Duration;

use serde::Serialize;

use super::{LoadBalance, TlsPolicy, is_default};

/// What is said for a service as a whole, whatever route leads to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrafficPolicy {
    /// For routes that do not say.
    pub load_balance: Option<LoadBalance>,
    /// `None`: as the process is set.
    pub outlier: Option<OutlierDetection>,
    pub health_check: Option<HealthCheck>,
    /// Below this share of usable endpoints all are used again. With 0 that is so when there is none.
    pub min_health_percent: u32,
    pub slow_start: Option<SlowStart>,
    #[serde(skip_serializing_if = "is_default")]
    pub limits: CircuitBreakers,
    /// Instead of what the service's registry says; a route may still say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
}

/// Whether a service is spoken to over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    Off,
    On(TlsPolicy),
}

/// Endpoints that keep failing are left out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// Failures to connect or to answer, and statuses 502, 503 and 504, in a row; 0 never.
    pub consecutive_gateway_errors: u32,
    /// Those, and every other status from 500 on, in a row; 0 never.
    pub consecutive_5xx_errors: u32,
    /// Without a new ejection for so long the next one is shorter by one step again.
    pub interval: Duration,
    /// The first ejection; the second in a row is twice as long, and so on.
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    /// Of the endpoints at once; one may always be left out, unless this is 0.
    pub max_ejection_percent: u32,
}

/// Endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring an endpoint back; not zero.
    pub healthy_threshold: u32,
    /// Failures in a row that take it out; not zero.
    pub unhealthy_threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A connection is enough.
    Tcp,
    /// GET of a path, over TLS or HTTP/2 where the service has it.
    Http { path: String, host: Option<String>, expected: Vec<StatusRange> },
}

/// Both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StatusRange {
    pub start: u16,
    pub end: u16,
}

/// Endpoints that are new or have come back get their share by and by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SlowStart {
    pub window: Duration,
    /// 1 is a straight line; more starts faster. Above zero.
    pub aggression: f64,
    /// Where it starts.
    pub min_percent: f64,
}

/// How much a service gets at once; what is more is answered with 503.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CircuitBreakers {
    /// Of HTTP/1.1: requests that are being served.
    pub max_connections: Option<u32>,
    /// Requests that wait for one of those.
    pub max_pending: Option<u32>,
    /// Requests, waiting or being served.
    pub max_requests: Option<u32>,
    /// Repeated requests; without effect beside a budget.
    pub max_retries: Option<u32>,
    pub retry_budget: Option<RetryBudget>,
}

/// Repeated requests as a share of all that are being served.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RetryBudget {
    pub percent: f64,
    /// So many are allowed whatever the share.
    pub min_concurrency: u32,
}
