//! The database file: what it must be before we touch it, and how connections to it are made.
//!
//! Write-ahead logging lets any number of readers work beside the one writer, in this process and in others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, FileControl, OpenFlags};

use super::error::FlywheelError;
use super::migrate::{self, Found};

/// How often a connection looks whether another one's transaction is over. Ours take milliseconds. SQLite's own waiting
/// backs off to 100 ms, and then hardly ever sees the gap that a busy writer leaves.
const LOCK_POLL: Duration = Duration::from_millis(1);

/// After so many looks (ten seconds) it gives up.
const MAX_LOCK_POLLS: i32 = 10_000;

/// What everybody who commits one transaction after another leaves between two. The lock goes to whoever looks first;
/// without a gap the others would starve.
pub(super) const LOCK_GAP: Duration = Duration::from_millis(2);

/// Size of the database's pages. Several prompts fit into one, so the file is little more than half the size it has with
/// SQLite's 4096, and a row is written with a third less work.
const PAGE_BYTES: u32 = 16 << 10;

/// The log file is cut back to this size after a burst, bytes.
const WAL_KEEP_BYTES: i64 = 16 << 20;

/// A database that is known to be ours and up to date. Cheap to clone; holds no connection: each call makes its own, so
/// calls from any thread or process go on side by side. All calls block on the disk; async code wraps them.
#[derive(Clone, Debug)]
pub struct Store {
    path: Arc<Path>,
}

impl Store {
    /// Opens `path`, creates it when missing (its folder must exist) and brings its schema up to date.
    ///
    /// # Errors
    /// `Corrupt`, `Foreign`, `Newer`: the file is left as it is. `Storage`: cannot be opened or written.
    pub fn open(path: &Path) -> Result<Self, FlywheelError> {
        let store = Self { path: path.into() };
        store.admit()?;
        let mut n_attempts = 0;
        loop {
            match store.upgrade() {
                Ok(()) => return Ok(store),
                // Only one process can switch a new file to write-ahead logging, and for that SQLite does not wait.
                Err(error) if is_busy(&error) && wait_for_lock(n_attempts) => n_attempts += 1,
                Err(error) => return Err(store.error("opening the database", &error)),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file and reports what is broken; empty when all is well. Takes seconds per gigabyte.
    pub fn integrity(&self) -> Result<Vec<String>, FlywheelError> {
        self.read("checking the database", |connection| {
            let list = |pragma: &str| -> rusqlite::Result<Vec<String>> {
                let mut statement = connection.prepare(pragma)?;
                statement.query_map([], |row| row.get(0))?.collect()
            };
            let mut problems =
                list("SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'")?;
            problems.extend(list(
                "SELECT 'row ' || rowid || ' of ' || \"table\" || ' points at a missing row of ' || parent
                 FROM pragma_foreign_key_check",
            )?);
            Ok(problems)
        })
    }

    /// Size on disk, write-ahead log included, bytes.
    pub fn bytes_on_disk(&self) -> u64 {
        let wal = PathBuf::from(format!("{}-wal", self.path.display()));
        [&*self.path, &*wal].iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Runs `work` on a read-only connection. It sees one moment of the database if it uses one transaction.
    pub(super) fn read<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, FlywheelError> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|mut connection| work(&mut connection))
            .map_err(|error| self.error(doing, &error))
    }

    /// Runs `work` on a connection that may write and whose commits survive a power cut: for the rare, important ones.
    pub(super) fn write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, FlywheelError> {
        self.connect_for_writing("FULL")
            .and_then(|mut connection| work(&mut connection))
            .map_err(|error| self.error(doing, &error))
    }

    /// The batch writer's connection. A killed process loses no commit; a power cut may lose those since the last
    /// checkpoint, never damage the file: syncing five times a second is not worth more. It inserts what belongs together and
    /// deletes nothing, so SQLite need not look for the other end of each reference; and what it inserts was checked before, so
    /// SQLite need not build a table of the allowed words for each row, which is a third of an answer's cost.
    pub(super) fn connect_batch_writer(&self, max_bytes: Option<u64>) -> Result<Connection, FlywheelError> {
        self.connect_for_writing("NORMAL")
            .and_then(|connection| {
                connection.pragma_update(None, "foreign_keys", false)?;
                connection.pragma_update(None, "ignore_check_constraints", true)?;
                if let Some(max_bytes) = max_bytes {
                    limit_size(&connection, max_bytes)?;
                }
                Ok(connection)
            })
            .map_err(|error| self.error("opening the database for writing", &error))
    }

    pub(super) fn error(&self, doing: &'static str, error: &rusqlite::Error) -> FlywheelError {
        FlywheelError::sqlite(&self.path, doing, error)
    }

    /// Looks at the file through a read-only connection, so that a refused one is not even checkpointed.
    fn admit(&self) -> Result<(), FlywheelError> {
        if !self.path.exists() {
            return Ok(());
        }
        let path = self.path.to_path_buf();
        let known = i64::try_from(migrate::MIGRATIONS.len()).unwrap_or(i64::MAX);
        match self.read("opening the database", |connection| migrate::inspect(connection))? {
            Found::Empty => Ok(()),
            Found::Ours(found) if found <= known => Ok(()),
            Found::Ours(found) => Err(FlywheelError::Newer { path, found, known }),
            Found::Foreign => Err(FlywheelError::Foreign { path }),
        }
    }

    fn upgrade(&self) -> rusqlite::Result<()> {
        let mut connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        self.keep_private();
        // Both take effect in an empty file only; the second is what lets `prune` give pages back without rewriting the file.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migrate::migrate(&mut connection, migrate::MIGRATIONS)
    }

    /// Prompts, and the configuration with its keys, are in the file: only its owner may read it. SQLite gives the mode on to
    /// the files beside it. A file system without modes has nothing to set.
    fn keep_private(&self) {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600));
    }

