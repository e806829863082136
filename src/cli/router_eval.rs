//! `weirgate router eval`: what can be said of a router without calling a model.
//!
//! Domain accuracy of the classifier on labelled questions, also on sources it was not trained on; the time from prompt to
//! decision; how many decisions stay the same when the prompt has typos; and what a sentence embedding adds to any of it
//! (`router_families`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::output::{complain, say_json, table};
use super::{CliError, Places, flywheel, router, router_families};
use crate::learning::learner::serving_router;
use crate::routing::{ColdStart, Decision, Domain, FeatureVector, Prompt, Router, Seed, decide, extract, misspelled};

#[derive(Args)]
pub struct EvalArgs {
    /// Questions to judge on.
    questions: PathBuf,
    /// Train the classifier on these questions instead of using the shipped one.
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Also train without each source in turn and judge on it: the accuracy on text from elsewhere.
    #[arg(long, requires = "train")]
    unseen_sources: bool,
    /// Also compare families of routers that read the sentence embedding with those that do not.
    #[arg(long, requires = "train")]
    embedding: bool,
    /// With `--embedding`: recorded outcomes of a strong and a weak model to compare them on too.
    #[arg(long, value_name = "FILE", requires = "embedding")]
    outcomes: Option<PathBuf>,
    /// The router whose decisions are timed: its candidates come from the configuration folder, its serving version from
    /// the data folder if there is one.
    #[arg(long, default_value = "default")]
    router: String,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long)]
    json: bool,
}

/// A labelled question.
#[derive(Deserialize)]
pub struct Labelled {
    pub question: String,
    pub domain: Domain,
    #[serde(default)]
    lang: String,
    /// `collection:file`.
    #[serde(default)]
    source: String,
}

impl Labelled {
    pub fn features(&self) -> FeatureVector {
        extract(&Prompt::single(&self.question))
    }

    /// Where it comes from: text of one collection is alike.
    pub fn collection(&self) -> &str {
        self.source.split(':').next().unwrap_or_default()
    }
}

/// # Errors
/// The file cannot be read, or a line is no labelled question; with file and line.
pub fn read_labelled(path: &Path) -> Result<Vec<Labelled>, CliError> {
    read_lines(path, "a labelled question")
}

/// # Errors
/// The file cannot be read, or a line is not `what`; with file and line.
pub fn read_lines<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Vec<T>, CliError> {
    let at = |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| at(&error))?;
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| at(&error))?;
        let row =
            serde_json::from_str(&line).map_err(|error| at(&format!("line {}: not {what}: {error}", index + 1)))?;
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(at(&"no questions in it"));
    }
    Ok(rows)
}

pub fn run(places: &Places, args: &EvalArgs) -> Result<(), CliError> {
    let mut training = Vec::new();
    let classifier = match &args.train {
        Some(path) => {
            training = read_labelled(path)?;
            complain(&format!("training on {} questions", training.len()));
            Seed::train(&pairs(&training), args.seed)
        }
        None => Seed::shipped().map_err(CliError::failed)?,
    };
    let rows = read_labelled(&args.questions)?;
    let mut metrics = accuracy(&classifier, &rows);
    // Without a configured router there are no candidates to decide among; accuracy stands alone then.
    match Decider::new(places, &args.router, classifier) {
        Ok(decider) => metrics.extend(decider.measure(&rows, args.seed)),
        Err(error) => complain(&format!("decisions are not measured: {error}")),
    }
    if args.unseen_sources {
        metrics.insert("unseen_source_accuracy".into(), json!(unseen_sources(&training, args.seed)));
    }
    if args.embedding {
        let embedder = router::embedder(places)?;
        let mut rng = Pcg64Mcg::seed_from_u64(args.seed);
        let typos: Vec<String> = rows.iter().map(|row| misspelled(&row.question, &mut rng)).collect();
        complain("embedding the questions; some 20 ms each");
        metrics.extend(router_families::domains(&training, &rows, &typos, &embedder, args.seed)?);
        if let Some(path) = &args.outcomes {
            metrics.extend(router_families::outcomes(path, &embedder, args.seed)?);
        }
    }
    if args.json {
        say_json(&metrics);
        return Ok(());
    }
    let lines = metrics.iter().map(|(name, value)| vec![name.clone(), value.to_string()]);
    table(&std::iter::once(["metric", "value"].map(str::to_owned).to_vec()).chain(lines).collect::<Vec<_>>());
    Ok(())
}

