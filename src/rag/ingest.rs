//! Documents into a knowledge base: whole, once, and again only when they changed.
//!
//! A document is its id. The same content under the same id is no work; other content takes its place in one commit. What was
//! committed stays when the process dies; running the same ingest again does the rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::chunk::{ChunkSettings, chunks};
use super::knowledge_base::KnowledgeBase;
use super::store::{Filter, Passage, Row, Stored};
use super::terms::{VERSION, language, terms};
use super::{Chunk, Document, RagError};

/// A document and the id it is stored under.
#[derive(Debug, Clone)]
pub struct NewDocument {
    pub id: String,
    pub document: Document,
    /// Whose it is; `None` is everybody's who may see the knowledge base.
    pub tenant: Option<String>,
    /// What it is a part of, if that was read as a whole: rows that are no longer in it are removed.
    pub source: Option<String>,
}

impl NewDocument {
    /// One of the documents that a source (file, URL, upload) consists of: a file is its own, a row is `<source>/<key>`.
    pub fn of_source(source: &str, document: Document, tenant: Option<String>) -> NewDocument {
        let id = if document.key.is_empty() { source.to_owned() } else { format!("{source}/{}", document.key) };
        NewDocument { id, document, tenant, source: Some(source.to_owned()) }
    }
}

/// What became of an ingest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IngestReport {
    pub added: usize,
    pub updated: usize,
    pub unchanged: usize,
    /// Rows that are no longer in their source.
    pub removed: usize,
    /// Chunks written.
    pub chunks: usize,
    pub errors: Vec<IngestError>,
}

/// Why one document was left out; the others go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IngestError {
    pub document: String,
    pub message: String,
}

/// How far an ingest is: documents looked at, of all, and chunks written so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub documents: usize,
    pub of: usize,
    pub chunks: usize,
}

/// What became of a removal.
#[derive(Debug, Default)]
pub struct Removed {
    pub documents: Vec<String>,
    /// Of these there was nothing.
    pub missing: Vec<String>,
}

/// Commits after which files are merged and old versions forgotten, however few rows there are.
const COMMITS_UNTIL_MAINTENANCE: u64 = 100;

/// Chunks that are embedded and committed together, at least: fewer would make many small files.
const BATCH_CHUNKS: usize = 512;

/// Raised when chunks of the same document come out differently, so that documents are made anew.
const FORMAT: &str = "1";

struct Prepared {
    id: String,
    is_new: bool,
    rows: Vec<Row>,
}

