//! Means and percentiles of measurements.

/// Arithmetic mean; 0 of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (n, sum) = values.into_iter().fold((0u64, 0.0), |(n, sum), value| (n + 1, sum + value));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// Percentile `p` (0..=100) by the nearest rank of sorted values; 0 of nothing.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = (p / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

/// The middle value, or the mean of the middle two; 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let values = sorted((1..=200).rev().map(f64::from));
        for (p, expected) in [(50.0, 100.0), (99.0, 198.0), (99.9, 200.0), (100.0, 200.0), (0.0, 1.0)] {
            assert_eq!(percentile(&values, p), expected);
        }
        assert_eq!(percentile(&[], 50.0), 0.0);
        assert_eq!((median(vec![3.0, 1.0]), median(vec![9.0, 1.0, 2.0]), mean([1.0, 2.0])), (2.0, 2.0, 1.5));
    }
}
