//! Headers, query parameters and form fields as one thing: names with lists of values.

use http::{HeaderName, HeaderValue, Method};
use pingora_http::ResponseHeader;

use super::form::{Values, bytes_of, text_of};
use crate::plugins::Request;

/// Names with values, in order. A name without values is absent.
pub trait Bag {
    fn values(&self, name: &str) -> Vec<String>;

    /// Gives `name` these values and no others.
    fn set(&mut self, name: &str, values: &[String]);
}

/// The headers of a request, pseudo headers `:authority`, `:path` and `:method` among them. `host` is `:authority`.
pub struct RequestHeaders<'a, 'r>(pub &'a mut Request<'r>);

impl Bag for RequestHeaders<'_, '_> {
    fn values(&self, name: &str) -> Vec<String> {
        header_values(self.0, name)
    }

    fn set(&mut self, name: &str, values: &[String]) {
        match (name, values) {
            (":path", [path, ..]) => set_path_and_query(self.0, path),
            (":method", [method, ..]) => {
                // The client waits for the answer to the method that it sent, which has a body or has none.
                let is_head = self.0.head.method == Method::HEAD;
                if let Some(method) = method.parse().ok().filter(|method| (*method == Method::HEAD) == is_head) {
                    self.0.head.set_method(method);
                }
            }
            // They say where the body ends, which no rule changes.
            ("content-length" | "transfer-encoding", _) => {}
            (":path" | ":method" | ":scheme", _) => {}
            // A request without a host could not be routed or sent.
            (":authority" | "host", []) => {}
            (":authority" | "host", [host, ..]) => set_authority(self.0, host),
            _ => {
                let written = headers(name, values);
                let _ = self.0.head.remove_header(name);
                for (name, value) in written {
                    // Both are checked; appending fails only on malformed ones.
                    let _ = self.0.head.append_header(name, value);
                }
            }
        }
    }
}

/// The headers of an answer, pseudo header `:status` among them.
pub struct ResponseHeaders<'a>(pub &'a mut ResponseHeader);

impl Bag for ResponseHeaders<'_> {
    fn values(&self, name: &str) -> Vec<String> {
        match name {
            ":status" => vec![self.0.status.as_str().to_owned()],
            _ => texts(&self.0.headers.get_all(name)),
        }
    }

    fn set(&mut self, name: &str, values: &[String]) {
        if name == ":status" {
            // One that ends no request leaves the answer's own.
            let status = values.first().and_then(|status| status.parse::<u16>().ok());
            if let Some(status) = status.filter(|status| super::STATUSES.contains(status)) {
                let _ = self.0.set_status(status);
            }
            return;
        }
        // They say where the body ends, which no rule changes.
        if matches!(name, "content-length" | "transfer-encoding") {
            return;
        }
        let written = headers(name, values);
        let _ = self.0.remove_header(name);
        for (name, value) in written {
            let _ = self.0.append_header(name, value);
        }
    }
}

impl Bag for Values {
    fn values(&self, name: &str) -> Vec<String> {
        self.get(name).to_vec()
    }

    fn set(&mut self, name: &str, values: &[String]) {
        self.replace(name, values);
    }
}

/// Values of a request header, or of a pseudo header.
pub fn header_values(request: &Request<'_>, name: &str) -> Vec<String> {
    match name {
        ":path" => vec![path_and_query(request).to_owned()],
        ":method" => vec![request.head.method.as_str().to_owned()],
        ":scheme" => vec![if request.state.is_tls { "https" } else { "http" }.to_owned()],
        ":authority" => texts(&request.head.headers.get_all(http::header::HOST)),
        _ => texts(&request.head.headers.get_all(name)),
    }
}

/// Path with query as it goes upstream.
pub fn path_and_query<'a>(request: &'a Request<'_>) -> &'a str {
    request.head.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Sets path and query; one that no request line could carry is not set.
pub fn set_path_and_query(request: &mut Request<'_>, path: &str) {
    if path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() {
        let _ = request.head.set_raw_path(path.as_bytes());
    }
}

/// The query parameters of a request, decoded.
pub fn query(request: &Request<'_>) -> Values {
    Values::parse(request.head.uri.query().unwrap_or_default().as_bytes())
}

/// Replaces the query; names come in alphabetical order, as Go writes them.
pub fn set_query(request: &mut Request<'_>, values: &Values) {
    let encoded = values.encode();
    let path = request.path();
    let path = if encoded.is_empty() { path.to_owned() } else { format!("{path}?{encoded}") };
    set_path_and_query(request, &path);
}

/// Host and the name by which routes are found.
fn set_authority(request: &mut Request<'_>, host: &str) {
    if let Ok(value) = HeaderValue::from_bytes(&bytes_of(host)) {
        let _ = request.head.insert_header(http::header::HOST, value);
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        request.state.host = name.to_ascii_lowercase();
    }
}

fn texts(values: &http::header::GetAll<'_, HeaderValue>) -> Vec<String> {
    values.iter().map(|value| text_of(value.as_bytes())).collect()
}

/// What of `values` can be sent as header `name`.
fn headers(name: &str, values: &[String]) -> Vec<(HeaderName, HeaderValue)> {
    let Ok(name) = name.parse::<HeaderName>() else { return Vec::new() };
    let made = values.iter().filter_map(|value| HeaderValue::from_bytes(&bytes_of(value)).ok());
    made.map(|value| (name.clone(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::Exchange;

    #[test]
    fn pseudo_headers_are_the_request_line() {
        let mut exchange = Exchange::new("GET", "/a?b=1", &[("host", "old.com")]);
        let mut request = exchange.request();
        let mut bag = RequestHeaders(&mut request);
        assert_eq!((bag.values(":path"), bag.values(":authority")), (vec!["/a?b=1".into()], vec!["old.com".into()]));
        bag.set(":path", &["/c".into()]);
        bag.set(":path", &["not a path".into()]);
        bag.set(":authority", &["New.com:8080".into()]);
        bag.set(":authority", &[]);
        bag.set(":method", &["POST".into()]);
        bag.set("x-two", &["1".into(), "2".into(), "bad\nvalue".into()]);
        assert_eq!(bag.values("x-two"), ["1", "2"]);
        // What came in a query as bytes that are no Unicode goes on as those.
        let odd = Values::parse(b"q=a%FFb%F4%8F%BF%BF").get("q").to_vec();
        bag.set("x-odd", &odd);
        assert_eq!(
            (bag.values("x-odd"), bag.0.head.headers["x-odd"].as_bytes()),
            (odd, &b"a\xFFb\xF4\x8F\xBF\xBF"[..])
        );
        assert_eq!(exchange.head.uri.to_string(), "/c");
        assert_eq!(exchange.head.method, http::Method::POST);
        assert_eq!((exchange.header("host"), exchange.state.host.as_str()), (Some("New.com:8080"), "new.com"));
    }
}
