//! The configurations that were applied, file by file, so that any of the last ones can be had again.
//!
//! A snapshot stores only the files that changed with it; contents are stored once. This module knows paths and bytes,
//! nothing of what they mean.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;

use super::database::Store;
use super::error::FlywheelError;
use super::now_ms;

/// So many snapshots are kept; older ones merge into the oldest of these.
const KEEP: i64 = 200;

/// SHA-256 of a file.
pub type Digest = [u8; 32];

/// Files by path, relative to the folder and with slashes.
pub type Files<T> = BTreeMap<String, T>;

/// What a file became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    Written { digest: Digest, content: Vec<u8> },
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigSnapshot {
    pub id: i64,
    pub applied_at_ms: i64,
    pub summary: String,
    /// Files that changed with it; for the oldest one kept, all files.
    pub n_files: u64,
}

impl Store {
    /// Stores a snapshot that differs from the newest one by these files, and returns its id.
    pub fn record_config(&self, changes: &Files<FileChange>, summary: &str) -> Result<i64, FlywheelError> {
        self.write("recording the configuration", |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT INTO config_snapshot (applied_at_ms, summary) VALUES (?1, ?2)",
                params![now_ms(), summary],
            )?;
            let id = transaction.last_insert_rowid();
            insert_changes(&transaction, id, changes)?;
            prune(&transaction, id - KEEP)?;
            transaction.commit()?;
            Ok(id)
        })
    }

    /// The last snapshots, newest first.
    pub fn list_configs(&self, limit: u32) -> Result<Vec<ConfigSnapshot>, FlywheelError> {
        self.read("listing configurations", |connection| {
            connection
                .prepare(
                    "SELECT id, applied_at_ms, summary,
                         (SELECT count(*) FROM config_change WHERE snapshot_id = config_snapshot.id)
                     FROM config_snapshot ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([limit], |row| {
                    Ok(ConfigSnapshot {
                        id: row.get(0)?,
                        applied_at_ms: row.get(1)?,
                        summary: row.get(2)?,
                        n_files: row.get::<_, i64>(3)?.cast_unsigned(),
                    })
                })?
                .collect()
        })
    }

    /// The newest snapshot's id and its files' digests; `None` before the first.
    pub fn newest_config(&self) -> Result<Option<(i64, Files<Digest>)>, FlywheelError> {
        self.read("reading the newest configuration", |connection| {
            let snapshot = connection.transaction()?;
            let Some(id) = newest(&snapshot)? else { return Ok(None) };
            let mut statement = snapshot.prepare(&files_at("c.digest"))?;
            let files = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            Ok(Some((id, files)))
        })
    }

    /// Whether a file of that content was in force in any snapshot that is kept.
    pub fn has_config_content(&self, digest: &Digest) -> Result<bool, FlywheelError> {
        self.read("reading the history of the configuration", |connection| {
            let sql = "SELECT 1 FROM config_content WHERE digest = ?1";
            Ok(connection.query_row(sql, [digest], |_| Ok(())).optional()?.is_some())
        })
    }

    /// Every file of a snapshot with its content.
    ///
    /// # Errors
    /// `NoSuchConfig`, or the storage's.
    pub fn config_files(&self, id: i64) -> Result<Files<Vec<u8>>, FlywheelError> {
        let found = self.read("reading a configuration", |connection| {
            let snapshot = connection.transaction()?;
            let sql = "SELECT 1 FROM config_snapshot WHERE id = ?1";
            if snapshot.query_row(sql, [id], |_| Ok(())).optional()?.is_none() {
                return Ok(None);
            }
            let mut statement =
                snapshot.prepare(&files_at("(SELECT content FROM config_content WHERE digest = c.digest)"))?;
            let files = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            Ok(Some(files))
        })?;
        found.ok_or(FlywheelError::NoSuchConfig(id))
    }
}

/// Path and `column` of each file there is at snapshot `?1`.
fn files_at(column: &str) -> String {
    format!(
        "SELECT c.path, {column} FROM config_change c
         WHERE c.digest IS NOT NULL AND c.snapshot_id =
             (SELECT max(snapshot_id) FROM config_change WHERE path = c.path AND snapshot_id <= ?1)"
    )
}

fn newest(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT max(id) FROM config_snapshot", [], |row| row.get(0))
}

