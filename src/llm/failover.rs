//! Which API token a request uses: the token pool of a provider, as a state machine without a clock.
//!
//! The caller keeps a [`TokenPool`] per provider (behind a lock), passes in the time and a random number, and reports how each
//! call ended. With failover on, a token that fails `failureThreshold` times in a row leaves the pool until its cooldown is
//! over or enough health probes succeed. Tokens are named by their position in `apiTokens`.

use std::time::{Duration, Instant};

use super::provider::policy::FailoverPolicy;

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    pub now: Instant,
    /// A uniformly random number.
    pub random: u64,
    /// Set for stateful APIs only: the consumer, who keeps meeting the same token, because files, batches and stored
    /// responses live in the account behind it.
    pub consumer: Option<&'a str>,
    /// Tokens that already failed for this request.
    pub exclude: &'a [usize],
}

/// The tokens of one provider and their health.
#[derive(Debug, Clone)]
pub struct TokenPool {
    tokens: Vec<Health>,
    policy: Option<FailoverPolicy>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    failures: u32,
    probes_passed: u32,
    out_since: Option<Instant>,
}

impl TokenPool {
    /// `policy` is `None` if failover is off: then all tokens are always in the pool.
    pub fn new(n_tokens: usize, policy: Option<FailoverPolicy>) -> Self {
        TokenPool { tokens: vec![Health::default(); n_tokens], policy }
    }

    /// The token to use, or `None` if there is none that this request has not tried. Tokens in the pool come first; if all
    /// are out, one of those is tried rather than none.
    pub fn choose(&mut self, choice: Choice<'_>) -> Option<usize> {
        self.recover(choice.now);
        let free = |index: &usize| !choice.exclude.contains(index);
        if let Some(consumer) = choice.consumer
            && let Some(index) = (fnv1a_32(consumer.as_bytes()) as usize).checked_rem(self.tokens.len())
            && self.tokens[index].out_since.is_none()
            && free(&index)
        {
            return Some(index);
        }
        let (available, out): (Vec<usize>, Vec<usize>) =
            (0..self.tokens.len()).filter(free).partition(|&index| self.tokens[index].out_since.is_none());
        let candidates = if available.is_empty() { out } else { available };
        let at = (choice.random as usize).checked_rem(candidates.len())?;
        candidates.get(at).copied()
    }

    /// Tells how a call with this token ended. Only statuses the provider sent belong here: a connection that failed says
    /// nothing about the token.
    pub fn report(&mut self, token: usize, status: u16, now: Instant) {
        let (Some(policy), Some(health)) = (&self.policy, self.tokens.get_mut(token)) else { return };
        if status == 200 {
            health.failures = 0;
        } else if policy.failover_on.matches(status) && health.out_since.is_none() {
            health.failures += 1;
            if health.failures >= policy.failure_threshold {
                *health = Health { out_since: Some(now), ..Health::default() };
            }
        }
    }

    /// Tokens that are out and that a health probe may bring back; empty unless `healthCheckModel` is set.
    pub fn to_probe(&mut self, now: Instant) -> Vec<usize> {
        self.recover(now);
        let probes = self.policy.as_ref().is_some_and(|policy| policy.health_check_model.is_some());
        let is_out = |index: &usize| self.tokens[*index].out_since.is_some();
        if probes { (0..self.tokens.len()).filter(is_out).collect() } else { Vec::new() }
    }

    /// Tells how a health probe ended; `successThreshold` passes in a row bring the token back.
    pub fn report_probe(&mut self, token: usize, status: u16) {
        let (Some(policy), Some(health)) = (&self.policy, self.tokens.get_mut(token)) else { return };
        health.probes_passed = if status == 200 { health.probes_passed + 1 } else { 0 };
        if health.out_since.is_some() && health.probes_passed >= policy.success_threshold {
            *health = Health::default();
        }
    }

    /// Whether a token has left the pool.
    pub fn is_any_out(&self) -> bool {
        self.tokens.iter().any(|health| health.out_since.is_some())
    }

    /// How many tokens are in the pool, and how many there are.
    pub fn available(&mut self, now: Instant) -> (usize, usize) {
        self.recover(now);
        (self.tokens.iter().filter(|health| health.out_since.is_none()).count(), self.tokens.len())
    }

    fn recover(&mut self, now: Instant) {
        let cooldown = self.policy.as_ref().and_then(|policy| policy.cooldown);
        let Some(cooldown) = cooldown else { return };
        let is_over = |since: Instant| now.checked_duration_since(since).unwrap_or(Duration::ZERO) >= cooldown;
        for health in self.tokens.iter_mut().filter(|health| health.out_since.is_some_and(is_over)) {
            *health = Health::default();
        }
    }
}

