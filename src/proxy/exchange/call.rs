//! A call to one target, ready to send: where, with which head and body.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header;
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::observe::{Observation, Want};
use crate::llm::provider::{Api, ClientRequest, Provider, recognise};
use crate::llm::splice::{Edit, splice};
use crate::plugins::rules::Place;
use crate::plugins::{Answered, End, LlmCall, Reply, Target};
use crate::proxy::context::Context;
use crate::proxy::hygiene::{authority, present, strip_x_envoy};
use crate::proxy::snapshot::Snapshot;
use crate::proxy::upstream::{Upstream, UpstreamTimeouts};
use crate::proxy::{outgoing, respond};

/// Everything an attempt needs; attempts at the same target share it.
#[derive(Clone)]
pub struct Call {
    pub head: RequestHeader,
    pub body: Bytes,
    pub api: Option<Api>,
    /// Model asked of the provider before its own mapping.
    pub model: Arc<str>,
    pub service: Arc<str>,
    pub upstream: Arc<Upstream>,
    /// What the upstream balances by, if it hashes.
    pub balance_key: Option<u64>,
    pub provider: Option<Arc<Provider>>,
    pub timeouts: UpstreamTimeouts,
    pub want: Option<Want>,
    pub is_stream: bool,
    /// A plugin chose the model, so the body must name it.
    pub is_model_chosen: bool,
}

/// Headers that belong to one connection, and those the gateway sets anew.
const NOT_FORWARDED: &[&str] = &[
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-length",
    "x-hi-original-auth",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
];

impl Call {
    /// The client's request, aimed at `target`.
    ///
    /// # Errors
    /// The answer to give when the target does not exist.
    pub fn for_request(session: &Session, ctx: &Context, target: &Target) -> std::result::Result<Call, Reply> {
        let llm = ctx.state.llm.as_deref();
        let (service, port, upstream) = match &target.service {
            Some(name) => match ctx.snapshot.provider_service(name) {
                Some(upstream) => (upstream.service.clone(), Some(upstream.port), Some(upstream.clone())),
                None => (name.clone(), None, None),
            },
            None => (ctx.state.service.clone(), ctx.state.service_port, ctx.upstream.clone()),
        };
        let Some(upstream) = upstream else {
            let message = format!(
                "Service \"{service}\" of route \"{}\" is not configured. Add it to the McpBridge or as a Service object.",
                ctx.state.route
            );
            return Err(respond::error(ErrorKind::NoUpstream, message, "no_healthy_upstream"));
        };
        let place = Place { service: &service, port, ..ctx.place() };
        let mut head = session.req_header().clone();
        if let Err(error) = outgoing::prepare(&mut head, ctx) {
            return Err(respond::error(
                ErrorKind::Internal,
                format!("The route's rewrite failed: {error}"),
                "rewrite_failed",
            ));
        }
        let provider = ctx.snapshot.chain.provider_at(place).cloned();
        if llm.is_some() || provider.is_some() {
            ctx.state.credentials.iter().for_each(|place| place.clear(&mut head));
        }
        if ctx.snapshot.settings.disable_x_envoy_headers {
            strip_x_envoy(&mut head);
        }
        let asked = llm.map(|llm| llm.requested_model.as_str()).unwrap_or_default();
        Ok(Call {
            api: llm.and_then(|llm| llm.api),
            model: target.model.clone().unwrap_or_else(|| Arc::from(asked)),
            provider,
            head,
            body: ctx.state.body.clone().unwrap_or_default(),
            service,
            upstream,
            balance_key: ctx.balance.hash,
            timeouts: ctx.snapshot.limits.timeouts,
            want: llm.and_then(|llm| llm.want),
            is_stream: llm.is_some_and(|llm| llm.stream),
            is_model_chosen: target.model.is_some(),
        })
    }

    /// A call beside a client's exchange.
    ///
    /// # Errors
    /// A failed outcome and its reason when the target does not exist.
    #[expect(clippy::result_large_err, reason = "built once per failed call")]
    pub fn beside(snapshot: &Snapshot, mut call: LlmCall) -> std::result::Result<Call, (Answered, String)> {
        let service = call.target.service.clone().unwrap_or_else(|| Arc::from(""));
        let model = call.target.model.clone().unwrap_or_else(|| Arc::from(""));
        let upstream = call
            .port
            .and_then(|port| snapshot.upstream(&service, Some(port)))
            .or_else(|| snapshot.provider_service(&service));
        let Some(upstream) = upstream.cloned() else {
            let reason = format!("service \"{service}\" is not configured");
            return Err((blank(model, service), reason));
        };
        let service = upstream.service.clone();
        call.credentials.iter().for_each(|place| place.clear(&mut call.head));
        let place = Place { route: &call.route, host: &call.host, service: &service, port: Some(upstream.port) };
        Ok(Call {
            provider: snapshot.chain.provider_at(place).cloned(),
            api: recognise(call.head.uri.path()).map(|recognised| recognised.api),
            head: call.head,
            body: call.body,
            model,
            service,
            upstream,
            balance_key: None,
            timeouts: snapshot.limits.timeouts,
            want: Some(Want::default()),
            is_stream: call.is_stream,
            is_model_chosen: true,
        })
    }

