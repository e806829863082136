//! A scorer without a model: how much of the query's terms a text has, rare terms counting more.
//!
//! The fallback where no model serves the language or none is loaded. How rare a term is comes from the texts that are
//! scored together, so scores of different calls compare only roughly.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;

use super::ports::Score;
use super::terms::terms;

/// How fast a repeated term stops counting, and how much a text's length counts; BM25's constants, not tuned.
const SATURATION: f64 = 1.2;
const LENGTH: f64 = 0.75;
/// How often a term of an average text must stand in it to count whole: once counts 2.2 / 2.2.
const FULL: f64 = SATURATION + 1.0;

/// Scores from 0 (no term of the query) to 1 (all of them, in a text of usual length or shorter).
#[derive(Debug, Clone, Copy, Default)]
pub struct LexicalScorer;

#[async_trait]
impl Score for LexicalScorer {
    fn name(&self) -> &str {
        "lexical-overlap-1"
    }

    async fn score(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, String> {
        Ok(overlap(query, texts))
    }
}

fn overlap(query: &str, texts: &[&str]) -> Vec<f32> {
    let query = terms(query);
    let query: HashSet<&str> = query.split_whitespace().collect();
    // In a fixed order: sums of floats depend on it.
    let mut query: Vec<&str> = query.into_iter().collect();
    query.sort_unstable();
    let texts: Vec<String> = texts.iter().map(|text| terms(text)).collect();
    let counts: Vec<(HashMap<&str, usize>, usize)> = texts
        .iter()
        .map(|text| {
            let mut counts: HashMap<&str, usize> = HashMap::new();
            let mut length = 0;
            for term in text.split_whitespace() {
                *counts.entry(term).or_default() += 1;
                length += 1;
            }
            (counts, length)
        })
        .collect();
    let n = counts.len() as f64;
    let average = counts.iter().map(|(_, length)| *length as f64).sum::<f64>() / n.max(1.0);
    let rarity: Vec<f64> = query
        .iter()
        .map(|term| {
            let n_with = counts.iter().filter(|(counts, _)| counts.contains_key(term)).count() as f64;
            (1.0 + (n - n_with + 0.5) / (n_with + 0.5)).ln()
        })
        .collect();
    let whole: f64 = rarity.iter().sum();
    let score = |(counts, length): &(HashMap<&str, usize>, usize)| {
        let norm = 1.0 - LENGTH + LENGTH * *length as f64 / average.max(1.0);
        let found: f64 = query
            .iter()
            .zip(&rarity)
            .filter_map(|(term, rarity)| {
                let count = *counts.get(term)? as f64;
                Some(rarity * (count * FULL / (count + SATURATION * norm)).min(1.0))
            })
            .sum();
        if whole > 0.0 { (found / whole) as f32 } else { 0.0 }
    };
    counts.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best<'a>(query: &str, texts: &[&'a str]) -> &'a str {
        let scores = overlap(query, texts);
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        texts[best]
    }

    #[test]
    fn rare_terms_count_more() {
        let texts =
            ["The gateway routes requests.", "The gateway limits requests.", "The gateway logs requests by Raft."];
        assert_eq!(best("Does the gateway use Raft?", &texts), texts[2]);
    }

    #[test]
    fn chinese_is_scored() {
        let texts = ["网关负责转发请求。", "限流插件支持集群。", "日志保存七天。"];
        assert_eq!(best("限流支持集群吗", &texts), texts[1]);
    }

    #[test]
    fn nothing_in_common_is_zero() {
        assert_eq!(overlap("shark", &["tax law", ""]), vec![0.0, 0.0]);
        assert_eq!(overlap("", &["tax law"]), vec![0.0]);
        assert!(overlap("shark", &[]).is_empty());
        assert_eq!(overlap("shark film", &["shark film"]), vec![1.0]);
    }
}