impl KnowledgeBase {
    /// Stores documents; `progress` is told after each commit.
    ///
    /// # Errors
    /// The model or the place fails, or another process writes here. Documents committed before stay; a document that is wrong
    /// in itself is an entry of the report and stops nothing.
    pub async fn ingest(
        &self,
        documents: Vec<NewDocument>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<IngestReport, RagError> {
        let _writing = self.writing.lock().await;
        let _lock = self.lock_file.as_deref().map(|path| exclusive(path, self.table.name())).transpose()?;
        // Since the last look another process may have written.
        self.table.refresh().await?;
        self.check_there()?;
        let stored = self.table.stored().await?;
        // A file that is one document has no rows, and what lies beside it under a longer name is none of its own.
        let has_rows =
            |new: &&NewDocument| new.source.as_ref().is_some_and(|source| *source != new.id || is_table(source));
        let of_source = |new: &NewDocument| Some((new.source.clone()?, new.tenant.clone()));
        let sources: BTreeMap<String, Option<String>> =
            documents.iter().filter(has_rows).filter_map(of_source).collect();
        let (mut report, mut pending) = (IngestReport::default(), Vec::new());
        let (mut seen, of) = (HashSet::new(), documents.len());
        for (at, new) in documents.into_iter().enumerate() {
            if !seen.insert(new.id.clone()) {
                let message = "this id comes twice in one ingest; only the first was stored".to_owned();
                report.errors.push(IngestError { document: new.id, message });
            } else if let Some(prepared) = self.prepare(new, &stored, &mut report) {
                pending.push(prepared);
            }
            if pending.iter().map(|document: &Prepared| document.rows.len()).sum::<usize>() >= BATCH_CHUNKS {
                self.commit(std::mem::take(&mut pending), &mut report).await?;
                progress(Progress { documents: at + 1, of, chunks: report.chunks });
            }
        }
        self.commit(pending, &mut report).await?;
        let is_own = |id: &str, one: &Stored| source_of(id, |source| sources.get(source) == Some(&one.tenant));
        let gone = stored.iter().filter(|(id, one)| !seen.contains(*id) && is_own(id, one));
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        self.table.remove(&gone).await?;
        report.removed = gone.len();
        progress(Progress { documents: of, of, chunks: report.chunks });
        if report.chunks + report.removed > 0 {
            self.maintain_if_due().await?;
        }
        Ok(report)
    }

    /// Removes documents that this filter shows: those of the ids, and the rows of a source that is named. Says of which ids there was
    /// nothing.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn remove(&self, ids: &[String], filter: &Filter) -> Result<Removed, RagError> {
        let _writing = self.writing.lock().await;
        self.check_there()?;
        let mut stored = self.table.stored().await?;
        // What everybody may read is not for one of them to take away.
        stored.retain(|_, one| filter.all_tenants || one.tenant == filter.tenant);
        let mut removed = Removed::default();
        for id in ids {
            let is_row = |row: &&String| is_table(id) && source_of(row, |source| source == id);
            let rows = stored.keys().filter(is_row).cloned().collect::<Vec<_>>();
            let own = stored.contains_key(id).then(|| id.clone());
            if own.is_none() && rows.is_empty() {
                removed.missing.push(id.clone());
            }
            removed.documents.extend(own.into_iter().chain(rows));
        }
        self.table.remove(&removed.documents).await?;
        if !removed.documents.is_empty() {
            self.maintain_if_due().await?;
        }
        Ok(removed)
    }

    /// Every commit leaves files; a base that is small and changes often would have more of them than rows.
    async fn maintain_if_due(&self) -> Result<(), RagError> {
        if self.n_commits.fetch_add(1, Relaxed) < COMMITS_UNTIL_MAINTENANCE {
            return self.table.maintain_if_due().await;
        }
        self.n_commits.store(0, Relaxed);
        self.table.maintain().await
    }

    /// Rows of a document without their vectors; `None` if there is nothing to do.
    fn prepare(
        &self,
        new: NewDocument,
        stored: &HashMap<String, Stored>,
        report: &mut IngestReport,
    ) -> Option<Prepared> {
        let mut refuse = |message: &str| {
            report.errors.push(IngestError { document: new.id.clone(), message: message.to_owned() });
            None
        };
        if new.id.is_empty() || new.id.len() > 1024 || new.id.contains(char::is_control) {
            return refuse("an id has 1 to 1,024 bytes and no control characters");
        }
        let hash = self.hash(&new);
        let known = stored.get(&new.id);
        if known.is_some_and(|known| known.tenant.is_some() && known.tenant != new.tenant) {
            return refuse(
                "this id is a document's of another tenant; choose another one, or delete that document first",
            );
        }
        if known.is_some_and(|known| known.hash == hash) {
            report.unchanged += 1;
            return None;
        }
        let layout = self.table.layout();
        let chunks = chunks(&new.document, &ChunkSettings { size: layout.chunk_size, overlap: layout.chunk_overlap });
        if chunks.is_empty() {
            return refuse("there is no text in it");
        }
        let created_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let created_at = i64::try_from(created_at).unwrap_or(i64::MAX);
        let n_chunks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let title = new.document.title;
        let metadata: BTreeMap<String, String> = new.document.metadata;
        let rows = chunks.into_iter().map(|chunk| Row {
            terms: terms(&indexed_text(&chunk)),
            vector: None,
            tenant: new.tenant.clone(),
            passage: Passage {
                id: format!("{}#{}", new.id, chunk.index),
                document: new.id.clone(),
                index: chunk.index,
                n_chunks,
                title: title.clone(),
                header: chunk.header,
                text: chunk.text,
                metadata: metadata.clone(),
                hash: hash.clone(),
                created_at,
            },
        });
        let rows = rows.collect();
        Some(Prepared { id: new.id, is_new: known.is_none(), rows })
    }

