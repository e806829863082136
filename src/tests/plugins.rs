//! Built-in plugins in a running gateway, each on a route of its own: a request that it refuses or changes, and one
//! that it lets alone. What takes several plugins, a browser, a reload or a Redis is in `auth`, `traffic`, `transform`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use ring::hmac;
use serde_json::{Value, json};

use crate::harness::*;
use crate::ingress::{Authority, curl, site};

/// Answers with what it was asked.
async fn echo() -> Upstream {
    Upstream::start(|_, seen| async move {
        let body = String::from_utf8_lossy(&seen.body);
        ok(&json!({"method": seen.method, "path": seen.path, "headers": seen.headers, "body": body}))
    })
    .await
}

/// A route `/<plugin>` to the service `up`, with the plugin on this route alone.
fn on_route(folder: &Folder, plugin: &str, config: &Value) {
    folder.route(plugin, &format!("/{plugin}"), "up.static");
    folder.plugin(plugin, &json!({}), &json!([{"ingress": [plugin], "config": config}]));
}

async fn get(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.http, "GET", path, headers, Bytes::new()).await
}

/// What the upstream got in a header; empty if it got none.
fn told(answer: &Answer, header: &str) -> String {
    answer.json()["headers"][header].as_str().unwrap_or_default().to_owned()
}

/// Path and query that the upstream was asked for.
fn path(answer: &Answer) -> String {
    answer.json()["path"].as_str().unwrap_or_default().to_owned()
}

fn code(secret: &str, text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes())
}

/// A JSON Web Token signed with a shared secret.
fn token(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(code(secret, &signed));
    format!("{signed}.{signature}")
}

/// A key set of one shared secret, as text.
fn key_set(secret: &str) -> String {
    json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)}]}).to_string()
}

#[tokio::test]
async fn passwords_and_tokens_tell_who_calls() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let passwords = json!({"consumers": [{"name": "alice", "credential": "alice:hush"}]});
    on_route(&folder, "basic-auth", &passwords);
    on_route(&folder, "go-basic-auth", &passwords);
    let tokens = json!({"global_auth": false, "consumers": [
        {"name": "alice", "jwks": key_set("hush")}, {"name": "bob", "jwks": key_set("secret")}]});
    for plugin in ["jwt-auth", "go-jwt-auth"] {
        // A rule for one consumer: only there the Go port says what is wrong with a token.
        folder.route(plugin, &format!("/{plugin}"), "up.static");
        folder.plugin(plugin, &tokens, &json!([{"ingress": [plugin], "config": {"allow": ["alice"]}}]));
    }
    on_route(&folder, "simple-jwt-auth", &json!({"token_headers": "token", "token_secret_key": "hush"}));
    let gateway = Gateway::start(folder);

    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let bearer = |secret: &str, claims: &Value| format!("Bearer {}", token(secret, claims));
    let (right, wrong) = (basic("alice:hush"), basic("alice:guess"));
    let (alices, bobs) = (bearer("hush", &json!({"sub": "u1"})), bearer("secret", &json!({"sub": "u2"})));
    let old = bearer("hush", &json!({"exp": 1}));
    let (right, wrong) = (Some(right.as_str()), Some(wrong.as_str()));
    let (alices, bobs, old) = (Some(alices.as_str()), Some(bobs.as_str()), Some(old.as_str()));
    let cases = [
        ("basic-auth", right, 200, "alice"),
        ("basic-auth", wrong, 401, ""),
        ("basic-auth", None, 401, ""),
        ("go-basic-auth", right, 200, "alice"),
        ("go-basic-auth", wrong, 401, "Request denied by Basic Auth check. Invalid username and/or password."),
        ("go-basic-auth", None, 401, "Request denied by Basic Auth check. No Basic Authentication information found."),
        ("jwt-auth", alices, 200, "alice"),
        ("jwt-auth", bobs, 403, "Access Denied"),
        ("jwt-auth", old, 401, "Jwt is expired"),
        ("jwt-auth", None, 401, "Jwt is missing"),
        ("go-jwt-auth", alices, 200, "alice"),
        ("go-jwt-auth", bobs, 403, "Request denied by JWT Auth check. Unauthorized consumer."),
        ("go-jwt-auth", old, 401, "Request denied by JWT Auth check. JWT is expired."),
        ("go-jwt-auth", None, 401, "Request denied by JWT Auth check. JWT is missing."),
    ];
    for (plugin, authorization, status, expected) in cases {
        let headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let got = get(&gateway, &format!("/{plugin}/x"), &headers).await;
        let said = if got.status == 200 { told(&got, "x-mse-consumer") } else { got.text() };
        assert_eq!((got.status, said.as_str()), (status, expected), "{plugin} {authorization:?}");
    }
    // The C++ plugin tells its reason here and nowhere else.
    let reason = "Request denied by Basic Auth check. Invalid username and/or password";
    let log = gateway.access_log(cases.len());
    assert!(log.iter().any(|line| line["response_code_details"] == reason), "{log:?}");

    for (secret, status) in [("hush", 200), ("guess", 401)] {
        let got = get(&gateway, "/simple-jwt-auth/x", &[("token", &token(secret, &json!({})))]).await;
        assert_eq!(got.status, status, "simple-jwt-auth {secret}");
    }
    let refused = get(&gateway, "/simple-jwt-auth/x", &[]).await;
    assert_eq!((refused.status, refused.json()), (401, json!({"code": 401, "msg": "认证失败"})));
    assert_eq!(upstream.n_calls(), 5, "one of each plugin");
}

