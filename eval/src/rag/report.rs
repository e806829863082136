//! Writes a run's folder: `summary.json`, `report.md`, charts and the raw rows.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::Value;

use super::charts;
use super::metrics::{METRICS, Metric, RANKING};
use super::resample::Change;
use super::result::{MAX_FALSE_REFUSAL, Measured, SIGNIFICANT_P, SetResult, Verdict};
use super::steps::Step;
use crate::run_folder::RunFolder;
use crate::stats::percentile;

pub fn write(folder: &RunFolder, sets: &[SetResult], failed: &[(String, String)]) -> Result<()> {
    let metrics: BTreeMap<String, f64> = sets.iter().flat_map(SetResult::metrics).collect();
    folder.write_summary(&metrics)?;
    folder.write_rows("raw.jsonl.gz", &raw_rows(sets)?)?;
    let mut text = format!("# Retrieval-augmented generation\n\n{}\n", folder.provenance_line());
    for (key, reason) in failed {
        writeln!(text, "**{key} could not be measured:** {reason}\n")?;
    }
    overview(&mut text, sets)?;
    for set in sets {
        let charts = charts::write(folder, set)?;
        section(&mut text, set, &charts)?;
    }
    definitions(&mut text)?;
    folder.write("report.md", text)
}

/// One line for each set: the first and the last step of the ladder.
pub fn headline(sets: &[SetResult]) -> String {
    let line = |set: &SetResult| {
        let key = set.deciding().first().copied().unwrap_or("r5");
        let value = |(step, measured): (&Step, &Measured)| format!("{} {}", step.name, percent(measured.mean(key)));
        let ladder: Vec<_> = set.measured().filter(|(step, _)| !step.is_reference()).collect();
        let shown = if ladder.is_empty() { set.measured().collect() } else { ladder };
        let mut shown = shown.into_iter();
        let ends: Vec<String> = shown.next().into_iter().chain(shown.next_back()).map(value).collect();
        format!("{} {}: {}", set.key, title_of(key), ends.join(" → "))
    };
    sets.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Every row of every step, then those of the evaluator's task and of the answers.
fn raw_rows(sets: &[SetResult]) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for set in sets {
        for (_, measured) in set.measured() {
            rows.extend(measured.rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
        }
        let evaluated = set.evaluation.iter().flat_map(|(_, rows)| rows);
        rows.extend(evaluated.map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
        rows.extend(set.answers.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(rows)
}

/// What helps and what does not, before any table.
fn overview(text: &mut String, sets: &[SetResult]) -> Result<()> {
    writeln!(text, "## What each step does\n")?;
    writeln!(text, "| set | step | compared with | change | verdict |\n|---|---|---|---|---|")?;
    for set in sets {
        for result in &set.steps {
            match &result.outcome {
                Err(reason) => {
                    writeln!(text, "| {} | {} | – | – | not available: {} |", set.key, result.step.name, cell(reason))?;
                }
                Ok(measured) => {
                    let Some((before, changes)) = &measured.since else { continue };
                    let shown = set.deciding().iter().filter_map(|key| Some(change_text(key, changes.get(key)?)));
                    writeln!(
                        text,
                        "| {} | {} | {before} | {} | {} |",
                        set.key,
                        result.step.name,
                        shown.collect::<Vec<_>>().join(", "),
                        verdict(set, &result.step, measured, changes)
                    )?;
                }
            }
        }
    }
    writeln!(
        text,
        "\nA verdict needs p < {SIGNIFICANT_P}; p is not corrected for the number of comparisons, so about one in twenty is by chance.\n"
    )?;
    Ok(())
}

fn verdict(set: &SetResult, step: &Step, measured: &Measured, changes: &BTreeMap<&'static str, Change>) -> String {
    let ranking = match set.verdict(changes) {
        Verdict::Helps => "**helps**",
        Verdict::Harms => "**harms**",
        Verdict::Mixed => "mixed: better and worse",
        Verdict::NoEffect if step.is_reference() => "no measurable difference",
        Verdict::NoEffect => "no measurable effect on the ranking",
    };
    let mut verdict = ranking.to_string();
    if let Some(ratio) = measured.token_ratio() {
        let change =
            measured.mean("ans5").zip(measured.mean("ans5_chunks")).map(|(sent, whole)| (sent - whole) * 100.0);
        let change = change.map_or(String::new(), |change| format!(", ans@5 {change:+.1} points by it"));
        verdict += &format!("; sends {ratio:.1}× fewer tokens{change}");
    }
    verdict
}

fn section(text: &mut String, set: &SetResult, charts: &[(String, String)]) -> Result<()> {
    writeln!(text, "## {}\n", set.key)?;
    let base = &set.ingestion.knowledge_base;
    write!(text, "{} queries, {} documents, {} chunks", set.n_queries, set.n_documents, base.chunks)?;
    if let Some(model) = &base.model {
        write!(text, ", embedded with {model}")?;
    }
    if let Some(speed) = set.ingestion.chunks_per_second() {
        write!(text, "; ingested {:.1} chunks/s in {:.0} s", speed, set.ingestion.seconds)?;
    }
    writeln!(text, ".\n")?;
    for note in &set.notes {
        writeln!(text, "> {note}\n")?;
    }
    for (file, caption) in charts {
        writeln!(text, "![{}: {caption}]({file})\n", set.key)?;
    }
    ladder(text, set)?;
    intervals(text, set)?;
    changes(text, set)?;
    sent(text, set)?;
    trace(text, set)?;
    refusals(text, set)?;
    evaluator(text, set)?;
    answers(text, set)
}

fn ladder(text: &mut String, set: &SetResult) -> Result<()> {
    let mut shown: Vec<&Metric> = METRICS.iter().filter(|metric| RANKING.contains(&metric.key)).collect();
    let has_answers = set.measured().any(|(_, measured)| measured.mean("ans5").is_some());
    shown.extend(METRICS.iter().filter(|metric| metric.key == "ans5" && has_answers));
    writeln!(
        text,
        "{}",
        header("step", shown.iter().map(|metric| metric.title), &["tokens", "p50 ms", "p95 ms", "client p50 ms"])
    )?;
    for result in &set.steps {
        let name = &result.step.name;
        let measured = match &result.outcome {
            Ok(measured) => measured,
            Err(reason) => {
                let blanks = " – |".repeat(shown.len() + 4);
                writeln!(text, "| {name} (not available: {}) |{blanks}", cell(reason))?;
                continue;
            }
        };
        let values: Vec<String> = shown.iter().map(|metric| percent(measured.mean(metric.key))).collect();
        let milliseconds = |values: &[f64], p| {
            if values.is_empty() { "–".to_string() } else { format!("{:.1}", percentile(values, p)) }
        };
        writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} |",
            values.join(" | "),
            measured.mean("tokens").map_or("–".to_string(), |tokens| format!("{tokens:.0}")),
            milliseconds(&measured.server_ms, 50.0),
            milliseconds(&measured.server_ms, 95.0),
            milliseconds(&measured.client_ms, 50.0),
        )?;
    }
    Ok(writeln!(text)?)
}

fn intervals(text: &mut String, set: &SetResult) -> Result<()> {
    let keys = ["r2", "r5", "r10", "all5", "mrr10", "ndcg10", "ans5"];
    writeln!(text, "95 % intervals:\n\n{}", header("step", keys.iter().map(|key| title_of(key)), &[]))?;
    for (step, measured) in set.measured() {
        let interval = |key: &&str| {
            let estimate = measured.values.get(key);
            estimate
                .map_or("–".to_string(), |e| format!("{:.1}–{:.1}", e.interval.low * 100.0, e.interval.high * 100.0))
        };
        writeln!(text, "| {} | {} |", step.name, keys.iter().map(interval).collect::<Vec<_>>().join(" | "))?;
    }
    Ok(writeln!(text)?)
}

fn changes(text: &mut String, set: &SetResult) -> Result<()> {
    let keys = ["r2", "r5", "all5", "mrr10", "ndcg10", "ans5"];
    let compared: Vec<_> =
        set.measured().filter_map(|(step, measured)| Some((step, measured.since.as_ref()?))).collect();
    if compared.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "Change in points, paired by query (p; queries better, worse):\n\n{}",
        header("step, compared with", keys.iter().map(|key| title_of(key)), &[])
    )?;
    for (step, (before, changes)) in compared {
        let change = |key: &&str| match changes.get(key) {
            Some(change) => {
                let Change { difference, p, n_better, n_worse } = change;
                format!("{:+.1} ({}; {n_better}, {n_worse})", difference * 100.0, p_text(*p))
            }
            None => "–".to_string(),
        };
        writeln!(text, "| {}, {before} | {} |", step.name, keys.iter().map(change).collect::<Vec<_>>().join(" | "))?;
    }
    Ok(writeln!(text)?)
}

/// What goes to the language model, where a step changes it.
fn sent(text: &mut String, set: &SetResult) -> Result<()> {
    let compressed: Vec<_> = set.measured().filter(|(_, measured)| measured.token_ratio().is_some()).collect();
    let supported = set.measured().any(|(_, measured)| measured.mean("support").is_some());
    if compressed.is_empty() && !supported {
        return Ok(());
    }
    let keys = ["ans5", "ans5_chunks", "support", "context_gold"];
    writeln!(
        text,
        "What is sent:\n\n{}",
        header(
            "step",
            keys.iter().map(|key| title_of(key)),
            &["tokens", "tokens uncompressed", "tokens (server)", "fewer"]
        )
    )?;
    for (step, measured) in set.measured() {
        let count = |key: &str| measured.mean(key).map_or("–".to_string(), |tokens| format!("{tokens:.0}"));
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            step.name,
            keys.iter().map(|key| percent(measured.mean(key))).collect::<Vec<_>>().join(" | "),
            count("tokens"),
            count("tokens_chunks"),
            count("tokens_server"),
            measured.token_ratio().map_or("–".to_string(), |ratio| format!("{ratio:.1}×")),
        )?;
    }
    Ok(writeln!(text)?)
}

