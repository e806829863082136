//! From predictions to a decision: the best expected utility among the candidates inside the hard limits.

use serde::{Deserialize, Serialize};

use super::Prediction;

/// What an answer is worth and what it may cost.
///
/// Utility of an answer = `score − lambda_cost · (cost in 0.001 USD) − lambda_latency · (latency in seconds)`, with the
/// score in 0..1. So `lambda_cost = 0.01` gives up one point in a hundred to save a tenth of a cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Score given up per 0.001 USD.
    pub lambda_cost: f64,
    /// Score given up per second.
    pub lambda_latency: f64,
    /// Candidates expected to cost more than this for the request are out.
    pub max_cost_usd: Option<f64>,
    /// Candidates expected to take longer are out. Only what was measured counts, not a guess.
    pub max_latency_ms: Option<f64>,
    /// Candidates expected to score less are out. Only what was measured counts, not a guess.
    pub min_score: Option<f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { lambda_cost: 0.0, lambda_latency: 0.02, max_cost_usd: None, max_latency_ms: None, min_score: None }
    }
}

impl Policy {
    /// Utility of one answer: score 0..1, milliseconds, USD.
    pub fn utility(&self, score: f64, latency_ms: f64, cost_usd: f64) -> f64 {
        score - self.lambda_cost * cost_usd * 1e3 - self.lambda_latency * latency_ms * 1e-3
    }

    /// The first hard limit that `prediction` is expected to break.
    fn broken_limit(&self, prediction: &Prediction) -> Option<Limit> {
        let measured = prediction.n > 0;
        let over = |value: f32, limit: Option<f64>| limit.filter(|&limit| f64::from(value) > limit);
        if let Some(limit) = over(prediction.cost_usd, self.max_cost_usd) {
            return Some(Limit::CostUsd(limit));
        }
        if let Some(limit) = over(prediction.latency_ms, self.max_latency_ms).filter(|_| measured) {
            return Some(Limit::LatencyMs(limit));
        }
        self.min_score.filter(|&limit| measured && f64::from(prediction.score) < limit).map(Limit::Score)
    }
}

/// A hard limit with its bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    CostUsd(f64),
    LatencyMs(f64),
    Score(f64),
}

/// Why a model was chosen or passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// The best expected utility, `margin` ahead of `runner_up` (absent when it was the only one allowed).
    BestUtility { score: f32, latency_ms: f32, cost_usd: f32, runner_up: Option<String>, margin: f64 },
    /// A candidate with a hard limit it is expected to break.
    Excluded { model: String, limit: Limit, expected: f32 },
    /// Every candidate was excluded, so the baseline answers.
    AllExcluded,
    /// There were no predictions, so the baseline answers.
    NoCandidates,
}

/// The model to call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub model: String,
    /// Expected utility; 0 for a baseline of which nothing is known.
    pub utility: f64,
    pub reasons: Vec<Reason>,
    /// Allowed candidates with their expected utilities, best first: the order to fall back in.
    pub ranked: Vec<(String, f64)>,
}

/// The decision for one request. Ties go to the cheaper, then to the first by name, so equal inputs give equal decisions.
pub fn decide(predictions: &[Prediction], policy: &Policy, baseline: &str) -> Decision {
    let mut reasons = Vec::new();
    let mut allowed: Vec<(f64, &Prediction)> = Vec::with_capacity(predictions.len());
    for prediction in predictions {
        match policy.broken_limit(prediction) {
            None => allowed.push((expected_utility(prediction, policy), prediction)),
            Some(limit) => {
                let expected = match limit {
                    Limit::CostUsd(_) => prediction.cost_usd,
                    Limit::LatencyMs(_) => prediction.latency_ms,
                    Limit::Score(_) => prediction.score,
                };
                reasons.push(Reason::Excluded { model: prediction.model.clone(), limit, expected });
            }
        }
    }
    allowed.sort_by(|(a, left), (b, right)| {
        b.total_cmp(a).then(left.cost_usd.total_cmp(&right.cost_usd)).then_with(|| left.model.cmp(&right.model))
    });
    let Some(&(utility, best)) = allowed.first() else {
        reasons.insert(0, if predictions.is_empty() { Reason::NoCandidates } else { Reason::AllExcluded });
        let known = predictions.iter().find(|p| p.model == baseline);
        let utility = known.map_or(0.0, |p| expected_utility(p, policy));
        return Decision { model: baseline.to_owned(), utility, reasons, ranked: Vec::new() };
    };
    let runner_up = allowed.get(1);
    reasons.insert(
        0,
        Reason::BestUtility {
            score: best.score,
            latency_ms: best.latency_ms,
            cost_usd: best.cost_usd,
            runner_up: runner_up.map(|(_, p)| p.model.clone()),
            margin: runner_up.map_or(0.0, |(next, _)| utility - next),
        },
    );
    let ranked = allowed.iter().map(|(utility, p)| (p.model.clone(), *utility)).collect();
    Decision { model: best.model.clone(), utility, reasons, ranked }
}

