//! Where credentials stand in a request: headers, query parameters, cookies.

use std::borrow::Cow;

use crate::plugins::{CredentialPlace, Request, cookies};

/// Decoded values of a query parameter, in written order. A plus is a plus, as Higress' C++ plugins have it: keys in Base64 have some.
pub fn query_values<'q>(query: &'q str, name: &str) -> impl Iterator<Item = Cow<'q, str>> {
    let decoded = |text: &'q str| percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(move |(key, _)| decoded(key) == name).map(move |(_, value)| decoded(value))
}

/// First value of a cookie, without the quotes it may stand in.
pub fn cookie<'r>(request: &'r Request<'_>, name: &str) -> Option<&'r str> {
    cookies::unquoted(request.head, name)
}

/// A place a token may be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// What follows the prefix in the header.
    Header {
        name: String,
        prefix: String,
    },
    Query(String),
    Cookie(String),
}

impl Place {
    /// The token, if there is one.
    pub fn read(&self, request: &Request<'_>) -> Option<String> {
        let token = match self {
            Place::Header { name, prefix } => request.header(name)?.strip_prefix(prefix.as_str())?.to_owned(),
            Place::Query(name) => query_values(request.head.uri.query()?, name).next()?.into_owned(),
            Place::Cookie(name) => cookie(request, name)?.to_owned(),
        };
        Some(token).filter(|token| !token.is_empty())
    }

    /// As the rest of the gateway knows it.
    pub fn credential(&self) -> CredentialPlace {
        match self {
            Place::Header { name, .. } => CredentialPlace::Header(name.clone()),
            Place::Query(name) => CredentialPlace::Query(name.clone()),
            Place::Cookie(name) => CredentialPlace::Cookie(name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::Exchange;

    #[test]
    fn tokens_are_read_and_removed() {
        let header = Place::Header { name: "authorization".into(), prefix: "Bearer ".into() };
        let (query, cookie) = (Place::Query("t".into()), Place::Cookie("s".into()));
        let mut exchange = Exchange::new(
            "GET",
            "/p?a=1&t=x%2By&b=2",
            &[("authorization", "Bearer abc"), ("cookie", "a=1; s=\"q\""), ("cookie", "b=2; ss=3")],
        );
        let request = exchange.request();
        assert_eq!(header.read(&request).as_deref(), Some("abc"));
        assert_eq!(query.read(&request).as_deref(), Some("x+y"));
        assert_eq!(cookie.read(&request).as_deref(), Some("q"));
        for place in [&header, &query, &cookie] {
            place.credential().clear(request.head);
            assert_eq!(place.read(&request), None);
        }
        assert_eq!(exchange.head.uri.to_string(), "/p?a=1&b=2");
        assert_eq!(exchange.header("cookie"), Some("a=1; b=2; ss=3"));
        let mut only = Exchange::new("GET", "/", &[("cookie", "s=1")]);
        cookie.credential().clear(&mut only.head);
        assert_eq!(only.header("cookie"), None);
        let mut basic = Exchange::new("GET", "/", &[("authorization", "Basic abc")]);
        assert_eq!(header.read(&basic.request()), None);
    }
}
