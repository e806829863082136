//! `weirgate-eval challenge`: the routing challenge's protocol against any OpenAI-compatible gateway.
//!
//! Training questions in training mode, training, then each verify question once; scores only from the verify service's
//! `/v1/evaluate`. Afterwards every model is asked directly, for the policies the gateway is compared with (`outcomes`).

mod charts;
mod chat;
mod outcomes;
mod protocol;
mod report;
mod result;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::header::{AUTHORIZATION, HeaderValue};

use crate::http::{Client, parse_header};
use crate::mock::world::World;
use crate::mock::{self, questions};
use crate::print_line;
use crate::run_folder::RunFolder;
use chat::ChatClient;
use outcomes::{Outcomes, Weights};
use protocol::{Ask, Row, Service, Trainer};
use result::{Challenge, CurvePoint, VerifyCalls};

#[derive(Args)]
pub struct ChallengeArgs {
    /// The gateway, without /v1
    #[arg(long)]
    gateway: String,
    /// Train service of the mock
    #[arg(long, default_value_t = format!("http://127.0.0.1:{}", mock::TRAIN_PORT))]
    train_mock: String,
    /// Verify service of the mock
    #[arg(long, default_value_t = format!("http://127.0.0.1:{}", mock::VERIFY_PORT))]
    verify_mock: String,
    /// Model name that asks the gateway to choose
    #[arg(long, default_value = "auto")]
    model: String,
    /// Sent as `Authorization: Bearer …`
    #[arg(long)]
    api_key: Option<String>,
    /// Header that marks a training question
    #[arg(long, default_value = "X-Training-Mode: true")]
    train_header: String,
    /// Training rows to ask for; all of them if not given. 0 measures a gateway as it is
    #[arg(long)]
    train_rows: Option<usize>,
    /// Questions in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    concurrency: u64,
    /// After collecting: POST here, and expect 2xx when the new router serves
    #[arg(long)]
    train_url: Option<String>,
    /// Bearer token for --train-url and --ready-url
    #[arg(long)]
    train_token: Option<String>,
    /// After collecting: run this shell command
    #[arg(long)]
    train_command: Option<String>,
    /// After triggering the training: wait until a GET here answers 200
    #[arg(long)]
    ready_url: Option<String>,
    #[arg(long, default_value_t = 600)]
    train_timeout_secs: u64,
    /// Learning curve: train and verify a part after so many collected rows (needs a training trigger)
    #[arg(long, value_delimiter = ',')]
    checkpoints: Vec<usize>,
    /// Verify questions of each point of the curve
    #[arg(long, default_value_t = 250)]
    curve_questions: usize,
    /// Also ask every verify question as a stream, for the time to first token
    #[arg(long)]
    stream: bool,
    /// World file, for the prices; the built-in default world if not given
    #[arg(long)]
    world: Option<PathBuf>,
    /// Question files with the true domains, for the tables by domain
    #[arg(long, value_delimiter = ',', default_value = "eval/questions/verify.jsonl")]
    labels: Vec<PathBuf>,
    /// The large model to compare with
    #[arg(long, default_value = "qwen-max")]
    max_model: String,
    #[command(flatten)]
    weights: Weights,
    /// Last part of the run folder's name
    #[arg(long)]
    name: String,
    #[arg(long, default_value = "eval/runs")]
    out: PathBuf,
}

/// Runs the protocol, writes the run folder and prints its path and the summary line.
pub async fn run(args: ChallengeArgs) -> Result<()> {
    let folder = RunFolder::create(&args.out, &args.name)?;
    let challenge = measure(&args).await?;
    report::write(&folder, &challenge)?;
    print_line(&format!("{}\n{}", folder.path.display(), report::headline(&challenge)))?;
    let errors: Vec<&String> = challenge.verified.iter().filter_map(|row| row.error.as_ref()).collect();
    match errors.first() {
        // What is left measures the failure, not the gateway.
        Some(first) if errors.len() * 2 > challenge.verified.len() => {
            bail!("{} of {} verify questions failed; the first: {first}", errors.len(), challenge.verified.len())
        }
        _ => Ok(()),
    }
}