    fn connect_for_writing(&self, synchronous: &str) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
        Ok(connection)
    }

    fn connect(&self, flags: OpenFlags) -> rusqlite::Result<Connection> {
        // Each connection stays on one thread, so SQLite need not lock it.
        let mut connection = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_handler(Some(wait_for_lock))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    }
}

/// True when the file this connection writes to is no longer the one at its path: what it writes would be lost.
pub(super) fn has_moved(connection: &Connection) -> bool {
    let mut has_moved = 0;
    let asked = connection.file_control(None::<&str>, FileControl::HasMoved(&mut has_moved));
    asked.is_ok() && has_moved != 0
}

fn limit_size(connection: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    let page_bytes: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let max_pages = u32::try_from(max_bytes / u64::from(page_bytes)).unwrap_or(u32::MAX).max(1);
    connection.pragma(None, "max_page_count", max_pages, |_| Ok(()))
}

/// SQLite's busy handler: true to try again, after a moment.
fn wait_for_lock(n_attempts: i32) -> bool {
    std::thread::sleep(LOCK_POLL);
    n_attempts < MAX_LOCK_POLLS
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

#[cfg(test)]
mod tests {
    use super::super::FILE_NAME;
    use super::*;

    fn refusal(bytes_or_sql: Result<&[u8], &str>) -> (FlywheelError, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        match bytes_or_sql {
            Ok(bytes) => std::fs::write(&path, bytes).unwrap(),
            Err(sql) => Connection::open(&path).unwrap().execute_batch(sql).unwrap(),
        }
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        (error, std::fs::read(&path).unwrap() == before)
    }

    #[test]
    fn a_new_file_is_created_and_opens_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        for _ in 0..2 {
            let store = Store::open(&path).unwrap();
            assert_eq!(store.integrity().unwrap(), Vec::<String>::new());
            let pragma = |name: &str| -> String {
                store
                    .read("test", |c| {
                        c.query_row(&format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}"), [], |r| r.get(0))
                    })
                    .unwrap()
            };
            assert_eq!(pragma("journal_mode"), "wal");
            assert_eq!(pragma("auto_vacuum"), "2");
            assert_eq!(pragma("foreign_keys"), "1");
        }
    }

    #[test]
    fn a_newer_database_is_refused_unchanged() {
        let sql = format!(
            "PRAGMA application_id = {}; PRAGMA user_version = 999; CREATE TABLE future (x);",
            migrate::APPLICATION_ID
        );
        let (error, unchanged) = refusal(Err(&sql));
        assert!(matches!(error, FlywheelError::Newer { found: 999, .. }), "{error}");
        assert!(unchanged);
    }

    #[test]
    fn a_strangers_database_is_refused_unchanged() {
        let (error, unchanged) = refusal(Err("CREATE TABLE bookmarks (url TEXT)"));
        assert!(matches!(error, FlywheelError::Foreign { .. }), "{error}");
        assert!(unchanged);
    }

    #[test]
    fn a_corrupt_file_is_refused_unchanged_and_says_what_to_do() {
        let (error, unchanged) = refusal(Ok(&[b'x'; 8192]));
        assert!(matches!(error, FlywheelError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("Move the file away"), "{error}");
        assert!(unchanged);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").join(FILE_NAME);
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("none") && error.contains("folder exists"), "{error}");
    }

    #[test]
    fn two_openers_of_a_new_file_both_succeed() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE_NAME);
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                let open = || {
                    start.wait();
                    Store::open(&path).map(|_| ())
                };
                let openers: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                for opener in openers {
                    opener.join().unwrap().unwrap();
                }
            });
        }
    }
}
