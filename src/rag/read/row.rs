//! A row of named fields into a document, by the same rules for CSV, JSONL and JSON: which field is the id, the title, the
//! text, and what happens to the others.

use std::collections::HashMap;

use super::blocks::{Blocks, clean, row_text};
use super::error::ReadError;
use super::{Limits, text};
use crate::rag::document::{BlockKind, Document};

/// Names that are understood, best first; compared without regard to case.
const ID: [&str; 8] = ["id", "_id", "doc_id", "docid", "document_id", "uuid", "编号", "文档编号"];
const TITLE: [&str; 4] = ["title", "name", "标题", "名称"];
const TEXT: [&str; 8] = ["text", "content", "body", "contents", "passage", "正文", "内容", "文本"];

/// Fields that become metadata, and characters of each.
const MAX_METADATA: usize = 64;
const MAX_METADATA_CHARS: usize = 256;

/// The documents of a table, row by row.
pub struct Rows<'a> {
    limits: &'a Limits,
    documents: Vec<Document>,
    /// Where each id was seen first.
    seen: HashMap<String, usize>,
}

impl<'a> Rows<'a> {
    pub fn new(limits: &'a Limits) -> Self {
        Self { limits, documents: Vec::new(), seen: HashMap::new() }
    }

    /// Adds the document of one row; `row` is its number as its file counts. A row without any text adds none.
    ///
    /// # Errors
    /// There are too many rows, or the id was seen before.
    pub fn push(&mut self, row: usize, fields: Vec<(String, String)>) -> Result<(), ReadError> {
        if self.documents.len() >= self.limits.max_documents {
            return Err(ReadError::TooManyDocuments { limit: self.limits.max_documents });
        }
        let Some(mut document) = document(fields) else {
            tracing::debug!(row, "A row without text was left out.");
            return Ok(());
        };
        if document.key.is_empty() {
            document.key = row.to_string();
        }
        if let Some(first) = self.seen.insert(document.key.clone(), row) {
            return Err(ReadError::DuplicateId { id: document.key, first, row });
        }
        self.documents.push(document);
        Ok(())
    }

    pub fn into_documents(self) -> Vec<Document> {
        self.documents
    }
}

/// The text of its text field, or, if it has none, all its fields written out; what is not text is metadata.
fn document(mut fields: Vec<(String, String)>) -> Option<Document> {
    fields.retain(|(_, value)| !value.trim().is_empty());
    let key = take(&mut fields, &ID).map(|id| clean(&id)).unwrap_or_default();
    let body = take(&mut fields, &TEXT);
    let mut blocks = body.map(|body| text::blocks(&body)).unwrap_or_default();
    let title =
        position(&fields, &TITLE).and_then(|n| fields.get(n)).map(|(_, title)| clean(title)).unwrap_or_default();
    if !blocks.is_empty() {
        take(&mut fields, &TITLE);
    }
    let long: Vec<(String, String)> =
        fields.iter().filter(|(_, value)| value.chars().count() > MAX_METADATA_CHARS).cloned().collect();
    if !blocks.is_empty() {
        // Beside a field of text these would be nowhere.
        let mut written = Blocks::default();
        for (column, value) in &long {
            written.push(BlockKind::Paragraph, &format!("{column}: {value}"));
        }
        blocks.extend(written.into_vec());
    }
    if blocks.is_empty() {
        let (columns, values): (Vec<String>, Vec<String>) = fields.iter().cloned().unzip();
        let mut written = Blocks::default();
        written.push(BlockKind::TableRow, &row_text(&columns, &values));
        blocks = written.into_vec();
    }
    // Metadata go with each chunk; what is long is text, and stands there.
    fields.retain(|(_, value)| value.chars().count() <= MAX_METADATA_CHARS);
    let metadata = fields.into_iter().take(MAX_METADATA).collect();
    (!blocks.is_empty()).then_some(Document { key, title, blocks, metadata })
}

fn take(fields: &mut Vec<(String, String)>, names: &[&str]) -> Option<String> {
    position(fields, names).map(|n| fields.remove(n).1)
}

fn position(fields: &[(String, String)], names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| fields.iter().position(|(field, _)| field.trim().eq_ignore_ascii_case(name)))
}