async fn measure(args: &ChallengeArgs) -> Result<Challenge> {
    let bench = Bench::connect(args).await?;
    let mut rows = Vec::new();

    let collected = bench.collect_and_train(args, &mut rows).await?;

    bench.verify.reset_stats().await?;
    let verified = bench.verify.run(&bench.ask("verify", false), &bench.verify.questions).await?;
    let verify_calls = bench.verify.stats().await.map(|stats| VerifyCalls::new(&stats));
    let streamed = match args.stream {
        true => bench.verify.run(&bench.ask("stream", true), &bench.verify.questions).await?,
        false => Vec::new(),
    };

    let (baseline_rows, outcomes) = bench.ask_every_model(args).await?;
    rows.extend(baseline_rows);

    let mut notes = bench.notes.clone();
    notes.extend(collected.notes);
    Ok(Challenge {
        max_model: args.max_model.clone(),
        n_train_rows: collected.n_rows,
        collect_seconds: collected.seconds,
        train_seconds: collected.train_seconds,
        trained: collected.trained,
        curve: collected.curve,
        curve_questions: bench.curve_subset(args),
        verified,
        streamed,
        verify_calls,
        outcomes,
        other_rows: rows,
        notes,
    })
}

/// Everything that stays the same during a run.
struct Bench {
    gateway: ChatClient,
    training: ChatClient,
    train: Service,
    verify: Service,
    trainer: Trainer,
    world: World,
    model: String,
    concurrency: usize,
    notes: Vec<String>,
}

/// What the collecting part did.
#[derive(Default)]
struct Collected {
    n_rows: usize,
    seconds: f64,
    train_seconds: Option<f64>,
    trained: String,
    curve: Vec<CurvePoint>,
    notes: Vec<String>,
}

impl Bench {
    async fn connect(args: &ChallengeArgs) -> Result<Bench> {
        let client = Client::new();
        let mut labels = HashMap::new();
        for file in &args.labels {
            let questions = questions::load(file).context("--labels")?;
            labels.extend(questions.into_iter().map(|q| (q.question.trim().to_string(), q.domain)));
        }
        let train = Service::connect(client.clone(), &args.train_mock, &labels).await?;
        let verify = Service::connect(client.clone(), &args.verify_mock, &labels).await?;
        let mut notes = Vec::new();
        let n_unlabelled = verify.questions.iter().filter(|q| q.domain.is_empty()).count();
        if n_unlabelled > 0 {
            notes.push(format!("{n_unlabelled} verify questions have no label; name their file with --labels."));
        }
        let train_texts: HashSet<&str> = train.questions.iter().map(|q| q.text.trim()).collect();
        let n_shared = verify.questions.iter().filter(|q| train_texts.contains(q.text.trim())).count();
        if n_shared > 0 {
            notes.push(format!("{n_shared} verify questions are training questions too: the scores are too good."));
        }
        let mut headers = Vec::new();
        if let Some(key) = &args.api_key {
            let value = HeaderValue::try_from(format!("Bearer {key}")).context("--api-key is no header value")?;
            headers.push((AUTHORIZATION, value));
        }
        let gateway = ChatClient::new(client.clone(), &args.gateway, headers);
        let trainer = Trainer {
            client,
            url: args.train_url.clone(),
            token: args.train_token.clone(),
            command: args.train_command.clone(),
            ready_url: args.ready_url.clone(),
            timeout: Duration::from_secs(args.train_timeout_secs),
        };
        if !args.checkpoints.is_empty() && !trainer.can_trigger() {
            bail!("--checkpoints needs a way to train: --train-url or --train-command");
        }
        Ok(Bench {
            training: gateway.clone().with_header(parse_header(&args.train_header).context("--train-header")?),
            gateway,
            train,
            verify,
            trainer,
            world: World::load(args.world.as_deref())?,
            model: args.model.clone(),
            concurrency: args.concurrency as usize,
            notes,
        })
    }

