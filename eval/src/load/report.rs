//! Writes a load run's folder: medians over the rounds, added latency against the direct target, ratios to the reference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::Result;

use super::sample::{Latency, Sample};
use crate::chart::{self, PALETTE};
use crate::run_folder::RunFolder;
use crate::stats::median;

/// Workload, connections and target of a line of the report, in the order they were measured.
type Key<'a> = (&'a str, usize, &'a str);

/// Medians over the rounds that have the figure. Times in microseconds.
struct Line<'a> {
    key: Key<'a>,
    requests_per_second: f64,
    requested_rate: Option<f64>,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    first_byte_p50: Option<f64>,
    /// Difference to the direct target in the same round.
    added_p50: Option<f64>,
    added_p99: Option<f64>,
    cpu_us: Option<f64>,
    /// CPU time by that of the reference target in the same round.
    cpu_ratio: Option<f64>,
    rss_mib: Option<f64>,
    n_errors: u64,
    foreign_cpu_share: Option<f64>,
}

/// `notes`: what a reader has to know before the numbers.
pub fn write(folder: &RunFolder, samples: &[Sample], direct: &str, reference: &str, notes: &[String]) -> Result<()> {
    let lines = lines(samples, direct, reference);
    folder.write_summary(&metrics(&lines))?;
    folder.write_rows("raw.jsonl.gz", samples)?;
    let charts = charts(&lines, direct);
    for (file, _, svg) in &charts {
        folder.write(file, svg)?;
    }
    let headline = failures(samples).unwrap_or_else(|| "Every request was answered as it should be.".to_string());
    let mut text = format!("# Load\n\n{}\n**{headline}**\n", folder.provenance_line());
    for note in notes {
        write!(text, "\n> **Note.** {note}\n")?;
    }
    tables(&mut text, &lines, reference)?;
    errors(&mut text, samples)?;
    for (file, caption, _) in &charts {
        writeln!(text, "![{caption}]({file})\n")?;
    }
    writeln!(text, "{METHOD}")?;
    folder.write("report.md", text)
}

/// What went wrong in a line; `None` where nothing did.
pub fn failures(samples: &[Sample]) -> Option<String> {
    let n_failed: u64 = samples.iter().flat_map(|sample| sample.errors.values()).sum();
    let n_lost = samples.iter().filter(|sample| sample.process_error.is_some()).count();
    let mut parts = Vec::new();
    if n_failed > 0 {
        parts.push(format!("{n_failed} requests failed or stayed unanswered"));
    }
    if n_lost > 0 {
        parts.push(format!("in {n_lost} measurements a process of the target could not be read"));
    }
    let first = samples.iter().find_map(|sample| {
        let reason = sample.process_error.as_ref().or(sample.errors.keys().next())?;
        let Sample { target, round, workload, connections, .. } = sample;
        Some(format!("target {target}, round {round}, workload {workload}, {connections} connections: {reason}"))
    })?;
    Some(format!("{}; first {first}. See Errors in report.md.", parts.join(", ")))
}

const METHOD: &str = "## How it is measured

- Every figure is the median over the rounds; in each round the targets take turns, so what else the machine does falls on all alike.
- *Added* is the difference to the direct target, *ratio* the quotient of CPU time with the reference target, each within its round.
- CPU time is user and system time of the target's process over the measured seconds, by the answers that came in them. At one connection it \
holds idle wake-ups; compare programs at 16 connections and more.
- In a closed loop the p99 at many connections is mostly queueing; read overhead at one connection. At a fixed rate latency counts from \
the time a request was due; *asked* is that rate, *req/s* the answers that came in the measured seconds.
- What is due or on its way at the end of the measured seconds is waited for a while longer (`--grace-seconds`, and as long as the check before \
measuring took) and counts in the latencies. What then has no answer is an error, *unanswered*, and counts with its age: its latency is at least that.
- A dash stands where there is nothing to tell: no latency without answers, no CPU time without a pid.
- *Foreign* is the share of the machine's CPU time that went to programs outside the run and to targets without a pid: above 5 %, distrust requests per second \
and p99.";

