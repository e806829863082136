//! The retrieval evaluator's task: does a retrieved passage contain an answer? Scored by what judges passages on the server, on the
//! pairs that published baselines use, the first ten of the plain reciprocal rank fusion, so that a better ranking does not change the test.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::api::{Gateway, Hit};
use super::detect::{self, Scored, Split};
use super::ladder::{Asking, pairs};
use super::progress_bar;
use super::set::{Query, RagSet};
use super::steps::Step;

const N_PAIRS_PER_QUERY: usize = 10;

/// Parts that say how sure they are of a passage.
const JUDGING: [&str; 2] = ["hop", "rerank"];

#[derive(Debug, Clone)]
pub struct Evaluation {
    pub n_pairs: usize,
    pub positive_share: f64,
    pub auc: f64,
    pub split: Split,
    /// Whether the threshold was chosen on these very pairs.
    pub threshold_is_fitted: bool,
    pub notes: Vec<String>,
}

/// The pairs of one query, for the raw rows.
#[derive(Serialize, Debug, Clone)]
pub struct EvaluatorRow {
    pub set: String,
    pub step: &'static str,
    pub query: String,
    pub pairs: Vec<Scored>,
}

/// `parts` are those of the step whose judgement is asked for. None where passages cannot contain the set's answers.
pub async fn run(
    gateway: &Gateway,
    set: &RagSet,
    asking: &Asking,
    parts: &[&'static str],
    n_candidates: usize,
    threshold: Option<f64>,
) -> Result<Option<(Evaluation, Vec<EvaluatorRow>)>> {
    let queries: Vec<&Query> = set.queries.iter().filter(|query| !query.answer_strings.is_empty()).collect();
    if queries.is_empty() {
        return Ok(None);
    }
    let judging = parts.iter().copied().filter(|part| JUDGING.contains(part));
    let step =
        Step { name: "evaluator".to_string(), parts: ["dense", "lexical", "rrf"].into_iter().chain(judging).collect() };
    let bar = progress_bar(&format!("{} evaluator", set.key), queries.len());
    let (mut rows, mut n_failed, mut lacks_fused) = (Vec::new(), 0usize, false);
    for query in queries {
        let body = json!({"query": query.question, "top_k": n_candidates.max(asking.top_k), "steps": step.body(&asking.unknown_switches)});
        match gateway.search(&set.knowledge_base, &body).await?.outcome {
            Ok(found) => {
                lacks_fused |= found.results.iter().any(|hit| hit.score_of("fused").is_none());
                let pairs = pairs(query, first_by_fusion(&found.results).into_iter());
                rows.push(EvaluatorRow { set: set.key.clone(), step: "evaluator", query: query.id.clone(), pairs });
            }
            Err(_) => n_failed += 1,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut notes = Vec::new();
    if n_failed > 0 {
        notes.push(format!("{n_failed} queries of the retrieval evaluator's task failed."));
    }
    if lacks_fused {
        notes.push(
            "Results without `scores.fused` in the retrieval evaluator's task: its pairs are the first ten after reranking, \
             not those of the fusion, and the figures are not comparable."
                .to_string(),
        );
    }
    Ok(evaluate(&rows, threshold, notes).map(|evaluation| (evaluation, rows)))
}

/// The ten best by the fusion's score; in the order given where that is missing.
fn first_by_fusion(hits: &[Hit]) -> Vec<&Hit> {
    let mut hits: Vec<&Hit> = hits.iter().collect();
    let fused = |hit: &Hit| hit.score_of("fused").unwrap_or(f64::NEG_INFINITY);
    hits.sort_by(|a, b| fused(b).total_cmp(&fused(a)));
    hits.truncate(N_PAIRS_PER_QUERY);
    hits
}

fn evaluate(rows: &[EvaluatorRow], threshold: Option<f64>, notes: Vec<String>) -> Option<Evaluation> {
    let scored: Vec<Scored> = rows.iter().flat_map(|row| row.pairs.iter().copied()).collect();
    let n_positive = scored.iter().filter(|(_, is_positive)| *is_positive).count();
    Some(Evaluation {
        n_pairs: scored.len(),
        positive_share: n_positive as f64 / scored.len().max(1) as f64,
        auc: detect::auc(&scored)?,
        split: detect::split(&scored, threshold)?,
        threshold_is_fitted: threshold.is_none(),
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pairs_are_those_of_the_fusion_whatever_the_reranker_says() {
        let hits: Vec<Hit> = (0..12)
            .map(|i| {
                let scores = json!({"fused": 1.0 / f64::from(i + 1), "rerank": f64::from(i)});
                serde_json::from_value(json!({"document": format!("d{i}"), "text": "", "scores": scores})).unwrap()
            })
            .rev()
            .collect();
        let names: Vec<&str> = first_by_fusion(&hits).into_iter().map(|hit| hit.document.as_str()).collect();
        assert_eq!(names, (0..10).map(|i| format!("d{i}")).collect::<Vec<_>>());
    }

    #[test]
    fn pairs_of_all_queries_are_judged_together() {
        let row =
            |pairs: Vec<Scored>| EvaluatorRow { set: String::new(), step: "evaluator", query: String::new(), pairs };
        let rows = [row(vec![(0.9, true), (0.1, false)]), row(vec![(0.8, true), (0.7, false)])];
        let evaluation = evaluate(&rows, Some(0.75), Vec::new()).unwrap();
        assert_eq!((evaluation.n_pairs, evaluation.positive_share, evaluation.auc), (4, 0.5, 1.0));
        assert_eq!((evaluation.split.balanced_accuracy, evaluation.threshold_is_fitted), (1.0, false));
        assert!(evaluate(&[row(vec![(0.5, true)])], None, Vec::new()).is_none());
    }
}