fn trace(text: &mut String, set: &SetResult) -> Result<()> {
    let Some((step, measured)) = set.measured().rev().find(|(_, measured)| !measured.trace.is_empty()) else {
        return Ok(());
    };
    let parts: Vec<String> = measured.trace.iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
    Ok(writeln!(text, "Median milliseconds by part, step `{}`: {}.\n", step.name, parts.join(", "))?)
}

fn refusals(text: &mut String, set: &SetResult) -> Result<()> {
    let with_refusals: Vec<_> =
        set.measured().filter_map(|(step, measured)| Some((step, measured.refusal.as_ref()?))).collect();
    if with_refusals.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "Refusing unanswerable questions by confidence:\n\n| step | ROC-AUC | threshold | refused | falsely refused | refused by action | falsely by action |\n\
         |---|--:|--:|--:|--:|--:|--:|"
    )?;
    for (step, refusals) in &with_refusals {
        let by_action = |share: fn(&super::detect::Refusal) -> f64| percent(refusals.by_action.as_ref().map(share));
        writeln!(
            text,
            "| {} | {:.3} | {:.4} | {} | {} | {} | {} |",
            step.name,
            refusals.auc,
            refusals.chosen.threshold,
            percent(Some(refusals.chosen.refused)),
            percent(Some(refusals.chosen.falsely_refused)),
            by_action(|refusal| refusal.refused),
            by_action(|refusal| refusal.falsely_refused),
        )?;
    }
    let is_fitted = with_refusals.iter().any(|(_, refusals)| refusals.threshold_is_fitted);
    let source = match is_fitted {
        true => format!(
            "chosen on these very questions, to refuse the most at no more than {:.0} % false refusals; give it with \
             --refusal-threshold on another split",
            MAX_FALSE_REFUSAL * 100.0
        ),
        false => "given with --refusal-threshold".to_string(),
    };
    Ok(writeln!(text, "\nThe threshold was {source}. *By action*: the server said \"incorrect\".\n")?)
}

