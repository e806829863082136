//! Where the sentences of a text are. Called when documents are cut into passages and when passages are compressed.
//!
//! Works by rules, in one pass, for English and Chinese and reasonably for others. It prefers too long a sentence to
//! half of one: what is cut out here is shown, cited and scored by itself. Must not lose a character that is not white
//! space.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use super::terms::is_han;

/// Longest sentence in characters. What is longer is a table, a list without line breaks or no prose at all.
const MAX_SENTENCE_CHARS: usize = 1000;

/// A line of at least so many characters was broken because it was full, so that the sentence goes on in the next one.
const FULL_LINE_CHARS: usize = 50;
/// The same for Han, which is twice as wide.
const FULL_HAN_LINE_CHARS: usize = 20;

/// Byte ranges of the sentences of `text`: in order, not empty, without the white space between them, and together with
/// every character that is not white space.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let at = |index: usize| chars.get(index).map_or(text.len(), |&(at, _)| at);
    let mut found = Vec::new();
    let mut start = 0;
    for end in Scanner::new(&chars).ends().into_iter().chain([chars.len()]) {
        let whole = at(start)..at(end);
        start = end;
        for part in clauses(&text[whole.clone()], MAX_SENTENCE_CHARS) {
            found.push(whole.start + part.start..whole.start + part.end);
        }
    }
    found
}

/// `text` in pieces of at most `max_chars` characters, without the white space around them: as few as possible, cut
/// after clause punctuation, else at white space, else anywhere. Nothing of a text that is white space only.
pub(super) fn clauses(text: &str, max_chars: usize) -> Vec<Range<usize>> {
    let max_chars = max_chars.max(1);
    let mut pieces = Vec::new();
    let mut rest = trimmed(text, 0..text.len());
    while !rest.is_empty() {
        let piece = &text[rest.clone()];
        let Some((limit, _)) = piece.char_indices().nth(max_chars) else {
            pieces.push(rest);
            break;
        };
        // The first third is not searched: a comma there would make a scrap.
        let first = piece.char_indices().nth(max_chars / 3).map_or(0, |(at, _)| at);
        let cut = rest.start + clause_end(piece, first, limit);
        pieces.push(trimmed(text, rest.start..cut));
        rest = trimmed(text, cut..rest.end);
    }
    pieces
}

/// The last good place to cut in `first..=limit`, else `limit`.
fn clause_end(piece: &str, first: usize, limit: usize) -> usize {
    let mut space = None;
    let mut after = piece[limit..].chars().next();
    for (at, c) in piece[..limit].char_indices().rev().take_while(|&(at, _)| at >= first) {
        let is_clause_end = match c {
            '，' | '、' | '；' | '：' | '。' | '！' | '？' | '\n' => true,
            // Not inside 1,000 or 10:30 or a URL.
            ',' | ';' | ':' | '.' | '!' | '?' => after.is_some_and(char::is_whitespace),
            _ => false,
        };
        if is_clause_end {
            return at + c.len_utf8();
        }
        if space.is_none() && c.is_whitespace() {
            space = Some(at + c.len_utf8());
        }
        after = Some(c);
    }
    // A piece never begins with white space, so that a cut after white space leaves something before it.
    space.unwrap_or(limit)
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = &text[range.clone()];
    let start = range.start + (inside.len() - inside.trim_start().len());
    start..start + inside.trim().len()
}

struct Scanner<'a> {
    chars: &'a [(usize, char)],
    ends: Vec<usize>,
    /// Straight double quotes since the last end: an odd number means that one is open.
    n_quotes: usize,
    /// A text without capitals cannot say by them where a sentence begins.
    has_capitals: bool,
}

impl<'a> Scanner<'a> {
    fn new(chars: &'a [(usize, char)]) -> Self {
        let has_capitals = chars.iter().any(|&(_, c)| c.is_uppercase());
        Self { chars, ends: Vec::new(), n_quotes: 0, has_capitals }
    }

    fn get(&self, index: usize) -> Option<char> {
        self.chars.get(index).map(|&(_, c)| c)
    }

