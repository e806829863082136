//! DOCX: a zip archive of XML parts. Read are the main text with its headings, lists and tables, the notes, and the title
//! and author in the core properties.

mod body;
mod styles;

use std::io::{Cursor, Read};

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;
use zip::ZipArchive;
use zip::result::ZipError;

use super::Limits;
use super::blocks::clean;
use super::error::ReadError;
use crate::rag::document::{BlockKind, Document};

/// # Errors
/// The archive or a part of it is broken, unpacks to too much, or has no main text.
pub fn read(bytes: &[u8], limits: &Limits) -> Result<Document, ReadError> {
    let mut package = Package::open(bytes, limits)?;
    let main = package.main_part()?;
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder);
    let beside = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let styles = match package.part(&beside("styles.xml"))? {
        Some(xml) => styles::read(&xml)?,
        None => styles::Styles::default(),
    };
    let xml = package.part(&main)?.ok_or_else(|| broken("its main part is missing"))?;
    let body::Body { mut blocks, title } = body::read(&xml, &styles)?;
    for notes in ["footnotes.xml", "endnotes.xml"] {
        if let Some(xml) = package.part(&beside(notes))? {
            blocks.append(body::read(&xml, &styles)?.blocks);
        }
    }
    let mut document = Document::default();
    if let Some(xml) = package.part("docProps/core.xml")? {
        properties(&xml, &mut document)?;
    }
    if document.title.is_empty() {
        document.title = if title.is_empty() { blocks.first_heading().unwrap_or_default().to_owned() } else { title };
    }
    document.blocks = blocks.into_vec();
    Ok(document)
}

/// The archive, and what it may still unpack to.
struct Package<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    bytes_left: usize,
    limit: usize,
}

impl<'a> Package<'a> {
    fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, ReadError> {
        let archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| broken(error.to_string()))?;
        Ok(Self { archive, bytes_left: limits.max_unpacked_bytes, limit: limits.max_unpacked_bytes })
    }

    /// The text of a part; `None` if there is no such part.
    fn part(&mut self, name: &str) -> Result<Option<String>, ReadError> {
        let file = match self.archive.by_name(name) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(ZipError::InvalidPassword | ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)) => {
                return Err(ReadError::OfficeBinary);
            }
            Err(error) => return Err(broken(format!("{name}: {error}"))),
        };
        // The size the archive claims is not trusted: what comes out is counted.
        let mut unpacked = Vec::new();
        let budget = u64::try_from(self.bytes_left).unwrap_or(u64::MAX).saturating_add(1);
        file.take(budget).read_to_end(&mut unpacked).map_err(|error| broken(format!("{name}: {error}")))?;
        self.bytes_left =
            self.bytes_left.checked_sub(unpacked.len()).ok_or(ReadError::UnpacksTooLarge { limit: self.limit })?;
        super::encoding::decode(&unpacked, None)
            .map(|text| Some(text.into_owned()))
            .map_err(|_| broken(format!("{name} is no XML")))
    }

    /// Where the package says its main part is; nearly always `word/document.xml`.
    fn main_part(&mut self) -> Result<String, ReadError> {
        let mut main = None;
        if let Some(xml) = self.part("_rels/.rels")? {
            parse(&xml, |event| {
                if let Tagged::Open("Relationship", tag) = event
                    && attribute(tag, "Type").is_some_and(|kind| kind.ends_with("/officeDocument"))
                {
                    main = attribute(tag, "Target").map(|target| target.trim_start_matches('/').to_owned());
                }
            })?;
        }
        Ok(main.unwrap_or_else(|| "word/document.xml".to_owned()))
    }
}

/// What happens in an XML part, with names that lack their prefixes: the strict and the transitional variant of the format
/// differ in nothing but their namespaces.
#[derive(Clone, Copy)]
enum Tagged<'a, 'b> {
    Open(&'a str, &'a BytesStart<'b>),
    Close(&'a str),
    Text(&'a str),
}

/// Goes through an XML part; elements without content open and close.
fn parse(xml: &str, mut visit: impl FnMut(Tagged<'_, '_>)) -> Result<(), ReadError> {
    let mut reader = Reader::from_str(xml.trim_start_matches('\u{feff}'));
    loop {
        match reader.read_event().map_err(|error| broken(error.to_string()))? {
            Event::Start(tag) => visit(Tagged::Open(tag.local_name().as_ref(), &tag)),
            Event::Empty(tag) => {
                visit(Tagged::Open(tag.local_name().as_ref(), &tag));
                visit(Tagged::Close(tag.local_name().as_ref()));
            }
            Event::End(tag) => visit(Tagged::Close(tag.local_name().as_ref())),
            Event::Text(text) => visit(Tagged::Text(&text)),
            Event::CData(text) => visit(Tagged::Text(&text)),
            Event::GeneralRef(reference) => {
                if let Some(c) = character(&reference) {
                    visit(Tagged::Text(c.encode_utf8(&mut [0; 4])));
                }
            }
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

/// The five entities of XML and numbered characters; others would have to be declared, which Word never does.
fn character(reference: &BytesRef<'_>) -> Option<char> {
    match &**reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => reference.resolve_char_ref().ok().flatten(),
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = tag.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(found.normalized_value(quick_xml::XmlVersion::Implicit1_0).ok()?.into_owned())
}

/// Title, author and the like.
fn properties(xml: &str, document: &mut Document) -> Result<(), ReadError> {
    let mut text = String::new();
    let mut title = String::new();
    let mut metadata = Vec::new();
    parse(xml, |event| match event {
        Tagged::Open(..) => text.clear(),
        Tagged::Text(more) => text.push_str(more),
        Tagged::Close(name) => {
            let value = clean(&text);
            text.clear();
            let field = match name {
                "title" => {
                    title = value;
                    return;
                }
                "creator" => "author",
                "subject" | "description" | "keywords" | "language" | "category" => name,
                "modified" => "date",
                _ => return,
            };
            if !value.is_empty() {
                metadata.push((field.to_owned(), value));
            }
        }
    })?;
    document.title = title;
    document.metadata.extend(metadata);
    Ok(())
}

fn broken(what: impl Into<String>) -> ReadError {
    ReadError::DocxBroken { what: what.into() }
}

/// What a paragraph's style makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Block(BlockKind),
    /// Tables of contents and the like: they repeat the headings.
    Skipped,
}
