//! Prompt to numbers: hashed n-grams, lexicon hits, structure and length. Pure and bounded: under a millisecond for
//! any prompt, no allocation beyond the vector. Called on the request path (through `decide`'s callers) and by training.
//!
//! What a bucket or a structure position means is fixed by [`FEATURES_VERSION`]; change one, raise the other.

mod lexicon;
mod ngram;
mod normalize;
mod structure;
mod vector;

pub use structure::{CJK_SHARE, LENGTH, N_NEUTRAL, N_STRUCTURE, TOOLS, TOTAL_LENGTH, TURNS};
pub use vector::{FeatureVector, VectorError};

/// Raised whenever the same prompt would give another vector; stored vectors and routers carry it.
pub const FEATURES_VERSION: u32 = 4;

/// Buckets that n-grams are hashed into; a power of two.
pub const NGRAM_BUCKETS: u32 = 1 << 18;

/// What is known of a request before it is sent anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prompt<'a> {
    /// What the user asks: usually the last user message.
    pub text: &'a str,
    /// Messages in the conversation.
    pub n_turns: u32,
    /// Characters in all messages together.
    pub n_chars_total: usize,
    pub has_tools: bool,
}

impl<'a> Prompt<'a> {
    /// A conversation that consists of `text`.
    pub fn single(text: &'a str) -> Self {
        Self { text, n_turns: 1, n_chars_total: text.len(), has_tools: false }
    }
}

/// The features of `prompt`. Never fails; an empty prompt gives only structure features.
pub fn extract(prompt: &Prompt<'_>) -> FeatureVector {
    let ends = normalize::ends(prompt.text);
    let grams = ngram::grams(&normalize::fold(ends));
    let structure = structure::structure(prompt, ends, &grams);
    let values = vector::damped(&grams.counts);
    let mut vector = FeatureVector { indices: grams.buckets, values };
    for (feature, &value) in structure.iter().enumerate() {
        let value = vector::round_value(value);
        if value > 0.0 {
            vector.indices.push(NGRAM_BUCKETS + feature as u32);
            vector.values.push(value);
        }
    }
    vector
}

/// Characters (bytes of UTF-8, to within a fifth) in all messages of the prompt that `features` were extracted from.
pub fn n_chars(features: &FeatureVector) -> f32 {
    structure::total_length(features.structure(TOTAL_LENGTH))
}

#[cfg(test)]
mod tests;
