//! `weirgate rag calibrate`: thresholds of the evaluator for one knowledge base, from labelled questions or from
//! questions that are made from its passages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::CliError;
use super::output::{complain, say, say_json};
use crate::rag::correct::calibrate::{Calibration, Goal, Threshold, UpperGoal, calibrate};
use crate::rag::correct::synthetic::question;
use crate::rag::knowledge_base::{KnowledgeBase, Rag};
use crate::rag::retrieve::judge::{self, Evaluated};
use crate::rag::retrieve::{Search, Steps};
use crate::rag::store::{Filter, Passage};

/// A line of the file of questions.
#[derive(Deserialize)]
struct Question {
    id: String,
    #[serde(alias = "query")]
    question: String,
}

/// What was asked for on the command line.
pub struct Wanted<'a> {
    pub base: &'a str,
    pub questions: Questions<'a>,
    /// Share of those judged Correct that are to be relevant.
    pub precision: f64,
    /// Share of the relevant ones that may be judged Incorrect.
    pub max_lost: f64,
}

/// Where the questions come from.
pub enum Questions<'a> {
    Labelled {
        /// JSONL with `id` and `question`.
        queries: &'a Path,
        /// Lines of question id, document id and score, separated by tabs; above 0 is relevant.
        qrels: &'a Path,
    },
    /// So many, made from passages of the base.
    Synthetic(usize),
}

/// A question and what is known of its answers.
struct Asked {
    question: String,
    answers: Answers,
}

enum Answers {
    /// Documents that answer; others do not.
    Documents(HashSet<String>),
    /// The passage that it was made from. Of the same document others may answer as well.
    Passage { id: String, document: String },
}

impl Answers {
    /// Whether a passage answers; `None` if that is not known.
    fn has(&self, passage: &Passage) -> Option<bool> {
        match self {
            Answers::Documents(documents) => Some(documents.contains(&passage.document)),
            Answers::Passage { id, document } => {
                (passage.id == *id || passage.document != *document).then_some(passage.id == *id)
            }
        }
    }
}

pub async fn run(rag: &Rag, wanted: &Wanted<'_>, json: bool) -> Result<(), CliError> {
    let base = rag.base(wanted.base).await.map_err(CliError::failed)?;
    let asked = match &wanted.questions {
        Questions::Labelled { queries, qrels } => labelled(queries, qrels)?,
        Questions::Synthetic(n) => synthetic(&base, *n).await?,
    };
    let mut pairs: BTreeMap<String, Vec<(f32, bool)>> = BTreeMap::new();
    // A search that reranks is judged by another model, with thresholds of its own.
    for (asked, rerank) in asked.iter().flat_map(|asked| [(asked, false), (asked, true)]) {
        let search = Search {
            query: asked.question.clone(),
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
        let passage = |place: usize| Some(&found.candidates.get(place)?.passage);
        let judged = scores.iter().filter_map(|(place, score)| Some((*score, asked.answers.has(passage(*place)?)?)));
        pairs.entry(evaluator).or_default().extend(judged);
    }
    if pairs.is_empty() {
        let what = "no model has judged any passage: thresholds need the embedding model or a reranker that reads these questions";
        return Err(CliError::Failed(what.to_owned()));
    }
    let goal = Goal { upper: UpperGoal::Precision(wanted.precision), max_lost: wanted.max_lost };
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

/// The questions of the files.
fn labelled(queries: &Path, qrels: &Path) -> Result<Vec<Asked>, CliError> {
    let mut relevant = relevant(qrels)?;
    let asked = questions(queries)?.into_iter().map(|Question { id, question }| Asked {
        question,
        answers: Answers::Documents(relevant.remove(&id).unwrap_or_default()),
    });
    Ok(asked.collect())
}

/// Questions made from `n` passages, evenly over the base.
async fn synthetic(base: &KnowledgeBase, n: usize) -> Result<Vec<Asked>, CliError> {
    if base.model().is_none() {
        complain(
            "no language model is configured ([rag] model): the questions are made of the passages' own words, and real ones find less",
        );
    }
    let mut asked = Vec::new();
    for passage in base.table().sample(n).await.map_err(CliError::failed)? {
        if let Some(question) = question(&passage, base.model()).await {
            asked.push(Asked { question, answers: Answers::Passage { id: passage.id, document: passage.document } });
        }
    }
    Ok(asked)
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

/// By question, the documents that answer it.
fn relevant(path: &Path) -> Result<HashMap<String, HashSet<String>>, CliError> {
    let text = read(path)?;
    let mut relevant: HashMap<String, HashSet<String>> = HashMap::new();
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
            Ok(score) if score > 0.0 => {
                relevant.entry((*question).to_owned()).or_default().insert((*document).to_owned());
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::knowledge_base::NewBase;
    use crate::rag::testing::{document, rag};

    fn wanted(questions: Questions<'_>) -> Wanted<'_> {
        Wanted { base: "towns", questions, precision: 0.9, max_lost: 0.05 }
    }

    /// Forty towns, each with words of its own.
    async fn towns() -> (tempfile::TempDir, Rag) {
        let (dir, rag, _) = rag();
        let base = rag.create("towns", &NewBase::default()).await.unwrap();
        let documents = (0..40).map(|n| {
            let text = format!(
                "Town{n}a lies on river{n}b near the mountain{n}c and was founded by Duke{n}d Karl in {}.",
                1300 + n
            );
            document(&format!("t{n}"), &format!("Town{n}a"), &text)
        });
        base.ingest(documents.collect(), &|_| {}).await.unwrap();
        (dir, rag)
    }

    #[tokio::test]
    async fn questions_made_of_the_passages_give_thresholds() {
        let (_dir, rag) = towns().await;
        run(&rag, &wanted(Questions::Synthetic(40)), true).await.unwrap();
        let calibrations = rag.base("towns").await.unwrap().settings().await.unwrap().calibrations;
        let calibration = &calibrations["hop over word-counts"];
        assert!(calibration.n_relevant >= 35 && calibration.auc > 0.9, "{calibration:?}");
    }

    #[tokio::test]
    async fn too_few_passages_are_an_error_that_says_so() {
        let (_dir, rag) = towns().await;
        let error = run(&rag, &wanted(Questions::Synthetic(5)), true).await.unwrap_err().to_string();
        assert!(error.contains("at least 20 relevant"), "{error}");
    }

    #[test]
    fn other_passages_of_the_same_document_are_not_judged() {
        let passage =
            |id: &str, document: &str| Passage { id: id.into(), document: document.into(), ..Passage::default() };
        let own = Answers::Passage { id: "d#1".into(), document: "d".into() };
        let of = |id: &str, document: &str| own.has(&passage(id, document));
        assert_eq!((of("d#1", "d"), of("d#2", "d"), of("e#1", "e")), (Some(true), None, Some(false)));
    }
}