fn evaluator(text: &mut String, set: &SetResult) -> Result<()> {
    let Some((evaluation, _)) = &set.evaluation else { return Ok(()) };
    for note in &evaluation.notes {
        writeln!(text, "> {note}\n")?;
    }
    let fitted = if evaluation.threshold_is_fitted { "chosen on these pairs" } else { "given" };
    Ok(writeln!(
        text,
        "Retrieval evaluator (does one of the first ten passages of the plain fusion contain an answer?): ROC-AUC {:.4}, balanced \
         accuracy {:.1} %, accuracy {:.1} % at the threshold {:.4} ({fitted}); {} pairs, {:.1} % positive.\n",
        evaluation.auc,
        evaluation.split.balanced_accuracy * 100.0,
        evaluation.split.accuracy * 100.0,
        evaluation.split.threshold,
        evaluation.n_pairs,
        evaluation.positive_share * 100.0,
    )?)
}

fn answers(text: &mut String, set: &SetResult) -> Result<()> {
    if set.answers.is_empty() {
        return Ok(());
    }
    writeln!(text, "Answers:\n\n| metric | value |\n|---|--:|")?;
    for (name, value) in &set.answer_metrics {
        let is_count = ["n", "errors", "judge_graded", "judge_errors"].contains(name);
        let shown = match *name {
            _ if is_count => format!("{value:.0}"),
            "client_ms_p50" | "client_ms_p95" => format!("{value:.1}"),
            _ => percent(Some(*value)),
        };
        writeln!(text, "| {name} | {shown} |")?;
    }
    let errors =
        set.answers.iter().filter_map(|row| row.error.as_ref().or_else(|| row.grading.as_ref()?.error.as_ref()));
    if let Some(error) = errors.into_iter().next() {
        writeln!(text, "\nThe first error: {}", cell(error))?;
    }
    Ok(writeln!(text)?)
}

