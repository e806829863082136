//! The whole protocol in one process: two mocks, a gateway that knows the domains of some questions, and the report.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
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
    /// What it says that the model is called.
    tells: &'static str,
    tells_usage: bool,
    streams: bool,
    n_training: AtomicUsize,
    n_trainings: AtomicUsize,
}

const MODEL: &str = "qwen-math-32b";

impl FixedGateway {
    fn before(train: &Server, verify: &Server) -> FixedGateway {
        FixedGateway {
            upstream: [train.url(""), verify.url("")],
            tells: MODEL,
            tells_usage: true,
            streams: true,
            n_training: AtomicUsize::new(0),
            n_trainings: AtomicUsize::new(0),
        }
    }

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
        if body["stream"] == true && !gateway.streams {
            return (StatusCode::NOT_IMPLEMENTED, "no streams").into_response();
        }
        body["model"] = MODEL.into();
        let upstream = &gateway.upstream[usize::from(!is_training)];
        let (_, mut answer) = post_json(&format!("{upstream}/v1/chat/completions"), &body).await;
        if !gateway.tells_usage {
            answer = answer.replace("\"usage\"", "\"unused\"");
        }
        ([("x-weirgate-model", gateway.tells)], answer).into_response()
    }

    async fn train(State(gateway): State<Arc<FixedGateway>>) -> &'static str {
        gateway.n_trainings.fetch_add(1, Ordering::SeqCst);
        "promoted"
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

#[derive(clap::Parser)]
struct Wrapper {
    #[command(flatten)]
    args: ChallengeArgs,
}

/// The command line of a run against these servers.
fn args(gateway: &Server, train: &Server, verify: &Server, out: &Path, more: &[&str]) -> ChallengeArgs {
    let (gateway, train, verify) = (gateway.url(""), train.url(""), verify.url(""));
    let (labels, out) = (out.join("labels.jsonl").display().to_string(), out.display().to_string());
    let mut words = vec!["challenge", "--gateway", &gateway, "--train-mock", &train, "--verify-mock", &verify];
    words.extend(["--labels", &labels, "--out", &out, "--name", "test"]);
    words.extend(more);
    <Wrapper as clap::Parser>::parse_from(words).args
}

/// Two mocks with a few questions, and their labels.
struct Stage {
    out: tempfile::TempDir,
    train: Server,
    verify: Server,
}

impl Stage {
    async fn with(n_train: usize, n_verify: usize) -> Stage {
        let out = tempfile::tempdir().unwrap();
        let verify_questions = questions("verify", n_verify);
        write_labels(&out.path().join("labels.jsonl"), &verify_questions);
        let (_, train) = mock_of(&questions("train", n_train)).await;
        let (_, verify) = mock_of(&verify_questions).await;
        Stage { out, train, verify }
    }

    fn gateway(&self) -> FixedGateway {
        FixedGateway::before(&self.train, &self.verify)
    }

    fn args(&self, gateway: &Server, more: &[&str]) -> ChallengeArgs {
        args(gateway, &self.train, &self.verify, self.out.path(), more)
    }

    /// Measures `gateway` as it is.
    async fn measure(&self, gateway: FixedGateway) -> Challenge {
        self.measure_with(gateway, &[]).await
    }

    async fn measure_with(&self, gateway: FixedGateway, more: &[&str]) -> Challenge {
        let server = serve_router(Arc::new(gateway).router()).await;
        measure(&self.args(&server, &[&["--train-rows", "0"], more].concat())).await.unwrap()
    }
}

#[tokio::test]
async fn the_protocol_end_to_end() {
    let out = tempfile::tempdir().unwrap();
    let (train_questions, verify_questions) = (questions("train", 40), questions("verify", 25));
    write_labels(&out.path().join("labels.jsonl"), &verify_questions);
    let (train_service, train) = mock_of(&train_questions).await;
    let (verify_service, verify) = mock_of(&verify_questions).await;
    let gateway = Arc::new(FixedGateway::before(&train, &verify));
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
    close("score_mean", mean(MODEL));
    close("stream_score_mean", mean(MODEL));
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
    let stage = Stage::with(4, 10).await;
    let refuse = post(async || (StatusCode::SERVICE_UNAVAILABLE, "no upstream"));
    let server = serve_router(Router::new().route("/v1/chat/completions", refuse)).await;

    let challenge = measure(&stage.args(&server, &["--train-rows", "0"])).await.unwrap();
    let metrics = challenge.metrics();
    assert_eq!((metrics["errors"], metrics["score_mean"], metrics["domain_accuracy"]), (10.0, 0.0, 0.0));
    assert!(challenge.verified[0].error.as_ref().unwrap().contains("no upstream"));

    let error = measure(&stage.args(&server, &[])).await.err().unwrap().to_string();
    assert!(error.contains("4 of 4 training questions failed") && error.contains("status 503"), "{error}");
    let error = measure(&stage.args(&server, &["--checkpoints", "2"])).await.err().unwrap();
    assert!(error.to_string().contains("--train-url or --train-command"));
}

