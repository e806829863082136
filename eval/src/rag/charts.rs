//! The pictures of a RAG report: the ladder of each set, what is sent, latency, and refusal.

use anyhow::Result;

use super::result::{Measured, SetResult};
use crate::chart::{self, Curve, Level, Mark, PALETTE, Points, Whiskers};
use crate::run_folder::RunFolder;
use crate::stats::percentile;

/// Writes the charts; returns file name and caption of each.
pub fn write(folder: &RunFolder, set: &SetResult) -> Result<Vec<(String, String)>> {
    if set.measured().next().is_none() {
        return Ok(Vec::new());
    }
    let mut charts = vec![("ladder", "The ladder".to_string(), ladder(set))];
    if set.measured().count() > 1 {
        charts.push(("latency", "Quality against latency".to_string(), latency(set)));
        charts.push(("tokens", "Tokens sent".to_string(), tokens(set)));
    }
    if set.measured().any(|(_, measured)| measured.refusal.is_some()) {
        charts.push(("refusal", "Refusal of unanswerable questions".to_string(), refusal(set)));
    }
    let mut written = Vec::new();
    for (kind, caption, svg) in charts {
        let file = format!("{kind}-{}.svg", file_part(&set.key));
        folder.write(&file, svg)?;
        written.push((file, caption));
    }
    Ok(written)
}

fn ladder(set: &SetResult) -> String {
    const SERIES: [(&str, &str, Mark); 5] = [
        ("r2", "R@2", Mark::Triangle),
        ("r5", "R@5", Mark::Dot),
        ("all5", "all@5", Mark::Square),
        ("mrr10", "MRR@10", Mark::Cross),
        ("ndcg10", "nDCG@10", Mark::Diamond),
    ];
    let steps: Vec<String> = set.measured().map(|(step, _)| step.name.clone()).collect();
    let at = |key: &str| {
        let point = |measured: &Measured| {
            let estimate = measured.values.get(key)?;
            Some((estimate.interval.low * 100.0, estimate.mean * 100.0, estimate.interval.high * 100.0))
        };
        set.measured().map(|(_, measured)| point(measured)).collect()
    };
    let series: Vec<Whiskers> = (SERIES.iter().zip(PALETTE))
        .map(|((key, name, mark), color)| Whiskers { name: (*name).to_string(), mark: *mark, color, at: at(key) })
        .collect();
    let title = format!("{}: the ladder, {} queries (bars: 95 % intervals)", set.key, set.n_queries);
    chart::whiskers(&title, ["step", "percent"], &steps, &series)
}

fn latency(set: &SetResult) -> String {
    let key = if set.has_many_gold { ("ndcg10", "nDCG@10") } else { ("r5", "R@5") };
    let marks = [Mark::Dot, Mark::Diamond, Mark::Square, Mark::Triangle];
    let series: Vec<Points> = set
        .measured()
        .enumerate()
        .map(|(at, (step, measured))| {
            let milliseconds = if measured.server_ms.is_empty() { &measured.client_ms } else { &measured.server_ms };
            let point = (percentile(milliseconds, 50.0), measured.mean(key.0).unwrap_or_default() * 100.0);
            let color = PALETTE.into_iter().cycle().nth(at).unwrap_or(PALETTE[0]);
            let mark = marks.into_iter().cycle().nth(at / PALETTE.len() + at % 4).unwrap_or(Mark::Dot);
            Points { name: step.name.clone(), mark, color, at: vec![point] }
        })
        .collect();
    chart::scatter(
        &format!("{}: {} against latency", set.key, key.1),
        "median latency, ms",
        &format!("{}, percent", key.1),
        &series,
    )
}

fn tokens(set: &SetResult) -> String {
    let steps: Vec<String> = set.measured().map(|(step, _)| step.name.clone()).collect();
    let values: Vec<f64> = set.measured().map(|(_, measured)| measured.mean("tokens").unwrap_or_default()).collect();
    let first = values.first().copied().unwrap_or_default();
    let level = Level { name: "first step".to_string(), color: PALETTE[6], value: first };
    chart::line(
        &format!("{}: tokens sent per question", set.key),
        ["step", "estimated tokens"],
        &steps,
        "mean",
        &values,
        &[level],
    )
}

fn refusal(set: &SetResult) -> String {
    let refusals = set.measured().filter_map(|(step, measured)| Some((step, measured.refusal.as_ref()?)));
    let curves: Vec<Curve> = refusals
        .zip(PALETTE.into_iter().cycle())
        .map(|((step, refusals), color)| Curve {
            name: format!("{} ({:.3})", step.name, refusals.auc),
            color,
            at: refusals.curve.iter().map(|point| (point.falsely_refused, point.refused)).collect(),
        })
        .collect();
    let title = format!("{}: refusing below a confidence (area under the curve)", set.key);
    chart::curves(&title, ["answerable questions refused, percent", "unanswerable questions refused, percent"], &curves)
}

/// A set's key as part of a file name.
pub fn file_part(key: &str) -> String {
    key.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c), "-")
}
