//! A document as it was read, and a chunk as it is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a reader makes of a file, a row or an uploaded text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Names the document inside its source: empty for a whole file, the row's id for rows of CSV and JSONL.
    pub key: String,
    pub title: String,
    pub blocks: Vec<Block>,
    /// Further fields of a row or of a file's properties (author, language, ...); kept as metadata and filterable.
    pub metadata: BTreeMap<String, String>,
}

/// A piece of a document that belongs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub kind: BlockKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Level 1 is the highest. Headings begin a section; chunks carry the headings above them.
    Heading(u8),
    Paragraph,
    ListItem,
    /// Line breaks matter; split at line ends only.
    Code,
    /// One row of a table as `column: value; column: value`.
    TableRow,
}

/// A passage as it is embedded, indexed and given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Position in the document, from 0.
    pub index: u32,
    /// Title and headings above it, joined by " > "; indexed with the text, so that a passage says what it is about.
    pub header: String,
    pub text: String,
}