fn lines<'a>(samples: &'a [Sample], direct: &str, reference: &str) -> Vec<Line<'a>> {
    let mut by_key: Vec<(Key<'a>, Vec<&Sample>)> = Vec::new();
    for sample in samples {
        let key = (sample.workload.as_str(), sample.connections, sample.target.as_str());
        match by_key.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(sample),
            None => by_key.push((key, vec![sample])),
        }
    }
    let beside = |sample: &Sample, target: &str| {
        let is_beside = |other: &&Sample| {
            other.target == target
                && (other.round, &other.workload, other.connections)
                    == (sample.round, &sample.workload, sample.connections)
        };
        samples.iter().find(is_beside)
    };
    by_key
        .into_iter()
        .map(|(key, group)| {
            let over = |value: fn(&Sample) -> f64| median(group.iter().map(|sample| value(sample)).collect());
            let some = |value: &dyn Fn(&Sample) -> Option<f64>| {
                let values: Vec<f64> = group.iter().filter_map(|sample| value(sample)).collect();
                (!values.is_empty()).then(|| median(values))
            };
            let latency = |value: fn(Latency) -> f64| some(&|sample: &Sample| sample.latency.map(value));
            let added = |value: fn(Latency) -> f64| {
                some(&|sample| Some(value(sample.latency?) - value(beside(sample, direct)?.latency?)))
            };
            Line {
                key,
                requests_per_second: over(|sample| sample.requests_per_second),
                requested_rate: some(&|sample| sample.requested_rate),
                p50: latency(|latency| latency.p50),
                p90: latency(|latency| latency.p90),
                p99: latency(|latency| latency.p99),
                p999: latency(|latency| latency.p999),
                first_byte_p50: latency(|latency| latency.first_byte_p50),
                added_p50: added(|latency| latency.p50).filter(|_| key.2 != direct),
                added_p99: added(|latency| latency.p99).filter(|_| key.2 != direct),
                cpu_us: some(&|sample| sample.cpu_us_per_request),
                cpu_ratio: some(&|sample| {
                    Some(sample.cpu_us_per_request? / beside(sample, reference)?.cpu_us_per_request?)
                })
                .filter(|_| key.2 != direct),
                rss_mib: some(&|sample| sample.rss_mib),
                n_errors: group.iter().flat_map(|sample| sample.errors.values()).sum(),
                foreign_cpu_share: some(&|sample| sample.foreign_cpu_share),
            }
        })
        .collect()
}

/// A name as metric names hold it: `_` for whatever is no letter or digit.
pub fn metric_part(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// `<workload>_<target>_c<connections>_<metric>`; a figure there is none of is left out.
fn metrics(lines: &[Line<'_>]) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for line in lines {
        let (workload, connections, target) = line.key;
        let prefix = metric_part(&format!("{workload}_{target}_c{connections}"));
        let mut put = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                metrics.insert(format!("{prefix}_{name}"), value);
            }
        };
        put("rps", Some(line.requests_per_second));
        put("asked_rps", line.requested_rate);
        put("p50_us", line.p50);
        put("p90_us", line.p90);
        put("p99_us", line.p99);
        put("p999_us", line.p999);
        put("first_byte_p50_us", line.first_byte_p50);
        put("added_p50_us", line.added_p50);
        put("added_p99_us", line.added_p99);
        put("cpu_us", line.cpu_us);
        put("cpu_ratio", line.cpu_ratio);
        put("rss_mib", line.rss_mib);
        put("errors", Some(line.n_errors as f64));
        put("foreign_cpu_share", line.foreign_cpu_share);
    }
    metrics
}