    /// First position from `index` on where `matches` is false.
    fn skip(&self, index: usize, matches: impl Fn(char) -> bool) -> usize {
        self.chars[index..].iter().position(|&(_, c)| !matches(c)).map_or(self.chars.len(), |n| index + n)
    }

    /// Positions, in characters, after the last character of each sentence but perhaps the last.
    fn ends(mut self) -> Vec<usize> {
        let mut at = 0;
        let mut line = 0;
        while let Some(c) = self.get(at) {
            match c {
                '\n' => {
                    if self.line_break_ends(line, at) {
                        self.end(at);
                    }
                    at += 1;
                    line = at;
                }
                '"' => {
                    self.n_quotes += 1;
                    at += 1;
                }
                _ if is_stop(c) || is_full_stop(c) => at = self.stop(line, at),
                _ => at += 1,
            }
        }
        self.ends
    }

    fn end(&mut self, at: usize) {
        self.ends.push(at);
        self.n_quotes = 0;
    }

    /// Reads the stops at `at` with the quotes and brackets they close; returns where to go on.
    fn stop(&mut self, line: usize, at: usize) -> usize {
        let stops = self.skip(at, |c| is_stop(c) || is_full_stop(c));
        let mut closed = stops;
        loop {
            match self.get(closed) {
                Some(c) if is_closing(c) => closed += 1,
                Some('"') if self.n_quotes % 2 == 1 => {
                    self.n_quotes += 1;
                    closed += 1;
                }
                // A reference: `as was shown.[12] The`.
                Some('[') => {
                    let digits = self.skip(closed + 1, |c| c.is_ascii_digit());
                    if digits == closed + 1 || self.get(digits) != Some(']') {
                        break;
                    }
                    closed = digits + 1;
                }
                _ => break,
            }
        }
        if self.stop_ends(line, at, stops, closed) {
            self.end(closed);
        }
        closed
    }

    fn stop_ends(&self, line: usize, at: usize, stops: usize, closed: usize) -> bool {
        if self.chars[at..stops].iter().any(|&(_, c)| is_full_stop(c)) {
            return true;
        }
        let Some(after) = self.get(closed) else { return true };
        let first = self.get(at).unwrap_or_default();
        if !after.is_whitespace() {
            // Chinese written with English stops has no spaces.
            let before = at.checked_sub(1).and_then(|before| self.get(before));
            return matches!(first, '!' | '?') && is_han(after) && before.is_some_and(is_han);
        }
        let next_at = self.skip(closed, char::is_whitespace);
        let Some(next) = self.get(next_at) else { return true };
        if next.is_lowercase() && self.has_capitals {
            // `"Why?" he asked`, `approx. ten`, `and ... so on`; but `why? because`.
            return matches!(first, '!' | '?') && closed == stops;
        }
        first != '.' || stops > at + 1 || self.full_stop_ends(line, at, next_at, next)
    }

    /// Whether a single `.` ends a sentence, by the word before it and the word at `next_at`.
    fn full_stop_ends(&self, line: usize, at: usize, next_at: usize, next: char) -> bool {
        /// Longer than any abbreviation in the lists.
        const LONGEST: usize = 10;
        let from = at.saturating_sub(LONGEST);
        let is_word = |c: char| c.is_alphanumeric() || c == '.';
        let length = self.chars[from..at].iter().rev().take_while(|&&(_, c)| is_word(c)).count();
        let word: String = self.chars[at - length..at].iter().map(|&(_, c)| c).collect();
        let is_first = self.chars[line..at - length].iter().all(|&(_, c)| c.is_whitespace());
        if is_first && !word.is_empty() && word.len() <= 3 && word.chars().all(|c| c.is_ascii_digit()) {
            return false; // `1. First item`
        }
        let lower = word.to_lowercase();
        if BEFORE_NAMES.contains(lower.as_str()) {
            return false;
        }
        if BEFORE_NUMBERS.contains(lower.as_str()) {
            return !next.is_ascii_digit();
        }
        let is_initials = !word.is_empty() && word.split('.').all(|part| part.chars().count() == 1);
        let is_initials =
            is_initials && word.chars().all(|c| c.is_alphabetic() || c == '.') && !word.chars().all(is_han);
        if is_initials || OFTEN_INSIDE.contains(lower.as_str()) {
            let end = self.skip(next_at, char::is_alphabetic).min(next_at + LONGEST);
            let next_word: String = self.chars[next_at..end].iter().flat_map(|&(_, c)| c.to_lowercase()).collect();
            return SENTENCE_STARTERS.contains(next_word.as_str());
        }
        true
    }

