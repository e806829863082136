//! `weirgate rag calibrate`: thresholds of the evaluator for one knowledge base, from labelled questions.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::CliError;
use super::output::{say, say_json};
use crate::rag::correct::calibrate::{Calibration, Goal, Threshold, UpperGoal, calibrate};
use crate::rag::knowledge_base::Rag;
use crate::rag::retrieve::judge::{self, Evaluated};
use crate::rag::retrieve::{Search, Steps};
use crate::rag::store::Filter;

/// A line of the file of questions.
#[derive(Deserialize)]
struct Question {
    id: String,
    #[serde(alias = "query")]
    question: String,
}

/// What was asked for on the command line.
pub struct Labelled<'a> {
    pub base: &'a str,
    /// JSONL with `id` and `question`.
    pub queries: &'a Path,
    /// Lines of question id, document id and score, separated by tabs; above 0 is relevant.
    pub qrels: &'a Path,
    /// Share of those judged Correct that are to be relevant.
    pub precision: f64,
    /// Share of the relevant ones that may be judged Incorrect.
    pub max_lost: f64,
}

pub async fn run(rag: &Rag, labelled: &Labelled<'_>, json: bool) -> Result<(), CliError> {
    let base = rag.base(labelled.base).await.map_err(CliError::failed)?;
    let relevant = relevant(labelled.qrels)?;
    let mut pairs: BTreeMap<String, Vec<(f32, bool)>> = BTreeMap::new();
    // A search that reranks is judged by another model, with thresholds of its own.
    let asked = questions(labelled.queries)?;
    for (question, rerank) in asked.iter().flat_map(|question| [(question, false), (question, true)]) {
        let search = Search {
            query: question.question.clone(),
            top_k: judge::DEPTH,
            filter: Filter::everything(),
            steps: Steps { rerank, ..Steps::default() },
            ..Search::default()
        };
        let found = base.search(&search).await.map_err(CliError::failed)?;
        let is_reranked = found.candidates.iter().any(|candidate| candidate.scores.rerank.is_some());
        let Some(Evaluated { evaluator, scores }) =
            judge::evaluate(&base, &found.candidates).filter(|_| is_reranked == rerank)
        else {
            continue;
        };
        let pairs = pairs.entry(evaluator).or_default();
        for (place, score) in scores {
            let document = found.candidates.get(place).map_or("", |candidate| &candidate.passage.document);
            pairs.push((score, relevant.contains(&(question.id.clone(), document.to_owned()))));
        }
    }
    if pairs.is_empty() {
        let what = "no model has judged any passage: thresholds need the embedding model or a reranker that reads these questions";
        return Err(CliError::Failed(what.to_owned()));
    }
    let goal = Goal { upper: UpperGoal::Precision(labelled.precision), max_lost: labelled.max_lost };
    let (mut found, mut failed) = (BTreeMap::new(), Vec::new());
    for (evaluator, pairs) in pairs {
        match calibrate(&pairs, &goal) {
            Ok(calibration) => _ = found.insert(evaluator, calibration),
            Err(error) => failed.push(format!("{evaluator}: {error}")),
        }
    }
    if json {
        say_json(&found);
    } else {
        found.iter().for_each(|(evaluator, calibration)| show(evaluator, calibration));
    }
    if !found.is_empty() {
        let mut settings = base.settings().await.map_err(CliError::failed)?;
        settings.calibrations.extend(found);
        base.set_settings(&settings).await.map_err(CliError::failed)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(CliError::Failed(failed.join("\n"))) }
}

fn show(evaluator: &str, calibration: &Calibration) {
    let Calibration { n_relevant, n_irrelevant, auc, balanced_accuracy, .. } = calibration;
    say(&format!(
        "{evaluator}: {n_relevant} relevant and {n_irrelevant} irrelevant pairs, ROC-AUC {auc:.3}, balanced accuracy {:.1} %",
        balanced_accuracy * 100.0
    ));
    let line = |name: &str, threshold: &Threshold| {
        let Threshold { value, precision, recall, false_positive_rate, false_negative_rate } = threshold;
        say(&format!(
            "  {name} {value:.4}: {:.1} % of those above are relevant, {:.1} % of the relevant are above; called relevant in error {:.1} %, missed {:.1} %",
            precision * 100.0,
            recall * 100.0,
            false_positive_rate * 100.0,
            false_negative_rate * 100.0
        ));
    };
    line("correct from  ", &calibration.upper);
    line("incorrect below", &calibration.lower);
    if !calibration.upper_goal_reached {
        say("  no threshold is as precise as was asked for; this is the most precise one");
    }
}

fn questions(path: &Path) -> Result<Vec<Question>, CliError> {
    let text = read(path)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let parsed = lines.map(|(line, n)| {
        let error = |error| {
            CliError::Usage(format!(
                "{}, line {n}: {error}; each line is {{\"id\": …, \"question\": …}}",
                path.display()
            ))
        };
        serde_json::from_str(line).map_err(error)
    });
    parsed.collect()
}

/// Pairs of question and document that belong together.
fn relevant(path: &Path) -> Result<HashSet<(String, String)>, CliError> {
    let text = read(path)?;
    let mut relevant = HashSet::new();
    for (line, n) in text.lines().zip(1..) {
        let fields: Vec<&str> = line.split('\t').collect();
        let error = || {
            CliError::Usage(format!(
                "{}, line {n}: \"{line}\" is not `question<tab>document<tab>score`",
                path.display()
            ))
        };
        let [question, document, score] = fields.as_slice() else { return Err(error()) };
        match score.trim().parse::<f64>() {
            Ok(score) if score > 0.0 => drop(relevant.insert(((*question).to_owned(), (*document).to_owned()))),
            Ok(_) => {}
            // The head of the file.
            Err(_) if n == 1 => {}
            Err(_) => return Err(error()),
        }
    }
    Ok(relevant)
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))
}