#[tokio::test]
async fn a_signature_is_good_for_the_request_it_was_made_for() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let config = json!({"consumers": [{"name": "alice", "key": "app", "secret": "hush"}]});
    on_route(&folder, "hmac-auth", &config);
    let config = json!({"hide_credentials": true,
        "consumers": [{"name": "alice", "access_key": "app", "secret_key": "hush"}]});
    on_route(&folder, "hmac-auth-apisix", &config);
    let gateway = Gateway::start(folder);

    // Neither Accept, Content-MD5, Content-Type nor Date is sent.
    let signature = STANDARD.encode(code("hush", "GET\n\n\n\n\nx-tenant:t1\n/hmac-auth/x?a=1&b=2"));
    let headers = [
        ("x-ca-key", "app"),
        ("x-ca-signature-headers", "x-tenant"),
        ("x-ca-signature", signature.as_str()),
        ("x-tenant", "t1"),
    ];
    let passed = get(&gateway, "/hmac-auth/x?b=2&a=1", &headers).await;
    assert_eq!((passed.status, told(&passed, "x-mse-consumer").as_str()), (200, "alice"));
    let refused = get(&gateway, "/hmac-auth/other?b=2&a=1", &headers).await;
    assert_eq!((refused.status, refused.text().as_str()), (400, "Invalid Signature"));
    let to_sign = "Server StringToSign:`GET#####x-tenant:t1#/hmac-auth/other?a=1&b=2`";
    assert_eq!(refused.header("x-ca-error-message"), Some(to_sign));
    let unsigned = get(&gateway, "/hmac-auth/x", &[]).await;
    assert_eq!((unsigned.status, unsigned.text().as_str()), (401, "Invalid Key"));

    let signed = |date: &str| {
        let text = format!("app\nGET /hmac-auth-apisix/x?a=1\ndate: {date}\n");
        let code = STANDARD.encode(code("hush", &text));
        let names = "@request-target date";
        format!("Signature keyId=\"app\",algorithm=\"hmac-sha256\",headers=\"{names}\",signature=\"{code}\"")
    };
    let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let passed = get(&gateway, "/hmac-auth-apisix/x?a=1", &[("date", &now), ("authorization", &signed(&now))]).await;
    assert_eq!((passed.status, told(&passed, "x-mse-consumer").as_str()), (200, "alice"));
    assert_eq!(told(&passed, "authorization"), "", "hidden from the upstream");
    for (path, date, reason) in [
        ("/hmac-auth-apisix/x?a=2", now.as_str(), "Invalid signature"),
        ("/hmac-auth-apisix/x?a=1", "Fri, 01 Jan 2021 00:00:00 GMT", "Clock skew exceeded"),
    ] {
        let refused = get(&gateway, path, &[("date", date), ("authorization", &signed(date))]).await;
        let message = json!({"message": format!("client request can't be validated: {reason}")});
        assert_eq!((refused.status, refused.json()), (401, message));
    }
    assert_eq!(upstream.n_calls(), 2, "one of each plugin");
}

