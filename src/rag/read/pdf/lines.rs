//! Characters on a page into lines, and which of the lines are not the document's text: headers, footers, tables of
//! contents.

use std::collections::{HashMap, HashSet};

use crate::rag::read::blocks::{clean, is_spaceless};

// These are fractions of the font size.
/// A gap between two words.
const WORD_GAP: f64 = 0.15;
/// A gap between two Chinese characters that is meant as one: characters are often set apart to fill a line.
const WIDE_GAP: f64 = 0.9;
/// How far a character may be off the line's baseline and still be on it (exponents, indices).
pub const BASELINE_SHIFT: f64 = 0.45;
/// How far a character may go back (kerning, accents).
const MAX_STEP_BACK: f64 = 0.6;
/// Pages from which lines that repeat are taken for headers and footers.
const MIN_PAGES_TO_REPEAT: usize = 3;
/// Lines at the top and bottom of a page that may be headers and footers.
const N_EDGE_LINES: usize = 2;

/// A character where it stands on the page.
pub struct Glyph<'a> {
    pub x: f64,
    pub y: f64,
    /// Where the line it is on goes.
    pub direction: (f64, f64),
    pub width: f64,
    pub size: f64,
    pub text: &'a str,
}

/// The lines of a page in the order in which they are drawn, which is nearly always that of reading.
#[derive(Debug, Default)]
pub struct Page {
    lines: Vec<Line>,
}

/// Text on one baseline.
#[derive(Debug, Clone)]
pub struct Line {
    pub text: String,
    pub left: f64,
    pub right: f64,
    pub baseline: f64,
    pub size: f64,
    /// In quarter turns; the coordinates are as if the page were turned back.
    pub turn: u8,
}

impl Page {
    pub fn add(&mut self, glyph: &Glyph<'_>) {
        if glyph.text.is_empty() || !(glyph.x.is_finite() && glyph.y.is_finite() && glyph.size > 0.0) {
            return;
        }
        let (right, up) = glyph.direction;
        let (turn, x, y) = match (right.abs() >= up.abs(), right >= 0.0, up >= 0.0) {
            (true, true, _) => (0, glyph.x, glyph.y),
            (false, _, true) => (1, glyph.y, -glyph.x),
            (true, false, _) => (2, -glyph.x, -glyph.y),
            (false, _, false) => (3, -glyph.y, glyph.x),
        };
        if let Some(line) = self.lines.last_mut() {
            let size = line.size.max(glyph.size);
            let is_on_line = line.turn == turn
                && (y - line.baseline).abs() < BASELINE_SHIFT * size
                && x > line.right - MAX_STEP_BACK * size;
            if is_on_line {
                line.add(glyph, x, y);
                return;
            }
        }
        if glyph.text.trim().is_empty() {
            return;
        }
        self.lines.push(Line {
            text: glyph.text.to_owned(),
            left: x,
            right: x + glyph.width,
            baseline: y,
            size: glyph.size,
            turn,
        });
    }

    /// The lines whose text is one. Bold print is sometimes made by drawing a line twice.
    pub fn finished(self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::with_capacity(self.lines.len());
        for mut line in self.lines {
            // A soft hyphen is seen only where it parts a word.
            if let Some(head) = line.text.trim_end().strip_suffix('\u{ad}') {
                line.text = format!("{head}-");
            }
            line.text = clean(&line.text);
            let is_again = lines.last().is_some_and(|last| {
                let near = |a: f64, b: f64| (a - b).abs() < 0.2 * line.size;
                last.text == line.text && near(last.left, line.left) && near(last.baseline, line.baseline)
            });
            if !line.text.is_empty() && !is_again && !is_contents_entry(&line.text) {
                lines.push(line);
            }
        }
        lines
    }
}

/// An entry of a table of contents: dots lead to the number of a page. Headings say the same where it matters.
fn is_contents_entry(text: &str) -> bool {
    let dots = |c: char| matches!(c, '.' | ':' | '·' | '…' | '_');
    let rest = text.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, 'i' | 'v' | 'x' | ' '));
    let leader: Vec<char> = rest.chars().rev().filter(|c| *c != ' ').take_while(|c| dots(*c)).collect();
    rest.len() < text.len() && (leader.len() >= 4 || leader.contains(&'…'))
}

impl Line {
    fn add(&mut self, glyph: &Glyph<'_>, x: f64, y: f64) {
        let gap = x - self.right;
        let is_spaceless_pair =
            self.text.chars().next_back().is_some_and(is_spaceless) && glyph.text.starts_with(is_spaceless);
        let least = if is_spaceless_pair { WIDE_GAP } else { WORD_GAP };
        if gap > least * glyph.size.max(self.size * 0.5) && !self.text.ends_with(' ') {
            self.text.push(' ');
        }
        self.text.push_str(glyph.text);
        self.right = self.right.max(x + glyph.width);
        // The baseline is that of the larger characters, not of an exponent.
        if glyph.size > self.size && !glyph.text.trim().is_empty() {
            (self.size, self.baseline) = (glyph.size, y);
        }
    }

    pub fn n_chars(&self) -> usize {
        self.text.chars().count()
    }

    /// Font sizes are compared in half points.
    pub fn size_class(&self) -> u32 {
        size_class(self.size)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small positive number")]
fn size_class(size: f64) -> u32 {
    (size * 2.0).round().clamp(1.0, 10_000.0) as u32
}

/// Lines at the edges of pages that are the same on most of them but for numbers.
pub fn drop_headers_and_footers(pages: &mut [Vec<Line>]) {
    if pages.len() < MIN_PAGES_TO_REPEAT {
        return;
    }
    let mut counts: HashMap<(bool, String), usize> = HashMap::new();
    for lines in &*pages {
        let found: HashSet<_> = edges(lines).into_iter().map(|(_, key)| key).collect();
        for key in found {
            *counts.entry(key).or_default() += 1;
        }
    }
    // Left and right pages often have headers of their own.
    let n_enough = (pages.len() * 2 / 5).max(MIN_PAGES_TO_REPEAT);
    for lines in pages {
        let dropped: HashSet<usize> = edges(lines)
            .into_iter()
            .filter(|(_, key)| counts.get(key).is_some_and(|count| *count >= n_enough))
            .map(|(n, _)| n)
            .collect();
        let mut n = 0..;
        lines.retain(|_| n.next().is_some_and(|n| !dropped.contains(&n)));
    }
}

/// The lines at the top (`true`) and bottom of a page, with what identifies them on other pages.
fn edges(lines: &[Line]) -> Vec<(usize, (bool, String))> {
    let mut by_height: Vec<(usize, &Line)> = lines.iter().enumerate().collect();
    by_height.sort_by(|a, b| b.1.baseline.total_cmp(&a.1.baseline));
    let key = |line: &Line| {
        let mut key = String::new();
        for c in line.text.chars() {
            match c {
                '0'..='9' if key.ends_with('#') => {}
                '0'..='9' => key.push('#'),
                _ => key.push(c),
            }
        }
        key
    };
    let top = by_height.iter().take(N_EDGE_LINES).map(|(n, line)| (*n, (true, key(line))));
    let bottom = by_height.iter().rev().take(N_EDGE_LINES).map(|(n, line)| (*n, (false, key(line))));
    top.chain(bottom).collect()
}
