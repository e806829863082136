use serde_json::Value;

use super::*;
use crate::plugins::testing::{Exchange, FakeHost, built, built_with, problem_fields};

fn config(more: &Value) -> Value {
    let mut config = json!({"consumers": [
        {"name": "one", "client_id": "id1", "client_secret": "s 1"},
        {"name": "two", "client_id": "id2", "client_secret": "s2"}]});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

const ONE: &str = "grant_type=client_credentials&client_id=id1&client_secret=s+1&scope=read";

fn token(plugin: &Arc<dyn Plugin>, route: &str) -> String {
    let mut exchange = Exchange::new("GET", &format!("/api/oauth2/token?{ONE}"), &[]);
    exchange.state.route = route.into();
    let reply = exchange.run(plugin).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("bearer"), &json!(7200)));
    body["access_token"].as_str().unwrap().to_owned()
}

fn status(plugin: &Arc<dyn Plugin>, token: &str, route: &str) -> (u16, Option<String>) {
    let mut exchange = Exchange::new("GET", "/", &[("authorization", &format!("Bearer {token}"))]);
    exchange.state.route = route.into();
    let status = exchange.run(plugin).map_or(200, |reply| reply.status);
    (status, exchange.state.consumer)
}

#[test]
fn issued_tokens_pass() {
    let plugin = built(&SPEC, &config(&json!({})));
    let issued = token(&plugin, "r1");
    assert_eq!(status(&plugin, &issued, "r2"), (200, Some("one".into())));
    let jwt = Jwt::parse(&issued).unwrap();
    assert_eq!((jwt.text("aud"), jwt.text("scope"), jwt.text("sub")), (Some("default"), Some("read"), Some("one")));
    let claims = Value::Object(jwt.claims);
    for (kind, changed, secret) in [
        ("JWT", json!({}), "s 1"),
        (TOKEN_TYPE, json!({}), "s2"),
        (TOKEN_TYPE, json!({"iss": "other"}), "s 1"),
        (TOKEN_TYPE, json!({"exp": 1}), "s 1"),
        (TOKEN_TYPE, json!({"sub": "two"}), "s 1"),
        (TOKEN_TYPE, json!({"client_id": "id2"}), "s 1"),
    ] {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let forged = jwt::sign(kind, &claims, secret.as_bytes());
        assert_eq!(status(&plugin, &forged, "r1").0, 401, "{kind} {changed} {secret}");
    }
    let reply = Exchange::new("GET", "/x", &[("host", "a.com")]).run(&plugin).unwrap();
    assert_eq!((reply.status, reply.details.as_str(), reply.body.as_ref()), (401, DENIED, &b"Invalid Jwt token"[..]));
    assert_eq!(reply.headers[1].1, "Bearer realm=\"http://a.com/x\"");
}

#[test]
fn tokens_of_a_route_and_allow_lists_narrow() {
    let narrow = json!({"global_credentials": false, "keep_token": false});
    let plugin = built(&SPEC, &config(&narrow));
    let issued = token(&plugin, "r1");
    assert_eq!(status(&plugin, &issued, "r1").0, 200);
    assert_eq!(status(&plugin, &issued, "r2").0, 403);
    let mut exchange = Exchange::new("GET", "/", &[("authorization", &format!("Bearer {issued}"))]);
    exchange.state.route = "r1".into();
    assert!(exchange.run(&plugin).is_none());
    assert_eq!(exchange.header("authorization"), None);
    let rule = json!({"allow": ["two"]});
    let of_rule = built_with(&SPEC, &config(&json!({"global_auth": false})), Some(&rule), FakeHost::silent());
    assert_eq!(status(&of_rule, &token(&of_rule, "r1"), "r1").0, 403);
}

