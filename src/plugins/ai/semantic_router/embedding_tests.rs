//! When a decision asks for an embedding, and what it makes of the answer.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::learning::live::{Routers, Serving};
use crate::plugins::{CompletedCall, HttpAnswer, HttpCall};
use crate::routing::{Example, Family as Heads, Outcome, TrainOptions, train};
use crate::stores::Store;
use crate::stores::redis::RedisConfig;
use crate::telemetry::metrics::Metrics;

/// Embeds every text alike, and counts.
struct Embeds {
    vector: Option<Vec<f32>>,
    n_asked: AtomicUsize,
    metrics: Metrics,
}

#[async_trait]
impl Host for Embeds {
    async fn complete(&self, _call: LlmCall) -> CompletedCall {
        panic!("a decision calls no model")
    }

    async fn http(&self, _call: HttpCall) -> Result<HttpAnswer, String> {
        panic!("a decision calls no service")
    }

    fn spawn(&self, _work: Pin<Box<dyn Future<Output = ()> + Send>>) {}

    fn flywheel(&self) -> Option<&Flywheel> {
        None
    }

    fn store(&self, _redis: Option<&RedisConfig>) -> Arc<dyn Store> {
        panic!("a decision keeps nothing")
    }

    fn data_dir(&self) -> &Path {
        panic!("a decision reads no file")
    }

    fn router(&self, _name: &str) -> Arc<LiveRouter> {
        panic!("the test has it")
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn embed(&self, _text: &str) -> Option<Vec<f32>> {
        self.n_asked.fetch_add(1, Ordering::Relaxed);
        self.vector.clone()
    }
}

const TEXT: &str = "hm?";

/// Model `a` is right where the embedding points up, `b` where it points down; the text is always the same. `lead` is what
/// `a` is better at everywhere.
fn live(family: Heads, lead: f32) -> Arc<LiveRouter> {
    let outcome = |model: &str, score: f32| Outcome { model: model.into(), score, latency_ms: 1.0, cost_usd: 0.0 };
    let example = |hash: u64| {
        let up = hash.is_multiple_of(2);
        let (right, wrong) = (1.0 - lead, 0.0);
        let scores = if up { (right + lead, wrong) } else { (wrong + lead, right) };
        Example {
            hash,
            features: extract(&Prompt::single(TEXT)),
            embedding: Some(vec![if up { 1.0 } else { -1.0 }, 0.0]),
            outcomes: vec![outcome("a", scores.0), outcome("b", scores.1)],
        }
    };
    let examples: Vec<Example> = (0..200).map(example).collect();
    let options = TrainOptions { folds: 2, baseline: "a".into(), families: vec![family], ..TrainOptions::default() };
    let router = train(&examples, None, &options, &mut |_| {}).unwrap().router;
    let live = Routers::default().get("default");
    live.swap(Some(Serving { id: 1, router }));
    live
}

/// The model chosen, and how often an embedding was asked for.
async fn decided(setting: &str, live: &Arc<LiveRouter>, vector: Option<Vec<f32>>) -> (String, usize) {
    let value = json!({"candidates": [{"model": "a"}, {"model": "b"}], "baseline": "a", "embedding": setting});
    let (config, problems) = Config::read(&Scope { global: Some(&value), rule: None, n_rules: 0 });
    assert_eq!(problems, []);
    let host = Arc::new(Embeds { vector, n_asked: AtomicUsize::new(0), metrics: Metrics::new() });
    let router = SemanticRouter::new(config, live.clone(), host.clone());
    let body: Value = json!({"model": "auto", "messages": [{"role": "user", "content": TEXT}]});
    let chat = ChatRequest::parse(&Bytes::from(body.to_string())).unwrap_or_else(|_| panic!("a chat request"));
    let decision = router.decide(&features_of(&chat), &chat).await.decision;
    (decision.model, host.n_asked.load(Ordering::Relaxed))
}

#[tokio::test]
async fn the_embedding_decides_where_it_is_asked_for_and_the_features_where_there_is_none() {
    let semantic = live(Heads::Semantic, 0.0);
    let (up, down) = (Some(vec![1.0, 0.0]), Some(vec![-1.0, 0.0]));
    for setting in ["always", "auto"] {
        assert_eq!(decided(setting, &semantic, up.clone()).await, ("a".into(), 1), "{setting}");
        assert_eq!(decided(setting, &semantic, down.clone()).await, ("b".into(), 1), "{setting}");
    }
    let (without, n_asked) = decided("off", &semantic, down.clone()).await;
    assert_eq!((decided("always", &semantic, None).await, n_asked), ((without, 1), 0));
}

#[tokio::test]
async fn nothing_is_embedded_in_vain() {
    let down = Some(vec![-1.0, 0.0]);
    // The wording says `a` by far: `auto` leaves it at that.
    let clear = live(Heads::Semantic, 0.6);
    assert_eq!(decided("auto", &clear, down.clone()).await, ("a".into(), 0));
    assert_eq!(decided("always", &clear, down.clone()).await.1, 1);
    // This version has no use for an embedding.
    let wording = live(Heads::Ngrams, 0.0);
    assert_eq!(decided("always", &wording, down).await.1, 0);
}
