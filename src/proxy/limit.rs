//! Local rate limits of routes: token buckets that live as long as the route's limit is configured, across reloads.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config::model::{RateLimit, Route};

pub struct Limiter {
    limit: RateLimit,
    bucket: DefaultDirectRateLimiter,
}

impl Limiter {
    fn new(limit: RateLimit) -> Limiter {
        let period = Duration::from_secs(limit.period_secs.into()) / limit.tokens.get();
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MAX));
        Limiter { limit, bucket: RateLimiter::direct(quota.allow_burst(limit.burst)) }
    }

    /// Takes a token; `false` if there is none.
    pub fn admit(&self) -> bool {
        self.bucket.check().is_ok()
    }
}

/// The limiters of a snapshot, by what their routes match.
#[derive(Default)]
pub struct Limiters {
    by_route: HashMap<String, Arc<Limiter>>,
}

impl Limiters {
    /// The limiter of a route; one that served the same route with the same limit before goes on.
    pub fn of(&mut self, route: &Route, before: &Limiters) -> Option<Arc<Limiter>> {
        let limit = route.admission.rate_limit?;
        let Route { name, host, path, methods, headers, queries, is_default_backend, .. } = route;
        let key = format!("{name} {host:?} {path:?} {methods:?} {headers:?} {queries:?} {is_default_backend}");
        let known = before.by_route.get(&key).filter(|limiter| limiter.limit == limit);
        let limiter = known.cloned().unwrap_or_else(|| Arc::new(Limiter::new(limit)));
        self.by_route.insert(key, limiter.clone());
        Some(limiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_and_no_more() {
        let n = |n| NonZeroU32::new(n).unwrap();
        let limiter = Limiter::new(RateLimit { tokens: n(1), period_secs: 60, burst: n(3) });
        assert_eq!((0..10).filter(|_| limiter.admit()).count(), 3);
    }
}
