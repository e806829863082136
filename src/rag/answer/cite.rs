//! An answer with citation marks, read sentence by sentence, whole or while it streams.
//!
//! Marks are `[1]`, `[1][2]`, `[1, 2]`, `[1-3]`, `【1】`, `[^1]`, `[source 1]`, `[来源1]`; a mark belongs to the sentence before it.
//! Numbers that no source has are dropped. Pure; called by the answer stage on each piece of text that a model sends.

use crate::rag::sentence::sentences;

/// A sentence of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CitedSentence {
    /// Without marks.
    pub text: String,
    /// Positions of the sources from 0, in the order of the marks, each once.
    pub citations: Vec<usize>,
    /// Numbers that were cited and that no source has.
    pub invalid: Vec<usize>,
}

impl CitedSentence {
    /// The sentence with its valid marks behind it: `Jaws is a film. [1][3]`
    pub fn marked(&self) -> String {
        let marks: String = self.citations.iter().map(|source| format!("[{}]", source + 1)).collect();
        if marks.is_empty() { self.text.clone() } else { format!("{} {marks}", self.text) }
    }
}

/// A whole answer.
pub fn read(answer: &str, n_sources: usize) -> Vec<CitedSentence> {
    let mut reader = AnswerReader::new(n_sources);
    let mut found = reader.push(answer);
    found.extend(reader.finish());
    found
}

/// An answer as it comes. A sentence is given out when the next one has begun, for its marks may stand behind it; where it ends is
/// judged by what has come until then.
#[derive(Debug)]
pub struct AnswerReader {
    n_sources: usize,
    buffer: String,
    /// The model thinks aloud; nothing of it is an answer.
    thinking: bool,
    begun: bool,
}

const THINKING: (&str, &str) = ("<think>", "</think>");
/// A bracket that is not closed after so many bytes is not a mark.
const MAX_MARK_BYTES: usize = 48;
/// Sources that one mark can name; `[1-100000]` is no citation.
const MAX_RANGE: usize = 20;

impl AnswerReader {
    pub fn new(n_sources: usize) -> Self {
        AnswerReader { n_sources, buffer: String::new(), thinking: false, begun: false }
    }

    /// The sentences that are complete now.
    pub fn push(&mut self, delta: &str) -> Vec<CitedSentence> {
        self.buffer.push_str(delta);
        if !self.skip_thinking() {
            return Vec::new();
        }
        // What may still become a mark is not read yet.
        let settled = settled_length(&self.buffer);
        let parsed = Parsed::new(&self.buffer[..settled]);
        let ranges = sentences(&parsed.text);
        let Some((last, complete)) = ranges.split_last() else { return Vec::new() };
        if complete.is_empty() {
            return Vec::new();
        }
        let found = parsed.sentences(complete, last.start, self.n_sources);
        let read = parsed.raw_position(last.start);
        self.buffer.drain(..read);
        found
    }

    /// The rest. A model that was cut off while thinking has said nothing.
    pub fn finish(mut self) -> Vec<CitedSentence> {
        if !self.begun && !self.thinking {
            self.begun = true;
        }
        if self.thinking || !self.skip_thinking() {
            return Vec::new();
        }
        let parsed = Parsed::new(&self.buffer);
        let ranges = sentences(&parsed.text);
        let end = parsed.text.len() + 1;
        parsed.sentences(&ranges, end, self.n_sources)
    }

    /// Whether the answer itself has begun.
    fn skip_thinking(&mut self) -> bool {
        if self.begun {
            return true;
        }
        if !self.thinking {
            let start = self.buffer.trim_start();
            if start.starts_with(THINKING.0) {
                self.thinking = true;
            } else if start.is_empty() || THINKING.0.starts_with(start) {
                return false;
            } else {
                self.begun = true;
                return true;
            }
        }
        let Some(end) = self.buffer.find(THINKING.1) else { return false };
        self.buffer.drain(..end + THINKING.1.len());
        (self.thinking, self.begun) = (false, true);
        true
    }
}

/// Up to where the text has no bracket that is still open at its end: what is inside may become a mark, and what is around it
/// belongs to the sentence before or not only once it is closed.
fn settled_length(text: &str) -> usize {
    let tail = text.floor_char_boundary(text.len().saturating_sub(MAX_MARK_BYTES));
    let mut open = Vec::new();
    for (at, c) in text[tail..].char_indices() {
        if is_open(c) {
            open.push(tail + at);
        } else if is_close(c) {
            open.pop();
        }
    }
    open.first().copied().unwrap_or(text.len())
}

pub(super) fn is_open(c: char) -> bool {
    matches!(c, '[' | '【' | '［')
}