fn expected_utility(prediction: &Prediction, policy: &Policy) -> f64 {
    policy.utility(f64::from(prediction.score), f64::from(prediction.latency_ms), f64::from(prediction.cost_usd))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(model: &str, score: f32, latency_ms: f32, cost_usd: f32) -> Prediction {
        Prediction { model: model.to_owned(), score, latency_ms, cost_usd, confidence: 1.0, n: 100 }
    }

    fn pool() -> Vec<Prediction> {
        vec![
            prediction("large", 0.9, 2000.0, 0.02),
            prediction("mid", 0.8, 800.0, 0.004),
            prediction("small", 0.6, 200.0, 0.0005),
        ]
    }

    fn chosen(policy: Policy) -> String {
        decide(&pool(), &policy, "base").model
    }

    #[test]
    fn weights_trade_score_for_cost_and_latency() {
        let free = Policy { lambda_latency: 0.0, ..Policy::default() };
        assert_eq!(chosen(free), "large");
        assert_eq!(chosen(Policy { lambda_cost: 0.01, ..free }), "mid");
        assert_eq!(chosen(Policy { lambda_latency: 1.0, ..free }), "small");
    }

    #[test]
    fn hard_limits_are_honoured_and_named() {
        let free = Policy { lambda_latency: 0.0, ..Policy::default() };
        let decision = decide(&pool(), &Policy { max_cost_usd: Some(0.01), ..free }, "base");
        assert_eq!(decision.model, "mid");
        assert!(decision.reasons.contains(&Reason::Excluded {
            model: "large".to_owned(),
            limit: Limit::CostUsd(0.01),
            expected: 0.02
        }));
        assert_eq!(decision.ranked.len(), 2);
        assert_eq!(chosen(Policy { max_latency_ms: Some(500.0), ..free }), "small");
        assert_eq!(chosen(Policy { min_score: Some(0.85), max_latency_ms: Some(5000.0), ..free }), "large");
    }

    #[test]
    fn the_baseline_answers_when_nothing_is_allowed() {
        let policy = Policy { max_cost_usd: Some(0.0), ..Policy::default() };
        let decision = decide(&pool(), &policy, "base");
        assert_eq!((decision.model.as_str(), &decision.reasons[0]), ("base", &Reason::AllExcluded));
        assert_eq!(decide(&[], &policy, "base").reasons, [Reason::NoCandidates]);
    }

    #[test]
    fn guesses_are_limited_by_price_only() {
        let mut guess = prediction("new", 0.1, 9000.0, 0.001);
        guess.n = 0;
        let policy = Policy { max_latency_ms: Some(100.0), min_score: Some(0.5), ..Policy::default() };
        assert_eq!(decide(&[guess.clone()], &policy, "base").model, "new");
        assert_eq!(decide(&[guess], &Policy { max_cost_usd: Some(1e-4), ..policy }, "base").model, "base");
    }

    #[test]
    fn ties_are_broken_the_same_way_whatever_the_order() {
        let tied = [prediction("b", 0.5, 10.0, 0.1), prediction("a", 0.5, 10.0, 0.1)];
        let reversed = [tied[1].clone(), tied[0].clone()];
        assert_eq!(decide(&tied, &Policy::default(), "x"), decide(&reversed, &Policy::default(), "x"));
        assert_eq!(decide(&tied, &Policy::default(), "x").model, "a");
    }

    #[test]
    fn reasons_serialise_with_their_kind() {
        let json =
            serde_json::to_value(Reason::Excluded { model: "m".into(), limit: Limit::LatencyMs(5.0), expected: 9.0 });
        assert_eq!(
            json.unwrap(),
            serde_json::json!({"kind": "excluded", "model": "m", "limit": {"latency_ms": 5.0}, "expected": 9.0})
        );
    }
}
