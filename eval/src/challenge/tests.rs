//! The whole protocol in one process: two mocks, a gateway that knows the domains of some questions, and the report.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::*;
use crate::mock::api;
use crate::mock::questions::Question;
use crate::mock::service::Service as MockService;
use crate::test_support::{Server, post_json, serve_router};

const DOMAINS: [&str; 5] = ["math", "code", "medicine", "writing", "generic"];

/// Forwards every question to one model, untouched; counts training questions and trainings.
struct FixedGateway {
    upstream: [String; 2],
    model: &'static str,
    n_training: AtomicUsize,
    n_trainings: AtomicUsize,
}

impl FixedGateway {
    fn router(self: Arc<FixedGateway>) -> Router {
        Router::new()
            .route("/v1/chat/completions", post(FixedGateway::chat))
            .route("/train", post(FixedGateway::train))
            .with_state(self)
    }

    async fn chat(State(gateway): State<Arc<FixedGateway>>, headers: HeaderMap, body: String) -> Response {
        let is_training = headers.get("x-training-mode").is_some_and(|value| value == "true");
        gateway.n_training.fetch_add(usize::from(is_training), Ordering::SeqCst);
        let mut body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["model"], "auto");
        body["model"] = gateway.model.into();
        let upstream = &gateway.upstream[usize::from(!is_training)];
        let (_, answer) = post_json(&format!("{upstream}/v1/chat/completions"), &body).await;
        ([("x-weirgate-model", gateway.model)], answer).into_response()
    }

    async fn train(State(gateway): State<Arc<FixedGateway>>) -> String {
        gateway.n_trainings.fetch_add(1, Ordering::SeqCst);
        "promoted".to_string()
    }
}

/// `n` questions in five domains.
fn questions(prefix: &str, n: usize) -> Vec<Question> {
    let question = |i: usize| Question {
        id: format!("{prefix}-{i}"),
        question: format!("{prefix} question {i}?"),
        domain: DOMAINS[i % 5].to_string(),
    };
    (0..n).map(question).collect()
}

async fn mock_of(questions: &[Question]) -> (Arc<MockService>, Server) {
    let service = Arc::new(MockService::new(Arc::new(World::load(None).unwrap()), questions.to_vec(), 0.0).unwrap());
    let server = serve_router(api::router(service.clone())).await;
    (service, server)
}

fn write_labels(path: &Path, questions: &[Question]) {
    let line = |q: &Question| json!({"id": q.id, "question": q.question, "domain": q.domain}).to_string();
    std::fs::write(path, questions.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
}

/// The command line of a run against these servers.
fn args(gateway: &Server, train: &Server, verify: &Server, out: &Path, more: &[&str]) -> ChallengeArgs {
    #[derive(clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: ChallengeArgs,
    }
    let (gateway, train, verify) = (gateway.url(""), train.url(""), verify.url(""));
    let (labels, out) = (out.join("labels.jsonl").display().to_string(), out.display().to_string());
    let mut words = vec!["challenge", "--gateway", &gateway, "--train-mock", &train, "--verify-mock", &verify];
    words.extend(["--labels", &labels, "--out", &out, "--name", "test"]);
    words.extend(more);
    <Wrapper as clap::Parser>::parse_from(words).args
}

