//! What can go wrong with the flywheel's file. Nobody's request fails because of these: they reach the operator.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Says which file, what it means and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FlywheelError {
    /// The file is damaged or was never a database.
    #[error(
        "{path}: not a readable database ({reason}). Move the file away and start again with an empty one, or restore a backup; \
         `sqlite3 {path} .recover` may save rows"
    )]
    Corrupt { path: PathBuf, reason: String },
    /// The file is a database of something else.
    #[error("{path}: an SQLite database, but not one of Weirgate's. Nothing was changed; choose another data folder")]
    Foreign { path: PathBuf },
    /// The file was written by a later release.
    #[error(
        "{path}: schema version {found}, this binary knows up to {known}. Nothing was changed; start the newer release, \
         or restore the backup made before the upgrade"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// Any other refusal by the storage.
    #[error("{path}: {doing} failed: {reason}. {advice}")]
    Storage { path: PathBuf, doing: &'static str, reason: String, advice: &'static str },
    /// The writer has stopped; see `Counters::state`.
    #[error("the flywheel does not store anything now: {0}")]
    Suspended(String),
    /// `close` was called, or the writer thread is gone.
    #[error("the flywheel is closed; records are no longer accepted")]
    Closed,
    /// Reading an import or writing an export.
    #[error("{doing} failed: {source}")]
    Io { doing: &'static str, source: std::io::Error },
    /// No such row.
    #[error("router version {0} does not exist; `weirgate router list` shows those that do")]
    NoSuchVersion(i64),
    /// No such snapshot of the configuration.
    #[error("configuration {0} is not in the history; `weirgate config history` shows those that are")]
    NoSuchConfig(i64),
    /// Rollback where nothing serves.
    #[error("no version of router `{0}` serves, the shipped seed decides: there is nothing to roll back")]
    NothingToRollBack(String),
}

impl FlywheelError {
    /// Turns SQLite's answer into ours. `doing` completes "… failed".
    pub(super) fn sqlite(path: &std::path::Path, doing: &'static str, error: &rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, reason },
            code => Self::Storage { path, doing, reason, advice: advice(code) },
        }
    }
}

/// True when the record is at fault and the next one may well be stored; false when the storage is.
pub(super) fn is_refusal(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => {
            matches!(code, ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        }
        None => matches!(error, rusqlite::Error::ToSqlConversionFailure(_)),
    }
}

fn advice(code: Option<ErrorCode>) -> &'static str {
    match code {
        Some(ErrorCode::DiskFull) => {
            // Deleting rows needs a little room for the write-ahead log before it gives any back.
            "The disk or the configured size limit is full: free a few megabytes, then run `weirgate flywheel prune`"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "The file or its folder cannot be written: check owner, mode and mount"
        }
        Some(ErrorCode::CannotOpen) => "Check that the folder exists and that this user may write in it",
        Some(ErrorCode::SystemIoFailure) => "Check the disk and the kernel log",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "Another process holds the write lock: wait for it, or stop it"
        }
        _ => "This is unexpected: please report it",
    }
}
