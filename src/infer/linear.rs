//! A linear layer in the precision it was loaded for.

use super::kernel::Isa;
use super::kernel::int8::{Int8Weights, PackedI8, QuantisedRows};
use super::kernel::matmul_f32::PackedF32;
use super::weights::Matrix;

/// In which numbers a model's matrix products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As published: the reference.
    F32,
    /// Weights rounded to eight bits per output, activations per token. Several times faster; cosines move by about 0.01.
    Int8,
}

impl Precision {
    /// What daily use takes.
    pub const DEFAULT: Self = Self::Int8;

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

pub struct Linear {
    n_in: usize,
    packed: Packed,
}

enum Packed {
    F32(PackedF32),
    Int8(PackedI8),
}

/// One stored matrix among those that a layer joins: its outputs are multiplied by `factor`.
pub struct Part {
    pub matrix: Matrix,
    pub bias: Vec<f32>,
    pub factor: f32,
}

impl Linear {
    /// A layer whose outputs are those of `parts`, one after the other.
    pub fn new(isa: Isa, precision: Precision, n_in: usize, parts: Vec<Part>) -> Self {
        let bias: Vec<f32> = parts.iter().flat_map(|part| part.bias.iter().map(|bias| bias * part.factor)).collect();
        let packed = match precision {
            Precision::F32 => {
                let mut joined = Vec::with_capacity(bias.len() * n_in);
                for part in parts {
                    joined.extend(part.matrix.into_f32(n_in).iter().map(|weight| weight * part.factor));
                }
                Packed::F32(PackedF32::from_weights(isa, &joined, bias.len(), n_in, &bias))
            }
            Precision::Int8 => {
                let mut joined = Int8Weights { values: Vec::with_capacity(bias.len() * n_in), scales: Vec::new() };
                for part in parts {
                    let weights = part.matrix.into_int8(n_in);
                    joined.values.extend_from_slice(&weights.values);
                    joined.scales.extend(weights.scales.iter().map(|scale| scale * part.factor));
                }
                Packed::Int8(PackedI8::from_weights(isa, &joined, bias.len(), n_in, &bias))
            }
        };
        Self { n_in, packed }
    }

    /// Of `rows` that lie one after the other, into rows of `out` that begin `out_stride` apart. `room` is for what lies between.
    pub fn forward(&self, rows: &[f32], out: &mut [f32], out_stride: usize, room: &mut QuantisedRows) {
        match &self.packed {
            Packed::F32(packed) => packed.multiply(rows, self.n_in, rows.len() / self.n_in, out, out_stride),
            Packed::Int8(packed) => packed.multiply(rows, room, out, out_stride),
        }
    }
}
