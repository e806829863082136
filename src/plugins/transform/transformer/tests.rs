use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::SPEC;
use crate::plugins::Plugin;
use crate::plugins::testing::{Exchange, answer, built, problem_fields};

fn request_rules(rules: &Value) -> Arc<dyn Plugin> {
    built(&SPEC, &json!({"reqRules": rules}))
}

/// All values of a request header.
fn header(exchange: &Exchange, name: &str) -> Vec<String> {
    exchange.head.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// Runs request rules over a body; returns the new one.
fn body(rules: &Value, content_type: &'static str, body: &'static str) -> String {
    let mut exchange = Exchange::new("POST", "/p", &[("host", "foo.bar.com"), ("content-type", content_type)]);
    exchange = exchange.with_body(body);
    assert!(exchange.run(&request_rules(rules)).is_none());
    String::from_utf8(exchange.state.body.unwrap().to_vec()).unwrap()
}

#[test]
fn headers_in_written_order() {
    let plugin = request_rules(&json!([
        {"operate": "remove", "headers": [{"key": "X-Remove"}]},
        {"operate": "rename", "headers": [{"oldKey": "X-Not-Renamed", "newKey": "X-Renamed"}]},
        {"operate": "replace", "headers": [{"key": "X-Replace", "newValue": "replaced"}, {"key": "x-none", "newValue": "added"}]},
        {"operate": "add", "headers": [{"key": "X-Add-Append", "value": "host-$1", "host_pattern": "^(.*)\\.com$"}]},
        {"operate": "add", "headers": [{"key": "X-Replace", "value": "no"}]},
        {"operate": "append", "headers": [{"key": "X-Add-Append", "appendValue": "path-$1", "path_pattern": "^.*?\\/(\\w+)[\\?]{0,1}.*$"}]},
        {"operate": "map", "headers": [{"fromKey": "X-Add-Append", "toKey": "X-Map"}]},
        {"operate": "dedupe", "headers": [
            {"key": "X-First"}, {"key": "X-Last", "strategy": "RETAIN_LAST"}, {"key": "X-Unique", "strategy": "retain_unique"},
            {"key": "X-Split", "strategy": "SPLIT_AND_RETAIN_LAST"}, {"key": "X-Absent", "strategy": "RETAIN_UNIQUE"},
        ]},
    ]));
    let sent = [
        ("host", "foo.bar.com"),
        ("x-remove", "1"),
        ("X-Not-Renamed", "test"),
        ("x-replace", "old"),
        ("x-first", "1"),
        ("x-first", "2"),
        ("x-last", "a"),
        ("x-last", "b"),
        ("x-unique", "1"),
        ("x-unique", "2"),
        ("x-unique", "1"),
        ("x-split", "x,y,z"),
    ];
    let mut exchange = Exchange::new("GET", "/get?a=1", &sent);
    assert!(exchange.run(&plugin).is_none());
    for (name, expected) in [
        ("x-remove", &[][..]),
        ("x-not-renamed", &[]),
        ("x-renamed", &["test"]),
        ("x-replace", &["replaced"]),
        ("x-none", &["added"]),
        ("x-add-append", &["host-foo.bar", "path-get"]),
        ("x-map", &["host-foo.bar", "path-get"]),
        ("x-first", &["1"]),
        ("x-last", &["b"]),
        ("x-unique", &["1", "2"]),
        ("x-split", &["z"]),
        ("x-absent", &[]),
    ] {
        assert_eq!(header(&exchange, name), expected, "{name}");
    }
    assert!(exchange.state.reroute, "routes may match the new headers");
}

#[test]
fn rerouting_can_be_switched_off_and_needs_a_change_of_the_head() {
    let rules = json!([{"operate": "add", "headers": [{"key": "a", "value": 1}]}]);
    let mut exchange = Exchange::new("GET", "/", &[]);
    exchange.run(&built(&SPEC, &json!({"reroute": false, "reqRules": rules})));
    assert_eq!((exchange.header("a"), exchange.state.reroute), (Some("1"), false));
    let mut exchange = Exchange::new("POST", "/", &[("content-type", "application/json")]).with_body("{}");
    exchange.run(&request_rules(&json!([{"operate": "add", "body": [{"key": "a", "value": "1"}]}])));
    assert!(!exchange.state.reroute);
}

#[test]
fn a_pattern_that_does_not_match_skips_its_item() {
    let rules = json!([{"operate": "add", "headers": [
        {"key": "id", "value": "test", "path_pattern": "^/test/.*"},
        {"key": "id", "value": "prod", "path_pattern": "^/prod/.*"},
    ]}]);
    for (path, expected) in [("/test/a", Some("test")), ("/prod/a", Some("prod")), ("/other", None)] {
        let mut exchange = Exchange::new("GET", path, &[]);
        exchange.run(&request_rules(&rules));
        assert_eq!(exchange.header("id"), expected, "{path}");
    }
}

#[test]
fn queries_are_changed_and_sorted() {
    let plugin = request_rules(&json!([
        {"operate": "remove", "querys": [{"key": "k1"}]},
        {"operate": "rename", "querys": [{"oldKey": "k2", "newKey": "k2-new"}]},
        {"operate": "replace", "querys": [{"key": "k2-new", "newValue": "v2-new"}]},
        {"operate": "add", "querys": [{"key": "k3", "value": "v31-$1", "path_pattern": "^.*?\\/(\\w+)[\\?]{0,1}.*$"}]},
        {"operate": "append", "querys": [{"key": "k3", "appendValue": "v32"}]},
        {"operate": "map", "querys": [{"fromKey": "k3", "toKey": "k4"}]},
        {"operate": "dedupe", "querys": [{"key": "k4"}]},
        {"operate": "map", "mapSource": "headers", "querys": [{"fromKey": "X-H", "toKey": "h"}]},
        {"operate": "map", "mapSource": "querys", "headers": [{"fromKey": "k1", "toKey": "x-k1"}]},
    ]));
    let mut exchange = Exchange::new("GET", "/get?z=1&k1=v11&k1=v12&k2=v2", &[("x-h", "a b")]);
    exchange.run(&plugin);
    assert_eq!(exchange.head.uri.to_string(), "/get?h=a+b&k2-new=v2-new&k3=v31-get&k3=v32&k4=v31-get&z=1");
    assert_eq!(header(&exchange, "x-k1"), ["v11", "v12"], "headers see the query as it came");
}

#[test]
fn json_bodies_keep_what_no_rule_names() {
    let rules = json!([
        {"operate": "remove", "body": [{"key": "a1"}]},
        {"operate": "rename", "body": [{"oldKey": "a2", "newKey": "a2-new"}]},
        {"operate": "replace", "body": [{"key": "a3", "newValue": "t3-new"}, {"key": "deep.0.x", "newValue": true, "value_type": "boolean"}]},
        {"operate": "add", "body": [{"key": "n", "value": "10", "value_type": "number"}, {"key": "o", "value": "{\"k\": [1]}", "value_type": "object"}, {"key": "a2-new", "value": "no"}]},
        {"operate": "append", "body": [
            {"key": "fresh", "appendValue": "v1"}, {"key": "scalar", "appendValue": "t-$1", "host_pattern": "^(.*)\\.com$"},
            {"key": "list", "appendValue": 3, "value_type": "number"}, {"key": "empty", "appendValue": "v4"},
        ]},
        {"operate": "map", "body": [{"fromKey": "a3", "toKey": "a4"}]},
        {"operate": "dedupe", "body": [{"key": "same", "strategy": "RETAIN_UNIQUE"}, {"key": "some", "strategy": "RETAIN_UNIQUE"}, {"key": "last", "strategy": "RETAIN_LAST"}]},
    ]);
    let sent = r#"{"a1":"t1","big":12345678901234567890123,"a2":"t2","a3":"t3","scalar":"old","list":[1,2.50],"empty":[],"same":["a","a"],"some":["b","a","b"],"last":[1,{"x":2}],"fav.movie":1}"#;
    let expected = r#"{"big":12345678901234567890123,"a3":"t3-new","scalar":["old","t-foo.bar"],"list":[1,2.50,3],"empty":["v4"],"same":"a","some":["b","a"],"last":{"x":2},"fav.movie":1,"a2-new":"t2","deep":[{"x":true}],"n":10,"o":{"k": [1]},"fresh":"v1","a4":"t3"}"#;
    assert_eq!(body(&rules, "application/json; charset=utf-8", sent), expected);
    let escaped = json!([{"operate": "replace", "body": [{"key": "fav\\.movie", "newValue": "x"}]}]);
    assert_eq!(body(&escaped, "application/json", r#"{"fav.movie":1}"#), r#"{"fav.movie":"x"}"#);
}

#[test]
fn a_step_that_cannot_be_done_leaves_the_body() {
    let rules = json!([{"operate": "add", "body": [{"key": "ok", "value": "1"}, {"key": "a.b", "value": "1"}]}]);
    assert_eq!(body(&rules, "application/json", r#"{"a":1}"#), r#"{"a":1}"#);
    assert_eq!(body(&rules, "application/json", "{not json"), "{not json");
    assert_eq!(body(&rules, "application/json", ""), "");
}

#[test]
fn forms_are_changed() {
    let rules = json!([
        {"operate": "remove", "body": [{"key": "a1"}]},
        {"operate": "append", "body": [{"key": "b", "appendValue": "2&3"}]},
        {"operate": "map", "mapSource": "headers", "body": [{"fromKey": "Host", "toKey": "host"}]},
    ]);
    assert_eq!(body(&rules, "application/x-www-form-urlencoded", "b=1&a1=x"), "b=1&b=2%263&host=foo.bar.com");
    let sent = "--B\r\nContent-Disposition: form-data; name=\"a1\"\r\n\r\nx\r\n--B--\r\n";
    let changed = body(&rules, "multipart/form-data; boundary=B", sent);
    assert!(changed.contains("name=\"b\"\r\n\r\n2&3") && !changed.contains("a1"), "{changed}");
    // A header becomes a list in JSON, as in Higress.
    let mapped = json!([{"operate": "map", "mapSource": "headers", "body": [{"fromKey": "host", "toKey": "h"}]}]);
    assert_eq!(body(&mapped, "application/json", "{}"), r#"{"h":["foo.bar.com"]}"#);
}

#[test]
fn headers_wait_for_a_body_they_are_made_from() {
    let plugin = request_rules(&json!([
        {"operate": "map", "mapSource": "body", "headers": [{"fromKey": "friends.1.first", "toKey": "X-First"}, {"fromKey": "n", "toKey": "x-n"}]},
        {"operate": "map", "mapSource": "body", "querys": [{"fromKey": "n", "toKey": "n"}]},
        {"operate": "add", "headers": [{"key": "x-static", "value": "ok"}]},
    ]));
    let sent = r#"{"friends":[{},{"first":"Ro\"ger"}],"n":12}"#;
    let mut exchange = Exchange::new("POST", "/p", &[("content-type", "application/json")]).with_body(sent);
    exchange.run(&plugin);
    assert_eq!((exchange.header("x-first"), exchange.header("x-n")), (Some("Ro\"ger"), Some("12")));
    assert_eq!(exchange.head.uri.to_string(), "/p?n=12");
    assert_eq!(exchange.state.body.as_deref(), Some(sent.as_bytes()));
    // Without a body of a known type the other rules run at once.
    for kind in ["text/plain", "application/json"] {
        let mut exchange = Exchange::new("POST", "/p", &[("content-type", kind)]);
        exchange.run(&plugin);
        assert_eq!((exchange.header("x-static"), exchange.header("x-n")), (Some("ok"), None), "{kind}");
    }
}

#[test]
fn answers_are_changed() {
    let plugin = built(
        &SPEC,
        &json!({"respRules": [
            {"operate": "remove", "headers": [{"key": "Server"}]},
            {"operate": "add", "headers": [{"key": "X-Host", "value": "$1", "host_pattern": "^([a-z]+).*$"}]},
            {"operate": "map", "mapSource": "body", "headers": [{"fromKey": "status", "toKey": "x-status"}]},
            {"operate": "replace", "body": [{"key": "status", "newValue": "filtered"}]},
            {"operate": "add", "querys": [{"key": "ignored", "value": "1"}]},
        ]}),
    );
    let run = |kind: &str, body: &str| {
        let mut exchange = Exchange::new("GET", "/", &[("host", "foo.com")]);
        exchange.run(&plugin);
        exchange.answered(&plugin, answer(200, &[("server", "x"), ("content-type", kind)], body))
    };
    let got = run("application/json", r#"{"status":"raw","n":1}"#);
    assert_eq!(got.body, Bytes::from(r#"{"status":"filtered","n":1}"#));
    assert_eq!(
        (&got.head.headers["x-status"], &got.head.headers["x-host"]),
        (&"raw".parse().unwrap(), &"foo".parse().unwrap())
    );
    assert!(!got.head.headers.contains_key("server"));
    let got = run("text/plain", "plain");
    assert_eq!(got.body, Bytes::from("plain"));
    assert!(got.head.headers.contains_key("x-host") && !got.head.headers.contains_key("x-status"));
}

#[test]
fn problems_name_their_field() {
    assert_eq!(problem_fields(&SPEC, &json!({})), ["reqRules"]);
    let swapped = json!({"reqRules": [{"operate": "replace", "headers": [{"key": "x-r", "value": "new"}]},
        {"operate": "add", "headers": [{"key": "bad key", "value": "a\nb"}], "body": [{"key": "b", "value": "v", "newValue": ""}]}]});
    let pseudo = json!({"reqRules": [{"operate": "map", "headers": [{"fromKey": ":path", "toKey": "x-path"}]}]});
    assert_eq!(problem_fields(&SPEC, &pseudo), Vec::<String>::new());
    let expected = ["reqRules[0].headers[0].value", "reqRules[1].headers[0].key", "reqRules[1].headers[0].value"];
    assert_eq!(problem_fields(&SPEC, &swapped), expected);
    let config = json!({"reqRules": [
        {"operate": "bogus", "headers": [{"key": "a"}]},
        {"operate": "map", "mapSource": "bogus", "headers": [{"fromKey": "a"}]},
        {"operate": "add", "body": [
            {"key": "a", "value": "x", "value_type": "number"}, {"key": "b", "value_type": "bogus"},
            {"key": "c", "value": "", "path_pattern": "(["}, {"key": "d", "value": "", "typo": 1},
        ]},
        {"operate": "dedupe", "querys": [{"key": "k", "strategy": "bogus"}]},
    ], "more": 1});
    let expected = [
        "reqRules[0].operate",
        "reqRules[1].headers[0].toKey",
        "reqRules[1].mapSource",
        "reqRules[2].body[0].value",
        "reqRules[2].body[1].value_type",
        "reqRules[2].body[2].path_pattern",
        "reqRules[2].body[3].typo",
        "reqRules[3].querys[0].strategy",
        "more",
    ];
    assert_eq!(problem_fields(&SPEC, &config), expected);
}