pub(super) fn is_close(c: char) -> bool {
    matches!(c, ']' | '】' | '］')
}

/// The text without marks, and where the marks were.
struct Parsed {
    text: String,
    /// Position in the clean text, and the numbers from 1.
    marks: Vec<(usize, Vec<usize>)>,
    /// Clean and raw positions of the pieces between the marks.
    pieces: Vec<(usize, usize)>,
}

impl Parsed {
    fn new(raw: &str) -> Self {
        let mut parsed = Parsed { text: String::with_capacity(raw.len()), marks: Vec::new(), pieces: vec![(0, 0)] };
        let mut at = 0;
        let mut from = 0;
        while let Some(open) = raw[at..].find(is_open).map(|found| at + found) {
            let width = raw[open..].chars().next().map_or(1, char::len_utf8);
            at = open + width;
            let Some(close) = raw[at..].find(is_close).map(|found| at + found) else { continue };
            let Some(numbers) = numbers(&raw[at..close]) else { continue };
            let close = close + raw[close..].chars().next().map_or(1, char::len_utf8);
            // A link "[1](https://...)" is a mark too; its address goes with it.
            let close = match raw[close..].strip_prefix('(').and_then(|rest| rest.split_once(')')) {
                Some((address, _)) if address.starts_with("http") || address.starts_with('#') => {
                    close + address.len() + 2
                }
                _ => close,
            };
            parsed.text.push_str(&raw[from..open]);
            let follows_text = parsed.text.ends_with(char::is_whitespace);
            // "film [1]." becomes "film.", "film [1] and" becomes "film and".
            let next = raw[close..].chars().next();
            if follows_text && next.is_none_or(|c| c.is_whitespace() || is_final_mark(c) || is_open(c)) {
                let trimmed = parsed.text.trim_end_matches([' ', '\t']).len();
                parsed.text.truncate(trimmed);
            }
            parsed.marks.push((parsed.text.len(), numbers));
            parsed.pieces.push((parsed.text.len(), close));
            (at, from) = (close, close);
        }
        parsed.text.push_str(&raw[from..]);
        parsed
    }

    /// Where a position of the clean text is in the raw text.
    fn raw_position(&self, clean: usize) -> usize {
        let piece = self.pieces.iter().rev().find(|(start, _)| *start <= clean);
        piece.map_or(clean, |(start, raw)| raw + (clean - start))
    }

    /// The sentences at `ranges`, each with the marks up to the next one's beginning; `end` is that of the last.
    fn sentences(&self, ranges: &[std::ops::Range<usize>], end: usize, n_sources: usize) -> Vec<CitedSentence> {
        let mut found: Vec<CitedSentence> = Vec::new();
        let ends = ranges.iter().skip(1).map(|range| range.start).chain([end]);
        let mut from = 0;
        for (range, end) in ranges.iter().zip(ends) {
            let text = self.text.get(range.clone()).unwrap_or_default();
            let mut sentence = CitedSentence { text: text.trim().to_string(), ..CitedSentence::default() };
            // A mark right at the beginning of the next sentence stands behind this one: "film. [1] It".
            let marks =
                self.marks.iter().filter(|(at, _)| *at >= from && (*at < end || *at == end && range.start < end));
            for number in marks.flat_map(|(_, numbers)| numbers) {
                let source = number.wrapping_sub(1);
                if source < n_sources {
                    if !sentence.citations.contains(&source) {
                        sentence.citations.push(source);
                    }
                } else if !sentence.invalid.contains(number) {
                    sentence.invalid.push(*number);
                }
            }
            from = end + 1;
            found.push(sentence);
        }
        found
    }
}

fn is_final_mark(c: char) -> bool {
    matches!(c, '.' | ',' | ';' | ':' | '!' | '?' | ')' | '。' | '，' | '；' | '：' | '！' | '？' | '、')
}

/// The numbers of a mark; none if it is not one.
pub(super) fn numbers(inside: &str) -> Option<Vec<usize>> {
    if inside.len() > MAX_MARK_BYTES {
        return None;
    }
    let lower = inside.trim().trim_start_matches('^').to_lowercase();
    let mut rest = lower.as_str();
    for word in ["sources", "source", "来源", "资料", "文档", "参考", "ref"] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let mut found = Vec::new();
    for part in rest.trim_matches([' ', ':', '：', '#']).split([',', '，', '、', ';']) {
        let part = part.trim().trim_start_matches(['^', '#']);
        let (first, last) = part.split_once(['-', '–']).unwrap_or((part, part));
        let first: usize = number(first)?;
        let last: usize = number(last)?;
        if last < first || last - first >= MAX_RANGE {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// At most three digits: `[2019]` is a year.
fn number(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
#[path = "cite_tests.rs"]
mod tests;
