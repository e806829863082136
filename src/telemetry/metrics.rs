//! Every metric of the process, in one place: names, labels and help texts are part of the interface.
//!
//! The three `semantic_router_*` names are given by the Higress routing challenge, the `route_upstream_model_consumer_*`
//! ones by Higress' `ai-statistics`; the rest begins with `weirgate_`.

mod labels;

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

pub use self::labels::{
    AiLabels, AttemptOutcome, ByDomain, ByModel, ByRegistry, BySecret, ByService, CheckResult, EmbeddingResult,
    OrderResult, Refused, ReloadResult, RouteStatus, ServiceLimit, ServiceOutcome, ShadowResult,
};

/// Handles to all metrics. Shared by everything that counts; encoded by the admin port.
pub struct Metrics {
    registry: Registry,
    pub requests: Family<RouteStatus, Counter>,
    pub request_seconds: Histogram,
    pub requests_in_flight: Gauge,
    pub refused: Family<Refused, Counter>,
    pub attempts: Family<ServiceOutcome, Counter>,
    pub upstream_ejections: Family<ByService, Counter>,
    pub upstream_panics: Family<ByService, Counter>,
    pub upstream_overflow: Family<ServiceLimit, Counter>,
    pub upstream_checks: Family<CheckResult, Counter>,
    pub upstream_unwell: Family<ByService, Gauge>,
    pub access_log_shed: Counter,
    pub mirror_shed: Counter,
    pub config_reloads: Family<ReloadResult, Counter>,
    pub config_snapshot: Gauge,
    pub certificate_failing: Family<ByDomain, Gauge>,
    pub registry_up: Family<ByRegistry, Gauge>,
    pub registry_failures: Family<ByRegistry, Counter>,
    pub certificate_not_after: Family<BySecret, Gauge>,
    pub certificate_orders: Family<OrderResult, Counter>,
    pub flywheel_rows: Counter,
    pub flywheel_shed: Counter,
    pub flywheel_failed: Counter,
    pub flywheel_unmatched: Counter,
    pub flywheel_suspended: Gauge,
    pub shadow_calls: Family<ShadowResult, Counter>,
    pub decision_seconds: Histogram,
    pub embeddings: Family<EmbeddingResult, Counter>,
    pub routed: Family<ByModel, Counter>,
    pub response_time: Family<ByModel, Histogram, fn() -> Histogram>,
    pub accuracy: Family<ByModel, Gauge<f64, AtomicU64>>,
    pub large_model_share: Gauge<f64, AtomicU64>,
    pub ai: AiCounters,
    large_share: LargeShare,
}

/// A counter whose name is all of its name: OpenMetrics puts `_total` behind that of a [`Counter`], which Higress' dashboards do not
/// know.
#[derive(Clone, Debug, Default)]
pub struct Sum(Gauge);

impl Sum {
    pub fn inc_by(&self, amount: u64) {
        self.0.inc_by(i64::try_from(amount).unwrap_or(i64::MAX));
    }

    pub fn inc(&self) {
        self.inc_by(1);
    }
}

