//! Hashed n-grams and lexicon hits of folded text, in one pass. Called by `extract`; allocates only its output.
//!
//! Character n-grams (1 to 3, 4 outside CJK text) survive typos and need no word list for Chinese; whole Latin words
//! and pairs of them say more than their letters; the opening of the text says what kind of request it is.

use super::NGRAM_BUCKETS;
use super::lexicon::{self, N_GROUPS};
use super::normalize::is_cjk;

/// What one pass over the text found.
pub struct Grams {
    /// Hashed n-grams with their counts, by increasing bucket.
    pub counts: Vec<(u32, u32)>,
    /// Lexicon hits by group.
    pub hits: [f32; N_GROUPS],
    /// Lexicon hits by group within the opening of the text.
    pub opening_hits: [f32; N_GROUPS],
}

/// Characters that count as the opening.
const OPENING: usize = 24;

/// Namespaces keep equal strings of different kinds apart.
const CHARS: u64 = 0x9E37_79B9_7F4A_7C15;
const WORD: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PAIR: u64 = 0x1656_67B1_9E37_79F9;
const START: u64 = 0x27D4_EB2F_1656_67C5;

/// Hash of a character sequence; windows extend it one character at a time.
pub fn hash_chars(chars: &[char]) -> u64 {
    mix(chars.iter().fold(CHARS, |hash, &c| extend(hash, c)))
}

/// All n-grams and lexicon hits of `text`, which is folded (see `normalize`).
pub fn grams(text: &[char]) -> Grams {
    let mut buckets: Vec<u32> = Vec::with_capacity(text.len() * 5);
    let mut hits = [0.0; N_GROUPS];
    let mut opening_hits = [0.0; N_GROUPS];
    let mut hit = |group: usize, at: usize| {
        hits[group] += 1.0;
        if at < OPENING {
            opening_hits[group] += 1.0;
        }
    };
    let mut words = Words::default();
    let cjk: Vec<bool> = text.iter().map(|&c| is_cjk(c)).collect();
    let mut was_word = false;
    for (at, &c) in text.iter().enumerate() {
        let window = &text[at..text.len().min(at + 4)];
        let n_cjk = cjk[at..].iter().take(window.len()).take_while(|&&cjk| cjk).count();
        let keys = keys(window);
        // A space starts no n-gram of its own; four characters are a gram only outside CJK text.
        let from = usize::from(c == ' ');
        let to = if cjk[at..at + window.len()].contains(&true) { window.len().min(3) } else { window.len() };
        for &key in &keys[from.min(to)..to] {
            buckets.push(bucket(key));
        }
        for &key in &keys[..n_cjk] {
            if let Some(group) = lexicon::group_of(key) {
                hit(group, at);
            }
        }
        if at <= 2 {
            buckets.extend(keys[..window.len()].iter().skip(1).take(2).map(|key| bucket(key ^ START)));
        }
        let is_in_word = is_word(c);
        if is_in_word && !was_word {
            let end = at + text[at..].iter().take_while(|&&c| is_word(c)).count();
            words.next(&text[at..end], at, &mut buckets, &mut hit);
        } else if cjk[at] {
            words.previous = None;
        }
        was_word = is_in_word;
    }
    sort(&mut buckets);
    let mut counts: Vec<(u32, u32)> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        match counts.last_mut() {
            Some((last, count)) if *last == bucket => *count += 1,
            _ => counts.push((bucket, 1)),
        }
    }
    Grams { counts, hits, opening_hits }
}

/// Hashes of the one to four characters of a window, shortest first; those beyond its end are not meant to be used.
fn keys(window: &[char]) -> [u64; 4] {
    let mut keys = [0; 4];
    let mut hash = CHARS;
    for (key, &c) in keys.iter_mut().zip(window) {
        hash = extend(hash, c);
        *key = mix(hash);
    }
    keys
}

/// Ascending order in two counting passes over nine bits each: buckets are small numbers and there are thousands of them,
/// for which this takes a third of the time of a comparison sort.
fn sort(buckets: &mut [u32]) {
    const BITS: u32 = NGRAM_BUCKETS.trailing_zeros() / 2;
    const DIGITS: usize = 1 << BITS;
    const { assert!(NGRAM_BUCKETS == 1 << (2 * BITS)) };
    let low = |bucket: u32| bucket as usize & (DIGITS - 1);
    let high = |bucket: u32| (bucket >> BITS) as usize & (DIGITS - 1);
    let (mut by_low, mut by_high) = ([0u32; DIGITS], [0u32; DIGITS]);
    for &bucket in buckets.iter() {
        by_low[low(bucket)] += 1;
        by_high[high(bucket)] += 1;
    }
    let mut sorted = vec![0; buckets.len()];
    place(buckets, &mut sorted, &mut by_low, low);
    place(&sorted, buckets, &mut by_high, high);
}

/// Copies `from` to `to`, ordered by `digit` and else as it is; `counts` says how often each digit occurs.
fn place<const N: usize>(from: &[u32], to: &mut [u32], counts: &mut [u32; N], digit: impl Fn(u32) -> usize) {
    let mut before = 0;
    for n in counts.iter_mut() {
        before += std::mem::replace(n, before);
    }
    for &bucket in from {
        let at = &mut counts[digit(bucket)];
        to[*at as usize] = bucket;
        *at += 1;
    }
}

/// Latin words met so far: pairs need the word before.
#[derive(Default)]
struct Words {
    /// Hash of the word before, with the space that follows it.
    previous: Option<u64>,
    n: usize,
}

impl Words {
    fn next(&mut self, word: &[char], at: usize, buckets: &mut Vec<u32>, hit: &mut impl FnMut(usize, usize)) {
        let hash = word.iter().fold(CHARS, |hash, &c| extend(hash, c));
        let key = mix(hash);
        buckets.push(bucket(key ^ WORD));
        let mut pair_hit = None;
        if let Some(previous) = self.previous {
            let pair = mix(word.iter().fold(previous, |hash, &c| extend(hash, c)));
            buckets.push(bucket(pair ^ PAIR));
            pair_hit = lexicon::group_of(pair);
        }
        if let Some(group) = pair_hit.or_else(|| lexicon::group_of(key)).or_else(|| lexicon::group_of_ending(word)) {
            hit(group, at);
        }
        if self.n < 3 {
            buckets.push(bucket(key ^ START.rotate_left(self.n as u32)));
        }
        self.n += 1;
        self.previous = Some(extend(hash, ' '));
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '#') || (!c.is_ascii() && !is_cjk(c) && c.is_alphabetic())
}

fn extend(hash: u64, c: char) -> u64 {
    (hash.rotate_left(5) ^ u64::from(c as u32)).wrapping_mul(0x517C_C1B7_2722_0A95)
}

/// Spreads the high bits, which multiplication fills, into the low ones, which buckets are taken from.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    hash ^ (hash >> 32)
}

fn bucket(key: u64) -> u32 {
    (mix(key) as u32) & (NGRAM_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn buckets_are_sorted_as_a_comparison_sort_would(mut buckets in proptest::collection::vec(0..NGRAM_BUCKETS, 0..500)) {
            let mut expected = buckets.clone();
            expected.sort_unstable();
            sort(&mut buckets);
            prop_assert_eq!(buckets, expected);
        }
    }
}
