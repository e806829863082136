//! `weirgate-eval rag`: retrieval and answers of a gateway's knowledge bases, one part of the pipeline after the other.
//!
//! Each set's passages are ingested, then every question is asked at each step of the ladder (`steps`); `result` says what each step
//! changes and how sure that is. Nothing here needs a language model, except the judge (`judge`), which is asked only if given.

mod answers;
mod api;
mod charts;
mod detect;
mod evaluator;
mod ingest;
mod judge;
mod ladder;
mod metrics;
mod report;
mod resample;
mod result;
mod set;
mod steps;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::http::parse_url;
use crate::print_line;
use crate::run_folder::RunFolder;
use crate::shell;
use api::Gateway;
use judge::{Judge, JudgeOptions};
pub use judge::{JudgeArgs, run as run_judge};
use ladder::{Asking, StepOutcome};
use result::{SetResult, StepResult};
use set::{RagSet, Reading, SetChoice};
use steps::{LADDER, Step};

#[derive(Args)]
pub struct RagArgs {
    /// The gateway's admin API, without /v1
    #[arg(long, value_parser = parse_url)]
    gateway: String,
    /// Admin token, sent as `Authorization: Bearer …`
    #[arg(long)]
    token: Option<String>,
    /// Folders with corpus.jsonl.gz, queries.jsonl and qrels.tsv; DIR,src=NAME,where=FIELD measures a part
    #[arg(long, num_args = 1.., required = true)]
    set: Vec<String>,
    /// Other questions on the same passages; needs a single set
    #[arg(long, requires = "qrels")]
    queries: Option<PathBuf>,
    /// The judgements that belong to --queries
    #[arg(long, requires = "queries")]
    qrels: Option<PathBuf>,
    /// Only passages whose `src` is this
    #[arg(long)]
    src: Option<String>,
    /// Only questions where this field is true or greater than zero
    #[arg(long = "where")]
    condition: Option<String>,
    /// Only the first questions
    #[arg(long)]
    limit: Option<usize>,
    /// Steps to run, or NAME=PART+PART… of dense, lexical, rrf, weighted, hop, rerank, correct, compress; `default` leaves it to the server
    #[arg(long, value_delimiter = ',', default_value = LADDER)]
    steps: Vec<String>,
    /// Further passages (a folder with corpus.jsonl.gz) as distractors
    #[arg(long)]
    extra: Vec<PathBuf>,
    /// Take the knowledge base as it is; it has to hold the set already
    #[arg(long)]
    skip_ingest: bool,
    /// Documents per ingest request, at most 1 MiB
    #[arg(long)]
    batch: Option<usize>,
    /// Before the set's name in the knowledge base's
    #[arg(long, default_value = "eval-")]
    kb_prefix: String,
    /// Chunks asked for: more than ten, so that ten documents remain
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    top_k: u64,
    /// Chunks that would be sent to a language model, and that compression works on
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    context_chunks: u64,
    /// Token budget asked for in compression; the server's own if not given
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Questions in flight; latency is only meaningful with 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    concurrency: u64,
    /// Questions asked before each step without being counted
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Chunks asked for in the retrieval evaluator's task, so that the fusion's first ten are among them in any order
    #[arg(long, default_value_t = 100)]
    evaluator_candidates: usize,
    /// Threshold of the retrieval evaluator; chosen on the pairs themselves if not given
    #[arg(long)]
    evaluator_threshold: Option<f64>,
    /// Confidence below which a question counts as refused; chosen on the questions themselves if not given
    #[arg(long)]
    refusal_threshold: Option<f64>,
    /// Finds the thresholds that `correct` needs, if a step has it: run after the ingest, with the knowledge base's name behind it
    #[arg(long)]
    calibrate_command: Option<String>,
    /// Also ask for answers and score them
    #[arg(long)]
    answers: bool,
    #[command(flatten)]
    judge: JudgeOptions,
    /// Last part of the run folder's name
    #[arg(long, default_value = "rag")]
    name: String,
    #[arg(long, default_value = "eval/runs")]
    out: PathBuf,
}

