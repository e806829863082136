//! Logistic regression on n-grams and structure, one output per candidate; an unrecorded outcome pulls on nothing.

use super::TrainingSet;
use super::sgd::{Linear, Sgd};
use super::space::{Row, Space};
use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::features::FeatureVector;

#[derive(Debug, Clone, PartialEq)]
pub struct LinearHeads {
    space: Space,
    linear: Linear,
}

/// Row visits a fit may take: bounds the time of large sets, while small ones get up to `MAX_EPOCHS` passes.
const VISITS: usize = 60_000;
const MAX_EPOCHS: usize = 15;

pub const FIT: Sgd = Sgd {
    epochs: MAX_EPOCHS,
    learning_rate: 0.3,
    l2: 1e-3,
    first_dense: 0,
    l2_dense: 3e-3,
    drop_block: 0.0,
    drop_column: 0.2,
    drop_dense: 0.0,
    seed: 0,
};

impl LinearHeads {
    pub fn fit(set: &TrainingSet<'_>, space: &Space, rows: &[Row]) -> Self {
        let sgd = Sgd { first_dense: space.n_ngrams(), ..FIT };
        let mut linear = fit_heads(set, rows, &set.scores, space.n_columns(), &sgd);
        linear.quantise(space.n_ngrams());
        Self { space: space.clone(), linear }
    }

    pub fn scores(&self, features: &FeatureVector) -> Vec<f32> {
        let mut scores = vec![0.0; self.linear.n_outputs];
        self.linear.outputs(&self.space.project(features), &mut scores);
        scores.iter_mut().for_each(|score| *score = sigmoid(*score));
        scores
    }

    pub fn write(&self, writer: &mut Writer) {
        self.space.write(writer);
        self.linear.write(self.space.n_ngrams(), writer);
    }

    pub fn read(n_models: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let space = Space::read(reader)?;
        let linear = Linear::read(space.n_columns(), n_models, reader)?;
        Ok(Self { space, linear })
    }
}

/// One logistic regression per candidate on `rows`, which got `scores`.
pub fn fit_heads(set: &TrainingSet<'_>, rows: &[Row], scores: &[&[(u16, f32)]], n_columns: usize, sgd: &Sgd) -> Linear {
    let epochs = (VISITS / rows.len().max(1)).clamp(2, MAX_EPOCHS);
    let bias = set.means().into_iter().map(|(mean, _)| logit(mean)).collect();
    let mut probabilities = vec![0.0; set.n_models];
    Linear::fit(rows, n_columns, bias, &Sgd { epochs, seed: set.seed, ..*sgd }, |index, outputs| {
        probabilities.iter_mut().zip(outputs.iter()).for_each(|(p, &output)| *p = sigmoid(output));
        outputs.fill(0.0);
        for &(model, score) in scores[index] {
            outputs[model as usize] = probabilities[model as usize] - score;
        }
    })
}

pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub fn logit(p: f32) -> f32 {
    let p = p.clamp(0.02, 0.98);
    (p / (1.0 - p)).ln()
}
