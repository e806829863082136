//! One knowledge base: writing whole documents, reading them back.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow_array::{Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::SchemaRef;
use futures_util::TryStreamExt;
use lancedb::query::{ExecutableQuery, QueryBase, Select};
use serde::Serialize;

use super::Layout;
use super::filter::{Filter, in_list, literal};
use super::schema::{self, Passage, Row};
use crate::rag::RagError;

/// Key of a knowledge base's own settings in the table's configuration.
const SETTINGS: &str = "weirgate.settings";

/// One knowledge base. Cheap to clone; clones see each other's writes at once, other processes' within a second.
#[derive(Clone)]
pub struct Table {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) schema: SchemaRef,
    pub(super) inner: lancedb::Table,
}

/// A document as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentInfo {
    pub id: String,
    pub title: String,
    pub chunks: u32,
    pub metadata: BTreeMap<String, String>,
    pub hash: String,
    /// Unix time in milliseconds.
    pub created_at: i64,
}

/// What an ingest has to know of a document that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub hash: String,
    pub tenant: Option<String>,
}

impl Table {
    pub(super) async fn new(name: &str, inner: lancedb::Table) -> Result<Table, RagError> {
        let schema = inner.schema().await.map_err(|error| RagError::store(name, &error))?;
        let layout = schema::layout(&schema)?;
        Ok(Table { name: name.to_owned(), layout, schema, inner })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Counts every commit; equal versions have equal contents.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn version(&self) -> Result<u64, RagError> {
        self.inner.version().await.map_err(|error| self.failed(&error))
    }

    /// Puts whole documents in the place of what was stored under their ids, in one commit. `rows` are all the chunks of
    /// `documents`; a document without rows is removed. `is_new` says that none of them is stored yet, which spares a join.
    ///
    /// # Errors
    /// A vector does not fit, or the place cannot be written; then nothing changed.
    pub async fn replace(&self, documents: &[String], rows: &[Row], is_new: bool) -> Result<(), RagError> {
        if documents.is_empty() {
            return Ok(());
        }
        let batch = schema::batch(&self.layout, &self.schema, rows)?;
        if rows.is_empty() {
            return self.remove(documents).await;
        }
        if is_new {
            return self.inner.add(batch).execute().await.map(|_| ()).map_err(|error| self.failed(&error));
        }
        let source = arrow_array::RecordBatchIterator::new([Ok(batch)], self.schema.clone());
        let mut merge = self.inner.merge_insert(&["id"]);
        merge.when_matched_update_all(None).when_not_matched_insert_all();
        merge.when_not_matched_by_source_delete(Some(in_list("document", documents)));
        merge.execute(Box::new(source)).await.map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// Deletes documents with all their chunks. Unknown ids are no error.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn remove(&self, documents: &[String]) -> Result<(), RagError> {
        if documents.is_empty() {
            return Ok(());
        }
        let condition = in_list("document", documents);
        self.inner.delete(condition.as_str()).await.map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// Deletes one chunk; `false` if there was none.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn remove_chunk(&self, id: &str, filter: &Filter) -> Result<bool, RagError> {
        let condition = format!("id = {} AND {}", literal(id), filter.sql());
        if self.count(&condition).await? == 0 {
            return Ok(false);
        }
        self.inner.delete(condition.as_str()).await.map(|_| true).map_err(|error| self.failed(&error))
    }

    /// What is known of each stored document, whoever's it is.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn stored(&self) -> Result<HashMap<String, Stored>, RagError> {
        // Of all chunks: any of them may have been deleted by itself.
        let batches = self.scan(&["document", "hash", "tenant"], "true", None).await?;
        let mut stored = HashMap::new();
        for batch in &batches {
            let [document, hash, tenant] =
                ["document", "hash", "tenant"].map(|name| schema::column::<StringArray>(batch, name));
            for ((document, hash), tenant) in document?.iter().zip(hash?).zip(tenant?) {
                let (Some(document), Some(hash)) = (document, hash) else { continue };
                if !stored.contains_key(document) {
                    let one = Stored { hash: hash.to_owned(), tenant: tenant.map(str::to_owned) };
                    stored.insert(document.to_owned(), one);
                }
            }
        }
        Ok(stored)
    }

