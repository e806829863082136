//! The folder of model files (`models_dir`): what is there, and whether it is what the manifest says.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest::{self, Model};
use super::{InferError, RERANKER};

/// `models_dir`.
#[derive(Debug, Clone)]
pub struct Library {
    dir: PathBuf,
}

/// How a model lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Present,
    Missing { file: PathBuf },
    Corrupt { file: PathBuf, what: String },
}

impl Library {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the files of a model lie.
    pub fn folder(&self, model: &Model) -> PathBuf {
        self.dir.join(&model.name)
    }

    /// Where a reranker lies that takes the place of the one that the program carries.
    pub fn reranker(&self) -> PathBuf {
        self.dir.join(RERANKER)
    }

    /// By the names and sizes of the files: instantaneous, and finds what is missing or cut off.
    pub fn glance(&self, model: &Model) -> State {
        self.state(model, |path, file| match path.metadata() {
            Ok(found) if found.len() == file.bytes => Ok(()),
            Ok(found) => Err(InferError::Broken {
                path: path.to_owned(),
                what: format!("it has {} bytes and should have {}", found.len(), file.bytes),
            }),
            Err(error) => Err(InferError::Read { path: path.to_owned(), error }),
        })
    }

    /// By the contents of the files.
    pub fn inspect(&self, model: &Model) -> State {
        self.state(model, check)
    }

    /// # Errors
    /// The first file that is missing or is another one than the manifest says.
    pub fn verify(&self, model: &Model) -> Result<(), InferError> {
        model.files.iter().try_for_each(|file| check(&self.folder(model).join(&file.name), file))
    }

    fn state(&self, model: &Model, check: impl Fn(&Path, &manifest::File) -> Result<(), InferError>) -> State {
        for file in &model.files {
            let path = self.folder(model).join(&file.name);
            match check(&path, file) {
                Ok(()) => {}
                Err(InferError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                    return State::Missing { file: path };
                }
                Err(error) => return State::Corrupt { file: path, what: error.to_string() },
            }
        }
        State::Present
    }
}

/// Compares a file with what it has to be.
///
/// # Errors
/// It cannot be read, or its checksum differs.
pub fn check(path: &Path, file: &manifest::File) -> Result<(), InferError> {
    let found = sha256(path).map_err(|error| InferError::Read { path: path.to_owned(), error })?;
    if found == file.sha256 {
        return Ok(());
    }
    Err(InferError::Checksum { path: path.to_owned(), expected: file.sha256.clone(), found })
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digest.update(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::testing::{CONTENT, small_model};

    #[test]
    fn files_are_present_missing_cut_off_or_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (library, model) = (Library::new(dir.path()), small_model());
        let path = dir.path().join("small/weights");
        assert_eq!(library.glance(&model), State::Missing { file: path.clone() });
        std::fs::create_dir(dir.path().join("small")).unwrap();
        std::fs::write(&path, CONTENT).unwrap();
        assert_eq!((library.glance(&model), library.inspect(&model)), (State::Present, State::Present));
        std::fs::write(&path, &CONTENT[1..]).unwrap();
        assert!(matches!(library.glance(&model), State::Corrupt { what, .. } if what.contains("bytes")));
        std::fs::write(&path, CONTENT.to_ascii_uppercase()).unwrap();
        assert_eq!(library.glance(&model), State::Present);
        let error = library.verify(&model).unwrap_err().to_string();
        for part in ["small/weights", &model.files[0].sha256, " fetch`"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
