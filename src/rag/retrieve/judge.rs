//! Whether what was found answers the question: CRAG's decision on this knowledge base's own thresholds.

use super::Candidate;
use super::trace::Trace;
use crate::rag::RagError;
use crate::rag::correct::{Action, decide};
use crate::rag::knowledge_base::KnowledgeBase;

/// What was decided, and how sure the evaluator is that the best passage answers, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    pub action: Action,
    pub confidence: f64,
}

/// Passages that are judged; CRAG looks at about ten documents of a question.
pub const DEPTH: usize = 10;

/// Judges the best candidates by the best evaluator that has seen them. `None` where it has no thresholds: the trace says how
/// to get them.
///
/// # Errors
/// The table cannot be read.
pub async fn judge(
    base: &KnowledgeBase,
    candidates: &[Candidate],
    trace: &mut Trace,
) -> Result<Option<Judgement>, RagError> {
    let settings = base.settings().await?;
    let Some(Evaluated { evaluator, scores }) = evaluate(base, candidates) else {
        trace.note(
            "correct: no model has judged these passages, because none reads their language or none is installed",
        );
        return Ok(None);
    };
    let Some(calibration) = settings.calibrations.get(&evaluator) else {
        let name = base.table().name();
        trace.note(format!("correct: there are no thresholds for the evaluator \"{evaluator}\"; `weirgate rag calibrate {name}` finds them"));
        return Ok(None);
    };
    let decision = decide(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>(), &calibration.thresholds());
    let confidence = decision.best.map_or(0.0, |best| calibration.confidence.confidence(best));
    Ok(Some(Judgement { action: decision.action, confidence }))
}

/// The evaluator of a search and its scores of the best candidates: the chance that the last model to rank them gives, else
/// cosines. `None` where neither has seen any.
pub fn evaluate(base: &KnowledgeBase, candidates: &[Candidate]) -> Option<Evaluated> {
    let of = |evaluator: String, score: fn(&Candidate) -> Option<f32>| {
        let seen = candidates.iter().take(DEPTH).enumerate();
        let scores: Vec<(usize, f32)> = seen.filter_map(|(at, candidate)| Some((at, score(candidate)?))).collect();
        (!scores.is_empty()).then_some(Evaluated { evaluator, scores })
    };
    let after_hop = candidates.iter().any(|candidate| candidate.scores.hop.is_some());
    let reranked = base.models.rerank.as_ref().and_then(|reranker| {
        let name = reranker.score.name();
        let evaluator = if after_hop { format!("{name} after the hop") } else { name.to_owned() };
        of(evaluator, |candidate| candidate.scores.rerank.map(|_| candidate.score))
    });
    let hopped = || of(format!("hop over {}", base.table().layout().model), |candidate| candidate.scores.hop);
    let near = || of(format!("cosine of {}", base.table().layout().model), |candidate| candidate.scores.dense);
    reranked.or_else(hopped).or_else(near)
}

/// Scores of one evaluator.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// Thresholds are kept under this name.
    pub evaluator: String,
    /// Place of the candidate in the list, and its score.
    pub scores: Vec<(usize, f32)>,
}
