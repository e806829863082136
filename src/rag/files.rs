//! Files as clients upload them, kept until they are deleted: a folder each, with the bytes and a description.
//!
//! Called by `api`, which attaches them to knowledge bases. A file is there whole or not at all: it is written beside its place and moved.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::RagError;

/// The uploaded files of the process, and what became of the latest batches of them.
pub struct Files {
    dir: PathBuf,
    cleaned: OnceCell<()>,
    batches: Mutex<VecDeque<FileBatch>>,
}

/// What is known of a file beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub id: String,
    pub filename: String,
    /// What the client said it is for.
    pub purpose: String,
    pub bytes: u64,
    /// Unix time in seconds.
    pub created_at: i64,
}

/// Files that were attached to a knowledge base together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBatch {
    pub id: String,
    pub base: String,
    /// Unix time in seconds.
    pub created_at: i64,
    pub files: Vec<Attached>,
}

/// A file of a batch, and why it could not be read if it could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub file: String,
    pub error: Option<String>,
}

/// Batches that are remembered: a client asks what became of one right after it made it.
const BATCHES: usize = 1_000;

const CONTENT: &str = "content";
const DESCRIPTION: &str = "file.json";
/// What the folder of a file that is being written begins with.
const UNFINISHED: &str = ".new-";

impl Files {
    /// Makes nothing yet.
    pub fn new(dir: PathBuf) -> Files {
        Files { dir, cleaned: OnceCell::new(), batches: Mutex::default() }
    }

    /// Keeps a file under a new id.
    ///
    /// # Errors
    /// The folder cannot be written; nothing of the file is left then.
    pub async fn store(&self, filename: &str, purpose: &str, bytes: &[u8]) -> Result<FileInfo, RagError> {
        self.cleaned.get_or_init(|| self.remove_unfinished()).await;
        let info = FileInfo {
            id: format!("file-{}", Uuid::now_v7().simple()),
            filename: filename.to_owned(),
            purpose: purpose.to_owned(),
            bytes: bytes.len() as u64,
            created_at: now(),
        };
        let unfinished = self.dir.join(format!("{UNFINISHED}{}", info.id));
        let written = write(&unfinished, &self.dir.join(&info.id), &info, bytes).await;
        if let Err(error) = written {
            // What was written so far takes room that may be what is missing.
            let _ = fs::remove_dir_all(&unfinished).await;
            return Err(failed(&format!("\"{filename}\" cannot be kept"), &error));
        }
        Ok(info)
    }

    /// What a process that was stopped while it wrote has left.
    async fn remove_unfinished(&self) {
        let Ok(mut entries) = fs::read_dir(&self.dir).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path()).await;
            }
        }
    }

    /// All, oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn list(&self) -> Result<Vec<FileInfo>, RagError> {
        let unreadable = |error: &std::io::Error| failed("the uploaded files cannot be listed", error);
        let mut entries = match fs::read_dir(&self.dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&error)),
        };
        let mut ids = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(|error| unreadable(&error))? {
            ids.extend(entry.file_name().to_str().filter(|name| is_id(name)).map(str::to_owned));
        }
        // Ids begin with the time.
        ids.sort_unstable();
        let mut files = Vec::with_capacity(ids.len());
        for id in ids {
            match self.info(&id).await {
                Ok(info) => files.push(info),
                // Deleted in the meantime.
                Err(RagError::UnknownFile(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// # Errors
    /// There is no such file, or it cannot be read.
    pub async fn info(&self, id: &str) -> Result<FileInfo, RagError> {
        let text = self.read(id, DESCRIPTION).await?;
        serde_json::from_slice(&text)
            .map_err(|error| RagError::Failed(format!("the description of the file {id}: {error}")))
    }

    /// The bytes as they were uploaded.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub async fn content(&self, id: &str) -> Result<Vec<u8>, RagError> {
        self.read(id, CONTENT).await
    }

    async fn read(&self, id: &str, part: &str) -> Result<Vec<u8>, RagError> {
        let unknown = || RagError::UnknownFile(id.to_owned());
        if !is_id(id) {
            return Err(unknown());
        }
        fs::read(self.dir.join(id).join(part)).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => unknown(),
            _ => failed(&format!("the file {id} cannot be read"), &error),
        })
    }

    /// # Errors
    /// There is no such file, or it cannot be deleted.
    pub async fn remove(&self, id: &str) -> Result<(), RagError> {
        self.info(id).await?;
        let removed = fs::remove_dir_all(self.dir.join(id)).await;
        removed.map_err(|error| failed(&format!("the file {id} cannot be deleted"), &error))
    }

    /// Remembers what became of a batch, under a new id.
    pub fn remember(&self, base: &str, files: Vec<Attached>) -> FileBatch {
        let id = format!("vsfb_{}", Uuid::now_v7().simple());
        let batch = FileBatch { id, base: base.to_owned(), created_at: now(), files };
        let mut batches = self.batches.lock();
        if batches.len() == BATCHES {
            batches.pop_front();
        }
        batches.push_back(batch.clone());
        batch
    }

    /// A batch of this process that was attached to this knowledge base.
    pub fn batch(&self, base: &str, id: &str) -> Option<FileBatch> {
        self.batches.lock().iter().find(|batch| batch.id == id && batch.base == base).cloned()
    }
}

