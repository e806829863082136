//! Stochastic gradient descent for linear models with several outputs over sparse rows: the domain classifier
//! (softmax) and the score heads (one sigmoid per candidate) differ only in the gradient they hand in.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::space::Row;
use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::seed::N_DOMAINS;

/// Weights of `n_outputs` linear functions, stored column by column so that one row touches contiguous memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub n_outputs: usize,
    /// `weights[column * n_outputs + output]`.
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Settings of one fit.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    pub epochs: usize,
    pub learning_rate: f32,
    /// Ridge penalty per row visit.
    pub l2: f32,
    /// Columns from here on are dense features with their own penalty.
    pub first_dense: usize,
    pub l2_dense: f32,
    /// Probability that a visit hides all sparse columns, each single one of them, each single dense one.
    pub drop_block: f32,
    pub drop_column: f32,
    pub drop_dense: f32,
    pub seed: u64,
}

/// Scale below which it is folded into the weights, before its square leaves what `f32` resolves.
const LEAST_SCALE: f32 = 1e-4;

impl Linear {
    /// The outputs for `row`, written to `out` (length `n_outputs`).
    pub fn outputs(&self, row: &[(u32, f32)], out: &mut [f32]) {
        out.copy_from_slice(&self.bias);
        // A number of outputs that is known when compiling keeps them in registers; every decision asks the domains.
        match <&mut [f32; N_DOMAINS]>::try_from(&mut *out) {
            Ok(out) => self.add_row_known(row, out),
            Err(_) => self.add_row(row, out),
        }
    }

    fn add_row_known<const N: usize>(&self, row: &[(u32, f32)], out: &mut [f32; N]) {
        let (columns, _) = self.weights.as_chunks::<N>();
        let mut sums = *out;
        for &(column, value) in row {
            let weights = &columns[column as usize];
            sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += value * weight);
        }
        *out = sums;
    }

    fn add_row(&self, row: &[(u32, f32)], out: &mut [f32]) {
        for &(column, value) in row {
            let at = column as usize * self.n_outputs;
            for (out, weight) in out.iter_mut().zip(&self.weights[at..at + self.n_outputs]) {
                *out += value * weight;
            }
        }
    }

    /// All weights zero.
    pub fn zero(n_columns: usize, n_outputs: usize) -> Self {
        Self { n_outputs, weights: vec![0.0; n_columns * n_outputs], bias: vec![0.0; n_outputs] }
    }

    /// Fits by descent. `gradient(row_index, outputs)` turns the outputs into the loss' gradient in place.
    pub fn fit(
        rows: &[Row],
        n_columns: usize,
        bias: Vec<f32>,
        sgd: &Sgd,
        mut gradient: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        let n_outputs = bias.len();
        let mut linear = Self { n_outputs, weights: vec![0.0; n_columns * n_outputs], bias };
        let mut rng = Pcg64Mcg::seed_from_u64(sgd.seed);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let n_visits = (sgd.epochs * rows.len()).max(1) as f32;
        // The penalty is applied through two running scales instead of touching every weight on every visit.
        let (mut scale, mut scale_dense) = (1.0f32, 1.0f32);
        let mut visit = 0.0f32;
        let mut outputs = vec![0.0; n_outputs];
        let mut kept: Row = Vec::new();
        for _ in 0..sgd.epochs {
            shuffle(&mut order, &mut rng);
            for &index in &order {
                let rate = sgd.learning_rate * (1.0 - visit / n_visits);
                visit += 1.0;
                let hide_sparse = sgd.drop_block > 0.0 && rng.random::<f32>() < sgd.drop_block;
                kept.clear();
                for &(column, value) in &rows[index] {
                    if column as usize >= sgd.first_dense {
                        if sgd.drop_dense == 0.0 || rng.random::<f32>() >= sgd.drop_dense {
                            kept.push((column, value * scale_dense / (1.0 - sgd.drop_dense)));
                        }
                    } else if !hide_sparse && (sgd.drop_column == 0.0 || rng.random::<f32>() >= sgd.drop_column) {
                        kept.push((column, value * scale / (1.0 - sgd.drop_column)));
                    }
                }
                linear.outputs(&kept, &mut outputs);
                gradient(index, &mut outputs);
                scale *= 1.0 - rate * sgd.l2;
                scale_dense *= 1.0 - rate * sgd.l2_dense;
                for &(column, value) in &kept {
                    let own = if column as usize >= sgd.first_dense { scale_dense } else { scale };
                    // `value` carries one factor of the scale; the stored weight is the true one divided by it.
                    let step = rate * value / (own * own);
                    let at = column as usize * n_outputs;
                    for (weight, slope) in linear.weights[at..at + n_outputs].iter_mut().zip(&outputs) {
                        *weight -= step * slope;
                    }
                }
                for (bias, slope) in linear.bias.iter_mut().zip(&outputs) {
                    *bias -= 0.1 * rate * slope;
                }
                if scale.min(scale_dense) < LEAST_SCALE {
                    linear.fold_scales(sgd.first_dense, &mut scale, &mut scale_dense);
                }
            }
        }
        linear.fold_scales(sgd.first_dense, &mut scale, &mut scale_dense);
        linear
    }

    /// Applies the running scales to the weights and starts them again at 1.
    fn fold_scales(&mut self, first_dense: usize, scale: &mut f32, scale_dense: &mut f32) {
        let (sparse, dense) = self.weights.split_at_mut(first_dense * self.n_outputs);
        sparse.iter_mut().for_each(|weight| *weight *= *scale);
        dense.iter_mut().for_each(|weight| *weight *= *scale_dense);
        (*scale, *scale_dense) = (1.0, 1.0);
    }

    /// Adds `share` of `other`, which has the same shape: the mean of linear models is one again.
    pub fn add(&mut self, other: &Self, share: f32) {
        self.weights.iter_mut().zip(&other.weights).for_each(|(own, other)| *own += share * other);
        self.bias.iter_mut().zip(&other.bias).for_each(|(own, other)| *own += share * other);
    }

    /// Rounds the weights of the columns before `first_dense` to 127 steps a side for each output, so that what is
    /// stored in a byte is what is evaluated.
    pub fn quantise(&mut self, first_dense: usize) {
        let end = first_dense * self.n_outputs;
        for (output, scale) in self.scales(first_dense).into_iter().enumerate() {
            for weight in self.weights[..end].iter_mut().skip(output).step_by(self.n_outputs) {
                *weight = (*weight / scale).round() * scale;
            }
        }
    }

    /// Bytes for the columns before `first_dense`, floats for the rest. Exact after [`Self::quantise`].
    pub fn write(&self, first_dense: usize, writer: &mut Writer) {
        let end = first_dense * self.n_outputs;
        let scales = self.scales(first_dense);
        let steps: Vec<u8> = self.weights[..end]
            .iter()
            .zip(scales.iter().cycle())
            .map(|(w, scale)| (w / scale).round() as i8 as u8)
            .collect();
        writer.f32s(&self.bias);
        writer.f32s(&scales);
        writer.u8s(&steps);
        writer.f32s(&self.weights[end..]);
    }

    pub fn read(n_columns: usize, n_outputs: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let bias = reader.f32s()?;
        let scales = reader.f32s()?;
        let steps = reader.u8s()?;
        let dense = reader.f32s()?;
        if bias.len() != n_outputs || scales.len() != n_outputs || steps.len() + dense.len() != n_columns * n_outputs {
            return Err(reader.damaged("its weights do not fit its columns"));
        }
        let mut weights: Vec<f32> =
            steps.iter().zip(scales.iter().cycle()).map(|(&step, scale)| f32::from(step as i8) * scale).collect();
        weights.extend(dense);
        Ok(Self { n_outputs, weights, bias })
    }

    /// Step width of each output. A power of two: dividing by it and multiplying again is exact.
    fn scales(&self, first_dense: usize) -> Vec<f32> {
        let mut top = vec![f32::MIN_POSITIVE; self.n_outputs];
        for weights in self.weights[..first_dense * self.n_outputs].chunks_exact(self.n_outputs) {
            top.iter_mut().zip(weights).for_each(|(top, weight)| *top = top.max(weight.abs()));
        }
        top.into_iter().map(|top| (top / 127.0).log2().ceil().exp2()).collect()
    }
}

