//! Whole runs against a scripted gateway that counts what it is asked.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use clap::Parser;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::rag::judge::tests as scripted_judge;
use crate::test_support::{Server, serve_router};

const TOKEN: &str = "admin-token";
const N_DOCUMENTS: usize = 8;

/// Each question `about n` wants the document `dn`. Dense search puts the wrong document before it; lexical search does not.
#[derive(Default)]
struct ScriptedGateway {
    documents: Mutex<BTreeMap<String, HashMap<String, Value>>>,
    calls: Mutex<BTreeMap<String, usize>>,
    has_reranker: bool,
    unknown_switch: Option<&'static str>,
}

type Reply = (StatusCode, String);

impl ScriptedGateway {
    async fn serve(has_reranker: bool) -> (Arc<ScriptedGateway>, Server) {
        ScriptedGateway { has_reranker, ..ScriptedGateway::default() }.start().await
    }

    async fn start(self) -> (Arc<ScriptedGateway>, Server) {
        let gateway = Arc::new(self);
        let router = Router::new()
            .route("/v1/rag/knowledge-bases/{kb}", get(Self::read).put(Self::create))
            .route("/v1/rag/knowledge-bases/{kb}/documents", post(Self::ingest))
            .route("/v1/rag/knowledge-bases/{kb}/search", post(Self::search))
            .route("/v1/rag/knowledge-bases/{kb}/ask", post(Self::ask))
            .with_state(gateway.clone());
        (gateway, serve_router(router).await)
    }

    fn count(&self, call: &str) {
        *self.calls.lock().entry(call.to_string()).or_default() += 1;
    }

    fn take_calls(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.calls.lock())
    }

    async fn read(State(gateway): State<Arc<Self>>, UrlPath(kb): UrlPath<String>, headers: HeaderMap) -> Reply {
        if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
            return refuse(401, "no such token", "");
        }
        match gateway.documents.lock().get(&kb) {
            Some(held) => ok(&json!({"name": kb, "documents": held.len(), "chunks": 2 * held.len(), "model": "toy"})),
            None => refuse(404, "no such knowledge base", ""),
        }
    }

    async fn create(State(gateway): State<Arc<Self>>, UrlPath(kb): UrlPath<String>) -> Reply {
        gateway.count("create");
        gateway.documents.lock().insert(kb.clone(), HashMap::new());
        ok(&json!({"name": kb}))
    }

    async fn ingest(State(gateway): State<Arc<Self>>, UrlPath(kb): UrlPath<String>, body: String) -> Reply {
        gateway.count("ingest");
        let body: Value = serde_json::from_str(&body).unwrap();
        let mut documents = gateway.documents.lock();
        let held = documents.get_mut(&kb).unwrap();
        let (mut added, mut unchanged) = (0, 0);
        for document in body["documents"].as_array().unwrap() {
            assert!(document.get("src").is_none(), "analysis fields are no input to retrieval");
            let id = document["id"].as_str().unwrap().to_string();
            match held.insert(id, document.clone()) {
                Some(old) if old == *document => unchanged += 1,
                _ => added += 1,
            }
        }
        ok(&json!({"added": added, "updated": 0, "unchanged": unchanged, "chunks": 2 * added, "errors": []}))
    }

    async fn search(State(gateway): State<Arc<Self>>, body: String) -> Reply {
        let body: Value = serde_json::from_str(&body).unwrap();
        let on = |step: &str| body["steps"][step] == true;
        let kind = ["compress", "rerank", "lexical", "dense"].into_iter().find(|step| on(step)).unwrap_or("default");
        gateway.count(&format!("search {kind} {}", body["top_k"]));
        if let Some(unknown) = gateway.unknown_switch.filter(|switch| body["steps"].get(switch).is_some()) {
            return refuse(400, &format!("unknown field `{unknown}`, expected one of `dense`, `lexical`"), "");
        }
        if on("rerank") && !gateway.has_reranker {
            return refuse(503, "no model is installed for it", "steps.rerank");
        }
        let wanted: usize = body["query"].as_str().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let wrong = (wanted + 1) % N_DOCUMENTS;
        let hit = |n: usize, fused: f64, rerank: f64| {
            let scores = if on("rerank") { json!({"fused": fused, "rerank": rerank}) } else { json!({"fused": fused}) };
            json!({"id": format!("c{n}"), "document": format!("d{n}"), "title": format!("T{n}"), "text": format!("the answer is {n}"),
                "score": if on("rerank") { rerank } else { fused }, "scores": scores})
        };
        let (first, second) = (hit(wrong, 0.9, 0.1), hit(wanted, 0.8, 0.95));
        let results = if on("lexical") { json!([second, second, first]) } else { json!([first, first, second]) };
        let mut answer =
            json!({"results": results, "trace": {"ms": 2.5, "steps": [{"name": "dense", "ms": 1.0, "candidates": 2}]}});
        if on("correct") {
            // Even questions are the answerable ones.
            answer["confidence"] = json!(if wanted.is_multiple_of(2) { 0.9 } else { 0.2 });
            answer["action"] = json!(if wanted.is_multiple_of(2) { "correct" } else { "incorrect" });
        }
        if on("compress") {
            let sentences = json!([{"document": format!("d{wanted}"), "chunk": 0, "text": "x", "score": 1.0}]);
            answer["context"] = json!({"text": format!("is {wanted}"), "tokens": 3, "sentences": sentences});
        }
        ok(&answer)
    }

    async fn ask(State(gateway): State<Arc<Self>>, body: String) -> Reply {
        gateway.count("ask");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["stream"], false);
        let wanted: usize = body["query"].as_str().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        ok(&json!({"answer": format!("{wanted}"), "refused": wanted % 2 == 1}))
    }
}

