//! Which reader a file needs: by what the client declared, then by the file's name, then by the bytes themselves.

use super::error::ReadError;

/// What the readers understand, for messages.
pub const SUPPORTED: &str = "PDF, DOCX, HTML, Markdown, plain text, CSV, TSV, JSON or JSONL";

/// Bytes that are looked at where the whole file would be too much.
const HEAD_BYTES: usize = 4_096;

/// A format with a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Pdf,
    Docx,
    Html,
    Markdown,
    Text,
    /// Source code and configuration: text whose line breaks matter.
    Code,
    Csv,
    Tsv,
    Json,
    Jsonl,
}

impl Format {
    fn words(self) -> &'static str {
        match self {
            Self::Pdf => "a PDF",
            Self::Docx => "a Word document (.docx)",
            Self::Html => "HTML",
            Self::Markdown => "Markdown",
            Self::Text => "plain text",
            Self::Code => "source code",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Json => "JSON",
            Self::Jsonl => "JSONL",
        }
    }
}

/// # Errors
/// No reader knows the format, or the content contradicts what the file is declared or named as.
pub fn detect(name: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Format, ReadError> {
    let declared = media_type.and_then(by_media_type).or_else(|| by_extension(name));
    match (declared, by_content(bytes)) {
        (None, Content::Known(format)) => Ok(format),
        (None, Content::OldOffice) => Err(ReadError::OfficeBinary),
        (None, Content::Foreign(found)) => Err(ReadError::UnknownType { found }),
        (None, Content::Text) => Ok(Format::Text),
        (Some(Format::Docx), Content::OldOffice) => Err(ReadError::OfficeBinary),
        // Damaged beyond recognition: the reader for it says what is missing.
        (Some(format @ (Format::Pdf | Format::Docx)), Content::Foreign(_) | Content::Text) => Ok(format),
        (Some(format), Content::Foreign(found)) => {
            Err(ReadError::NotText { expected: format.words(), what: found.to_owned() })
        }
        (Some(format), Content::OldOffice) => {
            Err(ReadError::NotText { expected: format.words(), what: "an old Office file".to_owned() })
        }
        // A web page called .txt is read as one; the reverse, tags shown as text, helps nobody.
        (Some(Format::Text), Content::Known(Format::Html)) => Ok(Format::Html),
        (Some(format), Content::Known(found)) if found != format && !(is_text(found) && is_text(format)) => {
            Err(ReadError::Mismatch { expected: format.words(), found: found.words() })
        }
        (Some(format), _) => Ok(format),
    }
}

/// The `charset` parameter of a media type.
pub fn charset(media_type: &str) -> Option<&str> {
    media_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })
}

/// The last part of a path without its extension.
pub fn stem(name: &str) -> &str {
    let file = file_name(name);
    match file.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file,
    }
}

fn file_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

fn is_text(format: Format) -> bool {
    !matches!(format, Format::Pdf | Format::Docx)
}

/// `None` for types that say little (`application/octet-stream`, `text/plain`), so that the name may say more.
fn by_media_type(media_type: &str) -> Option<Format> {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Some(match essence.as_str() {
        "application/pdf" | "application/x-pdf" => Format::Pdf,
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => Format::Docx,
        "text/html" | "application/xhtml+xml" => Format::Html,
        "text/markdown" | "text/x-markdown" => Format::Markdown,
        "text/csv" | "application/csv" => Format::Csv,
        "text/tab-separated-values" => Format::Tsv,
        "application/json" | "text/json" => Format::Json,
        "application/jsonl" | "application/x-ndjson" | "application/ndjson" | "application/x-jsonlines" => {
            Format::Jsonl
        }
        _ => return None,
    })
}

fn by_extension(name: &str) -> Option<Format> {
    let (_, extension) = file_name(name).rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "pdf" => Format::Pdf,
        "docx" | "docm" => Format::Docx,
        "html" | "htm" | "xhtml" => Format::Html,
        "md" | "markdown" | "mdx" | "mkd" => Format::Markdown,
        "txt" | "text" | "rst" | "adoc" => Format::Text,
        "log" | "yaml" | "yml" | "toml" | "ini" | "conf" | "sh" | "py" | "rs" | "go" | "js" | "ts" | "java" | "c"
        | "h" | "cpp" | "cc" | "cs" | "rb" | "php" | "sql" | "proto" | "css" => Format::Code,
        "csv" => Format::Csv,
        "tsv" | "tab" => Format::Tsv,
        "json" => Format::Json,
        "jsonl" | "ndjson" => Format::Jsonl,
        _ => return None,
    })
}

enum Content {
    Known(Format),
    /// The container of .doc, .xls, .ppt and of password-protected .docx.
    OldOffice,
    /// Recognised, and nothing we read.
    Foreign(&'static str),
    /// No signature of anything else; whether it is text at all, decoding finds out.
    Text,
}

fn by_content(bytes: &[u8]) -> Content {
    let head = bytes.get(..HEAD_BYTES).unwrap_or(bytes);
    // Readers of PDF accept some bytes before the signature, and files in the wild have them; a text about the format
    // has the signature too, but nothing that is not text.
    let is_binary = std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some());
    if head.starts_with(b"%PDF-") || is_binary && contains(head.get(..1_024).unwrap_or(head), b"%PDF-") {
        return Content::Known(Format::Pdf);
    }
    if head.starts_with(b"PK\x03\x04") {
        return in_zip(bytes);
    }
    if head.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return Content::OldOffice;
    }
    for (magic, found) in FOREIGN {
        if head.starts_with(magic) {
            return Content::Foreign(found);
        }
    }
    let start: Vec<u8> =
        head.iter().skip_while(|byte| !byte.is_ascii_graphic()).take(16).map(u8::to_ascii_lowercase).collect();
    if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
        return Content::Known(Format::Html);
    }
    Content::Text
}

/// Office formats are zip archives that differ in the parts inside. Names stand uncompressed in the archive, so that
/// looking for them is enough to tell the formats apart; whether the archive is whole, its reader finds out.
fn in_zip(bytes: &[u8]) -> Content {
    for (part, content) in [
        (&b"word/document"[..], Content::Known(Format::Docx)),
        (b"xl/workbook", Content::Foreign("an Excel workbook")),
        (b"ppt/presentation", Content::Foreign("a PowerPoint presentation")),
        (b"mimetypeapplication/epub", Content::Foreign("an e-book (EPUB)")),
        (b"opendocument.text", Content::Foreign("an OpenDocument text")),
    ] {
        if contains(bytes, part) {
            return content;
        }
    }
    Content::Foreign("a zip archive")
}

const FOREIGN: [(&[u8], &str); 15] = [
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF89a", "a GIF image"),
    (b"GIF87a", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh9", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript file"),
];

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