/// The hash Higress spreads consumers with, so that a consumer keeps its token when the gateway is exchanged.
fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::provider::policy::StatusSet;

    fn policy() -> FailoverPolicy {
        FailoverPolicy {
            failure_threshold: 2,
            success_threshold: 2,
            health_check_interval: Duration::from_secs(5),
            health_check_timeout: Duration::from_secs(5),
            health_check_model: None,
            cooldown: None,
            failover_on: StatusSet::new(["4.*", "5.*"]).unwrap(),
        }
    }

    fn choice(now: Instant, random: u64) -> Choice<'static> {
        Choice { now, random, consumer: None, exclude: &[] }
    }

    #[test]
    fn fnv_matches_published_vectors() {
        assert_eq!(fnv1a_32(b""), 0x811c_9dc5);
        assert_eq!(fnv1a_32(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a_32(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn the_random_number_spreads_and_exclusion_narrows() {
        let now = Instant::now();
        let mut pool = TokenPool::new(3, None);
        let chosen: Vec<_> = (0..4).map(|random| pool.choose(choice(now, random))).collect();
        assert_eq!(chosen, [Some(0), Some(1), Some(2), Some(0)]);
        let excluding = |exclude| Choice { exclude, ..choice(now, 5) };
        assert_eq!(pool.choose(excluding(&[0, 1])), Some(2));
        assert_eq!(pool.choose(excluding(&[0, 1, 2])), None);
        assert_eq!(TokenPool::new(0, None).choose(choice(now, 7)), None);
    }

    #[test]
    fn a_consumer_keeps_its_token_while_it_can() {
        let now = Instant::now();
        let mut pool = TokenPool::new(4, Some(policy()));
        let home = fnv1a_32(b"alice") as usize % 4;
        let alice = |random, exclude| Choice { consumer: Some("alice"), exclude, ..choice(now, random) };
        assert!((0..8).all(|random| pool.choose(alice(random, &[])) == Some(home)));
        let tried = [home];
        assert_ne!(pool.choose(alice(0, &tried)), Some(home));
        pool.report(home, 429, now);
        pool.report(home, 429, now);
        assert!((0..8).all(|random| pool.choose(alice(random, &[])) != Some(home)));
    }

    #[test]
    fn consecutive_failures_take_a_token_out_and_success_resets() {
        let now = Instant::now();
        let mut pool = TokenPool::new(2, Some(policy()));
        for status in [500, 200, 401] {
            pool.report(0, status, now);
        }
        assert_eq!(pool.available(now), (2, 2), "never two in a row");
        pool.report(0, 302, now);
        assert_eq!(pool.available(now), (2, 2), "302 is neither");
        pool.report(0, 429, now);
        assert_eq!(pool.available(now), (1, 2));
        assert!((0..4).all(|random| pool.choose(choice(now, random)) == Some(1)));
        // With all tokens out, a broken one is better than none.
        pool.report(1, 500, now);
        pool.report(1, 500, now);
        assert_eq!(pool.available(now), (0, 2));
        assert_eq!(pool.choose(choice(now, 1)), Some(1));
    }

    #[test]
    fn cooldown_brings_a_token_back_with_a_clean_slate() {
        let start = Instant::now();
        let cooldown = Some(Duration::from_secs(10));
        let mut pool = TokenPool::new(1, Some(FailoverPolicy { cooldown, ..policy() }));
        pool.report(0, 500, start);
        pool.report(0, 500, start);
        assert_eq!(pool.available(start + Duration::from_millis(9_999)), (0, 1));
        let later = start + Duration::from_secs(10);
        assert_eq!(pool.available(later), (1, 1));
        pool.report(0, 500, later);
        assert_eq!(pool.available(later), (1, 1), "the count starts again");
    }

    #[test]
    fn probes_bring_a_token_back_after_enough_successes_in_a_row() {
        let now = Instant::now();
        let health_check_model = Some("probe".to_owned());
        let mut pool = TokenPool::new(2, Some(FailoverPolicy { health_check_model, ..policy() }));
        pool.report(1, 500, now);
        pool.report(1, 500, now);
        assert_eq!(pool.to_probe(now), [1]);
        for status in [200, 503, 200] {
            pool.report_probe(1, status);
        }
        assert_eq!(pool.to_probe(now), [1]);
        pool.report_probe(1, 200);
        assert_eq!(pool.available(now), (2, 2));
        assert!(pool.to_probe(now).is_empty());
    }

    #[test]
    fn without_failover_nothing_leaves_the_pool() {
        let now = Instant::now();
        let mut pool = TokenPool::new(1, None);
        (0..100).for_each(|_| pool.report(0, 500, now));
        assert_eq!(pool.available(now), (1, 1));
    }
}
