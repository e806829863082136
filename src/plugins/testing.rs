//! Running one plugin in unit tests: a request as a value, and a [`Host`] whose answers the test writes.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora_http::{RequestHeader, ResponseHeader};
use serde_json::Value;

use super::registry::{PluginSpec, Scope};
use super::{CompletedCall, Flow, Host, HttpAnswer, HttpCall, LlmCall, Plugin, Reply, Request, RequestState};
use crate::flywheel::Flywheel;
use crate::learning::live::LiveRouter;
use crate::stores::redis::{Locate, RedisConfig};
use crate::stores::{Store, Stores};
use crate::telemetry::metrics::Metrics;

type Answer = dyn Fn(&HttpCall) -> Result<HttpAnswer, String> + Send + Sync;

/// A process around a plugin. Calls are kept for inspection and answered by a closure.
pub struct FakeHost {
    pub calls: Mutex<Vec<HttpCall>>,
    answer: Box<Answer>,
    stores: Stores,
    metrics: Metrics,
}

impl FakeHost {
    /// No call is expected; each one fails.
    pub fn silent() -> Arc<FakeHost> {
        FakeHost::answering(|_| Err("no call was expected".into()))
    }

    pub fn answering(
        answer: impl Fn(&HttpCall) -> Result<HttpAnswer, String> + Send + Sync + 'static,
    ) -> Arc<FakeHost> {
        Arc::new(FakeHost {
            calls: Mutex::default(),
            answer: Box::new(answer),
            stores: Stores::new(Arc::new(Nowhere)),
            metrics: Metrics::new(),
        })
    }
}

/// No service is configured: every Redis is down.
struct Nowhere;

#[async_trait]
impl Locate for Nowhere {
    async fn locate(&self, service: &str, _port: u16) -> Result<SocketAddr, String> {
        Err(format!("service {service} is not configured"))
    }
}

/// An answer for [`FakeHost::answering`].
pub fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> HttpAnswer {
    let mut head = ResponseHeader::build(status, None).unwrap();
    for (name, value) in headers {
        head.append_header(*name, *value).unwrap();
    }
    HttpAnswer { head, body: Bytes::from(body.to_owned()) }
}

#[async_trait]
impl Host for FakeHost {
    async fn complete(&self, _call: LlmCall) -> CompletedCall {
        panic!("model calls are tested with the real gateway")
    }

    async fn http(&self, call: HttpCall) -> Result<HttpAnswer, String> {
        let answered = (self.answer)(&call);
        self.calls.lock().push(call);
        answered
    }

    fn spawn(&self, _work: Pin<Box<dyn Future<Output = ()> + Send>>) {}

    fn flywheel(&self) -> Option<&Flywheel> {
        None
    }

    fn store(&self, redis: Option<&RedisConfig>) -> Arc<dyn Store> {
        self.stores.get(redis)
    }

    fn data_dir(&self) -> &Path {
        Path::new("no data folder")
    }

    fn router(&self, _name: &str) -> Arc<LiveRouter> {
        panic!("routers are tested with the real gateway")
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// Builds a plugin for its global configuration; panics with the problems if it is refused.
pub fn built(spec: &PluginSpec, config: &Value) -> Arc<dyn Plugin> {
    built_with(spec, config, None, FakeHost::silent())
}

/// Builds a plugin for a rule over a global configuration.
pub fn built_with(spec: &PluginSpec, global: &Value, rule: Option<&Value>, host: Arc<FakeHost>) -> Arc<dyn Plugin> {
    let host: Arc<dyn Host> = host;
    let scope = Scope { global: Some(global), rule, n_rules: usize::from(rule.is_some()) };
    (spec.build)(&scope, &host).unwrap_or_else(|problems| panic!("{problems:?}")).expect("the plugin is active")
}

/// Fields named as wrong in a configuration.
pub fn problem_fields(spec: &PluginSpec, config: &Value) -> Vec<String> {
    let scope = Scope { global: Some(config), rule: None, n_rules: 0 };
    (spec.check)(&scope).into_iter().map(|problem| problem.field).collect()
}

/// One request on its way through a plugin.
pub struct Exchange {
    pub head: RequestHeader,
    pub state: RequestState,
}

impl Exchange {
    pub fn new(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Exchange {
        let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        Exchange { head, state: RequestState::new() }
    }

    pub fn with_body(mut self, body: impl Into<Bytes>) -> Exchange {
        self.state.body = Some(body.into());
        self
    }

    pub fn request(&mut self) -> Request<'_> {
        Request { head: &mut self.head, state: &mut self.state }
    }

    /// Runs the request half as the chain does; `Some` is the plugin's own answer.
    pub fn run(&mut self, plugin: &Arc<dyn Plugin>) -> Option<Reply> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut request = self.request();
            let mut flow = plugin.on_request_headers(&mut request).await;
            if matches!(flow, Flow::Continue) && plugin.wants_body(&request) {
                request.state.body.get_or_insert_default();
                flow = plugin.on_request_body(&mut request).await;
            }
            match flow {
                Flow::Continue => None,
                Flow::Respond(reply) => Some(*reply),
                Flow::Later(reply) => Some(reply.await),
            }
        })
    }

    /// Runs the response half on an answer of the upstream; returns what the client gets.
    pub fn answered(&mut self, plugin: &Arc<dyn Plugin>, upstream: HttpAnswer) -> HttpAnswer {
        self.state.is_upstream_answer = true;
        self.respond(plugin, upstream)
    }

    /// Runs the response half on an answer the gateway made itself.
    pub fn replied(&mut self, plugin: &Arc<dyn Plugin>, own: HttpAnswer) -> HttpAnswer {
        self.state.is_upstream_answer = false;
        self.respond(plugin, own)
    }

    fn respond(&mut self, plugin: &Arc<dyn Plugin>, answer: HttpAnswer) -> HttpAnswer {
        let HttpAnswer { mut head, mut body } = answer;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut request = self.request();
        let is_upstream_answer = request.state.is_upstream_answer;
        if let Some(reply) = plugin.replace_answer(&request, &head) {
            head = ResponseHeader::build(reply.status, None).unwrap();
            reply.headers.into_iter().for_each(|(name, value)| drop(head.append_header(name, value)));
            body = reply.body;
        }
        plugin.on_response_headers(&mut request, &mut head);
        let may_hold = !is_upstream_answer || plugin.may_hold_answer(&request);
        if may_hold && plugin.wants_response_body(&request, &head) {
            runtime.block_on(plugin.on_response_body(&mut request, &mut head, &mut body));
        } else {
            plugin.on_response_chunk(&mut request, &mut body);
        }
        HttpAnswer { head, body }
    }

    /// Value of a request header as it goes upstream.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
