use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{Exchange, answer, built, problem_fields};

/// Runs a request and lists status, details and the CORS headers of what the client gets.
fn check(config: &Value, method: &str, headers: &[(&'static str, &str)], expected: &Expect) {
    let plugin = built(&SPEC, config);
    let mut exchange = Exchange::new(method, "/", &[("host", "api.example.com")]);
    for (name, value) in headers {
        exchange.head.append_header(*name, *value).unwrap();
    }
    let reply = exchange.run(&plugin);
    let (status, details) = reply.map_or((200, "upstream".to_owned()), |reply| (reply.status, reply.details));
    let upstream = [
        ("access-control-allow-origin", "http://upstream"),
        ("access-control-allow-headers", "X-Up"),
        ("vary", "Accept"),
    ];
    let answered = exchange.answered(&plugin, answer(status, if status == 200 { &upstream } else { &[] }, ""));
    let mut told = vec![format!("{status} {details}")];
    told.extend(answered.head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
    expected.assert_eq(&told.join("\n"));
}

fn example() -> Value {
    json!({
        "allow_origins": ["http://example.com/"],
        "allow_origin_patterns": ["http://*.example.org:[8080,9090]", "https://*.example.net:[*]"],
        "allow_methods": ["get", "POST"],
        "allow_headers": ["Content-Type", "Token"],
        "expose_headers": ["X-Own"],
        "allow_credentials": true,
        "max_age": 3600,
    })
}

#[test]
fn preflights_are_answered() {
    let ask = [("access-control-request-method", "POST"), ("access-control-request-headers", "content-type, Token")];
    let mut headers = vec![("origin", "http://example.com")];
    headers.extend(ask);
    check(
        &example(),
        "OPTIONS",
        &headers,
        &expect![[r#"
        204 cors.preflight
        x-cors-version: 1.0.0
        access-control-allow-origin: http://example.com
        access-control-allow-methods: GET,POST
        access-control-allow-headers: Content-Type,Token
        access-control-max-age: 3600
        access-control-expose-headers: X-Own
        access-control-allow-credentials: true
        vary: Origin"#]],
    );
    headers[0].1 = "http://evil.com";
    check(
        &example(),
        "OPTIONS",
        &headers,
        &expect![[r#"
        204 cors.preflight.invalid
        x-cors-version: 1.0.0"#]],
    );
}

#[test]
fn preflights_for_what_is_not_listed_get_no_headers() {
    for ask in [
        [("access-control-request-method", "PUT"), ("access-control-request-headers", "Token")],
        [("access-control-request-method", "GET"), ("access-control-request-headers", "Token,X-Other")],
    ] {
        let mut exchange =
            Exchange::new("OPTIONS", "/", &[("host", "a.com"), ("origin", "http://example.com"), ask[0], ask[1]]);
        let reply = exchange.run(&built(&SPEC, &example())).unwrap();
        assert_eq!((reply.status, reply.details.as_str()), (204, "cors.preflight.invalid"), "{ask:?}");
    }
}

#[test]
fn everything_is_allowed_by_default_and_stars_tell_what_was_asked() {
    check(
        &json!({}),
        "OPTIONS",
        &[("origin", "null"), ("access-control-request-method", "POST")],
        &expect![[r#"
        204 cors.preflight
        x-cors-version: 1.0.0
        access-control-allow-origin: null
        access-control-allow-methods: GET,PUT,POST,DELETE,PATCH,OPTIONS
        access-control-allow-headers: DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Authorization
        access-control-max-age: 86400
        vary: Origin"#]],
    );
    let stars = json!({"allow_origins": ["*"], "allow_methods": ["*"], "allow_headers": ["*"]});
    let headers = [
        ("origin", "https://c.com"),
        ("access-control-request-method", "PROPFIND"),
        ("access-control-request-headers", " A, B, "),
    ];
    check(
        &stars,
        "OPTIONS",
        &headers,
        &expect![[r#"
        204 cors.preflight
        x-cors-version: 1.0.0
        access-control-allow-origin: https://c.com
        access-control-allow-methods: PROPFIND
        access-control-allow-headers: A,B
        access-control-max-age: 86400
        vary: Origin"#]],
    );
}

#[test]
fn answers_get_the_headers_of_this_configuration_only() {
    check(
        &example(),
        "GET",
        &[("origin", "http://example.com")],
        &expect![[r#"
        200 upstream
        vary: Accept
        vary: Origin
        x-cors-version: 1.0.0
        access-control-allow-origin: http://example.com
        access-control-expose-headers: X-Own
        access-control-allow-credentials: true"#]],
    );
    check(
        &example(),
        "GET",
        &[("origin", "http://evil.com")],
        &expect![[r#"
        200 upstream
        vary: Accept
        x-cors-version: 1.0.0"#]],
    );
    check(
        &example(),
        "GET",
        &[],
        &expect![[r#"
        200 upstream
        vary: Accept
        x-cors-version: 1.0.0"#]],
    );
}

#[test]
fn origins_are_compared_whole() {
    let (config, _) = Config::read(&Scope { global: Some(&example()), rule: None, n_rules: 0 });
    for (origin, expected) in [
        ("http://example.com", true),
        ("HTTP://Example.com", true),
        ("http://example.com:8080", false),
        ("http://a.example.org:8080", true),
        ("http://a.b.example.org:9090", true),
        ("http://a.example.org", false),
        ("http://a.example.org:80801", false),
        ("http://a.example.org:8080.evil.com", false),
        ("https://a.example.net", true),
        ("https://a.example.net:444", true),
        ("https://aXexample.net", false),
    ] {
        let mut exchange = Exchange::new("GET", "/", &[("host", "own.com")]);
        let granted = config.grant(&exchange.request(), origin.to_owned(), false);
        assert_eq!(granted.is_some(), expected, "{origin}");
    }
}

#[test]
fn the_own_origin_is_not_cross_origin() {
    for (host, is_tls, origin, expected) in [
        ("a.com", false, "http://a.com", true),
        ("A.com:80", false, "http://a.com", true),
        ("a.com", true, "https://a.com:443", true),
        ("a.com", true, "http://a.com", false),
        ("a.com:8080", false, "http://a.com", false),
        ("[::1]:80", false, "http://[::1]", true),
        ("a.com", false, "null", false),
    ] {
        let mut exchange = Exchange::new("OPTIONS", "/", &[("host", host)]);
        exchange.state.is_tls = is_tls;
        assert_eq!(is_same_origin(&exchange.request(), origin), expected, "{host} {is_tls} {origin}");
    }
}

#[test]
fn problems_name_their_field() {
    let config = json!({"allow_origins": ["*"], "allow_credentials": true, "max_age": "1h", "allowed": []});
    assert_eq!(problem_fields(&SPEC, &config), ["allow_origins", "max_age", "allowed"]);
}