fn insert_changes(transaction: &Transaction<'_>, id: i64, changes: &Files<FileChange>) -> rusqlite::Result<()> {
    let mut insert_content =
        transaction.prepare("INSERT INTO config_content (digest, content) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut insert_change =
        transaction.prepare("INSERT INTO config_change (path, snapshot_id, digest) VALUES (?1, ?2, ?3)")?;
    for (path, change) in changes {
        let digest = match change {
            FileChange::Written { digest, content } => {
                insert_content.execute(params![digest, content])?;
                Some(digest)
            }
            FileChange::Removed => None,
        };
        insert_change.execute(params![path, id, digest])?;
    }
    Ok(())
}

/// Forgets the snapshots up to `last`. What they changed becomes part of the next one, unless that changed it again.
fn prune(transaction: &Transaction<'_>, last: i64) -> rusqlite::Result<()> {
    let sql = "SELECT min(id) FROM config_snapshot WHERE id > ?1";
    let Some(oldest) = transaction.query_row(sql, [last], |row| row.get::<_, Option<i64>>(0))? else { return Ok(()) };
    transaction.execute(
        "DELETE FROM config_change AS old WHERE snapshot_id < ?1 AND EXISTS
             (SELECT 1 FROM config_change WHERE path = old.path AND snapshot_id > old.snapshot_id AND snapshot_id <= ?1)",
        [oldest],
    )?;
    transaction.execute("UPDATE config_change SET snapshot_id = ?1 WHERE snapshot_id < ?1", [oldest])?;
    transaction.execute("DELETE FROM config_change WHERE snapshot_id = ?1 AND digest IS NULL", [oldest])?;
    let n_gone = transaction.execute("DELETE FROM config_snapshot WHERE id < ?1", [oldest])?;
    if n_gone > 0 {
        transaction.execute(
            "DELETE FROM config_content WHERE NOT EXISTS
                 (SELECT 1 FROM config_change WHERE digest = config_content.digest)",
            [],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &str) -> FileChange {
        let mut digest = [0; 32];
        digest[..content.len()].copy_from_slice(content.as_bytes());
        FileChange::Written { digest, content: content.into() }
    }

    fn changes(changes: &[(&str, FileChange)]) -> Files<FileChange> {
        changes.iter().map(|(path, change)| ((*path).to_owned(), change.clone())).collect()
    }

    fn texts(store: &Store, id: i64) -> Vec<(String, String)> {
        let files = store.config_files(id).unwrap();
        files.into_iter().map(|(path, content)| (path, String::from_utf8(content).unwrap())).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn every_snapshot_can_be_had_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("weirgate.db")).unwrap();
        assert_eq!(store.newest_config().unwrap(), None);
        let first = store.record_config(&changes(&[("a", written("1")), ("b", written("2"))]), "first").unwrap();
        let second =
            store.record_config(&changes(&[("a", written("3")), ("b", FileChange::Removed)]), "second").unwrap();
        let third = store.record_config(&changes(&[("b", written("1"))]), "third").unwrap();
        assert_eq!(texts(&store, first), pairs(&[("a", "1"), ("b", "2")]));
        assert_eq!(texts(&store, second), pairs(&[("a", "3")]));
        assert_eq!(texts(&store, third), pairs(&[("a", "3"), ("b", "1")]));
        let (id, digests) = store.newest_config().unwrap().unwrap();
        assert_eq!((id, digests.len(), digests["b"][0]), (third, 2, b'1'));
        let listed = store.list_configs(2).unwrap();
        let listed: Vec<_> = listed.iter().map(|it| (it.id, it.summary.as_str(), it.n_files)).collect();
        assert_eq!(listed, [(third, "third", 1), (second, "second", 2)]);
        assert!(matches!(store.config_files(99), Err(FlywheelError::NoSuchConfig(99))));
    }

    #[test]
    fn old_snapshots_merge_and_their_contents_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("weirgate.db")).unwrap();
        store.record_config(&changes(&[("stays", written("s")), ("gone", written("g"))]), "").unwrap();
        store.record_config(&changes(&[("gone", FileChange::Removed)]), "").unwrap();
        for number in 0..KEEP {
            store.record_config(&changes(&[("often", written(&number.to_string()))]), "").unwrap();
        }
        let listed = store.list_configs(u32::MAX).unwrap();
        assert_eq!(listed.len() as i64, KEEP);
        let oldest = listed.last().unwrap();
        assert_eq!((texts(&store, oldest.id), oldest.n_files), (pairs(&[("often", "0"), ("stays", "s")]), 2));
        let newest = KEEP - 1;
        assert_eq!(texts(&store, listed[0].id), pairs(&[("often", &newest.to_string()), ("stays", "s")]));
        let n_contents = store
            .read("test", |connection| {
                connection.query_row("SELECT count(*) FROM config_content", [], |row| row.get::<_, i64>(0))
            })
            .unwrap();
        assert_eq!(n_contents, KEEP + 1);
    }
}
