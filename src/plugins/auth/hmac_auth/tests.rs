use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{Exchange, FakeHost, built, built_with, problem_fields};

fn config(date_offset: u64) -> Value {
    json!({"date_offset": date_offset, "consumers": [
        {"key": "appKey", "secret": "appSecret", "name": "one"}, {"key": "k2", "secret": "s2", "name": "two"}]})
}

fn signed(text: &str) -> String {
    STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"appSecret"), text.as_bytes()))
}

/// The refusal, or the consumer.
fn seen(plugin: &Arc<dyn Plugin>, exchange: &mut Exchange) -> Result<String, (u16, String)> {
    match exchange.run(plugin) {
        None => Ok(exchange.state.consumer.clone().unwrap_or_default()),
        Some(reply) => {
            assert_eq!(reply.body, reply.details.as_bytes());
            Err((reply.status, reply.details))
        }
    }
}

#[test]
fn a_signed_request_passes() {
    let text = "GET\napplication/json\n\n\nFri, 01 Jan 2021 00:00:00 GMT\nfoo:bar\nx-ca-key:appKey\n/http2test/test?a=1 2&param1=test+&q=";
    let signature = signed(text);
    let headers = [
        ("accept", "application/json"),
        ("date", "Fri, 01 Jan 2021 00:00:00 GMT"),
        ("foo", "bar"),
        ("x-ca-key", "appKey"),
        ("x-ca-signature-headers", "X-Ca-Key,Foo,Date,X-Ca-Signature"),
        ("x-ca-signature", signature.as_str()),
    ];
    let plugin = built(&SPEC, &config(0));
    let path = "/http2test/test?param1=test+&q&a=1%202&a=3";
    assert_eq!(seen(&plugin, &mut Exchange::new("GET", path, &headers)), Ok("one".into()));
    let late = built(&SPEC, &config(60));
    let refused = seen(&late, &mut Exchange::new("GET", path, &headers));
    assert_eq!(refused, Err((400, "Invalid Date".into())));
    let reply = Exchange::new("GET", "/other", &headers).run(&plugin).unwrap();
    assert_eq!((reply.status, reply.details.as_str()), (400, "Invalid Signature"));
    let (_, told) = reply.headers.iter().find(|(name, _)| name == ERROR_HEADER).unwrap();
    let expected =
        "Server StringToSign:`GET#application/json###Fri, 01 Jan 2021 00:00:00 GMT#foo:bar#x-ca-key:appKey#/other`";
    assert_eq!(told, expected);
}

#[test]
fn timestamps_count_in_their_own_unit() {
    let plugin = built(&SPEC, &config(60));
    for (stamp, is_right) in [
        (clock::now().to_string(), true),
        ((clock::now() * 1000).to_string(), true),
        ((clock::now() - 120).to_string(), false),
        ("soon".to_owned(), false),
    ] {
        let signature = signed(&format!("GET\n\n\n\n\nx-ca-timestamp:{stamp}\n/"));
        let headers = [
            ("x-ca-key", "appKey"),
            ("x-ca-timestamp", stamp.as_str()),
            ("x-ca-signature-headers", "x-ca-timestamp"),
            ("x-ca-signature", signature.as_str()),
        ];
        let seen = seen(&plugin, &mut Exchange::new("GET", "/", &headers));
        assert_eq!(seen.is_ok(), is_right, "{stamp}: {seen:?}");
    }
}

#[test]
fn form_and_digest_are_checked_with_the_body() {
    let plugin = built(&SPEC, &config(0));
    let body = "b=2&a=1";
    let md5 = STANDARD.encode(Md5::digest(body));
    let signature = signed(&format!("POST\n\n{md5}\napplication/x-www-form-urlencoded\n\n/?a=1&b=2"));
    let headers = [
        ("x-ca-key", "appKey"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-md5", md5.as_str()),
        ("x-ca-signature", signature.as_str()),
    ];
    let exchange = || Exchange::new("POST", "/", &headers);
    assert_eq!(seen(&plugin, &mut exchange().with_body(body)), Ok("one".into()));
    let invalid_md5 = Err((400, "Invalid Content-MD5".to_owned()));
    assert_eq!(seen(&plugin, &mut exchange().with_body("b=2&a=2")), invalid_md5);
    assert_eq!(seen(&plugin, &mut exchange()), invalid_md5, "the body was cut off");
    let unsigned = [headers[0], headers[1], headers[3]];
    let refused = seen(&plugin, &mut Exchange::new("POST", "/", &unsigned).with_body(body));
    assert_eq!(refused, Err((400, "Invalid Signature".into())));
}

#[test]
fn keys_and_consumers_are_refused() {
    let rule = json!({"allow": ["two"]});
    let plugin = built_with(&SPEC, &config(0), Some(&rule), FakeHost::silent());
    for (headers, status, text) in [
        (&[][..], 401, "Invalid Key"),
        (&[("x-ca-key", "nope")], 401, "Invalid Key"),
        (&[("x-ca-key", "appKey")], 403, "Unauthorized Consumer"),
        (&[("x-ca-key", "k2")], 401, "Empty Signature"),
    ] {
        assert_eq!(seen(&plugin, &mut Exchange::new("GET", "/", headers)), Err((status, text.to_owned())));
    }
    let wrong = json!({"consumers": [{"key": "a", "secret": true}], "date_offset": "x"});
    assert_eq!(problem_fields(&SPEC, &wrong), ["date_offset", "consumers[0].name", "consumers[0].secret"]);
    let twice =
        json!({"consumers": [{"name": "a", "key": "k", "secret": "s"}, {"name": "b", "key": "k", "secret": "t"}]});
    assert_eq!(problem_fields(&SPEC, &twice), ["consumers[1].key"]);
}

#[test]
fn credentials_need_no_consumer_and_clients_choose_the_method() {
    let plugin = built(&SPEC, &json!({"credentials": [{"key": "appKey", "secret": "appSecret"}]}));
    let (sha1, sha256) = (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA256);
    for (method, algorithm, is_right) in [
        (None, sha256, true),
        (None, sha1, false),
        (Some("HmacSHA256"), sha256, true),
        (Some("HmacSHA1"), sha1, true),
        (Some("HmacSHA1"), sha256, false),
    ] {
        let signature = STANDARD.encode(hmac::sign(&hmac::Key::new(algorithm, b"appSecret"), b"GET\n\n\n\n\n/"));
        let mut headers = vec![("x-ca-key", "appKey"), ("x-ca-signature", signature.as_str())];
        headers.extend(method.map(|method| ("x-ca-signature-method", method)));
        let expected = if is_right { Ok(String::new()) } else { Err((400, "Invalid Signature".to_owned())) };
        assert_eq!(seen(&plugin, &mut Exchange::new("GET", "/", &headers)), expected, "{method:?} {algorithm:?}");
    }
}
