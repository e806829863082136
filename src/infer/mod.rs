//! Models that run inside the process: their files, and the forward pass. The only place that knows candle and tokenizers.
//!
//! ```text
//! manifest.toml ── Library (models_dir) ── list, verify, fetch        commands
//!                         └── Engine ── loads once, in the background; a bounded pool of its own ── Embedder, CrossEncoder
//! ```
//!
//! Called by `server` (the engine of the process, behind `Host`), `learning` (vectors of training prompts) and `cli`. Knows
//! nothing of prompts, routes or requests, and never runs on a proxy thread.

mod attention;
mod bench;
mod cross_encoder;
mod embedder;
mod encoder;
mod engine;
mod fetch;
mod folder;
mod kernel;
mod library;
mod linear;
mod manifest;
#[cfg(test)]
pub mod testing;
mod weights;

use std::io;
use std::path::{Path, PathBuf};

pub use bench::{Row, bench};
pub use cross_encoder::{Blend, Blends, CrossEncoder, Description};
pub use embedder::{Embedder, SentenceEmbedder};
pub use encoder::Hidden;
pub use engine::{Engine, Reply};
pub use fetch::{Source, fetch};
pub use library::{Library, State};
pub use linear::Precision;
pub use manifest::{Manifest, Model};

/// The model that turns prompts into vectors.
pub const SENTENCE_MODEL: &str = "all-minilm-l6-v2";

/// The cross-encoder that reads questions and passages together. It has no entry in the manifest: the program carries it, and a folder
/// of this name takes its place.
pub const RERANKER: &str = "weirgate-reranker";

/// The command that puts a model's file where it was looked for.
fn command(file: &Path) -> String {
    match file.ancestors().nth(2) {
        Some(models_dir) => format!("`weirgate models --models-dir {} fetch`", models_dir.display()),
        None => "`weirgate models fetch`".to_owned(),
    }
}

/// Why a model cannot be used, or its files not be got.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    #[error("{path}: {error}; {} installs it", command(.path), path = .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{path} cannot be used: {what}; {} installs a good one", command(.path), path = .path.display())]
    Broken { path: PathBuf, what: String },
    #[error(
        "{path} is not the file it should be: SHA-256 {found}, expected {expected}; {} installs the right one", command(.path), path = .path.display()
    )]
    Checksum { path: PathBuf, expected: String, found: String },
    #[error("the model could not be run: {0}")]
    Run(String),
    #[error("{0}")]
    Load(String),
    #[error("the model is not loaded")]
    NotLoaded,
    #[error("{0} texts wait to be embedded already")]
    Busy(usize),
    #[error("no model is named \"{name}\"; there is {known}")]
    Unknown { name: String, known: String },
    #[error("{path}: {error}", path = .path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Fetch(String),
}
