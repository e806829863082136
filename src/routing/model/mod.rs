//! Score models: from the features of a prompt to an expected score for each candidate.
//!
//! Seven families of simple methods; which of them serves is decided by cross-validation (`train`), not by
//! taste. All learn from the same [`TrainingSet`] and answer through [`Heads::scores`].

mod classes;
mod clusters;
mod linear;
mod neighbours;
pub mod ridge;
mod semantic;
pub mod sgd;
pub mod space;

use serde::{Deserialize, Serialize};

use self::classes::Classes;
use self::clusters::Clusters;
use self::linear::LinearHeads;
use self::neighbours::Neighbours;
use self::ridge::Ridge;
use self::semantic::Semantic;
use self::space::{Row, Space};
use super::codec::{ArtifactError, Reader, Writer};
use super::features::{self, FeatureVector};
use super::seed::Seed;

/// A way to predict scores, from the simplest to the most elaborate: the order of preference at equal utility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Each candidate's mean score, whatever the prompt: the best single model.
    Constant,
    /// Ridge regression on the seed's domain probabilities and the prompt's length and setting.
    Domains,
    /// Mean score in the nearest of k clusters of prompts.
    Clusters,
    /// Latent classes that begin as the seed's domains and are corrected by outcomes.
    Classes,
    /// Logistic regression on n-grams and structure, one output per candidate.
    Ngrams,
    /// Weighted mean over the most similar recorded prompts.
    Neighbours,
    /// Mean of `Ngrams` and of logistic regression on the prompt's sentence embedding.
    Semantic,
}

impl Family {
    pub const ALL: [Self; 7] =
        [Self::Constant, Self::Domains, Self::Clusters, Self::Classes, Self::Ngrams, Self::Neighbours, Self::Semantic];

    /// Name in reports and artifacts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Domains => "domains",
            Self::Clusters => "clusters",
            Self::Ngrams => "ngrams",
            Self::Classes => "classes",
            Self::Neighbours => "neighbours",
            Self::Semantic => "semantic",
        }
    }

    pub fn needs_seed(self) -> bool {
        matches!(self, Self::Domains | Self::Classes)
    }

    pub fn needs_embedding(self) -> bool {
        self == Self::Semantic
    }
}

/// What models learn from: prompts with the scores some candidates got on them. Candidates are numbered.
pub struct TrainingSet<'a> {
    pub n_models: usize,
    pub features: Vec<&'a FeatureVector>,
    /// [`inputs`] of each prompt.
    pub inputs: Vec<&'a [f32]>,
    /// Sentence embedding of each prompt that has one.
    pub embeddings: Vec<Option<&'a [f32]>>,
    /// Recorded (candidate, score 0..1) of each prompt.
    pub scores: Vec<&'a [(u16, f32)]>,
    pub seed: u64,
}

impl TrainingSet<'_> {
    pub fn len(&self) -> usize {
        self.features.len()
    }

    /// Mean score and number of outcomes of each candidate; the mean of all where one has none.
    pub fn means(&self) -> Vec<(f32, u32)> {
        let mut sums = vec![(0.0f64, 0u32); self.n_models];
        for &(model, score) in self.scores.iter().copied().flatten() {
            sums[model as usize].0 += f64::from(score);
            sums[model as usize].1 += 1;
        }
        let (sum, n) = sums.iter().fold((0.0, 0), |(sum, n), one| (sum + one.0, n + one.1));
        let overall = sum / f64::from(n.max(1));
        sums.iter().map(|&(sum, n)| (if n > 0 { sum / f64::from(n) } else { overall } as f32, n)).collect()
    }
}

/// The few numbers that regressions with few outcomes read: length, setting, and the seed's domain probabilities.
pub fn inputs(seed: Option<&Seed>, features: &FeatureVector) -> Vec<f32> {
    let mut inputs = vec![
        (features::n_chars(features) / 4000.0).min(4.0),
        features.structure(features::TURNS),
        features.structure(features::TOOLS),
        features.structure(features::CJK_SHARE),
    ];
    if let Some(seed) = seed {
        inputs.extend(seed.classify(features));
    }
    inputs
}

/// Length of [`inputs`].
pub fn n_inputs(seed: Option<&Seed>) -> usize {
    4 + seed.map_or(0, |_| super::seed::N_DOMAINS)
}

/// A trained model of one family.
#[derive(Debug, Clone, PartialEq)]
pub enum Heads {
    Constant(Vec<f32>),
    Domains(Vec<Ridge>),
    Clusters(Clusters),
    Classes(Classes),
    Ngrams(LinearHeads),
    Neighbours(Neighbours),
    Semantic(Semantic),
}

/// Rows that the penalty of the domain regressions weighs as.
const DOMAIN_PENALTY: f64 = 2.0;

/// Outcomes that the mean of all candidates counts for in a candidate's own.
const MEAN_PRIOR: f64 = 2.0;

