//! The ways out of the process that knowledge bases may take, as `config.toml` has them: a language model, an embedding model, and the web.
//!
//! A model is asked over HTTP like any client would ask it, usually at this gateway's own port: then providers, token pools, failover,
//! limits and records are those of its routes, and nothing of them is here again.

mod embedding;
mod endpoint;
mod model;
mod web;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Client, ClientBuilder};
use serde_json::{Map, Value};

use self::embedding::EmbeddingModel;
use self::model::ChatModel;
use self::web::WebClient;
use crate::base::secret::Secret;
use crate::base::tls::install_provider;
use crate::config::settings::{Rag, RagWeb, Settings};
use crate::rag::correct::provider::Provider;
use crate::rag::correct::web::WebSettings;
use crate::rag::embed::Embed;
use crate::rag::outside::{Outside, Web};
use crate::rag::ports::{Complete, Fetch};

/// What the settings configure. `own` is where this gateway takes requests. Connects to nothing yet.
///
/// # Errors
/// The setting that is wrong, and why.
pub fn outside(settings: &Settings, own: SocketAddr) -> Result<Outside, String> {
    let Rag { model, url, api_key, timeout_secs, web, .. } = &settings.rag;
    let model = model.as_ref().map(|model| {
        let base = url.clone().unwrap_or_else(|| format!("http://{}/v1", reachable(own)));
        let timeout = Duration::from_secs(*timeout_secs);
        Arc::new(ChatModel::new(model, &base, api_key.clone(), timeout)) as Arc<dyn Complete>
    });
    Ok(Outside { model, web: search_engine(web)? })
}

/// The embedding model that the settings name, in the place of the one in the process. Connects to nothing yet.
pub fn embedding(settings: &Settings) -> Option<Arc<dyn Embed>> {
    EmbeddingModel::configured(&settings.rag.embedding).map(|model| Arc::new(model) as Arc<dyn Embed>)
}

/// The way to addresses that the operator names.
pub fn web_client() -> Arc<dyn Fetch> {
    Arc::new(WebClient::default())
}

/// The address at which a process on this machine reaches a listener.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn search_engine(web: &RagWeb) -> Result<Option<Web>, String> {
    let Some(provider) = web.provider else { return Ok(None) };
    let wrong = |error: &dyn std::fmt::Display| format!("config.toml: rag.web: {error}");
    let mut described = match &web.endpoint {
        Some(Value::Object(endpoint)) => endpoint.clone(),
        _ => Map::new(),
    };
    let texts = [
        ("base_url", web.base_url.as_deref()),
        ("key", web.key.as_ref().map(Secret::expose)),
        ("engine", web.engine.as_deref()),
    ];
    described.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
    described.insert("provider".to_owned(), serde_json::to_value(provider).map_err(|error| wrong(&error))?);
    let provider: Provider = serde_json::from_value(Value::Object(described)).map_err(|error| wrong(&error))?;
    provider.check().map_err(|error| wrong(&error))?;
    let settings = WebSettings {
        results: web.results,
        read_pages: web.read_pages,
        timeout_ms: web.timeout_ms,
        ..WebSettings::default()
    };
    Ok(Some(Web { fetch: Arc::new(WebClient::default()), provider, settings }))
}

/// A client that is made when it is first needed: making one reads the machine's certificates, which need not be there for calls
/// without TLS, and most gateways make no such call.
#[derive(Default)]
struct Lazy(OnceLock<Result<Client, String>>);

impl Lazy {
    /// Variables of the environment play no part: what is configured is in the configuration.
    fn get(&self, build: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<&Client, String> {
        let made = self.0.get_or_init(|| {
            install_provider();
            let builder = || build(Client::builder().no_proxy().connect_timeout(CONNECT));
            // A machine without certificates of authorities can call what needs none.
            let made = builder().build().or_else(|_| builder().tls_certs_only([]).build());
            made.map_err(|error| format!("the HTTP client cannot be made: {}", described(&error)))
        });
        made.as_ref().map_err(Clone::clone)
    }
}

const CONNECT: Duration = Duration::from_secs(5);

/// An error with what caused it and without the address, whose query may hold a key.
fn described(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "it timed out"
    } else if error.is_connect() {
        "there is no connection"
    } else if error.is_redirect() {
        "it leads elsewhere"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(inner) = cause {
        last = Some(inner.to_string());
        cause = inner.source();
    }
    last.map_or_else(|| what.to_owned(), |cause| format!("{what} ({cause})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(text: &str) -> Result<Outside, String> {
        let settings = Settings::parse(text, "config.toml".as_ref()).unwrap();
        outside(&settings, "0.0.0.0:8080".parse().unwrap())
    }

    #[test]
    fn nothing_is_configured_by_default() {
        let outside = configured("").unwrap();
        assert!(outside.model.is_none() && outside.web.is_none());
    }

    #[test]
    fn engines_are_described_by_their_fields() {
        let web = configured("[rag.web]\nprovider = 'searxng'\nbase_url = 'http://127.0.0.1:8888'\nresults = 3")
            .unwrap()
            .web
            .unwrap();
        assert_eq!((web.provider.name(), web.settings.results), ("SearXNG", 3));
        let json = "[rag.web]\nprovider = 'json'\n[rag.web.endpoint]\nurl = 'http://a.example/?q={query}'\nresults_path = 'hits'\ntitle = 't'\ntext = 'x'";
        assert_eq!(configured(json).unwrap().web.unwrap().provider.name(), "the JSON endpoint");
        for (text, named) in [
            ("[rag.web]\nprovider = 'searxng'", "base_url"),
            ("[rag.web]\nprovider = 'brave'", "key"),
            ("[rag.web]\nprovider = 'brave'\nkey = ''", "key"),
            ("[rag.web]\nprovider = 'searxng'\nbase_url = 'x'", "https://"),
        ] {
            let error = configured(text).err().unwrap();
            assert!(error.contains("rag.web") && error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_by_loopback() {
        for (listening, expected) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), expected);
        }
    }
}
