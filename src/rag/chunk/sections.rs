//! A document as sections of pieces: what is below a heading and above the next one, with tiny neighbours put together.

use std::borrow::Cow;

use super::{Piece, TINY_PART};
use crate::rag::document::{Block, BlockKind, Document};
use crate::rag::sentence::{clauses, sentences};

/// Text under one heading.
#[derive(Debug, Default)]
pub struct Section<'a> {
    /// The headings above it with their levels, from the outermost.
    pub path: Vec<(u8, String)>,
    pub pieces: Vec<Piece<'a>>,
}

/// Longer headings are paragraphs that somebody made bold.
const MAX_HEADING_CHARS: usize = 150;

/// A section of a few words says nothing alone: it joins a neighbour of any length that has room.
const FEW_WORDS_CHARS: usize = 60;

/// The sections of `document` that have text. `size` is the longest passage.
pub fn sections(document: &Document, size: usize) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    let mut current = Section::default();
    for block in &document.blocks {
        match heading(block) {
            Some((level, text)) => {
                let mut path = current.path.clone();
                path.retain(|&(above, _)| above < level);
                path.push((level, text));
                finish(current, &path, size, &mut sections);
                current = Section { path, pieces: Vec::new() };
            }
            None => add(block, size, &mut current.pieces),
        }
    }
    finish(current, &[], size, &mut sections);
    joined(sections, size)
}

fn heading(block: &Block) -> Option<(u8, String)> {
    let BlockKind::Heading(level) = block.kind else { return None };
    let text = block.text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty() && text.chars().count() <= MAX_HEADING_CHARS).then_some((level, text))
}

/// Keeps `section` if it says anything. A heading with nothing below it, not even a lower heading, is text itself.
fn finish<'a>(mut section: Section<'a>, next: &[(u8, String)], size: usize, sections: &mut Vec<Section<'a>>) {
    if section.pieces.is_empty() && !next.starts_with(&section.path) {
        section.pieces = section.path.pop().map(|(_, text)| heading_pieces(&text, size)).unwrap_or_default();
    }
    if !section.pieces.is_empty() {
        sections.push(section);
    }
}

/// Cuts a block into pieces.
fn add<'a>(block: &'a Block, size: usize, pieces: &mut Vec<Piece<'a>>) {
    let text = block.text.as_str();
    let glue = match block.kind {
        BlockKind::ListItem | BlockKind::TableRow => "\n",
        _ => "\n\n",
    };
    let n_before = pieces.len();
    match block.kind {
        BlockKind::Code => {
            let mut glue = glue;
            for line in text.split('\n') {
                let line = line.trim_end();
                if line.is_empty() {
                    glue = "\n\n";
                } else if line.chars().count() <= size {
                    pieces.push(piece(line, glue, false));
                    glue = "\n";
                } else {
                    add_clauses(line, glue, size, false, pieces);
                    glue = "\n";
                }
            }
        }
        BlockKind::TableRow => add_clauses(text, glue, size, false, pieces),
        BlockKind::Paragraph | BlockKind::ListItem | BlockKind::Heading(_) => {
            let mut end = 0;
            for range in sentences(text) {
                let between = &text[end..range.start];
                end = range.end;
                let glue = match between {
                    _ if pieces.len() == n_before => glue,
                    "" => "",
                    _ if between.contains('\n') => "\n",
                    _ => " ",
                };
                add_clauses(&text[range], glue, size, true, pieces);
            }
        }
    }
}

/// `text` whole if it fits into a passage, else in parts that do.
fn add_clauses<'a>(text: &'a str, glue: &'static str, size: usize, repeatable: bool, pieces: &mut Vec<Piece<'a>>) {
    let mut end = 0;
    for range in clauses(text, size) {
        let glue = if end == 0 {
            glue
        } else if range.start > end {
            " "
        } else {
            ""
        };
        end = range.end;
        pieces.push(piece(&text[range], glue, repeatable));
    }
}

fn piece<'a>(text: &'a str, glue: &'static str, repeatable: bool) -> Piece<'a> {
    Piece { glue, text: Cow::Borrowed(text), n_chars: text.chars().count(), repeatable }
}

/// A heading as text. A small `size` may be shorter than a heading.
fn heading_pieces(text: &str, size: usize) -> Vec<Piece<'static>> {
    let parts = clauses(text, size).into_iter().enumerate();
    parts
        .map(|(index, range)| {
            let text = text[range].to_owned();
            let n_chars = text.chars().count();
            Piece { glue: if index == 0 { "\n\n" } else { " " }, text: Cow::Owned(text), n_chars, repeatable: false }
        })
        .collect()
}

fn n_chars(section: &Section<'_>) -> usize {
    section.pieces.iter().map(Piece::n_glued).sum()
}

/// Puts tiny sections together with the ones after them: their common headings stay, the others become lines of text.
fn joined(sections: Vec<Section<'_>>, size: usize) -> Vec<Section<'_>> {
    let mut joined: Vec<Section<'_>> = Vec::with_capacity(sections.len());
    let mut last_chars = 0;
    for section in sections {
        let next_chars = n_chars(&section);
        if let Some(last) = joined.last_mut() {
            let (shorter, longer) = (last_chars.min(next_chars), last_chars.max(next_chars));
            let is_tiny = longer < size / TINY_PART || shorter < FEW_WORDS_CHARS.min(size / TINY_PART);
            let n_common = last.path.iter().zip(&section.path).take_while(|(a, b)| a == b).count();
            let headings: usize = [&last.path, &section.path]
                .map(|path| path[n_common..].iter().map(|(_, heading)| heading.chars().count() + 3).sum::<usize>())
                .iter()
                .sum();
            if is_tiny && last_chars + next_chars + headings <= size {
                join(last, section, n_common, size);
                last_chars = n_chars(last);
                continue;
            }
        }
        last_chars = next_chars;
        joined.push(section);
    }
    joined
}

fn join<'a>(last: &mut Section<'a>, next: Section<'a>, n_common: usize, size: usize) {
    let pieces = std::mem::take(&mut last.pieces);
    let lines = |path: &[(u8, String)]| {
        let headings: Vec<&str> = path.iter().map(|(_, heading)| heading.as_str()).collect();
        heading_pieces(&headings.join(" > "), size)
    };
    for (path, pieces) in [(&last.path[n_common..], pieces), (&next.path[n_common..], next.pieces)] {
        let headings = lines(path);
        let has_heading = !headings.is_empty();
        last.pieces.extend(headings);
        last.pieces.extend(pieces.into_iter().enumerate().map(|(index, mut piece)| {
            if index == 0 {
                piece.glue = if has_heading { "\n" } else { "\n\n" };
            }
            piece
        }));
    }
    last.path.truncate(n_common);
}
