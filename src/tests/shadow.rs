//! Shadow calls of a baseline that hangs: no client waits for it, and number and money are bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::flywheel::{exported, start};
use crate::harness::*;

/// A provider that is quick but for the model `big`, which says nothing until it is let go.
struct Provider {
    upstream: Upstream,
    n_big: Arc<AtomicUsize>,
    let_go: watch::Sender<bool>,
}

impl Provider {
    async fn start() -> Provider {
        let (let_go, told) = watch::channel(false);
        let n_big = Arc::new(AtomicUsize::new(0));
        let counted = n_big.clone();
        let upstream = Upstream::start(move |_, seen| {
            let (mut told, counted) = (told.clone(), counted.clone());
            async move {
                let asked = seen.json();
                let model = asked["model"].as_str().unwrap().to_owned();
                if model == "big" {
                    counted.fetch_add(1, Ordering::SeqCst);
                    drop(told.wait_for(|is_let_go| *is_let_go).await);
                }
                if asked["stream"] == true {
                    sse(&events(&model, &["quick"]))
                } else {
                    ok(&completion(&model, "quick"))
                }
            }
        })
        .await;
        Provider { upstream, n_big, let_go }
    }

    fn n_big(&self) -> usize {
        self.n_big.load(Ordering::SeqCst)
    }
}

/// Every prompt goes to `small` and, as far as `shadow` allows, to `big` too.
async fn gateway(provider: &Provider, shadow: Value) -> Gateway {
    start(&provider.upstream, &json!({"shadow": shadow, "weights": {"cost": 100}}), "").await
}

/// Asks and gets the small model's answer, whole.
async fn ask(gateway: &Gateway, is_stream: bool) {
    let mut body = question("auto", "hi there");
    body["stream"] = json!(is_stream);
    let answer = tokio::time::timeout(PATIENCE, gateway.chat(&body)).await.expect("no client waits for the baseline");
    let expected =
        if is_stream { events("small", &["quick"]).concat() } else { completion("small", "quick").to_string() };
    assert_eq!((answer.status, answer.text()), (200, expected));
}

fn n_shadows(metrics: &str, result: &str) -> u64 {
    let name = format!("weirgate_shadow_calls_total{{result=\"{result}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse().unwrap())
}

#[tokio::test]
async fn no_client_waits_for_a_baseline_that_hangs() {
    let provider = Provider::start().await;
    let gateway = gateway(&provider, json!({"rate": 1})).await;
    ask(&gateway, false).await;
    ask(&gateway, true).await;
    eventually_async("both shadow calls", || async { (provider.n_big() == 2).then_some(()) }).await;
    let rows = exported(&gateway, 2).await;
    assert!(rows.iter().all(|row| row["answers"].as_array().unwrap().len() == 1), "recorded without the baseline");

    provider.let_go.send(true).unwrap();
    let rows = eventually_async("the baseline's answers", || async {
        let rows = exported(&gateway, 2).await;
        rows.iter().all(|row| row["answers"].as_array().unwrap().len() == 2).then_some(rows)
    })
    .await;
    for row in rows {
        let shadow = &row["answers"][1];
        let told = ["role", "model", "outcome", "output"].map(|field| shadow[field].as_str().unwrap());
        assert_eq!(told, ["shadow", "big", "ok", "quick"]);
    }
    assert_eq!(n_shadows(&gateway.metrics().await, "answered"), 2);
}

#[tokio::test]
async fn without_a_budget_the_baseline_is_not_asked() {
    let provider = Provider::start().await;
    let gateway = gateway(&provider, json!({"rate": 1, "budgetUsdPerDay": 0})).await;
    for _ in 0..3 {
        ask(&gateway, false).await;
    }
    assert_eq!(n_shadows(&gateway.metrics().await, "over_budget"), 3);
    assert_eq!((provider.n_big(), provider.upstream.n_calls()), (0, 3));
}

#[tokio::test]
async fn a_spent_budget_ends_the_shadow_calls_of_the_day() {
    let provider = Provider::start().await;
    provider.let_go.send(true).unwrap();
    // One answer of `big`, with 10 tokens in and 2 out, costs 0.00016.
    let gateway = gateway(&provider, json!({"rate": 1, "budgetUsdPerDay": 0.0001})).await;
    ask(&gateway, false).await;
    eventually_async("the shadow's record, which comes after its bill", || async {
        let row = exported(&gateway, 1).await.remove(0);
        (row["answers"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    ask(&gateway, false).await;
    let metrics = gateway.metrics().await;
    assert_eq!((n_shadows(&metrics, "answered"), n_shadows(&metrics, "over_budget")), (1, 1));
    assert_eq!(provider.n_big(), 1);
}

#[tokio::test]
async fn a_baseline_that_hangs_takes_one_place_and_no_more() {
    let provider = Provider::start().await;
    let gateway = gateway(&provider, json!({"rate": 1, "maxConcurrent": 1})).await;
    ask(&gateway, false).await;
    eventually_async("the shadow call", || async { (provider.n_big() == 1).then_some(()) }).await;
    for _ in 0..3 {
        ask(&gateway, false).await;
    }
    assert_eq!(n_shadows(&gateway.metrics().await, "over_concurrency"), 3);
    assert_eq!((provider.n_big(), provider.upstream.n_calls()), (1, 5));

    // The place is free again once the baseline has answered.
    provider.let_go.send(true).unwrap();
    eventually_async("a second shadow call", || async {
        ask(&gateway, false).await;
        (provider.n_big() > 1).then_some(())
    })
    .await;
}
