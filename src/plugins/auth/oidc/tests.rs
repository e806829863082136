use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Value, json};

use super::*;
use crate::base::secret::Secret;
use crate::plugins::HttpCall;
use crate::plugins::auth::jwt::tests::ecdsa;
use crate::plugins::testing::{Exchange, FakeHost, answer, built_with, problem_fields};

const ISSUER: &str = "http://idp.test/realm";

fn config(more: &Value) -> Value {
    let mut config = json!({"oidc_issuer_url": ISSUER, "client_id": "me", "client_secret": "hush", "scope": "openid;email",
        "cookie_secret": "0123456789abcdef0123456789abcdef", "service_name": "idp.static", "service_port": 80,
        "whitelist_domains": ["idp.test"], "pass_access_token": true});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// A provider that takes any code for the nonce of its ID token, and changes the token's claims as told.
fn provider(changed: Value) -> (Arc<FakeHost>, Arc<AtomicBool>) {
    let (keys, sign) = ecdsa("k1");
    let is_up = Arc::new(AtomicBool::new(true));
    let up = is_up.clone();
    let host = FakeHost::answering(move |call: &HttpCall| {
        if !up.load(Ordering::SeqCst) {
            return Err("down".into());
        }
        Ok(match call.head.uri.path() {
            "/realm/.well-known/openid-configuration" => answer(
                200,
                &[],
                &json!({"issuer": ISSUER,
                "authorization_endpoint": "http://idp.test/auth", "token_endpoint": "http://idp.test/token",
                "jwks_uri": "http://keys.test/jwks"})
                .to_string(),
            ),
            "/jwks" => answer(200, &[], &keys.to_string()),
            "/token" => {
                let form: HashMap<String, String> = form_urlencoded::parse(&call.body).into_owned().collect();
                let nonce = form.get("code").cloned().unwrap_or_default();
                let mut claims =
                    json!({"iss": ISSUER, "aud": ["me"], "sub": "u1", "exp": clock::now() + 300, "nonce": nonce});
                claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
                let tokens = json!({"id_token": sign(&claims), "access_token": format!("at-{}", form["grant_type"]),
                    "refresh_token": "r".repeat(4000)});
                answer(200, &[], &tokens.to_string())
            }
            path => answer(404, &[], path),
        })
    });
    (host, is_up)
}

/// The value of a cookie that this plugin sealed.
fn sealed(cookie: &str, value: &impl Serialize) -> String {
    let secret = Secret::new("0123456789abcdef0123456789abcdef");
    session::Sealer::new(&secret).ok().unwrap().seal(&format!("{cookie}\n{ISSUER}\nme"), value).unwrap()
}

fn reply_header<'r>(reply: &'r Reply, name: &str) -> &'r str {
    reply.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.to_str().unwrap()).unwrap_or_default()
}

/// `name=value` of each cookie set, as a browser sends them back.
fn cookies(reply: &Reply) -> String {
    let set = reply.headers.iter().filter(|(name, _)| name == SET_COOKIE).map(|(_, value)| value.to_str().unwrap());
    let pairs: Vec<&str> =
        set.filter(|cookie| !cookie.contains("Max-Age=0")).map(|cookie| cookie.split(';').next().unwrap()).collect();
    pairs.join("; ")
}

fn ask(plugin: &Arc<dyn Plugin>, path: &str, cookie: &str) -> (Exchange, Option<Reply>) {
    let mut exchange = Exchange::new("GET", path, &[("host", "app.test"), ("cookie", cookie)]);
    exchange.state.host = "app.test".into();
    let reply = exchange.run(plugin);
    (exchange, reply)
}

/// Asks for `path` without a session; gives the parameters of the way to the provider, and the cookie of the login.
fn sent_away(plugin: &Arc<dyn Plugin>, path: &str) -> (HashMap<String, String>, String) {
    let reply = ask(plugin, path, "").1.unwrap();
    assert_eq!(reply.status, 302);
    let location = reply_header(&reply, "location");
    let query = location.strip_prefix("http://idp.test/auth?").unwrap();
    (form_urlencoded::parse(query.as_bytes()).into_owned().collect(), cookies(&reply))
}

fn come_back(plugin: &Arc<dyn Plugin>, state: &str, nonce: &str, cookie: &str) -> Reply {
    let query =
        form_urlencoded::Serializer::new(String::new()).append_pair("state", state).append_pair("code", nonce).finish();
    ask(plugin, &format!("/oauth2/callback?{query}"), cookie).1.unwrap()
}

