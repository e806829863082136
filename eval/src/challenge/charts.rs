//! The pictures of a challenge report.

use std::collections::BTreeSet;

use anyhow::Result;

use super::outcomes::average;
use super::protocol::Row;
use super::result::{Challenge, Policy};
use crate::chart::{self, BLACK, Level, Mark, PALETTE, Points};
use crate::run_folder::RunFolder;

/// Writes the charts; returns file name and caption of each.
pub fn write(folder: &RunFolder, challenge: &Challenge) -> Result<Vec<(&'static str, &'static str)>> {
    let mut charts = vec![("score-latency.svg", "Score against latency", score_latency(challenge))];
    if !challenge.by_domain().is_empty() {
        charts.push(("domains.svg", "Score by domain", domains(challenge)));
    }
    charts.push(("shares.svg", "Share per model", shares(challenge)));
    if !challenge.curve.is_empty() {
        charts.push(("curve.svg", "Learning curve", curve(challenge)));
    }
    for (file, _, svg) in &charts {
        folder.write(file, svg)?;
    }
    Ok(charts.into_iter().map(|(file, caption, _)| (file, caption)).collect())
}

fn score_latency(challenge: &Challenge) -> String {
    let outcomes = &challenge.outcomes;
    let mut families: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (i, model) in outcomes.models.iter().enumerate() {
        let mean = outcomes.always(i);
        let family =
            model.rsplit_once('-').filter(|_| *model != challenge.max_model).map_or(model.as_str(), |(f, _)| f);
        let point = (mean.latency_ms, mean.score);
        match families.iter_mut().find(|(name, _)| name == family) {
            Some((_, points)) => points.push(point),
            None => families.push((family.to_string(), vec![point])),
        }
    }
    let colors = [PALETTE[6], PALETTE[0], PALETTE[5], PALETTE[3], PALETTE[4]];
    let mut series: Vec<Points> = families
        .into_iter()
        .zip(colors.into_iter().cycle())
        .map(|((name, at), color)| Points {
            name: format!("always {name}{}", if at.len() > 1 { "-*" } else { "" }),
            mark: Mark::Dot,
            color,
            at,
        })
        .collect();
    let marks = |policy: &Policy| match policy.key {
        "random" => Some((Mark::Cross, BLACK)),
        "ceiling" => Some((Mark::Square, BLACK)),
        "oracle" => Some((Mark::Triangle, BLACK)),
        _ => None,
    };
    let mut point = |name: &str, mark, color, outcome: &super::outcomes::Outcome| {
        let at = vec![(outcome.latency_ms, outcome.score)];
        series.push(Points { name: name.to_string(), mark, color, at });
    };
    for policy in challenge.policies() {
        if let Some((mark, color)) = marks(&policy) {
            point(&policy.name, mark, color, &policy.outcome);
        }
    }
    point("gateway", Mark::Diamond, PALETTE[1], &challenge.gateway());
    chart::scatter("Mean score against mean latency", "mean latency at the client, ms", "mean score", &series)
}

fn domains(challenge: &Challenge) -> String {
    let outcomes = &challenge.outcomes;
    let max_model = outcomes.models.iter().position(|model| *model == challenge.max_model).unwrap_or_default();
    let best_single = outcomes.best_single();
    let mut series = vec![("gateway".to_string(), PALETTE[1]), (format!("always {}", challenge.max_model), PALETTE[6])];
    if best_single != max_model {
        series.push((format!("always {}", outcomes.models[best_single]), PALETTE[5]));
    }
    series.push(("best model of domain".to_string(), PALETTE[0]));
    let (mut groups, mut values) = (Vec::new(), Vec::new());
    for (domain, rows) in challenge.by_domain() {
        groups.push(domain.to_string());
        let mut scores =
            vec![average(rows.iter().map(|row| row.outcome())).score, outcomes.on(domain, max_model).score];
        if best_single != max_model {
            scores.push(outcomes.on(domain, best_single).score);
        }
        scores.push(outcomes.on(domain, outcomes.best_of(domain, outcomes.weights)).score);
        values.push(scores);
    }
    chart::grouped_bars("Mean score by domain", "mean score", &groups, &series, &values)
}

fn shares(challenge: &Challenge) -> String {
    // The empty one is that of questions without a label.
    let domains: BTreeSet<&str> = challenge.outcomes.domains.iter().map(String::as_str).collect();
    let mut domains: Vec<&str> = domains.into_iter().collect();
    domains.truncate(PALETTE.len());
    let names = domains.iter().map(|domain| if domain.is_empty() { "no label" } else { domain });
    let parts: Vec<(String, &str)> = names.map(str::to_string).zip(PALETTE).collect();
    let mut models: Vec<(&str, usize)> = Vec::new();
    for row in challenge.verified.iter().filter(|row| row.error.is_none()) {
        match models.iter_mut().find(|(model, _)| *model == row.model) {
            Some((_, n)) => *n += 1,
            None => models.push((&row.model, 1)),
        }
    }
    models.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let n_verify = challenge.verified.len().max(1) as f64;
    let count = |model: &str, domain: &str| {
        let is_counted = |row: &&Row| row.error.is_none() && row.model == model && row.domain == domain;
        challenge.verified.iter().filter(is_counted).count() as f64 / n_verify
    };
    let values: Vec<Vec<f64>> =
        models.iter().map(|(model, _)| domains.iter().map(|domain| count(model, domain)).collect()).collect();
    let bars: Vec<String> = models.iter().map(|(model, _)| (*model).to_string()).collect();
    chart::stacked_bars("Share of verify questions per model, by true domain", &bars, &parts, &values)
}

fn curve(challenge: &Challenge) -> String {
    let subset = challenge.outcomes.subset(&challenge.curve_questions);
    let max_model = subset.models.iter().position(|model| *model == challenge.max_model).unwrap_or_default();
    let level = |name: &str, color, value| Level { name: name.to_string(), color, value };
    let ceiling = subset.ceiling(subset.weights).map(|ceiling| level("domain ceiling", PALETTE[0], ceiling.score));
    let others = [
        level(&format!("always {}", challenge.max_model), PALETTE[6], subset.always(max_model).score),
        level("random model", PALETTE[3], subset.random().score),
    ];
    let levels: Vec<Level> = ceiling.into_iter().chain(others).collect();
    let points = challenge.curve();
    let steps: Vec<String> = points.iter().map(|(n_rows, ..)| n_rows.to_string()).collect();
    let scores: Vec<f64> = points.iter().map(|(_, score, ..)| *score).collect();
    let title = format!("Score after collecting training rows ({} verify questions)", challenge.curve_questions.len());
    chart::line(&title, ["training rows collected", "mean score"], &steps, "gateway", &scores, &levels)
}
