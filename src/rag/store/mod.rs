//! Where knowledge bases lie: one LanceDB table each, in a folder or in object storage. The only place that knows LanceDB.
//!
//! ```text
//! Store (connection) ── create, open, list, drop ── Table (one knowledge base)
//!                                                     ├── replace, remove        one commit each: whole documents or nothing
//!                                                     ├── dense, lexical, fetch  what retrieval is made of
//!                                                     └── maintain               indexes, compaction, old versions
//! ```
//!
//! A commit of Lance is one renamed manifest, so a process that dies while it writes leaves the version before.

mod filter;
mod maintain;
mod s3;
mod schema;
mod search;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lancedb::connection::Connection;
use serde::{Deserialize, Serialize};

use super::RagError;

pub use filter::Filter;
pub use schema::{Passage, Row};
pub use search::Hit;
pub use table::{DocumentInfo, Stored, Table};

/// How long a reader may go on with what it saw before it asks whether another process wrote.
const READ_CONSISTENCY: Duration = Duration::from_secs(1);

/// What the process may keep of indexes and of tables' lists of files. The library's own bounds are 6 GiB and 1 GiB.
const INDEX_CACHE_BYTES: usize = 512 << 20;
const METADATA_CACHE_BYTES: usize = 64 << 20;

/// What a knowledge base is made with. Kept with the table; vectors and terms of other settings would not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Name of the embedding model; the vectors of one table come from one model.
    pub model: String,
    /// Numbers in a vector; 0 where the base has no vectors and is searched by words only.
    pub dimensions: usize,
    /// Characters in a chunk, and how many of them the next one repeats.
    pub chunk_size: usize,
    pub chunk_overlap: usize,
}

/// All knowledge bases of one place.
pub struct Store {
    connection: Connection,
    uri: String,
}

impl Store {
    /// Opens a folder, or object storage by its URL; makes the folder if there is none.
    ///
    /// # Errors
    /// The place cannot be used.
    pub async fn open(uri: &str, options: &HashMap<String, String>) -> Result<Store, RagError> {
        let session = Arc::new(lancedb::Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, s3::registry()));
        let builder = lancedb::connect(uri).read_consistency_interval(READ_CONSISTENCY).session(session);
        let builder = builder.storage_options(options.iter().map(|(name, value)| (name.clone(), value.clone())));
        let connection = builder.execute().await.map_err(|error| RagError::store(uri, &error))?;
        Ok(Store { connection, uri: uri.to_owned() })
    }

    /// Makes a knowledge base with these settings, in one commit: one that has lost them would be open to everybody.
    ///
    /// # Errors
    /// The name is taken or cannot be a name, or the place cannot be written; then there is none.
    pub async fn create(&self, name: &str, layout: &Layout, settings: &str) -> Result<Table, RagError> {
        check_name(name)?;
        if self.names().await?.iter().any(|known| known == name) {
            return Err(RagError::Exists(name.to_owned()));
        }
        self.clear(name);
        let schema = schema::schema(layout, settings)?;
        match self.connection.create_empty_table(name, schema).execute().await {
            Ok(made) => Table::new(name, made).await,
            Err(error) => {
                self.clear(name);
                Err(self.failed(name, &error))
            }
        }
    }

    /// Removes what a creation that failed, on a full disk for one, has left: a folder that is no table.
    fn clear(&self, name: &str) {
        let Some(folder) = self.folder(name).filter(|folder| !is_table(folder)) else { return };
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "What is left of a knowledge base cannot be removed");
            }
            _ => {}
        }
    }

    /// Of a knowledge base; `None` in object storage.
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        (!self.uri.contains("://")).then(|| Path::new(&self.uri).join(format!("{name}.lance")))
    }

    /// # Errors
    /// There is none of that name, or its table cannot be read.
    pub async fn table(&self, name: &str) -> Result<Table, RagError> {
        check_name(name)?;
        match self.connection.open_table(name).execute().await {
            Ok(table) => Table::new(name, table).await,
            Err(lancedb::Error::TableNotFound { .. }) => {
                Err(RagError::UnknownBase { name: name.to_owned(), known: self.names().await?.join(", ") })
            }
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    /// Names in order.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn names(&self) -> Result<Vec<String>, RagError> {
        let names = self.connection.table_names().execute().await;
        let mut names = names.map_err(|error| RagError::store(&self.uri, &error))?;
        names.retain(|name| self.folder(name).is_none_or(|folder| is_table(&folder)));
        names.sort();
        Ok(names)
    }

    /// Deletes a knowledge base with everything in it.
    ///
    /// # Errors
    /// There is none of that name, or the place cannot be written.
    pub async fn remove(&self, name: &str) -> Result<(), RagError> {
        // One that is damaged can be deleted all the same.
        if let Err(error @ (RagError::UnknownBase { .. } | RagError::Name(_))) = self.table(name).await {
            return Err(error);
        }
        self.connection.drop_table(name, &[]).await.map_err(|error| self.failed(name, &error))
    }

    fn failed(&self, name: &str, error: &lancedb::Error) -> RagError {
        RagError::store(&format!("{}/{name}", self.uri), error)
    }
}

/// Whether anything was ever committed there.
fn is_table(folder: &Path) -> bool {
    std::fs::read_dir(folder.join("_versions")).is_ok_and(|mut versions| versions.next().is_some())
}

/// A name becomes a folder and a part of URLs.
pub fn check_name(name: &str) -> Result<(), RagError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(is_plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(RagError::Name(name.to_owned()));
    }
    Ok(())
}
