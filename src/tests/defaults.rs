//! What is on by default is what was measured to pay: the newest committed runs against [`Steps::default`].

use std::path::Path;

use serde_json::Value;
use weirgate::rag::retrieve::{Fusion, Steps};

/// Of the newest committed run of that name.
fn run(name: &str) -> Value {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval/runs");
    let folders = std::fs::read_dir(runs).unwrap().map(|entry| entry.unwrap().path());
    let newest = folders.filter(|path| path.to_string_lossy().ends_with(name)).max().unwrap();
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

/// What a step may take, as a multiple of the search without it.
const AFFORDABLE: f64 = 3.0;

/// By how much the step made the median search longer, where it did most.
fn slowdown(ladder: &Value, step: &str, before: &str) -> f64 {
    let suffix = format!(".{step}.latency_ms_p50");
    let sets = ladder.as_object().unwrap().iter();
    let ratios = sets.filter_map(|(key, after)| {
        let set = key.strip_suffix(&suffix)?;
        Some(after.as_f64()? / ladder[format!("{set}.{before}.latency_ms_p50")].as_f64()?)
    });
    ratios.fold(0.0, f64::max)
}

#[test]
fn a_step_is_on_by_default_exactly_if_it_was_measured_to_help_to_harm_nowhere_and_to_be_affordable() {
    let (ladder, chinese, reranker) = (run("-rag-ladder"), run("-rag-chinese"), run("-rag-reranker"));
    let steps = Steps::default();
    assert!(steps.dense && steps.lexical);
    for (run, step, before, is_on) in [
        (&ladder, "fusion", "rrf", steps.fusion == Fusion::Weighted),
        (&chinese, "fusion", "rrf", steps.fusion == Fusion::Weighted),
        (&ladder, "hop", "fusion", steps.hop),
        (&reranker, "rerank", "hop", steps.rerank),
    ] {
        let (helps, harms) = verdict(run, step);
        let slowdown = slowdown(run, step, before);
        let pays = !helps.is_empty() && harms.is_empty() && slowdown <= AFFORDABLE;
        assert_eq!(is_on, pays, "{step}: helps {helps:?}, harms {harms:?}, takes {slowdown:.1} times as long");
    }
}