impl EncodeMetric for Sum {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Sum {
    const TYPE: MetricType = MetricType::Unknown;
}

/// What Higress' `ai-statistics` exports, under the same names.
pub struct AiCounters {
    pub input_token: Family<AiLabels, Sum>,
    pub output_token: Family<AiLabels, Sum>,
    pub total_token: Family<AiLabels, Sum>,
    pub llm_service_duration: Family<AiLabels, Sum>,
    pub llm_duration_count: Family<AiLabels, Sum>,
    pub llm_first_token_duration: Family<AiLabels, Sum>,
    pub llm_stream_duration_count: Family<AiLabels, Sum>,
    pub llm_failure_count: Family<AiLabels, Sum>,
}

#[derive(Default)]
struct LargeShare {
    all: AtomicU64,
    large: AtomicU64,
}

fn seconds_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::default();
        let r = &mut registry;
        let ai = AiCounters {
            input_token: ai_counter(r, "input_token", "Prompt tokens"),
            output_token: ai_counter(r, "output_token", "Completion tokens"),
            total_token: ai_counter(r, "total_token", "Prompt and completion tokens"),
            llm_service_duration: ai_counter(
                r,
                "llm_service_duration",
                "Milliseconds from request to last byte, summed",
            ),
            llm_duration_count: ai_counter(r, "llm_duration_count", "Answers that llm_service_duration sums over"),
            llm_first_token_duration: ai_counter(
                r,
                "llm_first_token_duration",
                "Milliseconds to the first token, summed",
            ),
            llm_stream_duration_count: ai_counter(
                r,
                "llm_stream_duration_count",
                "Streams that llm_first_token_duration sums over",
            ),
            llm_failure_count: ai_counter(r, "llm_failure_count", "Model calls that failed"),
        };
        Metrics {
            requests: register(r, "weirgate_requests", "Requests answered, by route and status", Family::default()),
            request_seconds: register(
                r,
                "weirgate_request_seconds",
                "Time from request head to last byte",
                seconds_histogram(),
            ),
            requests_in_flight: register(r, "weirgate_requests_in_flight", "Requests being served", Gauge::default()),
            refused: register(
                r,
                "weirgate_refused_heads",
                "HTTP/1 heads refused before they were requests, by reason",
                Family::default(),
            ),
            attempts: register(
                r,
                "weirgate_upstream_attempts",
                "Attempts on the exchange path, by service and outcome",
                Family::default(),
            ),
            upstream_ejections: register(
                r,
                "weirgate_upstream_ejections",
                "Endpoints left out for a while because they kept failing, by service",
                Family::default(),
            ),
            upstream_panics: register(
                r,
                "weirgate_upstream_panics",
                "Requests that all endpoints of a service were considered for because too few were usable",
                Family::default(),
            ),
            upstream_overflow: register(
                r,
                "weirgate_upstream_overflow",
                "Requests and repetitions refused by a circuit breaker, by service and limit",
                Family::default(),
            ),
            upstream_checks: register(
                r,
                "weirgate_upstream_health_checks",
                "Health checks of endpoints, by service and result",
                Family::default(),
            ),
            upstream_unwell: register(
                r,
                "weirgate_upstream_unhealthy_endpoints",
                "Endpoints that health checks keep out, by service",
                Family::default(),
            ),
            access_log_shed: register(
                r,
                "weirgate_access_log_shed",
                "Access log lines lost, because the sink was too slow or failed",
                Counter::default(),
            ),
            mirror_shed: register(
                r,
                "weirgate_mirror_shed",
                "Copies of requests not sent because too many were on their way",
                Counter::default(),
            ),
            config_reloads: register(
                r,
                "weirgate_config_reloads",
                "Configuration reloads, by result",
                Family::default(),
            ),
            config_snapshot: register(
                r,
                "weirgate_config_snapshot",
                "Number of the serving configuration snapshot",
                Gauge::default(),
            ),
            registry_up: register(
                r,
                "weirgate_registry_up",
                "Whether a registry answered when it was asked last",
                Family::default(),
            ),
            registry_failures: register(
                r,
                "weirgate_registry_failures",
                "Times that a registry could not be asked",
                Family::default(),
            ),
            certificate_not_after: register(
                r,
                "weirgate_certificate_not_after_seconds",
                "End of validity of a served certificate, seconds since 1970, by Secret",
                Family::default(),
            ),
            certificate_failing: register(
                r,
                "weirgate_certificate_order_failing",
                "Whether the last order of a domain's certificate failed",
                Family::default(),
            ),
            certificate_orders: register(
                r,
                "weirgate_certificate_orders",
                "Certificates ordered from the ACME authority, by result",
                Family::default(),
            ),
            flywheel_rows: register(r, "weirgate_flywheel_rows", "Rows written to the flywheel", Counter::default()),
            flywheel_shed: register(
                r,
                "weirgate_flywheel_shed",
                "Flywheel rows dropped because the queue was full",
                Counter::default(),
            ),
            flywheel_failed: register(
                r,
                "weirgate_flywheel_failed",
                "Flywheel rows lost to write errors",
                Counter::default(),
            ),
            flywheel_unmatched: register(
                r,
                "weirgate_flywheel_unmatched",
                "Answers, scores and feedback whose exchange was never recorded",
                Counter::default(),
            ),
            flywheel_suspended: register(
                r,
                "weirgate_flywheel_suspended",
                "1 while the flywheel cannot write",
                Gauge::default(),
            ),
            shadow_calls: register(r, "weirgate_shadow_calls", "Shadow calls, by result", Family::default()),
            decision_seconds: register(
                r,
                "weirgate_routing_decision_seconds",
                "Time to decide on a model",
                Histogram::new(exponential_buckets(0.000_02, 2.0, 14)),
            ),
            embeddings: register(
                r,
                "weirgate_embeddings",
                "Embeddings that routing asked for, by result",
                Family::default(),
            ),
            routed: register(r, "semantic_router_requests", "Requests by the model that answered", Family::default()),
            response_time: register(
                r,
                "semantic_router_response_time_histogram",
                "Seconds from request to last byte, by model",
                Family::new_with_constructor(seconds_histogram as fn() -> Histogram),
            ),
            accuracy: register(
                r,
                "semantic_router_accuracy_score",
                "Running mean score of answers, by model; `all` over every model",
                Family::default(),
            ),
            large_model_share: register(
                r,
                "semantic_router_large_model_share",
                "Share of routed requests answered by a model tagged large",
                Gauge::default(),
            ),
            ai,
            large_share: LargeShare::default(),
            registry,
        }
    }

    /// Counts a routed request for the share of large models.
    pub fn count_routed(&self, model: &str, is_large: bool) {
        self.routed.get_or_create(&ByModel { model: model.to_owned() }).inc();
        let all = self.large_share.all.fetch_add(1, Ordering::Relaxed) + 1;
        let large = self.large_share.large.fetch_add(u64::from(is_large), Ordering::Relaxed) + u64::from(is_large);
        #[expect(clippy::cast_precision_loss, reason = "request counts stay far below 2^52")]
        self.large_model_share.set(large as f64 / all as f64);
    }

    /// The registry in Prometheus text format.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register<M: Clone + prometheus_client::registry::Metric>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn ai_counter(registry: &mut Registry, name: &str, help: &str) -> Family<AiLabels, Sum> {
    register(registry, &format!("route_upstream_model_consumer_metric_{name}"), help, Family::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_challenge_are_exported_as_it_spells_them() {
        let metrics = Metrics::new();
        metrics.count_routed("qwen-math-7b", false);
        metrics.count_routed("qwen-max", true);
        metrics.response_time.get_or_create(&ByModel { model: "qwen-max".into() }).observe(0.5);
        metrics.accuracy.get_or_create(&ByModel { model: "all".into() }).set(0.75);
        let text = metrics.encode().unwrap();
        for line in [
            "semantic_router_requests_total{model=\"qwen-math-7b\"} 1",
            "semantic_router_response_time_histogram_count{model=\"qwen-max\"} 1",
            "semantic_router_accuracy_score{model=\"all\"} 0.75",
            "semantic_router_large_model_share 0.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} missing in\n{text}");
        }
    }
}