#[tokio::test]
async fn a_policy_decides_by_what_the_request_says() {
    let upstream = echo().await;
    let agent = Upstream::start(|_, seen| async move {
        let asked = seen.json()["input"]["request"].clone();
        let is_right = asked["query"]["who"] == json!(["me"]) && seen.path == "/v1/data/shop/allow";
        ok(&json!({"result": is_right}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address), ("agent", agent.address)]);
    let config = json!({"serviceSource": "ip", "serviceName": "agent", "servicePort": 80, "host": "agent.local",
        "policy": "shop", "timeout": "5s"});
    on_route(&folder, "opa", &config);
    let gateway = Gateway::start(folder);
    let allowed = get(&gateway, "/opa/x?who=me", &[]).await;
    assert_eq!((allowed.status, path(&allowed).as_str()), (200, "/opa/x?who=me"));
    assert_eq!(agent.last().headers["host"], "agent.local");
    let refused = gateway.post("/opa/x?who=you", &[], "a body").await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "opa server not allowed"));
    assert_eq!(agent.last().json()["input"]["request"]["body"], STANDARD.encode("a body"));
    assert_eq!((agent.n_calls(), upstream.n_calls()), (2, 1), "asked once for each request");
}

/// curl connects for one host and asks for another, as browsers do where a certificate is good for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_for_one_host_is_not_one_for_another() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    Authority::new().sign(&folder, "pair", &["first.test", "second.test"]);
    for name in ["first", "second"] {
        site(&folder, name, &format!("{name}.test"), "up.static", Some("pair"), &json!({}));
    }
    folder.plugin("sni-misdirect", &json!({}), &json!([{"ingress": ["second"], "config": {}}]));
    let gateway = Gateway::start(folder);
    for (connected, asked, version, expected) in [
        ("first.test", "second.test", "--http2", "421"),
        ("first.test", "second.test", "--http1.1", "200"),
        ("second.test", "second.test", "--http2", "200"),
        ("second.test", "first.test", "--http2", "200"),
    ] {
        let host = format!("Host: {asked}");
        let status = curl(&gateway, connected, &[version, "-H", &host]);
        assert_eq!(status, expected, "{connected} {asked} {version}");
    }
    assert_eq!(upstream.n_calls(), 3);
    let log = gateway.access_log(4);
    assert!(log.iter().any(|line| line["response_code_details"] == "Misdirected Request"), "{log:?}");
}

