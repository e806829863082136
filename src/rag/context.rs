//! What of the passages found is sent on: their best sentences within a budget of tokens.

use async_trait::async_trait;

use super::compress::{Compressed, Compression, Ranked, compress};
use super::knowledge_base::KnowledgeBase;
use super::overlap::LexicalScorer;
use super::ports::Score;
use super::retrieve::rerank::log_odds;
use super::retrieve::{Candidate, Trace};
use super::terms::language;

/// What the log odds of a passage are worth beside the logit of its sentence: measured on Natural Questions, where at a third of the tokens an
/// answer string was left for 93.2 % of 250 questions instead of 91.2 % (2 made it 90.0).
const PASSAGE_WEIGHT: f32 = 0.5;

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
                score: candidate.chance().map_or(candidate.score, log_odds),
            })
            .collect();
        let scorer = self.sentence_scorer(question);
        let are_logits = scorer.0.is_some() && candidates.iter().all(|candidate| candidate.chance().is_some());
        let passage_weight = if are_logits { PASSAGE_WEIGHT } else { compression.passage_weight };
        let compression = Compression { passage_weight, ..compression.clone() };
        match trace.timed("compress", compress(question, &passages, &scorer, &compression)).await {
            Ok(compressed) => Some(compressed),
            Err(error) => {
                trace.note(format!("compress: {error}"));
                None
            }
        }
    }

    pub(super) fn sentence_scorer(&self, question: &str) -> SentenceScorer<'_> {
        let reranker = self.models.rerank.as_ref().filter(|reranker| reranker.reads(language(question)));
        SentenceScorer(reranker.map(|reranker| reranker.score.as_ref()))
    }
}

/// Scores sentences: the reranker where it reads the language and can be run, shared words elsewhere.
pub(super) struct SentenceScorer<'a>(Option<&'a dyn Score>);

const WORDS: &LexicalScorer = &LexicalScorer;

#[async_trait]
impl Score for SentenceScorer<'_> {
    fn name(&self) -> &str {
        self.0.map_or(WORDS.name(), Score::name)
    }

    async fn score(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, String> {
        let Some(model) = self.0 else { return WORDS.score(query, texts).await };
        match model.score(query, texts).await {
            Ok(scores) => Ok(scores),
            Err(error) => {
                tracing::debug!(error, "Sentences are judged by their words");
                WORDS.score(query, texts).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::scripted::ScriptedScore;

    #[tokio::test]
    async fn words_judge_where_the_model_cannot_be_run() {
        let broken = ScriptedScore::raw(|_, _| Err("no weights".to_owned()));
        let scores = SentenceScorer(Some(&broken)).score("cats purr", &["cats purr", "dogs"]).await.unwrap();
        assert!(scores[0] > scores[1] && broken.calls() == 1, "{scores:?}");
        let model = ScriptedScore::new(|_, _| 7.0);
        assert_eq!(SentenceScorer(Some(&model)).score("cats", &["dogs"]).await, Ok(vec![7.0]));
        assert_eq!(SentenceScorer(None).name(), "lexical-overlap-1");
    }
}
