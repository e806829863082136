//! From what was asked to passages: the question made to stand alone, further queries for it, their lists as one.

use std::collections::HashSet;

use super::Ask;
use crate::rag::RagError;
use crate::rag::expand::feedback::{Feedback, FeedbackPassage, relevance_model};
use crate::rag::expand::{hypothetical, standalone, sub_questions, variants};
use crate::rag::ingest::passage_text;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::ports::Complete;
use crate::rag::retrieve::judge::judge;
use crate::rag::retrieve::rerank::rerank;
use crate::rag::retrieve::{Candidate, Found, Search, Steps, Trace};
use crate::rag::terms::{query_terms, terms};

/// Questions that a question is split into at most.
const MAX_PARTS: usize = 4;

/// Passages of each list that count when several become one.
const DEPTH: usize = 100;

/// As published for reciprocal rank fusion; the place in a list counts for little beyond the first ten.
const RANK_CONSTANT: f32 = 60.0;

/// Passages that a relevance model believes in, and what tells their words from everybody's: the rest of the list.
const BELIEVED: usize = 10;

impl KnowledgeBase {
    /// The question that was searched for, and what was found.
    ///
    /// # Errors
    /// As [`KnowledgeBase::search`]. A model that fails is a note in the trace.
    pub async fn find(&self, ask: &Ask) -> Result<(String, Found), RagError> {
        let model = self.outside.model.as_deref();
        let mut trace = Trace::begin();
        let mut question = ask.search.query.clone();
        if ask.steps.rewrite && !ask.turns.is_empty() {
            let rewritten = trace.timed("rewrite", standalone(&question, &ask.turns, model)).await;
            rewritten.note.iter().for_each(|note| trace.note(note));
            question = rewritten.query;
        }
        let search = Search { query: question.clone(), ..ask.search.clone() };
        let found = if ask.steps.is_single_search() {
            let found = self.search(&search).await?;
            trace.take_in(&found.trace);
            Found { trace: trace.end(), ..found }
        } else {
            self.find_by_several(ask, &search, model, trace).await?
        };
        Ok((question, found))
    }

    async fn find_by_several(
        &self,
        ask: &Ask,
        search: &Search,
        model: Option<&dyn Complete>,
        mut trace: Trace,
    ) -> Result<Found, RagError> {
        let question = &search.query;
        // What is done with the whole is done once, when there is one list.
        let steps = Steps { rerank: false, correct: false, compress: false, ..search.steps };
        let one = Search { top_k: DEPTH, threshold: None, steps, ..search.clone() };
        let mut searches = vec![one.clone()];
        for query in queries(question, ask, model, &mut trace).await {
            searches.push(Search { query, ..one.clone() });
        }
        let (mut lists, mut several) = (Vec::new(), None);
        for search in &searches {
            let found = self.search(search).await?;
            trace.take_in(&found.trace);
            // The question's own, which comes first.
            several = several.or(found.several);
            lists.push(found.candidates);
        }
        // On the scale of a search; that of a list merged from several is of ranks.
        let is_over = |candidate: &Candidate| search.threshold.is_none_or(|threshold| candidate.score >= threshold);
        let mut over: HashSet<String> =
            lists.iter().flatten().filter(|candidate| is_over(candidate)).map(|one| one.passage.id.clone()).collect();
        // What is found by other words has no score of the question's own: it counts where nothing is asked of scores.
        let mut found_otherwise = |found: Vec<Candidate>| -> Vec<Candidate> {
            if search.threshold.is_none() {
                over.extend(found.iter().map(|one| one.passage.id.clone()));
            }
            found.into_iter().map(unjudged).collect()
        };
        if let Some(model) = model.filter(|_| ask.steps.hyde) {
            let guessed = trace.timed("hyde", hypothetical(question, 1, model)).await;
            guessed.note.iter().for_each(|note| trace.note(note));
            for passage in guessed.passages {
                let steps = Steps { dense: true, lexical: false, ..steps };
                let found = self.search(&Search { query: passage, steps, ..one.clone() }).await?;
                trace.take_in(&found.trace);
                lists.push(found_otherwise(found.candidates));
            }
        }
        if let Some(first) = lists.first().filter(|list| ask.steps.feedback && !list.is_empty()) {
            let query = trace.timed_sync("feedback", || believed_words(question, first));
            let steps = Steps { dense: false, lexical: true, ..steps };
            let found = self.search(&Search { query, steps, ..one }).await?;
            trace.take_in(&found.trace);
            lists.push(found_otherwise(found.candidates));
        }
        let mut candidates = trace.timed_sync("merge", || merged(lists));
        trace.count(candidates.len());
        if search.steps.rerank {
            candidates = rerank(self, question, several, candidates, &mut trace).await;
        }
        let judged = if search.steps.correct { judge(self, &candidates, &mut trace).await? } else { None };
        let is_reranked = search.steps.rerank;
        candidates
            .retain(|candidate| if is_reranked { is_over(candidate) } else { over.contains(&candidate.passage.id) });
        candidates.truncate(search.top_k);
        let context = if search.steps.compress {
            self.compress(question, &candidates, &search.compression, &mut trace).await
        } else {
            None
        };
        let (action, confidence) = (judged.map(|judged| judged.action), judged.map(|judged| judged.confidence));
        Ok(Found { candidates, several, action, confidence, context, trace: trace.end() })
    }
}