#[test]
fn a_user_logs_in_and_out() {
    let (host, _) = provider(json!({}));
    let plugin = built_with(&SPEC, &config(&json!({})), None, host.clone());
    let (to, login) = sent_away(&plugin, "/app?x=1");
    assert_eq!((to["client_id"].as_str(), to["scope"].as_str()), ("me", "openid email"));
    assert_eq!(to["redirect_uri"], "https://app.test/oauth2/callback");
    let reply = come_back(&plugin, &to["state"], &to["nonce"], &login);
    assert_eq!((reply.status, reply_header(&reply, "location")), (302, "/app?x=1"), "{reply:?}");
    let session = cookies(&reply);
    assert!(session.contains("_oauth2_proxy=2.") && session.contains("_oauth2_proxy_1="), "{session}");
    let attributes = reply_header(&reply, "set-cookie");
    assert!(attributes.ends_with("; Path=/; Max-Age=604800; HttpOnly; Secure"), "{attributes}");

    let calls = host.calls.lock();
    let redeemed: HashMap<String, String> = form_urlencoded::parse(&calls[1].body).into_owned().collect();
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, redeemed["code_verifier"].as_bytes()));
    assert_eq!((&to["code_challenge"], to["code_challenge_method"].as_str()), (&challenge, "S256"));
    assert_eq!(
        (redeemed["client_secret"].as_str(), redeemed["redirect_uri"].as_str()),
        ("hush", "https://app.test/oauth2/callback")
    );
    assert_eq!(calls[1].head.headers["host"], "idp.test");
    let service = crate::plugins::Destination::Service { host: "idp.static".into(), port: Some(80) };
    assert_eq!(
        (&calls[1].to, &calls[2].to),
        (&service, &crate::plugins::Destination::Url("http://keys.test/jwks".into()))
    );
    drop(calls);

    let (exchange, reply) = ask(&plugin, "/app", &session);
    assert!(reply.is_none());
    assert!(exchange.header("authorization").unwrap().starts_with("Bearer ey"));
    assert_eq!(exchange.header("x-forwarded-access-token"), Some("at-authorization_code"));

    let (_, reply) = ask(&plugin, "/oauth2/sign_out?rd=http%3A%2F%2Fidp.test%2Fbye%3Fa%3D1", &session);
    let reply = reply.unwrap();
    assert!(reply_header(&reply, "location").starts_with("http://idp.test/bye?a=1&id_token_hint=ey"));
    assert_eq!(cookies(&reply), "", "all parts of the session end");
    assert_eq!(reply.headers.iter().filter(|(name, _)| name == SET_COOKIE).count(), 2);
    let (_, reply) = ask(&plugin, "/oauth2/sign_out?rd=http%3A%2F%2Fevil.test", &session);
    assert_eq!(reply_header(&reply.unwrap(), "location"), "/");
}

#[test]
fn a_shorter_session_ends_the_parts_it_no_longer_has() {
    let (host, _) = provider(json!({}));
    let plugin = built_with(&SPEC, &config(&json!({})), None, host);
    let (to, login) = sent_away(&plugin, "/app");
    let old = "_oauth2_proxy=4.a; _oauth2_proxy_1=b; _oauth2_proxy_2=c; _oauth2_proxy_3=d";
    let reply = come_back(&plugin, &to["state"], &to["nonce"], &format!("{login}; {old}"));
    let set = reply.headers.iter().filter(|(name, _)| name == SET_COOKIE).map(|(_, value)| value.to_str().unwrap());
    let ended: Vec<&str> =
        set.filter(|set| set.contains("Max-Age=0")).filter_map(|set| set.split('=').next()).collect();
    assert_eq!(ended[..2], ["_oauth2_proxy_2", "_oauth2_proxy_3"], "{ended:?}");
    assert_eq!(ended.len(), 3, "and the login: {ended:?}");
}

