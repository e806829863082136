//! Ranking metrics of one query. Which they are and how they are named stands in one table.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

/// Values of one query or means over queries, by the metric's key; a metric that does not apply is absent.
pub type Values = BTreeMap<&'static str, f64>;

pub struct Metric {
    /// As in `summary.json`.
    pub key: &'static str,
    pub title: &'static str,
    pub meaning: &'static str,
}

const fn metric(key: &'static str, title: &'static str, meaning: &'static str) -> Metric {
    Metric { key, title, meaning }
}

/// In the order of the report's columns.
pub static METRICS: [Metric; 14] = [
    metric("r2", "R@2", "share of the gold documents among the first 2"),
    metric("r5", "R@5", "share of the gold documents among the first 5"),
    metric("r10", "R@10", "share of the gold documents among the first 10"),
    metric("all5", "all@5", "every gold document is among the first 5"),
    metric("mrr10", "MRR@10", "1 / rank of the first gold document, 0 after rank 10"),
    metric(
        "ndcg10",
        "nDCG@10",
        "discounted gain of the first 10 by that of the best order; linear gains as in the judgements",
    ),
    metric("p5", "P@5", "gold documents among the first 5, by 5"),
    metric(
        "ans5",
        "ans@5",
        "an answer string is in what is sent: the first 5 chunks, or the context where it is compressed",
    ),
    metric("ans5_chunks", "ans@5 uncompressed", "an answer string is in the first 5 chunks, compressed or not"),
    metric("support", "support", "share of the annotated supporting sentences that are in what is sent"),
    metric("context_gold", "gold share", "share of the compressed context's sentences that come from a gold document"),
    metric("tokens", "tokens", "estimated tokens of what is sent"),
    metric("tokens_chunks", "tokens uncompressed", "estimated tokens of the first 5 chunks"),
    metric("tokens_server", "tokens (server)", "the server's own count"),
];

/// The metrics of the ranking alone: a failed query has 0 in each.
pub const RANKING: [&str; 7] = ["r2", "r5", "r10", "all5", "mrr10", "ndcg10", "p5"];

/// What a document is worth to a query; absent means nothing.
pub type Gains = BTreeMap<String, u32>;

/// A document of a ranking and its gain, as the raw rows show it.
#[derive(Serialize, Clone, Debug, PartialEq)]
pub struct Ranked {
    pub document: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub gain: u32,
}

/// Chunks to documents: the first chunk of each counts.
pub fn documents_in_order<'a>(chunks: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    chunks.into_iter().filter(|document| seen.insert(*document)).collect()
}

/// Metrics of a ranking of documents without doubles; nothing where the query has no gold.
pub fn ranking(documents: &[&str], gold: &Gains) -> Values {
    if gold.is_empty() {
        return Values::new();
    }
    let gains: Vec<u32> =
        documents.iter().take(10).map(|document| gold.get(*document).copied().unwrap_or_default()).collect();
    let n_found = |k: usize| gains.iter().take(k).filter(|gain| **gain > 0).count();
    let recall = |k: usize| n_found(k) as f64 / gold.len() as f64;
    let reciprocal_rank = gains.iter().position(|gain| *gain > 0).map_or(0.0, |at| 1.0 / (at + 1) as f64);
    let mut ideal: Vec<u32> = gold.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    ideal.truncate(10);
    Values::from([
        ("r2", recall(2)),
        ("r5", recall(5)),
        ("r10", recall(10)),
        ("all5", f64::from(n_found(5) == gold.len())),
        ("mrr10", reciprocal_rank),
        ("ndcg10", discounted(&gains) / discounted(&ideal)),
        ("p5", n_found(5) as f64 / 5.0),
    ])
}

/// The values of a query whose search failed.
pub fn failed(gold: &Gains, has_answers: bool) -> Values {
    let ranking = RANKING.iter().filter(|_| !gold.is_empty()).map(|key| (*key, 0.0));
    ranking.chain(["ans5", "ans5_chunks"].into_iter().filter(|_| has_answers).map(|key| (key, 0.0))).collect()
}

fn discounted(gains: &[u32]) -> f64 {
    gains.iter().enumerate().map(|(at, gain)| f64::from(*gain) / (at as f64 + 2.0).log2()).sum()
}

fn is_zero(gain: &u32) -> bool {
    *gain == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(documents: &[&str], gold: &[(&str, u32)], expected: [f64; 7]) {
        let gold: Gains = gold.iter().map(|(document, gain)| ((*document).to_string(), *gain)).collect();
        let values = ranking(documents, &gold);
        for (key, expected) in RANKING.iter().zip(expected) {
            assert!(
                (values[key] - expected).abs() < 1e-9,
                "{documents:?} {key}: {} instead of {expected}",
                values[key]
            );
        }
    }

    #[test]
    fn rankings_by_hand() {
        let log2 = |x: f64| x.log2();
        check(&["a", "b", "c"], &[("a", 1)], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2]);
        // Two gold documents at the ranks 2 and 6.
        let dcg = 1.0 / log2(3.0) + 1.0 / log2(7.0);
        let ideal = 1.0 + 1.0 / log2(3.0);
        check(&["x", "a", "y", "z", "w", "b"], &[("a", 1), ("b", 1)], [0.5, 0.5, 1.0, 0.0, 0.5, dcg / ideal, 0.2]);
        // Graded gains: the better one (3) second, the other (2) first.
        let graded = (2.0 + 3.0 / log2(3.0)) / (3.0 + 2.0 / log2(3.0));
        check(&["b", "a"], &[("a", 3), ("b", 2)], [1.0, 1.0, 1.0, 1.0, 1.0, graded, 0.4]);
        // Gold at rank 11 does not count.
        let eleven: Vec<String> = (0..10).map(|i| format!("x{i}")).chain(["a".to_string()]).collect();
        check(&eleven.iter().map(String::as_str).collect::<Vec<_>>(), &[("a", 1)], [0.0; 7]);
        check(&[], &[("a", 1)], [0.0; 7]);
    }

    #[test]
    fn more_gold_than_ranks_is_measured_against_ten() {
        let names: Vec<String> = (0..12).map(|i| format!("d{i}")).collect();
        let gold: Gains = names.iter().map(|name| (name.clone(), 1)).collect();
        let values = ranking(&names.iter().map(String::as_str).collect::<Vec<_>>(), &gold);
        assert!((values["ndcg10"] - 1.0).abs() < 1e-12 && (values["r10"] - 10.0 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn chunks_of_one_document_count_once_at_their_first_rank() {
        assert_eq!(documents_in_order(["b", "a", "b", "a", "c"]), ["b", "a", "c"]);
    }

    #[test]
    fn no_gold_no_metrics() {
        assert!(ranking(&["a"], &Gains::new()).is_empty() && failed(&Gains::new(), false).is_empty());
    }
}