#[tokio::test]
async fn requests_are_checked_located_and_turned_into_queries() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("plain", "/plain", "up.static");
    let object = |needed: &str| json!({"type": "object", "required": [needed]});
    let config = json!({"header_schema": object("x-id"), "body_schema": object("name"), "rejected_code": 422,
        "rejected_msg": "not so"});
    on_route(&folder, "request-validation", &config);
    std::fs::create_dir_all(folder.data()).unwrap();
    std::fs::write(folder.data().join("geo-ip.txt"), "1.2.3.0/24|France|Île-de-France|Paris|Orange\n").unwrap();
    on_route(&folder, "geo-ip", &json!({"ip_source_type": "header", "ip_header_name": "x-client"}));
    let query = "query ($id: Int!, $name: String) { thing(id: $id, name: $name) { price } }";
    on_route(&folder, "de-graphql", &json!({"gql": query}));
    let gateway = Gateway::start(folder);

    let valid = r#"{"name": "a"}"#;
    let passed = gateway.post("/request-validation/x", &[("x-id", "1")], valid).await;
    assert_eq!((passed.status, &passed.json()["body"]), (200, &json!(valid)));
    for (headers, body) in [(vec![], valid), (vec![("x-id", "1")], r#"{"other": "a"}"#)] {
        let refused = gateway.post("/request-validation/x", &headers, body).await;
        assert_eq!((refused.status, refused.text().as_str()), (422, "not so"), "{headers:?} {body}");
    }

    let located = async |address: &str| {
        // A place that the client claims does not pass.
        let headers = [("x-client", address), ("x-higress-geo-city", "claimed")];
        let got = get(&gateway, "/geo-ip/x", &headers).await;
        ["country", "province", "city", "isp"].map(|part| told(&got, &format!("x-higress-geo-{part}")))
    };
    assert_eq!(located("1.2.3.4").await, ["France", "%C3%8Ele-de-France", "Paris", "Orange"]);
    assert_eq!(located("9.9.9.9").await, [""; 4], "geo-ip knows no such network");

    let asked = get(&gateway, "/de-graphql/things?id=7&name=a&other=1", &[]).await;
    let seen = asked.json();
    assert_eq!((&seen["method"], &seen["path"]), (&json!("POST"), &json!("/graphql")));
    let question: Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
    assert_eq!(question, json!({"query": query, "variables": {"id": 7, "name": "a"}}));
    assert_eq!(asked.header("x-degraphql-endpoint"), Some("/graphql"));
    let plain = get(&gateway, "/plain/things?id=7", &[]).await;
    assert_eq!((path(&plain).as_str(), plain.header("x-degraphql-endpoint")), ("/plain/things?id=7", None));
}

#[tokio::test]
async fn users_get_the_version_of_a_site_that_is_theirs() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let config = json!({"grayKey": "userid", "rules": [{"name": "inner", "grayKeyValue": ["1"]}],
        "baseDeployment": {"version": "base"},
        "grayDeployments": [{"name": "inner", "version": "gray", "enabled": true}],
        "skippedPaths": ["/frontend-gray/api/**"], "html": "<p>{version}</p>"});
    on_route(&folder, "frontend-gray", &config);
    let gateway = Gateway::start(folder);
    for (user, version) in [("userid=1", "gray"), ("userid=2", "base")] {
        let page = get(&gateway, "/frontend-gray/app", &[("cookie", user)]).await;
        assert_eq!((page.status, page.text()), (200, format!("<p>{version}</p>")));
        let kept = page.header("set-cookie").unwrap_or_default();
        assert!(kept.starts_with(&format!("x-higress-tag={version};")), "{kept}");
        assert_eq!(upstream.last().headers["x-higress-tag"], version, "what the upstream was told");
    }
    // A file is of the version that its page had, and as the upstream sent it.
    let cookies = [("cookie", "userid=1; x-higress-tag=base")];
    let file = get(&gateway, "/frontend-gray/app.js", &cookies).await;
    assert_eq!((told(&file, "x-higress-tag").as_str(), file.header("set-cookie")), ("base", None));
    let skipped = get(&gateway, "/frontend-gray/api/users", &[("cookie", "userid=1")]).await;
    assert_eq!((told(&skipped, "x-higress-tag").as_str(), skipped.header("set-cookie")), ("", None));
}