#[test]
fn logins_that_are_not_ours_are_refused() {
    let (host, _) = provider(json!({}));
    let plugin = built_with(&SPEC, &config(&json!({})), None, host);
    let (to, login) = sent_away(&plugin, "/");
    let (other, _) = sent_away(&plugin, "/");
    let details = |state: &str, nonce: &str, cookie: &str| {
        let reply = come_back(&plugin, state, nonce, cookie);
        (reply.status, reply.details)
    };
    assert_eq!(details(&to["state"], &to["nonce"], ""), (403, "oidc.no_csrf_cookie".into()));
    assert_eq!(details(&to["state"], &to["nonce"], &login.replacen('=', "=A", 1)), (403, "oidc.no_csrf_cookie".into()));
    assert_eq!(details(&other["state"], &to["nonce"], &login), (403, "oidc.csrf_mismatch".into()));
    assert_eq!(details("none", &to["nonce"], &login), (403, "oidc.bad_state".into()));
    assert_eq!(details(&to["state"], &other["nonce"], &login), (500, "oidc.redeem_failed".into()));
    assert_eq!(details(&to["state"], "", &login), (500, "oidc.no_code".into()));
    // A login's cookie is no session.
    let as_session = login.replacen("_oauth2_proxy_csrf=", "_oauth2_proxy=1.", 1);
    assert_eq!(ask(&plugin, "/", &as_session).1.unwrap().status, 302);
    let (_, refused) = ask(&plugin, "/oauth2/callback?error=access_denied", &login);
    assert_eq!(refused.unwrap().body, "Error while parsing OAuth2 callback: access_denied");
    // Elsewhere than here, users are not sent.
    let state = to["state"].split(':').next().unwrap();
    let reply = come_back(&plugin, &format!("{state}://evil.test"), &to["nonce"], &login);
    assert_eq!((reply.status, reply_header(&reply, "location")), (302, "/"));
}

#[test]
fn tokens_must_be_for_us_and_current() {
    for changed in [
        json!({"iss": "http://other"}),
        json!({"aud": "you"}),
        json!({"exp": 1}),
        json!({"exp": null}),
        json!({"nonce": null}),
    ] {
        let (host, _) = provider(changed.clone());
        let plugin = built_with(&SPEC, &config(&json!({"cookie_csrf_per_request": true})), None, host);
        let (to, login) = sent_away(&plugin, "/");
        assert_eq!(come_back(&plugin, &to["state"], &to["nonce"], &login).details, "oidc.redeem_failed", "{changed}");
    }
}

#[tokio::test]
async fn one_renewal_serves_all_requests_of_a_session() {
    let renewals = super::renewals::Renewals::new();
    let n_asked = std::cell::Cell::new(0);
    let renew = async || {
        n_asked.set(n_asked.get() + 1);
        tokio::task::yield_now().await;
        let access_token = format!("at-{}", n_asked.get());
        Ok(Session { id_token: String::new(), access_token, refresh_token: None, created: 0 })
    };
    let (first, second) = tokio::join!(renewals.once("me", "r", renew), renewals.once("me", "r", renew));
    assert_eq!([first.unwrap().access_token, second.unwrap().access_token], ["at-1", "at-1"]);
    assert_eq!(renewals.once("me", "another", renew).await.unwrap().access_token, "at-2");
    // Failures, too, so that a provider that is slow to fail holds up nobody in turn.
    let fail = async || {
        n_asked.set(n_asked.get() + 1);
        Err("down".to_owned())
    };
    for _ in 0..2 {
        assert!(renewals.once("me", "third", fail).await.is_err());
    }
    assert_eq!(n_asked.get(), 3);
}

#[test]
fn sessions_are_renewed_in_time() {
    let (host, is_up) = provider(json!({}));
    let plugin = built_with(&SPEC, &config(&json!({"cookie_refresh": "1m"})), None, host);
    let id_token = |exp: i64| super::super::jwt::sign("JWT", &json!({"sub": "u1", "exp": exp}), b"x");
    let old = |exp: i64, refresh_token: &str| {
        let session = Session {
            id_token: id_token(exp),
            access_token: "old".into(),
            refresh_token: Some(refresh_token.into()),
            created: clock::now() - 90,
        };
        format!("_oauth2_proxy=1.{}", sealed("_oauth2_proxy", &session))
    };
    let (mut exchange, reply) = ask(&plugin, "/", &old(1, "first"));
    assert!(reply.is_none());
    assert_eq!(exchange.header("x-forwarded-access-token"), Some("at-refresh_token"));
    let answered = exchange.answered(&plugin, answer(200, &[("set-cookie", "own=1")], ""));
    assert!(answered.head.headers.get_all("set-cookie").iter().count() > 1, "the upstream's cookie stays");
    // Once the provider is known, it may be down for a while: a session goes on until its token ends.
    is_up.store(false, Ordering::SeqCst);
    assert_eq!(ask(&plugin, "/", &old(clock::now() + 60, "second")).0.header("x-forwarded-access-token"), Some("old"));
    assert_eq!(ask(&plugin, "/", &old(1, "third")).1.unwrap().status, 302);
}

