//! Corrective retrieval (CRAG): grade what was retrieved, decide, refine it, search the web where it does not do.
//!
//! ```text
//! scores of the documents ── decide ──┬─ Correct ───── refine the documents
//!                                     ├─ Ambiguous ─── both, the documents first
//!                                     └─ Incorrect ─── drop them; keywords ── web search ── refine the pages
//! ```
//!
//! The rule is that of the published scripts (arXiv 2401.15884), number for number; thresholds hold for one scorer and
//! one kind of documents, so each knowledge base has its own (`calibrate`). Called by the search pipeline.

pub mod calibrate;
pub mod keywords;
pub mod provider;
pub mod refine;
pub mod synthetic;
pub mod web;

use serde::{Deserialize, Serialize};

/// From which score on a document is right, and under which it is wrong.
///
/// Double precision on purpose: the scripts compare a single-precision score with a double-precision threshold, and the
/// nearest single to -0.995 lies below -0.995.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    pub upper: f64,
    pub lower: f64,
}

impl Thresholds {
    /// As in the published run script for PopQA.
    pub const POPQA: Thresholds = Thresholds { upper: 0.592, lower: -0.995 };
    /// As in the published run script for PubQA (PubHealth).
    pub const PUBQA: Thresholds = Thresholds { upper: 0.5, lower: -0.915 };
    /// As in the paper for the ARC challenge.
    pub const ARC: Thresholds = Thresholds { upper: 0.5, lower: -0.91 };
    /// As in the paper for biographies.
    pub const BIO: Thresholds = Thresholds { upper: 0.95, lower: -0.91 };

    /// # Errors
    /// A threshold is no number, or the lower one is above the upper one.
    pub fn new(upper: f64, lower: f64) -> Result<Self, String> {
        if !upper.is_finite() || !lower.is_finite() {
            return Err(format!("thresholds upper {upper} and lower {lower}: both must be finite numbers"));
        }
        if lower > upper {
            return Err(format!(
                "threshold lower {lower} is above upper {upper}; no document could be ambiguous: swap them, \
                 or run `weirgate rag calibrate`"
            ));
        }
        Ok(Thresholds { upper, lower })
    }

    /// From the arguments of the published script, which negates the lower one: `--lower_threshold 0.995` is -0.995.
    ///
    /// # Errors
    /// As [`Thresholds::new`].
    pub fn from_published_arguments(upper_threshold: f64, lower_threshold: f64) -> Result<Self, String> {
        Self::new(upper_threshold, -lower_threshold)
    }

    pub fn grade(&self, score: f32) -> Grade {
        let score = f64::from(score);
        if score >= self.upper {
            Grade::Correct
        } else if score >= self.lower {
            Grade::Ambiguous
        } else {
            Grade::Incorrect
        }
    }
}

/// One document's grade; as a number 2, 1 or 0, as the scripts print it. What has no number as score is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8")]
#[serde(try_from = "u8")]
pub enum Grade {
    Incorrect = 0,
    Ambiguous = 1,
    Correct = 2,
}

impl From<Grade> for u8 {
    fn from(grade: Grade) -> u8 {
        grade as u8
    }
}

impl TryFrom<u8> for Grade {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Grade::Incorrect),
            1 => Ok(Grade::Ambiguous),
            2 => Ok(Grade::Correct),
            other => Err(format!("grade {other}: it must be 0, 1 or 2")),
        }
    }
}

/// What is done for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Correct,
    Ambiguous,
    Incorrect,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Correct => "correct",
            Action::Ambiguous => "ambiguous",
            Action::Incorrect => "incorrect",
        }
    }

    /// Whether the retrieved documents are refined and used.
    pub fn uses_documents(self) -> bool {
        self != Action::Incorrect
    }

    /// Whether the web is searched, where a search engine is configured.
    pub fn searches_web(self) -> bool {
        self != Action::Correct
    }
}

/// The action for a question and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub action: Action,
    /// One per score, in order.
    pub grades: Vec<Grade>,
    /// The best score; none without documents.
    pub best: Option<f32>,
}

/// The best document decides: one that is right makes the question Correct, else one in between makes it Ambiguous. No
/// document at all is Incorrect.
pub fn decide(scores: &[f32], thresholds: &Thresholds) -> Decision {
    let grades: Vec<Grade> = scores.iter().map(|&score| thresholds.grade(score)).collect();
    let action = match grades.iter().max() {
        Some(Grade::Correct) => Action::Correct,
        Some(Grade::Ambiguous) => Action::Ambiguous,
        Some(Grade::Incorrect) | None => Action::Incorrect,
    };
    let best = scores.iter().copied().filter(|score| !score.is_nan()).max_by(f32::total_cmp);
    Decision { action, grades, best }
}

