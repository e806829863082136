//! The promotion gate: a newly trained router serves only if its decisions are better than the serving ones on
//! held-out questions, by more than chance explains.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use super::{Example, Policy, Prediction, decide};

/// How sure the gate wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Held-out questions below which nothing is promoted.
    pub min_questions: usize,
    /// Bootstrap resamples.
    pub n_resamples: usize,
    /// Two-sided confidence of the interval, in (0, 1).
    pub confidence: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { min_questions: 30, n_resamples: 2000, confidence: 0.95 }
    }
}

/// What the gate says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub promote: bool,
    /// Mean utility of the candidate's decisions minus that of the serving ones.
    pub gain: f64,
    /// Bootstrap interval of `gain`.
    pub ci_low: f64,
    pub ci_high: f64,
    /// Questions compared.
    pub n: usize,
    /// Questions left out because the outcome of one of two differing decisions was not recorded.
    pub n_unrecorded: usize,
    /// Questions on which the two decide differently, among those compared.
    pub n_changed: usize,
    pub reason: String,
}

/// Judges `candidate` against `serving` with the default [`Gate`]; see [`Gate::judge`].
pub fn gate(
    serving: &dyn Fn(&Example) -> Vec<Prediction>,
    candidate: &dyn Fn(&Example) -> Vec<Prediction>,
    held_out: &[Example],
    policy: &Policy,
    baseline: &str,
    seed: u64,
) -> Verdict {
    Gate::default().judge(serving, candidate, held_out, policy, baseline, seed)
}

impl Gate {
    /// Compares the decisions of two predictors on `held_out` (questions neither was trained on) by a paired bootstrap
    /// of the difference in utility. Promotes when the whole interval lies above zero.
    pub fn judge(
        &self,
        serving: &dyn Fn(&Example) -> Vec<Prediction>,
        candidate: &dyn Fn(&Example) -> Vec<Prediction>,
        held_out: &[Example],
        policy: &Policy,
        baseline: &str,
        seed: u64,
    ) -> Verdict {
        // One entry per question: a prompt asked a hundred times is one piece of evidence, not a hundred.
        let mut by_question: BTreeMap<u64, (f64, u32)> = BTreeMap::new();
        let mut compared = |hash: u64, difference: f64| {
            let (sum, n) = by_question.entry(hash).or_default();
            *sum += difference;
            *n += 1;
        };
        let (mut n_unrecorded, mut n_changed) = (0, 0);
        for example in held_out {
            let now = decide(&serving(example), policy, baseline).model;
            let then = decide(&candidate(example), policy, baseline).model;
            if now == then {
                compared(example.hash, 0.0);
                continue;
            }
            match (utility(example, &now, policy), utility(example, &then, policy)) {
                (Some(now), Some(then)) => {
                    n_changed += 1;
                    compared(example.hash, then - now);
                }
                _ => n_unrecorded += 1,
            }
        }
        let differences: Vec<f64> = by_question.into_values().map(|(sum, n)| sum / f64::from(n)).collect();
        let n = differences.len();
        let gain = mean(&differences);
        let (ci_low, ci_high) = self.interval(&differences, seed);
        let percent = self.confidence * 100.0;
        let (promote, reason) = if n < self.min_questions {
            (false, format!("only {n} held-out questions can be compared and {} are needed", self.min_questions))
        } else if n_changed == 0 {
            (false, format!("no decision on {n} held-out questions would change"))
        } else if ci_low > 0.0 {
            (
                true,
                format!(
                    "utility gains {gain:+.4} on {n} held-out questions, {percent:.0} % interval {ci_low:+.4} to {ci_high:+.4}"
                ),
            )
        } else {
            (
                false,
                format!(
                    "a gain of {gain:+.4} on {n} held-out questions may be chance or loss: {percent:.0} % interval {ci_low:+.4} to {ci_high:+.4}"
                ),
            )
        };
        Verdict { promote, gain, ci_low, ci_high, n, n_unrecorded, n_changed, reason }
    }