    /// Whether it does no harm to send it twice. What a POST does that is no question to a model, nobody knows.
    pub fn bears_repetition(&self) -> bool {
        self.head.method.is_idempotent() || self.api.is_some_and(Api::is_question)
    }

    /// Head and body as this attempt sends them, with the provider's path, credentials and model name.
    ///
    /// # Errors
    /// The provider cannot serve this request.
    pub fn prepare(&self, token: Option<usize>) -> std::result::Result<(RequestHeader, Bytes), ApiError> {
        let mut head = self.head.clone();
        let host = authority(&head).map(str::to_owned).unwrap_or_default();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let takes_trailers = head.headers.get(header::TE).is_some_and(|value| value == "trailers");
        for name in present(&head.headers, NOT_FORWARDED) {
            head.remove_header(&name);
        }
        if takes_trailers && self.upstream.is_http2() {
            head.insert_header(header::TE, "trailers").map_err(|error| {
                ApiError::new(ErrorKind::Internal, format!("The upstream head cannot be built: {error}"))
            })?;
        }
        if self.want.is_some() {
            // An answer that has to be read must not come compressed.
            head.remove_header(&header::ACCEPT_ENCODING);
        }
        let bad_head = |error: Box<pingora_error::Error>| {
            ApiError::new(ErrorKind::Internal, format!("The upstream head cannot be built: {error}"))
        };
        let (path, host, body) = match &self.provider {
            Some(provider) => {
                let token = token.and_then(|index| provider.config().tokens.get(index));
                let request = ClientRequest {
                    path_and_query: &path,
                    body: &self.body,
                    model: &self.model,
                    stream: self.is_stream,
                };
                let prepared = provider.prepare(request, token.map(|token| token.expose()))?;
                for name in &prepared.headers_remove {
                    head.remove_header(name);
                }
                for (name, value) in prepared.headers_set {
                    head.insert_header(name, value.as_str()).map_err(bad_head)?;
                }
                (prepared.path, prepared.host.unwrap_or(host), prepared.body)
            }
            None if self.is_model_chosen => {
                let body = splice(&self.body, &[Edit::set_string("model", &self.model)]).map_err(|error| {
                    ApiError::new(ErrorKind::InvalidJson, format!("The model cannot be set in this body: {error}."))
                })?;
                (path, host, body)
            }
            None => (path, host, self.body.clone()),
        };
        let host = self.upstream.dns_authority().filter(|_| self.provider.is_some() && host.is_empty()).unwrap_or(host);
        set_target(&mut head, &path, &host, &self.upstream).map_err(bad_head)?;
        head.insert_header(header::CONTENT_LENGTH, body.len()).map_err(bad_head)?;
        Ok((head, body))
    }

    /// The record of an attempt that ended without an observed answer.
    pub fn answered(&self, end: End, status: Option<u16>, started: Instant) -> Answered {
        Answered { end, status, latency: started.elapsed(), ..blank(self.model.clone(), self.service.clone()) }
    }
}

fn blank(model: Arc<str>, service: Arc<str>) -> Answered {
    Answered {
        model,
        service,
        status: None,
        end: End::Complete,
        observation: Observation::default(),
        latency: std::time::Duration::ZERO,
        first_token: None,
    }
}

/// Origin form with a Host header; pingora makes `:authority` of it for HTTP/2.
fn set_target(head: &mut RequestHeader, path: &str, host: &str, upstream: &Upstream) -> Result<()> {
    let path = http::Uri::try_from(path).unwrap_or_else(|_| http::Uri::from_static("/"));
    head.set_uri(path);
    head.set_version(http::Version::HTTP_11);
    let host = if host.is_empty() {
        upstream.dns_authority().unwrap_or_else(|| upstream.service.to_string())
    } else {
        host.to_owned()
    };
    head.insert_header(header::HOST, host)
}
