//! `weirgate-eval load`: what a gateway costs, beside the same load sent straight to the upstream and through other proxies.
//!
//! Targets take turns (A B C, A B C, …) in short measurements, so that whatever else the machine does falls on all alike; every
//! figure is the median over the rounds. CPU time per request is what survives a busy machine, requests per second do not.

mod driver;
mod report;
mod sample;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until};

use crate::mock;
use crate::numbers;
use crate::run_folder::RunFolder;
use crate::{print_line, warn_line};
use driver::{Prepared, Schedule, drive, probe};
use sample::{Counters, Sample};
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
    #[arg(long, value_parser = numbers::rate)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measured seconds of each measurement
    #[arg(long, default_value_t = 4.0, value_parser = numbers::measured_seconds)]
    seconds: f64,
    /// Seconds before them, of which nothing is counted
    #[arg(long, default_value_t = 1.0, value_parser = numbers::waited_seconds)]
    warm_seconds: f64,
    /// Seconds after them in which answers are still waited for, on top of the time the check before measuring took
    #[arg(long, default_value_t = 2.0, value_parser = numbers::waited_seconds)]
    grace_seconds: f64,
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

/// Measures, writes the run folder and prints its path; a run with errors is a failure, after that.
pub async fn run(args: LoadArgs) -> Result<()> {
    check(&args)?;
    let folder = RunFolder::create(&args.out, &args.name)?;
    let notes = notes(&args);
    for note in &notes {
        warn_line(note);
    }
    let samples = measure(&args).await?;
    report::write(&folder, &samples, &args.direct, &args.reference, &notes)?;
    print_line(&folder.path.display().to_string())?;
    match report::failures(&samples) {
        Some(failures) => bail!("{failures}"),
        None => Ok(()),
    }
}

/// Whether the flags fit together.
fn check(args: &LoadArgs) -> Result<()> {
    if args.connections.contains(&0) {
        bail!("--connections must be at least 1");
    }
    // Names become parts of metric names, where only letters and digits differ.
    let mut names: Vec<String> = args.targets.iter().map(|target| report::metric_part(&target.name)).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("--target: two are called {:?} in the metrics and would be taken for one; rename one", pair[0]);
    }
    Ok(())
}

/// What the report lacks because of the targets that are named.
fn notes(args: &LoadArgs) -> Vec<String> {
    let named = |name: &str| args.targets.iter().find(|target| target.name == name);
    let mut notes = Vec::new();
    if named(&args.direct).is_none() {
        notes.push(format!("No target is called {:?} (--direct): no added latency can be told.", args.direct));
    }
    match named(&args.reference) {
        None => {
            notes.push(format!(
                "No target is called {:?} (--reference): no ratio of CPU time can be told.",
                args.reference
            ));
        }
        Some(target) if target.pids.is_empty() => {
            notes.push(format!("Target {} (--reference) has no pid: no ratio of CPU time can be told.", target.name));
        }
        Some(_) => {}
    }
    let foreign: Vec<&str> =
        args.targets.iter().filter(|target| target.pids.is_empty()).map(|target| target.name.as_str()).collect();
    if !foreign.is_empty() {
        notes.push(format!("Targets without pid count as foreign in the machine's CPU time: {}.", foreign.join(", ")));
    }
    notes
}

async fn measure(args: &LoadArgs) -> Result<Vec<Sample>> {
    let workloads: Vec<Workload> = args.workloads.iter().map(|path| Workload::load(path)).collect::<Result<_>>()?;
    let mut plan = Vec::new();
    for workload in &workloads {
        for target in &args.targets {
            let prepared = target.prepare(workload).await?;
            let took = probe(&prepared, args.expect.as_bytes()).await.with_context(|| {
                format!(
                    "target {} at {}: workload {}: the check before measuring failed",
                    target.name, target.url, workload.name
                )
            })?;
            let grace = Duration::from_secs_f64(args.grace_seconds) + took;
            let connections =
                if args.connections.is_empty() { &workload.fields.connections } else { &args.connections };
            plan.extend(connections.iter().map(|n| (workload, *n, target, prepared.clone(), grace)));
        }
    }
    // Targets take turns for each workload and number of connections; the sort is stable.
    plan.sort_by_key(|(workload, n, ..)| (workloads.iter().position(|w| w.name == workload.name), *n));
    let progress = ProgressBar::new(plan.len() as u64 * u64::from(args.rounds));
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for (workload, n_connections, target, prepared, grace) in &plan {
            let sample = measure_one(args, workload, *n_connections, target, prepared, *grace).await?;
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
    grace: Duration,
) -> Result<Sample> {
    let start = Instant::now();
    let measure_from = start + Duration::from_secs_f64(args.warm_seconds);
    let end = measure_from + Duration::from_secs_f64(args.seconds);
    let rate = args.rate.or(workload.fields.rate);
    let schedule = Schedule { n_connections, rate, start, measure_from, end, grace };
    let watch = async {
        sleep_until(measure_from).await;
        let before = Counters::read(&args.targets, target);
        // A moment before the end, while the users still run.
        sleep_until(end - Duration::from_millis(2)).await;
        Counters::read(&args.targets, target).since(&before)
    };
    let (tally, counters) = tokio::join!(drive(prepared, schedule), watch);
    let sample = Sample {
        workload: workload.name.clone(),
        target: target.name.clone(),
        connections: n_connections,
        requested_rate: rate,
        ..Sample::default()
    };
    Ok(sample.with(tally?, counters, args.seconds))
}
