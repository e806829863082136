//! What a challenge run measured, and the numbers drawn from it. Pure; `report` puts them into words and pictures.

use std::collections::{BTreeMap, BTreeSet};

use super::outcomes::{Outcome, Outcomes, Weights, average};
use super::protocol::{Row, Stats};
use crate::stats::{mean, percentile, sorted};

/// A model counts as right for a domain if its mean utility there is at most this much under the best model's.
pub const GOOD_MODEL_TOLERANCE: f64 = 0.01;

pub struct Challenge {
    pub max_model: String,
    pub n_train_rows: usize,
    pub collect_seconds: f64,
    pub train_seconds: Option<f64>,
    /// What the training trigger answered.
    pub trained: String,
    pub curve: Vec<CurvePoint>,
    /// Indices of the verify questions of the curve.
    pub curve_questions: Vec<usize>,
    /// One row per verify question, in the order of `outcomes`.
    pub verified: Vec<Row>,
    pub streamed: Vec<Row>,
    /// `None` where the mock does not count.
    pub verify_calls: Option<VerifyCalls>,
    pub outcomes: Outcomes,
    /// Rows of the other phases, for the raw file.
    pub other_rows: Vec<Row>,
    pub notes: Vec<String>,
}

/// Verify rows after some collected rows.
pub struct CurvePoint {
    pub n_rows: usize,
    pub rows: Vec<Row>,
}

/// What the gateway sent to the verify service during the verify phase.
pub struct VerifyCalls {
    pub n_calls: u64,
    /// Questions that reached more than one model, by fallback or shadow calls.
    pub n_several_models: u64,
}

impl VerifyCalls {
    pub fn new(stats: &Stats) -> VerifyCalls {
        let several = stats.questions_by_n_models.iter().filter(|(n_models, _)| **n_models > 1);
        VerifyCalls { n_calls: stats.calls.values().sum(), n_several_models: several.map(|(_, n)| n).sum() }
    }
}

/// A policy with its mean outcome.
pub struct Policy {
    /// Part of the metric names: `score_<key>`, `latency_ms_<key>`, `cost_<key>`, `utility_<key>`.
    pub key: &'static str,
    pub name: String,
    pub outcome: Outcome,
}

impl Challenge {
    pub fn gateway(&self) -> Outcome {
        average(self.verified.iter().map(Row::outcome))
    }

    /// What the gateway is compared with, worst to best by knowledge; without the domain ceilings where a label is missing.
    pub fn policies(&self) -> Vec<Policy> {
        let outcomes = &self.outcomes;
        let max_model = outcomes.models.iter().position(|model| *model == self.max_model).unwrap_or_default();
        let best = outcomes.best_single();
        let by_score = Weights { cost: 0.0, latency: 0.0 };
        let policies = [
            ("random", "random model".to_string(), Some(outcomes.random())),
            ("always_max", format!("always {}", self.max_model), Some(outcomes.always(max_model))),
            ("best_single", format!("best single ({})", outcomes.models[best]), Some(outcomes.always(best))),
            ("ceiling", "domain ceiling (utility)".to_string(), outcomes.ceiling(outcomes.weights)),
            ("ceiling_by_score", "domain ceiling (score)".to_string(), outcomes.ceiling(by_score)),
            ("oracle", "oracle per question".to_string(), Some(outcomes.oracle())),
        ];
        let policies = policies.into_iter();
        policies.filter_map(|(key, name, outcome)| Some(Policy { key, name, outcome: outcome? })).collect()
    }

    pub fn utility(&self, outcome: &Outcome) -> f64 {
        self.outcomes.weights.utility(outcome)
    }

    /// Whether the costs and utilities of these rows are known.
    pub fn is_priced<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> bool {
        self.outcomes.is_priced && rows.into_iter().all(|row| row.cost.is_some())
    }

    /// Share of labelled rows whose model is right for the row's true domain (see `GOOD_MODEL_TOLERANCE`). `None` where there are no
    /// labels, or where an answer names none of the models.
    pub fn good_model_share<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Option<f64> {
        let good: BTreeMap<&str, BTreeSet<&str>> = self
            .outcomes
            .labels()
            .into_iter()
            .map(|d| (d, self.outcomes.good_models(d, GOOD_MODEL_TOLERANCE)))
            .collect();
        let is_good =
            |row: &Row| good.get(row.domain.as_str()).is_some_and(|models| models.contains(row.model.as_str()));
        share(rows.into_iter().filter(|row| row.is_labelled()), |row| self.knows_model(row).then(|| is_good(row)))
    }

    /// Share of rows that the large model answered; `None` where an answer names none of the models.
    fn max_model_share(&self) -> Option<f64> {
        share(&self.verified, |row| self.knows_model(row).then(|| row.model == self.max_model))
    }

    fn knows_model(&self, row: &Row) -> bool {
        self.outcomes.models.contains(&row.model)
    }

    /// Share of labelled rows whose domain was recognised: by the gateway's own header where it sends one, else by the home domain of
    /// the model it chose. `None` where there are no labels, or where an answer has neither.
    pub fn domain_accuracy<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Option<f64> {
        let homes: BTreeMap<&str, Option<&str>> =
            self.outcomes.models.iter().map(|model| (model.as_str(), self.outcomes.home(model))).collect();
        share(rows.into_iter().filter(|row| row.is_labelled()), |row| {
            let by_model = homes.get(row.model.as_str()).copied().flatten();
            Some(row.claimed_domain.as_deref().or(by_model)? == row.domain)
        })
    }

    /// Whether `domain_accuracy` rests on the gateway's own header.
    pub fn claims_domains(&self) -> bool {
        self.verified.iter().any(|row| row.claimed_domain.is_some())
    }

