//! A small HTTP client: pooled HTTP/1.1 connections, times taken at the client, errors that name the URL.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Uri};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// Longest wait for a whole answer, unless a client is told another.
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Client {
    inner: HyperClient<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// A whole answer and when it came.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From sending to the first byte of the body.
    pub first_byte: Duration,
    /// From sending to the last byte of the body.
    pub total: Duration,
}

impl Client {
    pub fn new() -> Client {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client { inner: HyperClient::builder(TokioExecutor::new()).build(connector), timeout: TIMEOUT }
    }

    /// The same connections, with another longest wait for a whole answer.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// A request with a JSON body; an empty body means none.
    pub fn request(
        method: &str,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(http_uri(url)?).body(Full::new(body))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(headers.iter().cloned());
        Ok(request)
    }

    /// Sends and reads the answer to its end, whatever its status.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let what = format!("{} {}", request.method(), request.uri());
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(answer) => answer.with_context(|| format!("{what}: no answer; is it running there?")),
            Err(_) => bail!("{what}: no whole answer within {} s", self.timeout.as_secs_f64()),
        }
    }

    /// The JSON answer of a GET (no body) or POST; anything but 2xx is an error that shows the body.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: &str,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<T> {
        let answer = self.send(Client::request(method, url, headers, body)?).await?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {url}: status {}, body {}", answer.status, excerpt(&answer.body));
        }
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("{method} {url}: unexpected body {}", excerpt(&answer.body)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let start = Instant::now();
        let response = self.inner.request(request).await?;
        let (parts, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        let mut first_byte = None;
        while let Some(frame) = incoming.frame().await {
            if let Some(data) = frame?.data_ref().filter(|data| !data.is_empty()) {
                first_byte.get_or_insert_with(|| start.elapsed());
                body.extend_from_slice(data);
            }
        }
        let total = start.elapsed();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.freeze(),
            first_byte: first_byte.unwrap_or(total),
            total,
        })
    }
}

/// The beginning of a body, for error messages.
pub fn excerpt(body: &[u8]) -> String {
    const MAX_CHARS: usize = 300;
    let text = String::from_utf8_lossy(body);
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if text.is_empty() => "(empty)".to_string(),
        None => text.into_owned(),
    }
}

/// A URL that can be measured.
pub fn http_uri(url: &str) -> Result<Uri> {
    // Without a scheme `localhost:80` is an authority; the error is to say what is missing, not what that is.
    let uri: Uri = url.parse().map_err(|error| anyhow!("{url:?} is not a URL: {error}"))?;
    match uri.scheme_str() {
        Some("http") => Ok(uri),
        Some("https") => {
            bail!("{url:?}: only http:// URLs can be measured; TLS would measure the client's cryptography too")
        }
        _ => bail!("{url:?}: a URL starts with http://, as in http://127.0.0.1:8080"),
    }
}

/// A URL of the command line, for clap: a bad one is a bad flag at the start.
pub fn parse_url(url: &str) -> Result<String> {
    http_uri(url).map(|_| url.to_string())
}

/// A header given as `Name: value` on the command line.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) =
        text.split_once(':').with_context(|| format!("header {text:?}: write it as \"Name: value\""))?;
    let name = HeaderName::try_from(name.trim()).with_context(|| format!("header {text:?}: bad name"))?;
    let value = HeaderValue::try_from(value.trim()).with_context(|| format!("header {text:?}: bad value"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use axum::Router;

    use super::*;
    use crate::test_support::serve_router;

    #[test]
    fn only_plain_http_is_taken() {
        for (url, part) in [
            ("https://localhost/", "only http://"),
            ("localhost:80", "starts with http://"),
            ("/v1", "starts with http://"),
            ("ftp://localhost", "starts with http://"),
            ("a b", "not a URL"),
            ("", "not a URL"),
        ] {
            assert!(Client::request("GET", url, &[], Bytes::new()).is_err(), "{url}");
            // clap shows the outermost message only.
            let error = parse_url(url).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(parse_url("http://localhost/v1").unwrap(), "http://localhost/v1");
    }

    #[tokio::test]
    async fn a_client_waits_as_long_as_it_is_told() {
        let server = serve_router(Router::new().fallback(async || std::future::pending::<()>().await)).await;
        let client = Client::new().with_timeout(Duration::from_millis(20));
        let error = client.json::<serde_json::Value>("GET", &server.url("/"), &[], Bytes::new()).await.unwrap_err();
        assert!(error.to_string().contains("no whole answer within 0.02 s"), "{error}");
    }

    #[tokio::test]
    async fn errors_name_the_url() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/questions", listener.local_addr().unwrap());
        drop(listener);
        let error = Client::new().json::<serde_json::Value>("GET", &url, &[], Bytes::new()).await.unwrap_err();
        assert!(format!("{error:#}").contains(&url), "{error:#}");
    }

    #[test]
    fn headers_are_name_and_value() {
        let (name, value) = parse_header("X-Training-Mode: true").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("x-training-mode", &b"true"[..]));
        assert!(parse_header("nothing").is_err());
    }
}
