//! `weirgate-eval load`: what a gateway costs, beside the same load sent straight to the upstream and through other proxies.
//!
//! Targets take turns (A B C, A B C, …) in short measurements, so that whatever else the machine does falls on all alike; every
//! figure is the median over the rounds. CPU time per request is what survives a busy machine, requests per second do not.

mod driver;
mod report;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::mock;
use crate::print_line;
use crate::process;
use crate::run_folder::RunFolder;
use crate::stats::{percentile, sorted};
use driver::{Prepared, Schedule, drive, probe};
use target::Target;
use workload::Workload;

#[derive(Args)]
pub struct LoadArgs {
    /// What to measure: `NAME=URL[,pid=N][,key=API_KEY][,model=NAME][,ca=FILE]`; pid gives CPU time and memory and may be repeated, model replaces the workload's, ca is what an https target is trusted by
    #[arg(long = "target", required = true)]
    targets: Vec<Target>,
    /// Workload files
    #[arg(
        long = "workload",
        value_delimiter = ',',
        default_value = "eval/workloads/chat-json.toml,eval/workloads/chat-sse.toml"
    )]
    workloads: Vec<PathBuf>,
    /// Numbers of connections, in place of the workloads' own
    #[arg(long, value_delimiter = ',')]
    connections: Vec<usize>,
    /// Requests per second over all connections, in place of the workloads' own; closed loop if neither is given
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measured seconds of each measurement
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1.0)]
    warm_seconds: f64,
    /// Target that is the upstream itself: added latency is the difference to it
    #[arg(long, default_value = "direct")]
    direct: String,
    /// Target whose CPU time per request is 1 in the ratios
    #[arg(long, default_value = "pingora-min")]
    reference: String,
    /// Text every right answer holds; the default is what `mock --static` answers
    #[arg(long, default_value = mock::FIXED_MARK)]
    expect: String,
    /// Last part of the run folder's name
    #[arg(long)]
    name: String,
    #[arg(long, default_value = "eval/runs")]
    out: PathBuf,
}

/// One measurement; one line of `raw.jsonl.gz`. Times in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    pub round: u32,
    pub workload: String,
    pub target: String,
    pub connections: usize,
    pub requests: usize,
    pub requests_per_second: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub first_byte_p50: f64,
    pub first_byte_p99: f64,
    /// `None` without a pid.
    pub cpu_us_per_request: Option<f64>,
    pub rss_mib: Option<f64>,
    /// Share of the machine's CPU time that went to none of the programs of this run.
    pub foreign_cpu_share: f64,
    pub errors: BTreeMap<String, u64>,
}

/// Measures, writes the run folder and prints its path.
pub async fn run(args: LoadArgs) -> Result<()> {
    let folder = RunFolder::create(&args.out, &args.name)?;
    let samples = measure(&args).await?;
    report::write(&folder, &samples, &args.direct, &args.reference)?;
    print_line(&folder.path.display().to_string())
}

async fn measure(args: &LoadArgs) -> Result<Vec<Sample>> {
    if args.seconds <= 0.0 || args.warm_seconds < 0.0 || args.connections.contains(&0) {
        bail!("--seconds must be more than 0, --warm-seconds at least 0, and --connections at least 1");
    }
    let workloads: Vec<Workload> = args.workloads.iter().map(|path| Workload::load(path)).collect::<Result<_>>()?;
    let mut plan = Vec::new();
    for workload in &workloads {
        for target in &args.targets {
            let prepared = target.prepare(workload).await?;
            probe(&prepared, args.expect.as_bytes()).await.with_context(|| {
                format!(
                    "target {} at {}: workload {}: the check before measuring failed",
                    target.name, target.url, workload.name
                )
            })?;
            let connections =
                if args.connections.is_empty() { &workload.fields.connections } else { &args.connections };
            plan.extend(connections.iter().map(|n| (workload, *n, target, prepared.clone())));
        }
    }
    // Targets take turns for each workload and number of connections; the sort is stable.
    plan.sort_by_key(|(workload, n, ..)| (workloads.iter().position(|w| w.name == workload.name), *n));
    let progress = ProgressBar::new(plan.len() as u64 * u64::from(args.rounds));
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for (workload, n_connections, target, prepared) in &plan {
            let sample = measure_one(args, workload, *n_connections, target, prepared).await?;
            samples.push(Sample { round, ..sample });
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(samples)
}

async fn measure_one(
    args: &LoadArgs,
    workload: &Workload,
    n_connections: usize,
    target: &Target,
    prepared: &Prepared,
) -> Result<Sample> {
    let start = Instant::now();
    let measure_from = start + Duration::from_secs_f64(args.warm_seconds);
    let end = measure_from + Duration::from_secs_f64(args.seconds);
    let rate = args.rate.or(workload.fields.rate);
    let schedule = Schedule { n_connections, rate, start, measure_from, end };
    let watch = async {
        sleep_until(measure_from).await;
        let before = Counters::read(args, target)?;
        // A moment before the end, while the users still run.
        sleep_until(end - Duration::from_millis(2)).await;
        Ok::<_, anyhow::Error>(Counters::read(args, target)?.since(&before))
    };
    let (tally, counters) = tokio::join!(drive(prepared, schedule), watch);
    let (tally, counters) = (tally?, counters?);
    let n_cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let (latencies, first_bytes) = (sorted(tally.latencies), sorted(tally.first_bytes));
    let requests = latencies.len();
    Ok(Sample {
        round: 0,
        workload: workload.name.clone(),
        target: target.name.clone(),
        connections: n_connections,
        requests,
        requests_per_second: requests as f64 / args.seconds,
        p50: percentile(&latencies, 50.0),
        p90: percentile(&latencies, 90.0),
        p99: percentile(&latencies, 99.0),
        p999: percentile(&latencies, 99.9),
        first_byte_p50: percentile(&first_bytes, 50.0),
        first_byte_p99: percentile(&first_bytes, 99.0),
        cpu_us_per_request: counters.target.map(|seconds| seconds * 1e6 / requests.max(1) as f64),
        rss_mib: sum_over(&target.pids, process::rss_mib)?,
        foreign_cpu_share: ((counters.machine - counters.ours) / args.seconds / n_cpus).max(0.0),
        errors: tally.errors,
    })
}

/// CPU seconds: of the target, of all programs of the run with this one, and of the machine.
struct Counters {
    target: Option<f64>,
    ours: f64,
    machine: f64,
}

impl Counters {
    fn read(args: &LoadArgs, target: &Target) -> Result<Counters> {
        let mut ours = process::cpu_seconds(std::process::id())?;
        let pids: BTreeSet<u32> = args.targets.iter().flat_map(|target| target.pids.iter().copied()).collect();
        for pid in pids {
            ours += process::cpu_seconds(pid)?;
        }
        let target = sum_over(&target.pids, process::cpu_seconds)?;
        Ok(Counters { target, ours, machine: process::machine_busy_seconds()? })
    }

    fn since(&self, before: &Counters) -> Counters {
        Counters {
            target: self.target.zip(before.target).map(|(now, before)| now - before),
            ours: self.ours - before.ours,
            machine: self.machine - before.machine,
        }
    }
}

/// Sum over processes; `None` of none.
fn sum_over(pids: &[u32], read: fn(u32) -> Result<f64>) -> Result<Option<f64>> {
    let values: Vec<f64> = pids.iter().map(|pid| read(*pid)).collect::<Result<_>>()?;
    Ok((!values.is_empty()).then(|| values.iter().sum()))
}