/// Names of those metrics that are there.
fn told<'a>(challenge: &Challenge, names: &[&'a str]) -> Vec<&'a str> {
    let metrics = challenge.metrics();
    names.iter().copied().filter(|name| metrics.contains_key(*name)).collect()
}

#[tokio::test]
async fn what_rests_on_a_price_that_is_not_known_is_left_out() {
    let stage = Stage::with(1, 10).await;
    let costs = ["cost_mean", "utility_mean", "utility_of_ceiling"];

    let alias = stage.measure(FixedGateway { tells: "auto", ..stage.gateway() }).await;
    assert!(
        alias.notes.iter().any(|note| note.contains("10 name a model") && note.contains("\"auto\"")),
        "{:?}",
        alias.notes
    );
    let by_model = ["domain_accuracy", "good_model_share", "max_model_share"];
    assert_eq!(told(&alias, &[&costs[..], &by_model].concat()), [] as [&str; 0]);
    let others = ["score_mean", "score_of_ceiling", "cost_always_max", "utility_ceiling"];
    assert_eq!(told(&alias, &others), others);
    assert!(report::headline(&alias).contains("domain accuracy -"));

    let silent = stage.measure(FixedGateway { tells_usage: false, ..stage.gateway() }).await;
    assert!(silent.notes.iter().any(|note| note.contains("10 have no usage")), "{:?}", silent.notes);
    assert_eq!(told(&silent, &costs), [] as [&str; 0]);
    assert_eq!(told(&silent, &by_model), by_model);

    let prefixed = stage.measure(FixedGateway { tells: "openai/qwen-math-32b", ..stage.gateway() }).await;
    let plain = stage.measure(stage.gateway()).await;
    assert_eq!((&prefixed.notes, prefixed.metrics()["cost_mean"]), (&plain.notes, plain.metrics()["cost_mean"]));
    assert!(plain.metrics()["cost_mean"] > 0.0 && plain.notes.is_empty(), "{:?}", plain.notes);
    assert_eq!(prefixed.metrics()["domain_accuracy"], 0.2);

    // Prices of another world than the mock's.
    let mut world = World::load(None).unwrap();
    world.models.retain(|model| model.name != "qwen-max");
    let file = stage.out.path().join("world.toml");
    std::fs::write(&file, toml::to_string(&world).unwrap()).unwrap();
    let other = stage.measure_with(stage.gateway(), &["--world", file.to_str().unwrap()]).await;
    assert!(other.notes[0].contains("10 of 130 answers of the models themselves have no cost"), "{:?}", other.notes);
    assert_eq!(told(&other, &costs), [] as [&str; 0]);
    assert_eq!(told(&other, &others), ["score_mean", "score_of_ceiling"]);
}

#[tokio::test]
async fn without_labels_there_is_no_domain_accuracy_and_no_ceiling() {
    let stage = Stage::with(1, 10).await;
    let by_label =
        ["domain_accuracy", "good_model_share", "score_ceiling", "score_ceiling_by_score", "score_of_ceiling"];
    write_labels(&stage.out.path().join("labels.jsonl"), &questions("other", 5));
    let unlabelled = stage.measure(stage.gateway()).await;
    assert_eq!(told(&unlabelled, &by_label), [] as [&str; 0]);
    assert!(unlabelled.notes[0].starts_with("10 of 10 verify questions have no label"), "{:?}", unlabelled.notes);
    let headline = report::headline(&unlabelled);
    assert!(headline.contains("domain accuracy -") && !headline.contains("ceiling"), "{headline}");

    // A part of them tells the accuracy of that part, but no ceiling of all.
    write_labels(&stage.out.path().join("labels.jsonl"), &questions("verify", 5));
    let half = stage.measure(stage.gateway()).await;
    assert_eq!(told(&half, &by_label), ["domain_accuracy", "good_model_share"]);
    assert_eq!(half.metrics()["domain_accuracy"], 0.2);
}

