//! Cross-validation: what each family's decisions would have been worth on questions it has not seen, beside the
//! references no router should be read without (best single model, random, oracle, each model alone).

use serde::{Deserialize, Serialize};

use super::{Fold, Prepared, TrainOptions};
use crate::routing::model::Family;
use crate::routing::seed::N_DOMAINS;
use crate::routing::{Outcome, Policy, decide};

/// Result of comparing the families on the same folds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossValidation {
    /// Prompts judged; at most 8,000 (`MAX_PROMPTS`), then an even sample.
    pub n_prompts: usize,
    pub n_folds: usize,
    /// Share of decisions whose outcome was recorded. Where it is under 1, utilities are doubly robust estimates: the
    /// chosen model's mean on the training folds, corrected by recorded outcomes in inverse proportion to how often
    /// that model is recorded on prompts of the domain.
    pub observed: f64,
    pub chosen: Family,
    /// Families in order of [`Family::ALL`].
    pub families: Vec<(Family, Measured)>,
    /// The model that is best if one had to answer everything, known only afterwards.
    pub best_single: (String, Measured),
    /// Expectation of a uniform choice among the recorded outcomes of each question.
    pub random: Measured,
    /// The best recorded outcome of each question.
    pub oracle: Measured,
    /// Each model alone, over the questions it has an outcome for, by name.
    pub always: Vec<(String, Measured)>,
}

/// Means over prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub n: usize,
    pub utility: f64,
    /// Standard error of `utility`.
    pub utility_se: f64,
    /// 0..1.
    pub score: f64,
    pub cost_usd: f64,
    pub latency_ms: f64,
}

/// Most prompts cross-validation works on; the final fit uses all.
pub const MAX_PROMPTS: usize = 8_000;

/// What one decision brought.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    utility: f64,
    score: f64,
    cost_usd: f64,
    latency_ms: f64,
}

impl Gain {
    fn new(policy: &Policy, score: f64, latency_ms: f64, cost_usd: f64) -> Self {
        Self { utility: policy.utility(score, latency_ms, cost_usd), score, cost_usd, latency_ms }
    }

    /// This expectation moved by what was recorded, which is seen in `share` of the cases.
    fn corrected(&self, recorded: &Self, share: f64) -> Self {
        let toward = |expected: f64, recorded: f64| expected + (recorded - expected) / share;
        Self {
            utility: toward(self.utility, recorded.utility),
            score: toward(self.score, recorded.score),
            cost_usd: toward(self.cost_usd, recorded.cost_usd),
            latency_ms: toward(self.latency_ms, recorded.latency_ms),
        }
    }

    fn of(policy: &Policy, outcome: &Outcome) -> Self {
        Self::new(policy, f64::from(outcome.score), f64::from(outcome.latency_ms), f64::from(outcome.cost_usd))
    }
}

/// How often each model is recorded, by likeliest domain of the prompt (one stratum when there is no seed).
struct RecordedShare {
    /// `shares[stratum * n_models + model]`.
    shares: Vec<f64>,
    n_models: usize,
    has_domains: bool,
}

/// Least share assumed, so that one lucky outcome of a hardly recorded model cannot decide.
const MIN_SHARE: f64 = 0.05;

impl RecordedShare {
    fn new(prepared: &Prepared<'_>, judged: &[usize]) -> Self {
        let n_models = prepared.models.len();
        let mut own = Self { shares: vec![0.0; N_DOMAINS * n_models], n_models, has_domains: prepared.has_domains };
        let mut n_prompts = [0.0f64; N_DOMAINS];
        for &index in judged {
            let stratum = own.stratum(&prepared.inputs[index]);
            n_prompts[stratum] += 1.0;
            for (at, name) in prepared.models.iter().enumerate() {
                let recorded = prepared.examples[index].outcomes.iter().any(|outcome| outcome.model == *name);
                own.shares[stratum * n_models + at] += f64::from(u8::from(recorded));
            }
        }
        for (stratum, shares) in own.shares.chunks_exact_mut(n_models).enumerate() {
            shares.iter_mut().for_each(|share| *share = (*share / n_prompts[stratum].max(1.0)).max(MIN_SHARE));
        }
        own
    }

    fn of(&self, inputs: &[f32], model: usize) -> f64 {
        self.shares[self.stratum(inputs) * self.n_models + model]
    }

    fn stratum(&self, inputs: &[f32]) -> usize {
        let Some(domains) = inputs.last_chunk::<N_DOMAINS>().filter(|_| self.has_domains) else { return 0 };
        let mut best = 0;
        for domain in 1..N_DOMAINS {
            if domains[domain] > domains[best] {
                best = domain;
            }
        }
        best
    }
}

