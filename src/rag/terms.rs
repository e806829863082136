//! The terms of a text, joined by single spaces, for a BM25 engine that splits at white space and does nothing else.
//!
//! Called at ingest for passages and at retrieval for questions: one function for both, so that the two cannot
//! disagree. Must stay total (any text), free of state other than the Chinese dictionary, and stable: a change of what
//! it returns asks for every lexical index to be built again, which is what [`VERSION`] says.
//!
//! Spaced scripts give stemmed words without stop words. Han gives three readings of the same text at once, because
//! each finds what the others miss: dictionary words (topics), single characters (abbreviations), and pairs of
//! characters where the dictionary leaves single ones (names it does not have). Other scripts without spaces give
//! pairs.

mod kinds;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use jieba_rs::Jieba;
use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

pub use kinds::{Kind, query_kinds};

/// Changes when the same text gives other terms than before. Kept with an index; a different number means: index again.
pub const VERSION: u32 = 1;

/// Longest term in characters. What is longer is an encoded blob that nobody types in, and keys of a kilobyte cost.
const MAX_TERM_CHARS: usize = 64;

/// What a text is mostly written in, as far as its script says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Latin letters. The stemmer and the sentence models are English; other languages in Latin letters count as
    /// English.
    English,
    Chinese,
    /// Any other script, or no letters at all.
    Other,
}

/// The terms of `text`, in order, with repetitions: what a passage is indexed by.
pub fn terms(text: &str) -> String {
    let mut terms = Terms::default();
    collect(text, &mut |term| terms.push(term));
    terms.joined
}

/// The terms of a question: each once, as engines add the weight of a repeated term again or not at all.
pub fn query_terms(text: &str) -> String {
    let mut terms = Terms::default();
    let mut seen = HashSet::new();
    collect(text, &mut |term| {
        if seen.insert(term.to_owned()) {
            terms.push(term);
        }
    });
    terms.joined
}

/// The language of `text` by counting letters. Han counts double: a character is about a syllable, a letter a fifth of
/// a word.
pub fn language(text: &str) -> Language {
    let (mut latin, mut han, mut other) = (0_usize, 0_usize, 0_usize);
    for c in text.chars() {
        match c {
            _ if c.is_ascii_alphabetic() || matches!(c as u32, 0xC0..=0x24F) => latin += 1,
            _ if is_han(c) => han += 2,
            // Kana and hangul count as much as han, or Japanese, written in both, would be taken for Chinese.
            _ if is_unspaced(c) || is_hangul(c) => other += 2,
            _ if c.is_alphabetic() => other += 1,
            _ => {}
        }
    }
    // A tenth of kana is enough to say that it is not Chinese; a product name in Latin letters does not make it
    // English.
    if han > 0 && 2 * han >= latin && 10 * other <= han {
        Language::Chinese
    } else if latin > 0 && latin >= han + other {
        Language::English
    } else {
        Language::Other
    }
}

/// A Han character, with the iteration mark, the closing mark and the zero that stand among them.
pub fn is_han(c: char) -> bool {
    matches!(c as u32, 0x3005..=0x3007 | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x323AF)
}

/// Kana, Thai, Lao, Burmese and Khmer: letters written without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(c as u32, 0x3041..=0x30FF | 0x31F0..=0x31FF | 0x0E01..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF)
}

fn is_hangul(c: char) -> bool {
    matches!(c as u32, 0xAC00..=0xD7AF)
}

#[derive(Default)]
struct Terms {
    joined: String,
}

impl Terms {
    fn push(&mut self, term: &str) {
        if !self.joined.is_empty() {
            self.joined.push(' ');
        }
        self.joined.push_str(term);
    }
}

fn collect(text: &str, emit: &mut dyn FnMut(&str)) {
    let folded = fold(text);
    // Korean has spaces, but its words carry endings that no stemmer here takes off; pairs see through them.
    for (unspaced, run) in runs(&folded, |c| is_han(c) || is_unspaced(c) || is_hangul(c)) {
        if unspaced {
            unspaced_run(run, emit);
        } else {
            // First at white space: a mark that compatibility folding leaves after a space makes a word with it.
            run.split_whitespace().flat_map(str::unicode_words).for_each(|word| spaced_word(word, emit));
        }
    }
}

/// `text` cut wherever `belongs` changes its answer, with the answer.
fn runs(text: &str, belongs: impl Fn(char) -> bool) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let kind = belongs(rest.chars().next()?);
        let (run, tail) = rest.split_at(rest.find(|c| belongs(c) != kind).unwrap_or(rest.len()));
        rest = tail;
        Some((kind, run))
    })
}

/// Compatibility forms to plain ones, accents off, lower case. Only Latin, Greek and Cyrillic accents come off: the
/// marks of kana and of Indian scripts are letters.
pub(super) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let plain = text.nfkd().filter(|c| !matches!(*c as u32, 0x0300..=0x036F)).nfc().flat_map(char::to_lowercase);
    let mut folded = String::with_capacity(text.len());
    for c in plain {
        match c {
            // Letters that Unicode does not take apart.
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            'đ' | 'ð' => folded.push('d'),
            'þ' => folded.push_str("th"),
            'ı' => folded.push('i'),
            // The stemmer knows the plain apostrophe only.
            '\u{2018}' | '\u{2019}' | '\u{02BC}' => folded.push('\''),
            _ => folded.push(c),
        }
    }
    folded
}