    /// Documents in the order of their ids.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn documents(&self, filter: &Filter) -> Result<Vec<DocumentInfo>, RagError> {
        let columns = ["document", "title", "metadata", "hash", "created_at"];
        // Of all chunks: any of them, the first too, may have been deleted by itself.
        let mut documents: BTreeMap<String, DocumentInfo> = BTreeMap::new();
        for batch in &self.scan(&columns, &filter.sql(), None).await? {
            let [document, title] = ["document", "title"].map(|name| schema::column::<StringArray>(batch, name));
            let (document, title) = (document?, title?);
            let [metadata, hash] = ["metadata", "hash"].map(|name| schema::column::<StringArray>(batch, name));
            let (metadata, hash) = (metadata?, hash?);
            let created_at = schema::column::<Int64Array>(batch, "created_at")?;
            for at in 0..batch.num_rows() {
                let id = document.value(at);
                if let Some(known) = documents.get_mut(id) {
                    known.chunks += 1;
                    continue;
                }
                let info = DocumentInfo {
                    id: id.to_owned(),
                    title: title.value(at).to_owned(),
                    chunks: 1,
                    metadata: serde_json::from_str(metadata.value(at)).unwrap_or_default(),
                    hash: hash.value(at).to_owned(),
                    created_at: created_at.value(at),
                };
                documents.insert(info.id.clone(), info);
            }
        }
        Ok(documents.into_values().collect())
    }

    /// Chunks in the order of document and position: `limit` of them after the first `offset`.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn chunks(&self, filter: &Filter, offset: usize, limit: usize) -> Result<Vec<Passage>, RagError> {
        let ids: Vec<String> = self.ids(filter).await?.into_iter().skip(offset).take(limit).collect();
        self.fetch(&ids, filter).await
    }

    /// At most `limit` chunks, evenly over the whole table; the same ones as long as it does not change.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn sample(&self, limit: usize) -> Result<Vec<Passage>, RagError> {
        let everything = Filter::everything();
        let ids = self.ids(&everything).await?;
        let step = ids.len().div_ceil(limit.max(1)).max(1);
        let ids: Vec<String> = ids.into_iter().step_by(step).collect();
        self.fetch(&ids, &everything).await
    }

    /// Ids of chunks in the order of document and position.
    async fn ids(&self, filter: &Filter) -> Result<Vec<String>, RagError> {
        let mut keys: Vec<(String, u32, String)> = Vec::new();
        for batch in &self.scan(&["document", "index", "id"], &filter.sql(), None).await? {
            let [document, id] = ["document", "id"].map(|name| schema::column::<StringArray>(batch, name));
            let (document, id) = (document?, id?);
            let index = schema::column::<UInt32Array>(batch, "index")?;
            keys.extend(
                (0..batch.num_rows())
                    .map(|at| (document.value(at).to_owned(), index.value(at), id.value(at).to_owned())),
            );
        }
        keys.sort();
        Ok(keys.into_iter().map(|(_, _, id)| id).collect())
    }

    /// The passages of these ids that the filter lets through, in the order asked for.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn fetch(&self, ids: &[String], filter: &Filter) -> Result<Vec<Passage>, RagError> {
        let mut found: HashMap<String, Passage> =
            self.with_ids(ids, filter).await?.into_iter().map(|(_, passage)| (passage.id.clone(), passage)).collect();
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// As [`Table::fetch`], with their rows and in no order.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn with_ids(&self, ids: &[String], filter: &Filter) -> Result<Vec<(u64, Passage)>, RagError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.numbered(&format!("{} AND {}", in_list("id", ids), filter.sql()), ids.len()).await
    }

    /// Id, title and indexed terms of every passage, in no order.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn each_text(&self, see: &mut (dyn FnMut(&str, &str, &str) + Send)) -> Result<(), RagError> {
        let query = self.inner.query().select(Select::columns(&["id", "title", "terms"]));
        let mut batches = query.execute().await.map_err(|error| self.failed(&error))?;
        while let Some(batch) = batches.try_next().await.map_err(|error| self.failed(&error))? {
            let [id, title, terms] = ["id", "title", "terms"].map(|name| schema::column::<StringArray>(&batch, name));
            let (id, title, terms) = (id?, title?, terms?);
            for ((id, title), terms) in id.iter().zip(title.iter()).zip(terms.iter()) {
                see(id.unwrap_or_default(), title.unwrap_or_default(), terms.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// How many documents and chunks the filter lets through.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn size(&self, filter: &Filter) -> Result<(usize, usize), RagError> {
        let condition = filter.sql();
        let mut documents = HashSet::new();
        let mut n_chunks = 0;
        for batch in &self.scan(&["document"], &condition, None).await? {
            let column = schema::column::<StringArray>(batch, "document")?;
            n_chunks += column.len();
            documents.extend(column.iter().flatten().map(str::to_owned));
        }
        Ok((documents.len(), n_chunks))
    }

    /// Sees what other processes have written until now.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn refresh(&self) -> Result<(), RagError> {
        self.inner.checkout_latest().await.map_err(|error| self.failed(&error))
    }

    /// The knowledge base's own settings as JSON text, if it has any.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn settings(&self) -> Result<Option<String>, RagError> {
        let Some(native) = self.inner.as_native() else { return Ok(None) };
        let manifest = native.manifest().await.map_err(|error| self.failed(&error))?;
        Ok(manifest.config.get(SETTINGS).or_else(|| self.schema.metadata().get(schema::FIRST_SETTINGS)).cloned())
    }

    /// # Errors
    /// The table cannot be written.
    pub async fn set_settings(&self, settings: String) -> Result<(), RagError> {
        let Some(native) = self.inner.as_native() else { return Ok(()) };
        native.update_config([(SETTINGS.to_owned(), settings)]).await.map_err(|error| self.failed(&error))
    }

    pub(super) async fn count(&self, condition: &str) -> Result<usize, RagError> {
        self.inner.count_rows(Some(condition.to_owned())).await.map_err(|error| self.failed(&error))
    }

    async fn scan(
        &self,
        columns: &[&str],
        condition: &str,
        limit: Option<usize>,
    ) -> Result<Vec<RecordBatch>, RagError> {
        let mut query = self.inner.query().select(Select::columns(columns)).only_if(condition);
        if let Some(limit) = limit {
            query = query.limit(limit);
        }
        let stream = query.execute().await.map_err(|error| self.failed(&error))?;
        stream.try_collect().await.map_err(|error| self.failed(&error))
    }

    pub(super) fn failed(&self, error: &lancedb::Error) -> RagError {
        RagError::store(&self.name, error)
    }
}