/// Compares `families` (simplest first) by the utility of their decisions; `step` is called after each fit.
pub fn cross_validate(
    prepared: &Prepared<'_>,
    families: &[Family],
    options: &TrainOptions,
    step: &mut impl FnMut(Family),
) -> CrossValidation {
    let policy = &options.policy;
    let judged = sample(prepared, options.seed);
    let mut gains: Vec<Vec<Gain>> = vec![Vec::with_capacity(judged.len()); families.len()];
    let recorded_share = RecordedShare::new(prepared, &judged);
    let (mut n_observed, mut n_decisions) = (0usize, 0usize);
    for fold in 0..options.folds {
        let in_fold = |index: &usize| fold_of(prepared.examples[*index].hash, options) == fold;
        let (test, training): (Vec<usize>, Vec<usize>) = judged.iter().copied().partition(in_fold);
        let shared = Fold::new(prepared, &training, options.seed);
        let means = shared.set.means();
        for (family, gains) in families.iter().zip(&mut gains) {
            let router = shared.router(*family, None);
            for &index in &test {
                let example = &prepared.examples[index];
                let predictions =
                    router.predict_from(&example.features, example.embedding.as_deref(), &prepared.inputs[index]);
                let model = decide(&predictions, policy, &options.baseline).model;
                n_decisions += 1;
                let recorded = example.outcomes.iter().find(|outcome| outcome.model == model);
                n_observed += usize::from(recorded.is_some());
                // A baseline that was never recorded is worth nothing that could be known.
                let Ok(at) = prepared.models.binary_search(&model.as_str()) else {
                    gains.push(Gain::default());
                    continue;
                };
                let stats = &shared.models[at];
                let (latency, cost) = (f64::from(stats.latency_ms.mean()), f64::from(stats.cost_usd.mean()));
                let expected = Gain::new(policy, f64::from(means[at].0), latency, cost);
                let share = recorded_share.of(&prepared.inputs[index], at);
                gains.push(recorded.map_or(expected, |o| expected.corrected(&Gain::of(policy, o), share)));
            }
            step(*family);
        }
    }
    let always = always(prepared, &judged, policy);
    let best = always.iter().max_by(|a, b| a.1.utility.total_cmp(&b.1.utility)).cloned();
    CrossValidation {
        n_prompts: judged.len(),
        n_folds: options.folds,
        observed: n_observed as f64 / n_decisions.max(1) as f64,
        chosen: choose(families, &gains),
        families: families.iter().zip(&gains).map(|(family, gains)| (*family, measure(gains))).collect(),
        best_single: best.unwrap_or_default(),
        random: measure(&per_question(prepared, &judged, policy, mean)),
        oracle: measure(&per_question(prepared, &judged, policy, best_of)),
        always,
    }
}

/// The simplest family whose mean utility is within one standard error of the best one's. The error is that of the
/// paired difference: both were judged on the same questions.
fn choose(families: &[Family], gains: &[Vec<Gain>]) -> Family {
    let utility = |gains: &[Gain]| gains.iter().map(|gain| gain.utility).sum::<f64>();
    let mut best = 0;
    for at in 1..families.len() {
        if utility(&gains[at]) > utility(&gains[best]) {
            best = at;
        }
    }
    for at in 0..best {
        let behind: Vec<Gain> = gains[best]
            .iter()
            .zip(&gains[at])
            .map(|(best, own)| Gain { utility: best.utility - own.utility, ..Gain::default() })
            .collect();
        let behind = measure(&behind);
        if behind.utility <= behind.utility_se {
            return families[at];
        }
    }
    families[best]
}

/// Questions are judged whole: equal hashes fall into one fold.
fn fold_of(hash: u64, options: &TrainOptions) -> usize {
    (mix(hash ^ options.seed) % options.folds as u64) as usize
}

fn sample(prepared: &Prepared<'_>, seed: u64) -> Vec<usize> {
    let stride = prepared.examples.len().div_ceil(MAX_PROMPTS).max(1) as u64;
    let kept = |index: &usize| {
        let example = &prepared.examples[*index];
        !example.outcomes.is_empty() && mix(example.hash.rotate_left(17) ^ seed).is_multiple_of(stride)
    };
    (0..prepared.examples.len()).filter(kept).collect()
}

/// Spreads similar hashes apart (the finaliser of splitmix64).
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

fn always(prepared: &Prepared<'_>, judged: &[usize], policy: &Policy) -> Vec<(String, Measured)> {
    let mut gains: Vec<Vec<Gain>> = vec![Vec::new(); prepared.models.len()];
    for &index in judged {
        for (outcome, (model, _)) in prepared.examples[index].outcomes.iter().zip(&prepared.scores[index]) {
            gains[*model as usize].push(Gain::of(policy, outcome));
        }
    }
    prepared.models.iter().zip(&gains).map(|(name, gains)| ((*name).to_owned(), measure(gains))).collect()
}

fn per_question(
    prepared: &Prepared<'_>,
    judged: &[usize],
    policy: &Policy,
    pick: impl Fn(&[Gain]) -> Gain,
) -> Vec<Gain> {
    let gains = |&index: &usize| {
        let outcomes = &prepared.examples[index].outcomes;
        pick(&outcomes.iter().map(|outcome| Gain::of(policy, outcome)).collect::<Vec<_>>())
    };
    judged.iter().map(gains).collect()
}

fn mean(gains: &[Gain]) -> Gain {
    let measured = measure(gains);
    Gain {
        utility: measured.utility,
        score: measured.score,
        cost_usd: measured.cost_usd,
        latency_ms: measured.latency_ms,
    }
}

fn best_of(gains: &[Gain]) -> Gain {
    gains.iter().copied().max_by(|a, b| a.utility.total_cmp(&b.utility)).unwrap_or_default()
}

fn measure(gains: &[Gain]) -> Measured {
    let n = gains.len() as f64;
    if gains.is_empty() {
        return Measured::default();
    }
    let mean = |value: fn(&Gain) -> f64| gains.iter().map(value).sum::<f64>() / n;
    let utility = mean(|gain| gain.utility);
    let variance = gains.iter().map(|gain| (gain.utility - utility).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    Measured {
        n: gains.len(),
        utility,
        utility_se: (variance / n).sqrt(),
        score: mean(|gain| gain.score),
        cost_usd: mean(|gain| gain.cost_usd),
        latency_ms: mean(|gain| gain.latency_ms),
    }
}
