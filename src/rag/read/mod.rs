//! Files into documents: chooses a reader by media type, file name and content, and turns what it finds into
//! [`Document`]s of headings, paragraphs, list items, code and table rows.
//!
//! `rag::ingest` and the HTTP API call [`read`]. Readers work on bytes in memory, never touch the file system or the
//! network, and never panic: bad input is a [`ReadError`] that says what to do. They do not know the file's path; who
//! calls adds it to the message.

mod blocks;
mod detect;
mod docx;
mod encoding;
mod error;
mod html;
mod jsonl;
mod markdown;
mod pdf;
mod row;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::time::Duration;

use super::document::{Block, Document};
pub use detect::Format;
pub use error::ReadError;

/// What one file may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_file_bytes: usize,
    /// Rows of CSV and JSONL, elements of a JSON array.
    pub max_documents: usize,
    /// What a compressed file (DOCX, the streams of a PDF) may unpack to.
    pub max_unpacked_bytes: usize,
    pub max_pdf_pages: usize,
    /// A PDF that takes longer is given up.
    pub pdf_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: 100 << 20,
            max_documents: 1_000_000,
            max_unpacked_bytes: 256 << 20,
            max_pdf_pages: 10_000,
            pdf_time: Duration::from_secs(60),
        }
    }
}

/// The documents in a file: one for most formats, one per row for tables. A whole file's document has an empty key and,
/// if the file names no title, the file's name without its extension as title.
///
/// `name` is the file's name or path (only its last part is looked at), `media_type` what an HTTP client or server said.
///
/// # Errors
/// The file is empty, too large, of no known type, not what its name says, encrypted or broken, or a row is bad.
pub fn read(name: &str, media_type: Option<&str>, bytes: &[u8], limits: &Limits) -> Result<Vec<Document>, ReadError> {
    limits.check_size(bytes.len() as u64)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ReadError::Empty);
    }
    let format = detect::detect(name, media_type, bytes)?;
    let charset = media_type.and_then(detect::charset);
    let text = || encoding::decode(bytes, charset);
    let documents = match format {
        Format::Pdf => vec![pdf::read(bytes, limits)?],
        Format::Docx => vec![docx::read(bytes, limits)?],
        Format::Html => vec![html::read(&encoding::decode_html(bytes, charset)?)?],
        Format::Markdown => vec![markdown::read(&text()?)?],
        Format::Code => vec![text::read_code(&text()?)],
        Format::Text => vec![text::read(&text()?)],
        Format::Csv => table::read(&text()?, None, limits)?,
        Format::Tsv => table::read(&text()?, Some(b'\t'), limits)?,
        Format::Jsonl | Format::Json => jsonl::read(&text()?, format == Format::Jsonl, limits)?,
    };
    if documents.iter().all(|document| document.blocks.is_empty()) {
        return Err(ReadError::NoText);
    }
    Ok(documents.into_iter().map(|document| titled(document, name)).collect())
}

/// Plain text as blocks.
pub fn paragraphs(text: &str) -> Vec<Block> {
    text::blocks(text)
}

impl Limits {
    /// Spares the reading of a file that is too large.
    ///
    /// # Errors
    /// It is.
    pub fn check_size(&self, bytes: u64) -> Result<(), ReadError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.max_file_bytes {
            return Err(ReadError::TooLarge { bytes, limit: self.max_file_bytes });
        }
        Ok(())
    }
}

fn titled(mut document: Document, name: &str) -> Document {
    if document.title.is_empty() && document.key.is_empty() {
        document.title = blocks::clean(detect::stem(name));
    }
    document
}
