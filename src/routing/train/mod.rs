//! Training: recorded outcomes in, a router and its cross-validation out. Pure and deterministic: the same examples,
//! seed and options give the same bytes. Called off the request path by the trainer and by `weirgate router train`.

mod cv;
pub mod estimate;

use std::collections::BTreeSet;

use self::estimate::Estimate;
use super::model::space::{Row, Space};
use super::model::{self, Family, Heads, TrainingSet};
use super::router::ModelStats;
use super::{Example, Policy, Router, Seed};

pub use cv::{CrossValidation, Measured};

/// How to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Of folds, descent and clusters.
    pub seed: u64,
    /// Folds of cross-validation, at least 2.
    pub folds: usize,
    /// The policy the router will serve: families are compared by the utility it defines.
    pub policy: Policy,
    /// The model that answers when no candidate is allowed.
    pub baseline: String,
    /// Families to compare. Those that need a seed are left out when there is none, and those that need embeddings when
    /// fewer than half of the examples have one, or 2,000.
    pub families: Vec<Family>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { seed: 1, folds: 5, policy: Policy::default(), baseline: String::new(), families: Family::ALL.to_vec() }
    }
}

/// A step of training, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps done of `total`.
    pub done: usize,
    pub total: usize,
    /// What the step just done was about.
    pub family: Family,
}

/// A router with what cross-validation says of it.
#[derive(Debug, Clone)]
pub struct Trained {
    pub router: Router,
    pub report: CrossValidation,
}

/// Why nothing could be trained.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainError {
    #[error(
        "{found} recorded questions are too few to train on; at least {needed} are needed: collect more in training mode or with a higher shadow rate"
    )]
    TooFewQuestions { found: usize, needed: usize },
    #[error("the option `folds` is {0}; cross-validation needs at least 2")]
    Folds(usize),
    #[error("the option `families` names no family that can be trained without a seed or embeddings")]
    NoFamily,
    #[error(
        "the outcome of model `{model}` on question {hash:016x} has {field} {value}, which is not {expected}; correct or remove the row"
    )]
    Outcome { model: String, hash: u64, field: &'static str, value: f32, expected: &'static str },
}

/// Distinct questions below which training refuses.
pub const MIN_QUESTIONS: usize = 20;

/// Examples with an embedding that are enough to learn from, however many have none.
const ENOUGH_EMBEDDED: usize = 2000;

/// Questions that must share an n-gram before the router reads it, and most n-grams it reads.
const MIN_ROWS: u32 = 2;
const MAX_NGRAMS: usize = 32_768;

/// Trains every family on `examples`, keeps the one whose decisions have the best mean utility on held-out questions
/// (a simpler one if it is within one standard error), and refits it on all of them.
///
/// # Errors
/// Too few questions, an impossible option, or an outcome out of range; see [`TrainError`].
pub fn train(
    examples: &[Example],
    seed: Option<&Seed>,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, TrainError> {
    check(examples, options)?;
    let families = families(examples, seed, options)?;
    let prepared = Prepared::new(examples, seed);
    let total = options.folds * families.len() + 1;
    let mut done = 0;
    let mut step = |family| {
        done += 1;
        progress(Progress { done, total, family });
    };
    let report = cv::cross_validate(&prepared, &families, options, &mut step);
    let all: Vec<usize> = (0..examples.len()).collect();
    let fold = Fold::new(&prepared, &all, options.seed);
    let router = fold.router(report.chosen, seed);
    step(report.chosen);
    Ok(Trained { router, report })
}

fn check(examples: &[Example], options: &TrainOptions) -> Result<(), TrainError> {
    if options.folds < 2 {
        return Err(TrainError::Folds(options.folds));
    }
    let with_outcomes = examples.iter().filter(|example| !example.outcomes.is_empty());
    let found = with_outcomes.map(|example| example.hash).collect::<BTreeSet<_>>().len();
    let needed = MIN_QUESTIONS.max(options.folds);
    if found < needed {
        return Err(TrainError::TooFewQuestions { found, needed });
    }
    for example in examples {
        for outcome in &example.outcomes {
            let wrong = |field, value, expected| {
                Err(TrainError::Outcome { model: outcome.model.clone(), hash: example.hash, field, value, expected })
            };
            if !(0.0..=1.0).contains(&outcome.score) {
                return wrong("score", outcome.score, "between 0 and 1");
            }
            for (field, value) in [("latency_ms", outcome.latency_ms), ("cost_usd", outcome.cost_usd)] {
                if !(value.is_finite() && value >= 0.0) {
                    return wrong(field, value, "a number of at least 0");
                }
            }
        }
    }
    Ok(())
}

/// The families to compare, simplest first.
fn families(examples: &[Example], seed: Option<&Seed>, options: &TrainOptions) -> Result<Vec<Family>, TrainError> {
    let n_embedded = examples.iter().filter(|example| example.embedding.is_some()).count();
    let enough = examples.len().div_ceil(2).min(ENOUGH_EMBEDDED);
    let can = |family: &Family| {
        (seed.is_some() || !family.needs_seed()) && (n_embedded >= enough || !family.needs_embedding())
    };
    let wanted = |family: &Family| options.families.contains(family) && can(family);
    let families: Vec<Family> = Family::ALL.into_iter().filter(wanted).collect();
    if families.is_empty() { Err(TrainError::NoFamily) } else { Ok(families) }
}

/// Examples with their models numbered and their inputs computed once.
struct Prepared<'a> {
    examples: &'a [Example],
    models: Vec<&'a str>,
    inputs: Vec<Vec<f32>>,
    n_inputs: usize,
    /// Inputs end with the seed's domain probabilities.
    has_domains: bool,
    scores: Vec<Vec<(u16, f32)>>,
}

