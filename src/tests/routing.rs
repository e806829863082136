//! Learning end to end: collect in training mode, train, promote, roll back. Swapping under load is in `hot_swap`, training that
//! nobody asks for in `retraining`.

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;

/// What a provider of two models says, and the evaluator of their answers: `digits` is right about questions with numbers, `words`
/// about the others. The gateway is never told.
pub fn reply(seen: &Seen) -> Response {
    let asked = seen.json();
    if seen.path.ends_with("/v1/evaluate") {
        let is_about_digits = asked["question"].as_str().unwrap().contains(|c: char| c.is_ascii_digit());
        let is_right = asked["answer"] == if is_about_digits { "from digits" } else { "from words" };
        return ok(&json!({"score": if is_right { 0.9 } else { 0.1 }}));
    }
    let model = asked["model"].as_str().unwrap().to_owned();
    let text = format!("from {model}");
    if asked["stream"] == true { sse(&events(&model, &[&text])) } else { ok(&completion(&model, &text)) }
}

pub async fn world() -> Upstream {
    Upstream::start(|_, seen| async move { reply(&seen) }).await
}

/// A router that chooses between the two models of the world, for the consumers `lab` and `app`.
pub fn folder(world: &Upstream, training: &Value) -> Folder {
    let folder = Folder::new();
    folder.services(&[("llm", world.address)]).route("chat", "/", "llm.static");
    let keys = json!({"global_auth": true, "keys": ["x-key"],
        "consumers": [{"name": "lab", "credential": "lab"}, {"name": "app", "credential": "app"}]});
    folder.plugin("key-auth", &keys, &json!([]));
    let config = json!({
        "candidates": [{"model": "digits"}, {"model": "words"}], "baseline": "digits", "training": training,
        "weights": {"cost": 0, "latency": 0}, "evaluate": {"url": format!("http://{}/v1/evaluate", world.address)},
    });
    folder.plugin("semantic-router", &config, &json!([]));
    folder
}

async fn start(world: &Upstream, training: &Value) -> Gateway {
    Gateway::start(folder(world, training))
}

/// Question number `n`; no two are alike.
pub fn about(n: usize) -> String {
    let word = |n: usize| WORDS[n % WORDS.len()];
    if n.is_multiple_of(2) {
        format!("what is {n} times {} plus {}", n * 7 + 3, n + 11)
    } else {
        format!("tell me about {}and {}and {}", word(n), word(n / WORDS.len()), word(n / WORDS.len() / WORDS.len() + 5))
    }
}

const WORDS: [&str; 11] = [
    "rivers ",
    "old songs ",
    "the moon ",
    "bread ",
    "kindness ",
    "trains ",
    "winter ",
    "cats ",
    "gardens ",
    "the sea ",
    "letters ",
];

async fn ask(gateway: &Gateway, text: &str, key: &str, training: bool) -> Answer {
    let mut headers = vec![("x-key", key)];
    if training {
        headers.push(("x-training-mode", "true"));
    }
    gateway.post("/v1/chat/completions", &headers, question("auto", text).to_string()).await
}

/// Asks the first `n` questions in training mode.
pub async fn collect(gateway: &Gateway, n: usize) {
    for i in 0..n {
        let answer = ask(gateway, &about(i), "lab", true).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let best = if i % 2 == 0 { "digits" } else { "words" };
        assert_eq!(answer.header("x-weirgate-model"), Some(best), "training mode answers with the best: {}", about(i));
    }
}

/// The version that decides now; `None` while the record of the question that tells it is on its way.
pub async fn decided_by(gateway: &Gateway) -> Option<i64> {
    let answer = ask(gateway, "what is 5 plus 7", "app", false).await;
    let id = answer.header("x-weirgate-decision-id").unwrap();
    let (_, out, _) = gateway.cli(&["flywheel", "export", "-"]);
    let row = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|row| row["id"] == id);
    row.and_then(|row| row["decision"]["router_version"].as_i64())
}

#[tokio::test]
async fn the_router_learns_who_is_right() {
    let world = world().await;
    let gateway = start(&world, &json!({"consumers": ["lab"]})).await;
    collect(&gateway, 300).await;
    let trained = gateway.admin("POST", "/api/v1/routers/default/train").await.json();
    assert_eq!(trained["promoted"], true, "{trained}");

    let mut n_right = 0;
    for i in 1000..1040 {
        let answer = ask(&gateway, &about(i), "app", false).await;
        n_right += usize::from(answer.header("x-weirgate-model") == Some(if i % 2 == 0 { "digits" } else { "words" }));
    }
    assert!(n_right >= 38, "{n_right} of 40");

    let metrics = gateway.metrics().await;
    for name in [
        "semantic_router_requests_total{model=\"digits\"}",
        "semantic_router_response_time_histogram_count{model=\"words\"}",
        "semantic_router_accuracy_score{model=\"all\"}",
    ] {
        assert!(metrics.contains(name), "{name} missing");
    }
    let (_, out, _) = gateway.cli(&["router", "list", "--json"]);
    let versions: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(versions[0]["state"], "serving");
}

