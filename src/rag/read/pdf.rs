//! PDF: the text of all pages as headings, paragraphs and list items, with the title and author the file names.
//!
//! A PDF is a program for drawing pages, and half of those in the world are somewhat broken. So the work is done on a
//! thread of its own with a large stack, a time limit and a limit on what may be unpacked; a panic in the library costs the
//! page it happened on, not the process. `lopdf` parses the objects and decrypts them; what a page shows is found out here
//! (`content`, `font`), how characters become lines and lines paragraphs (`lines`, `layout`).

mod bounds;
mod cmap;
mod content;
mod font;
mod layout;
mod lines;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use lopdf::encryption::DecryptionError;
use lopdf::{Dictionary, LoadOptions, Object};

use super::Limits;
use super::blocks::clean;
use super::error::ReadError;
use crate::rag::document::Document;
use content::Interpreter;

/// Parsers of nested structures recurse; only what is touched of this becomes memory.
const STACK_BYTES: usize = 64 << 20;

/// # Errors
/// The PDF is encrypted, broken, too large or too slow, or has no text.
pub fn read(bytes: &[u8], limits: &Limits) -> Result<Document, ReadError> {
    let (sender, receiver) = mpsc::channel();
    let (owned, own_limits) = (bytes.to_vec(), limits.clone());
    let reader = thread::Builder::new().name("pdf reader".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let found = catch_unwind(AssertUnwindSafe(|| read_here(&owned, &own_limits)));
        // Nobody listens any more if it took too long.
        let _ = sender.send(found.unwrap_or_else(|_| Err(broken("its structure makes no sense"))));
    });
    if let Err(error) = reader {
        return Err(broken(format!("no thread could be started to read it: {error}")));
    }
    match receiver.recv_timeout(limits.pdf_time) {
        Ok(found) => found,
        Err(RecvTimeoutError::Timeout) => Err(ReadError::PdfTooSlow { time: limits.pdf_time }),
        Err(RecvTimeoutError::Disconnected) => Err(broken("its reader ended early")),
    }
}

fn read_here(bytes: &[u8], limits: &Limits) -> Result<Document, ReadError> {
    let deadline = Instant::now() + limits.pdf_time;
    let pdf = load(bytes)?;
    // A broken tree of pages may name a page again and again.
    let mut seen = HashSet::new();
    let ids: Vec<_> = pdf.page_iter().filter(|id| seen.insert(*id)).collect();
    if ids.is_empty() {
        return Err(broken("it has no pages"));
    }
    if ids.len() > limits.max_pdf_pages {
        return Err(ReadError::TooManyPages { pages: ids.len(), limit: limits.max_pdf_pages });
    }
    let mut interpreter = Interpreter::new(&pdf, limits, deadline);
    let (mut pages, mut unreadable) = (Vec::with_capacity(ids.len()), Vec::new());
    for (id, number) in ids.iter().zip(1..) {
        match catch_unwind(AssertUnwindSafe(|| interpreter.page(*id))) {
            Ok(Ok(page)) => pages.push(page),
            Ok(Err(content::Stop::TooSlow)) => return Err(ReadError::PdfTooSlow { time: limits.pdf_time }),
            Ok(Err(content::Stop::TooLarge)) => {
                return Err(ReadError::UnpacksTooLarge { limit: limits.max_unpacked_bytes });
            }
            Err(_) => unreadable.push(number.to_string()),
        }
    }
    let (blocks, heading) = layout::blocks(pages);
    if blocks.is_empty() {
        return Err(match unreadable.len() {
            n if n == ids.len() => broken("none of its pages can be read"),
            _ => ReadError::PdfNeedsOcr { pages: ids.len() },
        });
    }
    let (title, mut metadata) = info(&pdf);
    metadata.insert("pages".to_owned(), ids.len().to_string());
    if !unreadable.is_empty() {
        tracing::warn!(pages = unreadable.join(", "), "Pages of a PDF are broken and were left out.");
        metadata.insert("unreadable_pages".to_owned(), unreadable.join(", "));
    }
    let title = title.or(heading).unwrap_or_default();
    Ok(Document { key: String::new(), title, blocks: blocks.into_vec(), metadata })
}

