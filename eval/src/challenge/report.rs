//! Writes a challenge's run folder: `summary.json`, `report.md`, charts and `raw.jsonl.gz`.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;

use super::charts;
use super::outcomes::{Outcome, average};
use super::protocol::Row;
use super::result::{Challenge, GOOD_MODEL_TOLERANCE};
use crate::run_folder::RunFolder;
use crate::stats::{mean, percentile, sorted};

pub fn write(folder: &RunFolder, challenge: &Challenge) -> Result<()> {
    folder.write_summary(&challenge.metrics())?;
    let rows: Vec<&Row> = challenge.verified.iter().chain(&challenge.streamed).chain(&challenge.other_rows).collect();
    folder.write_rows("raw.jsonl.gz", &rows)?;
    let charts = charts::write(folder, challenge)?;
    folder.write("report.md", report(challenge, &folder.provenance_line(), &charts)?)
}

/// The result in one line.
pub fn headline(challenge: &Challenge) -> String {
    let metrics = challenge.metrics();
    let number = |name: &str| metrics.get(name).copied();
    let known = |name: &str| number(name).unwrap_or_default();
    let of_ceiling = number("score_of_ceiling").zip(number("score_ceiling"));
    let of_ceiling = of_ceiling
        .map(|(share, ceiling)| format!(" = {:.1} % of the domain ceiling {ceiling:.4}", share * 100.0))
        .unwrap_or_default();
    let streamed = number("stream_errors").map(|n| format!(", as streams {n}")).unwrap_or_default();
    format!(
        "score {:.4}{of_ceiling} (always {}: {:.4}), latency {:.0} ms (always {}: {:.0} ms), domain accuracy {}, \
         errors {}{streamed}",
        known("score_mean"),
        challenge.max_model,
        known("score_always_max"),
        known("latency_ms_mean"),
        challenge.max_model,
        known("latency_ms_always_max"),
        percent(number("domain_accuracy")),
        known("errors"),
    )
}

/// `-` where it cannot be told.
fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_string(), |share| format!("{:.1} %", share * 100.0))
}

/// A cost in US dollars per 1000 questions, `-` where it is not known.
fn per_thousand(cost: Option<f64>) -> String {
    cost.map_or("-".to_string(), |cost| format!("{:.3}", cost * 1e3))
}

fn report(challenge: &Challenge, provenance: &str, charts: &[(&str, &str)]) -> Result<String> {
    let mut text = format!("# Routing challenge\n\n{provenance}\n{}.\n\n", headline(challenge));
    for note in &challenge.notes {
        writeln!(text, "> **Note.** {note}\n")?;
    }
    overall(&mut text, challenge)?;
    per_domain(&mut text, challenge)?;
    per_model(&mut text, challenge)?;
    learning(&mut text, challenge)?;
    for (file, caption) in charts {
        writeln!(text, "![{caption}]({file})\n")?;
    }
    definitions(&mut text, challenge)?;
    Ok(text)
}

fn overall(text: &mut String, challenge: &Challenge) -> Result<()> {
    writeln!(
        text,
        "## Overall\n\n| policy | score | utility | mean latency ms | US$ per 1000 |\n|---|--:|--:|--:|--:|"
    )?;
    let mut row = |name: &str, outcome: &Outcome, is_priced: bool| {
        let Outcome { score, cost, latency_ms } = *outcome;
        let utility = if is_priced { format!("{:.4}", challenge.utility(outcome)) } else { "-".to_string() };
        let cost = per_thousand(is_priced.then_some(cost));
        writeln!(text, "| {name} | {score:.4} | {utility} | {latency_ms:.1} | {cost} |")
    };
    row("**gateway**", &challenge.gateway(), challenge.is_priced(&challenge.verified))?;
    for policy in challenge.policies().iter().rev() {
        row(&policy.name, &policy.outcome, challenge.outcomes.is_priced)?;
    }
    let latencies = sorted(challenge.verified.iter().map(|row| row.latency_ms));
    let [p50, p95, p99] = [50.0, 95.0, 99.0].map(|p| percentile(&latencies, p));
    let metrics = challenge.metrics();
    writeln!(
        text,
        "\nGateway latency p50 {p50:.0} ms, p95 {p95:.0} ms, p99 {p99:.0} ms. {} verify questions, {} errors, {} answers without a score.",
        challenge.verified.len(),
        metrics["errors"],
        metrics["unscored"],
    )?;
    if let Some(calls) = &challenge.verify_calls {
        writeln!(
            text,
            "During the verify phase the mock saw {} chat calls; {} questions reached more than one model.",
            calls.n_calls, calls.n_several_models
        )?;
    }
    if !challenge.streamed.is_empty() {
        writeln!(
            text,
            "Asked again as streams: score {:.4}, first event after {} ms, whole answer {:.0} ms, {} errors.",
            average(challenge.streamed.iter().map(Row::outcome)).score,
            challenge.stream_first_token_ms().map_or("-".to_string(), |ms| format!("{ms:.0}")),
            mean(challenge.streamed.iter().map(|row| row.latency_ms)),
            metrics["stream_errors"],
        )?;
    }
    Ok(writeln!(text)?)
}