/// The actions for a file of scores as the published script reads it: `n_documents` lines a question, and an incomplete
/// last question is left out.
pub fn decide_file(scores: &[f32], n_documents: usize, thresholds: &Thresholds) -> Vec<Action> {
    scores.chunks_exact(n_documents.max(1)).map(|group| decide(group, thresholds).action).collect()
}

/// What is handed to the model: the refined documents first, then what the web gave.
pub fn knowledge(action: Action, internal: &str, external: &str) -> String {
    let internal = if action.uses_documents() { internal.trim() } else { "" };
    let external = if action.searches_web() { external.trim() } else { "" };
    if internal.is_empty() || external.is_empty() {
        return format!("{internal}{external}");
    }
    format!("{internal}; {external}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_thresholds_decide_as_published() {
        use Action::{Ambiguous, Correct, Incorrect};
        let popqa = Thresholds::from_published_arguments(0.592, 0.995).unwrap();
        assert_eq!(popqa, Thresholds::POPQA);
        let cases: &[(&Thresholds, &[f32], &[u8], Action)] = &[
            (&popqa, &[0.592, -1.0], &[2, 0], Correct),
            (&popqa, &[0.5919, -0.9949], &[1, 1], Ambiguous),
            (&popqa, &[-0.9951, -1.0, -1.02], &[0, 0, 0], Incorrect),
            (&popqa, &[-1.0, -1.0, 0.1, -1.0], &[0, 0, 1, 0], Ambiguous),
            (&popqa, &[0.2, 0.9, -0.3], &[1, 2, 1], Correct),
            // An empty passage gets -1.0 without the model: wrong on every set.
            (&popqa, &[-1.0; 10], &[0; 10], Incorrect),
            (&Thresholds::PUBQA, &[0.5], &[2], Correct),
            (&Thresholds::PUBQA, &[0.499, -0.92], &[1, 0], Ambiguous),
            (&Thresholds::PUBQA, &[-0.916], &[0], Incorrect),
            (&Thresholds::ARC, &[-0.909], &[1], Ambiguous),
            (&Thresholds::ARC, &[-0.912], &[0], Incorrect),
            (&Thresholds::BIO, &[0.94], &[1], Ambiguous),
            (&Thresholds::BIO, &[0.951], &[2], Correct),
            (&popqa, &[], &[], Incorrect),
            (&popqa, &[f32::NAN], &[0], Incorrect),
        ];
        for (thresholds, scores, grades, action) in cases {
            let decision = decide(scores, thresholds);
            let found: Vec<u8> = decision.grades.into_iter().map(u8::from).collect();
            assert_eq!((found.as_slice(), decision.action), (*grades, *action), "{scores:?} {thresholds:?}");
        }
    }

    #[test]
    fn the_nearest_single_to_the_lower_threshold_is_below_it() {
        // As in the scripts, where the score is widened: f32 -0.995 is -0.99500000477 and not >= -0.995.
        assert_eq!(Thresholds::POPQA.grade(-0.995), Grade::Incorrect);
        assert_eq!(Thresholds::POPQA.grade(0.592), Grade::Correct);
    }

    #[test]
    fn a_file_of_scores_is_read_in_groups() {
        let scores = [0.6, -1.0, -1.0, 0.0, -1.0, -1.0, 0.9];
        let actions = decide_file(&scores, 2, &Thresholds::POPQA);
        assert_eq!(actions, [Action::Correct, Action::Ambiguous, Action::Incorrect]);
        assert_eq!(decide_file(&scores, 0, &Thresholds::POPQA).len(), 7);
    }

    #[test]
    fn the_lower_argument_is_negated_and_checked() {
        assert!(Thresholds::from_published_arguments(0.5, -0.91).unwrap_err().contains("lower 0.91"));
        assert!(Thresholds::new(f64::NAN, 0.0).is_err());
        assert_eq!(Thresholds::new(0.5, 0.5).unwrap().grade(0.5), Grade::Correct);
    }

    #[test]
    fn knowledge_follows_the_action() {
        for (action, expected) in [(Action::Correct, "in"), (Action::Ambiguous, "in; out"), (Action::Incorrect, "out")]
        {
            assert_eq!(knowledge(action, "in", "out"), expected);
        }
        assert_eq!(knowledge(Action::Ambiguous, "", "out"), "out");
        assert_eq!(knowledge(Action::Ambiguous, "in", ""), "in");
    }

    #[test]
    fn the_best_score_is_kept() {
        assert_eq!(decide(&[-0.2, f32::NAN, 0.3], &Thresholds::POPQA).best, Some(0.3));
        assert_eq!(decide(&[], &Thresholds::POPQA).best, None);
    }

    #[test]
    fn grades_are_numbers_in_json() {
        assert_eq!(serde_json::to_string(&[Grade::Correct, Grade::Incorrect]).unwrap(), "[2,0]");
        assert!(serde_json::from_str::<Grade>("3").is_err());
    }
}
