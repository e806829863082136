//! `weirgate-eval rag-judge`: how far a judge agrees with labels. Answers that carry a category already are compared as they are.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Category, Grading, Judge, JudgeOptions};
use crate::print_line;
use crate::rag::progress_bar;
use crate::rag::resample::interval;
use crate::rag::set::read_json_lines;
use crate::run_folder::RunFolder;
use crate::stats::mean;

#[derive(Args)]
pub struct JudgeArgs {
    /// JSON lines with `id`, `question`, `reference` (or `answers`), `answer`; with `category`, the judge is not asked
    #[arg(long)]
    answers: PathBuf,
    /// JSON lines with `id` and `category`, A to E
    #[arg(long)]
    labels: PathBuf,
    #[command(flatten)]
    judge: JudgeOptions,
    /// Last part of the run folder's name
    #[arg(long, default_value = "rag-judge")]
    name: String,
    #[arg(long, default_value = "eval/runs")]
    out: PathBuf,
}

#[derive(Deserialize)]
struct AnswerLine {
    id: String,
    #[serde(default)]
    question: String,
    #[serde(default)]
    reference: String,
    #[serde(default)]
    answers: Vec<String>,
    #[serde(default)]
    answer: String,
    category: Option<Category>,
}

#[derive(Deserialize)]
struct LabelLine {
    id: String,
    category: Category,
}

#[derive(Serialize)]
struct Compared {
    id: String,
    label: Category,
    grading: Grading,
}

pub async fn run(args: JudgeArgs) -> Result<()> {
    let judge = Judge::new(&args.judge)?;
    let answers: Vec<AnswerLine> = read_json_lines(&args.answers).context("--answers")?;
    let labels: Vec<LabelLine> = read_json_lines(&args.labels).context("--labels")?;
    let labels: HashMap<String, Category> = labels.into_iter().map(|line| (line.id, line.category)).collect();
    let folder = RunFolder::create(&args.out, &args.name)?;
    let compared = compare(&answers, &labels, judge.as_ref()).await?;
    let agreement = Agreement::of(&compared);
    folder.write_summary(&agreement.metrics())?;
    folder.write_rows("raw.jsonl.gz", &compared)?;
    folder.write("report.md", agreement.report(&folder.provenance_line(), answers.len())?)?;
    print_line(&format!("{}\n{}", folder.path.display(), agreement.headline()))
}

/// Grades of every answer that has a label.
async fn compare(
    answers: &[AnswerLine],
    labels: &HashMap<String, Category>,
    judge: Option<&Judge>,
) -> Result<Vec<Compared>> {
    let mut compared = Vec::new();
    let bar = progress_bar("rag-judge", answers.len());
    for line in answers {
        bar.inc(1);
        let Some(label) = labels.get(&line.id) else { continue };
        let grading = match (line.category, judge) {
            (Some(category), _) => Grading { category: Some(category), ..Grading::default() },
            (None, Some(judge)) => {
                let joined = line.answers.join(" / ");
                let reference = if line.reference.is_empty() { &joined } else { &line.reference };
                judge.grade(&line.question, reference, &line.answer).await
            }
            (None, None) => bail!("--answers: {:?} has no category, and there is no --judge-url to ask", line.id),
        };
        compared.push(Compared { id: line.id.clone(), label: *label, grading });
    }
    bar.finish_and_clear();
    if compared.is_empty() {
        bail!("no id stands in both --answers and --labels");
    }
    Ok(compared)
}

/// The judge beside the labels.
struct Agreement {
    /// Label and judge's category of everything that could be graded.
    pairs: Vec<(Category, Category)>,
    n_errors: usize,
}

impl Agreement {
    fn of(compared: &[Compared]) -> Agreement {
        let pairs: Vec<(Category, Category)> =
            compared.iter().filter_map(|line| Some((line.label, line.grading.category?))).collect();
        Agreement { n_errors: compared.len() - pairs.len(), pairs }
    }

    fn agreed(&self) -> Vec<f64> {
        self.pairs.iter().map(|(label, grade)| f64::from(label == grade)).collect()
    }