    fn interval(&self, differences: &[f64], seed: u64) -> (f64, f64) {
        if differences.is_empty() {
            return (0.0, 0.0);
        }
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let n = differences.len();
        let mut means: Vec<f64> = (0..self.n_resamples.max(1))
            .map(|_| (0..n).map(|_| differences[rng.random_range(0..n)]).sum::<f64>() / n as f64)
            .collect();
        means.sort_by(f64::total_cmp);
        let rank = |quantile: f64| means[((means.len() - 1) as f64 * quantile).round() as usize];
        let tail = (1.0 - self.confidence.clamp(0.0, 1.0)) / 2.0;
        (rank(tail), rank(1.0 - tail))
    }
}

/// Utility of the recorded outcome of `model`, if any.
fn utility(example: &Example, model: &str, policy: &Policy) -> Option<f64> {
    let outcome = example.outcomes.iter().find(|outcome| outcome.model == model)?;
    Some(policy.utility(f64::from(outcome.score), f64::from(outcome.latency_ms), f64::from(outcome.cost_usd)))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Outcome;
    use crate::routing::features::{Prompt, extract};

    /// Model `a` is right on even questions, `b` on odd ones, with `noise` per cent flipped.
    fn questions(n: u64, noise: u64) -> Vec<Example> {
        let outcome = |model: &str, right: bool| Outcome {
            model: model.to_owned(),
            score: f32::from(u8::from(right)),
            latency_ms: 0.0,
            cost_usd: 0.0,
        };
        let example = |hash: u64| {
            let right = hash.is_multiple_of(2) != (hash * 7919 % 100 < noise);
            let text = if hash.is_multiple_of(2) { "even" } else { "odd" };
            Example {
                hash,
                features: extract(&Prompt::single(text)),
                embedding: None,
                outcomes: vec![outcome("a", right), outcome("b", !right)],
            }
        };
        (0..n).map(example).collect()
    }

    fn always(model: &'static str) -> impl Fn(&Example) -> Vec<Prediction> {
        move |_| {
            vec![Prediction {
                model: model.to_owned(),
                score: 1.0,
                latency_ms: 0.0,
                cost_usd: 0.0,
                confidence: 1.0,
                n: 9,
            }]
        }
    }

    fn informed(example: &Example) -> Vec<Prediction> {
        let even = example.features == extract(&Prompt::single("even"));
        always(if even { "a" } else { "b" })(example)
    }

    fn judge(
        serving: &dyn Fn(&Example) -> Vec<Prediction>,
        candidate: &dyn Fn(&Example) -> Vec<Prediction>,
        held_out: &[Example],
    ) -> Verdict {
        Gate::default().judge(serving, candidate, held_out, &Policy::default(), "a", 7)
    }

    #[test]
    fn a_better_router_is_promoted_and_the_worse_one_never() {
        let held_out = questions(200, 10);
        let up = judge(&always("a"), &informed, &held_out);
        assert!(up.promote && up.ci_low > 0.2, "{up:?}");
        let down = judge(&informed, &always("a"), &held_out);
        assert!(!down.promote && down.ci_high < 0.0, "{down:?}");
    }

    #[test]
    fn a_difference_that_is_noise_is_refused() {
        let noise = questions(200, 50);
        let verdict = judge(&always("a"), &always("b"), &noise);
        assert!(!verdict.promote && verdict.ci_low < 0.0 && verdict.ci_high > 0.0, "{verdict:?}");
    }

    #[test]
    fn too_few_unchanged_or_unrecorded_questions_are_refused_with_the_reason() {
        let few = judge(&always("a"), &informed, &questions(10, 0));
        assert!(!few.promote && few.reason.contains("only 10"), "{few:?}");
        let same = judge(&always("a"), &always("a"), &questions(100, 0));
        assert!(!same.promote && same.reason.contains("no decision"), "{same:?}");
        let unknown = judge(&always("a"), &always("c"), &questions(100, 0));
        assert_eq!((unknown.promote, unknown.n, unknown.n_unrecorded), (false, 0, 100));
    }

    #[test]
    fn the_interval_depends_on_the_seed_alone() {
        let held_out = questions(100, 30);
        assert_eq!(judge(&always("a"), &informed, &held_out), judge(&always("a"), &informed, &held_out));
    }
}
