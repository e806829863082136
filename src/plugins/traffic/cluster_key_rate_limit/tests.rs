//! Which counters a request belongs to, and what is answered when one is over.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{Exchange, answer, built, problem_fields};

fn config(value: &Value) -> Config {
    let (config, problems) = Config::read(&Scope { global: Some(value), rule: None, n_rules: 0 });
    assert!(problems.is_empty(), "{problems:?}");
    config
}

/// Lists the counters of a request.
fn check(items: &Value, path: &str, headers: &[(&'static str, &str)], expected: &Expect) {
    let mut exchange = Exchange::new("GET", path, headers);
    exchange.state.client_ip = Some("127.0.0.1".parse().unwrap());
    let windows = config(&json!({"rule_name": "r", "rule_items": items})).windows(&exchange.request());
    let listed: Vec<String> = windows.iter().map(|window| format!("{} {}", window.key, window.limit)).collect();
    expected.assert_eq(&listed.join("\n"));
}

#[test]
fn exact_keys_match_whole_values() {
    let items = json!([
        {"limit_by_header": "x-key", "limit_keys": [{"key": "a", "query_per_second": 10}, {"key": "b", "query_per_minute": 20}]},
        {"limit_by_param": "apikey", "limit_keys": [{"key": "p q", "query_per_hour": 30}]},
        {"limit_by_cookie": "uid", "limit_keys": [{"key": "u", "query_per_day": 40}]},
        {"limit_by_consumer": "", "limit_keys": [{"key": "alice", "query_per_day": 50}]},
    ]);
    let headers = [("x-key", "b"), ("cookie", "a=1; uid=u"), ("x-mse-consumer", "alice")];
    check(
        &items,
        "/?apikey=p%20q",
        &headers,
        &expect![[r#"
        higress-cluster-key-rate-limit:{r}:limit_by_header:60:x-key:b 20
        higress-cluster-key-rate-limit:{r}:limit_by_param:3600:apikey:p q 30
        higress-cluster-key-rate-limit:{r}:limit_by_cookie:86400:uid:u 40
        higress-cluster-key-rate-limit:{r}:limit_by_consumer:86400:x-mse-consumer:alice 50"#]],
    );
    check(&items, "/?apikey=p", &[("x-key", "ab"), ("cookie", "uid=")], &expect![""]);
}

#[test]
fn every_value_has_a_counter_and_a_star_comes_last() {
    let items = json!([
        {"limit_by_per_header": "x-key", "limit_keys": [
            {"key": "*", "query_per_second": 1}, {"key": "regexp:^a", "query_per_second": 2}, {"key": "regexp:b", "query_per_second": 3}]},
        {"limit_by_per_consumer": "", "limit_keys": [{"key": "*", "query_per_day": 4}]},
        {"limit_by_per_cookie": "uid", "limit_keys": [{"key": "regexp:^u", "query_per_hour": 5}]},
    ]);
    for (value, expected) in [
        ("ab", expect!["higress-cluster-key-rate-limit:{r}:limit_by_per_header:1:x-key:ab 2"]),
        ("cb", expect!["higress-cluster-key-rate-limit:{r}:limit_by_per_header:1:x-key:cb 3"]),
        ("c", expect!["higress-cluster-key-rate-limit:{r}:limit_by_per_header:1:x-key:c 1"]),
    ] {
        check(&items, "/", &[("x-key", value), ("cookie", "uid=other")], &expected);
    }
    check(
        &items,
        "/",
        &[("x-mse-consumer", "alice"), ("cookie", "a=1; uid=u7")],
        &expect![[r#"
        higress-cluster-key-rate-limit:{r}:limit_by_per_consumer:86400:x-mse-consumer:alice 4
        higress-cluster-key-rate-limit:{r}:limit_by_per_cookie:3600:uid:u7 5"#]],
    );
}

#[test]
fn addresses_are_counted_one_by_one_within_their_network() {
    let items = json!([
        {"limit_by_per_ip": "from-header-x-forwarded-for", "limit_keys": [{"key": "10.0.0.0/8", "query_per_day": 5}, {"key": "0.0.0.0/0", "query_per_day": 6}]},
        {"limit_by_per_ip": "from-remote-addr", "limit_keys": [{"key": "127.0.0.1", "query_per_day": 7}]},
    ]);
    check(
        &items,
        "/",
        &[("x-forwarded-for", "10.1.2.3, 1.1.1.1")],
        &expect![[r#"
        higress-cluster-key-rate-limit:{r}:limit_by_per_ip:86400:from-header-x-forwarded-for:10.1.2.3 5
        higress-cluster-key-rate-limit:{r}:limit_by_per_ip:86400:from-remote-addr:127.0.0.1 7"#]],
    );
    check(
        &items,
        "/",
        &[("x-forwarded-for", "?")],
        &expect!["higress-cluster-key-rate-limit:{r}:limit_by_per_ip:86400:from-remote-addr:127.0.0.1 7"],
    );
}

#[test]
fn a_limit_of_n_allows_exactly_n_and_tells_what_is_left() {
    let plugin = built(
        &SPEC,
        &json!({"rule_name": "n", "show_limit_quota_header": true, "global_threshold": {"query_per_day": 2},
        "rule_items": [{"limit_by_per_header": "k", "limit_keys": [{"key": "*", "query_per_day": 5}]}]}),
    );
    for remaining in ["1", "0"] {
        let mut exchange = Exchange::new("GET", "/", &[("k", "v")]);
        assert!(exchange.run(&plugin).is_none());
        let told: Vec<&str> = exchange.state.reply_headers.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(told, ["2", remaining]);
    }
    let reply = Exchange::new("GET", "/", &[]).run(&plugin).unwrap();
    assert_eq!(
        (reply.status, reply.details.as_str(), reply.body.as_ref()),
        (429, "cluster-key-rate-limit.rejected", &b"Too many requests"[..])
    );
    let told: Vec<(&str, &str)> =
        reply.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(told[2..], [("x-ratelimit-limit", "2"), ("x-ratelimit-remaining", "0")]);
    assert_eq!(told[1].0, "x-ratelimit-reset");
    assert!((1..=86400).contains(&told[1].1.parse::<u32>().unwrap()), "{told:?}");
}

#[test]
fn any_counter_that_is_over_refuses() {
    let plugin = built(
        &SPEC,
        &json!({"rule_name": "any", "rejected_code": 503, "rejected_msg": "busy", "rule_items": [
            {"limit_by_per_header": "k", "limit_keys": [{"key": "*", "query_per_day": 9}]},
            {"limit_by_per_param": "p", "limit_keys": [{"key": "*", "query_per_day": 1}]},
        ]}),
    );
    let refused = |path: &str| {
        let reply = Exchange::new("GET", path, &[("k", "v")]).run(&plugin);
        reply.map(|reply| (reply.status, reply.body))
    };
    let busy = Some((503, "busy".into()));
    assert_eq!([refused("/?p=1"), refused("/?p=2"), refused("/?p=1"), refused("/")], [None, None, busy, None]);
}

#[test]
fn without_redis_requests_pass() {
    let redis =
        json!({"rule_name": "down", "global_threshold": {"query_per_day": 1}, "redis": {"service_name": "gone.dns"}});
    let plugin = built(&SPEC, &redis);
    for _ in 0..3 {
        let mut exchange = Exchange::new("GET", "/", &[]);
        assert!(exchange.run(&plugin).is_none());
        assert_eq!(exchange.answered(&plugin, answer(200, &[], "x")).status(), 200);
    }
}

#[test]
fn problems_name_their_field() {
    assert_eq!(problem_fields(&SPEC, &json!({"rule_name": "r"})), ["rule_items"]);
    let config = json!({"global_threshold": {}, "redis": {"service_port": 1}, "rule_items": [
        {"limit_keys": []},
        {"limit_by_header": "a", "limit_by_param": "b", "limit_keys": [{"key": "c", "query_per_day": 1}]},
        {"limit_by_per_header": "a", "limit_keys": [{"key": "plain", "query_per_day": 1}, {"key": "regexp:(", "query_per_day": 1}]},
        {"limit_by_per_ip": "somewhere", "limit_keys": [{"key": "1.1.1.1", "query_per_day": 1}]},
        {"limit_by_per_ip": "from-remote-addr", "limit_keys": [{"key": "x", "query_per_day": 1}, {"query_per_day": 1}]},
    ]});
    let expected = [
        "rule_name",
        "global_threshold.query_per_second",
        "rule_items[0].limit_by_header",
        "rule_items[1].limit_by_header",
        "rule_items[2].limit_keys[0].key",
        "rule_items[2].limit_keys[1].key",
        "rule_items[3].limit_by_per_ip",
        "rule_items[4].limit_keys[0].key",
        "rule_items[4].limit_keys[1].key",
        "redis.service_name",
    ];
    let found = problem_fields(&SPEC, &config);
    for field in expected {
        assert!(found.iter().any(|own| own == field), "{field} in {found:?}");
    }
}
