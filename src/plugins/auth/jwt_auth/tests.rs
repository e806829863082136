use serde_json::json;

use super::super::jwt::tests::ecdsa;
use super::*;
use crate::plugins::testing::{Exchange, FakeHost, answer, built_with, problem_fields};

type Seen = Result<String, (u16, String, String)>;

fn seen(plugin: &Arc<dyn Plugin>, exchange: &mut Exchange) -> Seen {
    match exchange.run(plugin) {
        None => Ok(exchange.header("x-mse-consumer").unwrap_or_default().to_owned()),
        Some(reply) => Err((reply.status, reply.details, String::from_utf8(reply.body.to_vec()).unwrap())),
    }
}

fn cpp(fault: &str) -> Seen {
    Err((401, format!("jwt_authn_access_denied{{{}}}", fault.replace(' ', "_")), fault.to_owned()))
}

fn bearer(token: &str) -> Exchange {
    Exchange::new("GET", "/x", &[("authorization", &format!("Bearer {token}")), ("host", "a.com")])
}

#[test]
fn the_cpp_plugin_tells_the_first_fault() {
    let (set, sign) = ecdsa("k");
    let (foreign_set, foreign) = ecdsa("k");
    let global = json!({"global_auth": true, "consumers": [
        {"name": "one", "jwks": set.to_string(), "issuer": "abc", "claims": {"tenant": "t"}},
        {"name": "two", "jwks": foreign_set.to_string(), "issuer": "def"}]});
    let plugin = built_with(&SPEC, &global, None, FakeHost::silent());
    let good = json!({"iss": "abc", "tenant": "t", "exp": 4_000_000_000_u64});
    assert_eq!(seen(&plugin, &mut bearer(&sign(&good))), Ok("one".into()));
    assert_eq!(seen(&plugin, &mut bearer(&foreign(&json!({"iss": "def"})))), Ok("two".into()));
    assert_eq!(seen(&plugin, &mut bearer("x")), cpp("Jwt is not in the form of Header.Payload.Signature"));
    assert_eq!(seen(&plugin, &mut bearer(&sign(&json!({"iss": "abc"})))), cpp("Jwt verification fails"));
    let old = json!({"iss": "abc", "tenant": "t", "exp": 1});
    assert_eq!(seen(&plugin, &mut bearer(&sign(&old))), cpp("Jwt is expired"));
    assert_eq!(seen(&plugin, &mut bearer(&foreign(&good))), cpp("Jwt verification fails"));
    let reply = bearer("x").run(&plugin).unwrap();
    assert_eq!(reply.headers[1].1, "Bearer realm=\"http://a.com/x\", error=\"invalid_token\"");
    let reply = Exchange::new("GET", "/y?z", &[("host", "a.com")]).run(&plugin).unwrap();
    assert_eq!(
        (reply.body.as_ref(), reply.headers[1].1.to_str().unwrap()),
        (&b"Jwt is missing"[..], "Bearer realm=\"http://a.com/y?z\"")
    );
    let rule = json!({"allow": ["two"]});
    let narrow = built_with(&SPEC, &global, Some(&rule), FakeHost::silent());
    let denied = Err((403, DENIED.to_owned(), "Access Denied".to_owned()));
    assert_eq!(seen(&narrow, &mut bearer(&sign(&good))), denied);
}

