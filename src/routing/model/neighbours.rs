//! k nearest recorded prompts by cosine over n-grams and structure, through an inverted index.

use super::TrainingSet;
use super::space::{Row, Space};
use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::features::{FeatureVector, N_STRUCTURE};

/// Prompts kept (evenly spread over those given) and n-grams kept of each (the heaviest): bound memory and time.
const MAX_PROMPTS: usize = 4096;
const MAX_TERMS: usize = 96;

/// Neighbours asked; of few prompts, a tenth.
const K: usize = 60;

/// Similarity-weighted outcomes that a candidate's overall mean counts for.
const PRIOR: f32 = 1.0;

const WEIGHT_STEP: f32 = 1.0 / 255.0;

#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    space: Space,
    n_models: usize,
    n_prompts: usize,
    /// Postings of column `c` are at `starts[c]..starts[c + 1]`.
    starts: Vec<u32>,
    prompts: Vec<u16>,
    /// N-gram weights in 1/255.
    weights: Vec<u8>,
    /// Structure of each prompt, of length 1.
    structure: Vec<f32>,
    /// `scores[prompt * n_models + model]` in 1/254; 255 where nothing was recorded.
    scores: Vec<u8>,
    means: Vec<f32>,
}

const MISSING: u8 = 255;

impl Neighbours {
    pub fn fit(set: &TrainingSet<'_>, space: &Space, rows: &[Row]) -> Self {
        let stride = rows.len().div_ceil(MAX_PROMPTS).max(1);
        let kept: Vec<usize> = (0..rows.len()).step_by(stride).collect();
        let first = space.n_ngrams() as u32;
        let mut postings: Vec<Vec<(u16, u8)>> = vec![Vec::new(); space.n_ngrams()];
        let mut structure = Vec::with_capacity(kept.len() * N_STRUCTURE);
        let mut scores = vec![MISSING; kept.len() * set.n_models];
        for (prompt, &index) in kept.iter().enumerate() {
            let mut terms: Vec<(u32, f32)> =
                rows[index].iter().copied().filter(|(column, _)| *column < first).collect();
            terms.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for (column, weight) in terms.into_iter().take(MAX_TERMS) {
                postings[column as usize].push((prompt as u16, (weight / WEIGHT_STEP).round().clamp(0.0, 255.0) as u8));
            }
            structure.extend(unit_structure(first, &rows[index]));
            for &(model, score) in set.scores[index] {
                scores[prompt * set.n_models + model as usize] = (score * 254.0).round().clamp(0.0, 254.0) as u8;
            }
        }
        let mut starts = Vec::with_capacity(postings.len() + 1);
        starts.push(0);
        for posting in &postings {
            starts.push(starts.last().copied().unwrap_or(0) + posting.len() as u32);
        }
        let (prompts, weights) = postings.into_iter().flatten().unzip();
        let means = set.means().into_iter().map(|(mean, _)| mean).collect();
        let n_prompts = kept.len();
        Self {
            space: space.clone(),
            n_models: set.n_models,
            n_prompts,
            starts,
            prompts,
            weights,
            structure,
            scores,
            means,
        }
    }

    pub fn scores(&self, features: &FeatureVector) -> Vec<f32> {
        let mut sums: Vec<(f32, f32)> = self.means.iter().map(|mean| (mean * PRIOR, PRIOR)).collect();
        for (prompt, weight) in self.nearest(&self.space.project(features)) {
            let scores = &self.scores[prompt * self.n_models..(prompt + 1) * self.n_models];
            for (sum, &score) in sums.iter_mut().zip(scores) {
                if score != MISSING {
                    sum.0 += weight * f32::from(score) / 254.0;
                    sum.1 += weight;
                }
            }
        }
        sums.into_iter().map(|(sum, n)| sum / n).collect()
    }

    /// The nearest prompts with their similarity.
    fn nearest(&self, row: &[(u32, f32)]) -> Vec<(usize, f32)> {
        let first = self.space.n_ngrams() as u32;
        let query = unit_structure(first, row);
        let mut similarity: Vec<f32> = self
            .structure
            .chunks_exact(N_STRUCTURE)
            .map(|own| 0.5 * own.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>())
            .collect();
        for &(column, value) in row.iter().filter(|(column, _)| *column < first) {
            let (from, to) = (self.starts[column as usize] as usize, self.starts[column as usize + 1] as usize);
            let value = value * WEIGHT_STEP;
            for (&prompt, &weight) in self.prompts[from..to].iter().zip(&self.weights[from..to]) {
                similarity[prompt as usize] += value * f32::from(weight);
            }
        }
        let k = K.min(self.n_prompts.div_ceil(10));
        let mut order: Vec<u16> = (0..similarity.len() as u16).collect();
        let closer = |a: &u16, b: &u16| similarity[*b as usize].total_cmp(&similarity[*a as usize]).then(a.cmp(b));
        if k < order.len() {
            order.select_nth_unstable_by(k, closer);
            order.truncate(k);
        }
        // In prompt order, so that sums do not depend on how the selection left them.
        order.sort_unstable();
        order.into_iter().map(|prompt| (prompt as usize, similarity[prompt as usize].max(0.0))).collect()
    }

    pub fn write(&self, writer: &mut Writer) {
        self.space.write(writer);
        writer.len(self.n_prompts);
        let sizes: Vec<u16> = self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as u16).collect();
        writer.u16s(&sizes);
        writer.u16s(&self.prompts);
        writer.u8s(&self.weights);
        writer.f32s(&self.structure);
        writer.u8s(&self.scores);
        writer.f32s(&self.means);
    }

    pub fn read(n_models: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let space = Space::read(reader)?;
        let n_prompts = reader.len()?;
        let mut starts = vec![0u32];
        for size in reader.u16s()? {
            starts.push(starts.last().copied().unwrap_or(0) + u32::from(size));
        }
        let (prompts, weights) = (reader.u16s()?, reader.u8s()?);
        let (structure, scores, means) = (reader.f32s()?, reader.u8s()?, reader.f32s()?);
        let fits = starts.len() == space.n_ngrams() + 1
            && starts.last().is_some_and(|&end| end as usize == prompts.len() && prompts.len() == weights.len())
            && prompts.iter().all(|&prompt| usize::from(prompt) < n_prompts)
            && structure.len() == n_prompts * N_STRUCTURE
            && scores.len() == n_prompts * n_models
            && means.len() == n_models
            && n_prompts <= MAX_PROMPTS;
        if !fits {
            return Err(reader.damaged("its recorded prompts do not fit its index"));
        }
        Ok(Self { space, n_models, n_prompts, starts, prompts, weights, structure, scores, means })
    }
}

/// The structure part of a row as a dense vector of length 1.
fn unit_structure(first: u32, row: &[(u32, f32)]) -> [f32; N_STRUCTURE] {
    let mut out = [0.0; N_STRUCTURE];
    for &(column, value) in row.iter().filter(|(column, _)| *column >= first) {
        out[(column - first) as usize] = value;
    }
    let length = out.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
    out.iter_mut().for_each(|v| *v /= length);
    out
}
