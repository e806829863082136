//! Compression by extraction: of the passages found, the sentences that answer, in their order and with their places.
//!
//! Called by the search pipeline after ranking and correction. Keeps whole sentences only, so that each can be cited;
//! when no sentence is good enough, nothing is kept, and then nothing is sent to a model.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::ports::{Score, scores_of};
use super::sentence::sentences;
use super::words::{count_words, estimate_tokens, join_pieces, words};

/// A passage as it was ranked, the best first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked<'a> {
    pub document: &'a str,
    pub chunk: &'a str,
    /// Titles above it; sent once with the passage, and its tokens count.
    pub header: &'a str,
    pub text: &'a str,
    /// What the ranking gave it, on the scale of the sentence scorer; see [`Compression::passage_weight`].
    pub score: f32,
}

/// How much is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Compression {
    /// Tokens of all that is kept, headers included, as [`estimate_tokens`] counts them.
    pub max_tokens: usize,
    /// Sentences with a lower score are dropped; on the scorer's own scale.
    pub min_score: Option<f32>,
    /// Sentences of a passage are scored with its header before them: "Jaws: It was shot in 1974."
    pub score_with_header: bool,
    /// How much of its passage's score is added to a sentence's when the best are chosen: a sentence of a good passage
    /// often answers in words that the question does not have. 0 where the two are on different scales.
    pub passage_weight: f32,
    /// A sentence that begins with a pronoun brings the one before it.
    pub keep_antecedents: bool,
    /// The best passages at both ends instead of at the front.
    pub both_ends: bool,
}

impl Default for Compression {
    fn default() -> Self {
        Compression {
            max_tokens: 1_500,
            min_score: None,
            score_with_header: true,
            passage_weight: 0.0,
            keep_antecedents: true,
            both_ends: false,
        }
    }
}

/// A sentence that was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSentence {
    /// Which sentence of the passage, from 0.
    pub index: usize,
    /// Where it stands in the passage's text, in bytes.
    pub range: Range<usize>,
    pub text: String,
    pub score: f32,
    /// It is there for the sentence after it and not for its own score.
    pub antecedent: bool,
}

/// What is left of a passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Position of the passage in what was given.
    pub passage: usize,
    pub document: String,
    pub chunk: String,
    pub header: String,
    pub sentences: Vec<KeptSentence>,
}

impl Piece {
    pub fn text(&self) -> String {
        join_pieces(self.sentences.iter().map(|sentence| sentence.text.as_str()))
    }
}

/// The passages that have sentences left, and what it saved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compressed {
    pub pieces: Vec<Piece>,
    pub tokens: usize,
    pub tokens_before: usize,
}

impl Compressed {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The pieces as one text, a blank line between them, each with its header.
    pub fn text(&self) -> String {
        let piece = |piece: &Piece| match piece.header.trim() {
            "" => piece.text(),
            header => format!("{header}\n{}", piece.text()),
        };
        self.pieces.iter().map(piece).collect::<Vec<_>>().join("\n\n")
    }
}

/// # Errors
/// The scorer fails; the caller then sends the passages as they are.
pub async fn compress(
    question: &str,
    passages: &[Ranked<'_>],
    scorer: &dyn Score,
    compression: &Compression,
) -> Result<Compressed, String> {
    let mut candidates = candidates(passages);
    let texts: Vec<String> = candidates
        .iter()
        .map(|candidate| match candidate.passage.header.trim() {
            header if compression.score_with_header && !header.is_empty() => format!("{header}: {}", candidate.text()),
            _ => candidate.text().to_string(),
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (candidate, score) in candidates.iter_mut().zip(scores_of(scorer, question, &texts).await?) {
        candidate.score = score;
        let share = compression.passage_weight * candidate.passage.score;
        candidate.preference = if share.is_finite() { score + share } else { score };
    }
    let kept = select(&candidates, compression);
    Ok(assemble(passages, &candidates, &kept, compression))
}

/// Ranks 1, 3, 5, ..., 6, 4, 2: models read the beginning and the end of a long context best.
pub fn both_ends_order<T>(ranked: Vec<T>) -> Vec<T> {
    let mut front = Vec::with_capacity(ranked.len());
    let mut back = Vec::new();
    for (n, item) in ranked.into_iter().enumerate() {
        if n.is_multiple_of(2) { front.push(item) } else { back.push(item) }
    }
    front.extend(back.into_iter().rev());
    front
}

struct Candidate<'a> {
    passage: Ranked<'a>,
    position: usize,
    index: usize,
    range: Range<usize>,
    tokens: usize,
    score: f32,
    /// What the candidates are ordered by.
    preference: f32,
}

impl Candidate<'_> {
    fn text(&self) -> &str {
        self.passage.text.get(self.range.clone()).unwrap_or_default()
    }
}

/// All sentences in order. Chunks overlap and documents repeat themselves: a sentence counts where it was ranked best.
fn candidates<'a>(passages: &[Ranked<'a>]) -> Vec<Candidate<'a>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (position, passage) in passages.iter().enumerate() {
        for (index, range) in sentences(passage.text).into_iter().enumerate() {
            let text = passage.text.get(range.clone()).unwrap_or_default();
            let same: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
            if same.is_empty() || !seen.insert(same) {
                continue;
            }
            let tokens = estimate_tokens(text) + 1;
            let (score, preference) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            found.push(Candidate { passage: *passage, position, index, range, tokens, score, preference });
        }
    }
    found
}

