//! `models/manifest.toml`: what each model consists of and where it comes from. Compiled in, so that the program knows
//! which bytes it was tested with.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::InferError;

/// All models the program knows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

/// One model: a folder of files.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Also the name of its folder.
    pub name: String,
    pub task: String,
    pub about: String,
    pub licence: String,
    /// Who published it, under which name.
    pub origin: String,
    /// Python package that carries the files, its version, and their folder inside.
    pub package: String,
    pub version: String,
    pub folder: String,
    #[serde(rename = "file")]
    pub files: Vec<File>,
}

/// One file as it has to be.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    /// Hexadecimal, lower case.
    pub sha256: String,
}

static MANIFEST: LazyLock<Manifest> = LazyLock::new(|| {
    toml::from_str(include_str!("../../models/manifest.toml")).unwrap_or(Manifest { models: Vec::new() })
});

impl Manifest {
    /// The manifest the program was built with.
    pub fn shipped() -> &'static Manifest {
        &MANIFEST
    }

    /// # Errors
    /// No model has that name.
    pub fn model(&self, name: &str) -> Result<&Model, InferError> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| InferError::Unknown {
            name: name.to_owned(),
            known: self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

impl Model {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_manifest_is_whole() {
        let parsed: Manifest = toml::from_str(include_str!("../../models/manifest.toml")).unwrap();
        assert!(!parsed.models.is_empty());
        for model in &parsed.models {
            for file in &model.files {
                let is_hex = file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit());
                assert!(is_hex && file.bytes > 0 && !file.name.contains('/'), "{}: {}", model.name, file.name);
            }
        }
        assert!(Manifest::shipped().model(super::super::SENTENCE_MODEL).is_ok());
        let error = Manifest::shipped().model("gpt").unwrap_err().to_string();
        assert!(error.contains("\"gpt\"") && error.contains("all-minilm-l6-v2"), "{error}");
    }
}
