//! Retrieval-augmented generation: documents in, cited passages and answers out.
//!
//! ```text
//! ingest:    read ── chunk ── terms, embed ── store                      one commit per batch of whole documents
//! question:  expand ── dense + lexical ── fusion ── second hop ── rerank ── correct ── compress ── answer
//! ```
//!
//! Called by `cli` (`weirgate rag`), `admin` and plugins through [`knowledge_base::Rag`]. Models that run in the process are reached through
//! `infer`; model providers and the web through traits that `server` implements (`ports`, `outside`). Knows no HTTP, no plugin, no route.

pub mod access;
pub mod answer;
pub mod api;
pub mod ask;
pub mod chunk;
pub mod compress;
pub mod context;
pub mod correct;
pub mod cross_encoder;
pub mod document;
pub mod embed;
pub mod expand;
pub mod files;
pub mod ingest;
pub mod knowledge_base;
pub mod outside;
pub mod overlap;
pub mod ports;
pub mod read;
pub mod retrieve;
#[cfg(test)]
pub mod scripted;
pub mod sentence;
pub mod store;
pub mod terms;
#[cfg(test)]
pub mod testing;
pub mod words;

pub use document::{Block, BlockKind, Chunk, Document};

/// Why something with documents did not work.
#[derive(Debug, thiserror::Error)]
pub enum RagError {
    #[error(
        "\"{0}\" cannot name a knowledge base: use 1 to 64 letters, digits, '-', '_' and '.', and begin with a letter or digit"
    )]
    Name(String),
    #[error("the knowledge base \"{0}\" exists already")]
    Exists(String),
    #[error("there is no knowledge base \"{name}\"; there is {}", if .known.is_empty() { "none yet, `weirgate rag ingest` makes one" } else { .known })]
    UnknownBase { name: String, known: String },
    #[error("there is no {what} \"{id}\" in the knowledge base \"{base}\"")]
    Unknown { what: &'static str, id: String, base: String },
    #[error("there is no uploaded file \"{0}\"; POST /v1/files stores one, GET /v1/files lists those there are")]
    UnknownFile(String),
    #[error(
        "vectors of {found} numbers do not fit: this knowledge base was made with the model \"{model}\", whose vectors have {expected}. Use that model again, or make the knowledge base anew"
    )]
    Dimensions { model: String, expected: usize, found: usize },
    #[error(
        "the knowledge base \"{base}\" was made with the embedding model \"{expected}\" and this process has \"{found}\"; their vectors do not compare. Use that model again, or make the knowledge base anew"
    )]
    Model { base: String, expected: String, found: String },
    #[error("knowledge base {place}: {error}")]
    Store { place: String, error: String },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NoPath(String),
    #[error("{0}")]
    Unreadable(String),
    #[error("another process writes to the knowledge base \"{0}\" at the moment; try again when it is done")]
    Busy(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
    /// Somebody outside ended an answer before its end.
    #[error("{0}. What came so far is incomplete; ask again")]
    Cut(String),
}

impl RagError {
    fn store(place: &str, error: &impl std::fmt::Display) -> RagError {
        let told = error.to_string();
        let known = KNOWN_CAUSES.iter().find(|(sign, _)| told.contains(sign));
        let mut error = known.map_or_else(|| without_source_place(&told), |(_, cause)| (*cause).to_owned());
        if error.contains(DISK_FULL) {
            error.push_str(". What was stored before is whole; free some space and do the same again");
        }
        RagError::Store { place: place.to_owned(), error }
    }
}

/// What object storage says, in the library's debugging form, and what it means.
const KNOWN_CAUSES: &[(&str, &str)] = &[
    ("NoSuchBucket", "there is no such bucket; make it, or check rag.storage"),
    ("InvalidAccessKeyId", "the storage does not know the access key; check AWS_ACCESS_KEY_ID"),
    ("SignatureDoesNotMatch", "the storage refuses the secret key; check AWS_SECRET_ACCESS_KEY"),
    ("AccessDenied", "the storage refuses the access; check the keys and what they may do in the bucket"),
    ("Error performing PUT http://169.254.169.254", NO_KEYS),
    ("InstanceCredential", NO_KEYS),
    ("MissingAccessKeyId", NO_KEYS),
    ("error sending request", "the storage cannot be reached; check rag.storage_endpoint and the network"),
];
const NO_KEYS: &str =
    "there are no keys for the storage; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role";

/// How the operating system says it (`ENOSPC`).
const DISK_FULL: &str = "os error 28";

/// What happened, without the places in the library's source that its errors end with: further lines, and `, /…/file.rs:1:2`.
fn without_source_place(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    let is_place =
        |tail: &str| tail.split_once(".rs:").is_some_and(|(_, at)| at.chars().all(|c| c.is_ascii_digit() || c == ':'));
    match first.rsplit_once(", ") {
        Some((said, tail)) if is_place(tail) => said.to_owned(),
        _ => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_store_say_what_happened_and_not_where_in_the_source() {
        let full = "lance error: LanceError(IO): No space left on device (os error 28), /home/a/lance-file/src/writer.rs:190:9\nmore";
        let told = RagError::store("base", &full).to_string();
        assert!(told.contains("No space left on device (os error 28). What was stored before is whole"), "{told}");
        assert!(!told.contains(".rs") && !told.contains("more"), "{told}");
        let other = RagError::store("base", &"not found, try b").to_string();
        assert_eq!(other, "knowledge base base: not found, try b");
    }
}