#[test]
fn scripts_and_exceptions() {
    let (host, is_up) = provider(json!({}));
    let list = json!({"match_list": [{"match_rule_domain": "app.test", "match_rule_path": "/pub", "match_rule_type": "prefix"}]});
    let plugin = built_with(&SPEC, &config(&list), None, host);
    is_up.store(false, Ordering::SeqCst);
    assert!(ask(&plugin, "/public", "").1.is_none());
    let reply = ask(&plugin, "/x", "").1.unwrap();
    assert_eq!(
        (reply.status, reply.details.as_str(), reply.body.as_ref()),
        (503, "oidc.verifier_unavailable", &b"OIDC verifier is unavailable"[..])
    );
    let (host, _) = provider(json!({}));
    let plugin = built_with(&SPEC, &config(&json!({})), None, host);
    let mut script = Exchange::new("GET", "/x", &[("accept", "application/json, text/plain")]);
    let reply = script.run(&plugin).unwrap();
    assert_eq!((reply.status, reply.body.as_ref()), (401, &b"No valid authentication in request. Access Denied."[..]));
}

#[test]
fn redirects_stay_where_they_may() {
    let config = config(&json!({"whitelist_domains": ["a.com", "*.b.com:*", "c.com:81"]}));
    let scope = Scope { global: Some(&config), rule: None, n_rules: 0 };
    let config = Config::read(&scope).0.unwrap();
    for (url, expected) in [
        ("/", true),
        ("/x?u=http://y", true),
        ("//evil", false),
        ("/\\evil", false),
        ("/\tx", false),
        ("", false),
        ("javascript:x", false),
        ("https://a.com/x", true),
        ("https://a.com:81/", false),
        ("https://x.a.com/", false),
        ("http://y.b.com:9/", true),
        ("http://b.com/", true),
        ("http://xb.com/", false),
        ("http://c.com:81/", true),
        ("http://c.com/", false),
        ("ftp://a.com/", false),
    ] {
        assert_eq!(config.may_redirect(url), expected, "{url}");
    }
}

#[test]
fn cookies_are_set_as_configured() {
    let (host, _) = provider(json!({}));
    let own = json!({"cookie_name": "sid", "cookie_domains": ["test", "app.test"], "cookie_path": "/app", "cookie_expire": "2h",
        "cookie_httponly": false, "cookie_samesite": "lax", "cookie_csrf_expire": "3m"});
    let plugin = built_with(&SPEC, &config(&own), None, host);
    let attributes = |reply: &Reply| reply_header(reply, "set-cookie").split_once("; ").unwrap().1.to_owned();
    let reply = ask(&plugin, "/", "").1.unwrap();
    assert_eq!(attributes(&reply), "Path=/app; Domain=app.test; Max-Age=180; Secure; SameSite=Lax");
    let (to, login) = sent_away(&plugin, "/");
    assert!(login.starts_with("sid_csrf="), "{login}");
    let reply = come_back(&plugin, &to["state"], &to["nonce"], &login);
    assert_eq!(attributes(&reply), "Path=/app; Domain=app.test; Max-Age=7200; Secure; SameSite=Lax");
    let session = cookies(&reply);
    assert!(session.starts_with("sid=2.") && session.contains("; sid_1="), "{session}");
    assert!(ask(&plugin, "/", &session).1.is_none());
}

#[test]
fn sessions_and_logins_end_with_their_time() {
    let ago = clock::now() - 200;
    let session = Session { id_token: "t".into(), access_token: "at".into(), refresh_token: None, created: ago };
    let session = format!("_oauth2_proxy=1.{}", sealed("_oauth2_proxy", &session));
    let login = Login { state: "s".into(), nonce: "n".into(), verifier: "v".into(), created: ago };
    let login = format!("_oauth2_proxy_csrf={}", sealed("_oauth2_proxy_csrf", &login));
    for (times, is_live) in [
        (json!({}), true),
        (json!({"cookie_expire": "3m", "cookie_csrf_expire": "3m"}), false),
        (json!({"cookie_expire": "0", "cookie_csrf_expire": "0"}), true),
    ] {
        let plugin = built_with(&SPEC, &config(&times), None, provider(json!({})).0);
        assert_eq!(ask(&plugin, "/", &session).1.is_none(), is_live, "{times}");
        let expected = if is_live { "oidc.redirect" } else { "oidc.no_csrf_cookie" };
        assert_eq!(come_back(&plugin, "s:/x", "n", &login).details, expected, "{times}");
    }
    let plugin = built_with(&SPEC, &config(&json!({"cookie_csrf_expire": "0"})), None, provider(json!({})).0);
    let reply = ask(&plugin, "/", "").1.unwrap();
    assert!(reply_header(&reply, "set-cookie").ends_with("; Path=/; HttpOnly; Secure"), "ends with the browser");
}

