//! What a request carries through the chain beside its head: who, where to, and for model calls what came of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Extensions, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use serde_json::{Map, Value};

use super::cookies;
use crate::base::ids::RequestId;
use crate::llm::observe::{Observation, Want};
use crate::llm::provider::Api;

/// Per-request state shared by the proxy and the plugins.
pub struct RequestState {
    pub id: RequestId,
    pub started: Instant,
    pub client_ip: Option<IpAddr>,
    /// The client's connection is TLS.
    pub is_tls: bool,
    /// Server name the client's TLS handshake asked for.
    pub server_name: Option<Arc<str>>,
    /// `:authority` without port, lower case.
    pub host: String,
    /// Name of the matched route, as plugin rules know it.
    pub route: Arc<str>,
    /// Host name of the chosen upstream service, with its port.
    pub service: Arc<str>,
    pub service_port: Option<u16>,
    /// Set once the whole body has been read.
    pub body: Option<Bytes>,
    /// The authenticated consumer.
    pub consumer: Option<String>,
    /// Where the client's credentials for the gateway stand, also those that were refused; they go neither to model providers nor
    /// into the access log.
    pub credentials: Vec<CredentialPlace>,
    /// The answer on its way back is an upstream's, not one the gateway made itself.
    pub is_upstream_answer: bool,
    /// Set by a plugin whose header write may select another route; the chain matches again and clears it.
    pub reroute: bool,
    /// Set by a plugin that wrote headers only to tell the upstream something: the chain matches again if any route looks at
    /// headers, and clears it.
    pub told_upstream: bool,
    /// Added to the answer's head.
    pub reply_headers: Vec<(HeaderName, HeaderValue)>,
    /// `response_code_details` of the access log.
    pub details: String,
    /// Whether this request gets a line in the access log.
    pub is_logged: bool,
    /// Further fields for that line.
    pub log: Map<String, Value>,
    /// Set when the request is a model call.
    pub llm: Option<Box<LlmState>>,
    /// What plugins note for themselves from request to log.
    pub notes: Notes,
    /// What plugins have read for one another, by type.
    pub shared: Extensions,
}

impl RequestState {
    pub fn new() -> RequestState {
        let nowhere: Arc<str> = Arc::from("");
        RequestState {
            id: RequestId::new(),
            started: Instant::now(),
            client_ip: None,
            is_tls: false,
            server_name: None,
            host: String::new(),
            route: nowhere.clone(),
            service: nowhere,
            service_port: None,
            body: None,
            consumer: None,
            credentials: Vec::new(),
            is_upstream_answer: false,
            reroute: false,
            told_upstream: false,
            reply_headers: Vec::new(),
            details: String::new(),
            is_logged: true,
            log: Map::new(),
            llm: None,
            notes: Notes::default(),
            shared: Extensions::new(),
        }
    }

    /// The model-call part, made on first use.
    pub fn llm_mut(&mut self) -> &mut LlmState {
        self.llm.get_or_insert_with(Default::default)
    }
}

impl Default for RequestState {
    fn default() -> Self {
        Self::new()
    }
}

/// Notes of each instance of a plugin, by type: of two objects with the same plugin neither sees what the other noted.
#[derive(Default)]
pub struct Notes {
    /// Whose turn it is.
    owner: usize,
    /// Few, if any.
    of: Vec<(usize, Extensions)>,
}

impl Notes {
    /// Those of `owner` from now on.
    pub fn turn_to(&mut self, owner: usize) {
        self.owner = owner;
    }

    fn own(&self) -> Option<&Extensions> {
        self.of.iter().find(|(owner, _)| *owner == self.owner).map(|(_, notes)| notes)
    }

    fn own_mut(&mut self) -> Option<&mut Extensions> {
        self.of.iter_mut().find(|(owner, _)| *owner == self.owner).map(|(_, notes)| notes)
    }

    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.own()?.get()
    }

    pub fn get_mut<T: Send + Sync + 'static>(&mut self) -> Option<&mut T> {
        self.own_mut()?.get_mut()
    }

    pub fn insert<T: Clone + Send + Sync + 'static>(&mut self, note: T) {
        if self.own().is_none() {
            self.of.push((self.owner, Extensions::new()));
        }
        self.own_mut().and_then(|notes| notes.insert(note));
    }

    pub fn remove<T: Send + Sync + 'static>(&mut self) -> Option<T> {
        self.own_mut()?.remove()
    }
}

/// A header, query parameter or cookie that holds a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialPlace {
    Header(String),
    Query(String),
    Cookie(String),
}

impl CredentialPlace {
    /// Takes what stands there out of a head.
    pub fn clear(&self, head: &mut RequestHeader) {
        match self {
            CredentialPlace::Header(name) => drop(head.remove_header(name.as_str())),
            CredentialPlace::Query(name) => {
                let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
                // A path without one of its query parameters is still a path.
                let _ = head.set_raw_path(without_query(path, name).as_bytes());
            }
            CredentialPlace::Cookie(name) => cookies::remove(head, name),
        }
    }
}

/// Path and query without the parameters that hold credentials.
pub fn without_credentials(path_and_query: &str, places: &[CredentialPlace]) -> String {
    places.iter().fold(path_and_query.to_owned(), |path, place| match place {
        CredentialPlace::Query(name) => without_query(&path, name),
        CredentialPlace::Header(_) | CredentialPlace::Cookie(_) => path,
    })
}

/// Path and query without the parameter `name`.
pub fn without_query(path_and_query: &str, name: &str) -> String {
    let Some((path, query)) = path_and_query.split_once('?') else { return path_and_query.to_owned() };
    // Compared decoded, as whoever read the credential did.
    let is_other = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).all(|(key, _)| key != name);
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

/// A model call: what was asked, where it may go, what happened.
#[derive(Default)]
pub struct LlmState {
    pub api: Option<Api>,
    /// Model named by the client.
    pub requested_model: String,
    pub stream: bool,
    /// Where to try, in order, until one answers; empty means the route's own destination with the client's model.
    pub targets: Vec<Target>,
    /// Position in `targets` of the one being tried, or that answered.
    pub current: usize,
    /// What is read from the answer as it passes; `None` reads nothing.
    pub want: Option<Want>,
    /// Every attempt made; the last one is what the client got.
    pub attempts: Vec<Answered>,
    /// Fields for `ai_log` of the access log.
    pub log: Map<String, Value>,
}

/// A model at a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Upstream service host (`llm-x.internal.dns`); `None` is the route's destination.
    pub service: Option<Arc<str>>,
    /// Model to ask for; `None` keeps the client's.
    pub model: Option<Arc<str>>,
}

/// One attempt at a model and how it ended.
#[derive(Debug, Clone)]
pub struct Answered {
    pub model: Arc<str>,
    pub service: Arc<str>,
    pub status: Option<u16>,
    pub end: End,
    pub observation: Observation,
    /// From sending the request to the last byte.
    pub latency: Duration,
    /// From sending the request to the first body byte.
    pub first_token: Option<Duration>,
}

impl Answered {
    /// Answered completely, with a success status.
    pub fn is_ok(&self) -> bool {
        self.end == End::Complete && self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Complete,
    /// The upstream stopped in the middle.
    Cut(String),
    /// The client went away.
    Cancelled,
    /// No usable answer: no connection, time-out, error status.
    Failed(String),
}
