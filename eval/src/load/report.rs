//! Writes a load run's folder: medians over the rounds, added latency against the direct target, ratios to the reference.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;

use super::Sample;
use crate::chart::{self, PALETTE};
use crate::run_folder::RunFolder;
use crate::stats::median;

/// Workload, connections and target of a line of the report, in the order they were measured.
type Key<'a> = (&'a str, usize, &'a str);

/// Medians over the rounds. Times in microseconds.
struct Line<'a> {
    key: Key<'a>,
    requests_per_second: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    first_byte_p50: f64,
    /// Difference to the direct target in the same round.
    added_p50: Option<f64>,
    added_p99: Option<f64>,
    cpu_us: Option<f64>,
    /// CPU time by that of the reference target in the same round.
    cpu_ratio: Option<f64>,
    rss_mib: Option<f64>,
    n_errors: u64,
    foreign_cpu_share: f64,
}

pub fn write(folder: &RunFolder, samples: &[Sample], direct: &str, reference: &str) -> Result<()> {
    let lines = lines(samples, direct, reference);
    folder.write_summary(&metrics(&lines))?;
    folder.write_rows("raw.jsonl.gz", samples)?;
    let charts = charts(&lines, direct);
    for (file, _, svg) in &charts {
        folder.write(file, svg)?;
    }
    let mut text = format!("# Load\n\n{}\n", folder.provenance_line());
    tables(&mut text, &lines, reference)?;
    errors(&mut text, samples)?;
    for (file, caption, _) in &charts {
        writeln!(text, "![{caption}]({file})\n")?;
    }
    writeln!(text, "{METHOD}")?;
    folder.write("report.md", text)
}

const METHOD: &str = "## How it is measured

- Every figure is the median over the rounds; in each round the targets take turns, so what else the machine does falls on all alike.
- *Added* is the difference to the direct target, *ratio* the quotient of CPU time with the reference target, each within its round.
- CPU time is user and system time of the target's process over the measured seconds, by the answers counted in them. At one connection it \
holds idle wake-ups; compare programs at 16 connections and more.
- In a closed loop the p99 at many connections is mostly queueing; read overhead at one connection. At a fixed rate latency counts from \
the time a request was due.
- *Foreign* is the share of the machine's CPU time that went to programs outside the run: above 5 %, distrust requests per second and p99.";

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
            let added =
                |value: fn(&Sample) -> f64| some(&|sample| Some(value(sample) - value(beside(sample, direct)?)));
            Line {
                key,
                requests_per_second: over(|sample| sample.requests_per_second),
                p50: over(|sample| sample.p50),
                p90: over(|sample| sample.p90),
                p99: over(|sample| sample.p99),
                p999: over(|sample| sample.p999),
                first_byte_p50: over(|sample| sample.first_byte_p50),
                added_p50: added(|sample| sample.p50).filter(|_| key.2 != direct),
                added_p99: added(|sample| sample.p99).filter(|_| key.2 != direct),
                cpu_us: some(&|sample| sample.cpu_us_per_request),
                cpu_ratio: some(&|sample| {
                    Some(sample.cpu_us_per_request? / beside(sample, reference)?.cpu_us_per_request?)
                })
                .filter(|_| key.2 != direct),
                rss_mib: some(&|sample| sample.rss_mib),
                n_errors: group.iter().flat_map(|sample| sample.errors.values()).sum(),
                foreign_cpu_share: over(|sample| sample.foreign_cpu_share),
            }
        })
        .collect()
}

/// `<workload>_<target>_c<connections>_<metric>`, with `_` for whatever is no letter or digit.
fn metrics(lines: &[Line<'_>]) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for line in lines {
        let (workload, connections, target) = line.key;
        let prefix = format!("{workload}_{target}_c{connections}").replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let mut put = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                metrics.insert(format!("{prefix}_{name}"), value);
            }
        };
        put("rps", Some(line.requests_per_second));
        put("p50_us", Some(line.p50));
        put("p90_us", Some(line.p90));
        put("p99_us", Some(line.p99));
        put("p999_us", Some(line.p999));
        put("first_byte_p50_us", Some(line.first_byte_p50));
        put("added_p50_us", line.added_p50);
        put("added_p99_us", line.added_p99);
        put("cpu_us", line.cpu_us);
        put("cpu_ratio", line.cpu_ratio);
        put("rss_mib", line.rss_mib);
        put("errors", Some(line.n_errors as f64));
        put("foreign_cpu_share", Some(line.foreign_cpu_share));
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
                "\n## {workload}\n\n| connections | target | req/s | p50 ms | p90 ms | p99 ms | p99.9 ms | first byte p50 ms | added p50 ms | \
                 added p99 ms | CPU µs/req | ratio to {reference} | RSS MiB | errors | foreign |\n|--:|---|{}\n",
                "--:|".repeat(13)
            )?;
        }
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        let optional = |value: Option<f64>, format: &dyn Fn(f64) -> String| value.map(format).unwrap_or_default();
        writeln!(
            text,
            "| {} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0} % |",
            line.key.1,
            line.key.2,
            line.requests_per_second,
            ms(line.p50),
            ms(line.p90),
            ms(line.p99),
            ms(line.p999),
            ms(line.first_byte_p50),
            optional(line.added_p50, &ms),
            optional(line.added_p99, &ms),
            optional(line.cpu_us, &|us| format!("{us:.1}")),
            optional(line.cpu_ratio, &|ratio| format!("{ratio:.2}")),
            optional(line.rss_mib, &|mib| format!("{mib:.0}")),
            line.n_errors,
            line.foreign_cpu_share * 100.0,
        )?;
    }
    Ok(writeln!(text)?)
}

fn errors(text: &mut String, samples: &[Sample]) -> Result<()> {
    let mut by_reason: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for sample in samples {
        for (reason, n) in &sample.errors {
            *by_reason.entry((&sample.target, reason)).or_default() += n;
        }
    }
    if !by_reason.is_empty() {
        writeln!(text, "## Errors\n\n| target | reason | times |\n|---|---|--:|")?;
        for ((target, reason), n) in by_reason {
            writeln!(text, "| {target} | {reason} | {n} |")?;
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

    #[test]
    fn differences_and_ratios_are_taken_within_rounds() {
        let sample = |round, target: &str, p99, cpu| Sample {
            round,
            workload: "chat-json".into(),
            target: target.into(),
            connections: 1,
            p99,
            cpu_us_per_request: cpu,
            ..Sample::default()
        };
        // The second round ran on a machine half as fast; neither difference nor ratio is mixed across rounds.
        let samples = [
            sample(1, "direct", 10.0, None),
            sample(1, "pingora-min", 15.0, Some(40.0)),
            sample(1, "gw", 20.0, Some(60.0)),
            sample(2, "direct", 100.0, None),
            sample(2, "pingora-min", 110.0, Some(80.0)),
            sample(2, "gw", 112.0, Some(120.0)),
        ];
        let metrics = metrics(&lines(&samples, "direct", "pingora-min"));
        assert_eq!(metrics["chat_json_gw_c1_cpu_ratio"], 1.5);
        assert_eq!(metrics["chat_json_pingora_min_c1_cpu_ratio"], 1.0);
        assert_eq!(metrics["chat_json_gw_c1_added_p99_us"], 11.0);
        assert_eq!(metrics["chat_json_gw_c1_cpu_us"], 90.0);
        assert!(!metrics.contains_key("chat_json_direct_c1_added_p99_us"));
        assert!(!metrics.contains_key("chat_json_direct_c1_cpu_us"));
    }
}
