//! What the gateway answers by itself and what it changes in heads, as annotations say.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;
use crate::ingress::{get, named};

#[tokio::test]
async fn redirects_lead_where_their_annotations_say() {
    let upstream = named("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    for (name, annotations) in [
        ("temporal", json!({"higress.io/temporal-redirect": "http://b.com/z"})),
        ("permanent", json!({"higress.io/permanent-redirect": "https://b.com/q"})),
        (
            "both",
            json!({"higress.io/temporal-redirect": "http://t.com", "higress.io/permanent-redirect": "http://p.com"}),
        ),
        ("forced", json!({"higress.io/force-ssl-redirect": "true"})),
    ] {
        folder.route_with(name, &format!("/{name}"), "up.static", &annotations);
    }
    let gateway = Gateway::start(folder);
    for (path, status, location) in [
        ("/temporal/x?y=1", 302, "http://b.com/z?y=1"),
        ("/permanent/x", 301, "https://b.com/q"),
        ("/both/x", 302, "http://t.com/both/x"),
        ("/forced/x?y=1", 308, "https://127.0.0.1/forced/x?y=1"),
    ] {
        let answer = get(&gateway, path, &[]).await;
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)));
    }
    assert_eq!(upstream.n_calls(), 0);
}

#[tokio::test]
async fn browsers_are_told_what_the_cors_annotations_allow() {
    let upstream = named("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let own = json!({"higress.io/enable-cors": "true", "higress.io/cors-allow-methods": "GET,PUT",
        "higress.io/cors-allow-headers": "X-One, X-Two", "higress.io/cors-expose-headers": "X-Out,X-More",
        "higress.io/cors-allow-credentials": "false", "higress.io/cors-max-age": "77"});
    folder.route_with("own", "/own", "up.static", &own);
    folder.route_with("usual", "/usual", "up.static", &json!({"higress.io/enable-cors": "true"}));
    let gateway = Gateway::start(folder);
    let told = async |method: &str, path: &str| {
        let asking = [("origin", "http://a.com"), ("access-control-request-method", "PUT")];
        let answer = send(gateway.http, method, path, &asking, Bytes::new()).await;
        ["allow-origin", "allow-methods", "allow-headers", "expose-headers", "allow-credentials", "max-age"]
            .map(|name| answer.header(&format!("access-control-{name}")).unwrap_or_default().to_owned())
    };
    let origin = "http://a.com";
    assert_eq!(told("OPTIONS", "/own").await, [origin, "GET,PUT", "X-One,X-Two", "X-Out,X-More", "", "77"]);
    assert_eq!(told("GET", "/own").await, [origin, "", "", "X-Out,X-More", "", ""]);
    let methods = "GET,PUT,POST,DELETE,PATCH,OPTIONS";
    let headers = "DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Authorization";
    assert_eq!(told("OPTIONS", "/usual").await, [origin, methods, headers, "", "true", "1728000"]);
}

#[tokio::test]
async fn headers_are_added_and_removed_on_both_ways() {
    let upstream = Upstream::start(|_, seen| async move {
        let mut answer = ok(&json!({"path": seen.path, "headers": seen.headers}));
        for name in ["x-inner", "x-secret", "x-kept"] {
            answer.headers_mut().insert(name, "1".parse().unwrap());
        }
        answer
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let control = json!({"higress.io/request-header-control-add": "x-added one\n\"x-quoted\" 'two words'",
        "higress.io/request-header-control-remove": "x-a, x-b", "higress.io/response-header-control-remove": "x-inner,X-Secret"});
    folder.route_with("control", "/control", "up.static", &control);
    // The console's notes to itself: its switches, and what it has parked.
    let notes = json!({"higress.io/enable-rewrite": "false", "higress.io/rewrite-path": "/new",
        "higress.io/enable-header-control": "false", "higress.io/request-header-control-add": "x-added one",
        "higress.io/enable-proxy-next-upstream": "false", "higress.io/comment": "a note",
        "higress.io/disabled.upstream-vhost": "parked.test"});
    folder.route_with("notes", "/notes", "up.static", &notes);
    let gateway = Gateway::start(folder);
    let answer = get(&gateway, "/control", &[("x-a", "1"), ("x-b", "1"), ("x-c", "1")]).await;
    let seen = answer.json()["headers"].clone();
    let names = ["x-added", "x-quoted", "x-a", "x-b", "x-c"];
    assert_eq!(
        names.map(|name| seen[name].clone()),
        [json!("one"), json!("two words"), Value::Null, Value::Null, json!("1")]
    );
    let left = ["x-inner", "x-secret", "x-kept"].map(|name| answer.header(name));
    assert_eq!(left, [None, None, Some("1")]);
    let answer = get(&gateway, "/notes/x", &[]).await.json();
    assert_eq!((&answer["path"], &answer["headers"]["x-added"]), (&json!("/new/x"), &json!("one")));
    assert_eq!(answer["headers"]["host"], gateway.http.to_string());
    assert_eq!(gateway.admin("GET", "/api/v1/config").await.json()["problems"], json!([]));
}
