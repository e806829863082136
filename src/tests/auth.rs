//! Authentication plugins with the real gateway: what needs a browser, a service beside the upstream, or the access log.

use std::collections::HashMap;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::harness::*;

/// An OpenID provider whose users are always logged in. Codes are the nonce and the code challenge of the login they are for.
async fn identity_provider() -> Upstream {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let pair = std::sync::Arc::new(pair);
    Upstream::start(move |_, seen| {
        let pair = pair.clone();
        async move {
            let base = format!("http://{}", seen.headers["host"]);
            let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
            let given =
                |text: &[u8]| -> HashMap<String, String> { form_urlencoded::parse(text).into_owned().collect() };
            match path {
                "/.well-known/openid-configuration" => ok(&json!({"issuer": base, "jwks_uri": format!("{base}/keys"),
                    "authorization_endpoint": format!("{base}/auth"), "token_endpoint": format!("{base}/token")})),
                "/auth" => {
                    let asked = given(query.as_bytes());
                    let code = format!("{} {}", asked["nonce"], asked["code_challenge"]);
                    let back = form_urlencoded::Serializer::new(String::new())
                        .append_pair("state", &asked["state"])
                        .append_pair("code", &code)
                        .finish();
                    let mut answer = answer(302, "text/plain", "");
                    let location = format!("{}?{back}", asked["redirect_uri"]);
                    answer.headers_mut().insert("location", location.parse().unwrap());
                    answer
                }
                "/token" => {
                    let form = given(&seen.body);
                    let (nonce, challenge) = form["code"].split_once(' ').unwrap();
                    let digest = ring::digest::digest(&ring::digest::SHA256, form["code_verifier"].as_bytes());
                    if URL_SAFE_NO_PAD.encode(digest) != challenge || form["client_secret"] != "hush" {
                        return answer(400, "application/json", "{}");
                    }
                    let claims =
                        json!({"iss": base, "aud": "me", "sub": "u1", "exp": 4_000_000_000_u64, "nonce": nonce});
                    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
                    let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "k"})), part(&claims));
                    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
                    let id_token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
                    ok(&json!({"id_token": id_token, "access_token": "at", "token_type": "Bearer"}))
                }
                "/keys" => {
                    let point = pair.public_key().as_ref();
                    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
                    ok(&json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]}))
                }
                _ => answer(404, "text/plain", ""),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_logs_in_at_the_provider_and_stays_logged_in() {
    let idp = identity_provider().await;
    let upstream = Upstream::start(|_, seen| async move {
        ok(&json!({"path": seen.path, "authorization": seen.headers.get("authorization")}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address), ("idp", idp.address)]).route("web", "/", "web.static");
    let issuer = format!("http://{}", idp.address);
    folder.plugin(
        "oidc",
        &json!({"oidc_issuer_url": issuer, "client_id": "me", "client_secret": "hush", "cookie_secure": false,
            "cookie_secret": "0123456789abcdef0123456789abcdef", "service_name": "idp.static", "service_port": 80}),
        &json!([]),
    );
    let gateway = Gateway::start(folder);
    let jar = gateway.folder.dir.path().join("cookies");
    let browse = |path: &str| {
        let output = Command::new("curl")
            .args(["-sS", "-L", "--max-redirs", "5", "--cookie-jar"])
            .arg(&jar)
            .arg("--cookie")
            .arg(&jar)
            .arg(format!("http://{}{path}", gateway.http))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let first = browse("/app?x=1");
    assert_eq!(first["path"], "/app?x=1");
    assert!(first["authorization"].as_str().unwrap().starts_with("Bearer ey"), "{first}");
    let n_calls = idp.n_calls();
    assert_eq!(n_calls, 4, "discovery, login, token, keys");
    assert_eq!(browse("/other")["path"], "/other");
    assert_eq!(idp.n_calls(), n_calls, "the session is enough");
    let script = send(gateway.http, "GET", "/app", &[("accept", "application/json")], Bytes::new()).await;
    assert_eq!(script.status, 401);
    // The way back has a code in its query; the log does not.
    let log = gateway.access_log(5);
    let callback =
        log.iter().filter_map(|entry| entry["path"].as_str()).find(|path| path.starts_with("/oauth2/callback"));
    let path = callback.unwrap();
    assert!(path.contains("state=") && !path.contains("code="), "{path}");
}

#[tokio::test]
async fn issued_tokens_open_the_routes_and_secrets_are_not_logged() {
    let upstream = Upstream::start(|_, seen| async move {
        ok(&json!({"consumer": seen.headers.get("x-mse-consumer"), "authorization": seen.headers.get("authorization")}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("web", "/", "web.static");
    let config = json!({"consumers": [{"name": "alice", "client_id": "id", "client_secret": "hush"}]});
    folder.plugin("oauth", &config, &json!([]));
    let gateway = Gateway::start(folder);
    let asked = "/oauth2/token?grant_type=client_credentials&client_id=id&client_secret=hush";
    let issued = gateway.get(asked).await;
    assert_eq!((issued.status, issued.header("content-type")), (200, Some("application/json")));
    let bearer = format!("Bearer {}", issued.json()["access_token"].as_str().unwrap());
    let answer = send(gateway.http, "GET", "/x", &[("authorization", &bearer)], Bytes::new()).await;
    assert_eq!(answer.json(), json!({"consumer": "alice", "authorization": bearer}));
    let refused = gateway.get("/x").await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "Invalid Jwt token"));
    // Lines come in the order in which requests end, which need not be that of the answers.
    let log = gateway.access_log(3);
    let has = |field: &str, value: &str| log.iter().any(|entry| entry[field] == value);
    assert!(has("path", "/oauth2/token?grant_type=client_credentials&client_id=id"), "{log:?}");
    assert!(has("response_code_details", "oauth_access_denied"), "{log:?}");
}

#[tokio::test]
async fn a_service_decides_with_the_body_and_the_upstream_gets_it_too() {
    let judge = Upstream::start(|_, seen| async move {
        let is_right = seen.path == "/judge/orders?x=1" && seen.headers["host"] == "judge.local";
        let mut answer = answer(if is_right && seen.body == "yes" { 200 } else { 402 }, "text/plain", "pay first");
        answer.headers_mut().insert("x-user", "u1".parse().unwrap());
        answer
    })
    .await;
    let upstream =
        Upstream::start(
            |_, seen| async move { ok(&json!({"user": seen.headers.get("x-user"), "n": seen.body.len()})) },
        )
        .await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address), ("judge", judge.address)]).route("web", "/", "web.static");
    let config = json!({"http_service": {
        "endpoint": {"service_name": "judge.static", "service_host": "judge.local", "path_prefix": "/judge"},
        "authorization_request": {"with_request_body": true},
        "authorization_response": {"allowed_upstream_headers": [{"exact": "x-user"}]}}});
    folder.plugin("ext-auth", &config, &json!([]));
    let gateway = Gateway::start(folder);
    let allowed = gateway.post("/orders?x=1", &[], "yes").await;
    assert_eq!(allowed.json(), json!({"user": "u1", "n": 3}));
    let refused = gateway.post("/orders?x=1", &[], "no").await;
    assert_eq!((refused.status, refused.text().as_str(), refused.header("x-user")), (402, "pay first", Some("u1")));
    assert_eq!((judge.n_calls(), upstream.n_calls()), (2, 1));
    let log = gateway.access_log(2);
    assert!(log.iter().any(|entry| entry["response_code_details"] == "ext-auth.unauthorized"), "{log:?}");
}
