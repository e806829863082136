//! Numbers on the command line with the range they must lie in: one outside is a bad flag, not a panic or a run of nothing later.

use std::ops::RangeInclusive;

/// Requests per second, of `--rate` and of a workload's `rate`. Under one in 1000 seconds no run would send any.
pub const RATES: RangeInclusive<f64> = 0.001..=1e6;

/// `--rate`.
pub fn rate(text: &str) -> Result<f64, String> {
    within(text, RATES, "requests per second")
}

/// How long something is measured: long enough to hold an answer, at most a day.
pub fn measured_seconds(text: &str) -> Result<f64, String> {
    within(text, 0.01..=86_400.0, "seconds")
}

/// How long something is waited for: nothing up to a day.
pub fn waited_seconds(text: &str) -> Result<f64, String> {
    within(text, 0.0..=86_400.0, "seconds")
}

/// What a dollar or a second is worth in score.
pub fn weight(text: &str) -> Result<f64, String> {
    within(text, 0.0..=1e6, "as a weight")
}

/// Not a number is in no range.
fn within(text: &str, range: RangeInclusive<f64>, unit: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("is no number; write one like {}", range.end()))?;
    match range.contains(&number) {
        true => Ok(number),
        false => Err(format!("must be between {} and {} {unit}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_run_can_use_is_refused() {
        for text in ["0", "-1", "nan", "inf", "1e12", "1e-9", "", "fast"] {
            assert!(rate(text).is_err(), "{text:?}");
        }
        for text in ["0", "-1", "nan", "inf", "1e30"] {
            assert!(measured_seconds(text).is_err(), "{text:?}");
        }
        for text in ["-1", "nan", "inf", "1e30"] {
            assert!(waited_seconds(text).is_err() && weight(text).is_err(), "{text:?}");
        }
        assert_eq!(
            (rate("0.5"), measured_seconds("4"), waited_seconds("0"), weight("20")),
            (Ok(0.5), Ok(4.0), Ok(0.0), Ok(20.0))
        );
        assert_eq!(rate("-1"), Err("must be between 0.001 and 1000000 requests per second".into()));
        assert!(rate("fast").unwrap_err().starts_with("is no number"));
    }
}
