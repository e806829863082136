//! A question to an answer made of the documents' own sentences, each with its place; or to the refusal.
//!
//! No language model takes part. For an answer in a model's words, put the passages before the question with the plugin
//! `ai-rag`.

use super::RagError;
use super::answer::prompt::{Source, refusal};
use super::answer::{Answer, Extraction, extract};
use super::correct::Action;
use super::knowledge_base::KnowledgeBase;
use super::overlap::LexicalScorer;
use super::ports::Score;
use super::retrieve::{Candidate, Found, Search, Steps, Trace};

/// An answer and what it was made of.
#[derive(Debug, Clone)]
pub struct Asked {
    pub answer: Answer,
    /// The passages that the answer's sources count, from 0.
    pub sources: Vec<Candidate>,
    pub action: Option<Action>,
    pub trace: Trace,
}

/// Sentences of an answer at most.
const MAX_SENTENCES: usize = 2;

/// A further sentence must be nearly as good as the best.
const MARGIN: f32 = 0.1;

/// Shared words, weighted by their rarity, that the best sentence must have for an answer where no model judges.
const MIN_OVERLAP: f64 = 0.35;

impl KnowledgeBase {
    /// # Errors
    /// As [`KnowledgeBase::search`], or the scorer fails.
    pub async fn ask(&self, search: &Search) -> Result<Asked, RagError> {
        // An answer is judged where there are thresholds, whatever the search does by itself.
        let judged = Search { steps: Steps { correct: true, ..search.steps }, ..search.clone() };
        let Found { candidates, action, confidence, mut trace, .. } = self.search(&judged).await?;
        let question = &search.query;
        let is_wrong = action.is_some_and(|action| !action.uses_documents());
        if candidates.is_empty() || is_wrong {
            let answer =
                Answer { text: refusal(question).to_owned(), refused: true, sentences: Vec::new(), confidence };
            return Ok(Asked { answer, sources: candidates, action, trace });
        }
        let sources: Vec<Source<'_>> = candidates
            .iter()
            .map(|candidate| Source { title: &candidate.passage.header, text: &candidate.passage.text })
            .collect();
        // A model's judgement of the passages stands, and then a model may choose the sentences. Where there is none, the
        // words decide: a threshold for them means nothing on a model's scale.
        let (scorer, threshold) = match action {
            Some(_) => (self.sentence_scorer(question), f64::NEG_INFINITY),
            None => (&LexicalScorer as &dyn Score, MIN_OVERLAP),
        };
        let extraction = Extraction { threshold, confidence: None, max_sentences: MAX_SENTENCES, margin: MARGIN };
        let extracted = trace.timed("answer", extract(question, &sources, scorer, &extraction)).await;
        let answer = extracted.map_err(RagError::Failed)?;
        let answer = Answer { confidence: confidence.or(answer.confidence), ..answer };
        Ok(Asked { answer, sources: candidates, action, trace })
    }
}
