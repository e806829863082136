use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{Exchange, FakeHost, built, built_with, problem_fields};

/// Builds the plugin for a scope and runs one request; returns the status and the consumer.
fn check(
    global: &Value,
    rule: Option<&Value>,
    n_rules: usize,
    path: &str,
    headers: &[(&'static str, &str)],
) -> (u16, Option<String>) {
    let scope = Scope { global: Some(global), rule, n_rules };
    let Some(plugin) = build(&scope, Family::Cpp).unwrap() else { return (0, None) };
    let mut exchange = Exchange::new("POST", path, headers);
    match exchange.run(&plugin) {
        None => (200, exchange.state.consumer),
        Some(reply) => (reply.status, None),
    }
}

fn two_consumers(global_auth: &Value) -> Value {
    json!({
        "global_auth": global_auth,
        "keys": ["x-api-key", "apikey"],
        "consumers": [
            {"name": "one", "credential": "k1"},
            {"name": "two", "credentials": ["k2", "Bearer k2"], "keys": ["authorization"], "in_query": false},
        ],
    })
}

#[test]
fn keys_are_found_in_headers_and_queries() {
    let global = two_consumers(&json!(true));
    let one = (200, Some("one".to_owned()));
    let two = (200, Some("two".to_owned()));
    assert_eq!(check(&global, None, 0, "/", &[("x-api-key", "k1")]), one);
    assert_eq!(check(&global, None, 0, "/?apikey=k1", &[]), one);
    assert_eq!(check(&global, None, 0, "/?a=b&apikey=%6b1", &[]), one);
    assert_eq!(check(&global, None, 0, "/", &[("x-api-key", "nope"), ("apikey", "k1")]), one);
    assert_eq!(check(&global, None, 0, "/", &[("authorization", "Bearer k2")]), two);
    assert_eq!(check(&global, None, 0, "/", &[("x-hi-original-auth", "k2")]), two);
    assert_eq!(check(&global, None, 0, "/?authorization=k2", &[]), (401, None));
    assert_eq!(check(&global, None, 0, "/", &[("x-api-key", "k2")]), (401, None), "k2 has keys of its own");
    assert_eq!(check(&global, None, 0, "/", &[]), (401, None));
}

#[test]
fn allow_lists_apply_to_their_rule() {
    let global = two_consumers(&json!(false));
    let allow_two = json!({"allow": ["two"]});
    assert_eq!(check(&global, None, 1, "/", &[]), (0, None), "not checked without a rule");
    assert_eq!(check(&global, Some(&allow_two), 1, "/", &[("x-api-key", "k1")]), (403, None));
    assert_eq!(check(&global, Some(&allow_two), 1, "/", &[("authorization", "k2")]).0, 200);
    assert_eq!(check(&global, Some(&json!({"allow": []})), 1, "/", &[("x-api-key", "k1")]), (403, None));
}

#[test]
fn unset_global_auth_checks_everything_only_without_rules() {
    let mut global = two_consumers(&json!(true));
    global.as_object_mut().unwrap().remove("global_auth");
    assert_eq!(check(&global, None, 0, "/", &[]), (401, None));
    assert_eq!(check(&global, None, 1, "/", &[]), (0, None));
}

#[test]
fn problems_name_their_field() {
    let global = json!({"global_auth": true, "consumers": [{"credential": [5]}], "in_header": false, "in_query": false, "typo": 1});
    let named = problem_fields(&SPEC, &global);
    assert_eq!(named, ["in_query", "consumers[0].name", "consumers[0].credential", "consumers[0].keys", "typo"]);
    let own_keys = json!({"keys": ["k"], "consumers": [{"name": "a", "credential": "x", "keys": ["b"]}]});
    assert_eq!(problem_fields(&GO_SPEC, &own_keys), ["in_header", "consumers[0].keys"]);
    let twice =
        json!({"keys": ["k"], "consumers": [{"name": "a", "credential": "x"}, {"name": "b", "credential": "x"}]});
    assert_eq!(problem_fields(&SPEC, &twice), ["consumers[1].credential"]);
}

#[test]
fn the_cpp_plugin_tells_its_reason_to_the_access_log_and_to_sdks() {
    let plugin = built(&SPEC, &two_consumers(&json!(true)));
    let reply = Exchange::new("GET", "/", &[]).run(&plugin).unwrap();
    assert_eq!(reply.details, "Request denied by Key Auth check. Invalid API key");
    assert!(reply.body.is_empty());
    assert_eq!(reply.headers[0].1, "Key realm=MSE Gateway");
    let reply = Exchange::new("POST", "/v1/chat/completions", &[]).run(&plugin).unwrap();
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["error"]["code"], "unauthorized");
}

#[test]
fn the_go_port_tells_how_many_keys_there_were() {
    let global = json!({"global_auth": false, "keys": ["x-api-key", "apikey"], "in_header": true, "in_query": true,
        "consumers": [{"name": "one", "credential": "k1"}, {"name": "two", "credentials": ["k2"]}]});
    let rule = json!({"allow": ["one"]});
    for (path, headers, expected) in [
        ("/", &[("x-api-key", "k1")][..], None),
        ("/", &[], Some((401, "key-auth.no_key"))),
        ("/?apikey=k1", &[], Some((401, "key-auth.no_key"))),
        ("/", &[("x-api-key", "k1"), ("apikey", "k1")], Some((401, "key-auth.multi_key"))),
        ("/", &[("apikey", "unknown")], Some((403, "key-auth.unauthorized"))),
        ("/", &[("apikey", "k2")], Some((403, "key-auth.unauthorized"))),
    ] {
        let plugin = built_with(&GO_SPEC, &global, Some(&rule), FakeHost::silent());
        let mut exchange = Exchange::new("GET", path, headers);
        let reply = exchange.run(&plugin);
        let seen = reply.as_ref().map(|reply| (reply.status, reply.details.as_str()));
        assert_eq!(seen, expected, "{path} {headers:?}");
        assert_eq!(exchange.header("x-mse-consumer"), expected.is_none().then_some("one"));
    }
}

#[test]
fn keys_are_looked_for_where_the_plugin_or_the_consumer_says() {
    for (common, own, in_header, in_query) in [
        (json!({}), json!({}), true, true),
        (json!({"in_header": false}), json!({}), false, true),
        (json!({"in_query": false}), json!({}), true, false),
        (json!({}), json!({"keys": ["k"], "in_header": false}), false, true),
        (json!({"in_header": false}), json!({"keys": ["k"]}), false, true),
        (json!({"in_header": false}), json!({"keys": ["k"], "in_header": true, "in_query": false}), true, false),
    ] {
        let mut global =
            json!({"global_auth": true, "keys": ["k"], "consumers": [{"name": "one", "credential": "k1"}]});
        global.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
        global["consumers"][0].as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let expected = |is_found| if is_found { (200, Some("one".to_owned())) } else { (401, None) };
        assert_eq!(check(&global, None, 0, "/", &[("k", "k1")]), expected(in_header), "{common} {own}");
        assert_eq!(check(&global, None, 0, "/?k=k1", &[]), expected(in_query), "{common} {own}");
    }
}

#[test]
fn credentials_need_no_consumer_and_a_refusal_names_the_realm() {
    let plugin = built(&SPEC, &json!({"keys": ["k"], "credentials": ["c1", "c2"], "realm": "of mine"}));
    for (key, expected) in [("c1", None), ("c2", None), ("c3", Some("Key realm=of mine"))] {
        let mut exchange = Exchange::new("GET", "/", &[("k", key)]);
        let reply = exchange.run(&plugin);
        assert_eq!(reply.as_ref().map(|reply| reply.headers[0].1.to_str().unwrap()), expected, "{key}");
        assert_eq!(exchange.header("x-mse-consumer"), None);
    }
    let both = json!({"keys": ["k"], "credentials": ["c1"], "consumers": [{"name": "a", "credential": "c2"}]});
    assert_eq!(problem_fields(&SPEC, &both), ["credentials"]);
}
