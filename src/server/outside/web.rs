//! The way to search engines, and to the pages that they find. Pages are strangers' addresses: nothing on this machine or in its network can
//! be reached by one, by name, by number or by a redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Response, Url};
use tokio::time::timeout;

use super::{Lazy, described};
use crate::rag::ports::{Fetch, Method, Reach, WebRequest, WebResponse};

/// Redirects that a request may take.
const MAX_REDIRECTS: usize = 5;

const NOT_PUBLIC: &str = "the address is not one of the public internet";

#[derive(Default)]
pub struct WebClient {
    /// To configured addresses. Follows nothing: a redirect would take keys elsewhere.
    engines: Lazy,
    /// To addresses that came from the internet.
    pages: Lazy,
    /// To addresses that the operator named.
    named: Lazy,
}

#[async_trait]
impl Fetch for WebClient {
    async fn fetch(&self, request: WebRequest) -> Result<WebResponse, String> {
        let patience = request.timeout;
        let late = |_| format!("no answer within {} ms", patience.as_millis());
        timeout(patience, self.answer(request)).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }
}

impl WebClient {
    async fn answer(&self, request: WebRequest) -> Result<WebResponse, String> {
        let client = match request.reach {
            Reach::Configured => self.engines.get(|builder| builder.redirect(Policy::none())),
            Reach::Operator => self.named.get(|builder| builder.redirect(Policy::limited(MAX_REDIRECTS))),
            Reach::Stranger => {
                self.pages.get(|builder| builder.dns_resolver(PublicNames).redirect(Policy::custom(follow)))
            }
        }?;
        let url: Url = request.url.parse().map_err(|error| format!("it is no address: {error}"))?;
        if request.reach == Reach::Stranger && !may_be_public(&url) {
            return Err(NOT_PUBLIC.to_owned());
        }
        let mut call = match request.method {
            Method::Get => client.get(url),
            Method::Post => client.post(url),
        };
        for (name, value) in &request.headers {
            let name: HeaderName = name.parse().map_err(|_| format!("\"{name}\" is no name of a header"))?;
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| format!("the value of the header {name} has characters that no header can carry"))?;
            value.set_sensitive(true);
            call = call.header(name, value);
        }
        if let Some(body) = request.body {
            call = call.body(body);
        }
        read(call.send().await.map_err(|error| described(&error))?, request.max_bytes).await
    }
}

async fn read(mut response: Response, max_bytes: usize) -> Result<WebResponse, String> {
    let header =
        |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let coding = header(reqwest::header::CONTENT_ENCODING);
    if !matches!(coding.as_str(), "" | "identity") {
        return Err(format!("the answer is compressed ({coding}), which was not asked for"));
    }
    let content_type = header(reqwest::header::CONTENT_TYPE);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| described(&error))? {
        if body.len() + chunk.len() > max_bytes {
            return Err(format!("the answer is longer than {max_bytes} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(WebResponse { status, content_type, body })
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    if may_be_public(attempt.url()) { attempt.follow() } else { attempt.error(NOT_PUBLIC) }
}

/// Whether an address is of the web, and public where it is a number. Names are judged when they are resolved.
fn may_be_public(url: &Url) -> bool {
    let is_web = matches!(url.scheme(), "http" | "https");
    let host = url.host_str().unwrap_or_default();
    let number = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    is_web && !host.is_empty() && number.map_or(true, is_public)
}

/// Resolves names to public addresses alone. A name that has any other is not used at all: it is meant to reach inside.
struct PublicNames;

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                timeout(RESOLVE, tokio::net::lookup_host((name.as_str(), 0))).await??.collect();
            if found.is_empty() || !found.iter().all(|address| is_public(address.ip())) {
                return Err(NOT_PUBLIC.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

const RESOLVE: Duration = Duration::from_secs(5);

/// Whether an address belongs to the internet and to nobody's own network, after the registries of special addresses.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = matches!((a, b, c), (0 | 10 | 127 | 224..=255, _, _) | (100, 64..=127, _) | (169, 254, _))
        || matches!((a, b, c), (172, 16..=31, _) | (192, 168, _) | (192, 0, 0 | 2) | (192, 88, 99))
        || matches!((a, b, c), (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113));
    !is_special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    // Global unicast without what is inside of it: Teredo and other protocols, documentation, 6to4. What maps to IPv4 lies outside.
    (first & 0xE000) == 0x2000
        && !(first == 0x2001 && (second < 0x200 || second == 0x0DB8))
        && first != 0x2002
        && first != 0x3FFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::ports::Method;

    #[test]
    fn only_the_internet_is_public() {
        for (ip, expected) in [
            ("93.184.216.34", true),
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("169.254.169.254", false),
            ("172.15.0.1", true),
            ("172.31.255.255", false),
            ("192.168.0.1", false),
            ("198.18.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:2800:220:1::1", true),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("2001:4860:4860::8888", true),
            ("2002:7f00:1::", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn addresses_are_judged_however_they_are_written() {
        for (url, expected) in [
            ("https://example.org/page", true),
            ("http://127.1/", false),
            ("http://0x7f.1/", false),
            ("http://2130706433/", false),
            ("http://[::1]:8001/", false),
            ("ftp://example.org/", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(may_be_public(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn a_page_cannot_lead_inside() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let request = |url: String| WebRequest {
            method: Method::Get,
            url,
            headers: Vec::new(),
            body: None,
            timeout: Duration::from_secs(10),
            max_bytes: 1_000,
            reach: Reach::Stranger,
        };
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            let error = WebClient::default().fetch(request(format!("http://{host}:{port}/"))).await.unwrap_err();
            assert!(error.contains(NOT_PUBLIC), "{host}: {error}");
        }
    }
}
