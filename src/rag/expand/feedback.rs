//! Pseudo-relevance feedback: words of the passages found first, weighted, for a second search (RM3's relevance model).
//!
//! Pure: the caller gives the passages' terms and the document frequencies of its own index. Deterministic.

use std::collections::HashMap;

/// A passage found by the first search.
#[derive(Debug, Clone, Copy)]
pub struct FeedbackPassage<'a> {
    /// As the index has them, joined by spaces.
    pub terms: &'a str,
    pub score: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// Passages that are believed, and terms that are taken from them; 10 and 10 are usual.
    pub n_passages: usize,
    pub n_terms: usize,
    /// The share of the question's own terms in the result.
    pub original_weight: f32,
    /// Terms in a greater share of all documents say nothing.
    pub max_document_share: f32,
}

impl Default for Feedback {
    fn default() -> Self {
        Feedback { n_passages: 10, n_terms: 10, original_weight: 0.5, max_document_share: 0.1 }
    }
}

/// The terms of the question and of the passages with their weights, the greatest first; the weights add up to 1. The
/// terms of the question are all kept.
///
/// A term's weight is its share in each passage times that passage's share of the scores, times how rare it is, for the
/// plain model prefers common words.
pub fn relevance_model(
    question_terms: &str,
    passages: &[FeedbackPassage<'_>],
    document_frequency: &dyn Fn(&str) -> u64,
    n_documents: u64,
    feedback: &Feedback,
) -> Vec<(String, f32)> {
    let mut ranked: Vec<&FeedbackPassage<'_>> = passages.iter().filter(|passage| passage.score.is_finite()).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked.truncate(feedback.n_passages);
    let expansion = expansion_terms(&ranked, document_frequency, n_documents, feedback);
    let question: Vec<&str> = question_terms.split_whitespace().collect();
    let own = if expansion.is_empty() { 1.0 } else { f64::from(feedback.original_weight.clamp(0.0, 1.0)) };
    let own = if question.is_empty() { 0.0 } else { own };
    let mut weights: HashMap<&str, f64> = HashMap::new();
    for term in &question {
        *weights.entry(term).or_default() += own / question.len() as f64;
    }
    let total: f64 = expansion.iter().map(|(_, weight)| weight).sum();
    for (term, weight) in expansion {
        *weights.entry(term).or_default() += (1.0 - own) * weight / total;
    }
    sorted(weights).into_iter().map(|(term, weight)| (term.to_string(), weight as f32)).collect()
}

fn expansion_terms<'a>(
    passages: &[&FeedbackPassage<'a>],
    document_frequency: &dyn Fn(&str) -> u64,
    n_documents: u64,
    feedback: &Feedback,
) -> Vec<(&'a str, f64)> {
    // Scores may be negative or on any scale; only how they lie to each other counts.
    let lowest = passages.last().map_or(0.0, |passage| f64::from(passage.score));
    let highest = passages.first().map_or(0.0, |passage| f64::from(passage.score));
    let range = if highest > lowest { highest - lowest } else { 1.0 };
    let mut weights: HashMap<&str, f64> = HashMap::new();
    for passage in passages {
        let terms: Vec<&str> = passage.terms.split_whitespace().collect();
        // The last passage keeps a tenth of the first one's weight.
        let belief = 0.1 + 0.9 * (f64::from(passage.score) - lowest) / range;
        for term in &terms {
            *weights.entry(term).or_default() += belief / terms.len() as f64;
        }
    }
    let n_documents = n_documents.max(1) as f64;
    weights.retain(|term, weight| {
        let frequency = document_frequency(term).max(1) as f64;
        *weight *= (n_documents / frequency).ln().max(0.0);
        *weight > 0.0 && frequency <= (n_documents * f64::from(feedback.max_document_share)).max(1.0)
    });
    let mut best = sorted(weights);
    best.truncate(feedback.n_terms);
    best
}

/// The greatest first; by the term itself where equal, because a map has no order.
fn sorted(weights: HashMap<&str, f64>) -> Vec<(&str, f64)> {
    let mut sorted: Vec<(&str, f64)> = weights.into_iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequency(term: &str) -> u64 {
        match term {
            "common" => 900,
            "film" => 90,
            "shark" => 20,
            _ => 1,
        }
    }

    fn passages() -> Vec<FeedbackPassage<'static>> {
        vec![
            FeedbackPassage { terms: "shark film common common common", score: 3.0 },
            FeedbackPassage { terms: "shark spielberg common", score: 2.0 },
            FeedbackPassage { terms: "tax law common", score: -1.0 },
        ]
    }

    #[test]
    fn words_of_the_best_passages_join_the_question() {
        let found = relevance_model("jaws film", &passages(), &frequency, 1_000, &Feedback::default());
        let terms: Vec<&str> = found.iter().map(|(term, _)| term.as_str()).collect();
        assert_eq!(terms[..3], ["film", "jaws", "shark"], "{found:?}");
        assert!(!terms.contains(&"common"), "a word of every document says nothing");
        assert!(terms.contains(&"spielberg") && terms.contains(&"tax"));
        let weight = |term: &str| found.iter().find(|(known, _)| known == term).unwrap().1;
        assert!(weight("spielberg") > 3.0 * weight("tax"), "the last passage is believed least: {found:?}");
        let sum: f32 = found.iter().map(|(_, weight)| weight).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn limits_hold() {
        let few = Feedback { n_passages: 1, n_terms: 1, ..Feedback::default() };
        let found = relevance_model("jaws", &passages(), &frequency, 1_000, &few);
        assert_eq!(found.iter().map(|(term, _)| term.as_str()).collect::<Vec<_>>(), ["jaws", "shark"]);
        let none = relevance_model("jaws", &[], &frequency, 1_000, &few);
        assert_eq!(none, [("jaws".to_string(), 1.0)]);
        assert!(relevance_model("", &[], &frequency, 0, &few).is_empty());
        let broken = [FeedbackPassage { terms: "x", score: f32::NAN }];
        assert_eq!(relevance_model("jaws", &broken, &frequency, 9, &few), [("jaws".to_string(), 1.0)]);
    }

    #[test]
    fn equal_scores_are_believed_equally() {
        let passages = ["a", "b"].map(|terms| FeedbackPassage { terms, score: 1.0 });
        let found = relevance_model("q", &passages, &frequency, 1_000, &Feedback::default());
        assert_eq!(found, [("q".to_string(), 0.5), ("a".to_string(), 0.25), ("b".to_string(), 0.25)]);
    }
}
