//! What is recorded of real traffic, and that it survives. A baseline that hangs and the bounds of shadow calls are in `shadow`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

fn router_config(extra: &Value) -> Value {
    let mut config = json!({
        "candidates": [
            {"model": "big", "price": {"input": 10, "output": 30}, "tags": ["large", "generic", "math"]},
            {"model": "small", "price": {"input": 1, "output": 2}},
        ],
        "baseline": "big",
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    config
}

/// A gateway that routes between `big` and `small`.
pub async fn start(upstream: &Upstream, extra: &Value, settings: &str) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    folder.plugin("semantic-router", &router_config(extra), &json!([]));
    Gateway::start_with(folder, settings)
}

/// All recorded exchanges, once at least `n` are there.
pub async fn exported(gateway: &Gateway, n: usize) -> Vec<Value> {
    eventually_async("recorded exchanges", || async {
        let (code, out, err) = gateway.cli(&["flywheel", "export", "-"]);
        assert_eq!(code, 0, "{err}");
        let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (rows.len() >= n).then_some(rows)
    })
    .await
}

#[tokio::test]
async fn a_routed_exchange_is_recorded_with_its_decision() {
    let upstream = Upstream::chat().await;
    let gateway = start(&upstream, &json!({}), "").await;
    let answer = gateway.chat(&question("auto", "prove that 1+1=2")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.header("x-weirgate-decision-id").unwrap().to_owned();
    let row = &exported(&gateway, 1).await[0];
    assert_eq!(row["id"], id.as_str());
    assert_eq!(row["messages"][0]["content"], "prove that 1+1=2");
    assert_eq!(row["decision"]["chosen"], answer.header("x-weirgate-model").unwrap());
    let served = &row["answers"][0];
    assert_eq!(
        (&served["role"], &served["outcome"], &served["output"]),
        (&json!("served"), &json!("ok"), &json!("hello"))
    );
    assert_eq!((&served["prompt_tokens"], &served["completion_tokens"]), (&json!(10), &json!(2)));
    assert!(served["cost_usd"].as_f64().unwrap() > 0.0 && served["latency_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn feedback_becomes_the_score_of_the_answer() {
    let upstream = Upstream::chat().await;
    let gateway = start(&upstream, &json!({}), "").await;
    let answer = gateway.chat(&question("auto", "hi")).await;
    let id = answer.header("x-weirgate-decision-id").unwrap().to_owned();
    let body = json!({"request_id": id, "thumb": "up", "text": "nice"}).to_string();
    assert_eq!(gateway.post("/v1/feedback", &[], body).await.status, 202);
    let row = eventually_async("the score", || async {
        let row = exported(&gateway, 1).await.remove(0);
        (row["answers"][0]["score"] == 1.0).then_some(row)
    })
    .await;
    assert_eq!(row["answers"][0]["score_source"], "feedback");
    assert_eq!(row["feedback"][0]["text"], "nice");
    let bad = gateway.post("/v1/feedback", &[], r#"{"request_id":"x","score":7}"#).await;
    assert_eq!((bad.status, bad.error_code().as_str()), (400, "invalid_value"));
}

#[tokio::test]
async fn a_shadow_call_that_fails_is_recorded_and_does_not_change_the_answer() {
    let upstream = Upstream::start(|_, seen| async move {
        let model = seen.json()["model"].as_str().unwrap().to_owned();
        if model == "big" { answer(500, "application/json", "{}") } else { ok(&completion(&model, "quick")) }
    })
    .await;
    let extra = json!({"shadow": {"rate": 1.0}, "weights": {"cost": 100}});
    let gateway = start(&upstream, &extra, "").await;
    let answer = gateway.chat(&question("auto", "hi there")).await;
    assert_eq!((answer.status, answer.header("x-weirgate-model")), (200, Some("small")), "{}", answer.text());
    let row = eventually_async("the shadow's outcome", || async {
        let row = exported(&gateway, 1).await.remove(0);
        (row["answers"].as_array().unwrap().len() == 2).then_some(row)
    })
    .await;
    let shadow = &row["answers"][1];
    assert_eq!(
        (&shadow["role"], &shadow["model"], &shadow["outcome"]),
        (&json!("shadow"), &json!("big"), &json!("failed"))
    );
    assert!(gateway.metrics().await.contains("weirgate_shadow_calls_total{result=\"failed\"} 1"));
}

/// Models that call tools said nothing, and were judged by that.
#[tokio::test]
async fn only_what_a_model_said_is_scored_and_only_answers_are_ok() {
    let evaluator = Upstream::start(|_, _| async { ok(&json!({"score": 0.5})) }).await;
    let upstream = Upstream::start(|_, seen| async move {
        let prompt = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        let call = json!({"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}});
        match prompt.as_str() {
            "tools" => {
                let mut said = completion("m", "");
                said["choices"][0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": [call]});
                said["choices"][0]["finish_reason"] = json!("tool_calls");
                ok(&said)
            }
            "page" => answer(200, "text/html", "<html>log in first</html>"),
            "nothing" => answer(200, "application/json", ""),
            _ => ok(&completion("m", "hello")),
        }
    })
    .await;
    let url = format!("http://{}/", evaluator.address);
    let gateway = start(&upstream, &json!({"evaluate": {"url": url, "rate": 1.0}}), "").await;
    for prompt in ["tools", "page", "nothing", "words"] {
        assert_eq!(gateway.chat(&question("auto", prompt)).await.status, 200);
    }
    let rows = eventually_async("the score", || async {
        let rows = exported(&gateway, 4).await;
        rows.iter().any(|row| row["answers"][0]["score"] == 0.5).then_some(rows)
    })
    .await;
    let of = |prompt: &str| {
        let row = rows.iter().find(|row| row["messages"][0]["content"] == prompt).unwrap();
        let answer = &row["answers"][0];
        (answer["outcome"].as_str().unwrap(), answer["score"].as_f64(), answer["cost_usd"].is_number())
    };
    assert_eq!(of("words"), ("ok", Some(0.5), true));
    assert_eq!(of("tools"), ("ok", None, true));
    assert_eq!([of("page"), of("nothing")], [("failed", None, false); 2]);
    assert_eq!(evaluator.n_calls(), 1);
}

#[tokio::test]
async fn the_share_of_large_models_is_of_those_that_answered() {
    // What the small one cannot answer, the large one does.
    let upstream = Upstream::start(|_, seen| async move {
        let asked = seen.json();
        let model = asked["model"].as_str().unwrap().to_owned();
        if model == "small" && asked["messages"].to_string().contains("hard") {
            return answer(500, "application/json", "{}");
        }
        ok(&completion(&model, "hello"))
    })
    .await;
    let gateway = start(&upstream, &json!({"weights": {"cost": 100}}), "").await;
    for (text, answered) in [("hi there", "small"), ("hi there", "small"), ("hi there", "small"), ("hard", "big")] {
        let answer = gateway.chat(&question("auto", text)).await;
        assert_eq!((answer.status, answer.header("x-weirgate-model")), (200, Some(answered)), "{}", answer.text());
    }
    // Whom the client named, the router did not choose.
    assert_eq!(gateway.chat(&question("big", "hi there")).await.status, 200);
    // A request is counted before its line is written.
    assert_eq!(gateway.access_log(5).len(), 5);
    let metrics = gateway.metrics().await;
    for line in [
        "semantic_router_requests_total{model=\"small\"} 3",
        "semantic_router_requests_total{model=\"big\"} 1",
        "semantic_router_large_model_share 0.25",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} missing in {metrics}");
    }
}

#[tokio::test]
async fn redaction_stores_no_text_and_still_features() {
    let upstream = Upstream::chat().await;
    let gateway = start(&upstream, &json!({}), "[flywheel]\nredact = true\n").await;
    gateway.chat(&question("auto", "my secret is 12345")).await;
    let row = &exported(&gateway, 1).await[0];
    assert!(
        row.get("messages").is_none_or(Value::is_null) && row["answers"][0].get("output").is_none_or(Value::is_null)
    );
    assert!(row["features"].as_str().is_some_and(|features| !features.is_empty()));
    assert!(!row.to_string().contains("12345"));
}

#[tokio::test]
async fn stats_import_and_prune_work_beside_the_running_gateway() {
    let upstream = Upstream::chat().await;
    let gateway = start(&upstream, &json!({}), "").await;
    for n in 0..5 {
        gateway.chat(&question("auto", &format!("question {n}"))).await;
    }
    exported(&gateway, 5).await;
    let file = gateway.folder.dir.path().join("out.jsonl");
    let path = file.to_str().unwrap();
    assert_eq!(gateway.cli(&["flywheel", "export", path]).0, 0);
    let (_, out, _) = gateway.cli(&["flywheel", "import", path]);
    assert!(out.contains("0 inserted, 5 already there, 0 bad"), "{out}");
    let (_, out, _) = gateway.cli(&["flywheel", "stats", "--json"]);
    let stats: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(stats["n_exchanges"], 5);
    assert_eq!(gateway.cli(&["flywheel", "prune", "--max-mb", "1000"]).0, 0);
    // In config.toml nought is no limit; here it would have deleted everything.
    for limit in ["--max-age-days", "--max-mb"] {
        assert_eq!(gateway.cli(&["flywheel", "prune", limit, "0"]).0, 64);
    }
    assert_eq!(exported(&gateway, 5).await.len(), 5);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "prompts are in it");
}

/// What a client may write and a stricter reader refuses kept everything after it from being exported or learned from.
#[tokio::test]
async fn a_record_that_is_hard_to_read_costs_no_other() {
    let upstream = Upstream::chat().await;
    let gateway = start(&upstream, &json!({}), "").await;
    let ask = |content: &str| {
        let body = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"{content}"}}]}}"#);
        gateway.post("/v1/chat/completions", &[], body)
    };
    let id = ask(r"half \ud83d a pair").await.header("x-weirgate-decision-id").unwrap().to_owned();
    let huge = r#"{"model":"auto","messages":[{"role":"user","content":"hi","x":1e999}]}"#;
    assert_eq!(gateway.post("/v1/chat/completions", &[], huge.to_owned()).await.status, 200);
    ask("plain").await;
    let feedback = json!({"request_id": id, "score": 1.0}).to_string();
    assert_eq!(gateway.post("/v1/feedback", &[], feedback).await.status, 202);
    let rows = exported(&gateway, 3).await;
    assert_eq!(rows[0]["messages"][0]["content"], "half \u{fffd} a pair");
    assert_eq!(rows[1]["features_version"], rows[2]["features_version"]);
    assert!(rows[2]["features_version"].is_u64(), "{}", rows[2]);
    eventually_async("training to say that rows are few, not unreadable", || async {
        let answer = gateway.admin("POST", "/api/v1/routers/default/train").await;
        answer.text().contains("only 1 scored questions").then_some(())
    })
    .await;
}

/// Kills the gateway while it records, many times over, on one database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_leaves_a_readable_database_that_lacks_at_most_one_flush_interval() {
    const N_KILLS: usize = 50;
    /// The interval is 20 ms; what is older than this would be missing without an excuse, even on a busy machine.
    const DUE: Duration = Duration::from_secs(3);
    let upstream = Upstream::chat().await;
    let mut folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    folder.plugin("semantic-router", &router_config(&json!({})), &json!([]));
    let mut n_sure = 0;
    for round in 0..N_KILLS {
        let gateway = Arc::new(Gateway::start_with(folder, "[flywheel]\nflush_interval_ms = 20\n"));
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(parking_lot::Mutex::new(Vec::new())));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4 {
            let (http, stop, answered) = (gateway.http, stop.clone(), answered.clone());
            clients.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let body = question("auto", &format!("{round} {client}")).to_string();
                    let sent = try_send(http, body).await;
                    if sent.is_none() {
                        break;
                    }
                    answered.lock().push(Instant::now());
                }
            });
        }
        // Some records are known to be on disk, more are on their way.
        let n_written = eventually("records on disk", || {
            let (_, out, _) = gateway.cli(&["flywheel", "stats", "--json"]);
            let n = serde_json::from_str::<Value>(&out).ok()?["n_exchanges"].as_u64()?;
            (n > n_sure).then_some(n)
        });
        let n_before = n_sure;
        n_sure = n_written;
        if round % 25 == 24 {
            let is_due = || answered.lock().first().is_some_and(|first: &Instant| first.elapsed() > DUE).then_some(());
            eventually("records that must be there", is_due);
        }
        let n_due = answered.lock().iter().filter(|at| at.elapsed() > DUE).count() as u64;
        assert!(
            std::process::Command::new("kill")
                .args(["-9", &gateway.child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        stop.store(true, Ordering::SeqCst);
        while clients.join_next().await.is_some() {}
        let gateway = Arc::try_unwrap(gateway).ok().expect("no client holds the gateway");
        let (code, out, err) = gateway.cli(&["flywheel", "export", "-"]);
        assert_eq!(code, 0, "round {round}: {err}");
        let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(rows.len() as u64 >= n_sure, "round {round}: {} of {n_sure} records", rows.len());
        assert!(rows.len() as u64 >= n_before + n_due, "round {round}: {n_before} and of {n_due} only {}", rows.len());
        assert!(
            rows.iter().all(|row| row["answers"].as_array().is_some_and(|answers| answers.len() == 1)),
            "whole exchanges only"
        );
        n_sure = rows.len() as u64;
        folder = gateway.into_folder();
    }
}

/// A chat over a new connection; `None` once the gateway is gone.
async fn try_send(to: std::net::SocketAddr, body: String) -> Option<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.ok()?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    answer.starts_with(b"HTTP/1.1 200").then_some(())
}
