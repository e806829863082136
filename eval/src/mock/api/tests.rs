//! The mock's HTTP face, over a real socket on port 0.

use super::*;
use crate::mock::questions::Question;
use crate::mock::world::World;
use crate::test_support::{post_json, serve_router};

fn service() -> Arc<Service> {
    let question = Question { id: "q1".into(), question: "1+1=?".into(), domain: "math".into() };
    Arc::new(Service::new(Arc::new(World::load(None).unwrap()), vec![question], 0.0).unwrap())
}

fn chat_body(model: &str, extra: &Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "1+1=?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_completion_has_openai_shape_and_can_be_evaluated() {
    let server = serve_router(router(service())).await;
    let (status, body) = post_json(&server.url("/v1/chat/completions"), &chat_body("qwen-math-7b", &json!({}))).await;
    let completion: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert!(completion["id"].as_str().unwrap().starts_with("mock-"));
    assert_eq!((&completion["object"], &completion["model"]), (&json!("chat.completion"), &json!("qwen-math-7b")));
    assert_eq!(completion["choices"][0]["finish_reason"], "stop");
    let usage = &completion["usage"];
    let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);
    let answer = &completion["choices"][0]["message"]["content"];
    let evaluate = |question: &str, answer: &Value| json!({"question": question, "answer": answer});
    let (status, body) = post_json(&server.url("/v1/evaluate"), &evaluate("1+1=?", answer)).await;
    let score = serde_json::from_str::<Value>(&body).unwrap()["score"].as_f64().unwrap();
    assert!(status == 200 && (0.0..=1.0).contains(&score));
    let (_, body) = post_json(&server.url("/v1/evaluate"), &evaluate("else?", answer)).await;
    assert_eq!(body, r#"{"score":-1.0}"#);
}

#[tokio::test]
async fn a_stream_carries_the_same_answer_and_ends_with_done() {
    let server = serve_router(router(service())).await;
    let url = server.url("/v1/chat/completions");
    let (_, plain) = post_json(&url, &chat_body("qwen-max", &json!({}))).await;
    let extra = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (status, body) = post_json(&url, &chat_body("qwen-max", &extra)).await;
    assert_eq!(status, 200);
    assert!(body.ends_with("data: [DONE]\n\n"));
    let chunks: Vec<Value> =
        body.split("\n\n").filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok()).collect();
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    let plain: Value = serde_json::from_str(&plain).unwrap();
    assert_eq!(plain["choices"][0]["message"]["content"], text);
    assert_eq!(chunks.last().unwrap()["usage"], plain["usage"]);
}

#[tokio::test]
async fn content_parts_count_as_the_question() {
    let service = service();
    let server = serve_router(router(service.clone())).await;
    let messages = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "1+1=?"}]},
    ]);
    post_json(&server.url("/v1/chat/completions"), &json!({"model": "qwen-max", "messages": messages})).await;
    assert_eq!(service.stats().unknown_questions, 0);
}

#[tokio::test]
async fn errors_have_openai_shape() {
    let server = serve_router(router(service())).await;
    let check = async |path: &str, body: Value, status: u16, part: &str| {
        let (got, body) = post_json(&server.url(path), &body).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(got, status, "{body}");
        assert!(error["error"]["message"].as_str().unwrap().contains(part), "{body}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
        error["error"]["code"].clone()
    };
    let chat = "/v1/chat/completions";
    assert_eq!(check(chat, chat_body("gpt-9", &json!({})), 404, "`gpt-9` does not exist").await, "model_not_found");
    check(chat, json!({"model": "qwen-max", "messages": []}), 400, "messages must hold a user message").await;
    check(chat, json!({"model": "qwen-max", "messages": "hi"}), 400, "could not parse").await;
    check(chat, json!([]), 400, "could not parse").await;
    check("/v1/evaluate", json!({"question": "1+1=?"}), 400, "answer").await;
}
