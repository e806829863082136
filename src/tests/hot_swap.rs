//! Router versions that are trained, promoted and rolled back under load: of many clients, streams among them, none notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::*;
use crate::routing::{about, collect, folder, reply};
use crate::streams::{open, read_some};

const N_CLIENTS: usize = 32;
/// Streams that are open from before the first swap until after the last.
const N_LONG: usize = 8;
const N_ROUNDS: usize = 5;
/// What is asked, over and over: each question that is not known yet would make the training longer.
const N_QUESTIONS: usize = 120;

const SAGA: &str = "tell a saga";
const SAGA_PIECES: [&str; 3] = ["once ", "upon ", "a time"];

/// The world of `routing`, in which a saga goes on after its first word when `told`.
async fn world(told: watch::Receiver<bool>) -> Upstream {
    Upstream::start(move |_, seen| {
        let mut told = told.clone();
        async move {
            if !seen.json()["messages"].to_string().contains(SAGA) {
                return reply(&seen);
            }
            let mut events = events(seen.json()["model"].as_str().unwrap(), &SAGA_PIECES);
            let rest = Bytes::from(events.split_off(2).concat());
            let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(events.concat()))]);
            let rest = stream::once(async move {
                drop(told.wait_for(|goes_on| *goes_on).await);
                Ok::<_, std::io::Error>(rest)
            });
            answer(200, "text/event-stream", Body::from_stream(first.chain(rest)))
        }
    })
    .await
}

fn asked(text: &str, is_stream: bool) -> Value {
    let mut body = question("auto", text);
    body["stream"] = json!(is_stream);
    body
}

/// What the clients have in common.
struct Load {
    n_answers: watch::Sender<usize>,
    is_over: AtomicBool,
}

impl Load {
    /// Waits for two more answers for each client, of which most are to questions asked after this call.
    async fn goes_on(&self) {
        let mut n_answers = self.n_answers.subscribe();
        let enough = *n_answers.borrow() + 2 * N_CLIENTS;
        let waited = tokio::time::timeout(PATIENCE, n_answers.wait_for(|n| *n >= enough)).await;
        assert!(waited.is_ok(), "waited in vain for answers");
    }
}

/// Asks until the load is over, every other pair of questions for streams. Each answer must be whole.
async fn client(gateway: Arc<Gateway>, load: Arc<Load>, start: usize) {
    for n in start.. {
        if load.is_over.load(Ordering::SeqCst) {
            break;
        }
        let is_stream = n % 4 < 2;
        let body = asked(&about(n % N_QUESTIONS), is_stream).to_string();
        let answer = gateway.post("/v1/chat/completions", &[("x-key", "app")], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let model = answer.header("x-weirgate-model").unwrap();
        let text = format!("from {model}");
        let expected = if is_stream { events(model, &[&text]).concat() } else { completion(model, &text).to_string() };
        assert_eq!(answer.text(), expected);
        load.n_answers.send_modify(|n| *n += 1);
    }
}

/// Trains and promotes whatever the gate says; returns the version.
async fn train(gateway: &Gateway) -> i64 {
    let trained = gateway.admin("POST", "/api/v1/routers/default/train?force=true").await;
    assert_eq!(trained.status, 200, "{}", trained.text());
    trained.json()["version"].as_i64().unwrap()
}

/// Changes which version serves, and returns the one that does now.
async fn swap(gateway: &Gateway, how: &str) -> i64 {
    let swapped = gateway.admin("POST", &format!("/api/v1/routers/default/{how}")).await;
    assert_eq!(swapped.status, 200, "{}", swapped.text());
    swapped.json()["id"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_promoted_and_rolled_back_without_a_failed_request_or_a_cut_stream() {
    let (go_on, told) = watch::channel(false);
    let world = world(told).await;
    let folder = folder(&world, &json!({"consumers": ["lab"]}));
    // The sagas are silent for as long as the swaps take.
    let gateway = Arc::new(Gateway::start_with(folder, "[timeouts]\nstream_idle_secs = 3600\n"));
    collect(&gateway, N_QUESTIONS).await;
    let first = train(&gateway).await;

    let mut sagas = Vec::new();
    for _ in 0..N_LONG {
        let response = open(gateway.http, &[("x-key", "app")], &asked(SAGA, true)).await;
        let model = response.headers()["x-weirgate-model"].to_str().unwrap().to_owned();
        let mut body = response.into_body();
        let begun = read_some(&mut body, 1).await;
        sagas.push((model, begun, body));
    }
    let load = Arc::new(Load { n_answers: watch::Sender::new(0), is_over: AtomicBool::new(false) });
    let mut clients = JoinSet::new();
    for n in 0..N_CLIENTS {
        clients.spawn(client(gateway.clone(), load.clone(), n));
    }
    load.goes_on().await;
    let second = train(&gateway).await;
    load.goes_on().await;
    for _ in 0..N_ROUNDS {
        assert_eq!(swap(&gateway, "rollback").await, first);
        load.goes_on().await;
        assert_eq!(swap(&gateway, &format!("versions/{second}/promote")).await, second);
        load.goes_on().await;
    }
    load.is_over.store(true, Ordering::SeqCst);
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }

    go_on.send(true).unwrap();
    for (model, mut got, body) in sagas {
        got.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        assert_eq!(String::from_utf8(got).unwrap(), events(&model, &SAGA_PIECES).concat());
    }
    eventually_async("decisions of both versions in the record", || async {
        let (_, out, _) = gateway.cli(&["flywheel", "export", "-"]);
        let rows = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let versions: BTreeSet<i64> = rows.filter_map(|row| row["decision"]["router_version"].as_i64()).collect();
        (versions == BTreeSet::from([first, second])).then_some(())
    })
    .await;
}
