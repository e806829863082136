//! What is on by default is what was measured to pay: the newest committed ladder against [`Steps::default`].

use std::path::Path;

use serde_json::Value;
use weirgate::rag::retrieve::{Fusion, Steps};

/// Of the newest committed run of the whole ladder.
fn ladder() -> Value {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval/runs");
    let folders = std::fs::read_dir(runs).unwrap().map(|entry| entry.unwrap().path());
    let newest = folders.filter(|path| path.to_string_lossy().contains("-rag-ladder")).max().unwrap();
    serde_json::from_str(&std::fs::read_to_string(newest.join("summary.json")).unwrap()).unwrap()
}

/// Sets on which a step made the ranking better, and worse, than the step before it; by nDCG, where that is no chance.
fn verdict(ladder: &Value, step: &str) -> (Vec<String>, Vec<String>) {
    let (mut helps, mut harms) = (Vec::new(), Vec::new());
    let suffix = format!(".{step}.ndcg10_change");
    for (key, change) in ladder.as_object().unwrap() {
        let Some(set) = key.strip_suffix(&suffix) else { continue };
        let p = ladder[format!("{set}.{step}.ndcg10_p")].as_f64().unwrap();
        let change = change.as_f64().unwrap();
        if p < 0.05 {
            if change > 0.0 { &mut helps } else { &mut harms }.push(set.to_owned());
        }
    }
    (helps, harms)
}

#[test]
fn a_step_is_on_by_default_exactly_if_the_ladder_says_that_it_helps_and_harms_nowhere() {
    let ladder = ladder();
    let pays = |step: &str| {
        let (helps, harms) = verdict(&ladder, step);
        !helps.is_empty() && harms.is_empty()
    };
    let steps = Steps::default();
    assert!(steps.dense && steps.lexical);
    assert_eq!(steps.fusion == Fusion::Weighted, pays("fusion"), "fusion: {:?}", verdict(&ladder, "fusion"));
    assert_eq!(steps.hop, pays("hop"), "hop: {:?}", verdict(&ladder, "hop"));
    assert_eq!(steps.rerank, pays("rerank"), "rerank: {:?}", verdict(&ladder, "rerank"));
}
