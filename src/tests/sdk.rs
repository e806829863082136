//! The OpenAI Python SDK and curl as clients. `make test` installs the SDK into `.venv`; without it this test fails and says so.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::*;

/// The events of a tool call: its name first, then its arguments in two pieces.
fn tool_events(model: &str) -> Vec<String> {
    let named =
        json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}});
    let piece = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let chunk = |delta: &Value, finish: Option<&str>| {
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    };
    vec![
        chunk(&json!({"role": "assistant", "content": null, "tool_calls": [named]}), None),
        chunk(&piece("{\"city\":"), None),
        chunk(&piece("\"Oslo\"}"), None),
        chunk(&json!({}), Some("tool_calls")),
        "data: [DONE]\n\n".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_sdk_works_against_the_gateway() {
    let upstream = Upstream::start(|_, seen| async move {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let model = asked["model"].as_str().unwrap_or("none").to_owned();
        if seen.path.ends_with("/embeddings") {
            return ok(&json!({"object": "list", "model": model, "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
                "usage": {"prompt_tokens": 1, "total_tokens": 1}}));
        }
        if asked["tools"].is_array() && asked["stream"] == true {
            return sse(&tool_events(&model));
        }
        if asked["tools"].is_array() {
            let mut answer = completion(&model, "");
            answer["choices"][0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}}]});
            answer["choices"][0]["finish_reason"] = json!("tool_calls");
            return ok(&answer);
        }
        if asked["stream"] == true { sse(&events(&model, &["hel", "lo"])) } else { ok(&completion(&model, "hello")) }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let keys = json!({"global_auth": true, "keys": ["Authorization"], "consumers": [{"name": "sdk", "credential": "Bearer sk-test"}]});
    folder.plugin("key-auth", &keys, &json!([]));
    let config = json!({"candidates": [{"model": "a"}, {"model": "b"}], "baseline": "a"});
    folder.plugin("semantic-router", &config, &json!([]));
    let gateway = Gateway::start(folder);
    run_script("openai_sdk.py", &[format!("http://{}/v1", gateway.http)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_streams_and_uploads() {
    let upstream = Upstream::start(|_, seen| async move {
        if seen.body.len() > 1000 { ok(&json!({"n": seen.body.len()})) } else { sse(&events("m", &["hel", "lo"])) }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let gateway = Gateway::start(folder);
    let url = format!("http://{}/v1/chat/completions", gateway.http);
    let curl = |args: &[&str]| {
        let output = Command::new("curl")
            .args(["-sN", "--max-time", "30", "-H", "content-type: application/json"])
            .args(args)
            .arg(&url)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        curl(&["-d", r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#]),
        events("m", &["hel", "lo"]).concat()
    );
    let file = gateway.folder.dir.path().join("prompt.json");
    std::fs::write(&file, question("m", &"x".repeat(1 << 20)).to_string()).unwrap();
    let data = format!("@{}", file.display());
    let n = std::fs::metadata(&file).unwrap().len();
    // Above 1 MiB curl asks "Expect: 100-continue" first.
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(curl(&[version, "--data-binary", &data]), format!("{{\"n\":{n}}}"), "{version}");
    }
}