#[test]
fn the_go_port_is_exact_for_one_allowed_consumer_only() {
    let (set, sign) = ecdsa("k");
    let set = set.to_string();
    let global = json!({"global_auth": false, "consumers": [
        {"name": "one", "jwks": set, "issuer": "abc", "from_params": ["t"]},
        {"name": "two", "jwks": set, "issuer": "abc", "from_cookies": ["t"]}]});
    let old = sign(&json!({"iss": "abc", "exp": 1}));
    let good = sign(&json!({"iss": "abc"}));
    let told = |status: u16, details: &str, reason: &str| -> Seen {
        Err((status, format!("jwt-auth.{details}"), format!("Request denied by JWT Auth check. {reason}")))
    };
    for (allow, path, cookie, expected) in [
        (json!(["one"]), format!("/?t={good}"), "", Ok("one".into())),
        (json!(["one", "two"]), "/".into(), good.as_str(), Ok("two".into())),
        (json!(["one"]), "/".into(), "", told(401, "token_missing", "JWT is missing.")),
        (json!(["one"]), format!("/?t={old}"), "", told(401, "token_expired", "JWT is expired.")),
        (json!(["one"]), "/?t=x".into(), "", told(401, "verification_failed", "JWT verification fails")),
        (json!(["one"]), "/".into(), good.as_str(), told(403, "unauthorized_customer", "Unauthorized consumer.")),
        (json!(["one", "two"]), format!("/?t={old}"), "", told(403, "not_allowed_by_default", "JWT token not allow.")),
    ] {
        let plugin = built_with(&GO_SPEC, &global, Some(&json!({"allow": allow})), FakeHost::silent());
        let mut exchange = Exchange::new("GET", &path, &[("cookie", &format!("t={cookie}"))]);
        assert_eq!(seen(&plugin, &mut exchange), expected, "{allow} {path}");
    }
}

#[test]
fn claims_go_into_headers_and_tokens_may_be_taken_out() {
    let (set, sign) = ecdsa("k");
    let global = json!({"enable_headers": ["x-check"], "consumers": [{"name": "one", "jwks": set.to_string(), "keep_token": false,
        "claims_to_headers": [{"claim": "sub", "header": "X-User"}, {"claim": "n", "header": "x-n", "override": false},
            {"claim": "none", "header": "x-none"}]}]});
    let plugin = built_with(&SPEC, &global, None, FakeHost::silent());
    let token = sign(&json!({"sub": "u1", "n": 7}));
    let mut exchange = Exchange::new(
        "GET",
        &format!("/?a=1&access_token={token}"),
        &[("x-check", "1"), ("x-user", "claimed"), ("x-n", "6"), ("authorization", &format!("Bearer {token}"))],
    );
    assert_eq!(seen(&plugin, &mut exchange), Ok("one".into()));
    assert_eq!((exchange.header("x-user"), exchange.header("x-none")), (Some("u1"), None));
    let all: Vec<&HeaderValue> = exchange.head.headers.get_all("x-n").iter().collect();
    assert_eq!(all, ["6", "7", "7"]);
    assert_eq!((exchange.head.uri.to_string().as_str(), exchange.header("authorization")), ("/?a=1", None));
    assert_eq!(seen(&plugin, &mut Exchange::new("GET", "/", &[])), Ok(String::new()), "not switched on");
}

#[test]
fn keys_of_an_issuer_are_fetched_through_its_service() {
    let (set, sign) = ecdsa("k");
    let host = FakeHost::answering(move |_| Ok(answer(200, &[], &set.to_string())));
    let global = json!({"global_auth": true, "consumers": [{"name": "one", "issuer": "abc",
        "remote_jwks": {"service_name": "idp.dns", "service_host": "idp.example.com", "path": "/keys"}}]});
    let plugin = built_with(&GO_SPEC, &global, None, host.clone());
    assert_eq!(seen(&plugin, &mut bearer(&sign(&json!({"iss": "abc"})))), Ok("one".into()));
    let calls = host.calls.lock();
    assert_eq!(calls[0].to, Destination::Service { host: "idp.dns".into(), port: Some(443) });
    assert_eq!(
        (calls[0].head.uri.path(), calls[0].head.headers["host"].to_str().unwrap()),
        ("/keys", "idp.example.com")
    );
}

#[test]
fn problems_name_their_field() {
    let wrong = json!({"consumers": [
        {"name": "a", "jwks": "{}", "claims": {"n": 1}},
        {"name": "b"},
        {"name": "c", "jwks_uri": "http://x/y", "from_headers": [{}]},
        {"name": "d", "jwks": "{}", "jwks_uri": "https://x", "claims_to_headers": [{"claim": "a", "header": "b c"}]}]});
    assert_eq!(
        problem_fields(&GO_SPEC, &wrong),
        [
            "consumers[0].claims.n",
            "consumers[0].jwks",
            "consumers[1].jwks",
            "consumers[2].jwks_uri",
            "consumers[2].from_headers[0].name",
            "consumers[3].jwks",
            "consumers[3].claims_to_headers[0].header"
        ]
    );
}

