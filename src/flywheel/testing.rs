//! Records and databases for this module's tests.

use serde_json::json;

use super::record::{AnswerOutcome, AnswerRecord, DecisionRecord, ExchangeRecord, JsonText, Mode, Role, ScoreSource};
use super::{FILE_NAME, Store, rows};

/// An empty database in a folder that lives as long as the guard.
pub fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join(FILE_NAME)).unwrap();
    (folder, store)
}

/// A served exchange with one unscored answer by `small`.
pub fn exchange(id: &str, at_ms: i64) -> ExchangeRecord {
    ExchangeRecord {
        id: id.into(),
        at_ms,
        tenant: "acme".into(),
        route: "chat".into(),
        consumer: Some("alice".into()),
        mode: Mode::Serve,
        prompt_hash: format!("hash-{id}"),
        messages: Some(JsonText(json!([{"role": "user", "content": format!("问题 {id}: 1.10 + 1e300?")}]).to_string())),
        features: Some(vec![1, 2, 3]),
        features_version: Some(1),
        stream: false,
        decision: Some(DecisionRecord {
            router: "default".into(),
            router_version: Some(7),
            chosen: "small".into(),
            reasons: JsonText(json!({"small": 0.9, "large": 0.25}).to_string()),
        }),
        answers: vec![answer("small", None)],
    }
}

pub fn answer(model: &str, score: Option<f64>) -> AnswerRecord {
    AnswerRecord {
        role: Role::Served,
        model: model.into(),
        provider: "mock".into(),
        output: Some(format!("answer by {model}")),
        outcome: AnswerOutcome::Ok,
        error: None,
        http_status: Some(200),
        latency_ms: 120.5,
        first_token_ms: None,
        prompt_tokens: Some(10),
        completion_tokens: Some(20),
        cost_usd: Some(0.000_1),
        score,
        score_source: score.map(|_| ScoreSource::Evaluate),
        scored_at_ms: None,
    }
}

pub fn insert(store: &Store, id: &str, at_ms: i64, answers: Vec<AnswerRecord>) {
    let mut record = exchange(id, at_ms);
    record.answers = answers;
    assert!(store.write("test", |c| rows::insert_exchange(c, &record, 1_000 + at_ms)).unwrap());
}
