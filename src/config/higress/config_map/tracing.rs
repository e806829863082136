//! `tracing` of the ConfigMap `higress-config` (Higress `configmap/tracing.go`): one of three collectors, a service of the
//! gateway, gets spans of a share of the requests.

use std::time::Duration;

use crate::base::secret::Secret;
use crate::config::fields::Fields;
use crate::config::link::Services;
use crate::config::model::{Collector, Protocol, Tracing};

const SAMPLING: f64 = 100.0;
const TIMEOUT_MS: u32 = 500;

/// `None` where it is switched off, which a section that does not say `enable: true` is.
pub(super) fn read(mut fields: Fields<'_>, services: &Services) -> Option<Tracing> {
    let report = fields.report();
    let part = report.part();
    let is_enabled = fields.boolean("enable").unwrap_or(false);
    let sampling = match fields.value("sampling").map(|value| value.as_f64()) {
        None => SAMPLING,
        Some(Some(share)) if (0.0..=100.0).contains(&share) => share,
        Some(_) => {
            report.error(&fields.path_of("sampling"), "must be a percentage, a number from 0 to 100");
            SAMPLING
        }
    };
    let timeout = fields.integer::<u32>("timeout").unwrap_or(TIMEOUT_MS);
    if timeout == 0 {
        report.error(&fields.path_of("timeout"), "must be above zero: the milliseconds a collector has to take spans");
    }
    let mut collectors = Vec::new();
    if let Some(zipkin) = fields.object("zipkin") {
        collectors.push((Collector::Zipkin, place(zipkin, services, None)));
    }
    if let Some(mut skywalking) = fields.object("skywalking") {
        let token = skywalking.text("access_token").filter(|token| !token.is_empty()).map(Secret::new);
        let collector = Collector::SkyWalking { access_token: token };
        collectors.push((collector, place(skywalking, services, Some((11800, 12800)))));
    }
    if let Some(opentelemetry) = fields.object("opentelemetry") {
        collectors.push((Collector::OpenTelemetry, place(opentelemetry, services, Some((4317, 4318)))));
    }
    if collectors.len() > 1 || (is_enabled && collectors.is_empty()) {
        report.error_hint(
            fields.path(),
            format!("names {} collectors, but traces go to exactly one", collectors.len()),
            "keep one of zipkin, skywalking and opentelemetry",
        );
    }
    fields.finish();
    let (collector, (service, port)) = collectors.pop().filter(|_| is_enabled && part.is_whole())?;
    let timeout = Duration::from_millis(timeout.into());
    Some(Tracing { collector, service: service?, port: port?, sampling, timeout })
}

/// Service and port of a collector. `usual` are its ports for gRPC, which Higress speaks, and for HTTP, which this gateway
/// does.
fn place(mut fields: Fields<'_>, services: &Services, usual: Option<(u16, u16)>) -> (Option<String>, Option<u16>) {
    let report = fields.report();
    let host = fields.required_text("service").map(str::to_owned);
    if fields.value("port").is_none() {
        report.error(&fields.path_of("port"), "is missing");
    }
    let port = fields.port("port");
    if let (Some(host), Some(port)) = (&host, port) {
        let service = services.get(host);
        let found = service.and_then(|service| service.port(Some(port)));
        if found.is_none() && !services.may_come(host) {
            report.warn_hint(
                &fields.path_of("service"),
                format!("there is no service `{host}` with port {port}, so no traces are exported"),
                "add it to the McpBridge, or as a Service",
            );
        }
        let speaks_grpc = found.is_some_and(|found| found.protocol == Protocol::Http2);
        if let Some((grpc, http)) = usual.filter(|(grpc, _)| *grpc == port || speaks_grpc) {
            report.warn_hint(
                &fields.path_of("port"),
                format!("{port} looks like the collector's port for gRPC; this gateway exports over HTTP"),
                format!("use a service of protocol http with the collector's other port, {http} instead of {grpc}"),
            );
        }
    }
    fields.finish();
    (host, port)
}
