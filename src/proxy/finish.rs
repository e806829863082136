//! The end of every request: plugins account, metrics count, the access log gets its line.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{StatusCode, Version};
use pingora_proxy::Session;

use super::context::Context;
use super::{log_line, span};
use crate::plugins::{Request, without_credentials};
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::telemetry::metrics::{Metrics, RouteStatus};
use crate::telemetry::spans::SpanSink;

pub fn finish(session: &mut Session, ctx: &mut Context, metrics: &Metrics, log: &AccessLog, spans: &SpanSink) {
    for plugin in ctx.ran.iter().rev() {
        let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        plugin.on_log(&mut request);
    }
    let elapsed = ctx.state.started.elapsed();
    // Zero: the client left before there was a status, as Envoy logs it.
    let status = session
        .response_written()
        .map(|head| head.status)
        .filter(|status| !status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS)
        .map(|status| status.as_u16())
        .or(ctx.status)
        .unwrap_or(0);
    metrics.requests.get_or_create(&RouteStatus { route: ctx.state.route.to_string(), status }).inc();
    metrics.request_seconds.observe(elapsed.as_secs_f64());
    span::send(spans, session, ctx, status);
    if log.is_on() {
        write_line(session, ctx, status, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), metrics, log);
    }
}

fn write_line(session: &Session, ctx: &Context, status: u16, duration: u64, metrics: &Metrics, log: &AccessLog) {
    let head = session.req_header();
    let bytes = |name: &str| head.headers.get(name).map(|value| value.as_bytes()).unwrap_or_default();
    let header = |name: &str| std::str::from_utf8(bytes(name)).unwrap_or_default();
    let llm = ctx.state.llm.as_deref();
    let started = started(duration);
    let details = match ctx.state.details.as_str() {
        "" => "via_upstream",
        details => details,
    };
    let entry = Entry {
        start_time: format!("{started:.3}"),
        request_id: &ctx.state.id.to_string(),
        trace_id: &ctx.trace.map(|trace| trace.trace_id_hex()).unwrap_or_default(),
        method: ctx.method.as_str(),
        authority: &ctx.state.host,
        path: &logged_path(ctx),
        protocol: protocol(head.version),
        response_code: status,
        response_code_details: details,
        response_flags: log_line::flags(details),
        duration,
        bytes_received: session.body_bytes_read(),
        bytes_sent: session.body_bytes_sent(),
        downstream_remote_address: &ctx.state.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        route_name: &ctx.state.route,
        upstream_cluster: &ctx.state.service,
        upstream_host: &ctx.upstream_address,
        upstream_service_time: llm
            .filter(|llm| llm.api.is_some())
            .and_then(|llm| llm.attempts.last())
            .and_then(|attempt| u64::try_from(attempt.latency.as_millis()).ok())
            .or(ctx.upstream_service_time),
        user_agent: header("user-agent"),
        x_forwarded_for: header("x-forwarded-for"),
        consumer: ctx.state.consumer.as_deref(),
        further: Some(&ctx.state.log).filter(|further| !further.is_empty()),
        ai_log: llm.map(|llm| &llm.log).filter(|log| !log.is_empty()),
    };
    let facts = log_line::Facts {
        entry: &entry,
        started,
        request: &head.headers,
        scheme: if ctx.state.is_tls { "https" } else { "http" },
        response: session.response_written().map(|head| &head.headers),
        service_port: ctx.state.service_port,
        client: ctx.state.client_ip,
        peer: session.client_addr().and_then(|address| address.as_inet()).map(log_line::canonical),
        local: session.server_addr().and_then(|address| address.as_inet()).map(log_line::canonical),
        server_name: ctx.state.server_name.as_deref(),
    };
    log_line::write(log, ctx.snapshot.settings.access_log.as_ref(), &facts, metrics);
}

/// The path without credentials that may stand in its query.
fn logged_path(ctx: &Context) -> String {
    let path = without_credentials(&ctx.path, &ctx.state.credentials);
    without_credentials(&path, &ctx.snapshot.chain.secret_parameters)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Wall-clock time the request began.
pub(super) fn started(duration_ms: u64) -> jiff::Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = i64::try_from(now.as_millis()).unwrap_or(0) - i64::try_from(duration_ms).unwrap_or(0);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
