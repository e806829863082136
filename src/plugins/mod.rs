//! Plugins: what they are, what they see of a request, and what they may ask of the process.
//!
//! The proxy runs them in chain order (phase, then priority; see [`registry`]); each plugin sees the request after the
//! plugins before it. A plugin never imports another plugin, the proxy or a network library: it reads and changes
//! [`Request`], and reaches the outside through [`Host`]. Header types are pingora's (they keep the spelling clients sent),
//! which is the only thing this module knows of pingora.
//!
//! One plugin is one file (or folder): head, `Config`, parsing, `impl Plugin`, tests.

pub mod address;
pub mod ai;
pub mod auth;
pub mod compatibility;
pub mod config;
pub mod cookies;
pub mod parts;
pub mod registry;
pub mod rules;
pub mod security;
pub mod state;
pub mod store;
#[cfg(test)]
pub mod testing;
pub mod traffic;
pub mod transform;
pub mod unavailable;
pub mod values;

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::flywheel::Flywheel;
use crate::learning::live::LiveRouter;
use crate::llm::provider::Provider;
use crate::rag::RagError;
use crate::rag::ask::{Ask, Events};
use crate::rag::knowledge_base::Caller;
use crate::rag::retrieve::{Candidate, Search};
use crate::stores::Store;
use crate::stores::redis::RedisConfig;
use crate::telemetry::metrics::Metrics;

pub use state::{Answered, CredentialPlace, End, LlmState, RequestState, Target, without_credentials, without_query};

