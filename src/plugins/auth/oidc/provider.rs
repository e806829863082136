//! The OpenID provider: what it says of itself, and tokens for codes.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Uri;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use parking_lot::Mutex;
use pingora_http::RequestHeader;
use serde::Deserialize;
use serde_json::Value;

use super::config::Config;
use super::session::{Login, Session};
use crate::base::secret::Secret;
use crate::base::shared::Shared;
use crate::plugins::auth::clock;
use crate::plugins::auth::jwt::Jwt;
use crate::plugins::auth::remote_keys::RemoteKeys;
use crate::plugins::{Destination, Host, HttpAnswer, HttpCall};

/// How long what the provider says of itself is believed while it can be asked again.
const KEEP_METADATA: Duration = Duration::from_secs(15 * 60);
/// After a failure; requests in between are refused at once.
const PAUSE: Duration = Duration::from_secs(1);
const KEEP_KEYS: Duration = Duration::from_secs(15 * 60);
/// Clocks differ; tokens are only seconds old when they are checked.
const CLOCK_SKEW: i64 = 60;

/// What is used of the provider's discovery document.
#[derive(Clone, Deserialize)]
pub struct Metadata {
    pub issuer: String,
    pub authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

/// The token endpoint's answer.
#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
    access_token: String,
    refresh_token: Option<String>,
}

/// What came of asking the provider about itself, and how long that counts.
struct Discovery {
    until: Instant,
    result: Result<Arc<Metadata>, String>,
}

pub struct Provider {
    issuer: String,
    client_id: String,
    client_secret: Secret,
    service: Option<Destination>,
    service_host: Option<String>,
    discovery_timeout: Duration,
    redeem_timeout: Duration,
    host: Arc<dyn Host>,
    known: Arc<Known>,
}

/// What the provider has said.
struct Known {
    /// Of itself, whenever that was: a provider that does not answer has not changed.
    metadata: Mutex<Option<Arc<Metadata>>>,
    /// One request asks for all.
    discovery: tokio::sync::Mutex<Option<Discovery>>,
    keys: RemoteKeys,
}

impl Known {
    fn new() -> Known {
        Known { metadata: Mutex::default(), discovery: tokio::sync::Mutex::default(), keys: RemoteKeys::new(KEEP_KEYS) }
    }

    async fn metadata<F>(&self, discover: impl FnOnce() -> F) -> Result<Arc<Metadata>, String>
    where
        F: Future<Output = Result<Metadata, String>>,
    {
        let before = self.metadata.lock().clone();
        let mut last = match (self.discovery.try_lock(), before.clone()) {
            (Ok(last), _) => last,
            // Somebody is asking.
            (Err(_), Some(metadata)) => return Ok(metadata),
            (Err(_), None) => self.discovery.lock().await,
        };
        if let Some(Discovery { until, result }) = last.as_ref()
            && Instant::now() < *until
        {
            return result.clone();
        }
        let (result, keep) = match discover().await.map(Arc::new) {
            Ok(metadata) => {
                *self.metadata.lock() = Some(metadata.clone());
                (Ok(metadata), KEEP_METADATA)
            }
            Err(reason) => (before.ok_or(reason), PAUSE),
        };
        *last = Some(Discovery { until: Instant::now() + keep, result: result.clone() });
        result
    }
}

/// Of the providers of all configurations: who is logged in stays so after a change, also while the provider does not answer.
static KNOWN: LazyLock<Shared<Known>> = LazyLock::new(Shared::new);

impl Provider {
    pub fn new(config: &Config, host: Arc<dyn Host>) -> Provider {
        Provider {
            issuer: config.issuer.clone(),
            client_id: config.client_id.clone(),
            client_secret: config.client_secret.clone(),
            service: config.service.clone(),
            service_host: config.service_host.clone(),
            discovery_timeout: config.discovery_timeout,
            redeem_timeout: config.redeem_timeout,
            known: KNOWN.get(
                format!("{:p} {} {:?} {:?}", Arc::as_ptr(&host), config.issuer, config.service, config.service_host),
                Known::new,
            ),
            host,
        }
    }

    /// # Errors
    /// Why the provider cannot be used now.
    pub async fn metadata(&self) -> Result<Arc<Metadata>, String> {
        self.known.metadata(|| self.discover()).await
    }

