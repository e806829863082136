//! What a plugin may ask of the process around it, and the calls it has made beside the client's request.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use pingora_http::{RequestHeader, ResponseHeader};

use super::state::{Answered, CredentialPlace, Target};
use crate::flywheel::Flywheel;
use crate::learning::live::LiveRouter;
use crate::rag::RagError;
use crate::rag::ask::{Ask, Events};
use crate::rag::knowledge_base::Caller;
use crate::rag::retrieve::{Candidate, Search};
use crate::stores::Store;
use crate::stores::redis::RedisConfig;
use crate::telemetry::metrics::Metrics;

/// The process around a plugin. Built once by `server`; one implementation per process.
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