#[test]
fn tokens_stand_where_the_consumer_has_them() {
    let (set, sign) = ecdsa("k");
    let token = sign(&json!({"sub": "u1"}));
    let own = json!([{"name": "X-Token", "value_prefix": "Token "}]);
    for (places, header, value, is_found) in [
        (&own, "x-token", format!("Token {token}"), true),
        (&own, "x-token", token.clone(), false),
        (&own, "authorization", format!("Bearer {token}"), false),
        (&json!([{"name": "x-jwt"}]), "x-jwt", token, true),
    ] {
        let consumer = json!({"name": "one", "jwks": set.to_string(), "from_headers": places});
        let global = json!({"global_auth": true, "consumers": [consumer]});
        let plugin = built_with(&SPEC, &global, None, FakeHost::silent());
        let expected = if is_found { Ok("one".into()) } else { cpp("Jwt is missing") };
        assert_eq!(seen(&plugin, &mut Exchange::new("GET", "/x", &[(header, &value)])), expected, "{places} {value}");
    }
}

#[test]
fn clocks_may_differ_by_the_skew_of_the_consumer() {
    let (set, sign) = ecdsa("k");
    for (skew, seconds, is_current) in [
        (json!({}), 30, true),
        (json!({}), 90, false),
        (json!({"clock_skew_seconds": 0}), 30, false),
        (json!({"clock_skew_seconds": 120}), 90, true),
    ] {
        let mut consumer = json!({"name": "one", "jwks": set.to_string()});
        consumer.as_object_mut().unwrap().extend(skew.as_object().unwrap().clone());
        let global = json!({"global_auth": true, "consumers": [consumer]});
        let plugin = built_with(&SPEC, &global, None, FakeHost::silent());
        let now = clock::now();
        for (claims, fault) in
            [(json!({"exp": now - seconds}), "Jwt is expired"), (json!({"nbf": now + seconds}), "Jwt not yet valid")]
        {
            let expected = if is_current { Ok("one".into()) } else { cpp(fault) };
            assert_eq!(seen(&plugin, &mut bearer(&sign(&claims))), expected, "{skew} {claims}");
        }
    }
}

#[test]
fn keys_are_fetched_from_where_the_consumer_says_and_kept_as_long() {
    let (set, sign) = ecdsa("k");
    let token = sign(&json!({"sub": "u1"}));
    let service = json!({"service_name": "idp.dns", "service_port": 8443, "path": "/keys"});
    let url = "https://idp.example.com/keys?of=k";
    for (fields, to, path, timeout, keep) in [
        (
            json!({"remote_jwks": service}),
            Destination::Service { host: "idp.dns".into(), port: Some(8443) },
            "/keys",
            1500,
            600,
        ),
        (
            json!({"jwks_uri": url, "jwks_fetch_timeout": 70, "jwks_cache_duration": 5}),
            Destination::Url(url.into()),
            "/keys?of=k",
            70,
            5,
        ),
    ] {
        let mut consumer = json!({"name": "one"});
        consumer.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let global = json!({"global_auth": true, "consumers": [consumer]});
        let answered = set.to_string();
        let host = FakeHost::answering(move |_| Ok(answer(200, &[], &answered)));
        let plugin = built_with(&GO_SPEC, &global, None, host.clone());
        assert_eq!(seen(&plugin, &mut bearer(&token)), Ok("one".into()));
        let calls = host.calls.lock();
        assert_eq!((&calls[0].to, calls[0].head.uri.to_string().as_str()), (&to, path));
        assert_eq!(calls[0].timeout, Duration::from_millis(timeout));
        let scope = Scope { global: Some(&global), rule: None, n_rules: 0 };
        let Keys::Remote { keep: kept, .. } = Config::read(&scope, Family::Go).0.consumers.remove(0).keys else {
            panic!("{fields} names no issuer")
        };
        assert_eq!(kept, Duration::from_secs(keep));
    }
}
