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
mod host;
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
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::llm::provider::Provider;

pub use host::{CompletedCall, Destination, Host, HttpAnswer, HttpCall, LlmCall};
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