fn per_domain(text: &mut String, challenge: &Challenge) -> Result<()> {
    let by_domain = challenge.by_domain();
    if by_domain.is_empty() {
        return Ok(());
    }
    let outcomes = &challenge.outcomes;
    let max_model = outcomes.models.iter().position(|model| *model == challenge.max_model).unwrap_or_default();
    writeln!(
        text,
        "## By domain\n\n| domain | questions | score | best of domain | always {} | domain accuracy | good model chosen | mean latency ms | good models |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|---|",
        challenge.max_model
    )?;
    for (domain, rows) in by_domain {
        let outcome = average(rows.iter().map(|row| row.outcome()));
        let best = outcomes.on(domain, outcomes.best_of(domain, outcomes.weights));
        let good: Vec<&str> = outcomes.good_models(domain, GOOD_MODEL_TOLERANCE).into_iter().collect();
        writeln!(
            text,
            "| {domain} | {} | {:.4} | {:.4} | {:.4} | {} | {} | {:.0} | {} |",
            rows.len(),
            outcome.score,
            best.score,
            outcomes.on(domain, max_model).score,
            percent(challenge.domain_accuracy(rows.iter().copied())),
            percent(challenge.good_model_share(rows.iter().copied())),
            outcome.latency_ms,
            good.join(", "),
        )?;
    }
    Ok(writeln!(text)?)
}

fn per_model(text: &mut String, challenge: &Challenge) -> Result<()> {
    let mut by_model: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in challenge.verified.iter().filter(|row| row.error.is_none()) {
        by_model.entry(&row.model).or_default().push(row);
    }
    let mut by_model: Vec<_> = by_model.into_iter().collect();
    by_model.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    writeln!(
        text,
        "## By chosen model\n\n| model | questions | share | score | mean latency ms | US$ per 1000 |\n|---|--:|--:|--:|--:|--:|"
    )?;
    for (model, rows) in by_model {
        let outcome = average(rows.iter().map(|row| row.outcome()));
        let share = 100.0 * rows.len() as f64 / challenge.verified.len() as f64;
        let Outcome { score, cost, latency_ms } = outcome;
        let cost = per_thousand(challenge.is_priced(rows.iter().copied()).then_some(cost));
        let n = rows.len();
        writeln!(text, "| {model} | {n} | {share:.1} % | {score:.4} | {latency_ms:.0} | {cost} |")?;
    }
    Ok(writeln!(text)?)
}

fn learning(text: &mut String, challenge: &Challenge) -> Result<()> {
    writeln!(
        text,
        "## Learning\n\n{} training questions in {:.1} s.",
        challenge.n_train_rows, challenge.collect_seconds
    )?;
    if let Some(seconds) = challenge.train_seconds {
        writeln!(text, "Training and promotion: {seconds:.1} s.")?;
    }
    if !challenge.trained.is_empty() {
        writeln!(text, "\nThe training trigger answered:\n\n```\n{}\n```", challenge.trained)?;
    }
    let curve = challenge.curve();
    if !curve.is_empty() {
        writeln!(text, "\n| rows | score | utility | good model chosen |\n|--:|--:|--:|--:|")?;
        for (n_rows, score, utility, good) in curve {
            let utility = utility.map_or("-".to_string(), |utility| format!("{utility:.4}"));
            writeln!(text, "| {n_rows} | {score:.4} | {utility} | {} |", percent(good))?;
        }
        writeln!(
            text,
            "\nAll rows of this table are over the same {} verify questions, spread evenly over the file.",
            challenge.curve_questions.len()
        )?;
    }
    Ok(writeln!(text)?)
}

fn definitions(text: &mut String, challenge: &Challenge) -> Result<()> {
    let weights = challenge.outcomes.weights;
    let source = if challenge.claims_domains() {
        "the gateway's own `x-weirgate-domain` header equals the true domain"
    } else {
        "the home domain of the chosen model (the domain in which that model has its highest mean score) is the true domain"
    };
    writeln!(
        text,
        "## How it is computed\n\n\
         - *Score*: what the verify service's `/v1/evaluate` says of the answer; a failed question and an answer no model gave count as 0.\n\
         - *Latency*: at the client, from sending the request to the last byte (or to the failure). Baselines ask the mock directly, so the gateway's own time counts against it.\n\
         - *Cost*: the answer's `usage` at the world's prices. A model named with its provider (`openai/qwen-max`) is the one behind the \
         last `/`. Where one answer has no usage or names no model of the world, costs and utilities are left out.\n\
         - *Utility* of an answer = score − {} · cost in US$ − {} · latency in seconds.\n\
         - *Domain ceiling (utility)*: U = 1/n Σ_d n_d · max_m Ū(m, d), where Ū(m, d) is the mean utility of model m over the n_d verify \
         questions of domain d; `score_ceiling` is the mean score of that same choice. It is chosen in hindsight on the verify questions, so a \
         router that knows every domain and has only seen training questions reaches it just about.\n\
         - *Domain ceiling (score)*: the same with the mean score in place of the utility (`score_ceiling_by_score`).\n\
         - *Oracle*: for each question the model with the best utility on it. *Random*: the expectation of an even choice among all models. \
         *Best single*: the one model with the best mean utility.\n\
         - *Good model*: its mean utility on the true domain is at most {GOOD_MODEL_TOLERANCE} under the best model's.\n\
         - *Domain accuracy*: share of the verify questions with a label for which {source}.\n\
         - A dash stands where a number cannot be told; the notes say why.",
        weights.cost, weights.latency
    )?;
    Ok(())
}
