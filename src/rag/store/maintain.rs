//! Indexes and housekeeping of a knowledge base. Nothing here changes what a search may find, only how fast.

use lancedb::DistanceType;
use lancedb::index::Index;
use lancedb::index::scalar::{BTreeIndexBuilder, BitmapIndexBuilder, FtsIndexBuilder};
use lancedb::index::vector::IvfHnswSqIndexBuilder;
use lancedb::table::{CompactionOptions, Duration, OptimizeAction, OptimizeOptions};

use super::schema::VECTOR;
use super::table::Table;
use crate::rag::RagError;

/// Rows from which vectors get an approximate index. Below, the exact search takes about as long as everything else of a query
/// (1 to 3 ms per thousand rows).
const ROWS_FOR_VECTOR_INDEX: usize = 4_000;

/// The index of vectors is made anew when this part of the rows is outside of it; until then those are looked through one by one.
/// Added to it piece by piece it would be many small indexes, each searched by itself: 39 of them took four times as long as
/// one.
const OUTSIDE: usize = 4;

/// Rows of one graph. More would take minutes to build.
const ROWS_PER_PARTITION: usize = 200_000;

/// Name of the index of vectors.
const VECTORS: &str = "vector_idx";

/// Rows outside the index of words that a search may look through; some 5 ms.
const UNINDEXED_ROWS: usize = 1_000;

/// Hours that old versions are kept for readers that still use them.
const KEEP_VERSIONS_HOURS: i64 = 1;

/// Name of the full-text index; Lance names an index after its column.
const WORDS: &str = "terms_idx";

impl Table {
    /// Brings the indexes up to date, merges small files, and forgets old versions. Called after an ingest.
    ///
    /// # Errors
    /// The table cannot be written; what was written before stays.
    pub async fn maintain(&self) -> Result<(), RagError> {
        let n_rows = self.count("true").await?;
        if n_rows == 0 {
            return Ok(());
        }
        let compaction = OptimizeAction::Compact { options: CompactionOptions::default(), remap_options: None };
        self.optimize(compaction).await?;
        if self.has_words().await? {
            let indexes = self.inner.list_indices().await.map_err(|error| self.failed(&error))?;
            let mut options = OptimizeOptions::default();
            options.index_names =
                Some(indexes.into_iter().map(|index| index.name).filter(|name| name != VECTORS).collect());
            self.optimize(OptimizeAction::Index(options)).await?;
        } else {
            self.index_words().await?;
        }
        self.index_vectors(n_rows).await?;
        self.optimize(OptimizeAction::Prune {
            older_than: Duration::try_hours(KEEP_VERSIONS_HOURS),
            delete_unverified: None,
            error_if_tagged_old_versions: None,
        })
        .await
    }

    /// [`Table::maintain`] if enough rows are not in the index of words yet; searches look through those one by one.
    ///
    /// # Errors
    /// As `maintain`.
    pub async fn maintain_if_due(&self) -> Result<(), RagError> {
        let stats = self.inner.index_stats(WORDS).await.map_err(|error| self.failed(&error))?;
        match stats {
            Some(stats) if stats.num_unindexed_rows < UNINDEXED_ROWS => Ok(()),
            _ => self.maintain().await,
        }
    }

    /// Whether words can be searched already: the index is made with the first rows.
    pub(super) async fn has_words(&self) -> Result<bool, RagError> {
        self.has_index(WORDS).await
    }

    /// Makes the indexes that a search cannot do without, if there are rows and no indexes yet.
    ///
    /// # Errors
    /// The table cannot be written.
    pub async fn ensure_words(&self) -> Result<(), RagError> {
        if self.has_words().await? || self.count("true").await? == 0 {
            return Ok(());
        }
        self.index_words().await
    }

    async fn index_words(&self) -> Result<(), RagError> {
        // Terms are made by `rag::terms`, for index and query alike: nothing is left to do but to split at spaces.
        let words = FtsIndexBuilder::default()
            .base_tokenizer("whitespace".to_owned())
            .lower_case(false)
            .stem(false)
            .remove_stop_words(false)
            .ascii_folding(false)
            .max_token_length(None)
            .with_position(false);
        self.index("terms", Index::FTS(words)).await?;
        self.index("id", Index::BTree(BTreeIndexBuilder::default())).await?;
        self.index("document", Index::BTree(BTreeIndexBuilder::default())).await?;
        // Every search asks for it; without an index it reads the whole column.
        self.index("tenant", Index::Bitmap(BitmapIndexBuilder::default())).await
    }

    /// Makes the index of vectors, or makes it anew, where that is due.
    async fn index_vectors(&self, n_rows: usize) -> Result<(), RagError> {
        if self.layout.dimensions == 0 || n_rows < ROWS_FOR_VECTOR_INDEX {
            return Ok(());
        }
        let stats = self.inner.index_stats(VECTORS).await.map_err(|error| self.failed(&error))?;
        let n_outside = stats.map_or(n_rows, |stats| stats.num_unindexed_rows);
        if n_outside * OUTSIDE < n_rows {
            return Ok(());
        }
        let n_partitions = u32::try_from(n_rows.div_ceil(ROWS_PER_PARTITION)).unwrap_or(u32::MAX);
        let index = IvfHnswSqIndexBuilder::default().distance_type(DistanceType::Cosine).num_partitions(n_partitions);
        self.index(VECTOR, Index::IvfHnswSq(index)).await
    }

    async fn has_index(&self, name: &str) -> Result<bool, RagError> {
        let indexes = self.inner.list_indices().await.map_err(|error| self.failed(&error))?;
        Ok(indexes.iter().any(|index| index.name == name))
    }

    async fn index(&self, column: &str, index: Index) -> Result<(), RagError> {
        self.inner.create_index(&[column], index).execute().await.map_err(|error| self.failed(&error))
    }

    async fn optimize(&self, action: OptimizeAction) -> Result<(), RagError> {
        self.inner.optimize(action).await.map(|_| ()).map_err(|error| self.failed(&error))
    }
}
