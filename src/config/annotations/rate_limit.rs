//! `route-limit-rpm`, `route-limit-rps`, `route-limit-burst-multiplier`: a token bucket in this gateway for each path
//! (Higress `annotations/local_rate_limit.go`). Requests per minute count before those per second.

use std::num::NonZeroU32;

use super::Annotations;
use crate::config::model::RateLimit;

const DEFAULT_MULTIPLIER: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

pub(super) fn read(annotations: &Annotations<'_>) -> Option<RateLimit> {
    let number = |key: &str| {
        let found = annotations.higress(key);
        annotations.parse(found, "a whole number above zero", |text| text.parse::<NonZeroU32>().ok())
    };
    let multiplier = number("route-limit-burst-multiplier").unwrap_or(DEFAULT_MULTIPLIER);
    let (per_minute, per_second) = (number("route-limit-rpm"), number("route-limit-rps"));
    let (tokens, period_secs) = match (per_minute, per_second) {
        (Some(tokens), _) => (tokens, 60),
        (None, Some(tokens)) => (tokens, 1),
        (None, None) => return None,
    };
    Some(RateLimit { tokens, period_secs, burst: tokens.saturating_mul(multiplier) })
}
