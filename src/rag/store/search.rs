//! The two ways to find passages: near in meaning, and by their words.

use futures_util::TryStreamExt;
use lancedb::DistanceType;
use lancedb::index::scalar::FullTextSearchQuery;
use lancedb::query::{ExecutableQuery, QueryBase, Select};

use super::filter::Filter;
use super::schema::{self, PASSAGE, Passage, VECTOR};
use super::table::Table;
use crate::rag::RagError;

/// A passage that was found. Higher scores are better: a cosine for `dense`, BM25 for `lexical`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub passage: Passage,
    pub score: f32,
}

/// Candidates the approximate index keeps while it walks its graph. 64 and its default miss one neighbour in fifty of the best
/// ten; this many misses one in a few hundred and costs a millisecond.
const SEARCH_WIDTH: usize = 256;

/// Partitions of the approximate index that are looked into.
const PROBES: usize = 32;

impl Table {
    /// The `limit` passages whose vectors have the highest cosine with `vector`, best first. Empty where there are no vectors.
    ///
    /// # Errors
    /// The vector has another length than the base's, or the table cannot be read.
    pub async fn dense(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Hit>, RagError> {
        if self.layout.dimensions == 0 || limit == 0 {
            return Ok(Vec::new());
        }
        if vector.len() != self.layout.dimensions {
            let (expected, found) = (self.layout.dimensions, vector.len());
            return Err(RagError::Dimensions { model: self.layout.model.clone(), expected, found });
        }
        let query = self.inner.query().nearest_to(vector).map_err(|error| self.failed(&error))?;
        let query = query.column(VECTOR).distance_type(DistanceType::Cosine).ef(SEARCH_WIDTH);
        let query = query.nprobes(PROBES).map_err(|error| self.failed(&error))?.refine_factor(1);
        let query = query.only_if(filter.sql()).limit(limit).select(Select::columns(&with(&["_distance"])));
        let stream = query.execute().await.map_err(|error| self.failed(&error))?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut hits = Vec::with_capacity(limit);
        for batch in &batches {
            let distances = schema::scores(batch, "_distance")?;
            let scored = schema::passages(batch)?.into_iter().zip(distances.iter());
            hits.extend(scored.filter_map(|(passage, distance)| Some(Hit { passage, score: 1.0 - distance? })));
        }
        Ok(ranked(hits))
    }

    /// The `limit` passages with the highest BM25 score for `terms` (joined by spaces, made by `rag::terms`), best first.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn lexical(&self, terms: &str, limit: usize, filter: &Filter) -> Result<Vec<Hit>, RagError> {
        if terms.trim().is_empty() || limit == 0 || !self.has_words().await? {
            return Ok(Vec::new());
        }
        let search = FullTextSearchQuery::new(terms.to_owned()).with_column("terms".to_owned());
        let search = search.map_err(|error| RagError::Failed(error.to_string()))?;
        let query = self.inner.query().full_text_search(search).only_if(filter.sql()).limit(limit);
        let query = query.select(Select::columns(&with(&["_score"])));
        let stream = query.execute().await.map_err(|error| self.failed(&error))?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut hits = Vec::with_capacity(limit);
        for batch in &batches {
            let scores = schema::scores(batch, "_score")?;
            let scored = schema::passages(batch)?.into_iter().zip(scores.iter());
            hits.extend(scored.filter_map(|(passage, score)| Some(Hit { passage, score: score? })));
        }
        Ok(ranked(hits))
    }
}

fn with(further: &[&'static str]) -> Vec<&'static str> {
    PASSAGE.iter().chain(further).copied().collect()
}

/// Best first; equal scores in the order of ids, so that the same search gives the same list.
fn ranked(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.passage.id.cmp(&b.passage.id)));
    hits
}