/// Fisher–Yates.
pub fn shuffle<T>(items: &mut [T], rng: &mut Pcg64Mcg) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.random_range(0..=last));
    }
}

/// Outputs to probabilities, in place.
pub fn softmax(outputs: &mut [f32]) {
    let top = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    outputs.iter_mut().for_each(|o| *o = (*o - top).exp());
    let sum: f32 = outputs.iter().sum();
    outputs.iter_mut().for_each(|o| *o /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SGD: Sgd = Sgd {
        epochs: 40,
        learning_rate: 0.5,
        l2: 1e-4,
        first_dense: 1,
        l2_dense: 1e-4,
        drop_block: 0.0,
        drop_column: 0.0,
        drop_dense: 0.0,
        seed: 1,
    };

    /// Two classes told apart by the sparse column 0, with the dense column 1 always on.
    fn fit(sgd: &Sgd) -> Linear {
        let rows: Vec<Row> = (0..200).map(|i| vec![(0, if i % 2 == 0 { 1.0 } else { -1.0 }), (1, 0.5)]).collect();
        Linear::fit(&rows, 2, vec![0.0; 2], sgd, |index, outputs| {
            softmax(outputs);
            outputs[index % 2] -= 1.0;
        })
    }

    fn first(linear: &Linear, row: &[(u32, f32)]) -> f32 {
        let mut outputs = [0.0; 2];
        linear.outputs(row, &mut outputs);
        softmax(&mut outputs);
        outputs[0]
    }

    #[test]
    fn learns_to_separate_and_the_penalty_holds_it_back() {
        let row = [(0, 1.0), (1, 0.5)];
        assert!(first(&fit(&SGD), &row) > 0.95);
        let held = first(&fit(&Sgd { l2: 0.3, ..SGD }), &row);
        assert!((0.5..0.9).contains(&held), "{held}");
    }

    #[test]
    fn long_training_under_a_strong_penalty_stays_finite() {
        let linear = fit(&Sgd { epochs: 2000, l2: 0.05, l2_dense: 0.3, ..SGD });
        assert!(linear.weights.iter().all(|weight| weight.is_finite()));
        assert!(first(&linear, &[(0, 1.0)]) > 0.6, "{:?}", linear.weights);
    }

    #[test]
    fn quantised_weights_are_written_exactly() {
        let kind = crate::routing::codec::Kind { magic: *b"TEST", name: "test" };
        let mut linear = fit(&SGD);
        linear.quantise(1);
        let mut writer = Writer::new(kind);
        linear.write(1, &mut writer);
        let bytes = writer.finish();
        let mut reader = Reader::open(kind, &bytes).unwrap();
        assert_eq!(Linear::read(2, 2, &mut reader).unwrap(), linear);
    }
}
