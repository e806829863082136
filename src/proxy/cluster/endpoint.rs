//! One endpoint: its load, how fast it answers, whether it is left out, and since when it counts as new. Times are
//! milliseconds of the cluster's clock, and whoever asks says what time it is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::model::{HealthCheck, OutlierDetection, SlowStart};

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16),
    Failed,
}

pub struct Endpoint {
    pub address: SocketAddr,
    in_flight: AtomicUsize,
    /// Milliseconds as the bits of an `f64`; zero until the first answer.
    latency: AtomicU64,
    measured_at: AtomicU64,
    /// Since when it is there, or well again.
    fresh_since: AtomicU64,
    ejected_until: AtomicU64,
    n_gateway_errors: AtomicU32,
    n_5xx_errors: AtomicU32,
    /// How many times the base the next ejection takes, less one.
    n_ejections: AtomicU32,
    is_unwell: AtomicBool,
    checked: Mutex<Checked>,
}

/// What checks have said.
#[derive(Default)]
struct Checked {
    is_known: bool,
    /// Results in a row that speak against the present state.
    n_against: u32,
}

/// Time after which an old latency counts for little, in milliseconds.
const FORGET: f64 = 10_000.0;

impl Endpoint {
    pub fn new(address: SocketAddr, now: u64) -> Endpoint {
        Endpoint {
            address,
            in_flight: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
            measured_at: AtomicU64::new(0),
            fresh_since: AtomicU64::new(now),
            ejected_until: AtomicU64::new(0),
            n_gateway_errors: AtomicU32::new(0),
            n_5xx_errors: AtomicU32::new(0),
            n_ejections: AtomicU32::new(0),
            is_unwell: AtomicBool::new(false),
            checked: Mutex::default(),
        }
    }

    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub fn is_usable(&self, now: u64) -> bool {
        !self.is_unwell.load(Relaxed) && !self.is_ejected(now)
    }

    pub fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Notes how long an answer took. A slower one counts at once, a faster one by and by.
    pub fn took(&self, time: Duration, now: u64) {
        let measured = time.as_secs_f64() * 1000.0;
        let before = f64::from_bits(self.latency.load(Relaxed));
        let weight = self.age_weight(now);
        let latency = if measured > before { measured } else { before * weight + measured * (1.0 - weight) };
        self.latency.store(latency.to_bits(), Relaxed);
        self.measured_at.store(now, Relaxed);
    }

    /// What another request here would cost: the usual time for each request in progress and itself. One of unknown speed is
    /// tried, but not by many at once.
    pub fn cost(&self, now: u64) -> f64 {
        const UNKNOWN: f64 = 1e9;
        #[expect(clippy::cast_precision_loss, reason = "requests in flight are few")]
        let in_flight = self.in_flight() as f64;
        match self.latency(now) {
            latency if latency > 0.0 => latency * (in_flight + 1.0),
            _ if in_flight == 0.0 => 0.0,
            _ => UNKNOWN + in_flight,
        }
    }

    /// Fades, so that one slow answer does not shut an endpoint out for ever.
    fn latency(&self, now: u64) -> f64 {
        f64::from_bits(self.latency.load(Relaxed)) * self.age_weight(now)
    }

    fn age_weight(&self, now: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the start stay far below 2^52")]
        let age = now.saturating_sub(self.measured_at.load(Relaxed)) as f64;
        (-age / FORGET).exp()
    }

    /// Counts an outcome; `true` if there were too many bad ones in a row.
    pub fn count(&self, outcome: Outcome, outlier: &OutlierDetection) -> bool {
        let (is_gateway_error, is_5xx) = match outcome {
            Outcome::Failed | Outcome::Answered(502..=504) => (true, true),
            Outcome::Answered(status) => (false, status >= 500),
        };
        let is_over = |counter: &AtomicU32, is_bad: bool, limit: u32| {
            if is_bad {
                return counter.fetch_add(1, Relaxed) + 1 >= limit && limit > 0;
            }
            // Most answers are good ones; reading is cheaper than writing what others read, too.
            if counter.load(Relaxed) > 0 {
                counter.store(0, Relaxed);
            }
            false
        };
        let gateway = is_over(&self.n_gateway_errors, is_gateway_error, outlier.consecutive_gateway_errors);
        is_over(&self.n_5xx_errors, is_5xx, outlier.consecutive_5xx_errors) || gateway
    }

    /// Leaves the endpoint out for a spell, which is returned. Every spell soon after another is longer.
    pub fn eject(&self, outlier: &OutlierDetection, now: u64) -> u64 {
        let interval = millis(outlier.interval).max(1);
        let quiet = now.saturating_sub(self.ejected_until.load(Relaxed)) / interval;
        let steps_back = u32::try_from(quiet).unwrap_or(u32::MAX);
        let n = self.n_ejections.load(Relaxed).saturating_sub(steps_back).saturating_add(1);
        self.n_ejections.store(n, Relaxed);
        let spell = millis(outlier.base_ejection).saturating_mul(u64::from(n)).min(millis(outlier.max_ejection));
        self.ejected_until.store(now.saturating_add(spell), Relaxed);
        self.n_gateway_errors.store(0, Relaxed);
        self.n_5xx_errors.store(0, Relaxed);
        spell
    }

    /// Takes the result of a check; `Some` if the endpoint is well, or unwell, from now on. The first result counts at once.
    pub fn checked(&self, is_good: bool, check: &HealthCheck, now: u64) -> Option<bool> {
        let mut checked = self.checked.lock();
        let was_well = !self.is_unwell.load(Relaxed);
        if is_good == was_well {
            *checked = Checked { is_known: true, n_against: 0 };
            return None;
        }
        checked.n_against += 1;
        let needed = if is_good { check.healthy_threshold } else { check.unhealthy_threshold };
        if checked.is_known && checked.n_against < needed {
            return None;
        }
        *checked = Checked { is_known: true, n_against: 0 };
        self.is_unwell.store(!is_good, Relaxed);
        if is_good {
            self.fresh_since.store(now, Relaxed);
        }
        Some(is_good)
    }

    pub fn is_unwell(&self) -> bool {
        self.is_unwell.load(Relaxed)
    }

    /// Nobody checks any more, so nothing is known.
    pub fn unchecked(&self) {
        *self.checked.lock() = Checked::default();
        self.is_unwell.store(false, Relaxed);
    }

    /// The part of its share that it gets now, above 0 and up to 1.
    pub fn share(&self, slow_start: &SlowStart, now: u64) -> f64 {
        let since = self.fresh_since.load(Relaxed).max(self.ejected_until.load(Relaxed));
        let window = slow_start.window.as_secs_f64() * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the start stay far below 2^52")]
        let age = now.saturating_sub(since) as f64;
        if age >= window {
            return 1.0;
        }
        let least = slow_start.min_percent.max(1.0) / 100.0;
        (age / window).powf(1.0 / slow_start.aggression).max(least)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
