//! Puts a set's passages into its knowledge base and measures how fast that goes.

use std::time::Duration;

use anyhow::{Result, bail};

use super::api::{Gateway, Ingested, KnowledgeBase};
use super::progress_bar;
use super::set::{Document, RagSet};
use crate::http::excerpt;

/// A batch ends at either bound, so that bodies stay under usual limits.
const MAX_BATCH_DOCUMENTS: usize = 500;
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Errors of single documents that the report shows.
const MAX_SHOWN_ERRORS: usize = 3;

/// What became of the passages.
#[derive(Default, Debug)]
pub struct Ingestion {
    pub sent: Ingested,
    pub seconds: f64,
    pub knowledge_base: KnowledgeBase,
    pub notes: Vec<String>,
}

impl Ingestion {
    /// None where nothing new had to be embedded.
    pub fn chunks_per_second(&self) -> Option<f64> {
        let is_new = self.sent.added + self.sent.updated > 0;
        (is_new && self.seconds > 0.0).then(|| self.sent.chunks as f64 / self.seconds)
    }
}

/// Sends every passage, unless `skip`: the server leaves unchanged ones alone. Afterwards the knowledge base holds exactly the set.
pub async fn run(gateway: &Gateway, set: &RagSet, skip: bool, batch_documents: Option<usize>) -> Result<Ingestion> {
    let name = set.knowledge_base.as_str();
    let mut ingestion = Ingestion::default();
    let existing = gateway.knowledge_base(name).await?;
    if skip && existing.is_none() {
        bail!("--skip-ingest: there is no knowledge base {name:?}; leave the flag out once");
    }
    if !skip {
        if existing.is_none() {
            gateway.create(name).await?;
        }
        send(gateway, set, &mut ingestion, batch_documents.unwrap_or(MAX_BATCH_DOCUMENTS)).await?;
    }
    ingestion.knowledge_base = gateway.knowledge_base(name).await?.unwrap_or_default();
    let n_failed = ingestion.sent.errors.len() as u64;
    let (held, wanted) = (ingestion.knowledge_base.documents, set.documents.len() as u64);
    if held + n_failed != wanted {
        bail!(
            "knowledge base {name:?} holds {held} documents, the set has {wanted}: the figures would be of another corpus; delete it \
             (DELETE /v1/rag/knowledge-bases/{name}) or choose another --kb-prefix"
        );
    }
    if n_failed > 0 {
        let shown: Vec<String> = ingestion
            .sent
            .errors
            .iter()
            .take(MAX_SHOWN_ERRORS)
            .map(|error| excerpt(error.to_string().as_bytes()))
            .collect();
        ingestion.notes.push(format!("{n_failed} documents could not be ingested; the first: {}", shown.join("; ")));
    }
    Ok(ingestion)
}

async fn send(gateway: &Gateway, set: &RagSet, ingestion: &mut Ingestion, batch_documents: usize) -> Result<()> {
    let bar = progress_bar(&format!("{} ingest", set.key), set.documents.len());
    let mut spent = Duration::ZERO;
    for batch in batches(&set.documents, batch_documents) {
        let (sent, took) = gateway.ingest(&set.knowledge_base, batch).await?;
        spent += took;
        ingestion.sent.added += sent.added;
        ingestion.sent.updated += sent.updated;
        ingestion.sent.unchanged += sent.unchanged;
        ingestion.sent.chunks += sent.chunks;
        ingestion.sent.errors.extend(sent.errors);
        bar.inc(batch.len() as u64);
        bar.set_message(match ingestion.sent.chunks {
            0 => format!("{} ingest", set.key),
            n_chunks => format!("{} ingest, {:.0} chunks/s", set.key, n_chunks as f64 / spent.as_secs_f64().max(1e-9)),
        });
    }
    bar.finish_and_clear();
    ingestion.seconds = spent.as_secs_f64();
    Ok(())
}

fn batches(documents: &[Document], max_documents: usize) -> Vec<&[Document]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, document) in documents.iter().enumerate() {
        let size = document.id.len() + document.title.len() + document.text.len();
        let is_full = at - start >= max_documents.max(1) || bytes + size > MAX_BATCH_BYTES;
        if is_full && at > start {
            batches.push(&documents[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    batches.extend(documents.get(start..).filter(|rest| !rest.is_empty()));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_number_and_size() {
        let document = |length: usize| Document { id: String::new(), title: String::new(), text: "x".repeat(length) };
        for (lengths, expected) in [
            (vec![1; 1201], vec![500, 500, 201]),
            (vec![MAX_BATCH_BYTES, 1, 1], vec![1, 2]),
            (vec![2 * MAX_BATCH_BYTES, 2 * MAX_BATCH_BYTES], vec![1, 1]),
            (vec![], vec![]),
        ] {
            let documents: Vec<Document> = lengths.into_iter().map(document).collect();
            let sizes: Vec<usize> =
                batches(&documents, MAX_BATCH_DOCUMENTS).into_iter().map(<[Document]>::len).collect();
            assert_eq!(sizes, expected);
        }
    }

    #[test]
    fn nothing_new_is_no_speed() {
        let sent = Ingested { unchanged: 5, chunks: 5, ..Ingested::default() };
        assert_eq!(Ingestion { sent, seconds: 2.0, ..Ingestion::default() }.chunks_per_second(), None);
        let sent = Ingested { added: 5, chunks: 10, ..Ingested::default() };
        assert_eq!(Ingestion { sent, seconds: 2.0, ..Ingestion::default() }.chunks_per_second(), Some(5.0));
    }
}
