//! How registries are asked: a request, its answer, and the one trait the process implements over its HTTP client.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::config::model::Registry;

/// Makes plain HTTP calls.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// # Errors
    /// Why there is no answer, in words.
    async fn fetch(&self, ask: Ask) -> Result<Fetched, String>;
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// For the whole call.
    pub timeout: Duration,
}

/// Its answer, whole.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Long enough for a busy registry, short enough to notice that it hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Ask {
    /// `path` begins with a slash.
    pub(super) fn get(registry: &Registry, path: &str) -> Ask {
        let url = format!("http://{}{path}", authority(registry));
        let accept = ("accept", "application/json".to_owned());
        Ask { method: "GET", url, headers: vec![accept], body: String::new(), timeout: TIMEOUT }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Ask {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn timeout(mut self, timeout: Duration) -> Ask {
        self.timeout = timeout;
        self
    }

    /// The same place, with a form.
    pub(super) fn post_form(mut self, form: &[(&str, &str)]) -> Ask {
        self.method = "POST";
        self.headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
        self.body = query(form);
        self
    }

    /// Without query, which may hold a token.
    fn place(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }
}

/// Host and port of the registry.
pub(super) fn authority(registry: &Registry) -> String {
    match registry.domain.contains(':') {
        true => format!("[{}]:{}", registry.domain, registry.port),
        false => format!("{}:{}", registry.domain, registry.port),
    }
}

/// Makes the call and reads JSON from a good answer.
///
/// # Errors
/// No answer, a status other than 200, or something else than JSON.
pub(super) async fn json(fetch: &dyn Fetch, ask: Ask) -> Result<(HeaderMap, Value), String> {
    let place = ask.place().to_owned();
    let answer = fetch.fetch(ask).await.map_err(|error| format!("{place}: {error}"))?;
    if answer.status != 200 {
        let said = String::from_utf8_lossy(&answer.body);
        let said: String = said.chars().take(200).collect();
        return Err(format!("{place} answered {}: {said}", answer.status));
    }
    let value = serde_json::from_slice(&answer.body).map_err(|error| format!("{place} answered no JSON: {error}"))?;
    Ok((answer.headers, value))
}

/// `a=1&b=2`, with everything encoded that could be misread.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Everything but what stands for itself anywhere in a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as one element of a path.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_misread_is_encoded() {
        assert_eq!(query(&[("a", "x y&z"), ("b", "providers:é")]), "a=x+y%26z&b=providers%3A%C3%A9");
    }
}
