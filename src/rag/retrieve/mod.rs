//! A question to ranked passages. Each step can be left out and is timed; [`KnowledgeBase::search`] is the list of them.
//!
//! Which steps are on by default, and with which constants, is what `weirgate-eval rag` measured (docs/rag.md).

pub mod chinese;
pub mod fusion;
pub mod hop;
pub mod judge;
pub mod lexicon;
pub mod rerank;
mod trace;

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::RagError;
use super::compress::{Compressed, Compression};
use super::correct::Action;
use super::knowledge_base::KnowledgeBase;
use super::store::{Filter, Passage};
use super::terms::{language, query_terms};

pub use trace::{Trace, TraceStep};

/// Passages that each way of searching contributes.
const CANDIDATES: usize = 100;

/// What a question's vector is waited for. A search by words alone is better than none.
const EMBED: Duration = Duration::from_secs(10);

/// Searches that are begun for one question, should somebody write during each of them. Commits are seconds apart.
const ATTEMPTS: usize = 10;

/// A question and how to answer it.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub query: String,
    /// Passages to return at most.
    pub top_k: usize,
    /// Passages with a lower score are not returned.
    pub threshold: Option<f32>,
    pub filter: Filter,
    pub steps: Steps,
    /// Give out the features that the hop ranks by.
    pub explain: bool,
    pub compression: Compression,
}

/// Which steps run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Steps {
    pub dense: bool,
    pub lexical: bool,
    pub fusion: Fusion,
    pub hop: bool,
    pub rerank: bool,
    /// Judge what was found; `weirgate rag calibrate` finds the thresholds.
    pub correct: bool,
    /// Keep the sentences that answer.
    pub compress: bool,
}

/// How the two lists become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// By ranks alone, both lists alike.
    Rrf,
    /// By scores, with weights that depend on the question.
    Weighted,
}

impl Default for Steps {
    fn default() -> Self {
        Steps {
            dense: true,
            lexical: true,
            fusion: Fusion::Weighted,
            hop: true,
            // It takes more than ten times as long as all the rest. A base has thresholds only once it was calibrated.
            rerank: false,
            correct: false,
            compress: false,
        }
    }
}

/// A passage on its way through the steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    /// In the version of the table that was searched.
    pub row: u64,
    /// Empty until it is read.
    pub passage: Passage,
    /// What the list is ordered by after the last step that ran: after the hop and after `rerank` the chance, from 0 to 1, that the
    /// question needs it.
    pub score: f32,
    pub scores: Scores,
    /// Where the search was asked to explain itself; named by [`hop::features::NAMES`].
    pub features: Option<Box<hop::features::Features>>,
}

impl Candidate {
    /// How likely it is that the question needs the passage, as the last model to rank it says.
    pub fn chance(&self) -> Option<f32> {
        self.scores.rerank.map(|_| self.score).or(self.scores.hop)
    }
}

/// What each step thought of a passage; `None` if it did not see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Cosine with the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<f32>,
    /// BM25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lexical: Option<f32>,
    /// Of the list that fusion made, for a Chinese question by words alone of that which `chinese` made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fused: Option<f32>,
    /// How likely the passage is one that the question needs, as the second hop sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop: Option<f32>,
    /// The reranker's logit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<f32>,
}

/// What was found, best first.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub candidates: Vec<Candidate>,
    /// How much the question looks like one that needs several passages, from 0 to 1, where the hop has read it.
    pub several: Option<f32>,
    /// What the evaluator thinks of them, where that step ran and has thresholds.
    pub action: Option<Action>,
    pub confidence: Option<f64>,
    /// What of them is worth sending, where that step ran.
    pub context: Option<Compressed>,
    pub trace: Trace,
}

impl KnowledgeBase {
    /// # Errors
    /// The table cannot be read, or the question is empty. A model that is missing is a note in the trace; its step is left out.
    pub async fn search(&self, search: &Search) -> Result<Found, RagError> {
        if search.query.trim().is_empty() {
            return Err(RagError::Invalid("the query is empty".to_owned()));
        }
        let mut trace = Trace::begin();
        let vector = self.query_vector(search, &mut trace).await?;
        let (mut candidates, scale) = self.first_stage(search, vector.as_deref(), &mut trace).await?;
        let mut several = None;
        if search.steps.hop {
            hop::Hopped { candidates, several } = hop::extend(self, search, scale, candidates, &mut trace).await?;
        }
        if search.steps.rerank {
            candidates = rerank::rerank(self, &search.query, several, candidates, &mut trace).await;
        }
        let judged = if search.steps.correct { judge::judge(self, &candidates, &mut trace).await? } else { None };
        candidates.retain(|candidate| !candidate.passage.id.is_empty());
        candidates.retain(|candidate| search.threshold.is_none_or(|threshold| candidate.score >= threshold));
        candidates.truncate(search.top_k);
        let action = judged.map(|judged| judged.action);
        let context = match action {
            _ if !search.steps.compress => None,
            // Nothing that was found answers: nothing is sent.
            Some(Action::Incorrect) => Some(Compressed::default()),
            _ => self.compress(&search.query, &candidates, &search.compression, &mut trace).await,
        };
        let confidence = judged.map(|judged| judged.confidence);
        Ok(Found { candidates, several, action, confidence, context, trace: trace.end() })
    }