impl Heads {
    /// Trains `family` on `set`; `space` was learned from the same prompts, `rows` are their projections.
    pub fn fit(family: Family, set: &TrainingSet<'_>, space: &Space, rows: &[Row]) -> Self {
        match family {
            Family::Constant => Self::Constant(set.means().into_iter().map(|(mean, _)| mean).collect()),
            Family::Domains => Self::Domains(domain_heads(set)),
            Family::Clusters => Self::Clusters(Clusters::fit(set, space, rows)),
            Family::Ngrams => Self::Ngrams(LinearHeads::fit(set, space, rows)),
            Family::Classes => Self::Classes(Classes::fit(set, space, rows)),
            Family::Neighbours => Self::Neighbours(Neighbours::fit(set, space, rows)),
            Family::Semantic => Self::Semantic(Semantic::fit(set, space, rows)),
        }
    }

    /// Expected score of each candidate, 0..1.
    pub fn scores(&self, features: &FeatureVector, embedding: Option<&[f32]>, inputs: &[f32]) -> Vec<f32> {
        let domains =
            |heads: &[Ridge]| -> Vec<f32> { heads.iter().map(|head| head.at(inputs).clamp(0.0, 1.0)).collect() };
        match self {
            Self::Constant(means) => means.clone(),
            Self::Domains(heads) => domains(heads),
            Self::Clusters(clusters) => clusters.scores(features),
            Self::Ngrams(heads) => heads.scores(features),
            Self::Classes(classes) => classes.scores(features, inputs),
            Self::Neighbours(neighbours) => neighbours.scores(features),
            Self::Semantic(semantic) => semantic.scores(features, embedding),
        }
    }

    pub fn family(&self) -> Family {
        match self {
            Self::Constant(_) => Family::Constant,
            Self::Domains(_) => Family::Domains,
            Self::Clusters(_) => Family::Clusters,
            Self::Ngrams(_) => Family::Ngrams,
            Self::Classes(_) => Family::Classes,
            Self::Neighbours(_) => Family::Neighbours,
            Self::Semantic(_) => Family::Semantic,
        }
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.str(self.family().name());
        match self {
            Self::Constant(means) => writer.f32s(means),
            Self::Domains(heads) => heads.iter().for_each(|head| head.write(writer)),
            Self::Clusters(clusters) => clusters.write(writer),
            Self::Ngrams(heads) => heads.write(writer),
            Self::Classes(classes) => classes.write(writer),
            Self::Neighbours(neighbours) => neighbours.write(writer),
            Self::Semantic(semantic) => semantic.write(writer),
        }
    }

    pub fn read(n_models: usize, n_inputs: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let name = reader.str()?;
        let family = Family::ALL.into_iter().find(|family| family.name() == name);
        let family = family.ok_or_else(|| reader.damaged("its family is unknown"))?;
        let ridges = |reader: &mut Reader<'_>| -> Result<Vec<Ridge>, ArtifactError> {
            (0..n_models).map(|_| Ridge::read(n_inputs, reader)).collect()
        };
        Ok(match family {
            Family::Constant => {
                let means = reader.f32s()?;
                if means.len() != n_models {
                    return Err(reader.damaged("its means do not fit its models"));
                }
                Self::Constant(means)
            }
            Family::Domains => Self::Domains(ridges(reader)?),
            Family::Clusters => Self::Clusters(Clusters::read(n_models, reader)?),
            Family::Ngrams => Self::Ngrams(LinearHeads::read(n_models, reader)?),
            Family::Classes => Self::Classes(Classes::read(n_models, reader)?),
            Family::Neighbours => Self::Neighbours(Neighbours::read(n_models, reader)?),
            Family::Semantic => Self::Semantic(Semantic::read(n_models, reader)?),
        })
    }
}

/// One regression per candidate on the inputs of its recorded prompts.
fn domain_heads(set: &TrainingSet<'_>) -> Vec<Ridge> {
    let n_inputs = set.inputs.first().map_or(0, |inputs| inputs.len());
    let overall = {
        let means = set.means();
        means.iter().map(|(mean, _)| mean).sum::<f32>() / means.len().max(1) as f32
    };
    let mut own: Vec<(Vec<&[f32]>, Vec<f32>)> = vec![Default::default(); set.n_models];
    for (&inputs, scores) in set.inputs.iter().zip(&set.scores) {
        for &(model, score) in *scores {
            own[model as usize].0.push(inputs);
            own[model as usize].1.push(score);
        }
    }
    own.iter()
        .map(|(inputs, scores)| {
            if scores.is_empty() {
                return Ridge::constant(overall, n_inputs);
            }
            let mut ridge = Ridge::fit(inputs, scores, DOMAIN_PENALTY);
            ridge.shrink_mean(overall, scores.len() as f64, MEAN_PRIOR);
            ridge
        })
        .collect()
}
