//! Latent classes: kinds of prompts on which the candidates do alike. They begin as the seed's domains; outcomes then
//! say which class each recorded prompt really belongs to, and a classifier learns to tell it from the text.
//!
//! Outcomes are noisy one by one, but all candidates' outcomes on a prompt together are good evidence of its class. So
//! one classifier is learned from denoised labels, where `Ngrams` learns one regression per candidate from noisy ones.

use super::TrainingSet;
use super::sgd::{Linear, Sgd, softmax};
use super::space::{Row, Space};
use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::features::FeatureVector;
use crate::routing::seed::N_DOMAINS;

#[derive(Debug, Clone, PartialEq)]
pub struct Classes {
    space: Space,
    /// Correction of the seed's log-probabilities.
    linear: Linear,
    /// `scores[class * n_models + model]`: expected score of each candidate in each class.
    scores: Vec<f32>,
    n_models: usize,
}

/// Rounds of re-estimating scores from class memberships and memberships from scores.
const ROUNDS: usize = 10;

/// Share of the prior that ignores the seed, so that outcomes can overrule it.
const DOUBT: f32 = 0.2;

/// Outcomes that a candidate's overall mean counts for in its mean within a class.
const PRIOR: f32 = 3.0;

/// Row visits a fit may take.
const VISITS: usize = 60_000;
const MAX_EPOCHS: usize = 12;

const FIT: Sgd = Sgd {
    epochs: MAX_EPOCHS,
    learning_rate: 1.0,
    l2: 1e-5,
    first_dense: 0,
    l2_dense: 1e-4,
    drop_block: 0.3,
    drop_column: 0.3,
    drop_dense: 0.0,
    seed: 0,
};

type Memberships = Vec<[f32; N_DOMAINS]>;

impl Classes {
    /// The inputs of `set` end with the seed's domain probabilities.
    pub fn fit(set: &TrainingSet<'_>, space: &Space, rows: &[Row]) -> Self {
        let priors: Memberships = set.inputs.iter().map(|inputs| domains(inputs)).collect();
        let mut memberships = priors.clone();
        let mut scores = scores(set, &memberships);
        for _ in 0..ROUNDS {
            for ((membership, prior), outcomes) in memberships.iter_mut().zip(&priors).zip(&set.scores) {
                *membership = posterior(prior, outcomes, &scores, set.n_models);
            }
            scores = self::scores(set, &memberships);
        }
        let epochs = (VISITS / set.len().max(1)).clamp(2, MAX_EPOCHS);
        let sgd = Sgd { epochs, first_dense: space.n_ngrams(), seed: set.seed, ..FIT };
        let mut linear = Linear::fit(rows, space.n_columns(), vec![0.0; N_DOMAINS], &sgd, |index, outputs| {
            probabilities(&priors[index], outputs);
            outputs.iter_mut().zip(&memberships[index]).for_each(|(output, membership)| *output -= membership);
        });
        linear.quantise(space.n_ngrams());
        Self { space: space.clone(), linear, scores, n_models: set.n_models }
    }

    pub fn scores(&self, features: &FeatureVector, inputs: &[f32]) -> Vec<f32> {
        let mut classes = [0.0; N_DOMAINS];
        self.linear.outputs(&self.space.project(features), &mut classes);
        probabilities(&domains(inputs), &mut classes);
        let mut scores = vec![0.0; self.n_models];
        for (class, own) in classes.iter().zip(self.scores.chunks_exact(self.n_models)) {
            scores.iter_mut().zip(own).for_each(|(score, own)| *score += class * own);
        }
        scores
    }

    pub fn write(&self, writer: &mut Writer) {
        self.space.write(writer);
        self.linear.write(self.space.n_ngrams(), writer);
        writer.f32s(&self.scores);
    }

    pub fn read(n_models: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let space = Space::read(reader)?;
        let linear = Linear::read(space.n_columns(), N_DOMAINS, reader)?;
        let scores = reader.f32s()?;
        if scores.len() != N_DOMAINS * n_models {
            return Err(reader.damaged("its classes do not fit its models"));
        }
        Ok(Self { space, linear, scores, n_models })
    }
}

/// The seed's probabilities at the end of `inputs`, with some doubt.
fn domains(inputs: &[f32]) -> [f32; N_DOMAINS] {
    let mut out = [1.0 / N_DOMAINS as f32; N_DOMAINS];
    if let Some(probabilities) = inputs.last_chunk::<N_DOMAINS>() {
        out.iter_mut().zip(probabilities).for_each(|(out, p)| *out = DOUBT * *out + (1.0 - DOUBT) * p);
    }
    out
}

/// Corrections to class probabilities, in place.
fn probabilities(prior: &[f32; N_DOMAINS], outputs: &mut [f32]) {
    outputs.iter_mut().zip(prior).for_each(|(output, prior)| *output += prior.ln());
    softmax(outputs);
}

/// Class memberships given what the candidates scored: a score counts as that share of a right answer.
fn posterior(prior: &[f32; N_DOMAINS], outcomes: &[(u16, f32)], scores: &[f32], n_models: usize) -> [f32; N_DOMAINS] {
    let mut logs = prior.map(f32::ln);
    for (class, log) in logs.iter_mut().enumerate() {
        for &(model, score) in outcomes {
            let p = scores[class * n_models + model as usize].clamp(0.01, 0.99);
            *log += score * p.ln() + (1.0 - score) * (1.0 - p).ln();
        }
    }
    softmax(&mut logs);
    logs
}

/// Mean score of each candidate in each class, shrunk to its overall mean.
fn scores(set: &TrainingSet<'_>, memberships: &Memberships) -> Vec<f32> {
    let means = set.means();
    let mut sums: Vec<(f32, f32)> =
        (0..N_DOMAINS * set.n_models).map(|at| (PRIOR * means[at % set.n_models].0, PRIOR)).collect();
    for (membership, outcomes) in memberships.iter().zip(&set.scores) {
        for (class, weight) in membership.iter().enumerate() {
            for &(model, score) in *outcomes {
                let cell = &mut sums[class * set.n_models + model as usize];
                cell.0 += weight * score;
                cell.1 += weight;
            }
        }
    }
    sums.into_iter().map(|(sum, n)| sum / n).collect()
}
