//! One address of an OpenAI-compatible API: a call with its key, its patience and its errors.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::time::timeout;

use super::{Lazy, described};
use crate::base::secret::Secret;

/// Characters of an error answer that are told on.
pub const MAX_TOLD: usize = 300;

/// No error answer that is worth reading is as long.
const MAX_ERROR_BYTES: usize = 64 << 10;

pub struct Endpoint {
    /// What errors call it: `model "x"`.
    pub what: String,
    pub url: String,
    pub key: Option<Secret>,
    /// The setting that the key comes from, for its error.
    pub key_setting: &'static str,
    /// Until the first byte of an answer, and between two pieces of it.
    pub patience: Duration,
    pub client: Lazy,
}

/// A call that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// None where no answer came.
    pub status: Option<u16>,
    pub told: String,
}

impl Refused {
    /// Whether the same call may do a moment later.
    pub fn is_passing(&self) -> bool {
        self.status.is_none_or(|status| matches!(status, 408 | 429 | 500..=599))
    }
}

impl Endpoint {
    /// An answer with a success status.
    ///
    /// # Errors
    /// No answer came in time, or one with another status: its message is told.
    pub async fn post(&self, body: &Value, accept: &'static str) -> Result<Response, Refused> {
        let unsent = |told: String| Refused { status: None, told };
        // A redirect would take the key elsewhere.
        let client = self.client.get(|builder| builder.redirect(reqwest::redirect::Policy::none())).map_err(unsent)?;
        let headers = self.headers(accept).map_err(unsent)?;
        let request = client.post(&self.url).headers(headers).body(body.to_string());
        let answered = timeout(self.patience, request.send()).await.map_err(|_| unsent(self.late()))?;
        let mut response = answered.map_err(|error| unsent(format!("{}: {}", self.what, described(&error))))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = self.whole(&mut response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let told = serde_json::from_slice::<Value>(&body).ok();
        let told = told.as_ref().and_then(|error| error["error"]["message"].as_str()).unwrap_or_default();
        let told: String = told.chars().take(MAX_TOLD).collect();
        Err(Refused { status: Some(status), told: format!("{} answered {status}: {told}", self.what) })
    }

    pub fn headers(&self, accept: &'static str) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Some(key) = self.key.as_ref().filter(|key| !key.is_empty()) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                .map_err(|_| format!("{} in config.toml has characters that no header can carry", self.key_setting))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// The whole body.
    ///
    /// # Errors
    /// It breaks off, or is longer than `max_bytes`.
    pub async fn whole(&self, response: &mut Response, max_bytes: usize) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while let Some(chunk) =
            next(response, self.patience).await.map_err(|error| format!("{}: {error}", self.what))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > max_bytes {
                return Err(format!("{}: the answer is longer than {max_bytes} bytes", self.what));
            }
        }
        Ok(body)
    }

    fn late(&self) -> String {
        format!("{} said nothing for {} seconds", self.what, self.patience.as_secs())
    }
}

/// The next piece of a body.
///
/// # Errors
/// It breaks off, or nothing comes for so long.
pub async fn next(response: &mut Response, patience: Duration) -> Result<Option<bytes::Bytes>, String> {
    let read = timeout(patience, response.chunk()).await;
    let read = read.map_err(|_| format!("nothing came for {} seconds", patience.as_secs()))?;
    read.map_err(|error| described(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_and_never_shown() {
        let endpoint = Endpoint {
            what: "model \"m\"".into(),
            url: "http://127.0.0.1:1/v1/chat/completions".into(),
            key: Some(Secret::new("sk-1")),
            key_setting: "rag.api_key",
            patience: Duration::from_secs(1),
            client: Lazy::default(),
        };
        let headers = endpoint.headers("application/json").unwrap();
        assert_eq!(headers.get(AUTHORIZATION).unwrap(), "Bearer sk-1");
        assert!(!format!("{headers:?}").contains("sk-1"));
        let broken = Endpoint { key: Some(Secret::new("sk\n1")), ..endpoint };
        assert!(broken.headers("application/json").unwrap_err().contains("rag.api_key"));
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let refused = |status| Refused { status, told: String::new() };
        assert!([None, Some(429), Some(503)].into_iter().all(|status| refused(status).is_passing()));
        assert!([Some(400), Some(401), Some(404)].into_iter().all(|status| !refused(status).is_passing()));
    }
}
