//! What every model of the mock does on every verify question, and the policies one can compare a gateway with. Pure.
//!
//! Utility of an answer = score − λ_cost · cost in US dollars − λ_latency · latency in seconds. Policies are judged by it:
//! - *best single*: one model for everything, the one with the best mean utility;
//! - *random*: the expectation of choosing evenly among all models;
//! - *oracle*: for each question the model with the best utility on it; no router can know that much;
//! - *ceiling*: for each domain the one model with the best mean utility on that domain: all that knowing the domain can give;
//! - *score ceiling*: the same by mean score alone (λ = 0).

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use crate::numbers;

/// λ_cost and λ_latency.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub struct Weights {
    /// λ_cost: score worth one US dollar
    #[arg(long = "lambda-cost", default_value_t = 20.0, value_parser = numbers::weight)]
    pub cost: f64,
    /// λ_latency: score worth one second
    #[arg(long = "lambda-latency", default_value_t = 0.1, value_parser = numbers::weight)]
    pub latency: f64,
}

/// One answer, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outcome {
    pub score: f64,
    /// US dollars.
    pub cost: f64,
    pub latency_ms: f64,
}

/// Outcomes of all models on all questions.
#[derive(Debug, Clone)]
pub struct Outcomes {
    pub models: Vec<String>,
    /// Domain of each question; empty where no label is known.
    pub domains: Vec<String>,
    /// `[question][model]`.
    pub table: Vec<Vec<Outcome>>,
    pub weights: Weights,
    /// Whether the cost of every answer is known; where it is not, costs say nothing and their weight should be 0.
    pub is_priced: bool,
}

impl Weights {
    pub fn utility(&self, outcome: &Outcome) -> f64 {
        outcome.score - self.cost * outcome.cost - self.latency * outcome.latency_ms / 1e3
    }
}

impl Outcomes {
    /// Always the model at `model`.
    pub fn always(&self, model: usize) -> Outcome {
        average(self.table.iter().map(|row| row[model]))
    }

    /// Index of the model with the best mean utility over all questions.
    pub fn best_single(&self) -> usize {
        argmax((0..self.models.len()).map(|model| self.weights.utility(&self.always(model))))
    }

    pub fn random(&self) -> Outcome {
        average(self.table.iter().map(|row| average(row.iter().copied())))
    }

    pub fn oracle(&self) -> Outcome {
        average(self.table.iter().map(|row| row[argmax(row.iter().map(|outcome| self.weights.utility(outcome)))]))
    }

    /// The domain ceiling; `weights` decides what "best" means, so λ = 0 gives the score ceiling. `None` where a label is missing.
    pub fn ceiling(&self, weights: Weights) -> Option<Outcome> {
        if self.domains.iter().any(String::is_empty) {
            return None;
        }
        let best: BTreeMap<&str, usize> = self.labels().into_iter().map(|d| (d, self.best_of(d, weights))).collect();
        Some(average(self.table.iter().zip(&self.domains).map(|(row, domain)| row[best[domain.as_str()]])))
    }

    /// Models whose mean utility on `domain` is at most `tolerance` under the best.
    pub fn good_models(&self, domain: &str, tolerance: f64) -> BTreeSet<&str> {
        let utilities = self.mean_utilities(domain, self.weights);
        let best = utilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let models = self.models.iter().zip(utilities).filter(|(_, utility)| *utility >= best - tolerance);
        models.map(|(model, _)| model.as_str()).collect()
    }

    /// The domain in which `model` has its highest mean score: what choosing it says about the question.
    pub fn home(&self, model: &str) -> Option<&str> {
        let model = self.models.iter().position(|name| name == model)?;
        let scores = self.labels().into_iter().map(|domain| (domain, self.on(domain, model).score));
        scores.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(domain, _)| domain)
    }

    /// Mean outcome of one model on the questions of one domain.
    pub fn on(&self, domain: &str, model: usize) -> Outcome {
        average(self.rows_of(domain).map(|row| row[model]))
    }

    /// The model with the best mean utility on `domain`, by index.
    pub fn best_of(&self, domain: &str, weights: Weights) -> usize {
        argmax(self.mean_utilities(domain, weights).into_iter())
    }

    /// The domains, sorted.
    pub fn labels(&self) -> BTreeSet<&str> {
        self.domains.iter().map(String::as_str).filter(|domain| !domain.is_empty()).collect()
    }

    /// The same models on some of the questions only.
    pub fn subset(&self, questions: &[usize]) -> Outcomes {
        Outcomes {
            domains: questions.iter().map(|i| self.domains[*i].clone()).collect(),
            table: questions.iter().map(|i| self.table[*i].clone()).collect(),
            ..self.clone()
        }
    }

    fn mean_utilities(&self, domain: &str, weights: Weights) -> Vec<f64> {
        (0..self.models.len()).map(|model| weights.utility(&self.on(domain, model))).collect()
    }

    fn rows_of<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a Vec<Outcome>> {
        self.table.iter().zip(&self.domains).filter(move |(_, label)| *label == domain).map(|(row, _)| row)
    }
}