    /// Agreement beyond chance: (observed − expected) / (1 − expected); 1 where both always say the same one thing.
    fn kappa<K: PartialEq + Copy>(&self, view: impl Fn(Category) -> K, classes: &[K]) -> f64 {
        let n = self.pairs.len().max(1) as f64;
        let share =
            |is: &dyn Fn(&(Category, Category)) -> bool| self.pairs.iter().filter(|pair| is(pair)).count() as f64 / n;
        let observed = share(&|(label, grade)| view(*label) == view(*grade));
        let expected: f64 = classes
            .iter()
            .map(|class| share(&|(label, _)| view(*label) == *class) * share(&|(_, grade)| view(*grade) == *class))
            .sum();
        if expected >= 1.0 { 1.0 } else { (observed - expected) / (1.0 - expected) }
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        let passes = |category: Category| category.score() > 0.0;
        let agreement = interval(&self.agreed());
        let metrics = [
            ("n", self.pairs.len() as f64),
            ("errors", self.n_errors as f64),
            ("agreement", mean(self.agreed())),
            ("agreement_low", agreement.low),
            ("agreement_high", agreement.high),
            ("kappa", self.kappa(|category| category, &Category::ALL)),
            (
                "pass_agreement",
                mean(self.pairs.iter().map(|(label, grade)| f64::from(passes(*label) == passes(*grade)))),
            ),
            ("pass_kappa", self.kappa(passes, &[true, false])),
        ];
        metrics.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    fn headline(&self) -> String {
        let metrics = self.metrics();
        format!(
            "judge and labels agree on {:.1} % of {} answers (95 % {:.1}–{:.1}), kappa {:.3}; pass or fail: {:.1} %, kappa {:.3}; {} \
             not graded",
            metrics["agreement"] * 100.0,
            self.pairs.len(),
            metrics["agreement_low"] * 100.0,
            metrics["agreement_high"] * 100.0,
            metrics["kappa"],
            metrics["pass_agreement"] * 100.0,
            metrics["pass_kappa"],
            self.n_errors,
        )
    }

    fn report(&self, provenance: &str, n_answers: usize) -> Result<String> {
        let mut text = format!("# A judge beside labels\n\n{provenance}\n{}.\n\n", self.headline());
        let n_without = n_answers.saturating_sub(self.pairs.len() + self.n_errors);
        if n_without > 0 {
            writeln!(text, "{n_without} answers have no label and were left out.\n")?;
        }
        writeln!(
            text,
            "| label \\ judge | {} |\n|---|--:|--:|--:|--:|--:|",
            Category::ALL.map(Category::title).join(" | ")
        )?;
        for label in Category::ALL {
            let count = |grade: Category| self.pairs.iter().filter(|pair| **pair == (label, grade)).count().to_string();
            writeln!(text, "| {} | {} |", label.title(), Category::ALL.map(count).join(" | "))?;
        }
        writeln!(
            text,
            "\n*Pass* is every class but D. *Kappa* is Cohen's: agreement beyond what the two would reach by chance with the same \
             class shares. Replies that could not be read are errors and stand in no cell."
        )?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::judge::tests::{judge_of, serve};
    use Category::{A, B, C, D};

    #[test]
    fn kappa_by_hand() {
        // Labels A A B B, grades A B B B: observed 0.75, expected 0.5 · 0.25 + 0.5 · 0.75 = 0.5, kappa 0.5.
        for (pairs, expected) in [
            (vec![(A, A), (A, B), (B, B), (B, B)], 0.5),
            (vec![(A, A), (D, D)], 1.0),
            (vec![(C, C), (C, C)], 1.0),
            (vec![(A, B), (B, A)], -1.0),
        ] {
            let agreement = Agreement { pairs, n_errors: 0 };
            assert!((agreement.kappa(|category| category, &Category::ALL) - expected).abs() < 1e-12);
        }
    }

    #[tokio::test]
    async fn a_scripted_judge_is_compared_with_labels() {
        let (script, server) = serve(&["(A)", "(D)", "?"]).await;
        let line = |id: &str, category| AnswerLine {
            id: id.into(),
            question: "q".into(),
            reference: String::new(),
            answers: vec!["x".into()],
            answer: "y".into(),
            category,
        };
        let answers = [line("1", None), line("2", None), line("3", None), line("4", Some(C)), line("unlabelled", None)];
        let labels = HashMap::from([("1", A), ("2", C), ("3", A), ("4", C)].map(|(id, label)| (id.to_string(), label)));
        let judge = judge_of(&server, 1);
        let agreement = Agreement::of(&compare(&answers, &labels, Some(&judge)).await.unwrap());
        assert_eq!(script.requests.lock().len(), 3);
        let metrics = agreement.metrics();
        assert_eq!((metrics["n"], metrics["errors"]), (3.0, 1.0));
        assert!((metrics["agreement"] - 2.0 / 3.0).abs() < 1e-12);
        let report = agreement.report("", answers.len()).unwrap();
        assert!(report.contains("| C same | 0 | 0 | 1 | 1 | 0 |") && report.contains("1 answers have no label"));
        assert!(compare(&answers[..1], &labels, None).await.is_err());
    }
}
