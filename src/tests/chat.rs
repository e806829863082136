//! Chat requests that are answered in one piece: passing through, errors, retries, limits.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;

async fn one_provider(upstream: &Upstream, provider: &Value) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", provider);
    Gateway::start(folder)
}

#[tokio::test]
async fn a_completion_passes_byte_for_byte() {
    let upstream = Upstream::chat().await;
    let gateway = one_provider(&upstream, &json!({})).await;
    let body = r#"{ "model" : "m",  "messages":[{"role":"user","content":"hi"}], "x_future": [1, 2.50] }"#;
    let answer = gateway.post("/v1/chat/completions", &[("authorization", "Bearer client-key")], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), completion("m", "hello").to_string(), "the answer's bytes are the provider's");
    let seen = upstream.last();
    assert_eq!(seen.body, body, "the request's bytes are the client's");
    assert_eq!(seen.headers["authorization"], "Bearer sk-provider", "the provider gets its own credential");
    assert_eq!(upstream.n_calls(), 1);
}

#[tokio::test]
async fn model_names_are_mapped_and_nothing_else_changes() {
    let upstream = Upstream::chat().await;
    let gateway = one_provider(&upstream, &json!({"modelMapping": {"gpt-*": "qwen-max"}})).await;
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"tools":[{"x":1}]}"#;
    assert_eq!(gateway.post("/v1/chat/completions", &[], body).await.status, 200);
    assert_eq!(upstream.last().body, body.replace("gpt-4o", "qwen-max"));
}