/// The further queries, each once and none of them the question.
async fn queries(question: &str, ask: &Ask, model: Option<&dyn Complete>, trace: &mut Trace) -> Vec<String> {
    let mut queries: Vec<String> = Vec::new();
    if ask.steps.multi_query > 0 {
        match model {
            Some(model) => {
                let found = trace.timed("multi_query", variants(question, ask.steps.multi_query, model)).await;
                found.note.iter().for_each(|note| trace.note(note));
                queries.extend(found.queries);
            }
            None => trace.note("multi_query: no model is configured"),
        }
    }
    if ask.steps.hyde && model.is_none() {
        trace.note("hyde: no model is configured");
    }
    if ask.steps.decompose {
        let found = trace.timed("decompose", sub_questions(question, MAX_PARTS, model)).await;
        found.note.iter().for_each(|note| trace.note(note));
        queries.extend(found.queries);
    }
    let mut seen = vec![question.to_lowercase()];
    queries.retain(|query| {
        let lower = query.to_lowercase();
        let is_new = !seen.contains(&lower);
        seen.push(lower);
        is_new
    });
    queries
}

/// The question with the words that its best passages have and the others of the list do not.
fn believed_words(question: &str, found: &[Candidate]) -> String {
    let texts: Vec<String> = found.iter().map(|c| terms(&passage_text(&c.passage.header, &c.passage.text))).collect();
    let best: Vec<FeedbackPassage<'_>> = texts
        .iter()
        .zip(found)
        .take(BELIEVED)
        .map(|(terms, candidate)| FeedbackPassage { terms, score: candidate.score })
        .collect();
    let frequency = |term: &str| texts.iter().filter(|text| text.split(' ').any(|word| word == term)).count() as u64;
    let model = relevance_model(&query_terms(question), &best, &frequency, texts.len() as u64, &Feedback::default());
    let asked = query_terms(question);
    let new = model.iter().map(|(term, _)| term.as_str()).filter(|term| !asked.split(' ').any(|word| word == *term));
    std::iter::once(question).chain(new).collect::<Vec<_>>().join(" ")
}

/// A candidate without the score that is not the question's, for a judge would take it for that.
fn unjudged(mut candidate: Candidate) -> Candidate {
    (candidate.scores.dense, candidate.scores.hop) = (None, None);
    candidate
}

/// One list of several by ranks, each list counting alike: their scores do not compare. A passage keeps what the first list that has it
/// says of it.
fn merged(lists: Vec<Vec<Candidate>>) -> Vec<Candidate> {
    let mut merged: Vec<Candidate> = Vec::new();
    for list in lists {
        for (rank, candidate) in (1u16..).zip(list) {
            let share = 1.0 / (RANK_CONSTANT + f32::from(rank));
            match merged.iter_mut().find(|known| known.passage.id == candidate.passage.id) {
                Some(known) => known.score += share,
                None => merged.push(Candidate { score: share, ..candidate }),
            }
        }
    }
    merged.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.passage.id.cmp(&b.passage.id)));
    merged
}
