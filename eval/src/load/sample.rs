//! One measurement: what came of the requests, and the processor time they took.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;

use super::driver::Tally;
use super::target::Target;
use crate::process;
use crate::stats::{percentile, sorted};

/// One line of `raw.jsonl.gz`. Times in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    pub round: u32,
    pub workload: String,
    pub target: String,
    pub connections: usize,
    /// Answers that came in the measured time.
    pub requests: usize,
    pub requests_per_second: f64,
    /// Requests per second that were due; `None` in a closed loop.
    pub requested_rate: Option<f64>,
    /// `None` where nothing was answered.
    #[serde(flatten)]
    pub latency: Option<Latency>,
    /// `None` without a pid and without answers.
    pub cpu_us_per_request: Option<f64>,
    pub rss_mib: Option<f64>,
    /// Share of the machine's CPU time that went to none of the programs of this run; `None` where one of them is gone.
    pub foreign_cpu_share: Option<f64>,
    /// Requests by what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// What could not be read of the target's processes: mostly that one has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_error: Option<String>,
}

/// Percentiles over the answers, and over the ages of what was not answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub first_byte_p50: f64,
    pub first_byte_p99: f64,
}

impl Latency {
    /// `None` without a single answer: ages alone say nothing of how fast the target is.
    fn of(latencies: Vec<f64>, first_bytes: Vec<f64>) -> Option<Latency> {
        if first_bytes.is_empty() {
            return None;
        }
        let (latencies, first_bytes) = (sorted(latencies), sorted(first_bytes));
        Some(Latency {
            p50: percentile(&latencies, 50.0),
            p90: percentile(&latencies, 90.0),
            p99: percentile(&latencies, 99.0),
            p999: percentile(&latencies, 99.9),
            first_byte_p50: percentile(&first_bytes, 50.0),
            first_byte_p99: percentile(&first_bytes, 99.0),
        })
    }
}

impl Sample {
    /// The figures of a measurement over `seconds`.
    pub fn with(self, tally: Tally, counters: Counters, seconds: f64) -> Sample {
        let requests = tally.n_in_time;
        let n_cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let foreign = |(machine, ours): (f64, f64)| ((machine - ours) / seconds / n_cpus).max(0.0);
        Sample {
            requests,
            requests_per_second: requests as f64 / seconds,
            latency: Latency::of(tally.latencies, tally.first_bytes),
            cpu_us_per_request: counters.target.filter(|_| requests > 0).map(|used| used * 1e6 / requests as f64),
            rss_mib: counters.rss_mib,
            foreign_cpu_share: counters.machine.zip(counters.ours).map(foreign),
            errors: tally.errors,
            process_error: counters.error,
            ..self
        }
    }
}

/// CPU seconds, and the target's memory. `None` where a process is not known or has ended: that must not cost the whole run.
pub struct Counters {
    target: Option<f64>,
    rss_mib: Option<f64>,
    /// All programs of the run with this one.
    ours: Option<f64>,
    machine: Option<f64>,
    /// What could not be read of the target.
    error: Option<String>,
}

impl Counters {
    pub fn read(targets: &[Target], target: &Target) -> Counters {
        let pids: BTreeSet<u32> = targets.iter().flat_map(|target| target.pids.iter().copied()).collect();
        let ours = std::iter::once(std::process::id()).chain(pids).map(process::cpu_seconds);
        let (seconds, rss_mib) =
            (sum_over(&target.pids, process::cpu_seconds), sum_over(&target.pids, process::rss_mib));
        let error = seconds.as_ref().err().or(rss_mib.as_ref().err()).map(|error| format!("{error:#}"));
        Counters {
            target: seconds.ok().flatten(),
            rss_mib: rss_mib.ok().flatten(),
            ours: ours.sum::<Result<f64>>().ok(),
            machine: process::machine_busy_seconds().ok(),
            error,
        }
    }

    /// What was used since `before`; the memory is that of now.
    pub fn since(self, before: &Counters) -> Counters {
        let used = |now: Option<f64>, before: Option<f64>| now.zip(before).map(|(now, before)| now - before);
        Counters {
            target: used(self.target, before.target),
            ours: used(self.ours, before.ours),
            machine: used(self.machine, before.machine),
            ..self
        }
    }
}

/// Sum over processes; `None` of none.
fn sum_over(pids: &[u32], read: fn(u32) -> Result<f64>) -> Result<Option<f64>> {
    let values: Vec<f64> = pids.iter().map(|pid| read(*pid)).collect::<Result<_>>()?;
    Ok((!values.is_empty()).then(|| values.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_answers_there_are_no_figures_of_latency_and_cost() {
        let counters =
            || Counters { target: Some(1.0), rss_mib: None, ours: Some(1.0), machine: Some(2.0), error: None };
        let ages = Tally { latencies: vec![2e6; 3], ..Tally::default() };
        let sample = Sample::default().with(ages, counters(), 4.0);
        assert_eq!((sample.latency, sample.cpu_us_per_request, sample.requests_per_second), (None, None, 0.0));
        let stalled = Tally { n_in_time: 1, latencies: vec![10.0, 2e6], first_bytes: vec![5.0], ..Tally::default() };
        let sample = Sample::default().with(stalled, counters(), 4.0);
        let latency = sample.latency.unwrap();
        assert_eq!((latency.p50, latency.p99, latency.first_byte_p99), (10.0, 2e6, 5.0));
        assert_eq!(sample.cpu_us_per_request, Some(1e6));
    }

    #[test]
    fn a_process_that_has_ended_is_an_error_and_leaves_its_figures_out() {
        let gone: Target = format!("gw=http://127.0.0.1,pid={}", u32::MAX).parse().unwrap();
        let other: Target = format!("direct=http://127.0.0.1,pid={}", std::process::id()).parse().unwrap();
        let targets = [gone.clone(), other.clone()];
        let counters = Counters::read(&targets, &gone);
        assert!(counters.error.unwrap().contains("is process 4294967295 still running?"));
        assert_eq!((counters.target, counters.rss_mib), (None, None));
        let beside = Counters::read(&targets, &other);
        assert!(beside.error.is_none() && beside.target.is_some() && beside.ours.is_none());
    }
}
