//! The span of a request, for the trace collector.

use std::time::SystemTime;

use http::Version;
use pingora_proxy::Session;

use super::context::Context;
use crate::telemetry::otlp::semconv as name;
use crate::telemetry::otlp::{AttributeValue, Span, SpanKind, SpanSink};

/// Queues the request's span, if traces are collected and this one is sampled.
pub fn send(sink: &SpanSink, session: &Session, ctx: &Context, status: u16) {
    let Some(trace) = ctx.trace.filter(|trace| trace.sampled && sink.is_on()) else { return };
    let end = SystemTime::now();
    let mut attributes = vec![
        (name::HTTP_REQUEST_METHOD, text(ctx.method.as_str())),
        (name::URL_PATH, text(ctx.path.split('?').next().unwrap_or_default())),
        (name::SERVER_ADDRESS, text(&ctx.state.host)),
        (name::HTTP_RESPONSE_STATUS_CODE, AttributeValue::Int(i64::from(status))),
        (name::HTTP_ROUTE, text(&ctx.state.route)),
        (name::WEIRGATE_ROUTE, text(&ctx.state.route)),
        (name::WEIRGATE_SERVICE, text(&ctx.state.service)),
        (name::NETWORK_PROTOCOL_VERSION, text(version(session.req_header().version))),
    ];
    attributes.extend(ctx.state.client_ip.map(|ip| (name::CLIENT_ADDRESS, text(&ip.to_string()))));
    attributes.extend(ctx.state.consumer.as_ref().map(|consumer| (name::WEIRGATE_CONSUMER, text(consumer))));
    model_call(ctx, &mut attributes);
    sink.send(Span {
        trace_id: trace.trace_id,
        span_id: trace.span_id,
        parent_id: trace.parent_id,
        name: format!("{} {}", ctx.method, ctx.state.route),
        kind: SpanKind::Server,
        start: end.checked_sub(ctx.state.started.elapsed()).unwrap_or(end),
        end,
        attributes,
        is_error: status >= 500,
    });
}

fn model_call(ctx: &Context, attributes: &mut Vec<(&'static str, AttributeValue)>) {
    let Some(llm) = ctx.state.llm.as_deref().filter(|llm| !llm.requested_model.is_empty()) else { return };
    attributes.push((name::GEN_AI_OPERATION_NAME, text("chat")));
    attributes.push((name::GEN_AI_REQUEST_MODEL, text(&llm.requested_model)));
    attributes.push((name::WEIRGATE_DECISION, text(&ctx.state.id.to_string())));
    let Some(seen) = llm.attempts.last().map(|attempt| &attempt.observation) else { return };
    attributes.extend(seen.model.as_ref().map(|model| (name::GEN_AI_RESPONSE_MODEL, text(model))));
    let reasons = seen.finish_reason.clone().map(|reason| AttributeValue::Strings(vec![reason]));
    attributes.extend(reasons.map(|reasons| (name::GEN_AI_RESPONSE_FINISH_REASONS, reasons)));
    if let Some(usage) = &seen.usage {
        let count = |n: u64| AttributeValue::Int(i64::try_from(n).unwrap_or(i64::MAX));
        attributes.push((name::GEN_AI_USAGE_INPUT_TOKENS, count(usage.prompt_tokens)));
        attributes.push((name::GEN_AI_USAGE_OUTPUT_TOKENS, count(usage.completion_tokens)));
    }
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::String(value.to_owned())
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
