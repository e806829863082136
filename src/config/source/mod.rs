//! The configuration folder as it lies on disk: reading it into raw objects, and noticing that it changed.
//!
//! Layout of a Higress standalone installation: `<root>/<plural>/<name>.yaml`, one object per file, written as
//! `<file>.tmp` and renamed.

mod files;
mod object;
mod scan;
mod secret;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::model::ObjectRef;
use super::problem::Problem;

pub use files::{Folder, flattened};
pub use secret::tls_secret;
pub use watch::Watcher;
pub use write::{FileContent, replace, try_to_write};

/// One YAML object as written. Only its place (kind, namespace, name) is checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RawObject {
    /// Kind, namespace, name, and the file relative to the folder.
    pub origin: ObjectRef,
    /// The whole object; shared, because an unchanged file is not parsed again.
    pub value: Arc<Value>,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// Whether a text in it may name a Secret's; looked for once, because most objects have none and stay as they are.
    pub has_references: bool,
}

/// What one reading of the folder found.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Sorted by file.
    pub objects: Vec<RawObject>,
    pub problems: Vec<Problem>,
}

/// The folder itself is of no use; faults of single files are [`Problem`]s.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("configuration folder {path} cannot be read: {error}; create it, or name another with --config-dir")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("configuration folder {path} cannot be watched for changes: {error}")]
    Unwatchable { path: PathBuf, error: notify::Error },
}