fn tables(text: &mut String, lines: &[Line<'_>], reference: &str) -> Result<()> {
    let mut workload = "";
    for line in lines {
        if line.key.0 != workload {
            workload = line.key.0;
            write!(
                text,
                "\n## {workload}\n\n| connections | target | asked | req/s | p50 ms | p90 ms | p99 ms | p99.9 ms | first byte p50 ms | added p50 ms | \
                 added p99 ms | CPU µs/req | ratio to {reference} | RSS MiB | errors | foreign |\n|--:|---|{}\n",
                "--:|".repeat(14)
            )?;
        }
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        let optional = |value: Option<f64>, format: &dyn Fn(f64) -> String| value.map_or("-".to_string(), format);
        writeln!(
            text,
            "| {} | {} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            line.key.1,
            line.key.2,
            optional(line.requested_rate, &|rate| format!("{rate:.0}")),
            line.requests_per_second,
            optional(line.p50, &ms),
            optional(line.p90, &ms),
            optional(line.p99, &ms),
            optional(line.p999, &ms),
            optional(line.first_byte_p50, &ms),
            optional(line.added_p50, &ms),
            optional(line.added_p99, &ms),
            optional(line.cpu_us, &|us| format!("{us:.1}")),
            optional(line.cpu_ratio, &|ratio| format!("{ratio:.2}")),
            optional(line.rss_mib, &|mib| format!("{mib:.0}")),
            line.n_errors,
            optional(line.foreign_cpu_share, &|share| format!("{:.0} %", share * 100.0)),
        )?;
    }
    Ok(writeln!(text)?)
}

fn errors(text: &mut String, samples: &[Sample]) -> Result<()> {
    /// The rounds it happened in, and how often in all of them.
    type Times = (BTreeSet<u32>, u64);
    let mut by_reason: BTreeMap<(&str, &str, usize, &str), Times> = BTreeMap::new();
    for sample in samples {
        let lost = sample.process_error.iter().map(|reason| (reason, 1));
        for (reason, n) in sample.errors.iter().map(|(reason, n)| (reason, *n)).chain(lost) {
            let key = (sample.target.as_str(), sample.workload.as_str(), sample.connections, reason.as_str());
            let (rounds, times) = by_reason.entry(key).or_default();
            rounds.insert(sample.round);
            *times += n;
        }
    }
    if !by_reason.is_empty() {
        writeln!(
            text,
            "## Errors\n\n| target | workload | connections | rounds | reason | times |\n|---|---|--:|---|---|--:|"
        )?;
        for ((target, workload, connections, reason), (rounds, n)) in by_reason {
            let rounds: Vec<String> = rounds.iter().map(u32::to_string).collect();
            writeln!(text, "| {target} | {workload} | {connections} | {} | {reason} | {n} |", rounds.join(", "))?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// CPU time at the most connections up to 64 of each workload, and added p99 at the fewest.
fn charts(lines: &[Line<'_>], direct: &str) -> Vec<(&'static str, &'static str, String)> {
    let mut workloads: Vec<&str> = lines.iter().map(|line| line.key.0).collect();
    workloads.dedup();
    let connections_of = |workload: &str| -> Vec<usize> {
        lines.iter().filter(|line| line.key.0 == workload).map(|line| line.key.1).collect()
    };
    let calm = |workload: &str| connections_of(workload).into_iter().min().unwrap_or(1);
    let busy =
        |workload: &str| connections_of(workload).into_iter().filter(|n| *n <= 64).max().unwrap_or(calm(workload));
    let bars =
        |title: &str, y_label: &str, connections: &dyn Fn(&str) -> usize, value: fn(&Line<'_>) -> Option<f64>| {
            let mut targets: Vec<&str> = Vec::new();
            for line in lines.iter().filter(|line| line.key.2 != direct && value(line).is_some()) {
                if !targets.contains(&line.key.2) {
                    targets.push(line.key.2);
                }
            }
            let series: Vec<(String, &str)> = targets.iter().map(|target| (*target).to_string()).zip(PALETTE).collect();
            let groups: Vec<String> = workloads.iter().map(|name| format!("{name}, c={}", connections(name))).collect();
            let of = |workload: &str, target: &str| {
                let key = (workload, connections(workload), target);
                lines.iter().find(|line| line.key == key).and_then(value).unwrap_or_default().max(0.0)
            };
            let values: Vec<Vec<f64>> =
                workloads.iter().map(|workload| targets.iter().map(|target| of(workload, target)).collect()).collect();
            chart::grouped_bars(title, y_label, &groups, &series, &values)
        };
    let mut charts = Vec::new();
    if lines.iter().any(|line| line.cpu_us.is_some() && line.key.2 != direct) {
        charts.push(("cpu.svg", "CPU time per request", bars("CPU time per request", "µs", &busy, |line| line.cpu_us)));
    }
    if lines.iter().any(|line| line.added_p99.is_some()) {
        let added = |line: &Line<'_>| Some(line.added_p99? / 1e3);
        charts.push(("added-p99.svg", "Added p99", bars("Added p99 latency, least connections", "ms", &calm, added)));
    }
    charts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, target: &str, p99: Option<f64>, cpu: Option<f64>) -> Sample {
        Sample {
            round,
            workload: "chat-json".into(),
            target: target.into(),
            connections: 1,
            latency: p99.map(|p99| Latency { p99, ..Latency::default() }),
            cpu_us_per_request: cpu,
            ..Sample::default()
        }
    }

    #[test]
    fn differences_and_ratios_are_taken_within_rounds() {
        // The second round ran on a machine half as fast; neither difference nor ratio is mixed across rounds.
        let samples = [
            sample(1, "direct", Some(10.0), None),
            sample(1, "pingora-min", Some(15.0), Some(40.0)),
            sample(1, "gw", Some(20.0), Some(60.0)),
            sample(2, "direct", Some(100.0), None),
            sample(2, "pingora-min", Some(110.0), Some(80.0)),
            sample(2, "gw", Some(112.0), Some(120.0)),
        ];
        let metrics = metrics(&lines(&samples, "direct", "pingora-min"));
        assert_eq!(metrics["chat_json_gw_c1_cpu_ratio"], 1.5);
        assert_eq!(metrics["chat_json_pingora_min_c1_cpu_ratio"], 1.0);
        assert_eq!(metrics["chat_json_gw_c1_added_p99_us"], 11.0);
        assert_eq!(metrics["chat_json_gw_c1_cpu_us"], 90.0);
        assert!(!metrics.contains_key("chat_json_direct_c1_added_p99_us"));
        assert!(!metrics.contains_key("chat_json_direct_c1_cpu_us"));
        assert_eq!(failures(&samples), None);
    }

    #[test]
    fn a_target_without_answers_has_dashes_and_no_figures() {
        let mut silent = sample(1, "gw", None, None);
        silent.errors.insert("unanswered".into(), 16);
        silent.requested_rate = Some(50.0);
        let samples = [sample(1, "direct", Some(10.0), None), silent];
        let lines = lines(&samples, "direct", "pingora-min");
        let metrics = metrics(&lines);
        let of_gw: Vec<&str> = metrics.keys().filter_map(|name| name.strip_prefix("chat_json_gw_c1_")).collect();
        assert_eq!(of_gw, ["asked_rps", "errors", "rps"]);
        let mut text = String::new();
        tables(&mut text, &lines, "pingora-min").unwrap();
        assert!(text.contains("| 1 | gw | 50 | 0 | - | - | - | - | - | - | - | - | - | - | 16 | - |"), "{text}");
        let failures = failures(&samples).unwrap();
        assert!(
            failures
                .starts_with("16 requests failed or stayed unanswered; first target gw, round 1, workload chat-json"),
            "{failures}"
        );
    }

    #[test]
    fn errors_and_lost_processes_are_named_with_their_rounds() {
        let lost = |round| {
            let mut lost = sample(round, "gw", None, None);
            lost.errors.insert("connecting: refused".into(), 5);
            lost.process_error = Some("process 7 has ended".into());
            lost
        };
        let samples = [sample(1, "gw", Some(1.0), None), lost(2), lost(3)];
        let mut text = String::new();
        errors(&mut text, &samples).unwrap();
        assert!(text.contains("| gw | chat-json | 1 | 2, 3 | connecting: refused | 10 |"), "{text}");
        assert!(text.contains("| gw | chat-json | 1 | 2, 3 | process 7 has ended | 2 |"), "{text}");
        let failures = failures(&samples).unwrap();
        assert!(failures.contains("10 requests") && failures.contains("in 2 measurements a process"), "{failures}");
        assert!(failures.contains("round 2") && failures.contains("process 7 has ended"), "{failures}");
    }
}