fn load(bytes: &[u8]) -> Result<lopdf::Document, ReadError> {
    let options = LoadOptions::with_filter(bounds::keep);
    let pdf = lopdf::Document::load_mem_with_options(bytes, options).map_err(|error| match error {
        lopdf::Error::InvalidPassword => ReadError::PdfEncrypted,
        lopdf::Error::Decryption(error) => encryption(&error),
        error => broken(error.to_string()),
    })?;
    // The library has tried the empty password, with which most encrypted files open.
    if pdf.is_encrypted() {
        return Err(match pdf.authenticate_password("") {
            Err(lopdf::Error::Decryption(error)) => encryption(&error),
            Err(lopdf::Error::UnsupportedSecurityHandler(name)) => {
                ReadError::PdfEncryption { what: String::from_utf8_lossy(&name).into_owned() }
            }
            _ => ReadError::PdfEncrypted,
        });
    }
    Ok(pdf)
}

fn encryption(error: &DecryptionError) -> ReadError {
    match error {
        DecryptionError::IncorrectPassword => ReadError::PdfEncrypted,
        other => ReadError::PdfEncryption { what: other.to_string() },
    }
}

/// Title and metadata out of the information dictionary.
fn info(pdf: &lopdf::Document) -> (Option<String>, BTreeMap<String, String>) {
    let mut metadata = BTreeMap::new();
    let info = pdf.trailer.get(b"Info").ok().and_then(|info| dictionary(pdf, info));
    let Some(info) = info else { return (None, metadata) };
    let field = |key: &[u8]| {
        let (_, value) = pdf.dereference(info.get(key).ok()?).ok()?;
        Some(clean(&lopdf::decode_text_string(value).ok()?)).filter(|value| !value.is_empty())
    };
    for (key, name) in [(&b"Author"[..], "author"), (b"Subject", "subject"), (b"Keywords", "keywords")] {
        if let Some(value) = field(key) {
            metadata.insert(name.to_owned(), value);
        }
    }
    // D:20240131120000+01'00'
    if let Some(date) = field(b"CreationDate")
        && let Some(digits) = date.trim_start_matches("D:").get(..8).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
    {
        metadata.insert("date".to_owned(), format!("{}-{}-{}", &digits[..4], &digits[4..6], &digits[6..]));
    }
    (field(b"Title").and_then(|title| sensible_title(&title)), metadata)
}

/// Programs put names of files and defaults of templates where the title should be.
fn sensible_title(title: &str) -> Option<String> {
    let title = title.strip_prefix("Microsoft Word - ").unwrap_or(title).trim();
    let lower = title.to_lowercase();
    let is_file = [".doc", ".docx", ".dvi", ".tex", ".indd", ".qxd", ".pdf", ".ppt", ".pptx", ".xls", ".rtf", ".odt"]
        .iter()
        .any(|extension| lower.ends_with(extension));
    let is_default =
        ["untitled", "title", "document", "document1", "powerpoint presentation", "无标题"].contains(&lower.as_str());
    (!is_file && !is_default && title.chars().any(char::is_alphabetic)).then(|| title.to_owned())
}

fn dictionary<'a>(pdf: &'a lopdf::Document, object: &'a Object) -> Option<&'a Dictionary> {
    match pdf.dereference(object).ok()?.1 {
        Object::Dictionary(dictionary) => Some(dictionary),
        Object::Stream(stream) => Some(&stream.dict),
        _ => None,
    }
}

/// A member of a dictionary, with references followed.
fn member<'a>(pdf: &'a lopdf::Document, dictionary: &'a Dictionary, key: &[u8]) -> Option<&'a Object> {
    pdf.dereference(dictionary.get(key).ok()?).ok().map(|(_, object)| object)
}

fn number(object: &Object) -> Option<f64> {
    match object {
        #[expect(clippy::cast_precision_loss, reason = "coordinates are small")]
        Object::Integer(value) => Some(*value as f64),
        Object::Real(value) => Some(f64::from(*value)),
        _ => None,
    }
}

fn broken(what: impl Into<String>) -> ReadError {
    ReadError::PdfBroken { what: what.into() }
}