#[tokio::test]
async fn the_protocol_end_to_end() {
    let out = tempfile::tempdir().unwrap();
    let (train_questions, verify_questions) = (questions("train", 40), questions("verify", 25));
    write_labels(&out.path().join("labels.jsonl"), &verify_questions);
    let (train_service, train) = mock_of(&train_questions).await;
    let (verify_service, verify) = mock_of(&verify_questions).await;
    let gateway = Arc::new(FixedGateway {
        upstream: [train.url(""), verify.url("")],
        model: "qwen-math-32b",
        n_training: AtomicUsize::new(0),
        n_trainings: AtomicUsize::new(0),
    });
    let server = serve_router(gateway.clone().router()).await;
    let train_url = server.url("/train");
    let args =
        args(&server, &train, &verify, out.path(), &["--checkpoints", "0,10", "--train-url", &train_url, "--stream"]);
    run(args).await.unwrap();

    assert_eq!(gateway.n_training.load(Ordering::SeqCst), 40, "each training question once, marked by the header");
    assert_eq!(gateway.n_trainings.load(Ordering::SeqCst), 2, "at checkpoint 10 and at the end");
    assert_eq!(train_service.stats().questions_by_n_models[&1], 40);
    assert_eq!(verify_service.stats().questions_by_n_models[&13], 25, "the baselines ask every model");

    let is_run = |path: &std::path::PathBuf| path.is_dir();
    let folder = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).find(is_run).unwrap();
    let summary: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    let world = World::load(None).unwrap();
    let score = |model: &str, q: &Question| {
        crate::mock::draw::score(&world, &q.id, &q.domain, world.model(model).unwrap()).unwrap()
    };
    let mean = |model: &str| verify_questions.iter().map(|q| score(model, q)).sum::<f64>() / 25.0;
    let number = |name: &str| summary[name].as_f64().unwrap_or_else(|| panic!("{name} is missing"));
    let close = |name: &str, expected: f64| assert!((number(name) - expected).abs() < 1e-5, "{name}: {}", number(name));
    close("score_mean", mean("qwen-math-32b"));
    close("stream_score_mean", mean("qwen-math-32b"));
    close("score_always_max", mean("qwen-max"));
    close("score_random", world.models.iter().map(|model| mean(&model.name)).sum::<f64>() / 13.0);
    close("domain_accuracy", 0.2);
    close("errors", 0.0);
    close("unscored", 0.0);
    close("verify_calls_per_question", 1.0);
    close("verify_questions_to_several_models", 0.0);
    assert!(
        number("score_oracle") >= number("score_ceiling") - 0.2 && number("utility_oracle") > number("utility_ceiling")
    );
    assert!(number("score_ceiling") > number("score_mean"));
    for name in
        ["latency_ms_mean", "latency_ms_always_max", "cost_mean", "curve_score_0", "curve_score_10", "curve_score_40"]
    {
        assert!(number(name) > 0.0, "{name}");
    }
    for file in ["report.md", "raw.jsonl.gz", "score-latency.svg", "domains.svg", "shares.svg", "curve.svg"] {
        assert!(std::fs::metadata(folder.join(file)).unwrap().len() > 100, "{file}");
    }
}

#[tokio::test]
async fn failing_questions_count_as_zero_and_a_dead_gateway_ends_the_run() {
    let out = tempfile::tempdir().unwrap();
    let (train_questions, verify_questions) = (questions("train", 4), questions("verify", 10));
    write_labels(&out.path().join("labels.jsonl"), &verify_questions);
    let (_, train) = mock_of(&train_questions).await;
    let (_, verify) = mock_of(&verify_questions).await;
    let refuse = post(async || (axum::http::StatusCode::SERVICE_UNAVAILABLE, "no upstream"));
    let server = serve_router(Router::new().route("/v1/chat/completions", refuse)).await;

    let challenge = measure(&args(&server, &train, &verify, out.path(), &["--train-rows", "0"])).await.unwrap();
    let metrics = challenge.metrics();
    assert_eq!((metrics["errors"], metrics["score_mean"], metrics["domain_accuracy"]), (10.0, 0.0, 0.0));
    assert!(challenge.verified[0].error.as_ref().unwrap().contains("no upstream"));

    let error = measure(&args(&server, &train, &verify, out.path(), &[])).await.err().unwrap().to_string();
    assert!(error.contains("4 of 4 training questions failed") && error.contains("status 503"), "{error}");
    let error = measure(&args(&server, &train, &verify, out.path(), &["--checkpoints", "2"])).await.err().unwrap();
    assert!(error.to_string().contains("--train-url or --train-command"));
}

#[tokio::test]
async fn training_by_command_says_what_went_wrong() {
    let trainer = |command: &str| Trainer {
        client: Client::new(),
        url: None,
        token: None,
        command: Some(command.to_string()),
        ready_url: None,
        timeout: Duration::from_secs(10),
    };
    assert_eq!(trainer("echo version 7").train().await.unwrap(), "version 7");
    let error = trainer("echo too few rows >&2; exit 3").train().await.unwrap_err().to_string();
    assert!(error.contains("too few rows") && error.contains("exit status: 3"), "{error}");
}
