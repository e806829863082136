//! What can be wrong with a file, in words for who uploaded it.

use std::time::Duration;

use thiserror::Error;

use super::detect::SUPPORTED;

/// Why a file was not read. Every message says what was found, what it means and what to do; none names the file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    #[error("the file is empty; there is nothing to index, leave it out or check how it was written")]
    Empty,
    #[error(
        "the file has {} and the limit is {}; split it into smaller files",
        in_units(.bytes), in_units(.limit)
    )]
    TooLarge { bytes: usize, limit: usize },
    #[error("the file unpacks to more than {}, as files made to exhaust memory do; split the document if it is genuine",
        in_units(.limit))]
    UnpacksTooLarge { limit: usize },
    #[error("the file has more than {limit} rows; split it into several files")]
    TooManyDocuments { limit: usize },
    #[error("the PDF has {pages} pages and the limit is {limit}; split it into parts")]
    TooManyPages { pages: usize, limit: usize },
    #[error("the file is {found}, which cannot be read; convert it to one of: {}", SUPPORTED)]
    UnknownType { found: &'static str },
    #[error("the file is named or declared as {expected} but is {found}; give it its right name or media type")]
    Mismatch { expected: &'static str, found: &'static str },
    #[error(
        "the file is named or declared as {expected} but holds binary data ({what}), so it is no text; \
         give it its right name, or leave it out"
    )]
    NotText { expected: &'static str, what: String },
    #[error(
        "the text is declared as {declared:?} but {errors} places in it are not valid in that encoding; \
         save it as UTF-8 or declare the right encoding"
    )]
    WrongEncoding { declared: String, errors: usize },
    #[error("nothing readable was found in the file: it has only markup, navigation or white space; leave it out")]
    NoText,
    #[error("the markup is nested {depth} levels deep, which no genuine document needs; simplify it")]
    TooDeep { depth: usize },
    #[error(
        "too many formatting elements (b, i, font, a, ...) are left open, which every paragraph would repeat; close them"
    )]
    TooManyOpen,
    #[error("the PDF is encrypted and opens only with a password; save a copy without one and use that")]
    PdfEncrypted,
    #[error(
        "the PDF is encrypted in a way that is not supported ({what}); save a copy without encryption and use that"
    )]
    PdfEncryption { what: String },
    #[error("the PDF is broken ({what}); open it in a viewer and save it anew, or fetch it again")]
    PdfBroken { what: String },
    #[error(
        "the PDF has {pages} pages and no text on any of them: it is a scan, or its fonts do not say which characters \
         they draw; it needs OCR (text recognition) first"
    )]
    PdfNeedsOcr { pages: usize },
    #[error("the PDF was not read within {} seconds; split it, or save it anew with a simpler layout", .time.as_secs())]
    PdfTooSlow { time: Duration },
    #[error(
        "the Word document is protected by a password, or is of the old .doc format; \
         save it as .docx without a password"
    )]
    OfficeBinary,
    #[error("the Word document is broken ({what}); open it in Word or LibreOffice and save it anew")]
    DocxBroken { what: String },
    #[error("the first row must name the columns, and {what}; put a header row like `id,title,text` on top")]
    BadHeader { what: String },
    #[error("row {row} is bad: {what}; correct or remove the row")]
    BadRow { row: usize, what: String },
    #[error("rows {first} and {row} have the same id {id:?}; ids name documents, so each may occur once")]
    DuplicateId { id: String, first: usize, row: usize },
    #[error("the JSON cannot be read: {what}; it has to be an object, an array of objects, or one object per line")]
    BadJson { what: String },
}

fn in_units(bytes: &usize) -> String {
    match *bytes {
        0..1_024 => format!("{bytes} bytes"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
