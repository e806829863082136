//! Self-attention of one text, in f32: every head's scores, their softmax, and the mean of the values that they weigh.

use std::ops::Range;

use super::kernel::Isa;
use super::kernel::matmul_f32::PackedF32;
use super::kernel::vector::{scale, softmax};

/// Rows of queries whose scores are held at once: a whole number of every path's tiles, and few enough that the scores of
/// a text of 256 tokens stay in the first cache.
const QUERIES: usize = 36;

/// What attention needs besides its operands, kept between calls.
pub struct Attention {
    isa: Isa,
    keys: PackedF32,
    values: PackedF32,
    scores: Vec<f32>,
}

impl Attention {
    pub fn new(isa: Isa) -> Self {
        Self { isa, keys: PackedF32::new(isa), values: PackedF32::new(isa), scores: Vec::new() }
    }

    /// `projected` has a row per token of the text: query (scaled already), key and value, each of `width`. Writes a row of
    /// `width` to `out` for every token of `queries`.
    pub fn attend(&mut self, projected: &[f32], width: usize, n_heads: usize, queries: Range<usize>, out: &mut [f32]) {
        let (stride, head_width) = (3 * width, width / n_heads);
        let n_tokens = projected.len() / stride;
        for head in 0..n_heads {
            let first = head * head_width;
            self.keys.pack_outputs(&projected[width + first..], stride, n_tokens, head_width);
            self.values.pack_inputs(&projected[2 * width + first..], stride, head_width, n_tokens);
            let n_scores = self.keys.n_padded();
            self.scores.resize(QUERIES * n_scores, 0.0);
            for block in queries.clone().step_by(QUERIES) {
                let n_rows = QUERIES.min(queries.end - block);
                self.keys.multiply_padded(
                    &projected[block * stride + first..],
                    stride,
                    n_rows,
                    &mut self.scores,
                    n_scores,
                );
                let out = &mut out[(block - queries.start) * width + first..];
                let mut factors = [0.0; QUERIES];
                for (row, factor) in self.scores.chunks_exact_mut(n_scores).zip(&mut factors).take(n_rows) {
                    // What pads the scores becomes 0: whole registers are faster than a rest.
                    row[n_tokens..].fill(f32::MIN);
                    *factor = softmax(self.isa, row);
                }
                self.values.multiply(&self.scores, n_scores, n_rows, out, width);
                for (row, factor) in out.chunks_mut(width).zip(factors).take(n_rows) {
                    scale(self.isa, &mut row[..head_width], factor);
                }
            }
        }
    }
}
