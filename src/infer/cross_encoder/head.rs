//! What turns the hidden vectors of a pair into one number.

use serde::Deserialize;

use crate::infer::kernel::Isa;
use crate::infer::kernel::matmul_f32::PackedF32;
use crate::infer::weights::Weights;

/// The members of `config.json` that are about the head and what its logits are worth.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct HeadShape {
    pub pooling: Pooling,
    /// Changes with the weights.
    pub version: Option<String>,
    #[serde(flatten)]
    pub blends: Blends,
}

/// What a logit is worth beside the score of the search that found the passage: they err in different ways, and both order better than either.
/// Found when the model was trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Blends {
    /// Beside the log odds of the second hop, for a question that one passage answers.
    pub after_hop: Blend,
    /// The same for a question that needs several, of which none may look like an answer by itself.
    pub after_hop_several: Blend,
    /// Beside the fused score.
    pub after_fusion: Blend,
}

/// A logit and the score of the search before it as the chance that the passage answers: `sigmoid(bias + logit + before)`, weighted.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Blend {
    pub logit: f32,
    pub before: f32,
    pub bias: f32,
}

impl Default for Blend {
    /// The model's own opinion.
    fn default() -> Self {
        Blend { logit: 1.0, before: 0.0, bias: 0.0 }
    }
}

impl Blend {
    /// From 0 to 1.
    pub fn chance(&self, logit: f32, before: f32) -> f32 {
        1.0 / (1.0 + (-(self.bias + self.logit * logit + self.before * before)).exp())
    }

    /// A blend between two: this one at 0, the other at 1.
    #[must_use]
    pub fn towards(&self, other: Blend, share: f32) -> Blend {
        let between = |own: f32, other: f32| own + share * (other - own);
        Blend {
            logit: between(self.logit, other.logit),
            before: between(self.before, other.before),
            bias: between(self.bias, other.bias),
        }
    }
}

/// What the head looks at; the member `pooling` of `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token's vector: how sequence classifiers are published.
    #[default]
    Cls,
    /// How well the tokens of both texts match, and the first token's vector (`eval/train/README.md`).
    Interaction,
}

pub enum Head {
    /// `classifier(tanh(pooler(first)))`, or without the pooler.
    First { pooler: Option<Layer>, classifier: Layer },
    /// `classifier([20 late, 20 means, first])`; see [`interaction`].
    Interaction { isa: Isa, classifier: Layer },
}

/// A row of weights per output, and the biases.
pub struct Layer {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// What both cosines are multiplied by, so that a weight of 1 makes a useful logit.
const SCALE: f32 = 20.0;

impl Head {
    /// # Errors
    /// A tensor is missing or of another shape than `width`, the size of a hidden vector, asks for.
    pub fn load(isa: Isa, weights: &Weights, width: usize, pooling: Pooling) -> Result<Self, String> {
        let layer = |name: &str, n_in: usize, n_out: usize| {
            let bias = weights.head(&format!("{name}.bias"), &[n_out])?;
            Ok::<_, String>(Layer { weights: weights.head(&format!("{name}.weight"), &[n_out, n_in])?, bias })
        };
        if pooling == Pooling::Interaction {
            return Ok(Self::Interaction { isa, classifier: layer("classifier", width + 2, 1)? });
        }
        let pooler = weights.pooler().map(|name| layer(name, width, width)).transpose()?;
        Ok(Self::First { pooler, classifier: layer("classifier", width, 1)? })
    }

    /// Whether it looks at the first token's vector alone.
    pub fn needs_first_only(&self) -> bool {
        matches!(self, Self::First { .. })
    }

    /// The logit of a pair. `hidden`: vectors of `width`, those of the first text (`n_first`, at least 1) before those of
    /// the second; only the first one where [`Self::needs_first_only`].
    pub fn forward(&self, hidden: &[f32], width: usize, n_first: usize) -> f32 {
        let first = &hidden[..width];
        let (pooled, classifier) = match self {
            Self::First { pooler, classifier } => (pooler.as_ref().map(|pooler| pooler.tanh(first)), classifier),
            Self::Interaction { isa, classifier } => {
                let both = interaction(*isa, hidden, width, n_first).map(|cosine| SCALE * cosine);
                (Some([both.as_slice(), first].concat()), classifier)
            }
        };
        classifier.forward(pooled.as_deref().unwrap_or(first)).next().unwrap_or_default()
    }
}

impl Layer {
    fn forward<'a>(&'a self, input: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let rows = self.weights.chunks_exact(input.len().max(1)).zip(&self.bias);
        rows.map(move |(row, bias)| dot(row, input) + bias)
    }

    pub fn tanh(&self, input: &[f32]) -> Vec<f32> {
        self.forward(input).map(f32::tanh).collect()
    }
}

/// Mean over the tokens of the first text of the best cosine with a token of the second, and the cosine of the means of
/// both texts' vectors. The tokens that mark beginning and ends take part.
fn interaction(isa: Isa, hidden: &[f32], width: usize, n_first: usize) -> [f32; 2] {
    let (first, second) = hidden.split_at(n_first * width);
    let means = dot(&unit(&sum(first, width)), &unit(&sum(second, width)));
    let n_second = second.len() / width;
    if n_second == 0 {
        return [0.0, means];
    }
    let unit_rows = |rows: &[f32]| rows.chunks_exact(width).flat_map(unit).collect::<Vec<f32>>();
    let tokens = PackedF32::from_weights(isa, &unit_rows(second), n_second, width, &vec![0.0; n_second]);
    let mut cosines = vec![0.0; n_first * n_second];
    tokens.multiply(&unit_rows(first), width, n_first, &mut cosines, n_second);
    let best = cosines.chunks_exact(n_second).map(|row| row.iter().copied().fold(f32::MIN, f32::max));
    #[expect(clippy::cast_precision_loss, reason = "a text has a few hundred tokens")]
    let late = best.sum::<f32>() / n_first as f32;
    [late, means]
}

fn sum(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn unit(row: &[f32]) -> Vec<f32> {
    let length = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
    row.iter().map(|value| value / length).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_match_of_every_token_is_averaged_and_the_means_are_compared() {
        for isa in Isa::all() {
            let [late, means] = interaction(isa, &[1.0, 0.0, 0.0, 2.0, 1.0, 1.0, 3.0, 0.0], 2, 2);
            assert!((late - (1.0 + 0.5f32.sqrt()) / 2.0).abs() < 1e-6, "{late}");
            assert!((means - 6.0 / 85.0f32.sqrt()).abs() < 1e-6, "{means}");
        }
    }

    #[test]
    fn vectors_of_length_0_and_a_missing_second_text_are_no_match() {
        assert_eq!(interaction(Isa::best(), &[0.0, 0.0, 1.0, 1.0], 2, 1), [0.0, 0.0]);
        assert_eq!(interaction(Isa::best(), &[1.0, 1.0], 2, 1), [0.0, 0.0]);
    }
}
