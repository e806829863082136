//! What of the passages found is sent on: their best sentences within a budget of tokens.

use super::compress::{Compressed, Compression, Ranked, compress};
use super::knowledge_base::KnowledgeBase;
use super::overlap::LexicalScorer;
use super::ports::Score;
use super::retrieve::{Candidate, Trace};
use super::terms::language;

impl KnowledgeBase {
    /// The sentences that answer, of these passages. Without them, where scoring fails, the trace says why.
    pub async fn compress(
        &self,
        question: &str,
        candidates: &[Candidate],
        compression: &Compression,
        trace: &mut Trace,
    ) -> Option<Compressed> {
        let passages: Vec<Ranked<'_>> = candidates
            .iter()
            .map(|candidate| Ranked {
                document: &candidate.passage.document,
                chunk: &candidate.passage.id,
                header: &candidate.passage.header,
                text: &candidate.passage.text,
                score: candidate.score,
            })
            .collect();
        let scorer = self.sentence_scorer(question);
        match trace.timed("compress", compress(question, &passages, scorer, compression)).await {
            Ok(compressed) => Some(compressed),
            Err(error) => {
                trace.note(format!("compress: {error}"));
                None
            }
        }
    }

    /// Scores sentences: the reranker where it reads the language, shared words elsewhere.
    pub(super) fn sentence_scorer(&self, question: &str) -> &dyn Score {
        match &self.models.rerank {
            Some(reranker) if reranker.reads(language(question)) => reranker.score.as_ref(),
            _ => &LexicalScorer,
        }
    }
}
