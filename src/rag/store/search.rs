//! The two ways to find passages: near in meaning, and by their words.
//!
//! Both give row numbers and scores only. Reading a hundred rows of ten columns takes longer than finding them, so that only the
//! passages that are left after fusion are read, by [`Table::read`].

use std::collections::HashMap;

use arrow_array::StringArray;
use futures_util::TryStreamExt;
use lancedb::DistanceType;
use lancedb::index::scalar::FullTextSearchQuery;
use lancedb::query::{ExecutableQuery, QueryBase, Select};

use super::filter::Filter;
use super::schema::{self, PASSAGE, Passage, VECTOR};
use super::table::Table;
use crate::rag::RagError;

/// A passage that was found. Higher scores are better: a cosine for `dense`, BM25 for `lexical`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Holds for the version of the table that was searched.
    pub row: u64,
    pub score: f32,
}

/// Candidates the approximate index keeps while it walks its graph. On 46,454 passages one neighbour in 130 of the best ten and
/// one in 35 of the best hundred are missed.
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
        let query = query.only_if(filter.sql()).limit(limit).select(Select::columns(&["_distance"])).with_row_id();
        let stream = query.execute().await.map_err(|error| self.failed(&error))?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut hits = Vec::with_capacity(limit);
        for batch in &batches {
            let (rows, distances) = (schema::rows(batch)?, schema::scores(batch, "_distance")?);
            let scored = rows.iter().zip(distances.iter());
            hits.extend(scored.filter_map(|(row, distance)| Some(Hit { row: row?, score: 1.0 - distance? })));
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
        let query = query.select(Select::columns(&["_score"])).with_row_id();
        let stream = query.execute().await.map_err(|error| self.failed(&error))?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut hits = Vec::with_capacity(limit);
        for batch in &batches {
            let (rows, scores) = (schema::rows(batch)?, schema::scores(batch, "_score")?);
            let scored = rows.iter().zip(scores.iter());
            hits.extend(scored.filter_map(|(row, score)| Some(Hit { row: row?, score: score? })));
        }
        Ok(ranked(hits))
    }

    /// Passages by row number, as far as the filter lets them through, in no order.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn read(&self, rows: &[u64], filter: &Filter) -> Result<Vec<(u64, Passage)>, RagError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.numbered(&format!("{} AND {}", in_rows(rows), filter.sql()), rows.len()).await
    }

    /// The terms that passages are indexed by, by row number.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn terms(&self, rows: &[u64]) -> Result<HashMap<u64, String>, RagError> {
        if rows.is_empty() {
            return Ok(HashMap::new());
        }
        let query = self.inner.query().select(Select::columns(&["terms"])).with_row_id();
        let stream =
            query.only_if(in_rows(rows)).limit(rows.len()).execute().await.map_err(|error| self.failed(&error))?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut found = HashMap::with_capacity(rows.len());
        for batch in &batches {
            let (rows, terms) = (schema::rows(batch)?, schema::column::<StringArray>(batch, "terms")?);
            found.extend(rows.iter().zip(terms.iter()).filter_map(|(row, terms)| Some((row?, terms?.to_owned()))));
        }
        Ok(found)
    }

    /// At most `limit` passages that a condition holds for, with their rows.
    pub(super) async fn numbered(&self, condition: &str, limit: usize) -> Result<Vec<(u64, Passage)>, RagError> {
        let query = self.inner.query().select(Select::columns(&PASSAGE)).with_row_id();
        let stream = query.only_if(condition).limit(limit).execute().await.map_err(|error| self.failed(&error))?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut found = Vec::with_capacity(limit);
        for batch in &batches {
            let passages = schema::passages(batch)?;
            found.extend(schema::rows(batch)?.iter().zip(passages).filter_map(|(row, passage)| Some((row?, passage))));
        }
        Ok(found)
    }
}

/// The condition that a row is one of these.
fn in_rows(rows: &[u64]) -> String {
    format!("_rowid IN ({})", rows.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
}

/// Best first; equal scores in the order of rows, so that the same search gives the same list.
fn ranked(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.row.cmp(&b.row)));
    hits
}
