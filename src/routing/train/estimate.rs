//! What an answer of each model will take: latency and cost, from recorded outcomes. Shared by all families, so that
//! they differ in predicted scores only.
//!
//! Per model a robust mean (extremes pulled in), shrunk towards the mean of all models while outcomes are few, plus a
//! ridge slope on the prompt's length and domain: a long prompt costs more to read, an essay takes longer than a fact.

use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::model::ridge::Ridge;

/// Share of outcomes at either end that count as the value at that rank.
const WINSORISED: f64 = 0.02;

/// Outcomes that the mean of all models counts for in a model's own mean.
const PRIOR: f64 = 3.0;

/// Penalty on slopes, in outcomes: below this many, the mean decides.
const PENALTY: f64 = 20.0;

/// Latency or cost of one model as a function of the inputs (see `model::inputs`).
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    ridge: Ridge,
    /// Range of values seen; estimates stay inside, so that no slope extrapolates to nonsense.
    range: (f32, f32),
}

impl Estimate {
    /// From the inputs (`n_inputs` each) and values of one model's outcomes; `overall` is the mean of all models' values.
    pub fn fit(n_inputs: usize, inputs: &[&[f32]], values: &[f32], overall: f32) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f32::total_cmp);
        let Some(&last) = sorted.last() else {
            return Self { ridge: Ridge::constant(overall, n_inputs), range: (overall, overall) };
        };
        let rank = (sorted.len() as f64 * WINSORISED) as usize;
        let (low, high) = (sorted[rank], sorted[sorted.len() - 1 - rank]);
        let values: Vec<f32> = values.iter().map(|value| value.clamp(low, high)).collect();
        let mut ridge = Ridge::fit(inputs, &values, PENALTY);
        ridge.shrink_mean(overall, values.len() as f64, PRIOR);
        Self { ridge, range: (sorted[0].min(overall), last.max(overall)) }
    }

    pub fn at(&self, inputs: &[f32]) -> f32 {
        self.ridge.at(inputs).clamp(self.range.0, self.range.1)
    }

    /// The estimate for a prompt nothing is known of.
    pub fn mean(&self) -> f32 {
        self.ridge.mean
    }

    pub fn write(&self, writer: &mut Writer) {
        self.ridge.write(writer);
        writer.f32(self.range.0);
        writer.f32(self.range.1);
    }

    pub fn read(n_inputs: usize, reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let ridge = Ridge::read(n_inputs, reader)?;
        let range = (reader.f32()?, reader.f32()?);
        if range.0 > range.1 {
            return Err(reader.damaged("a range is empty"));
        }
        Ok(Self { ridge, range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(values: &[f32], overall: f32) -> Estimate {
        let inputs: Vec<[f32; 1]> = (0..values.len()).map(|i| [i as f32 / 10.0]).collect();
        let views: Vec<&[f32]> = inputs.iter().map(|x| x.as_slice()).collect();
        Estimate::fit(1, &views, values, overall)
    }

    #[test]
    fn few_outcomes_lean_on_the_other_models_and_many_stand_alone() {
        assert!((fit(&[100.0], 500.0).at(&[0.0]) - 400.0).abs() < 1e-3);
        assert!((fit(&[100.0; 1000], 500.0).at(&[0.0]) - 101.2).abs() < 0.1);
        assert_eq!(Estimate::fit(0, &[], &[], 7.0).at(&[]), 7.0);
    }

    #[test]
    fn one_stuck_call_does_not_move_the_estimate() {
        let mut values = vec![100.0; 199];
        values.push(600_000.0);
        assert!(fit(&values, 100.0).at(&[1.0]) < 101.0);
    }

    #[test]
    fn longer_prompts_cost_more_and_never_less_than_seen() {
        let values: Vec<f32> = (0..400).map(|i| 1.0 + i as f32 / 100.0).collect();
        let estimate = fit(&values, 3.0);
        assert!(estimate.at(&[35.0]) > estimate.at(&[5.0]) + 2.0);
        assert!(estimate.at(&[-1e6]) >= 1.0 && estimate.at(&[1e6]) <= 5.0);
    }
}
