//! The best candidates read again beside the question, by a model that sees both.

use std::sync::Arc;

use super::trace::Trace;
use super::{Candidate, sort};
use crate::infer::Blends;
use crate::rag::ingest::passage_text;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::ports::{Score, scores_of};
use crate::rag::terms::{Language, language};

/// A model that says how well a passage answers a question, and the languages in which its scores mean anything. Rankings in
/// others are left as they are.
#[derive(Clone)]
pub struct Reranker {
    pub score: Arc<dyn Score>,
    pub languages: Vec<Language>,
    pub blends: Blends,
}

impl Reranker {
    pub fn reads(&self, language: Language) -> bool {
        self.languages.contains(&language)
    }

    /// How likely it is that the passage answers, from 0 to 1.
    fn chance(&self, logit: f32, candidate: &Candidate, several: f32) -> f32 {
        let Blends { after_hop, after_hop_several, after_fusion } = &self.blends;
        match candidate.scores.hop {
            Some(chance) => after_hop.towards(*after_hop_several, several).chance(logit, log_odds(chance)),
            None => after_fusion.chance(logit, candidate.score),
        }
    }
}

/// Candidates that are read again; the rest keep their order behind them.
pub const DEPTH: usize = 30;

/// The best candidates in the order of the model and of the steps before it together. `several` is how much the question looks like one
/// that needs several passages, where the hop has seen it. Without the model the order stays, and the trace says why.
pub async fn rerank(
    base: &KnowledgeBase,
    query: &str,
    several: Option<f32>,
    mut candidates: Vec<Candidate>,
    trace: &mut Trace,
) -> Vec<Candidate> {
    let Some(model) = base.models.rerank.as_ref().filter(|model| model.reads(language(query))) else {
        trace.note("rerank: no model that reads this language is installed; the order stays");
        return candidates;
    };
    let n_read = candidates.len().min(DEPTH);
    let read = candidates.iter().take(n_read);
    let passages: Vec<String> = read.map(|c| passage_text(&c.passage.header, &c.passage.text)).collect();
    let passages: Vec<&str> = passages.iter().map(String::as_str).collect();
    match trace.timed("rerank", scores_of(model.score.as_ref(), query, &passages)).await {
        Ok(logits) => {
            let behind = candidates.split_off(n_read);
            for (candidate, logit) in candidates.iter_mut().zip(logits) {
                candidate.scores.rerank = Some(logit);
                candidate.score = model.chance(logit, candidate, several.unwrap_or_default());
            }
            sort(&mut candidates);
            let lowest = candidates.last().map_or(0.0, |candidate| candidate.score);
            candidates.extend(behind.into_iter().zip(1u16..).map(|(mut candidate, place)| {
                candidate.score = lowest / (1.0 + f32::from(place));
                candidate
            }));
        }
        Err(error) => trace.note(&error),
    }
    trace.count(candidates.len());
    candidates
}

/// A chance on the scale on which evidence adds up.
pub fn log_odds(chance: f32) -> f32 {
    let chance = chance.clamp(1e-6, 1.0 - 1e-6);
    (chance / (1.0 - chance)).ln()
}

#[cfg(test)]
#[path = "rerank_tests.rs"]
mod tests;