/// What the classifier trains on.
pub fn pairs<'a>(rows: impl IntoIterator<Item = &'a Labelled>) -> Vec<(&'a str, Domain)> {
    rows.into_iter().map(|row| (row.question.as_str(), row.domain)).collect()
}

/// Each source judged by a classifier that was trained on the others.
fn unseen_sources(rows: &[Labelled], seed: u64) -> f64 {
    let sources: BTreeSet<&str> = rows.iter().map(Labelled::collection).collect();
    let right = |source: &&str| {
        let classifier = Seed::train(&pairs(rows.iter().filter(|row| row.collection() != *source)), seed);
        let own = rows.iter().filter(|row| row.collection() == *source);
        own.filter(|row| classifier.top(&row.features()).0 == row.domain).count()
    };
    ratio(sources.iter().map(right).sum(), rows.len())
}

fn accuracy(classifier: &Seed, rows: &[Labelled]) -> Map<String, Value> {
    let judged: Vec<(&Labelled, bool)> =
        rows.iter().map(|row| (row, classifier.top(&row.features()).0 == row.domain)).collect();
    let share = |keep: &dyn Fn(&Labelled) -> bool| {
        let kept: Vec<bool> = judged.iter().filter(|(row, _)| keep(row)).map(|(_, is_right)| *is_right).collect();
        (!kept.is_empty()).then(|| ratio(kept.iter().filter(|is_right| **is_right).count(), kept.len()))
    };
    let mut metrics = Map::new();
    metrics.insert("n_questions".into(), json!(rows.len()));
    metrics.insert("domain_accuracy".into(), json!(share(&|_| true)));
    for domain in Domain::ALL {
        metrics.insert(format!("domain_accuracy_{domain}"), json!(share(&move |row| row.domain == domain)));
    }
    for lang in ["zh", "en"] {
        metrics.insert(format!("domain_accuracy_{lang}"), json!(share(&move |row| row.lang == lang)));
    }
    metrics
}

/// Decides as the plugin does.
struct Decider {
    setup: crate::learning::live::Setup,
    cold_start: ColdStart,
    seed: Seed,
    serving: Option<Router>,
}

impl Decider {
    fn new(places: &Places, name: &str, seed: Seed) -> Result<Decider, CliError> {
        let setup = router::setup(places, name)?;
        let store = flywheel::open(places).ok();
        let serving = store.and_then(|store| serving_router(&store, name).ok().flatten()).map(|(_, router)| router);
        let cold_start = ColdStart::new(&setup.candidates, &setup.baseline);
        Ok(Decider { setup, cold_start, seed, serving })
    }

    fn decide(&self, text: &str) -> Decision {
        let features = extract(&Prompt::single(text));
        let domains = self.seed.classify(&features);
        let predictions = self.cold_start.predict(self.serving.as_ref(), Some(&domains), &features, None);
        decide(&predictions, &self.setup.policy, &self.setup.baseline)
    }

    fn measure(&self, rows: &[Labelled], seed: u64) -> Map<String, Value> {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut n_stable = 0;
        let mut micros = Vec::with_capacity(rows.len());
        for row in rows {
            // Repeated up to the length of a 500-token prompt, so that short questions do not flatter the time.
            let long = row.question.repeat(1 + 2000 / row.question.len().max(1));
            let long = &long[..long.floor_char_boundary(2000)];
            let started = Instant::now();
            std::hint::black_box(self.decide(long));
            micros.push(started.elapsed().as_secs_f64() * 1e6);
            let before = self.decide(&row.question).model;
            n_stable += usize::from(self.decide(&misspelled(&row.question, &mut rng)).model == before);
        }
        micros.sort_by(f64::total_cmp);
        let at = |share: usize| micros[(micros.len() - 1) * share / 100];
        let mut metrics = Map::new();
        metrics.insert("n_candidates".into(), json!(self.setup.candidates.len()));
        metrics.insert("is_trained".into(), json!(u8::from(self.serving.is_some())));
        metrics.insert("decision_us_p50".into(), json!(at(50)));
        metrics.insert("decision_us_p99".into(), json!(at(99)));
        metrics.insert("typo_stability".into(), json!(ratio(n_stable, rows.len())));
        metrics
    }
}

#[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^52")]
pub fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