impl<'a> Prepared<'a> {
    fn new(examples: &'a [Example], seed: Option<&Seed>) -> Self {
        let names: BTreeSet<&str> = examples.iter().flat_map(|e| &e.outcomes).map(|o| o.model.as_str()).collect();
        let models: Vec<&str> = names.into_iter().collect();
        let number = |name: &str| models.binary_search(&name).unwrap_or(0) as u16;
        let scores =
            examples.iter().map(|e| e.outcomes.iter().map(|o| (number(&o.model), o.score)).collect()).collect();
        let inputs = examples.iter().map(|e| model::inputs(seed, &e.features)).collect();
        Self { examples, models, inputs, n_inputs: model::n_inputs(seed), has_domains: seed.is_some(), scores }
    }
}

/// One training set with everything its families share.
struct Fold<'a> {
    set: TrainingSet<'a>,
    space: Space,
    rows: Vec<Row>,
    models: Vec<ModelStats>,
}

impl<'a> Fold<'a> {
    /// From the examples at `indices`.
    fn new(prepared: &'a Prepared<'a>, indices: &[usize], seed: u64) -> Self {
        let set = TrainingSet {
            n_models: prepared.models.len(),
            features: indices.iter().map(|&i| &prepared.examples[i].features).collect(),
            inputs: indices.iter().map(|&i| prepared.inputs[i].as_slice()).collect(),
            embeddings: indices.iter().map(|&i| prepared.examples[i].embedding.as_deref()).collect(),
            scores: indices.iter().map(|&i| prepared.scores[i].as_slice()).collect(),
            seed,
        };
        let space = Space::learn(set.features.iter().copied(), MIN_ROWS, MAX_NGRAMS);
        let rows = set.features.iter().map(|features| space.project(features)).collect();
        let models = estimates(prepared, indices);
        Self { set, space, rows, models }
    }

    fn router(&self, family: Family, seed: Option<&Seed>) -> Router {
        Router {
            models: self.models.clone(),
            heads: Heads::fit(family, &self.set, &self.space, &self.rows),
            seed: seed.cloned(),
            n_examples: self.set.len() as u32,
        }
    }
}

/// Latency and cost estimates of every model from the examples at `indices`.
fn estimates(prepared: &Prepared<'_>, indices: &[usize]) -> Vec<ModelStats> {
    #[derive(Default, Clone)]
    struct Own<'a> {
        inputs: Vec<&'a [f32]>,
        latency_ms: Vec<f32>,
        cost_usd: Vec<f32>,
    }
    let mut own = vec![Own::default(); prepared.models.len()];
    for &index in indices {
        for (outcome, (model, _)) in prepared.examples[index].outcomes.iter().zip(&prepared.scores[index]) {
            let own = &mut own[*model as usize];
            own.inputs.push(prepared.inputs[index].as_slice());
            own.latency_ms.push(outcome.latency_ms);
            own.cost_usd.push(outcome.cost_usd);
        }
    }
    let (latency_ms, cost_usd) =
        (overall(own.iter().map(|own| &own.latency_ms)), overall(own.iter().map(|own| &own.cost_usd)));
    let stats = |(name, own): (&&str, &Own<'_>)| ModelStats {
        name: (*name).to_owned(),
        n: own.inputs.len() as u32,
        latency_ms: Estimate::fit(prepared.n_inputs, &own.inputs, &own.latency_ms, latency_ms),
        cost_usd: Estimate::fit(prepared.n_inputs, &own.inputs, &own.cost_usd, cost_usd),
    };
    prepared.models.iter().zip(&own).map(stats).collect()
}

/// Mean over all outcomes of all models.
fn overall<'a>(values: impl Iterator<Item = &'a Vec<f32>>) -> f32 {
    let (sum, n) = values.flatten().fold((0.0, 0u32), |(sum, n), &value| (sum + f64::from(value), n + 1));
    (sum / f64::from(n.max(1))) as f32
}

#[cfg(test)]
mod tests;