/// Measures set after set; the folder is written anew after each, so that a failure late costs only what is missing.
pub async fn run(args: RagArgs) -> Result<()> {
    let steps = steps::parse_all(&args.steps)?;
    let sets = load(&args)?;
    let gateway = Gateway::new(&args.gateway, args.token.as_deref())?;
    let judge = Judge::new(&args.judge)?;
    if judge.is_some() && !args.answers {
        bail!("--judge-url grades answers: add --answers");
    }
    let folder = RunFolder::create(&args.out, &args.name)?;
    let (mut results, mut failed) = (Vec::new(), Vec::new());
    for set in &sets {
        match measure(&args, &gateway, judge.as_ref(), set, &steps).await {
            Ok(result) => results.push(result),
            Err(error) => failed.push((set.key.clone(), format!("{error:#}"))),
        }
        report::write(&folder, &results, &failed)?;
    }
    print_line(&format!("{}\n{}", folder.path.display(), report::headline(&results)))?;
    match failed.as_slice() {
        [] => Ok(()),
        failed => {
            bail!("{}", failed.iter().map(|(key, error)| format!("{key}: {error}")).collect::<Vec<_>>().join("\n"))
        }
    }
}

fn load(args: &RagArgs) -> Result<Vec<RagSet>> {
    if args.queries.is_some() && args.set.len() != 1 {
        bail!("--queries belongs to one set; {} are given", args.set.len());
    }
    let reading = Reading {
        queries: args.queries.as_deref(),
        qrels: args.qrels.as_deref(),
        extra: &args.extra,
        limit: args.limit,
        knowledge_base_prefix: &args.kb_prefix,
    };
    let mut sets: Vec<RagSet> = Vec::new();
    for text in &args.set {
        let set = SetChoice::parse(text, args.src.as_deref(), args.condition.as_deref())?.load(&reading)?;
        if sets.iter().any(|known| known.key == set.key) {
            bail!("--set: {:?} is given twice", set.key);
        }
        sets.push(set);
    }
    Ok(sets)
}

async fn measure(
    args: &RagArgs,
    gateway: &Gateway,
    judge: Option<&Judge>,
    set: &RagSet,
    steps: &[Step],
) -> Result<SetResult> {
    let mut asking = Asking {
        top_k: args.top_k as usize,
        context_chunks: args.context_chunks as usize,
        max_tokens: args.max_tokens,
        concurrency: args.concurrency as usize,
        n_warmup: args.warmup,
        unknown_switches: Vec::new(),
    };
    let ingestion = ingest::run(gateway, set, args.skip_ingest, args.batch).await?;
    asking.unknown_switches = ladder::unknown_switches(gateway, set).await?;
    let mut result = SetResult::new(set, ingestion);
    if let Some(command) = args.calibrate_command.as_ref().filter(|_| steps.iter().any(|step| step.has("correct"))) {
        let said = shell::run("--calibrate-command", &format!("{command} {}", set.knowledge_base), None).await;
        let said = said.unwrap_or_else(|error| format!("there are none; {error:#}"));
        result.notes.push(format!("Thresholds of `correct`: {}", said.replace('\n', " ")));
    }
    if asking.concurrency > 1 {
        result.notes.push(format!(
            "{} questions were in flight at a time: latency is that of a busy server.",
            asking.concurrency
        ));
    }
    let mut judging: Vec<&str> = Vec::new();
    for step in steps {
        match ladder::run(gateway, set, step, &asking).await? {
            StepOutcome::Measured(rows) => {
                // The last one measured is the best judge there is.
                if step.has("hop") || step.has("rerank") {
                    judging.clone_from(&step.parts);
                }
                result.push(set, step, rows, args.refusal_threshold);
            }
            StepOutcome::Unavailable(reason) => {
                result.steps.push(StepResult { step: step.clone(), outcome: Err(reason) });
            }
        }
    }
    if !judging.is_empty() {
        let (n_candidates, threshold) = (args.evaluator_candidates, args.evaluator_threshold);
        result.evaluation = evaluator::run(gateway, set, &asking, &judging, n_candidates, threshold).await?;
    }
    if args.answers {
        result.answers = answers::run(gateway, set, &asking, judge).await?;
        result.answer_metrics = answers::metrics(&result.answers, judge);
    }
    let is_measured = result.measured().any(|(_, measured)| measured.n_errors < measured.rows.len());
    if !is_measured && result.answers.is_empty() {
        let reasons: Vec<&str> =
            result.steps.iter().filter_map(|step| step.outcome.as_ref().err()).map(String::as_str).collect();
        bail!(
            "no step gave any result: {}",
            result.notes.iter().map(String::as_str).chain(reasons).collect::<Vec<_>>().join(" ")
        );
    }
    Ok(result)
}

fn progress_bar(phase: &str, n: usize) -> ProgressBar {
    // A template that does not parse would only cost the looks.
    let style = ProgressStyle::with_template("{msg:>24} {bar:32} {pos}/{len} {eta}");
    ProgressBar::new(n as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(phase.to_string())
}
