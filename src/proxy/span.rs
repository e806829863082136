//! The trace a request belongs to, and its span for the collector.

use std::time::{Duration, SystemTime};

use http::{HeaderValue, Version};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::context::Context;
use crate::base::ids::RequestId;
use crate::config::model::{Collector, GatewaySettings};
use crate::config::settings::Settings;
use crate::plugins::{Destination, HttpCall};
use crate::telemetry::spans::semconv as name;
use crate::telemetry::spans::{AttributeValue, SERVICE, Span, SpanKind, SpanSink, otlp, skywalking, zipkin};
use crate::telemetry::trace::{TraceContext, is_to_be_sampled};

/// Time a collector of config.toml has to take a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How traces are made and where they go under one configuration.
pub struct Tracer {
    collector: Collector,
    to: Destination,
    path: String,
    sampling: f64,
    timeout: Duration,
}

impl Tracer {
    /// The ConfigMap wins over config.toml. `None`: nobody collects.
    pub fn new(settings: &Settings, gateway: &GatewaySettings) -> Option<Tracer> {
        if let Some(tracing) = &gateway.tracing {
            let path = match tracing.collector {
                Collector::OpenTelemetry => otlp::PATH,
                Collector::SkyWalking { .. } => skywalking::PATH,
                Collector::Zipkin => zipkin::PATH,
            };
            return Some(Tracer {
                collector: tracing.collector.clone(),
                to: Destination::Service { host: tracing.service.clone(), port: Some(tracing.port) },
                path: path.to_owned(),
                sampling: tracing.sampling,
                timeout: tracing.timeout,
            });
        }
        let url = otlp::traces_url(settings.telemetry.otlp_endpoint.as_ref()?);
        let path = url.parse::<http::Uri>().ok()?.path().to_owned();
        let to = Destination::Url(url);
        Some(Tracer { collector: Collector::OpenTelemetry, to, path, sampling: 100.0, timeout: EXPORT_TIMEOUT })
    }

    /// The POST that brings spans to the collector.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn call(&self, spans: &[Span]) -> Result<HttpCall, String> {
        let body = match self.collector {
            Collector::OpenTelemetry => otlp::request(spans),
            Collector::SkyWalking { .. } => skywalking::request(spans),
            Collector::Zipkin => zipkin::request(spans),
        };
        let body = body.map_err(|error| error.to_string())?;
        let mut call = HttpCall::post_to(self.to.clone(), &self.path, body, self.timeout)?;
        if let Collector::SkyWalking { access_token: Some(token) } = &self.collector {
            call.head.insert_header("authentication", token.expose()).map_err(|error| error.to_string())?;
        }
        Ok(call)
    }

    fn samples(&self, id: &RequestId) -> bool {
        self.sampling >= 100.0 || id.sample("trace") * 100.0 < self.sampling
    }
}

/// What a client says in B3, in headers for each part or in one for all: `trace-span-decision-parent`, or the decision alone.
#[derive(Default)]
struct B3<'h> {
    ids: Option<(&'h str, &'h str)>,
    decided: Option<&'h str>,
}