/// Whether this is the id of an uploaded file, be it there or not. Nothing else may become part of a path.
pub fn is_id(id: &str) -> bool {
    id.strip_prefix("file-").is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

async fn write(unfinished: &Path, place: &Path, info: &FileInfo, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(unfinished).await?;
    let description = serde_json::to_vec(info)?;
    for (name, content) in [(CONTENT, bytes), (DESCRIPTION, &description)] {
        let mut file = fs::File::create(unfinished.join(name)).await?;
        file.write_all(content).await?;
        file.sync_all().await?;
    }
    fs::rename(unfinished, place).await
}

fn failed(what: &str, error: &std::io::Error) -> RagError {
    let advice =
        if error.kind() == ErrorKind::StorageFull { ". Free some space, or delete files, and try again" } else { "" };
    RagError::Failed(format!("{what}: {error}{advice}"))
}

fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_comes_back_as_it_was_until_it_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("files"));
        assert_eq!(files.list().await.unwrap(), []);
        let first = files.store("a.txt", "assistants", b"one\0two").await.unwrap();
        let second = files.store("a.txt", "assistants", b"").await.unwrap();
        assert_eq!((first.bytes, files.content(&first.id).await.unwrap()), (7, b"one\0two".to_vec()));
        assert_eq!(files.list().await.unwrap(), [first.clone(), second.clone()]);
        files.remove(&first.id).await.unwrap();
        assert_eq!(Files::new(dir.path().join("files")).list().await.unwrap(), [second]);
        for gone in [files.info(&first.id).await.map(drop), files.remove(&first.id).await] {
            assert!(matches!(gone, Err(RagError::UnknownFile(_))), "{gone:?}");
        }
    }

    #[tokio::test]
    async fn an_id_is_never_a_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(DESCRIPTION), "{}").unwrap();
        let files = Files::new(dir.path().join("files"));
        for id in [
            "..",
            "../",
            "",
            "file-",
            "file-../../../../../../../../etc/passwd0",
            "file-0123456789abcdef0123456789abcde/",
        ] {
            assert!(matches!(files.remove(id).await, Err(RagError::UnknownFile(_))), "{id}");
        }
        assert!(dir.path().join(DESCRIPTION).exists());
    }

    #[tokio::test]
    async fn what_a_stopped_process_left_is_no_file_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".new-file-0123456789abcdef0123456789abcdef");
        std::fs::create_dir(&left).unwrap();
        let files = Files::new(dir.path().to_owned());
        assert_eq!(files.list().await.unwrap(), []);
        files.store("a.txt", "assistants", b"a").await.unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn old_batches_are_forgotten() {
        let files = Files::new(PathBuf::new());
        let first = files.remember("pets", Vec::new());
        assert_eq!(files.batch("pets", &first.id), Some(first.clone()));
        assert_eq!(files.batch("other", &first.id), None);
        for _ in 0..BATCHES {
            files.remember("pets", Vec::new());
        }
        assert_eq!(files.batch("pets", &first.id), None);
    }
}