#[tokio::test]
async fn heads_and_paths_are_edited_where_the_request_asks_for_it() {
    let upstream = echo().await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("moved", "/moved", "up.static");
    on_route(&folder, "cache-control", &json!({"suffix": "png|jpg", "expires": "max"}));
    let of = |kind: &str, name: &str| json!({"type": kind, "name": name});
    let config = json!({"conditionalConfigs": [{
        "conditions": [{"type": "equals", "value1": of("request_query", "role"), "value2": "admin"}],
        "commands": [
            {"type": "set", "target": of("request_header", "x-user"), "value": "root"},
            {"type": "copy", "source": of("request_query", "id"), "target": of("response_header", "x-id")},
            {"type": "delete", "target": of("request_query", "role")}]}]});
    on_route(&folder, "traffic-editor", &config);
    let config = json!({"rules": [{"regex": "^/nginx-rewrite-compatible/old/(.*)$", "replacement": "/moved/$1",
        "query_append": "from=$1", "set_vars": [{"name": "http_x_original", "capture_group": 1}]}]});
    on_route(&folder, "nginx-rewrite-compatible", &config);
    let gateway = Gateway::start(folder);

    let image = get(&gateway, "/cache-control/a.png?x=1", &[]).await;
    assert_eq!(image.header("cache-control"), Some("max-age=315360000"));
    assert_eq!(image.header("expires"), Some("Thu, 31 Dec 2037 23:55:55 GMT"));
    let text = get(&gateway, "/cache-control/a.txt?x=.png", &[]).await;
    assert_eq!((text.status, text.header("cache-control"), text.header("expires")), (200, None, None));

    let edited = get(&gateway, "/traffic-editor/x?role=admin&id=7", &[]).await;
    assert_eq!((path(&edited).as_str(), edited.header("x-id")), ("/traffic-editor/x?id=7", Some("7")));
    assert_eq!(told(&edited, "x-user"), "root");
    let left = get(&gateway, "/traffic-editor/x?role=user&id=7", &[]).await;
    assert_eq!((path(&left).as_str(), left.header("x-id")), ("/traffic-editor/x?role=user&id=7", None));
    assert_eq!(told(&left, "x-user"), "");

    let rewritten = get(&gateway, "/nginx-rewrite-compatible/old/a?x=1", &[]).await;
    assert_eq!(path(&rewritten), "/moved/a?x=1&from=a");
    assert_eq!(told(&rewritten, "x-original"), "a");
    let left = get(&gateway, "/nginx-rewrite-compatible/a?x=1", &[]).await;
    assert_eq!((path(&left).as_str(), told(&left, "x-original").as_str()), ("/nginx-rewrite-compatible/a?x=1", ""));
    let routes: Vec<Value> = gateway.access_log(6).iter().map(|line| line["route_name"].clone()).collect();
    assert!(routes.contains(&json!("moved")), "the new path chooses the route: {routes:?}");
}

#[tokio::test]
async fn messages_and_answers_of_services_travel_in_headers() {
    let upstream = echo().await;
    let tokens = Upstream::start(|n, seen| async move {
        if n == 0 || seen.path != "/token?of=up" {
            return answer(503, "text/plain", "not yet");
        }
        let mut given = answer(200, "text/plain", "two\nlines");
        given.headers_mut().insert("x-token", "t1".parse().unwrap());
        given
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address), ("tokens", tokens.address)]);
    on_route(&folder, "jsonrpc-converter", &json!({"stage": "request"}));
    let config = json!({"serviceSource": "ip", "serviceName": "tokens", "servicePort": 80,
        "requestPath": "/token?of=up", "bodyHeader": "x-body", "tokenHeader": "x-token"});
    on_route(&folder, "http-call", &config);
    let gateway = Gateway::start(folder);

    let call = |method: &str| {
        let params = json!({"name": "add", "arguments": {"a": 1}});
        json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string()
    };
    let names = ["x-envoy-jsonrpc-id", "x-envoy-jsonrpc-method", "x-envoy-mcp-tool-name", "x-envoy-mcp-tool-arguments"];
    for (method, expected) in [("tools/call", ["7", "tools/call", "add", r#"{"a":1}"#]), ("ping", [""; 4])] {
        let got = gateway.post("/jsonrpc-converter/x", &[], call(method)).await;
        assert_eq!(names.map(|name| told(&got, name)), expected, "{method}");
        assert_eq!(got.json()["body"], call(method), "the message itself stays");
    }

    let without = get(&gateway, "/http-call/x", &[]).await;
    assert_eq!((told(&without, "x-body").as_str(), told(&without, "x-token").as_str()), ("", ""));
    // A service that takes longer than half a second is passed over like one that fails, and this machine may be busy.
    let with = eventually_async("the service's answer in headers", || async {
        let got = get(&gateway, "/http-call/x", &[]).await;
        (told(&got, "x-token") == "t1").then_some(got)
    })
    .await;
    assert_eq!(told(&with, "x-body"), "two#lines");
}
