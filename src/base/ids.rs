//! Request ids: UUID version 7, so that they sort by time in logs and in the flywheel.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

/// Identifies one client request in the answer header, the access log, the trace and the flywheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    pub fn new() -> Self {
        RequestId(Uuid::now_v7())
    }

    /// Sixteen bytes; the tail is random and serves as a trace id when the client sent none.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// A number in `0..1` that is fixed for this request and purpose: sampling decisions agree wherever they are made, and
    /// two purposes with the same rate do not pick the same requests.
    pub fn sample(&self, purpose: &str) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.0, purpose).hash(&mut hasher);
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
        let share = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
        share
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_sort_by_time() {
        let ids: Vec<String> = (0..1000).map(|_| RequestId::new().to_string()).collect();
        let mut sorted = ids.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 1000);
        assert_eq!(ids, sorted);
    }

    #[test]
    fn samples_are_spread_over_the_unit_interval() {
        let mean = (0..4000).map(|_| RequestId::new().sample("test")).sum::<f64>() / 4000.0;
        assert!((0.45..0.55).contains(&mean), "mean {mean}");
    }
}