impl<'h> B3<'h> {
    fn of(text: impl Fn(&str) -> Option<&'h str>) -> B3<'h> {
        let single: Vec<&str> = text("b3").map(|value| value.split('-').collect()).unwrap_or_default();
        let debug = text("x-b3-flags").filter(|flags| *flags == "1");
        let in_single = match single[..] {
            [decided] | [_, _, decided, ..] => Some(decided),
            _ => None,
        };
        let ids = text("x-b3-traceid").zip(text("x-b3-spanid"));
        B3 {
            ids: ids.or_else(|| Some((*single.first()?, *single.get(1)?))),
            decided: debug.or_else(|| text("x-b3-sampled")).or(in_single),
        }
    }
}

/// Continues the client's trace, or starts one, and says so in the head.
pub fn begin(head: &mut RequestHeader, tracer: Option<&Tracer>, id: &RequestId) -> TraceContext {
    let is_sampled = tracer.is_none_or(|tracer| tracer.samples(id));
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let is_zipkin = tracer.is_some_and(|tracer| tracer.collector == Collector::Zipkin);
    let b3 = if is_zipkin { B3::of(text) } else { B3::default() };
    // Their ids may be any text, so that the trace is another one; whether to record it is the client's word all the same.
    let skywalking = tracer.is_some_and(|tracer| matches!(tracer.collector, Collector::SkyWalking { .. }));
    let sw8 = text("sw8").filter(|_| skywalking).and_then(|value| value.split('-').next());
    let is_sampled = b3.decided.or(sw8).map_or(is_sampled, is_to_be_sampled);
    let trace = b3
        .ids
        .and_then(|(trace, span)| TraceContext::continue_b3(trace, span, b3.decided, id, is_sampled))
        .unwrap_or_else(|| {
            let parent = head.headers.get("traceparent").map(HeaderValue::as_bytes);
            TraceContext::continue_or_start(parent, id, is_sampled)
        });
    if trace.parent_id.is_none() {
        // It belongs to a trace that ends here.
        head.remove_header("tracestate");
    }
    // Ids are header text.
    let _ = head.insert_header("traceparent", trace.to_string());
    if is_zipkin {
        // What stands in one header now stands in several.
        head.remove_header("b3");
        for (name, value) in trace.b3() {
            let _ = head.insert_header(name, value);
        }
    }
    trace
}

/// What a collector of another kind wants to see in the head that goes upstream, where route and service are known.
pub fn propagate(head: &mut RequestHeader, ctx: &Context) {
    let Some(tracer) = ctx.snapshot.tracer.as_ref() else { return };
    if let (Collector::SkyWalking { .. }, Some(trace)) = (&tracer.collector, ctx.trace) {
        let value = trace.sw8(SERVICE, &span_name(ctx), &ctx.state.service);
        // Base64 and digits.
        let _ = head.insert_header("sw8", value);
    }
}

/// Queues the request's span, if traces are collected and this one is sampled.
pub fn send(sink: &SpanSink, session: &Session, ctx: &Context, status: u16) {
    let is_wanted = ctx.snapshot.tracer.is_some();
    let Some(trace) = ctx.trace.filter(|trace| trace.sampled && is_wanted) else { return };
    let end = SystemTime::now();
    let mut attributes = vec![
        (name::HTTP_REQUEST_METHOD, text(ctx.method.as_str())),
        (name::URL_PATH, text(ctx.path.split('?').next().unwrap_or_default())),
        (name::SERVER_ADDRESS, text(&ctx.state.host)),
        (name::HTTP_RESPONSE_STATUS_CODE, AttributeValue::Int(i64::from(status))),
        (name::NETWORK_PROTOCOL_VERSION, text(version(session.req_header().version))),
    ];
    let known = [
        (name::HTTP_ROUTE, &ctx.state.route),
        (name::WEIRGATE_ROUTE, &ctx.state.route),
        (name::WEIRGATE_SERVICE, &ctx.state.service),
    ];
    attributes.extend(known.into_iter().filter(|(_, of)| !of.is_empty()).map(|(name, of)| (name, text(of))));
    attributes.extend(ctx.state.client_ip.map(|ip| (name::CLIENT_ADDRESS, text(&ip.to_string()))));
    attributes.extend(ctx.state.consumer.as_ref().map(|consumer| (name::WEIRGATE_CONSUMER, text(consumer))));
    model_call(ctx, &mut attributes);
    sink.send(Span {
        trace_id: trace.trace_id,
        span_id: trace.span_id,
        parent_id: trace.parent_id,
        name: span_name(ctx),
        kind: SpanKind::Server,
        start: end.checked_sub(ctx.state.started.elapsed()).unwrap_or(end),
        end,
        attributes,
        is_error: status >= 500,
    });
}

fn span_name(ctx: &Context) -> String {
    match &*ctx.state.route {
        "" => ctx.method.to_string(),
        route => format!("{} {route}", ctx.method),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_trace_ends_with_it() {
        const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (parent, is_kept) in
            [(PARENT, true), ("garbage", false), ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false)]
        {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.insert_header("traceparent", parent).unwrap();
            head.insert_header("tracestate", "congo=1").unwrap();
            begin(&mut head, None, &RequestId::new());
            assert_eq!(head.headers.contains_key("tracestate"), is_kept, "{parent}");
        }
    }
}