    /// The question as a vector, where the base has vectors and the model reads the question's language.
    async fn query_vector(&self, search: &Search, trace: &mut Trace) -> Result<Option<Vec<f32>>, RagError> {
        if !search.steps.dense {
            return Ok(None);
        }
        let embed = match self.embedding_model() {
            Ok(Some(embed)) => embed,
            Ok(None) => return Ok(None),
            Err(error) => {
                trace.note(&error);
                return Ok(None);
            }
        };
        if !embed.reads(language(&search.query)) {
            return Ok(None);
        }
        match trace.timed("embed", timeout(EMBED, embed.embed(vec![search.query.clone()]))).await {
            Ok(Ok(mut vectors)) => {
                let (own, found) = (self.table.layout().dimensions, vectors.first().map_or(0, Vec::len));
                if found != own {
                    trace.note(format!("embed: the model gives vectors of {found} numbers, and those of this base have {own}; searched by words alone"));
                    return Ok(None);
                }
                Ok(vectors.pop())
            }
            Ok(Err(error)) => {
                trace.note(&error);
                Ok(None)
            }
            Err(_) => {
                trace.note(format!("embed: no vector within {} seconds; searched by words alone", EMBED.as_secs()));
                Ok(None)
            }
        }
    }

    /// What the two searches found, fused, the best of it read; what words alone found for a Chinese question, ranked again.
    async fn first_stage(
        &self,
        search: &Search,
        vector: Option<&[f32]>,
        trace: &mut Trace,
    ) -> Result<(Vec<Candidate>, fusion::Scale), RagError> {
        let is_chinese = chinese::is_for(search, vector.is_some(), trace);
        let needed = [
            (is_chinese, chinese::DEPTH),
            (search.steps.hop, hop::RANKED),
            (search.steps.rerank, rerank::DEPTH),
            (search.steps.correct, judge::DEPTH),
        ];
        let n_read = needed.iter().filter(|(is_on, _)| *is_on).map(|(_, depth)| *depth).fold(search.top_k, usize::max);
        for _ in 0..ATTEMPTS {
            let mut attempt = Trace::default();
            let version = self.table.version().await?;
            let lists = self.lists(search, vector, &mut attempt).await?;
            let scale = fusion::Scale::of(&lists);
            let mut candidates = attempt.timed_sync("fusion", || fusion::fuse(search.steps.fusion, &lists));
            let rows: Vec<u64> = candidates.iter().take(n_read).map(|candidate| candidate.row).collect();
            let by_terms: &[u64] = if is_chinese { &rows[..rows.len().min(chinese::DEPTH)] } else { &[] };
            let reading =
                async { futures_util::join!(self.table.read(&rows, &search.filter), self.table.terms(by_terms)) };
            let (read, indexed) = attempt.timed("read", reading).await;
            let (mut read, indexed): (HashMap<u64, Passage>, _) = (read?.into_iter().collect(), indexed?);
            // Somebody wrote meanwhile: row numbers may mean other passages now.
            if self.table.version().await? != version {
                continue;
            }
            for candidate in candidates.iter_mut().take(n_read) {
                candidate.passage = read.remove(&candidate.row).unwrap_or_default();
            }
            trace.take_in(&attempt);
            if is_chinese {
                candidates = chinese::rank(self, &search.query, &indexed, candidates, trace).await?;
            }
            return Ok((candidates, scale));
        }
        Err(RagError::Busy(self.table.name().to_owned()))
    }

    async fn lists(
        &self,
        search: &Search,
        vector: Option<&[f32]>,
        trace: &mut Trace,
    ) -> Result<fusion::Lists, RagError> {
        let words = query_terms(&search.query);
        // Without vectors a base is searched by words even where only meaning was asked for: that beats finding nothing.
        let by_words = search.steps.lexical || vector.is_none();
        let dense = async {
            match vector {
                Some(vector) => self.table.dense(vector, CANDIDATES, &search.filter).await,
                None => Ok(Vec::new()),
            }
        };
        let lexical = async {
            if by_words { self.table.lexical(&words, CANDIDATES, &search.filter).await } else { Ok(Vec::new()) }
        };
        let (dense, lexical) = trace.timed("retrieve", async { futures_util::join!(dense, lexical) }).await;
        let lists = fusion::Lists { dense: dense?, lexical: lexical? };
        trace.count(lists.dense.len() + lists.lexical.len());
        Ok(lists)
    }
}

/// Best first; equal scores in the order of rows, so that the same search gives the same list.
pub(super) fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.row.cmp(&b.row)));
}
