//! Which requests annotations give to a route, and the path its upstream is asked for.

use bytes::Bytes;
use serde_json::json;

use crate::harness::*;
use crate::ingress::{by, get, named};

#[tokio::test]
async fn requests_that_miss_a_condition_are_not_the_routes() {
    let upstream = named("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    for (name, annotation, value) in [
        ("method", "match-method", "GET PUT"),
        ("header-prefix", "prefix-match-header-x-a", "ab"),
        ("header-regex", "regex-match-header-x-a", "a[0-9]+"),
        ("pseudo-exact", "exact-match-pseudo-header-method", "PUT"),
        ("pseudo-prefix", "prefix-match-pseudo-header-path", "/pseudo-prefix/y"),
        ("pseudo-regex", "regex-match-pseudo-header-authority", "a[0-9]\\.test"),
        ("query-exact", "exact-match-query-v", "2"),
        ("query-prefix", "prefix-match-query-v", "a"),
        ("query-regex", "regex-match-query-v", "[0-9]+"),
    ] {
        let annotation = format!("higress.io/{annotation}");
        folder.route_with(name, &format!("/{name}"), "up.static", &json!({annotation: value}));
    }
    let gateway = Gateway::start(folder);
    for (request, headers, status) in [
        ("GET /method", vec![], 200),
        ("PUT /method", vec![], 200),
        ("POST /method", vec![], 404),
        ("GET /header-prefix", vec![("x-a", "abc")], 200),
        ("GET /header-prefix", vec![("x-a", "xab")], 404),
        ("GET /header-prefix", vec![], 404),
        ("GET /header-regex", vec![("x-a", "a12")], 200),
        ("GET /header-regex", vec![("x-a", "a12b")], 404),
        ("PUT /pseudo-exact", vec![], 200),
        ("GET /pseudo-exact", vec![], 404),
        ("GET /pseudo-prefix/yz", vec![], 200),
        ("GET /pseudo-prefix/x", vec![], 404),
        ("GET /pseudo-regex", vec![("host", "a7.test:8080")], 200),
        ("GET /pseudo-regex", vec![("host", "b7.test")], 404),
        ("GET /query-exact?u=1&v=2", vec![], 200),
        ("GET /query-exact?v=22", vec![], 404),
        ("GET /query-exact", vec![], 404),
        ("GET /query-prefix?v=abc", vec![], 200),
        ("GET /query-prefix?v=ba", vec![], 404),
        ("GET /query-regex?v=12", vec![], 200),
        ("GET /query-regex?v=12a", vec![], 404),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let answer = send(gateway.http, method, path, &headers, Bytes::new()).await;
        assert_eq!(answer.status, status, "{request} {headers:?}");
    }
}

#[tokio::test]
async fn paths_are_matched_and_rewritten_as_annotations_say() {
    let upstream = named("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    for (name, path, annotation, value) in [
        ("any-case", "/Api", "ignore-path-case", "true"),
        ("regex", "/v[12]/x", "use-regex", "true"),
        ("whole", "/w[12]/x", "full-path-regex", "true"),
        ("group", "/svc/(.*)", "rewrite-target", "/$1"),
        ("groups", "/a/([^/]+)/(.*)", "rewrite-target", "/x/\\2/\\1"),
        ("prefix", "/foo", "rewrite-target", "/bar"),
        ("optional", "/something(/|$)(.*)", "rewrite-target", "/$2"),
    ] {
        let annotation = format!("higress.io/{annotation}");
        folder.route_with(name, path, "up.static", &json!({annotation: value}));
    }
    let gateway = Gateway::start(folder);
    for (path, expected) in [
        ("/API/x", Some("/API/x")),
        ("/apis", None),
        ("/v1/x/more", Some("/v1/x/more")),
        ("/v3/x", None),
        ("/b/v1/x", None),
        ("/w1/x?q", Some("/w1/x?q")),
        ("/w1/x/more", None),
        ("/svc/a/b?q=1", Some("/a/b?q=1")),
        ("/a/one/two/three", Some("/x/two/three/one")),
        ("/foo", Some("/bar")),
        ("/foo/y?z=1", Some("/bar/y?z=1")),
        ("/something", Some("/")),
        ("/something/new", Some("/new")),
    ] {
        let answer = get(&gateway, path, &[]).await;
        let seen = answer.json()["path"].as_str().map(str::to_owned);
        assert_eq!(seen.as_deref(), expected, "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn a_canarys_pattern_is_found_anywhere_in_its_header() {
    let (base, canary) = (named("base").await, named("canary").await);
    let folder = Folder::new();
    folder.services(&[("base", base.address), ("canary", canary.address)]).route("all", "/", "base.static");
    let annotations = json!({"higress.io/canary": "true", "higress.io/canary-by-header": "x-canary",
        "higress.io/canary-by-header-pattern": "v[12]$"});
    folder.route_with("canary", "/", "canary.static", &annotations);
    let gateway = Gateway::start(folder);
    for (value, expected) in [("v1", "canary"), ("rev2", "canary"), ("v3", "base"), ("v1x", "base"), ("always", "base")]
    {
        assert_eq!(by(&get(&gateway, "/", &[("x-canary", value)]).await), expected, "{value}");
    }
}