    async fn discover(&self) -> Result<Metadata, String> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let answer = self.call("GET", &url, Bytes::new(), self.discovery_timeout).await?;
        let metadata: Metadata = read(&answer).map_err(|why| format!("{url}: {why}"))?;
        if metadata.issuer.trim_end_matches('/') != self.issuer.trim_end_matches('/') {
            return Err(format!("{url} is of the issuer {}, not of {}", metadata.issuer, self.issuer));
        }
        Ok(metadata)
    }

    /// Tokens for the code of a login.
    ///
    /// # Errors
    /// What went wrong, without any token.
    pub async fn redeem(
        &self,
        metadata: &Metadata,
        code: &str,
        login: &Login,
        callback_url: &str,
    ) -> Result<Session, String> {
        let parameters = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", callback_url),
            ("code_verifier", &login.verifier),
        ];
        let Tokens { id_token, access_token, refresh_token } = self.tokens(metadata, &parameters).await?;
        let id_token = id_token.ok_or("token response did not contain an id_token")?;
        let jwt = self.verified(metadata, &id_token).await?;
        if jwt.text("nonce") != Some(&login.nonce) {
            return Err("the id_token is not of this login: its nonce is another".into());
        }
        Ok(Session { id_token, access_token, refresh_token, created: clock::now() })
    }

    /// New tokens for a session.
    ///
    /// # Errors
    /// What went wrong, without any token.
    pub async fn refresh(
        &self,
        metadata: &Metadata,
        refresh_token: &str,
        session: &Session,
    ) -> Result<Session, String> {
        let parameters = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        let tokens = self.tokens(metadata, &parameters).await?;
        if let Some(id_token) = &tokens.id_token {
            let jwt = self.verified(metadata, id_token).await?;
            let old = Jwt::parse(&session.id_token).map_err(|fault| fault.to_string())?;
            if jwt.text("sub") != old.text("sub") {
                return Err("the new id_token is another user's".into());
            }
        }
        Ok(Session {
            id_token: tokens.id_token.unwrap_or_else(|| session.id_token.clone()),
            access_token: tokens.access_token,
            refresh_token: Some(tokens.refresh_token.unwrap_or_else(|| refresh_token.to_owned())),
            created: clock::now(),
        })
    }

    /// Whether a session that could not be renewed is still good.
    pub fn is_current(&self, session: &Session) -> bool {
        Jwt::parse(&session.id_token).is_ok_and(|jwt| jwt.check_time(clock::now(), 0).is_ok())
    }

    async fn tokens(&self, metadata: &Metadata, parameters: &[(&str, &str)]) -> Result<Tokens, String> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.expose())
            .finish();
        let url = &metadata.token_endpoint;
        let answer = self.call("POST", url, Bytes::from(form), self.redeem_timeout).await?;
        read(&answer).map_err(|why| format!("{url}: {why}"))
    }

    /// An ID token with signature, issuer, audience and time as they must be.
    async fn verified(&self, metadata: &Metadata, id_token: &str) -> Result<Jwt, String> {
        let jwt = Jwt::parse(id_token).map_err(|fault| format!("the id_token: {fault}"))?;
        let fetch = || self.call("GET", &metadata.jwks_uri, Bytes::new(), self.discovery_timeout);
        self.known.keys.verify(&jwt, fetch).await.map_err(|fault| format!("the id_token: {fault}"))?;
        if jwt.text("iss") != Some(&metadata.issuer) {
            return Err("the id_token is of another issuer".into());
        }
        let is_for_us = match jwt.claims.get("aud") {
            Some(Value::String(audience)) => *audience == self.client_id,
            Some(Value::Array(audiences)) => audiences.iter().any(|one| one.as_str() == Some(&self.client_id)),
            _ => false,
        };
        if !is_for_us {
            return Err("the id_token is for another client".into());
        }
        jwt.time("exp").ok_or("the id_token has no exp")?;
        jwt.check_time(clock::now(), CLOCK_SKEW).map_err(|fault| format!("the id_token: {fault}"))?;
        Ok(jwt)
    }

    /// Endpoints on the issuer's host are called through its service, others by their URL.
    async fn call(
        &self,
        method: &'static str,
        url: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<HttpAnswer, String> {
        let failed = |error: Box<dyn std::error::Error>| format!("{url} cannot be called: {error}");
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(error.into()))?;
        let authority = uri.authority().ok_or_else(|| format!("{url} names no host"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut head = RequestHeader::build(method, path.as_bytes(), None).map_err(|error| failed(error.into()))?;
        head.insert_header(ACCEPT, "application/json").map_err(|error| failed(error.into()))?;
        if method == "POST" {
            head.insert_header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .map_err(|error| failed(error.into()))?;
        }
        let is_issuers =
            self.issuer.parse::<Uri>().ok().and_then(|issuer| issuer.authority().cloned()).as_ref() == Some(authority);
        let to = match &self.service {
            Some(service) if is_issuers => {
                let host = self.service_host.as_deref().unwrap_or(authority.as_str());
                head.insert_header(HOST, host).map_err(|error| failed(error.into()))?;
                service.clone()
            }
            _ => Destination::Url(url.to_owned()),
        };
        let answered = self.host.http(HttpCall { to, head, body, timeout, is_question: false, may_cut: false }).await;
        answered.map_err(|reason| format!("{url}: {reason}"))
    }
}

fn read<T: for<'de> Deserialize<'de>>(answer: &HttpAnswer) -> Result<T, String> {
    if answer.status() != 200 {
        return Err(format!("the answer has status {}", answer.status()));
    }
    // Messages of serde name fields and types, not values.
    serde_json::from_slice(&answer.body)
        .map_err(|error| format!("the answer has not the fields it must have (line {})", error.line()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Regression: a day after the start, a provider that was down shut out everybody, those who were logged in as well.
    #[tokio::test]
    async fn a_provider_that_stops_answering_is_believed_as_it_was() {
        let metadata = || Metadata {
            issuer: "http://idp.test".into(),
            authorization_endpoint: "http://idp.test/auth".into(),
            token_endpoint: "http://idp.test/token".into(),
            jwks_uri: "http://idp.test/keys".into(),
        };
        let (known, n_asked) = (Known::new(), Cell::new(0));
        let ask = |answer: Result<Metadata, String>| {
            n_asked.set(n_asked.get() + 1);
            async { answer }
        };
        let expire = async || {
            if let Some(last) = known.discovery.lock().await.as_mut() {
                last.until = Instant::now();
            }
        };
        assert!(known.metadata(|| ask(Err("down".into()))).await.is_err(), "nothing is known yet");
        assert!(known.metadata(|| ask(Ok(metadata()))).await.is_err(), "it is not asked again at once");
        expire().await;
        for _ in 0..2 {
            assert!(known.metadata(|| ask(Ok(metadata()))).await.is_ok());
        }
        expire().await;
        for _ in 0..2 {
            assert!(known.metadata(|| ask(Err("down".into()))).await.is_ok());
        }
        assert_eq!(n_asked.get(), 3);
        let asking = known.discovery.lock().await;
        assert!(known.metadata(|| ask(Err("down".into()))).await.is_ok(), "while another request asks");
        drop(asking);
    }
}