    async fn commit(&self, mut documents: Vec<Prepared>, report: &mut IngestReport) -> Result<(), RagError> {
        if documents.is_empty() {
            return Ok(());
        }
        self.embed_rows(documents.iter_mut().flat_map(|document| document.rows.iter_mut()).collect()).await?;
        // Where nothing keeps other processes out, none is known to be new: they would be stored twice.
        let is_alone = self.lock_file.is_some();
        let (new, changed): (Vec<_>, Vec<_>) = documents.into_iter().partition(|document| document.is_new);
        for (documents, is_new) in [(new, true), (changed, false)] {
            let ids: Vec<String> = documents.iter().map(|document| document.id.clone()).collect();
            let rows: Vec<Row> = documents.into_iter().flat_map(|document| document.rows).collect();
            self.table.replace(&ids, &rows, is_new && is_alone).await?;
            report.chunks += rows.len();
            *(if is_new { &mut report.added } else { &mut report.updated }) += ids.len();
        }
        self.table.ensure_words().await
    }

    async fn embed_rows(&self, rows: Vec<&mut Row>) -> Result<(), RagError> {
        let Some(embed) = self.embedding_model()? else { return Ok(()) };
        let (mut readable, mut texts) = (Vec::new(), Vec::new());
        for row in rows {
            if embed.reads(language(&row.passage.text)) {
                texts.push(passage_text(&row.passage.header, &row.passage.text));
                readable.push(row);
            }
        }
        let vectors = embed.embed(texts).await?;
        for (row, vector) in readable.into_iter().zip(vectors) {
            row.vector = Some(vector);
        }
        Ok(())
    }

    /// Of everything that decides what is stored.
    fn hash(&self, new: &NewDocument) -> String {
        let mut digest = Sha256::new();
        let layout = self.table.layout();
        let numbers = [VERSION as usize, layout.chunk_size, layout.chunk_overlap].map(|number| number.to_string());
        for part in [FORMAT, &layout.model].into_iter().chain(numbers.iter().map(String::as_str)) {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        digest.update(new.tenant.as_deref().unwrap_or_default().as_bytes());
        digest.update(serde_json::to_vec(&new.document).unwrap_or_default());
        digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether an id is a row's of a source that is meant.
fn source_of(id: &str, is_meant: impl Fn(&str) -> bool) -> bool {
    id.match_indices('/').any(|(slash, _)| is_meant(&id[..slash]))
}

/// Whether a source is one of rows, by its name.
fn is_table(source: &str) -> bool {
    const ENDINGS: [&str; 5] = [".csv", ".tsv", ".json", ".jsonl", ".ndjson"];
    let lower = source.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

/// What words are looked up in.
fn indexed_text(chunk: &Chunk) -> String {
    format!("{}\n{}", chunk.header, chunk.text)
}

/// A passage as models read it: what it is about, then what it says.
pub fn passage_text(header: &str, text: &str) -> String {
    if header.is_empty() { text.to_owned() } else { format!("{header}. {text}") }
}

/// Keeps other processes from writing to the same knowledge base; ends when dropped, and with the process.
pub(super) struct Exclusive(File);

impl Drop for Exclusive {
    /// Closing the file is not enough: a program that is just being started elsewhere in this process shares it until it runs.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "The lock of a knowledge base was not given back");
        }
    }
}

pub(super) fn exclusive(path: &Path, base: &str) -> Result<Exclusive, RagError> {
    let failed = |error: &std::io::Error| RagError::Failed(format!("{}: {error}", path.display()));
    let file = File::create(path).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(Exclusive(file)),
        Err(TryLockError::WouldBlock) => Err(RagError::Busy(base.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