#[tokio::test]
async fn what_no_provider_could_read_is_refused_with_the_reason() {
    let upstream = Upstream::chat().await;
    let gateway = one_provider(&upstream, &json!({})).await;
    for (body, code) in [
        (&b"{\"model\":\"m\",\"messages\":["[..], "invalid_json"),
        (b"", "invalid_json"),
        (b"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "invalid_utf8"),
        (b"[1]", "invalid_type"),
        (b"{\"model\":1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "invalid_type"),
        (b"{\"model\":\"m\",\"messages\":\"x\"}", "invalid_type"),
        (b"{\"model\":\"m\",\"messages\":[]}", "empty_messages"),
        (b"{\"model\":\"m\"}", "missing_messages"),
    ] {
        let answer = gateway.post("/v1/chat/completions", &[], Bytes::from_static(body)).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (400, code), "{}", answer.text());
    }
    let packed = gateway.post("/v1/chat/completions", &[("content-encoding", "gzip")], &b"\x1f\x8b\x08"[..]).await;
    assert_eq!((packed.status, packed.error_code().as_str()), (415, "unsupported_content_encoding"));
    assert!(packed.text().contains("`gzip`"), "{}", packed.text());
    assert_eq!(upstream.n_calls(), 0);
    // What the provider may know better is its business.
    for body in [
        json!({"model": "m", "messages": [{"role": "critic", "content": "x"}]}),
        json!({"messages": [{"role": "user", "content": "x"}]}),
    ] {
        assert_eq!(gateway.chat(&body).await.status, 200);
        assert_eq!(upstream.last().json(), body);
    }
}

#[tokio::test]
async fn unknown_v1_paths_reach_the_provider_of_the_route() {
    let upstream =
        Upstream::start(|_, seen| async move { ok(&json!({"path": seen.path, "method": seen.method})) }).await;
    let gateway = one_provider(&upstream, &json!({})).await;
    assert_eq!(gateway.get("/v1/models").await.json()["path"], "/v1/models");
    assert_eq!(gateway.get("/v1/files/abc/content?x=1").await.json()["path"], "/v1/files/abc/content?x=1");
    assert_eq!(upstream.last().headers["authorization"], "Bearer sk-provider");
}

#[tokio::test]
async fn large_prompts_arrive_whole_over_every_protocol() {
    let upstream =
        Upstream::start(
            |_, seen| async move { ok(&json!({"n": seen.body.len(), "tail": seen.body[seen.body.len() - 1]})) },
        )
        .await;
    let gateway = one_provider(&upstream, &json!({})).await;
    // Around pingora's replay limit of 64 KiB, and a long prompt.
    for size in [65_535, 65_536, 65_537, 1 << 20] {
        let frame = question("m", "").to_string();
        let body = question("m", &"x".repeat(size - frame.len())).to_string();
        assert_eq!(body.len(), size);
        let json = [("content-type", "application/json")];
        let by_length = gateway.post("/v1/chat/completions", &[], body.clone()).await;
        assert_eq!(by_length.json()["n"], size, "content-length");
        let h2 = send_h2c(gateway.http, "POST", "/v1/chat/completions", &json, body.clone().into()).await;
        assert_eq!(h2.json()["n"], size, "HTTP/2");
        let chunked = raw(&gateway, &chunked_request(&gateway, body.as_bytes(), 7001)).await;
        assert!(chunked.contains(&format!("\"n\":{size}")), "chunked: {chunked}");
    }
}

/// A request whose body is sent in chunks.
fn chunked_request(gateway: &Gateway, body: &[u8], chunk: usize) -> Vec<u8> {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        gateway.http
    );
    let mut request = head.into_bytes();
    for piece in body.chunks(chunk) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

/// Sends bytes and reads to the end of the connection.
async fn raw(gateway: &Gateway, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_whether_announced_or_not() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let gateway = Gateway::start_with(folder, "[limits]\nmax_body_bytes = 10000\n");
    let body = question("m", &"x".repeat(20_000)).to_string();
    let announced = gateway.post("/v1/chat/completions", &[], body.clone()).await;
    assert_eq!((announced.status, announced.error_code().as_str()), (413, "body_too_large"));
    let streamed = raw(&gateway, &chunked_request(&gateway, body.as_bytes(), 4000)).await;
    assert!(streamed.starts_with("HTTP/1.1 413"), "{streamed}");
    assert_eq!(upstream.n_calls(), 0);
}

#[tokio::test]
async fn the_gateway_answers_expect_continue() {
    let upstream = Upstream::chat().await;
    let gateway = one_provider(&upstream, &json!({})).await;
    let body = question("m", "hi").to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = raw(&gateway, &[head.as_bytes(), body.as_bytes()].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn retries_follow_the_provider_and_use_another_token() {
    let upstream = Upstream::start(|n, seen| async move {
        match n {
            0 => answer(429, "application/json", r#"{"error":{"message":"slow down"}}"#),
            1 => answer(500, "application/json", r#"{"error":{"message":"oops"}}"#),
            _ => ok(&completion("m", &seen.headers["authorization"])),
        }
    })
    .await;
    let provider = json!({"apiTokens": ["t1", "t2", "t3"], "retryOnFailure": {"enabled": true, "maxRetries": 3}});
    let gateway = one_provider(&upstream, &provider).await;
    let answer = gateway.chat(&question("m", "hi")).await;
    assert_eq!((answer.status, upstream.n_calls()), (200, 3), "{}", answer.text());
}

#[tokio::test]
async fn a_provider_that_breaks_off_is_asked_again_as_one_that_fails() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = listener.local_addr().unwrap();
    tokio::task::spawn(async move {
        for n in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            if n == 2 {
                let body = completion("m", "hello").to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        }
    });
    let folder = Folder::new();
    folder.services(&[("llm", provider)]).route("chat", "/", "llm.static");
    let tokens = json!({"apiTokens": ["t1", "t2", "t3"], "retryOnFailure": {"enabled": true, "maxRetries": 2}});
    folder.provider("llm.static", &tokens);
    let gateway = Gateway::start(folder);
    let answer = gateway.chat(&question("m", "hi")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Regression: a retry is for another token; with none left the provider was asked again with one that had failed.
#[tokio::test]
async fn no_token_is_tried_twice_and_the_providers_own_answer_is_passed_on() {
    let upstream = Upstream::start(|_, _| async { answer(401, "application/json", r#"{"error":"bad key"}"#) }).await;
    let provider = json!({"apiTokens": ["bad", "worse"],
        "retryOnFailure": {"enabled": true, "maxRetries": 5, "retryOnStatus": ["401"]}});
    let gateway = one_provider(&upstream, &provider).await;
    let answer = gateway.chat(&question("m", "hi")).await;
    assert_eq!((answer.status, answer.text().as_str(), upstream.n_calls()), (401, r#"{"error":"bad key"}"#, 2));
}

#[tokio::test]
async fn a_token_that_fails_leaves_the_pool_and_a_probe_brings_it_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let is_revoked = Arc::new(AtomicBool::new(true));
    let revoked = is_revoked.clone();
    let upstream = Upstream::start(move |_, seen| {
        let revoked = revoked.clone();
        async move {
            if seen.headers["authorization"] == "Bearer bad" && revoked.load(Ordering::SeqCst) {
                return answer(401, "application/json", "{}");
            }
            ok(&completion("m", &seen.headers["authorization"]))
        }
    })
    .await;
    let failover = json!({"enabled": true, "failureThreshold": 1, "healthCheckModel": "m", "healthCheckInterval": 100});
    let gateway = one_provider(&upstream, &json!({"apiTokens": ["good", "bad"], "failover": failover})).await;
    let used = || async { gateway.chat(&question("m", "hi")).await };
    eventually_async("the bad token to be used once", || async { (used().await.status == 401).then_some(()) }).await;
    for _ in 0..20 {
        assert_eq!(used().await.status, 200, "the failed token is out of the pool");
    }
    is_revoked.store(false, Ordering::SeqCst);
    eventually_async("the token to come back", || async { used().await.text().contains("Bearer bad").then_some(()) })
        .await;
}

#[tokio::test]
async fn the_last_error_of_the_provider_is_passed_on_as_it_came() {
    let body = r#"{"error":{"message":"no such model","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#;
    let upstream = Upstream::start(move |_, _| async move { answer(404, "application/json", body) }).await;
    let gateway = one_provider(&upstream, &json!({})).await;
    let answer = gateway.chat(&question("zzz", "hi")).await;
    assert_eq!((answer.status, answer.text().as_str(), upstream.n_calls()), (404, body, 1));
}

#[tokio::test]
async fn unreachable_providers_are_named() {
    let folder = Folder::new();
    let nobody = Nobody::new();
    folder.services(&[("llm", nobody.address)]).route("chat", "/v1", "llm.static").provider("llm.static", &json!({}));
    folder.route("missing", "/other", "nowhere.static");
    let gateway = Gateway::start(folder);
    let refused = gateway.chat(&question("m", "hi")).await;
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "upstream_unreachable"));
    assert!(refused.text().contains("llm.static"), "{}", refused.text());
    let unknown = gateway.get("/other").await;
    assert_eq!((unknown.status, unknown.error_code().as_str()), (503, "no_upstream"));
    let unrouted = gateway.get("/nothing").await;
    assert_eq!((unrouted.status, unrouted.error_code().as_str()), (404, "no_route"));
}

#[tokio::test]
async fn bad_requests_get_openai_errors_from_the_router() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    folder.plugin("semantic-router", &json!({"candidates": [{"model": "a"}], "baseline": "a"}), &json!([]));
    let gateway = Gateway::start(folder);
    for (body, code) in [
        (&b"{\"model\":"[..], "invalid_json"),
        (b"[]", "invalid_type"),
        (b"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "missing_model"),
        (b"{\"model\":\"auto\"}", "missing_messages"),
        (b"{\"model\":\"auto\",\"messages\":[]}", "empty_messages"),
        (b"{\"model\":\"auto\",\"messages\":\"hi\"}", "invalid_type"),
        (b"{\"model\":7,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "invalid_type"),
        (
            b"{\"model\":\"auto\",\"stream\":\"yes\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            "invalid_type",
        ),
        (b"{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "invalid_utf8"),
    ] {
        let answer = gateway.post("/v1/chat/completions", &[], Bytes::from_static(body)).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (400, code), "{}", String::from_utf8_lossy(body));
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|message| message.len() > 20));
    }
    assert_eq!(upstream.n_calls(), 0);
}

#[tokio::test]
async fn keys_are_checked_and_identity_headers_cannot_be_claimed() {
    let upstream = Upstream::start(|_, seen| async move {
        ok(&json!({"consumer": seen.headers.get("x-mse-consumer"), "xff": seen.headers.get("x-forwarded-for")}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("web", "/", "web.static");
    let config =
        json!({"global_auth": true, "keys": ["x-api-key"], "consumers": [{"name": "alice", "credential": "k"}]});
    folder.plugin("key-auth", &config, &json!([]));
    let gateway = Gateway::start(folder);
    let claimed = send(gateway.http, "GET", "/", &[("x-mse-consumer", "root")], Bytes::new()).await;
    assert_eq!((claimed.status, claimed.text().as_str()), (401, ""));
    assert_eq!(claimed.header("www-authenticate"), Some("Key realm=MSE Gateway"));
    let allowed = send(gateway.http, "GET", "/", &[("x-api-key", "k"), ("x-mse-consumer", "root")], Bytes::new()).await;
    assert_eq!(allowed.json(), json!({"consumer": "alice", "xff": "127.0.0.1"}));
    let log = gateway.access_log(2);
    assert_eq!((&log[0]["response_code"], &log[1]["consumer"]), (&json!(401), &json!("alice")));
}

#[tokio::test]
async fn a_key_in_the_query_reaches_neither_the_provider_nor_the_access_log() {
    let upstream = Upstream::start(|_, seen| async move { ok(&json!({"path": seen.path})) }).await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let config = json!({"global_auth": true, "keys": ["apikey"], "consumers": [{"name": "alice", "credential": "k1"}]});
    folder.plugin("key-auth", &config, &json!([]));
    let gateway = Gateway::start(folder);
    let answer = gateway.get("/v1/files?a=b&apikey=k1").await;
    assert_eq!(answer.json()["path"], "/v1/files?a=b");
    assert_eq!(gateway.access_log(1)[0]["path"], "/v1/files?a=b");
}

#[tokio::test]
async fn heads_over_the_limit_are_refused() {
    let folder = Folder::new();
    folder.route("web", "/", "nowhere.static");
    let gateway = Gateway::start_with(folder, "[limits]\nmax_header_bytes = 2000\n");
    let long = "x".repeat(3000);
    let answer = send(gateway.http, "GET", "/", &[("x-long", &long)], Bytes::new()).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (431, "headers_too_large"));
}

#[tokio::test]
async fn plain_routes_stream_through_with_their_trace() {
    let upstream = Upstream::start(|_, seen| async move {
        ok(&json!({"n": seen.body.len(), "traceparent": seen.headers["traceparent"], "path": seen.path}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route_with(
        "web",
        "/old",
        "web.static",
        &json!({"higress.io/rewrite-path": "/new"}),
    );
    let gateway = Gateway::start(folder);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = vec![b'x'; 3 << 20];
    let answer = send(gateway.http, "POST", "/old/a?b=c", &[("traceparent", trace)], body.into()).await.json();
    assert_eq!((&answer["n"], &answer["path"]), (&json!(3 << 20), &json!("/new/a?b=c")));
    let sent = answer["traceparent"].as_str().unwrap();
    assert!(sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent != trace, "{sent}");
    assert_eq!(gateway.access_log(1)[0]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn a_slow_provider_is_given_up_after_the_route_timeout() {
    let upstream = Upstream::start(|_, _| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        ok(&json!({}))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]);
    let once = json!({"higress.io/timeout": "1", "higress.io/proxy-next-upstream": "off"});
    folder.route_with("chat", "/", "llm.static", &once).provider("llm.static", &json!({}));
    let gateway = Gateway::start(folder);
    let answer = gateway.chat(&question("m", "hi")).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (504, "upstream_timeout"));
}

/// Higress' own first template: statistics and a provider, no router of ours. The provider was not asked for the usage of streams.
#[tokio::test]
async fn a_stream_is_one_to_statistics_and_provider_alike() {
    let upstream = Upstream::start(|_, seen| async move {
        assert_eq!(seen.json()["stream_options"], json!({"include_usage": true}));
        sse(&events("m", &["hel", "lo"]))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    folder.plugin("ai-statistics", &json!({"use_default_attributes": true}), &json!([]));
    let gateway = Gateway::start(folder);
    let mut body = question("m", "how are you?");
    body["stream"] = json!(true);
    assert_eq!(gateway.chat(&body).await.status, 200);
    assert_eq!(gateway.access_log(1)[0]["ai_log"]["response_type"], "stream");
    assert_eq!(upstream.n_calls(), 1);
}

#[tokio::test]
async fn ai_statistics_fill_the_access_log_and_the_metrics() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    folder.plugin("ai-statistics", &json!({"use_default_attributes": true}), &json!([]));
    let gateway = Gateway::start(folder);
    gateway.chat(&question("m", "how are you?")).await;
    let log = &gateway.access_log(1)[0]["ai_log"];
    assert_eq!(log["question"], "how are you?");
    assert_eq!(log["messages"], r#"[{"role":"user","content":"how are you?"}]"#);
    assert_eq!(log["answer"], "hello");
    assert_eq!((&log["input_token"], &log["output_token"], &log["total_token"]), (&json!(10), &json!(2), &json!(12)));
    assert_eq!(
        (&log["model"], &log["response_type"], &log["chat_id"]),
        (&json!("m"), &json!("normal"), &json!("chatcmpl-1"))
    );
    let metrics = gateway.metrics().await;
    let line = "route_upstream_model_consumer_metric_total_token{ai_route=\"chat\",ai_cluster=\"llm.static\",ai_model=\"m\",ai_consumer=\"none\"} 12";
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
}

/// As the documents of Higress have them: no source, and an answer that is no stream.
#[tokio::test]
async fn ai_statistics_know_their_own_attributes_without_a_source() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let attributes = json!([{"key": "question"}, {"key": "answer"}, {"key": "tool_calls", "default_value": "none"},
        {"key": "reasoning"}, {"key": "reasoning_tokens"}, {"key": "input_token_details"}]);
    folder.plugin("ai-statistics", &json!({"attributes": attributes}), &json!([]));
    let gateway = Gateway::start(folder);
    gateway.chat(&question("m", "how are you?")).await;
    let log = &gateway.access_log(1)[0]["ai_log"];
    let told = ["question", "answer", "tool_calls"].map(|key| log[key].as_str().unwrap_or_default());
    assert_eq!(told, ["how are you?", "hello", "none"], "{log}");
    assert!(log.get("reasoning").is_none() && log.get("messages").is_none(), "{log}");
}
