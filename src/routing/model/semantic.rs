//! Meaning beside wording: the mean (of log-odds) of what n-grams predict and what the prompt's sentence embedding predicts.
//! Without an embedding (the model is not loaded, the request is decided before there is one) the wording predicts alone,
//! exactly as `Ngrams` would.
//!
//! Two models and their mean rather than one model of both: it predicts better, and each part can stand alone.

use super::TrainingSet;
use super::linear::{FIT, LinearHeads, fit_heads, logit, sigmoid};
use super::sgd::{Linear, Sgd};
use super::space::{Row, Space};
use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::features::FeatureVector;

#[derive(Debug, Clone, PartialEq)]
pub struct Semantic {
    wording: LinearHeads,
    /// Logistic regression on the embedding, one output per candidate.
    meaning: Linear,
    /// Length of an embedding.
    width: usize,
}

const FIT_MEANING: Sgd = Sgd { learning_rate: 1.0, l2_dense: 1e-4, drop_column: 0.0, ..FIT };

impl Semantic {
    /// Prompts of `set` without an embedding teach the wording only.
    pub fn fit(set: &TrainingSet<'_>, space: &Space, rows: &[Row]) -> Self {
        let wording = LinearHeads::fit(set, space, rows);
        let width = set.embeddings.iter().flatten().map(|embedding| embedding.len()).next().unwrap_or(0);
        let with_embedding: Vec<usize> =
            (0..set.len()).filter(|&index| set.embeddings[index].is_some_and(|own| own.len() == width)).collect();
        let rows: Vec<Row> =
            with_embedding.iter().map(|&index| row(set.embeddings[index].unwrap_or_default())).collect();
        let scores: Vec<&[(u16, f32)]> = with_embedding.iter().map(|&index| set.scores[index]).collect();
        let meaning = fit_heads(set, &rows, &scores, width, &FIT_MEANING);
        Self { wording, meaning, width }
    }

    pub fn scores(&self, features: &FeatureVector, embedding: Option<&[f32]>) -> Vec<f32> {
        let mut scores = self.wording.scores(features);
        if let Some(embedding) = embedding.filter(|embedding| embedding.len() == self.width) {
            let mut own = vec![0.0; self.meaning.n_outputs];
            self.meaning.outputs(&row(embedding), &mut own);
            scores.iter_mut().zip(own).for_each(|(score, own)| *score = sigmoid((logit(*score) + own) / 2.0));
        }
        scores
    }

    pub fn write(&self, writer: &mut Writer) {
        self.wording.write(writer);
        writer.len(self.width);
        self.meaning.write(0, writer);
    }

    pub fn read(n_models: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let wording = LinearHeads::read(n_models, reader)?;
        let width = reader.len()?;
        Ok(Self { wording, meaning: Linear::read(width, n_models, reader)?, width })
    }
}

fn row(embedding: &[f32]) -> Row {
    (0..).zip(embedding.iter().copied()).collect()
}
