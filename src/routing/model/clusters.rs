//! Spherical k-means over folded rows; a candidate's score is its mean in the prompt's cluster.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::TrainingSet;
use super::space::{Row, Space};
use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::features::{FeatureVector, N_STRUCTURE};

/// N-gram columns are folded into this many; collisions blur clusters far less than they would a regression.
const FOLDED: usize = 1024;
const N_DIMENSIONS: usize = FOLDED + N_STRUCTURE;
const MAX_CLUSTERS: usize = 32;
const ROUNDS: usize = 8;
/// Prompts that centres are moved by; the table is filled from all.
const MAX_PROMPTS: usize = 4096;

/// Outcomes that a candidate's overall mean counts for in its mean within a cluster.
const PRIOR: f32 = 5.0;

#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    space: Space,
    n_clusters: usize,
    /// `centres[dimension * n_clusters + cluster]`.
    centres: Vec<f32>,
    /// `scores[cluster * n_models + model]`.
    scores: Vec<f32>,
    n_models: usize,
}

impl Clusters {
    pub fn fit(set: &TrainingSet<'_>, space: &Space, rows: &[Row]) -> Self {
        let folded: Vec<Row> = rows.iter().map(|row| fold(space, row)).collect();
        let n_clusters = ((rows.len() as f64 / 4.0).sqrt() as usize).clamp(2, MAX_CLUSTERS);
        let mut rng = Pcg64Mcg::seed_from_u64(set.seed);
        let stride = folded.len().div_ceil(MAX_PROMPTS).max(1);
        let sample: Vec<&Row> = folded.iter().step_by(stride).collect();
        let mut clusters = Self {
            space: space.clone(),
            n_clusters,
            centres: vec![0.0; N_DIMENSIONS * n_clusters],
            scores: Vec::new(),
            n_models: set.n_models,
        };
        let mut members: Vec<Vec<&Row>> = vec![Vec::new(); n_clusters];
        // Begin with random prompts as centres, then alternate between assigning and averaging.
        for cluster in &mut members {
            if !sample.is_empty() {
                cluster.push(sample[rng.random_range(0..sample.len())]);
            }
        }
        for _ in 0..ROUNDS {
            clusters.move_centres(&members);
            members.iter_mut().for_each(Vec::clear);
            for row in &sample {
                members[clusters.nearest(row)].push(row);
            }
            for cluster in &mut members {
                if cluster.is_empty() && !sample.is_empty() {
                    cluster.push(sample[rng.random_range(0..sample.len())]);
                }
            }
        }
        clusters.fill_scores(set, &folded);
        clusters
    }

    pub fn scores(&self, features: &FeatureVector) -> Vec<f32> {
        let cluster = self.nearest(&fold(&self.space, &self.space.project(features)));
        self.scores[cluster * self.n_models..(cluster + 1) * self.n_models].to_vec()
    }

    pub fn write(&self, writer: &mut Writer) {
        self.space.write(writer);
        writer.len(self.n_clusters);
        writer.f32s(&self.centres);
        writer.f32s(&self.scores);
    }

    pub fn read(n_models: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let space = Space::read(reader)?;
        let n_clusters = reader.len()?;
        let (centres, scores) = (reader.f32s()?, reader.f32s()?);
        if !(1..=MAX_CLUSTERS).contains(&n_clusters)
            || centres.len() != N_DIMENSIONS * n_clusters
            || scores.len() != n_clusters * n_models
        {
            return Err(reader.damaged("its clusters do not fit its models"));
        }
        Ok(Self { space, n_clusters, centres, scores, n_models })
    }

    fn nearest(&self, row: &[(u32, f32)]) -> usize {
        let mut similarity = [0.0f32; MAX_CLUSTERS];
        let similarity = &mut similarity[..self.n_clusters];
        for &(dimension, value) in row {
            let at = dimension as usize * self.n_clusters;
            similarity.iter_mut().zip(&self.centres[at..at + self.n_clusters]).for_each(|(sum, c)| *sum += value * c);
        }
        let mut best = 0;
        for cluster in 1..similarity.len() {
            if similarity[cluster] > similarity[best] {
                best = cluster;
            }
        }
        best
    }

    /// Each centre becomes the direction of its members' sum.
    fn move_centres(&mut self, members: &[Vec<&Row>]) {
        self.centres.fill(0.0);
        for (cluster, rows) in members.iter().enumerate() {
            for &(dimension, value) in rows.iter().copied().flatten() {
                self.centres[dimension as usize * self.n_clusters + cluster] += value;
            }
            let column = self.centres.iter().skip(cluster).step_by(self.n_clusters);
            let length = column.map(|c| c * c).sum::<f32>().sqrt().max(1e-9);
            self.centres.iter_mut().skip(cluster).step_by(self.n_clusters).for_each(|c| *c /= length);
        }
    }

    fn fill_scores(&mut self, set: &TrainingSet<'_>, folded: &[Row]) {
        let means = set.means();
        let mut sums = vec![(0.0f32, 0.0f32); self.n_clusters * self.n_models];
        for (row, scores) in folded.iter().zip(&set.scores) {
            let cluster = self.nearest(row);
            for &(model, score) in *scores {
                let cell = &mut sums[cluster * self.n_models + model as usize];
                cell.0 += score;
                cell.1 += 1.0;
            }
        }
        let cell = |(at, (sum, n)): (usize, &(f32, f32))| (sum + PRIOR * means[at % self.n_models].0) / (n + PRIOR);
        self.scores = sums.iter().enumerate().map(cell).collect();
    }
}

/// N-gram columns folded into [`FOLDED`] dimensions, structure after them; of length 1.
fn fold(space: &Space, row: &[(u32, f32)]) -> Row {
    let first = space.n_ngrams() as u32;
    let mut dense = vec![0.0f32; N_DIMENSIONS];
    for &(column, value) in row {
        let dimension = if column < first { column as usize % FOLDED } else { FOLDED + (column - first) as usize };
        dense[dimension] += value;
    }
    let length = dense.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
    let nonzero = dense.into_iter().enumerate().filter(|(_, value)| *value != 0.0);
    nonzero.map(|(dimension, value)| (dimension as u32, value / length)).collect()
}
