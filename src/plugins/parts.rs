//! Parts of a request that several plugins look at: header texts, query parameters, cookies, whether a body may follow.
//!
//! Reading only; nothing here changes a request or knows a plugin.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Version};

use super::{Request, cookies};

/// First value of a header, or of a pseudo header, as text; bytes that are not UTF-8 are replaced, so that a filter sees something of
/// them too.
pub fn text<'a>(request: &'a Request<'_>, name: &str) -> Option<Cow<'a, str>> {
    let header = |name: &str| request.head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match name {
        ":authority" => header(HOST.as_str()),
        ":path" => Some(Cow::Borrowed(path_and_query(request))),
        ":method" => Some(Cow::Borrowed(request.head.method.as_str())),
        ":scheme" => Some(Cow::Borrowed(if request.state.is_tls { "https" } else { "http" })),
        _ => header(name),
    }
}

/// Path and query as they will go upstream.
pub fn path_and_query<'a>(request: &'a Request<'_>) -> &'a str {
    request.head.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Query parameters in order, decoded.
pub fn query<'a>(request: &'a Request<'_>) -> form_urlencoded::Parse<'a> {
    form_urlencoded::parse(request.head.uri.query().unwrap_or_default().as_bytes())
}

/// First query parameter of that name, decoded.
pub fn parameter<'a>(request: &'a Request<'_>, name: &str) -> Option<Cow<'a, str>> {
    query(request).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// First cookie of that name, as written.
pub fn cookie<'a>(request: &'a Request<'_>, name: &str) -> Option<&'a str> {
    cookies::cookie(request.head, name)
}

/// Whether a body may follow this head. In HTTP/1 the head says so; in HTTP/2 only a length of zero excludes one.
pub fn may_have_body(request: &Request<'_>) -> bool {
    let headers = &request.head.headers;
    match headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) {
        Some(length) => length != b"0" || headers.contains_key(TRANSFER_ENCODING),
        None => request.head.version == Version::HTTP_2 || headers.contains_key(TRANSFER_ENCODING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::Exchange;

    #[test]
    fn parameters_and_cookies_are_found_by_name_and_decoded() {
        let mut exchange =
            Exchange::new("GET", "/p?a=1&b=x%20y+z&b=2&flag", &[("cookie", "s=1; uid=a=b"), ("cookie", "t=2")]);
        let request = exchange.request();
        assert_eq!(parameter(&request, "b").as_deref(), Some("x y z"));
        assert_eq!(parameter(&request, "flag").as_deref(), Some(""));
        assert_eq!(parameter(&request, "c"), None);
        assert_eq!(
            (cookie(&request, "uid"), cookie(&request, "t"), cookie(&request, "u")),
            (Some("a=b"), Some("2"), None)
        );
        assert_eq!(path_and_query(&request), "/p?a=1&b=x%20y+z&b=2&flag");
        let odd = http::HeaderValue::from_bytes(b"uid=u1; x=\xe9; y=2").unwrap();
        exchange.head.insert_header("cookie", odd).unwrap();
        let request = exchange.request();
        assert_eq!((cookie(&request, "uid"), cookie(&request, "y")), (Some("u1"), Some("2")));
        assert_eq!(
            (text(&request, ":path"), text(&request, ":method")),
            (Some("/p?a=1&b=x%20y+z&b=2&flag".into()), Some("GET".into()))
        );
    }

    #[test]
    fn a_body_is_expected_where_one_may_come() {
        for (headers, expected) in [
            (&[][..], false),
            (&[("content-length", "0")], false),
            (&[("content-length", "5")], true),
            (&[("transfer-encoding", "chunked")], true),
        ] {
            assert_eq!(may_have_body(&Exchange::new("GET", "/", headers).request()), expected, "{headers:?}");
        }
        let mut exchange = Exchange::new("GET", "/", &[]);
        exchange.head.set_version(Version::HTTP_2);
        assert!(may_have_body(&exchange.request()), "HTTP/2 needs no length");
    }
}