#[tokio::test]
async fn a_gateway_that_answers_nothing_is_given_up_early() {
    let stage = Stage::with(1, 200).await;
    let n_asked = Arc::new(AtomicUsize::new(0));
    let counted = n_asked.clone();
    let refuse = async move || {
        counted.fetch_add(1, Ordering::SeqCst);
        (StatusCode::SERVICE_UNAVAILABLE, "no upstream")
    };
    let server = serve_router(Router::new().route("/v1/chat/completions", post(refuse))).await;
    let args = stage.args(&server, &["--train-rows", "0", "--concurrency", "5"]);
    let error = measure(&args).await.err().unwrap().to_string();
    assert!(error.starts_with("verify: not one of the first 15 questions was answered"), "{error}");
    assert!(error.contains("no upstream") && error.contains("--timeout-secs"), "{error}");
    assert!(n_asked.load(Ordering::SeqCst) <= 20, "the fifteen, and those in flight");

    let hang = async || std::future::pending::<()>().await;
    let server = serve_router(Router::new().route("/v1/chat/completions", post(hang))).await;
    let stage = Stage::with(1, 1).await;
    let challenge = measure(&stage.args(&server, &["--train-rows", "0", "--timeout-secs", "1"])).await.unwrap();
    assert!(challenge.verified[0].error.as_ref().unwrap().contains("no whole answer within 1 s"));
}

#[tokio::test]
async fn streams_that_fail_are_a_failure_that_says_why() {
    let stage = Stage::with(1, 10).await;
    let server = serve_router(Arc::new(FixedGateway { streams: false, ..stage.gateway() }).router()).await;
    let error = run(stage.args(&server, &["--train-rows", "0", "--stream"])).await.unwrap_err().to_string();
    assert!(error.starts_with("10 of 10 streamed questions failed") && error.contains("no streams"), "{error}");
    let folder = std::fs::read_dir(stage.out.path()).unwrap().map(|entry| entry.unwrap().path());
    let report =
        std::fs::read_to_string(folder.into_iter().find(|path| path.is_dir()).unwrap().join("report.md")).unwrap();
    assert!(report.contains("errors 0, as streams 10"), "{report}");
    assert!(report.contains("**Note.** 10 of 10 streamed questions failed; the first: POST"), "{report}");
    assert!(report.contains("first event after - ms"), "{report}");
}

#[tokio::test]
async fn a_failed_training_says_what_need_not_be_repeated() {
    let stage = Stage::with(4, 5).await;
    let server = serve_router(Arc::new(stage.gateway()).router()).await;
    let args = stage.args(&server, &["--train-command", "echo too few rows >&2; false"]);
    let error = format!("{:#}", measure(&args).await.err().unwrap());
    assert!(error.contains("after 4 collected rows") && error.contains("--train-rows 0"), "{error}");
    assert!(error.contains("too few rows"), "{error}");
}

#[tokio::test]
async fn bad_flags_are_found_before_the_first_question() {
    let stage = Stage::with(4, 5).await;
    let gateway = Arc::new(stage.gateway());
    let server = serve_router(gateway.clone().router()).await;
    let error = measure(&stage.args(&server, &["--max-model", "qwen-mx"])).await.err().unwrap().to_string();
    assert!(error.contains("--max-model \"qwen-mx\": the mock has qwen-max"), "{error}");
    assert_eq!(gateway.n_training.load(Ordering::SeqCst), 0);

    for (flag, part) in [
        ("--gateway=https://127.0.0.1:1", "only http://"),
        ("--gateway=127.0.0.1:1", "starts with http://"),
        ("--train-url=localhost", "starts with http://"),
        ("--lambda-cost=nan", "must be between"),
        ("--lambda-latency=-1", "must be between"),
        ("--timeout-secs=0", "0 is not in"),
        ("--train-timeout-secs=99999999999999999999", "number too large"),
    ] {
        let good: &[&str] = if flag.starts_with("--gateway") { &[] } else { &["--gateway", "http://127.0.0.1:1"] };
        let words = [&["challenge", "--name", "n", flag][..], good].concat();
        let error = <Wrapper as clap::Parser>::try_parse_from(words).err().unwrap().to_string();
        assert!(error.contains(flag.split('=').next().unwrap()) && error.contains(part), "{flag}: {error}");
    }
}
