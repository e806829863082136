//! Learned routing: which candidate model should answer a prompt. Pure: no IO, no clock, no threads; everything is a
//! function of its arguments and a seed.
//!
//! ```text
//! Prompt ── features::extract ──► FeatureVector ─┬─ Router::predict ───┐
//!      └─ an embedding, if the caller has one ──┤                     │
//!                                                └─ ColdStart (seed) ──┴─► Vec<Prediction> ── decide(Policy) ──► Decision
//! recorded Examples ── train ──► Router + CrossValidation ── gate (held-out) ──► Verdict: serve it or not
//! ```
//!
//! Called by the `semantic-router` plugin (the first line, on the request path: well under a millisecond) and by the
//! trainer and the command line (the second, off the path). Reading outcomes, storing versions and swapping routers is
//! their job; this module never learns where an outcome came from.

mod codec;
pub mod features;
mod gate;
mod model;
mod policy;
mod router;
mod seed;
mod train;

use serde::{Deserialize, Serialize};

pub use codec::ArtifactError;
pub use features::{FEATURES_VERSION, FeatureVector, Prompt, VectorError, extract};
pub use gate::{Gate, Verdict, gate};
pub use model::Family;
pub use policy::{Decision, Limit, Policy, Reason, decide};
pub use router::Router;
pub use seed::{ColdStart, Domain, DomainProbabilities, N_DOMAINS, Seed, UnknownDomain, misspelled};
pub use train::{CrossValidation, MIN_QUESTIONS, Measured, Progress, TrainError, TrainOptions, Trained, train};

/// A model that may answer, as configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub model: String,
    pub provider: String,
    /// USD per million prompt tokens.
    pub price_in: f64,
    /// USD per million completion tokens.
    pub price_out: f64,
    /// What is known of it beforehand: names of [`Domain`]s it is good at, its size (`32b`, `large`).
    #[serde(default)]
    pub tags: Vec<String>,
}

/// What one answer of a model is expected to bring and take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub model: String,
    /// 0..1.
    pub score: f32,
    pub latency_ms: f32,
    pub cost_usd: f32,
    /// 0..1: how much is known of the model; of a guess, how sure the seed is of the domain.
    pub confidence: f32,
    /// Recorded outcomes behind it; 0 for a guess.
    pub n: u32,
}

/// A prompt with what some models made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Of the question: examples of one hash are never split between training and judging.
    pub hash: u64,
    pub features: FeatureVector,
    /// Sentence embedding of the prompt, if somebody made one. All have one length.
    pub embedding: Option<Vec<f32>>,
    pub outcomes: Vec<Outcome>,
}

/// One recorded answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub model: String,
    /// 0..1.
    pub score: f32,
    pub latency_ms: f32,
    pub cost_usd: f32,
}
