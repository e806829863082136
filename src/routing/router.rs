//! A trained router: what it predicts for a prompt, and its artifact. Made by `train`, stored by version, swapped in
//! whole; immutable once made.

use super::Prediction;
use super::codec::{ArtifactError, Kind, Reader, Writer};
use super::features::FeatureVector;
use super::model::{self, Family, Heads};
use super::seed::Seed;
use super::train::estimate::Estimate;

/// Predicts score, latency and cost of every candidate it has outcomes of.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    pub(super) models: Vec<ModelStats>,
    pub(super) heads: Heads,
    /// The domain classifier whose probabilities the models read; kept with the router, so that a new seed in the
    /// program does not change a router trained with the old one.
    pub(super) seed: Option<Seed>,
    pub(super) n_examples: u32,
}

/// One candidate of a router.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelStats {
    pub name: String,
    /// Outcomes it was trained on.
    pub n: u32,
    pub latency_ms: Estimate,
    pub cost_usd: Estimate,
}

const KIND: Kind = Kind { magic: *b"WGRT", name: "router" };

/// Outcomes at which a prediction is half trusted.
const HALF_TRUST: f32 = 20.0;

impl Router {
    /// A prediction for each of [`Self::models`], in that order. `embedding` is the prompt's, if there is one; only some
    /// routers read it ([`Self::reads_embedding`]), and those do without.
    pub fn predict(&self, features: &FeatureVector, embedding: Option<&[f32]>) -> Vec<Prediction> {
        let inputs = model::inputs(self.seed.as_ref(), features);
        self.predict_from(features, embedding, &inputs)
    }

    /// Whether an embedding would change what it predicts.
    pub fn reads_embedding(&self) -> bool {
        self.family().needs_embedding()
    }

    /// Names of the candidates it knows, ascending.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.name.as_str())
    }

    pub fn family(&self) -> Family {
        self.heads.family()
    }

    /// Prompts it was trained on.
    pub fn n_examples(&self) -> u32 {
        self.n_examples
    }

    /// As [`Self::predict`], with the inputs already computed.
    pub(super) fn predict_from(
        &self,
        features: &FeatureVector,
        embedding: Option<&[f32]>,
        inputs: &[f32],
    ) -> Vec<Prediction> {
        let scores = self.heads.scores(features, embedding, inputs);
        // The best single model is judged as such: one expectation for every prompt.
        let constant = self.family() == Family::Constant;
        let at = |estimate: &Estimate| if constant { estimate.mean() } else { estimate.at(inputs) };
        let predict = |(stats, score): (&ModelStats, f32)| Prediction {
            model: stats.name.clone(),
            score,
            latency_ms: at(&stats.latency_ms),
            cost_usd: at(&stats.cost_usd),
            confidence: stats.n as f32 / (stats.n as f32 + HALF_TRUST),
            n: stats.n,
        };
        self.models.iter().zip(scores).map(predict).collect()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND);
        writer.u32(self.n_examples);
        writer.u8(u8::from(self.seed.is_some()));
        if let Some(seed) = &self.seed {
            seed.write(&mut writer);
        }
        writer.len(self.models.len());
        for model in &self.models {
            writer.str(&model.name);
            writer.u32(model.n);
            model.latency_ms.write(&mut writer);
            model.cost_usd.write(&mut writer);
        }
        self.heads.write(&mut writer);
        writer.finish()
    }

    /// Inverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// Bytes of something else, of another version, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let mut reader = Reader::open(KIND, bytes)?;
        let n_examples = reader.u32()?;
        let seed = match reader.u8()? {
            0 => None,
            _ => Some(Seed::read(&mut reader)?),
        };
        let n_inputs = model::n_inputs(seed.as_ref());
        let n_models = reader.len()?;
        let models: Result<Vec<ModelStats>, ArtifactError> =
            (0..n_models).map(|_| ModelStats::read(n_inputs, &mut reader)).collect();
        let models = models?;
        let heads = Heads::read(n_models, n_inputs, &mut reader)?;
        reader.finish()?;
        Ok(Self { models, heads, seed, n_examples })
    }
}

impl ModelStats {
    fn read(n_inputs: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        Ok(Self {
            name: reader.str()?,
            n: reader.u32()?,
            latency_ms: Estimate::read(n_inputs, reader)?,
            cost_usd: Estimate::read(n_inputs, reader)?,
        })
    }
}
