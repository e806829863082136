//! `weirgate-eval challenge`: the routing challenge's protocol against any OpenAI-compatible gateway.
//!
//! Training questions in training mode, training, then each verify question once; scores only from the verify service's
//! `/v1/evaluate`. Afterwards every model is asked directly, for the policies the gateway is compared with (`outcomes`).

mod charts;
mod chat;
mod doubts;
mod outcomes;
mod protocol;
mod report;
mod result;
#[cfg(test)]
mod tests;
mod trainer;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::header::{AUTHORIZATION, HeaderValue};

use crate::http::{Client, parse_header, parse_url};
use crate::mock::world::World;
use crate::mock::{self, questions};
use crate::print_line;
use crate::run_folder::RunFolder;
use chat::ChatClient;
use outcomes::{Outcomes, Weights};
use protocol::{Ask, Row, Service};
use result::{Challenge, CurvePoint, VerifyCalls};
use trainer::Trainer;

#[derive(Args)]
pub struct ChallengeArgs {
    /// The gateway, without /v1
    #[arg(long, value_parser = parse_url)]
    gateway: String,
    /// Train service of the mock
    #[arg(long, default_value_t = format!("http://127.0.0.1:{}", mock::TRAIN_PORT), value_parser = parse_url)]
    train_mock: String,
    /// Verify service of the mock
    #[arg(long, default_value_t = format!("http://127.0.0.1:{}", mock::VERIFY_PORT), value_parser = parse_url)]
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
    /// Longest wait for the answer to one question
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_secs: u64,
    /// After collecting: POST here, and expect 2xx when the new router serves
    #[arg(long, value_parser = parse_url)]
    train_url: Option<String>,
    /// Bearer token for --train-url and --ready-url
    #[arg(long)]
    train_token: Option<String>,
    /// After collecting: run this shell command
    #[arg(long)]
    train_command: Option<String>,
    /// After triggering the training: wait until a GET here answers 200
    #[arg(long, value_parser = parse_url)]
    ready_url: Option<String>,
    /// Longest wait for one training: command, POST and readiness together
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
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

/// Names of the phases in notes and errors.
const VERIFY_QUESTIONS: &str = "verify questions";
const STREAMED_QUESTIONS: &str = "streamed questions";

/// Runs the protocol, writes the run folder and prints its path and the summary line.
pub async fn run(args: ChallengeArgs) -> Result<()> {
    let folder = RunFolder::create(&args.out, &args.name)?;
    let challenge = measure(&args).await?;
    report::write(&folder, &challenge)?;
    print_line(&format!("{}\n{}", folder.path.display(), report::headline(&challenge)))?;
    for (what, rows) in [(VERIFY_QUESTIONS, &challenge.verified), (STREAMED_QUESTIONS, &challenge.streamed)] {
        if let Some(failures) = doubts::failures(what, rows).filter(|_| doubts::is_mostly_failed(rows)) {
            bail!("{failures}");
        }
    }
    Ok(())
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

    let mut notes = bench.notes.clone();
    notes.extend(collected.notes);
    for (what, rows) in [(VERIFY_QUESTIONS, &verified), (STREAMED_QUESTIONS, &streamed)] {
        notes.extend(doubts::failures(what, rows));
        notes.extend(doubts::unpriced(what, rows, &bench.world));
    }
    notes.extend(
        doubts::unpriced("answers of the models themselves", &baseline_rows, &bench.world)
            .map(|unpriced| format!("{unpriced} The policies to compare with are chosen by score and latency alone.")),
    );
    rows.extend(baseline_rows);
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
    /// Of the verify service.
    models: Vec<String>,
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
        let client = Client::new().with_timeout(Duration::from_secs(args.timeout_secs));
        let mut labels = HashMap::new();
        for file in &args.labels {
            let questions = questions::load(file).context("--labels")?;
            labels.extend(questions.into_iter().map(|q| (q.question.trim().to_string(), q.domain)));
        }
        let train = Service::connect(client.clone(), &args.train_mock, &labels).await?;
        let verify = Service::connect(client.clone(), &args.verify_mock, &labels).await?;
        let models = verify.models().await?;
        if !models.contains(&args.max_model) {
            bail!("--max-model {:?}: the mock has {}", args.max_model, models.join(", "));
        }
        let mut notes = Vec::new();
        let n_unlabelled = verify.questions.iter().filter(|q| q.domain.is_empty()).count();
        if n_unlabelled > 0 {
            notes.push(format!(
                "{n_unlabelled} of {} verify questions have no label: the domain ceiling is left out, and what is told by domain is \
                 that of the others. Name their file with --labels.",
                verify.questions.len()
            ));
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
            models,
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
            // What was asked of the gateway is there and need not be asked again; only this run's own answers are lost.
            collected.trained = self.trainer.train().await.with_context(|| {
                format!(
                    "training after {n_train} collected rows. The gateway has them: train it by hand, then measure it with \
                     --train-rows 0; this command again would ask all training questions once more"
                )
            })?;
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
        if let Some(failures) = doubts::failures("training questions", &asked) {
            if doubts::is_mostly_failed(&asked) {
                bail!("{failures}");
            }
            collected.notes.push(failures);
        }
        rows.extend(asked);
        Ok(())
    }

    /// Asks the verify service for every model's answer to every verify question.
    async fn ask_every_model(&self, args: &ChallengeArgs) -> Result<(Vec<Row>, Outcomes)> {
        let mut rows: Vec<Row> = Vec::new();
        let mut table = vec![Vec::new(); self.verify.questions.len()];
        let direct = self.verify.chat();
        for model in &self.models {
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
        let is_priced = rows.iter().all(|row| row.cost.is_some());
        // A cost that is known of some answers only would favour the others.
        let weights = if is_priced { args.weights } else { Weights { cost: 0.0, ..args.weights } };
        Ok((rows, Outcomes { models: self.models.clone(), domains, table, weights, is_priced }))
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
