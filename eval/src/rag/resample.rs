//! How sure a mean is: bootstrap intervals over queries, and a paired sign-flip test between two steps. Both draw from a generator
//! with a fixed seed, so the same rows give the same figures.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

const SEED: u64 = 20_240_229;
const N_RESAMPLES: usize = 1_000;
const N_FLIPS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The 95 % percentile interval of the mean over resampled queries; a single value is its own interval.
pub fn interval(values: &[f64]) -> Interval {
    let Some(first) = values.first() else { return Interval::default() };
    // All alike: resampling gives the same mean again, up to rounding.
    if values.iter().all(|value| value == first) {
        return Interval { low: *first, high: *first };
    }
    let mut rng = Pcg64::seed_from_u64(SEED);
    let mean_of_draw = |_| {
        let sum: f64 = (0..values.len()).filter_map(|_| values.get(rng.random_range(0..values.len()))).sum();
        sum / values.len() as f64
    };
    let mut means: Vec<f64> = (0..N_RESAMPLES).map(mean_of_draw).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means.get((share * N_RESAMPLES as f64) as usize).copied().unwrap_or_default();
    Interval { low: at(0.025), high: at(0.974) }
}

/// A difference between two steps on the same queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Mean of the later step less the mean of the earlier.
    pub difference: f64,
    /// How often flipping the signs of the differences by chance gives one as large; two-sided.
    pub p: f64,
    pub n_better: usize,
    pub n_worse: usize,
}

/// The sign-flip permutation test on `(before, after)` of each query.
pub fn change(pairs: &[(f64, f64)]) -> Change {
    let differences: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
    // Equal queries cannot change a flipped sum.
    let moved: Vec<f64> = differences.iter().copied().filter(|difference| difference.abs() > 1e-12).collect();
    // The sum of nothing is -0, which would be shown with its sign.
    let sum = moved.iter().sum::<f64>() + 0.0;
    let mut rng = Pcg64::seed_from_u64(SEED);
    let mut n_as_large = 0usize;
    for _ in 0..N_FLIPS {
        let flipped: f64 =
            moved.iter().map(|difference| if rng.random::<bool>() { *difference } else { -difference }).sum();
        n_as_large += usize::from(flipped.abs() >= sum.abs() - 1e-9);
    }
    Change {
        difference: sum / differences.len().max(1) as f64,
        p: if moved.is_empty() { 1.0 } else { (1 + n_as_large) as f64 / (1 + N_FLIPS) as f64 },
        n_better: moved.iter().filter(|difference| **difference > 0.0).count(),
        n_worse: moved.iter().filter(|difference| **difference < 0.0).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_values_give_the_same_interval() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 5 == 0)).collect();
        let first = interval(&values);
        assert_eq!(first, interval(&values));
        // Normal approximation: 0.2 ± 1.96 · sqrt(0.2 · 0.8 / 200) = 0.1446 .. 0.2554.
        assert!((first.low - 0.145).abs() < 0.015 && (first.high - 0.255).abs() < 0.015, "{first:?}");
        assert_eq!(interval(&[]), Interval::default());
        assert_eq!(interval(&[0.5, 0.5]), Interval { low: 0.5, high: 0.5 });
    }

    #[test]
    fn clear_changes_are_significant_and_noise_is_not() {
        let better: Vec<(f64, f64)> = (0..40).map(|i| (0.0, f64::from(i < 20))).collect();
        let clear = change(&better);
        assert!(clear.p < 0.001 && (clear.difference - 0.5).abs() < 1e-12, "{clear:?}");
        assert_eq!((clear.n_better, clear.n_worse), (20, 0));
        let even: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i % 2), f64::from((i + 1) % 2))).collect();
        assert!(change(&even).p > 0.9);
        assert_eq!(change(&even), change(&even));
        let same = change(&[(1.0, 1.0), (0.0, 0.0)]);
        assert_eq!((same.difference, same.p, same.n_better), (0.0, 1.0, 0));
        assert_eq!(change(&[]).p, 1.0);
    }

    #[test]
    fn p_of_few_pairs_is_the_exact_share_of_sign_patterns() {
        // Three equal gains: of the 8 sign patterns 2 are as large, so p = 0.25.
        let p = change(&[(0.0, 1.0), (0.0, 1.0), (0.0, 1.0)]).p;
        assert!((p - 0.25).abs() < 0.02, "{p}");
    }
}
