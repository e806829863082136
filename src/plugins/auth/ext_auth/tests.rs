use serde_json::json;

use super::*;
use crate::plugins::testing::{Exchange, FakeHost, answer, built_with, problem_fields};

fn envoy(more: &Value) -> Value {
    let mut config = json!({"http_service": {
        "endpoint_mode": "envoy",
        "endpoint": {"service_name": "auth.dns", "service_port": 8090, "service_host": "auth.local", "path_prefix": "/auth/"},
        "authorization_request": {"allowed_headers": [{"exact": "X-Auth"}, {"prefix": "cont"}], "headers_to_add": {"X-From": "gw"},
            "allowed_properties": [{"path": ["route_name"], "header": "x-route"}]},
        "authorization_response": {"allowed_upstream_headers": [{"exact": "X-User-ID"}],
            "allowed_client_headers": [{"exact": "X-Reason"}]},
        "timeout": 500}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn plugin(config: &Value, host: &Arc<FakeHost>) -> Arc<dyn Plugin> {
    built_with(&SPEC, config, None, host.clone())
}

#[test]
fn the_service_sees_what_it_may_and_tells_the_upstream() {
    let host = FakeHost::answering(|_| Ok(answer(200, &[("x-user-id", "u1"), ("x-other", "2")], "")));
    let headers =
        [("authorization", "abc"), ("x-auth", "1"), ("cookie", "no"), ("content-length", "3"), ("host", "a.com")];
    let mut exchange = Exchange::new("POST", "/users?x=1", &headers);
    exchange.state.route = "r1".into();
    assert!(exchange.run(&plugin(&envoy(&json!({})), &host)).is_none());
    assert_eq!((exchange.header("x-user-id"), exchange.header("x-other")), (Some("u1"), None));
    let calls = host.calls.lock();
    let call = &calls[0];
    assert_eq!(call.to, Destination::Service { host: "auth.dns".into(), port: Some(8090) });
    assert_eq!((call.head.method.as_str(), call.head.uri.to_string().as_str()), ("POST", "/auth/users?x=1"));
    assert_eq!((call.timeout, call.body.len()), (Duration::from_millis(500), 0));
    let mut seen: Vec<(&str, &str)> =
        call.head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    seen.sort_unstable();
    let expected =
        [("authorization", "abc"), ("host", "auth.local"), ("x-auth", "1"), ("x-from", "gw"), ("x-route", "r1")];
    assert_eq!(seen, expected);
}

#[test]
fn forward_auth_describes_the_request_in_headers() {
    let host = FakeHost::answering(|_| Ok(answer(200, &[], "")));
    let config = json!({"http_service": {"endpoint_mode": "forward_auth",
        "endpoint": {"service_name": "auth.dns", "path": "/auth", "request_method": "post"}}});
    let mut exchange = Exchange::new("GET", "/users?x=1", &[("host", "a.com:81")]);
    exchange.state.is_tls = true;
    assert!(exchange.run(&plugin(&config, &host)).is_none());
    let calls = host.calls.lock();
    let head = &calls[0].head;
    assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/auth"));
    for (name, value) in [
        ("x-original-method", "GET"),
        ("x-original-uri", "/users?x=1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/users?x=1"),
        ("x-forwarded-host", "a.com:81"),
    ] {
        assert_eq!(head.headers[name], value);
    }
    assert_eq!(calls[0].to, Destination::Service { host: "auth.dns".into(), port: Some(80) });
}

#[test]
fn a_no_goes_to_the_client() {
    let host = FakeHost::answering(|_| {
        Ok(answer(401, &[("x-reason", "who"), ("x-other", "2"), ("content-length", "4")], "sorry"))
    });
    let reply = Exchange::new("GET", "/", &[]).run(&plugin(&envoy(&json!({})), &host)).unwrap();
    assert_eq!((reply.status, reply.details.as_str(), reply.body.as_ref()), (401, DETAILS, &b"sorry"[..]));
    let names: Vec<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-reason"]);
    let config = json!({"http_service": {"endpoint": {"service_name": "a.dns", "path_prefix": "/"}}});
    let reply = Exchange::new("GET", "/", &[]).run(&plugin(&config, &host)).unwrap();
    let names: Vec<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-reason", "x-other"], "without a list, all of them");
    let host = FakeHost::answering(|_| Ok(answer(204, &[], "")));
    assert_eq!(Exchange::new("GET", "/", &[]).run(&plugin(&config, &host)).unwrap().status, 204, "only 200 is a yes");
}

#[test]
fn failures_close_or_open() {
    for host in [FakeHost::answering(|_| Err("down".into())), FakeHost::answering(|_| Ok(answer(503, &[], "")))] {
        let seen = |more: &Value| {
            let mut exchange = Exchange::new("GET", "/", &[]);
            let status = exchange.run(&plugin(&envoy(more), &host)).map(|reply| reply.status);
            (status, exchange.header("x-envoy-auth-failure-mode-allowed").is_some())
        };
        assert_eq!(seen(&json!({})), (Some(403), false));
        assert_eq!(seen(&json!({"status_on_error": 500})), (Some(500), false));
        assert_eq!(seen(&json!({"failure_mode_allow": true})), (None, false));
        assert_eq!(seen(&json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true})), (None, true));
    }
}

#[test]
fn bodies_are_shown_where_wanted() {
    let host = FakeHost::answering(|_| Ok(answer(200, &[], "")));
    let config = json!({"http_service": {"endpoint": {"service_name": "a.dns", "path_prefix": "/"},
        "authorization_request": {"with_request_body": true, "max_request_body_bytes": 4}}});
    let plugin = plugin(&config, &host);
    let headers = [("content-length", "4")];
    assert!(Exchange::new("POST", "/", &headers).with_body("abcd").run(&plugin).is_none());
    assert_eq!(
        Exchange::new("POST", "/", &headers).with_body("abcde").run(&plugin).map(|reply| reply.status),
        Some(413)
    );
    assert!(Exchange::new("GET", "/", &[]).run(&plugin).is_none());
    let seen: Vec<Bytes> = host.calls.lock().iter().map(|call| call.body.clone()).collect();
    assert_eq!(seen, [Bytes::from("abcd"), Bytes::new()]);
}

#[test]
fn requests_may_be_left_out() {
    let host = FakeHost::answering(|_| Ok(answer(401, &[], "")));
    let list =
        json!({"match_type": "whitelist", "match_list": [{"match_rule_path": "/pub", "match_rule_type": "prefix"}]});
    let plugin = plugin(&envoy(&list), &host);
    assert!(Exchange::new("GET", "/public", &[]).run(&plugin).is_none());
    assert!(Exchange::new("GET", "/x", &[]).run(&plugin).is_some());
    assert_eq!(host.calls.lock().len(), 1);
}

#[test]
fn problems_name_their_field() {
    assert_eq!(problem_fields(&SPEC, &json!({"typo": 1})), ["http_service", "typo"]);
    let wrong = json!({"http_service": {"endpoint_mode": "x", "endpoint": {},
        "authorization_request": {"allowed_properties": [{"path": ["a"], "header": "h"}], "headers_to_add": {"a b": "c"}}},
        "status_on_error": 99, "match_type": "grey"});
    assert_eq!(
        problem_fields(&SPEC, &wrong),
        [
            "http_service.endpoint.service_name",
            "http_service.endpoint.path_prefix",
            "http_service.endpoint_mode",
            "http_service.authorization_request.allowed_properties[0].path",
            "http_service.authorization_request.headers_to_add.a b",
            "match_type",
            "status_on_error"
        ]
    );
    let body = json!({"http_service": {"endpoint_mode": "forward_auth", "endpoint": {"service_name": "a", "path": "/"},
        "authorization_request": {"with_request_body": true}}});
    assert_eq!(problem_fields(&SPEC, &body), ["http_service.authorization_request.with_request_body"]);
}