#[test]
fn what_is_wrong_with_a_token_request_is_told() {
    let plugin = built(&SPEC, &config(&json!({"global_auth": false, "auth_path": "token"})));
    for (query, reason) in [
        ("", "Authorize parameters are missing"),
        ("?a=b", "grant_type is missing"),
        ("?grant_type=password", "grant_type:password is not support"),
        ("?grant_type=client_credentials", "client_id is missing"),
        ("?grant_type=client_credentials&client_id=id1", "client_secret is missing"),
        ("?grant_type=client_credentials&client_id=id1&client_secret=s2", "invalid client_id or client_secret"),
        ("?grant_type=client_credentials&client_id=no&client_secret=s2", "invalid client_id or client_secret"),
    ] {
        let mut exchange = Exchange::new("GET", &format!("/token{query}"), &[]);
        let reply = exchange.run(&plugin).unwrap();
        assert_eq!((reply.status, std::str::from_utf8(&reply.body).unwrap()), (400, reason));
        assert_eq!(reply.details, format!("oauth_access_denied{{{}}}", reason.replace(' ', "_")));
        assert_eq!(exchange.state.credentials, [CredentialPlace::Query("client_secret".into())]);
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let reply = Exchange::new("POST", "/token", &form).with_body(ONE).run(&plugin).unwrap();
    assert_eq!(reply.status, 200);
    let reply = Exchange::new("POST", "/token", &[]).run(&plugin).unwrap();
    assert_eq!(reply.body, "Invalid content-type");
    assert!(Exchange::new("DELETE", "/token", &[]).run(&plugin).is_none(), "not checked here");
    let checking = built(&SPEC, &config(&json!({"auth_path": "token"})));
    assert_eq!(Exchange::new("DELETE", "/token", &[]).run(&checking).map(|reply| reply.status), Some(401));
}

#[test]
fn problems_name_their_field() {
    let wrong = json!({"auth_header": "a b", "consumers": [{"name": "a", "client_id": "i", "client_secret": [1]},
        {"name": "b", "client_id": "i", "client_secret": "x"}, {"name": "b", "client_id": "j", "client_secret": "x"}]});
    assert_eq!(problem_fields(&SPEC, &wrong), ["consumers[0].client_secret", "consumers[1]", "auth_header"]);
}

#[test]
fn tokens_are_of_their_issuer_and_live_as_long_as_they_say() {
    let plugin = built(&SPEC, &config(&json!({"issuer": "mine", "token_ttl": 60})));
    let reply = Exchange::new("GET", &format!("/oauth2/token?{ONE}"), &[]).run(&plugin).unwrap();
    let told: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(told["expires_in"], 60);
    let issued = told["access_token"].as_str().unwrap();
    let jwt = Jwt::parse(issued).unwrap();
    assert_eq!((jwt.text("iss"), jwt.time("exp").unwrap() - jwt.time("iat").unwrap()), (Some("mine"), 60));
    assert_eq!(status(&plugin, issued, "r1").0, 200);
    let of_another = built(&SPEC, &config(&json!({})));
    assert_eq!(status(&of_another, issued, "r1").0, 401);
}

#[test]
fn clocks_may_differ_by_the_skew() {
    for (skew, seconds, expected) in [
        (json!({}), 30, 200),
        (json!({}), 90, 401),
        (json!({"clock_skew_seconds": 0}), 30, 401),
        (json!({"clock_skew_seconds": 120}), 90, 200),
    ] {
        let plugin = built(&SPEC, &config(&skew));
        let claims = Jwt::parse(&token(&plugin, "r1")).unwrap().claims;
        for changed in [json!({"exp": clock::now() - seconds}), json!({"iat": clock::now() + seconds})] {
            let mut claims = Value::Object(claims.clone());
            claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
            let made = jwt::sign(TOKEN_TYPE, &claims, b"s 1");
            assert_eq!(status(&plugin, &made, "r1").0, expected, "{skew} {changed}");
        }
    }
}

#[test]
fn tokens_stand_in_the_header_that_is_named() {
    for field in ["auth_header", "auth_header_name"] {
        let plugin = built(&SPEC, &config(&json!({field: "X-Token"})));
        let bearer = format!("Bearer {}", token(&plugin, "r1"));
        for (header, expected) in [("x-token", None), ("authorization", Some(401))] {
            let reply = Exchange::new("GET", "/", &[(header, &bearer)]).run(&plugin);
            assert_eq!(reply.map(|reply| reply.status), expected, "{field} {header}");
        }
    }
}