#[test]
fn logins_at_once_need_cookies_of_their_own() {
    for (is_per_request, expected) in [(false, [403, 302]), (true, [302, 302])] {
        let more = json!({"cookie_csrf_per_request": is_per_request});
        let plugin = built_with(&SPEC, &config(&more), None, provider(json!({})).0);
        let (first, second) = (sent_away(&plugin, "/1"), sent_away(&plugin, "/2"));
        // A browser has one cookie of a name, the latest.
        let name = |login: &str| login.split('=').next().unwrap().to_owned();
        let kept = match name(&first.1) == name(&second.1) {
            true => second.1.clone(),
            false => format!("{}; {}", first.1, second.1),
        };
        let statuses = [first, second].map(|(to, _)| come_back(&plugin, &to["state"], &to["nonce"], &kept).status);
        assert_eq!(statuses, expected, "{more}");
    }
}

#[test]
fn paths_and_calls_are_those_of_the_configuration() {
    let (host, _) = provider(json!({}));
    let own = json!({"service_host": "inner.test", "proxy_prefix": "/sso", "redirect_url": "https://front.test/back",
        "oidc_verifier_request_timeout": 300, "redeem_timeout": 70, "pass_authorization_header": false});
    let plugin = built_with(&SPEC, &config(&own), None, host.clone());
    let (to, login) = sent_away(&plugin, "/oauth2/start?rd=/x");
    assert!(to["state"].ends_with(":/oauth2/start?rd=/x"), "a path of the application: {}", to["state"]);
    assert_eq!(to["redirect_uri"], "https://front.test/back");
    let (asked, _) = sent_away(&plugin, "/sso/start?rd=/x");
    assert!(asked["state"].ends_with(":/x"), "{}", asked["state"]);
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("state", &to["state"])
        .append_pair("code", &to["nonce"])
        .finish();
    let reply = ask(&plugin, &format!("/back?{query}"), &login).1.unwrap();
    let (exchange, none) = ask(&plugin, "/", &cookies(&reply));
    assert!(none.is_none() && exchange.header("authorization").is_none());
    let calls = host.calls.lock();
    let seen: Vec<_> = calls.iter().map(|call| (call.head.uri.path(), call.timeout.as_millis())).collect();
    assert_eq!(seen, [("/realm/.well-known/openid-configuration", 300), ("/token", 70), ("/jwks", 300)]);
    assert!(calls[..2].iter().all(|call| call.head.headers["host"] == "inner.test"));
    drop(calls);
    let prefix_only = built_with(&SPEC, &config(&json!({"proxy_prefix": "/sso/"})), None, host);
    assert_eq!(sent_away(&prefix_only, "/").0["redirect_uri"], "https://app.test/sso/callback");
}

#[test]
fn the_challenge_is_of_the_method_that_is_used() {
    assert!(problem_fields(&SPEC, &config(&json!({"code_challenge_method": "S256"}))).is_empty());
    assert_eq!(problem_fields(&SPEC, &config(&json!({"code_challenge_method": "plain"}))), ["code_challenge_method"]);
}

#[test]
fn problems_name_their_field() {
    let wrong = json!({"provider": "github", "oidc_issuer_url": "/x", "client_id": "a", "client_secret": [7], "cookie_secret": "short",
        "cookie_samesite": "odd", "cookie_expire": "soon", "service_name": "a.dns", "typo": 1});
    assert_eq!(
        problem_fields(&SPEC, &wrong),
        [
            "provider",
            "oidc_issuer_url",
            "client_secret",
            "service_port",
            "cookie_samesite",
            "cookie_expire",
            "cookie_secret",
            "typo"
        ]
    );
}