fn definitions(text: &mut String) -> Result<()> {
    writeln!(text, "## How it is computed\n")?;
    for metric in &METRICS {
        writeln!(text, "- *{}* (`{}`): {}.", metric.title, metric.key, metric.meaning)?;
    }
    writeln!(
        text,
        "- Chunks count for their document, each document once, at its first chunk. A failed query counts as 0.\n\
         - *Answer strings* are compared in lower case, decomposed, as whole words (characters of Chinese and Japanese). Sets whose \
         answers are explanations or yes and no have no ans@5.\n\
         - *Tokens* are estimated by one rule for all texts (six letters, three digits, one mark or one Chinese character a token), so that \
         ratios are fair whatever tokenizer the server counts with.\n\
         - *Intervals*: percentiles of the mean over 1,000 resamples of the queries. *p*: two-sided sign-flip permutation test on the \
         differences per query, 10,000 flips. Both with a fixed seed.\n\
         - *Latency*: the server's own trace, one query at a time unless `--concurrency` says otherwise; *client* includes HTTP and JSON. \
         Where a step compresses, latency and what is sent are those of a second request for just the chunks that would be sent.\n\
         - *Refused by confidence*: questions whose confidence (else the best judgement of a passage) is below the threshold.\n\
         - *factuality*: share of the judge's grades A, B, C and E; *strict*: B and C. Refusals and unreadable grades are not graded and are \
         counted separately; EM and F1 as for SQuAD, refusals of answerable questions count as wrong."
    )?;
    Ok(())
}

fn change_text(key: &str, change: &Change) -> String {
    format!("{} {:+.1} ({})", title_of(key), change.difference * 100.0, p_text(change.p))
}

fn p_text(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_string() } else { format!("p {p:.3}") }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_string(), |share| format!("{:.1}", share * 100.0))
}

fn title_of(key: &str) -> &'static str {
    METRICS.iter().find(|metric| metric.key == key).map_or("", |metric| metric.title)
}

fn header<'a>(first: &str, titles: impl Iterator<Item = &'a str>, more: &[&'a str]) -> String {
    let titles: Vec<&str> = titles.chain(more.iter().copied()).collect();
    format!("| {first} | {} |\n|---|{}", titles.join(" | "), "--:|".repeat(titles.len()))
}

/// Text of others in a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