    /// The numbers of `summary.json`; one that cannot be told is left out.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        let mut put = |name: &str, value: f64| {
            metrics.insert(name.to_string(), value);
        };
        let is_priced = self.is_priced(&self.verified);
        let gateway = self.gateway();
        let latencies = sorted(self.verified.iter().map(|row| row.latency_ms));
        put("n_train", self.n_train_rows as f64);
        put("n_verify", self.verified.len() as f64);
        put("errors", self.verified.iter().filter(|row| row.error.is_some()).count() as f64);
        put(
            "unscored",
            self.verified.iter().filter(|row| row.evaluated.is_some_and(|score| score < 0.0)).count() as f64,
        );
        put("score_mean", gateway.score);
        if is_priced {
            put("utility_mean", self.utility(&gateway));
            put("cost_mean", gateway.cost);
        }
        put("latency_ms_mean", gateway.latency_ms);
        for p in [50, 95, 99] {
            put(&format!("latency_ms_p{p}"), percentile(&latencies, f64::from(p)));
        }
        for policy in self.policies() {
            let Policy { key, outcome, .. } = policy;
            put(&format!("score_{key}"), outcome.score);
            if self.outcomes.is_priced {
                put(&format!("utility_{key}"), self.utility(&outcome));
                put(&format!("cost_{key}"), outcome.cost);
            }
            put(&format!("latency_ms_{key}"), outcome.latency_ms);
            if key == "ceiling" {
                put("score_of_ceiling", gateway.score / outcome.score);
                if is_priced {
                    put("utility_of_ceiling", self.utility(&gateway) / self.utility(&outcome));
                }
            }
        }
        for (name, share) in [
            ("domain_accuracy", self.domain_accuracy(&self.verified)),
            ("good_model_share", self.good_model_share(&self.verified)),
            ("max_model_share", self.max_model_share()),
        ] {
            if let Some(share) = share {
                put(name, share);
            }
        }
        put("lambda_cost", self.outcomes.weights.cost);
        put("lambda_latency", self.outcomes.weights.latency);
        put("collect_seconds", self.collect_seconds);
        if let Some(seconds) = self.train_seconds {
            put("train_seconds", seconds);
        }
        if let Some(calls) = &self.verify_calls {
            put("verify_calls_per_question", calls.n_calls as f64 / self.verified.len().max(1) as f64);
            put("verify_questions_to_several_models", calls.n_several_models as f64);
        }
        if !self.streamed.is_empty() {
            put("stream_score_mean", average(self.streamed.iter().map(Row::outcome)).score);
            put("stream_errors", self.streamed.iter().filter(|row| row.error.is_some()).count() as f64);
            if let Some(first_token_ms) = self.stream_first_token_ms() {
                put("stream_first_token_ms_mean", first_token_ms);
            }
            put("stream_latency_ms_mean", mean(self.streamed.iter().map(|row| row.latency_ms)));
        }
        for (domain, rows) in self.by_domain() {
            put(&format!("score_mean_{domain}"), average(rows.iter().map(|row| row.outcome())).score);
            if let Some(accuracy) = self.domain_accuracy(rows) {
                put(&format!("domain_accuracy_{domain}"), accuracy);
            }
        }
        for (n_rows, score, utility, good) in self.curve() {
            put(&format!("curve_score_{n_rows}"), score);
            if let Some(utility) = utility {
                put(&format!("curve_utility_{n_rows}"), utility);
            }
            if let Some(good) = good {
                put(&format!("curve_good_model_share_{n_rows}"), good);
            }
        }
        metrics
    }

    /// Verify rows by true domain; empty where there are no labels.
    pub fn by_domain(&self) -> BTreeMap<&str, Vec<&Row>> {
        let mut by_domain: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in self.verified.iter().filter(|row| row.is_labelled()) {
            by_domain.entry(row.domain.as_str()).or_default().push(row);
        }
        by_domain
    }

    /// Mean time to the first event of the streams that were answered; `None` of none.
    pub fn stream_first_token_ms(&self) -> Option<f64> {
        let answered = || self.streamed.iter().filter(|row| row.error.is_none());
        answered().next()?;
        Some(mean(answered().map(|row| row.first_token_ms)))
    }

    /// Points of the learning curve: rows, mean score, mean utility, share of good models. The last is the final router on the
    /// same questions.
    pub fn curve(&self) -> Vec<(usize, f64, Option<f64>, Option<f64>)> {
        if self.curve.is_empty() {
            return Vec::new();
        }
        let last: Vec<Row> = self.curve_questions.iter().map(|i| self.verified[*i].clone()).collect();
        let points = self.curve.iter().map(|point| (point.n_rows, &point.rows)).chain([(self.n_train_rows, &last)]);
        points
            .map(|(n_rows, rows)| {
                let outcome = average(rows.iter().map(Row::outcome));
                let utility = self.is_priced(rows).then(|| self.utility(&outcome));
                (n_rows, outcome.score, utility, self.good_model_share(rows))
            })
            .collect()
    }
}

/// Share of rows of which `is_counted` is true; failed ones are not counted. `None` of none, and where one answer cannot be told.
fn share<'a>(rows: impl IntoIterator<Item = &'a Row>, is_counted: impl Fn(&Row) -> Option<bool>) -> Option<f64> {
    let of = |row: &Row| if row.error.is_some() { Some(false) } else { is_counted(row) };
    let counted: Vec<bool> = rows.into_iter().map(of).collect::<Option<_>>()?;
    (!counted.is_empty()).then(|| mean(counted.into_iter().map(|counts| f64::from(u8::from(counts)))))
}
