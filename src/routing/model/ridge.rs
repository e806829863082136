//! Ridge regression with few inputs, solved exactly. Used where outcomes are few: score on domain probabilities,
//! latency and cost on length.

use crate::routing::codec::{ArtifactError, Reader, Writer};

/// `mean + weights · (inputs − centre)`; the mean is not penalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    pub mean: f32,
    centre: Vec<f32>,
    weights: Vec<f32>,
}

impl Ridge {
    /// A function that ignores its inputs.
    pub fn constant(mean: f32, n_inputs: usize) -> Self {
        Self { mean, centre: vec![0.0; n_inputs], weights: vec![0.0; n_inputs] }
    }

    /// Least squares with `penalty` (in rows) on the squared weights. All inputs have one length.
    pub fn fit(inputs: &[&[f32]], values: &[f32], penalty: f64) -> Self {
        let (Some(first), n) = (inputs.first(), inputs.len() as f64) else { return Self::constant(0.0, 0) };
        let d = first.len();
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let mut centre = vec![0.0f64; d];
        for x in inputs {
            centre.iter_mut().zip(*x).for_each(|(sum, &x)| *sum += f64::from(x) / n);
        }
        // Normal equations: (XᵀX + penalty · I) w = Xᵀy over centred inputs and values.
        let mut gram = vec![0.0f64; d * d];
        let mut moment = vec![0.0f64; d];
        for (x, &value) in inputs.iter().zip(values) {
            for i in 0..d {
                let xi = f64::from(x[i]) - centre[i];
                moment[i] += xi * (f64::from(value) - mean);
                for j in 0..=i {
                    gram[i * d + j] += xi * (f64::from(x[j]) - centre[j]);
                }
            }
        }
        for i in 0..d {
            gram[i * d + i] += penalty;
        }
        solve(&mut gram, &mut moment);
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Self { mean: mean as f32, centre: narrow(centre), weights: narrow(moment) }
    }

    /// Moves the mean towards `overall`, which counts as `prior` rows beside the `n` it was fitted on.
    pub fn shrink_mean(&mut self, overall: f32, n: f64, prior: f64) {
        self.mean = ((f64::from(self.mean) * n + f64::from(overall) * prior) / (n + prior)) as f32;
    }

    pub fn at(&self, inputs: &[f32]) -> f32 {
        let terms =
            inputs.iter().zip(&self.centre).zip(&self.weights).map(|((x, centre), weight)| (x - centre) * weight);
        self.mean + terms.sum::<f32>()
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.f32(self.mean);
        writer.f32s(&self.centre);
        writer.f32s(&self.weights);
    }

    pub fn read(n_inputs: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let ridge = Self { mean: reader.f32()?, centre: reader.f32s()?, weights: reader.f32s()? };
        if ridge.centre.len() != n_inputs || ridge.weights.len() != n_inputs {
            return Err(reader.damaged("a regression does not fit its inputs"));
        }
        Ok(ridge)
    }
}

/// Solves `gram · x = moment` in place by Cholesky; `gram` is symmetric positive definite with its lower half filled.
fn solve(gram: &mut [f64], moment: &mut [f64]) {
    let d = moment.len();
    for i in 0..d {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| gram[i * d + k] * gram[j * d + k]).sum();
            let rest = gram[i * d + j] - dot;
            gram[i * d + j] = if i == j { rest.max(1e-12).sqrt() } else { rest / gram[j * d + j] };
        }
    }
    for i in 0..d {
        let dot: f64 = (0..i).map(|k| gram[i * d + k] * moment[k]).sum();
        moment[i] = (moment[i] - dot) / gram[i * d + i];
    }
    for i in (0..d).rev() {
        let dot: f64 = (i + 1..d).map(|k| gram[k * d + i] * moment[k]).sum();
        moment[i] = (moment[i] - dot) / gram[i * d + i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovers_a_plane_and_shrinks_under_penalty() {
        let inputs: Vec<[f32; 2]> = (0..50).map(|i| [(i % 7) as f32, (i % 5) as f32]).collect();
        let views: Vec<&[f32]> = inputs.iter().map(|x| x.as_slice()).collect();
        let values: Vec<f32> = inputs.iter().map(|x| 2.0 + 3.0 * x[0] - x[1]).collect();
        let exact = Ridge::fit(&views, &values, 1e-6);
        assert!((exact.at(&[10.0, 4.0]) - 28.0).abs() < 1e-2);
        let flat = Ridge::fit(&views, &values, 1e9);
        assert!((flat.at(&[10.0, 4.0]) - flat.mean).abs() < 1e-2);
    }

    #[test]
    fn inputs_that_never_vary_are_harmless() {
        let constant: [&[f32]; 3] = [&[1.0, 1.0], &[1.0, 1.0], &[1.0, 1.0]];
        assert_eq!(Ridge::fit(&constant, &[0.0, 0.5, 1.0], 1.0).at(&[1.0, 1.0]), 0.5);
    }
}