fn ok(body: &Value) -> Reply {
    (StatusCode::OK, body.to_string())
}

fn refuse(status: u16, message: &str, param: &str) -> Reply {
    let error = json!({"error": {"message": message, "code": "unavailable", "param": param}});
    (StatusCode::from_u16(status).unwrap(), error.to_string())
}

/// A set of eight documents and as many questions; the odd ones are unanswerable.
fn write_set(root: &Path) -> String {
    let folder = root.join("toy");
    std::fs::create_dir_all(&folder).unwrap();
    let lines = |line: &dyn Fn(usize) -> String| (0..N_DOCUMENTS).map(|n| line(n) + "\n").collect::<String>();
    let corpus =
        lines(&|n| json!({"id": format!("d{n}"), "title": "", "text": format!("text {n}"), "src": "x"}).to_string());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(corpus.as_bytes()).unwrap();
    std::fs::write(folder.join("corpus.jsonl.gz"), encoder.finish().unwrap()).unwrap();
    let query = |n: usize| {
        json!({"id": format!("q{n}"), "question": format!("about {n}"), "answers": [n.to_string()], "unanswerable": n % 2 == 1})
            .to_string()
    };
    std::fs::write(folder.join("queries.jsonl"), lines(&query)).unwrap();
    std::fs::write(folder.join("qrels.tsv"), lines(&|n| format!("q{n}\td{n}\t1"))).unwrap();
    folder.display().to_string()
}

#[derive(Parser)]
struct Wrapper {
    #[command(flatten)]
    args: RagArgs,
}

fn args(server: &Server, root: &Path, more: &[&str]) -> RagArgs {
    let set = write_set(root);
    let (url, out) = (server.url(""), root.join("runs").display().to_string());
    let words = ["rag", "--gateway", &url, "--set", &set, "--out", &out, "--warmup", "0"];
    let token = if more.contains(&"--token") { vec![] } else { vec!["--token", TOKEN] };
    Wrapper::parse_from(words.into_iter().chain(token).chain(more.iter().copied())).args
}