    /// Whether the line break at `at`, of the line that begins at `line`, ends a sentence or only a full line.
    fn line_break_ends(&self, line: usize, at: usize) -> bool {
        let next_at = self.skip(at + 1, |c| c.is_whitespace() && c != '\n');
        let Some(next) = self.get(next_at) else { return true };
        if next == '\n' || self.begins_item(next_at) {
            return true;
        }
        let line = self.skip(line, |c| c.is_whitespace() && c != '\n').min(at);
        if matches!(self.get(line), Some('#' | '|')) {
            return true;
        }
        let last = self.chars[line..at].iter().rev().map(|&(_, c)| c).find(|c| !c.is_whitespace());
        match last {
            None | Some(':' | '：') => return true,
            Some(',' | '，' | '、' | '-') => return false,
            Some(_) if next.is_lowercase() => return false,
            Some(_) => {}
        }
        let full = if last.is_some_and(is_han) || is_han(next) { FULL_HAN_LINE_CHARS } else { FULL_LINE_CHARS };
        at - line < full
    }

    /// Whether a list item, a heading, a quotation or a table row begins at `at`.
    fn begins_item(&self, at: usize) -> bool {
        let followed = |at: usize| self.get(at).is_none_or(char::is_whitespace);
        match self.get(at) {
            Some('#' | '|' | '>' | '•' | '▪' | '●' | '◦') => true,
            Some('-' | '*' | '+' | '–' | '·') => followed(at + 1),
            Some(c) if c.is_ascii_digit() => {
                let end = self.skip(at, |c| c.is_ascii_digit());
                end - at <= 3
                    && (matches!(self.get(end), Some('.' | ')')) && followed(end + 1) || self.get(end) == Some('、'))
            }
            Some('一' | '二' | '三' | '四' | '五' | '六' | '七' | '八' | '九' | '十') => {
                self.get(at + 1) == Some('、')
            }
            _ => false,
        }
    }
}

/// Ends a sentence if what follows looks like the beginning of one.
fn is_stop(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '؟' | '۔')
}

/// Ends a sentence whatever follows.
fn is_full_stop(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '；' | '｡' | '।')
}

fn is_closing(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '\'' | '”' | '’' | '»' | '›' | '」' | '』' | '】' | '）' | '》' | '〉' | '〕')
}

fn words(list: &'static str) -> HashSet<&'static str> {
    list.split_whitespace().collect()
}

/// Abbreviations that something always follows.
static BEFORE_NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "mr mrs ms dr prof st gen sen rep gov lt col capt cpt cmdr sgt maj adm rev hon pres messrs mme mlle fr mt ft \
         vs cf e.g i.e eg viz lit approx ca incl esp al resp",
    )
});

/// Abbreviations when a number follows, words when not: `No. 5`, `modern art. The`.
static BEFORE_NUMBERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "no nos fig figs eq eqs vol vols p pp ch chap sec sect art para pt ref refs tab ver v \
         jan feb mar apr jun jul aug sep sept oct nov dec",
    )
});

/// Abbreviations, besides initials, that stand inside sentences and also at their ends.
static OFTEN_INSIDE: LazyLock<HashSet<&str>> =
    LazyLock::new(|| words("etc inc ltd co corp bros jr sr ph.d dept univ assn est ave blvd rd ed eds trans a.m p.m"));

/// Words that begin sentences and, with a capital, hardly ever stand inside one.
static SENTENCE_STARTERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "the this that these those a an it its he she they we you i his her their our my in on at by for from with \
         as if when while after before since although though however but and so then there here what who why how \
         where which during under both each all some many most other another one two no not yet",
    )
});

#[cfg(test)]
#[path = "sentence_tests.rs"]
mod tests;