#[tokio::test]
async fn a_second_version_is_promoted_and_rolled_back_from_the_command_line() {
    let world = world().await;
    let gateway = start(&world, &json!({"consumers": ["lab"]})).await;
    collect(&gateway, 120).await;
    let first =
        gateway.admin("POST", "/api/v1/routers/default/train?force=true").await.json()["version"].as_i64().unwrap();
    let (code, out, err) = gateway.cli(&["router", "train", "--json", "--force"]);
    assert_eq!(code, 0, "{err}");
    let second = serde_json::from_str::<Value>(&out).unwrap()["version"].as_i64().unwrap();
    assert!(second > first);
    eventually_async("the promoted version to decide", || async {
        (decided_by(&gateway).await == Some(second)).then_some(())
    })
    .await;
    let (code, out, err) = gateway.cli(&["router", "rollback"]);
    assert_eq!((code, out.contains(&format!("version {first}"))), (0, true), "{out}{err}");
    eventually_async("the version before to decide again", || async {
        (decided_by(&gateway).await == Some(first)).then_some(())
    })
    .await;
}

/// A verify phase that began in the second before the next poll was served by the version before.
#[tokio::test]
async fn once_training_has_answered_the_version_it_lost_to_serves() {
    let world = world().await;
    let gateway = start(&world, &json!({"consumers": ["lab"]})).await;
    collect(&gateway, 120).await;
    assert_eq!(gateway.admin("POST", "/api/v1/routers/default/train?force=true").await.status, 200);
    let (code, out, err) = gateway.cli(&["router", "train", "--json", "--force"]);
    assert_eq!(code, 0, "{err}");
    let promoted = serde_json::from_str::<Value>(&out).unwrap()["version"].as_i64();
    let again = gateway.admin("POST", "/api/v1/routers/default/train").await.json();
    assert_eq!(again["promoted"], false, "{again}");
    let id = ask(&gateway, "what is 5 plus 7", "app", false).await.header("x-weirgate-decision-id").unwrap().to_owned();
    let decided_by = || async {
        let (_, out, _) = gateway.cli(&["flywheel", "export", "-"]);
        let row = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|row| row["id"] == id);
        row.map(|row| row["decision"]["router_version"].as_i64())
    };
    assert_eq!(eventually_async("the record", decided_by).await, promoted);
}

#[tokio::test]
async fn training_mode_is_for_those_who_may() {
    let world = world().await;
    let gateway = start(&world, &json!({"consumers": ["lab"]})).await;
    let refused = ask(&gateway, "hi", "app", true).await;
    assert_eq!((refused.status, refused.error_code().as_str()), (403, "forbidden"));
    assert_eq!(world.n_calls(), 0);
    let off = start(&world, &json!({"enabled": false})).await;
    assert_eq!(ask(&off, "hi", "lab", true).await.status, 403);
}

#[tokio::test]
async fn training_on_too_few_rows_says_so() {
    let world = world().await;
    let gateway = start(&world, &json!({})).await;
    let answer = gateway.admin("POST", "/api/v1/routers/default/train").await;
    assert_eq!(answer.status, 409);
    assert!(
        answer.json()["error"]["message"].as_str().unwrap().contains("only 0 scored questions"),
        "{}",
        answer.text()
    );
    assert_eq!(gateway.admin("POST", "/api/v1/routers/nobody/train").await.status, 404);
}

#[tokio::test]
async fn training_mode_streams_when_the_client_streams() {
    let world = world().await;
    let gateway = start(&world, &json!({})).await;
    let mut body = question("auto", "what is 6 times 7");
    body["stream"] = json!(true);
    let headers = [("x-key", "lab"), ("x-training-mode", "true"), ("content-type", "application/json")];
    let answer = send(gateway.http, "POST", "/v1/chat/completions", &headers, Bytes::from(body.to_string())).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert!(answer.text().contains("from digits") && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
}

#[tokio::test]
async fn the_model_list_names_what_can_be_asked_for() {
    let world = world().await;
    let gateway = start(&world, &json!({})).await;
    let list = send(gateway.http, "GET", "/v1/models", &[("x-key", "app")], Bytes::new()).await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["auto", "higress/auto", "digits", "words"]);
    let one = send(gateway.http, "GET", "/v1/models/higress/auto", &[("x-key", "app")], Bytes::new()).await.json();
    assert_eq!(one, list["data"][1]);
    // What curl calls a form unless told otherwise.
    let form = [("x-key", "app"), ("content-type", "application/x-www-form-urlencoded")];
    let body = Bytes::from(question("auto", "hi").to_string());
    let answer = send(gateway.http, "POST", "/v1/chat/completions", &form, body).await;
    assert!(answer.header("x-weirgate-model").is_some(), "{}", answer.text());
}
