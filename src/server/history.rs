//! Writes down each configuration that was applied. A history that cannot be written costs the way back, never traffic.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{Folder, RawObject};
use crate::flywheel::{Digest, FileChange, Files, Flywheel, Store};

/// What was recorded last, so that only differences are written.
pub struct History {
    store: Option<Store>,
    recorded: Files<Digest>,
}

impl History {
    pub fn open(flywheel: Option<&Flywheel>) -> History {
        let store = flywheel.map(|flywheel| flywheel.store().clone());
        let newest = store.as_ref().map(Store::newest_config).transpose();
        let recorded = newest.unwrap_or_else(|error| {
            tracing::warn!(%error, "The history of the configuration cannot be read");
            None
        });
        History { store, recorded: recorded.flatten().map(|(_, files)| files).unwrap_or_default() }
    }

    /// Records that these objects of the folder are in force.
    pub fn record(&mut self, objects: &[RawObject], folder: &Folder, summary: &str) {
        let Some(store) = &self.store else { return };
        let files: BTreeMap<String, (&Path, Digest)> = objects
            .iter()
            .map(|object| (object.origin.file.as_path(), object.digest))
            .map(|(file, digest)| (file.to_string_lossy().into_owned(), (file, digest)))
            .collect();
        let mut changes: Files<FileChange> = Files::new();
        for (path, (file, digest)) in &files {
            if self.recorded.get(path) != Some(digest)
                && let Some(content) = folder.content(file)
            {
                changes.insert(path.clone(), FileChange::Written { digest: *digest, content: content.to_vec() });
            }
        }
        let gone = self.recorded.keys().filter(|path| !files.contains_key(*path));
        changes.extend(gone.map(|path| (path.clone(), FileChange::Removed)));
        if changes.is_empty() {
            return;
        }
        match store.record_config(&changes, summary) {
            Ok(id) => {
                tracing::debug!(id, files = changes.len(), "Configuration recorded");
                self.recorded = files.into_iter().map(|(path, (_, digest))| (path, digest)).collect();
            }
            Err(error) => {
                tracing::warn!(%error, "The configuration is in force, but not in the history; no rollback leads to it");
            }
        }
    }
}