/// Which candidates are kept, each with whether it is there for another's sake: the best first, while the budget lasts.
fn select(candidates: &[Candidate<'_>], compression: &Compression) -> BTreeMap<usize, bool> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let preference = |n: usize| candidates.get(n).map_or(f32::NEG_INFINITY, |candidate| candidate.preference);
    order.sort_by(|&a, &b| preference(b).total_cmp(&preference(a)).then(a.cmp(&b)));
    let mut kept: BTreeMap<usize, bool> = BTreeMap::new();
    let mut headed: BTreeSet<usize> = BTreeSet::new();
    let mut left = compression.max_tokens;
    for n in order {
        let Some(candidate) = candidates.get(n) else { continue };
        // Not a number, or nothing at all.
        if candidate.score == f32::NEG_INFINITY || compression.min_score.is_some_and(|min| candidate.score < min) {
            continue;
        }
        if let Some(antecedent) = kept.get_mut(&n) {
            *antecedent = false;
            continue;
        }
        let header = match candidate.passage.header {
            header if headed.contains(&candidate.position) || header.is_empty() => 0,
            header => estimate_tokens(header) + 1,
        };
        let cost = candidate.tokens + header;
        if cost > left {
            continue;
        }
        left -= cost;
        headed.insert(candidate.position);
        kept.insert(n, false);
        if !compression.keep_antecedents || !begins_with_pronoun(candidate.text()) {
            continue;
        }
        let before = n.checked_sub(1).and_then(|before| Some((before, candidates.get(before)?)));
        let before = before.filter(|(_, before)| {
            before.position == candidate.position && before.index + 1 == candidate.index && before.tokens <= left
        });
        if let Some((before, sentence)) = before
            && !kept.contains_key(&before)
        {
            left -= sentence.tokens;
            kept.insert(before, true);
        }
    }
    kept
}

fn assemble(
    passages: &[Ranked<'_>],
    candidates: &[Candidate<'_>],
    kept: &BTreeMap<usize, bool>,
    compression: &Compression,
) -> Compressed {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut tokens = 0;
    // In ascending order, which is the order of the passages and of the sentences in them.
    for (&n, &antecedent) in kept {
        let Some(candidate) = candidates.get(n) else { continue };
        let sentence = KeptSentence {
            index: candidate.index,
            range: candidate.range.clone(),
            text: candidate.text().to_string(),
            score: candidate.score,
            antecedent,
        };
        tokens += candidate.tokens;
        match pieces.last_mut() {
            Some(piece) if piece.passage == candidate.position => piece.sentences.push(sentence),
            _ => {
                let passage = candidate.passage;
                tokens += if passage.header.is_empty() { 0 } else { estimate_tokens(passage.header) + 1 };
                pieces.push(Piece {
                    passage: candidate.position,
                    document: passage.document.to_string(),
                    chunk: passage.chunk.to_string(),
                    header: passage.header.to_string(),
                    sentences: vec![sentence],
                });
            }
        }
    }
    if compression.both_ends {
        pieces = both_ends_order(pieces);
    }
    let header = |passage: &Ranked<'_>| if passage.header.is_empty() { 0 } else { estimate_tokens(passage.header) + 1 };
    let tokens_before = passages.iter().map(|passage| estimate_tokens(passage.text) + header(passage)).sum();
    Compressed { pieces, tokens, tokens_before }
}

const PRONOUNS: [&str; 18] = [
    "he", "she", "it", "they", "this", "that", "these", "those", "his", "her", "its", "their", "him", "them", "such",
    "both", "there", "here",
];
const CHINESE_PRONOUNS: [&str; 10] = ["他", "她", "它", "其", "该", "此", "这", "那", "两者", "前者"];

/// Whether the sentence speaks of something that the one before it names.
fn begins_with_pronoun(sentence: &str) -> bool {
    if CHINESE_PRONOUNS.iter().any(|pronoun| sentence.starts_with(pronoun)) {
        // "其他" and "其中" begin something new as often as not.
        return !sentence.starts_with("其他");
    }
    let first = words(sentence).into_iter().next().and_then(|range| sentence.get(range)).unwrap_or_default();
    let first = first.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let first = first.split(['\'', '\u{2019}']).next().unwrap_or_default();
    count_words(sentence) > 1 && PRONOUNS.contains(&first)
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
