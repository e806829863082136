//! Cross-origin requests, as Envoy's CORS filter answers them: preflight requests of an allowed origin at once, every
//! other answer to an allowed origin with the headers that let a browser's script see it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, ORIGIN,
};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::config::model::Cors;
use crate::plugins::Reply;

/// The answer to a preflight request of an allowed origin. Any other goes on to the upstream.
pub fn preflight(cors: &Cors, head: &RequestHeader) -> Option<Reply> {
    let is_preflight = head.method == http::Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return None;
    }
    allowed_origin(cors, head)?;
    let mut reply = Reply::new(200, "cors_preflight");
    for (name, values) in [(ACCESS_CONTROL_ALLOW_METHODS, &cors.methods), (ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers)]
    {
        if !values.is_empty() {
            reply = reply.header(name, &values.join(","));
        }
    }
    // Origin and credentials are added to every answer on its way out.
    Some(reply.header(ACCESS_CONTROL_MAX_AGE, &cors.max_age_secs.to_string()))
}

/// Tells the browser that its script may see this answer, if its origin is allowed.
pub fn decorate(cors: &Cors, head: &RequestHeader, answer: &mut ResponseHeader) {
    let Some(origin) = allowed_origin(cors, head) else { return };
    let mut set = |name: HeaderName, value: &str| {
        // What came as a header value or was checked as one is one.
        let _ = answer.insert_header(name, value);
    };
    set(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    if !cors.expose.is_empty() {
        set(ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose.join(","));
    }
}

fn allowed_origin<'a>(cors: &Cors, head: &'a RequestHeader) -> Option<&'a str> {
    let origin = head.headers.get(ORIGIN)?.to_str().ok()?;
    cors.origins.iter().any(|allowed| allowed.is_match(origin)).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::StringMatch;

    fn cors() -> Cors {
        Cors {
            origins: vec![StringMatch::Exact("http://a.com".into())],
            methods: vec!["GET".into(), "POST".into()],
            headers: vec![],
            expose: vec!["x-a".into()],
            credentials: true,
            max_age_secs: 60,
        }
    }

    fn head(method: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            head.insert_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn preflights_of_allowed_origins_are_answered() {
        let ask = ("access-control-request-method", "POST");
        let reply = preflight(&cors(), &head("OPTIONS", &[("origin", "http://a.com"), ask])).unwrap();
        assert_eq!(reply.status, 200);
        let text = format!("{:?}", reply.headers);
        assert!(text.contains("GET,POST") && text.contains("60"), "{text}");
        for (method, headers) in [
            ("OPTIONS", vec![("origin", "http://b.com"), ask]),
            ("OPTIONS", vec![("origin", "http://a.com")]),
            ("OPTIONS", vec![ask]),
            ("GET", vec![("origin", "http://a.com"), ask]),
        ] {
            assert!(preflight(&cors(), &head(method, &headers)).is_none(), "{method} {headers:?}");
        }
    }

    #[test]
    fn answers_to_other_origins_stay_as_they_are() {
        let headers = |origin: &str| {
            let mut answer = ResponseHeader::build(200, None).unwrap();
            decorate(&cors(), &head("GET", &[("origin", origin)]), &mut answer);
            answer.headers.len()
        };
        assert_eq!((headers("http://a.com"), headers("http://b.com")), (3, 0));
    }
}