/// A word between spaces or punctuation, already folded.
fn spaced_word(word: &str, emit: &mut dyn FnMut(&str)) {
    if word.contains('_') {
        // Identifiers: people ask for "max tokens" and for "max_tokens".
        return word.split('_').filter(|part| !part.is_empty()).for_each(|part| spaced_word(part, emit));
    }
    if word.contains('.') && word.contains(|c: char| c.is_alphabetic()) {
        if word.split('.').all(|part| part.chars().count() <= 1) {
            return stemmed(&word.replace('.', ""), emit);
        }
        // A missing space after a full stop, a domain or a file name.
        return word.split('.').for_each(|part| stemmed(part, emit));
    }
    stemmed(word, emit);
}

/// A folded word that every English text has.
pub(super) fn is_stop_word(word: &str) -> bool {
    ENGLISH_STOP_WORDS.contains(word)
}

fn stemmed(word: &str, emit: &mut dyn FnMut(&str)) {
    if word.is_empty() || ENGLISH_STOP_WORDS.contains(word) {
        return;
    }
    let word = word.char_indices().nth(MAX_TERM_CHARS).map_or(word, |(end, _)| &word[..end]);
    // The stemmer is for English; digits and words of other scripts pass through it as they are.
    emit(&stem(word));
}

/// A folded word without its ending.
pub(super) fn stem(word: &str) -> Cow<'_, str> {
    STEMMER.stem(word)
}

static STEMMER: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));

/// A run without spaces. Its Han parts give words, single characters, and pairs where the dictionary may be wrong; its
/// other parts give all pairs.
fn unspaced_run(run: &str, emit: &mut dyn FnMut(&str)) {
    let bounds: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
    let n_chars = bounds.len() - 1;
    let mut reading = Reading { spans: Vec::with_capacity(3 * n_chars), marks: vec![Mark::Alone; n_chars] };
    let mut at = 0;
    for (han, part) in runs(run, is_han) {
        let end = at + part.chars().count();
        if han {
            reading.add_words(part, at);
            let marks = &reading.marks;
            reading.spans.extend((at..end).filter(|&i| marks[i] != Mark::Stopped).map(|i| (i, i + 1)));
        }
        at = end;
    }
    // The last character of one word with the first of the next is noise, and half of all pairs: without them questions
    // of web search lose nothing, and the index is a seventh smaller. Where a name was torn into characters they stay.
    let is_pair = |&(before, after): &(Mark, Mark)| {
        before != Mark::Stopped && after != Mark::Stopped && (before, after) != (Mark::InWord, Mark::InWord)
    };
    let pairs = reading.marks.iter().copied().zip(reading.marks.iter().copied().skip(1)).enumerate();
    reading.spans.extend(pairs.filter(|(_, marks)| is_pair(marks)).map(|(i, _)| (i, i + 2)));
    if n_chars == 1 && reading.marks[0] != Mark::Stopped {
        reading.spans.push((0, 1));
    }
    // The same characters once: counted twice, short words would weigh more than longer, rarer ones.
    reading.spans.sort_unstable();
    reading.spans.dedup();
    reading.spans.iter().for_each(|&(start, end)| emit(&run[bounds[start]..bounds[end]]));
}

/// What the dictionary makes of a character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It is a word by itself, or the dictionary was not asked.
    Alone,
    InWord,
    /// Part of a stop word.
    Stopped,
}

/// The terms of a run by their first character and the one after their last.
struct Reading {
    spans: Vec<(usize, usize)>,
    /// One for each character of the run.
    marks: Vec<Mark>,
}

impl Reading {
    /// Adds the words of `part`, which begins at character `at` of its run, and the shorter words within them.
    fn add_words(&mut self, part: &str, at: usize) {
        for token in JIEBA.cut_for_search(part, true) {
            let (start, end) = (at + token.start, at + token.end);
            let mark = if CHINESE_STOP_WORDS.contains(token.word) {
                Mark::Stopped
            } else if end - start > 1 {
                Mark::InWord
            } else {
                continue;
            };
            self.marks.iter_mut().take(end).skip(start).for_each(|have| *have = mark);
            if mark == Mark::InWord && end - start <= MAX_TERM_CHARS {
                self.spans.push((start, end));
            }
        }
    }
}

/// The dictionary is unpacked and built at the first Han character that is seen, once in a process.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Function words, which every passage has, and the words that questions are asked with, which answers do not have.
/// `us` is not among them: it is what is left of `U.S.`.
static ENGLISH_STOP_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "a an and are as at be been being but by for if in into is it its no not of on or such than that the their then \
     there these they this to was were will with am do does did has have had he her his him i me my our she so we \
     you your from can could should would about how what when where which who whom whose why"
        .split_whitespace()
        .collect()
});

/// The same for Chinese, simplified and traditional.
static CHINESE_STOP_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "的 了 吗 嗎 呢 吧 啊 是 在 有 和 与 與 及 或 也 都 就 被 把 将 將 为 為 以 于 於 之 其 这 這 那 个 個 我 你 他 她 它 \
     们 們 而 但 我们 我們 你们 你們 他们 他們 它们 它們 这个 這個 那个 那個 一个 一個 一种 一種 可以 因为 因為 所以 但是 \
     以及 及其 什么 什麼 甚麼 怎么 怎麼 怎样 怎樣 怎么样 怎麼樣 如何 为什么 為什麼 为何 為何 哪 哪个 哪個 哪些 哪里 哪裡 \
     哪种 哪種 谁 誰 几 幾 多少 何 何时 何時 何种 何種 何者 是否 请问 請問"
        .split_whitespace()
        .collect()
});

#[cfg(test)]
#[path = "terms_tests.rs"]
mod tests;