/// Mean of each number; zeros of nothing.
pub fn average(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let mut sum = Outcome::default();
    let mut n = 0.0;
    for outcome in outcomes {
        n += 1.0;
        sum.score += outcome.score;
        sum.cost += outcome.cost;
        sum.latency_ms += outcome.latency_ms;
    }
    let n = f64::max(n, 1.0);
    Outcome { score: sum.score / n, cost: sum.cost / n, latency_ms: sum.latency_ms / n }
}

/// Index of the largest value, the first of equals; 0 of nothing.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two domains, three models: `big` is slow and even, `m` knows math, `w` knows writing.
    fn tiny() -> Outcomes {
        let row = |scores: [f64; 3]| {
            let outcome = |score, latency_ms, cost| Outcome { score, latency_ms, cost };
            vec![outcome(scores[0], 500.0, 0.002), outcome(scores[1], 100.0, 0.001), outcome(scores[2], 100.0, 0.001)]
        };
        Outcomes {
            models: ["big", "m", "w"].map(String::from).to_vec(),
            domains: ["math", "math", "writing", "writing"].map(String::from).to_vec(),
            table: vec![row([0.7, 0.9, 0.1]), row([0.7, 0.5, 0.2]), row([0.8, 0.0, 0.9]), row([0.8, 0.2, 0.7])],
            weights: Weights { cost: 10.0, latency: 1.0 },
            is_priced: true,
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn ceilings_by_hand() {
        let tiny = tiny();
        // By utility (big pays 0.52, the others 0.11): m has 0.59 in math, w 0.69 in writing.
        let ceiling = tiny.ceiling(tiny.weights).unwrap();
        close(ceiling.score, (0.9 + 0.5 + 0.9 + 0.7) / 4.0);
        close(ceiling.latency_ms, 100.0);
        // By score, big ties with m in math (0.7) and with w in writing (0.8): the first of equals is taken.
        let by_score = tiny.ceiling(Weights { cost: 0.0, latency: 0.0 }).unwrap();
        close(by_score.score, 0.75);
        close(by_score.latency_ms, 500.0);
    }

    #[test]
    fn other_policies_by_hand() {
        let tiny = tiny();
        close(tiny.always(0).score, 0.75);
        close(tiny.random().score, (1.7 + 1.4 + 1.7 + 1.7) / 12.0);
        // Question 2: big 0.7 − 0.52 = 0.18, m 0.5 − 0.11 = 0.39.
        close(tiny.oracle().score, (0.9 + 0.5 + 0.9 + 0.7) / 4.0);
        assert_eq!(tiny.models[tiny.best_single()], "w");
    }

    #[test]
    fn homes_and_good_models() {
        let tiny = tiny();
        assert_eq!(["big", "m", "w"].map(|model| tiny.home(model).unwrap()), ["writing", "math", "writing"]);
        assert_eq!(tiny.home("other"), None);
        assert_eq!(tiny.good_models("math", 0.01), BTreeSet::from(["m"]));
        assert_eq!(tiny.good_models("math", 0.5), BTreeSet::from(["big", "m"]));
    }

    #[test]
    fn a_question_without_a_label_is_of_no_domain() {
        let mut tiny = tiny();
        tiny.domains[3].clear();
        assert_eq!(tiny.ceiling(tiny.weights), None, "that of the labelled questions is none of all");
        assert_eq!(tiny.labels(), BTreeSet::from(["math", "writing"]));
        tiny.domains.fill(String::new());
        assert_eq!(tiny.home("m"), None);
    }

    #[test]
    fn a_subset_keeps_the_rows() {
        let subset = tiny().subset(&[1, 3]);
        close(subset.always(1).score, 0.35);
        assert_eq!(subset.labels(), BTreeSet::from(["math", "writing"]));
    }
}