    /// Asks the training questions; at each checkpoint trains and verifies a part; trains at the end.
    async fn collect_and_train(&self, args: &ChallengeArgs, rows: &mut Vec<Row>) -> Result<Collected> {
        let n_train = args.train_rows.unwrap_or(usize::MAX).min(self.train.questions.len());
        let mut checkpoints: Vec<usize> = args.checkpoints.iter().copied().filter(|n| *n < n_train).collect();
        checkpoints.sort_unstable();
        checkpoints.dedup();
        let subset = self.curve_subset(args).into_iter().map(|i| self.verify.questions[i].clone()).collect::<Vec<_>>();
        let mut collected = Collected::default();
        for checkpoint in checkpoints {
            self.collect(&mut collected, rows, checkpoint).await?;
            if checkpoint > 0 {
                // Too few rows to train on is an honest answer: the point then shows the router that still serves.
                if let Err(error) = self.trainer.train().await {
                    collected.notes.push(format!("Training after {checkpoint} rows failed: {error:#}"));
                }
            }
            let phase = format!("curve-{checkpoint}");
            let verified = self.verify.run(&self.ask(&phase, false), &subset).await?;
            collected.curve.push(CurvePoint { n_rows: checkpoint, rows: verified.clone() });
            rows.extend(verified);
        }
        self.collect(&mut collected, rows, n_train).await?;
        if n_train > 0 {
            let start = Instant::now();
            collected.trained = self.trainer.train().await?;
            collected.train_seconds = Some(start.elapsed().as_secs_f64());
        }
        Ok(collected)
    }

    /// Asks training questions until `n` are collected; more than half failing ends the run.
    async fn collect(&self, collected: &mut Collected, rows: &mut Vec<Row>, n: usize) -> Result<()> {
        let start = Instant::now();
        let ask = Ask { target: &self.training, ..self.ask("train", false) };
        let asked = self.train.run(&ask, &self.train.questions[collected.n_rows..n]).await?;
        collected.seconds += start.elapsed().as_secs_f64();
        collected.n_rows = n;
        let errors: Vec<&String> = asked.iter().filter_map(|row| row.error.as_ref()).collect();
        if let Some(error) = errors.first() {
            let note = format!("{} of {} training questions failed; the first: {error}", errors.len(), asked.len());
            if errors.len() * 2 > asked.len() {
                bail!("{note}");
            }
            collected.notes.push(note);
        }
        rows.extend(asked);
        Ok(())
    }

    /// Asks the verify service for every model's answer to every verify question.
    async fn ask_every_model(&self, args: &ChallengeArgs) -> Result<(Vec<Row>, Outcomes)> {
        let models = self.verify.models().await?;
        if !models.contains(&args.max_model) {
            bail!("--max-model {:?}: the mock has {}", args.max_model, models.join(", "));
        }
        let mut rows = Vec::new();
        let mut table = vec![Vec::new(); self.verify.questions.len()];
        let direct = self.verify.chat();
        for model in &models {
            let ask = Ask { target: &direct, model, ..self.ask("baseline", false) };
            let asked = self.verify.run(&ask, &self.verify.questions).await?;
            if let Some(error) = asked.iter().find_map(|row| row.error.as_ref()) {
                bail!("asking the verify mock directly: {error}");
            }
            for (outcomes, row) in table.iter_mut().zip(&asked) {
                outcomes.push(row.outcome());
            }
            rows.extend(asked);
        }
        let domains = self.verify.questions.iter().map(|question| question.domain.clone()).collect();
        Ok((rows, Outcomes { models, domains, table, weights: args.weights }))
    }

    /// Verify questions of the learning curve, by index: spread evenly over the file.
    fn curve_subset(&self, args: &ChallengeArgs) -> Vec<usize> {
        let n = self.verify.questions.len();
        let wanted = args.curve_questions.clamp(1, n);
        (0..wanted).map(|i| i * n / wanted).collect()
    }

    fn ask(&self, phase: &str, stream: bool) -> Ask<'_> {
        Ask {
            phase: phase.to_string(),
            target: &self.gateway,
            model: &self.model,
            stream,
            concurrency: self.concurrency,
            world: &self.world,
        }
    }
}
