//! A document in passages that are embedded, indexed and given out one by one. Called at ingest.
//!
//! The order of concern: a passage is about one section; it holds whole sentences, rows and lines; it is about as long
//! as its neighbours. Must not read or write anything, and the same document and settings always give the same
//! passages, because passages that did not change are not embedded again.

mod sections;

use std::borrow::Cow;

use self::sections::{Section, sections};
use super::document::{Chunk, Document};

/// How long passages are. Both in characters, as Higress counts `chunk_size` and `chunk_overlap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSettings {
    /// Longest text of a passage, without its header.
    pub size: usize,
    /// How much of a passage's end is repeated at the beginning of the next one of the same section, in whole
    /// sentences: none where the last sentence is longer.
    pub overlap: usize,
}

impl Default for ChunkSettings {
    /// The sentence model reads 256 tokens. English has 4 to 4.5 characters a token, so that 800 characters are 180 to
    /// 200 tokens and leave room for the header and for text with rarer words. Higress' 500 would leave half of it
    /// empty and tear apart what belongs together. 120 is a sentence of ordinary length.
    fn default() -> Self {
        Self { size: 800, overlap: 120 }
    }
}

/// A smaller size is taken for this one: below it there is not a sentence in a passage.
pub const MIN_SIZE: usize = 50;

/// Passages shorter than a quarter of the size are put together with a neighbour where that is possible.
const TINY_PART: usize = 4;

/// What is never cut: a sentence, a row, a line of code, or a part of one that is longer than a passage.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece<'a> {
    /// What stands before it when it does not begin a passage.
    glue: &'static str,
    text: Cow<'a, str>,
    n_chars: usize,
    /// It makes sense twice: a sentence, not a row, a line of code or a heading.
    repeatable: bool,
}

impl Piece<'_> {
    fn n_glued(&self) -> usize {
        self.glue.len() + self.n_chars
    }
}

/// The passages of `document`, in order. None if it has no text.
pub fn chunks(document: &Document, settings: &ChunkSettings) -> Vec<Chunk> {
    let size = settings.size.max(MIN_SIZE);
    let overlap = settings.overlap.min(size / 2);
    let mut chunks = Vec::new();
    for section in sections(document, size) {
        let header = header(&document.title, &section);
        for passage in passages(&section.pieces, size, overlap) {
            let index = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
            chunks.push(Chunk { index, header: header.clone(), text: text(&passage) });
        }
    }
    chunks
}

/// Title and headings, each once: the first heading of many documents is their title.
fn header(title: &str, section: &Section<'_>) -> String {
    /// Characters of a title that say what a document is about; some have a whole abstract there.
    const MAX_TITLE_CHARS: usize = 150;
    /// Headings nearest to the text: as many as HTML has levels. Broken documents nest without end.
    const MAX_HEADINGS: usize = 6;
    let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
    let title = title.char_indices().nth(MAX_TITLE_CHARS).map_or(title.as_str(), |(end, _)| title[..end].trim_end());
    let nearest = section.path.len().saturating_sub(MAX_HEADINGS);
    let mut parts = vec![title];
    for (_, heading) in &section.path[nearest..] {
        if parts.last().is_some_and(|last| last != heading) {
            parts.push(heading);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" > ")
}

/// The pieces of one section in passages of at most `size`, of about equal length.
fn passages<'p, 'a>(pieces: &'p [Piece<'a>], size: usize, overlap: usize) -> Vec<Vec<&'p Piece<'a>>> {
    let total: usize = pieces.iter().map(Piece::n_glued).sum();
    // Two passages of 500 say more than one of 800 and one of 200.
    let target = total.div_ceil(total.div_ceil(size).max(1));
    let mut done: Vec<Vec<&Piece<'a>>> = Vec::new();
    let mut passage: Vec<&Piece<'a>> = Vec::new();
    // How many pieces of `passage` the one before has as well.
    let mut n_repeated = 0;
    for piece in pieces {
        let length = n_chars(&passage);
        let is_full = length + piece.n_glued() > size;
        // Past the target when the piece would carry it further away than stopping here leaves it short.
        let is_enough = length + piece.n_glued() / 2 > target;
        if passage.len() > n_repeated && (is_full || is_enough) {
            let repeated = repeated(&passage, piece, size, overlap);
            done.push(std::mem::replace(&mut passage, repeated));
            n_repeated = passage.len();
        }
        passage.push(piece);
    }
    match done.last_mut() {
        // The rest is a scrap that fits into the passage before it.
        Some(last)
            if n_chars(&passage[n_repeated..]) < size / TINY_PART
                && n_chars(last) + passage[n_repeated..].iter().map(|piece| piece.n_glued()).sum::<usize>() <= size =>
        {
            last.extend_from_slice(&passage[n_repeated..]);
        }
        _ => done.push(passage),
    }
    done.retain(|passage| !passage.is_empty());
    done
}

/// The last sentences of `passage` that the next one, which `next` comes first in, begins with: at most `overlap`
/// characters, and not all of it.
fn repeated<'p, 'a>(passage: &[&'p Piece<'a>], next: &Piece<'a>, size: usize, overlap: usize) -> Vec<&'p Piece<'a>> {
    let mut from = passage.len();
    while from > 1 {
        let candidate = &passage[from - 1..];
        let length = n_chars(candidate);
        if !passage[from - 1].repeatable || length > overlap || length + next.n_glued() > size {
            break;
        }
        from -= 1;
    }
    passage[from..].to_vec()
}

fn n_chars(passage: &[&Piece<'_>]) -> usize {
    let glue = passage.first().map_or(0, |first| first.glue.len());
    passage.iter().map(|piece| piece.n_glued()).sum::<usize>() - glue
}

fn text(passage: &[&Piece<'_>]) -> String {
    let mut text = String::new();
    for piece in passage {
        if !text.is_empty() {
            text.push_str(piece.glue);
        }
        text.push_str(&piece.text);
    }
    text
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