/// One plugin with one configuration: the global one, or that of a rule. Shared by all requests it applies to.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Runs when the chain reaches this plugin; the body may not have been read yet.
    async fn on_request_headers(&self, _request: &mut Request<'_>) -> Flow {
        Flow::Continue
    }

    /// Whether this plugin must see the whole body of this request. Answering yes holds the request back until the body
    /// is read (limit: `limits.max_body_bytes`) and moves it to the exchange path.
    fn wants_body(&self, _request: &Request<'_>) -> bool {
        false
    }

    /// Runs only if [`Plugin::wants_body`] said yes; `request.state.body` is the whole body and may be replaced.
    async fn on_request_body(&self, _request: &mut Request<'_>) -> Flow {
        Flow::Continue
    }

    /// Runs in chain order for each piece of a request body that streams on to the upstream; a body that was read whole is in
    /// `request.state.body` instead. Must not block.
    fn on_request_chunk(&self, _request: &mut Request<'_>, _chunk: &Bytes) {}

    /// Whether this plugin may want to see or replace the whole answer of the upstream to this request. Asked once the chain
    /// has run, before anything goes upstream: yes moves the request to the exchange path, the only one that can hold an answer
    /// back, which reads the request's body too. The gateway's own answers are whole from the start and need no yes here.
    fn may_hold_answer(&self, _request: &Request<'_>) -> bool {
        false
    }

    /// Another answer in place of this one, judged by its head alone; what the upstream still has to say is not waited for.
    /// Asked in reverse chain order, just before [`Plugin::on_response_headers`] of this plugin, which then sees the new head.
    /// Unlike holding an answer back it costs nothing where it says no, so the request keeps streaming.
    fn replace_answer(&self, _request: &Request<'_>, _response: &ResponseHeader) -> Option<Reply> {
        None
    }

    /// Runs in reverse chain order before the answer's head goes to the client.
    fn on_response_headers(&self, _request: &mut Request<'_>, _response: &mut ResponseHeader) {}

    /// Whether this plugin wants to see this answer when its body is complete. Asked after [`Plugin::on_response_headers`]. An
    /// upstream's answer is held back (limit: `limits.max_body_bytes`) only for plugins that also said
    /// [`Plugin::may_hold_answer`]; others see it if it is whole anyway, and in pieces if not.
    fn wants_response_body(&self, _request: &Request<'_>, _response: &ResponseHeader) -> bool {
        false
    }

    /// Runs in reverse chain order if [`Plugin::wants_response_body`] said yes. Head and body may be replaced altogether; the
    /// length is set anew afterwards.
    async fn on_response_body(&self, _request: &mut Request<'_>, _response: &mut ResponseHeader, _body: &mut Bytes) {}

    /// Runs in reverse chain order for each piece of the answer's body, before it goes out. Must not block.
    fn on_response_chunk(&self, _request: &mut Request<'_>, _chunk: &mut Bytes) {}

    /// Runs after the last byte, for accounting only. Must not block.
    fn on_log(&self, _request: &mut Request<'_>) {}

    /// Called once when built, with a name for this scope (object and rule) that is the same after a reload: for state that
    /// outlives the plugin.
    fn placed(&self, _place: &str) {}

    /// Called once, after the snapshot that holds this plugin went live. Building a plugin must not change anything
    /// outside it, because the snapshot may still be refused; this may.
    fn activate(&self) {}

    /// Query parameters that hold credentials where this plugin runs: they are in no log, even of requests that were answered before it.
    fn secret_parameters(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether it also treats the answers to requests that were refused before the chain, by the route's own limits.
    fn treats_refusals(&self) -> bool {
        false
    }

    /// The model provider this configuration names, if any. The exchange asks for it per upstream service, because one
    /// request may try several.
    fn provider(&self) -> Option<&Arc<Provider>> {
        None
    }
}

/// What a plugin sees and may change.
pub struct Request<'a> {
    /// The head as it will go upstream.
    pub head: &'a mut RequestHeader,
    pub state: &'a mut RequestState,
}

impl<'a> Request<'a> {
    /// The request as `plugin` sees it, with its own notes.
    pub fn of(plugin: &Arc<dyn Plugin>, head: &'a mut RequestHeader, state: &'a mut RequestState) -> Request<'a> {
        state.notes.turn_to(Arc::as_ptr(plugin).addr());
        Request { head, state }
    }
}

impl Request<'_> {
    /// First value of a header, if it is text (UTF-8).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }

    /// Path without query.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Media type of the body without parameters, lower case.
    pub fn content_type(&self) -> Option<String> {
        self.header("content-type").map(|value| value.split(';').next().unwrap_or(value).trim().to_ascii_lowercase())
    }

    /// Sets a header and has the route matched again: how `model-router` selects an AI route.
    pub fn set_header_and_reroute(&mut self, name: HeaderName, value: HeaderValue) {
        // Insertion fails only on names that are not header names; `HeaderName` is one.
        let _ = self.head.insert_header(name, value);
        self.state.reroute = true;
    }
}

/// What happens next.
pub enum Flow {
    Continue,
    /// Answer now; later plugins and the upstream are not reached.
    Respond(Box<Reply>),
    /// The same with an answer that takes a while: given up when the client leaves. Of [`Plugin::on_request_body`] only.
    Later(BoxFuture<'static, Reply>),
}

impl Flow {
    pub fn respond(reply: Reply) -> Flow {
        Flow::Respond(Box::new(reply))
    }
}

/// An answer made by the gateway itself.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// A body that is written while it is sent, in the place of `body`.
    pub stream: Option<BodyStream>,
    /// Machine-readable cause for the access log (`response_code_details`), for example `key-auth.unauthorized`.
    pub details: String,
}

impl Reply {
    pub fn new(status: u16, details: impl Into<String>) -> Reply {
        Reply { status, headers: Vec::new(), body: Bytes::new(), stream: None, details: details.into() }
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Reply {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// A text as the body; an empty one is no body, and then there is no content type either.
    pub fn text(mut self, body: impl Into<Bytes>) -> Reply {
        self.body = body.into();
        if !self.body.is_empty() {
            self.headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain")));
        }
        self
    }

    pub fn json(mut self, body: Bytes) -> Reply {
        self.headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self.body = body;
        self
    }

    pub fn stream(mut self, stream: BodyStream) -> Reply {
        self.stream = Some(stream);
        self
    }
}

/// A body in the order of its pieces.
pub type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The pieces of a body, to be taken once: clones share them.
#[derive(Clone)]
pub struct BodyStream(Arc<Mutex<Option<Pieces>>>);

impl BodyStream {
    pub fn new(pieces: impl Stream<Item = Bytes> + Send + 'static) -> BodyStream {
        BodyStream(Arc::new(Mutex::new(Some(Box::pin(pieces)))))
    }

    /// `None` if they were taken before.
    pub fn take(&self) -> Option<Pieces> {
        self.0.lock().take()
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyStream")
    }
}

/// What a plugin may ask of the process around it. Built once by `server`; one implementation per process.
#[async_trait]
pub trait Host: Send + Sync {
    /// One whole call to a model beside the client's own exchange (training fan-out, shadow). Collects the answer.
    async fn complete(&self, call: LlmCall) -> CompletedCall;

    /// A plain HTTP call beside the client's request (evaluators, authorisation services, identity providers). The error
    /// says in words why there is no answer.
    async fn http(&self, call: HttpCall) -> Result<HttpAnswer, String>;

    /// Runs work that outlives the request; the drain waits for it.
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// The store of outcomes; `None` when it could not be opened (the start log says why).
    fn flywheel(&self) -> Option<&Flywheel>;

    /// Where counters, marks and answers are kept: the Redis of that configuration, or this process. Does not connect.
    fn store(&self, redis: Option<&RedisConfig>) -> Arc<dyn Store>;

    /// The folder that users put files into for plugins to read.
    fn data_dir(&self) -> &Path;

    /// The live router of that name, made on first use.
    fn router(&self, name: &str) -> Arc<LiveRouter>;

    fn metrics(&self) -> &Metrics;

    /// Passages of a knowledge base that the caller may see, best first. Searched on the background threads.
    ///
    /// # Errors
    /// There is no such knowledge base for this caller, or it cannot be searched.
    async fn find_passages(&self, _base: &str, _search: Search, _caller: Caller) -> Result<Vec<Candidate>, RagError> {
        Err(RagError::Unavailable("this process has no knowledge bases".to_owned()))
    }

    /// Knowledge bases that the caller may see, by name, in order.
    ///
    /// # Errors
    /// Their place cannot be read.
    async fn knowledge_bases(&self, _caller: Caller) -> Result<Vec<String>, RagError> {
        Ok(Vec::new())
    }

    /// An answer from a knowledge base that the caller may see, as it is written on the background threads. Dropping it ends the work.
    ///
    /// # Errors
    /// There is no such knowledge base for this caller, or it cannot be read.
    async fn ask_documents(&self, _base: &str, _ask: Ask, _caller: Caller) -> Result<Events, RagError> {
        Err(RagError::Unavailable("this process has no knowledge bases".to_owned()))
    }

    /// Has the sentence model loaded in the background, if it is not yet.
    fn prepare_embedding(&self) {}

    /// The sentence embedding of a text; `None` at once when the model is not loaded or too many texts wait, and after a
    /// short time when it takes too long.
    async fn embed(&self, _text: &str) -> Option<Vec<f32>> {
        None
    }
}

/// A plain HTTP call beside a request. The process adds `Host` (unless the head has one) and `Content-Length`.
#[derive(Clone)]
pub struct HttpCall {
    pub to: Destination,
    /// Method, path with query, headers.
    pub head: RequestHeader,
    pub body: Bytes,
    /// For the whole call, name resolution included.
    pub timeout: Duration,
    /// A question: asked twice it does no harm, whatever its method.
    pub is_question: bool,
    /// Whether an answer that is too long is cut rather than an error: its status is what counts.
    pub may_cut: bool,
}

impl HttpCall {
    /// A question put to a URL, as a JSON document by POST.
    ///
    /// # Errors
    /// The URL has no usable path.
    pub fn post_json(url: &str, body: Bytes, timeout: Duration) -> Result<HttpCall, String> {
        let invalid = |error: &dyn std::fmt::Display| format!("\"{url}\" is not a usable URL: {error}");
        let uri: http::Uri = url.parse().map_err(|error| invalid(&error))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        HttpCall::post_to(Destination::Url(url.to_owned()), path, body, timeout)
    }

    /// The same to a path of a place.
    ///
    /// # Errors
    /// That is no path.
    pub fn post_to(to: Destination, path: &str, body: Bytes, timeout: Duration) -> Result<HttpCall, String> {
        let invalid = |error: &dyn std::fmt::Display| format!("\"{path}\" is not a usable path: {error}");
        let mut head = RequestHeader::build("POST", path.as_bytes(), Some(4)).map_err(|error| invalid(&error))?;
        for name in [http::header::CONTENT_TYPE, http::header::ACCEPT] {
            head.insert_header(name, "application/json").map_err(|error| invalid(&error))?;
        }
        Ok(HttpCall { to, head, body, timeout, is_question: true, may_cut: false })
    }
}

/// Where a plain call goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Scheme, host and port of this URL; path and query are the head's.
    Url(String),
    /// A configured service (`name.dns`, `svc.ns.svc.cluster.local`); `None` is its only port.
    Service { host: String, port: Option<u16> },
}

/// The answer to a plain call, whole.
pub struct HttpAnswer {
    pub head: ResponseHeader,
    pub body: Bytes,
}

impl HttpAnswer {
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }
}

/// A call to a model that the client's exchange does not wait for.
pub struct LlmCall {
    /// The client's head (path, content type); credentials are replaced by the provider's.
    pub head: RequestHeader,
    pub credentials: Vec<CredentialPlace>,
    pub body: Bytes,
    pub is_stream: bool,
    pub route: Arc<str>,
    pub host: String,
    pub target: Target,
    /// Port of the target's service; `None` is its first.
    pub port: Option<u16>,
    pub timeout: Duration,
}

/// Its result: what the upstream said, byte for byte, and what was read from it.
pub struct CompletedCall {
    pub answered: Answered,
    /// Status, content type and body as received; `None` if no response head arrived.
    pub response: Option<(u16, Option<HeaderValue>, Bytes)>,
}
