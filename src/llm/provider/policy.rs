//! When to try again and with which token: `retryOnFailure` and `failover` of a provider.

use std::time::Duration;

use regex::Regex;

/// Immediate retries of a failed request, each with another token if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub max_retries: u32,
    /// Of one retry.
    pub timeout: Duration,
    pub retry_on: StatusSet,
}

/// When an API token leaves the pool and how it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverPolicy {
    /// Failures in a row that take a token out.
    pub failure_threshold: u32,
    /// Passed health probes in a row that bring it back.
    pub success_threshold: u32,
    pub health_check_interval: Duration,
    pub health_check_timeout: Duration,
    /// The model a health probe asks; without it there are no probes.
    pub health_check_model: Option<String>,
    /// How long a token stays out at most.
    pub cooldown: Option<Duration>,
    pub failover_on: StatusSet,
}

/// HTTP statuses, given as regular expressions on their digits such as `429` or `5.*`.
///
/// An expression must match from the first digit on, so that `4.*` does not mean 504.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusSet {
    /// One bit per status.
    bits: [u64; 16],
}

impl StatusSet {
    /// # Errors
    /// The first expression that does not compile.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<StatusSet, String> {
        let mut bits = [0; 16];
        for pattern in patterns {
            let expression = Regex::new(&format!("^(?:{pattern})")).map_err(|_| {
                format!("`{pattern}` is not a regular expression on a status. Write for example 429 or 5.*.")
            })?;
            for status in (100_u16..1000).filter(|status| expression.is_match(&status.to_string())) {
                bits[usize::from(status / 64)] |= 1 << (status % 64);
            }
        }
        Ok(StatusSet { bits })
    }

    pub fn matches(&self, status: u16) -> bool {
        self.bits.get(usize::from(status / 64)).is_some_and(|word| word >> (status % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_from_the_first_digit() {
        let set = StatusSet::new(["4.*", "503"]).unwrap();
        for (status, matches) in
            [(400, true), (499, true), (503, true), (504, false), (500, false), (200, false), (0, false)]
        {
            assert_eq!(set.matches(status), matches, "{status}");
        }
        assert!(!set.matches(u16::MAX));
        assert!(StatusSet::new(["5"]).unwrap().matches(502));
        assert!(StatusSet::new(["4(", "5.*"]).unwrap_err().contains("`4(`"));
    }
}