/// The files of the only run folder.
fn read_run(root: &Path) -> (Value, String, Vec<Value>) {
    let folder = std::fs::read_dir(root.join("runs")).unwrap().next().unwrap().unwrap().path();
    let summary = serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    let report = std::fs::read_to_string(folder.join("report.md")).unwrap();
    let mut raw = String::new();
    GzDecoder::new(std::fs::File::open(folder.join("raw.jsonl.gz")).unwrap()).read_to_string(&mut raw).unwrap();
    (summary, report, raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn counts(calls: &[(&str, usize)]) -> BTreeMap<String, usize> {
    calls.iter().map(|(call, n)| ((*call).to_string(), *n)).collect()
}

#[tokio::test]
async fn the_ladder_is_run_step_by_step_and_missing_parts_are_no_failure() {
    let (gateway, server) = ScriptedGateway::serve(false).await;
    let root = tempfile::tempdir().unwrap();
    run(args(&server, root.path(), &["--steps", "higress,lexical,rrf,rerank", "--batch", "3"])).await.unwrap();

    let n = N_DOCUMENTS;
    // One probe of the switches, one for each step, then every question; the step without a model is asked for once.
    let expected = [
        ("create", 1),
        ("ingest", 3),
        ("search dense 20", n + 1),
        ("search lexical 1", 1),
        ("search lexical 20", 2 * (n + 1)),
        ("search rerank 20", 1),
    ];
    assert_eq!(gateway.take_calls(), counts(&expected));
    let (summary, report, raw) = read_run(root.path());
    for (key, expected) in [
        ("toy.higress.r2", 1.0),
        ("toy.higress.mrr10", 0.5),
        ("toy.higress.p5", 0.2),
        ("toy.rrf.mrr10", 1.0),
        ("toy.rrf.mrr10_change", 0.5),
        ("toy.higress.latency_ms_p50", 2.5),
        ("toy.higress.ans5", 1.0),
        ("toy.queries", 8.0),
    ] {
        assert_eq!(summary[key], expected, "{key}");
    }
    assert!(summary["toy.ingest_chunks_per_s"].as_f64().unwrap() > 0.0);
    assert!(summary.get("toy.rerank.r5").is_none() && summary.get("toy.evaluator_auc").is_none());
    assert!(report.contains("not available: status 503: no model is installed for it") && report.contains("**helps**"));
    assert_eq!(raw.len(), 3 * n);
    assert_eq!(raw[0]["documents"], json!([{"document": "d1"}, {"document": "d0", "gain": 1}]));
    let files = std::fs::read_dir(root.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    assert!(files.join("ladder-toy.svg").exists());
}

#[tokio::test]
async fn a_server_that_does_not_know_a_part_yet_is_measured_on_the_others() {
    let gateway = ScriptedGateway { unknown_switch: Some("correct"), has_reranker: true, ..ScriptedGateway::default() };
    let (_, server) = gateway.start().await;
    let root = tempfile::tempdir().unwrap();
    run(args(&server, root.path(), &["--steps", "rerank,correct"])).await.unwrap();
    let (summary, report, _) = read_run(root.path());
    assert_eq!(summary["toy.rerank.errors"], 0.0);
    assert!(summary.get("toy.correct.r5").is_none() && report.contains("unknown field `correct`"));
}

#[tokio::test]
async fn ingest_is_repeated_without_speed_or_left_out() {
    let (gateway, server) = ScriptedGateway::serve(false).await;
    let root = tempfile::tempdir().unwrap();
    let steps = ["--steps", "lexical", "--limit", "2"];
    let missing = run(args(&server, root.path(), &[&steps[..], &["--skip-ingest"]].concat())).await.unwrap_err();
    assert!(missing.to_string().contains("no knowledge base \"eval-toy\""), "{missing:#}");
    run(args(&server, root.path(), &steps)).await.unwrap();
    gateway.take_calls();
    run(args(&server, root.path(), &steps)).await.unwrap();
    assert_eq!(gateway.take_calls(), counts(&[("ingest", 1), ("search lexical 1", 1), ("search lexical 20", 3)]));
    let (summary, ..) = read_run(root.path());
    assert!(summary.get("toy.ingest_chunks_per_s").is_none());
    run(args(&server, root.path(), &[&steps[..], &["--skip-ingest"]].concat())).await.unwrap();
    assert_eq!(gateway.take_calls(), counts(&[("search lexical 1", 1), ("search lexical 20", 3)]));

    gateway.documents.lock().get_mut("eval-toy").unwrap().insert("stray".into(), json!({}));
    let other = run(args(&server, root.path(), &steps)).await.unwrap_err();
    assert!(other.to_string().contains("holds 9 documents, the set has 8"), "{other:#}");
}

#[tokio::test]
async fn reranking_correction_and_compression_are_measured() {
    let (gateway, server) = ScriptedGateway::serve(true).await;
    let root = tempfile::tempdir().unwrap();
    run(args(&server, root.path(), &["--steps", "rerank,correct,compress"])).await.unwrap();

    let n = N_DOCUMENTS;
    // Compression asks twice: for the ranking, and for the chunks that would be sent. The evaluator's task asks for thirty.
    let calls = gateway.take_calls();
    assert_eq!((calls["search compress 20"], calls["search compress 5"], calls["search rerank 100"]), (n + 1, n, n));
    let (summary, report, _) = read_run(root.path());
    for (key, expected) in [
        ("toy.evaluator_auc", 1.0),
        ("toy.evaluator_pairs", 3.0 * 8.0),
        ("toy.correct.refusal", 1.0),
        ("toy.correct.false_refusal", 0.0),
        ("toy.correct.refusal_by_action", 1.0),
        ("toy.compress.ans5", 1.0),
        ("toy.compress.tokens_server", 3.0),
        ("toy.compress.context_gold", 1.0),
        ("toy.compress.tokens", 2.0),
        ("toy.compress.token_ratio", 9.0),
    ] {
        assert_eq!(summary[key], expected, "{key}");
    }
    assert!(report.contains("sends 9.0× fewer tokens") && report.contains("![toy: Refusal"));
}

#[tokio::test]
async fn answers_are_scored_and_graded() {
    let (gateway, server) = ScriptedGateway::serve(true).await;
    let (script, judge) = scripted_judge::serve(&["(C)", "(D)", "(C)", "nothing"]).await;
    let root = tempfile::tempdir().unwrap();
    let url = judge.url("");
    run(args(&server, root.path(), &["--steps", "lexical", "--answers", "--judge-url", &url])).await.unwrap();
    assert_eq!(gateway.take_calls()["ask"], N_DOCUMENTS);
    // Refusals are not graded.
    assert_eq!(script.requests.lock().len(), N_DOCUMENTS / 2);
    let (summary, ..) = read_run(root.path());
    for (key, expected) in [
        ("toy.ask.em", 1.0),
        ("toy.ask.refusal", 1.0),
        ("toy.ask.false_refusal", 0.0),
        ("toy.ask.factuality", 0.666_667),
        ("toy.ask.judge_errors", 1.0),
    ] {
        assert_eq!(summary[key], expected, "{key}");
    }
}

#[tokio::test]
async fn other_questions_can_be_asked_of_the_same_passages() {
    let (_, server) = ScriptedGateway::serve(false).await;
    let root = tempfile::tempdir().unwrap();
    let (queries, qrels) = (root.path().join("other.jsonl"), root.path().join("other.tsv"));
    std::fs::write(&queries, r#"{"id":"x","question":"about 3"}"#).unwrap();
    std::fs::write(&qrels, "x\td3\t2\n").unwrap();
    let (queries, qrels) = (queries.display().to_string(), qrels.display().to_string());
    run(args(&server, root.path(), &["--steps", "higress", "--queries", &queries, "--qrels", &qrels])).await.unwrap();
    let (summary, ..) = read_run(root.path());
    assert_eq!((&summary["toy.queries"], &summary["toy.higress.mrr10"]), (&json!(1.0), &json!(0.5)));
    assert!(summary.get("toy.higress.ans5").is_none());
}

#[tokio::test]
async fn a_wrong_token_says_so_at_once() {
    let (gateway, server) = ScriptedGateway::serve(false).await;
    let root = tempfile::tempdir().unwrap();
    let error = run(args(&server, root.path(), &["--token", "wrong"])).await.unwrap_err();
    assert!(error.to_string().contains("is --token the admin token?"), "{error:#}");
    assert!(gateway.take_calls().is_empty());
    assert!(read_run(root.path()).1.contains("**toy could not be measured:**"));
}
