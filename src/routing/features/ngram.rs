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
    let mut words: Words<'_> = Words::default();
    for at in 0..text.len() {
        let mut hash = CHARS;
        let mut all_cjk = true;
        let mut any_cjk = false;
        for (n, &c) in text[at..].iter().take(4).enumerate() {
            hash = extend(hash, c);
            let cjk = is_cjk(c);
            all_cjk &= cjk;
            any_cjk |= cjk;
            if n == 0 && c == ' ' {
                continue;
            }
            let key = mix(hash);
            if n < 3 || !any_cjk {
                buckets.push(bucket(key));
            }
            if all_cjk && let Some(group) = lexicon::group_of(key) {
                hit(group, at);
            }
            if (1..3).contains(&n) && at <= 2 {
                buckets.push(bucket(key ^ START));
            }
        }
        if is_word(text[at]) && (at == 0 || !is_word(text[at - 1])) {
            let end = at + text[at..].iter().take_while(|&&c| is_word(c)).count();
            words.next(&text[at..end], at, &mut buckets, &mut hit);
        } else if is_cjk(text[at]) {
            words.previous = None;
        }
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

/// Ascending order in two counting passes over nine bits each: buckets are small numbers and there are thousands of them,
/// for which this takes a third of the time of a comparison sort.
fn sort(buckets: &mut Vec<u32>) {
    const BITS: u32 = NGRAM_BUCKETS.trailing_zeros() / 2;
    const { assert!(NGRAM_BUCKETS == 1 << (2 * BITS)) };
    let mut sorted = vec![0; buckets.len()];
    for pass in 0..2 {
        let digit = |bucket: u32| (bucket >> (pass * BITS)) as usize & ((1 << BITS) - 1);
        let mut place = [0usize; 1 << BITS];
        buckets.iter().for_each(|&bucket| place[digit(bucket)] += 1);
        let mut before = 0;
        for n in &mut place {
            before += std::mem::replace(n, before);
        }
        for &bucket in buckets.iter() {
            let at = &mut place[digit(bucket)];
            sorted[*at] = bucket;
            *at += 1;
        }
        std::mem::swap(buckets, &mut sorted);
    }
}

/// Latin words met so far: pairs need the word before.
#[derive(Default)]
struct Words<'a> {
    previous: Option<&'a [char]>,
    n: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self, word: &'a [char], at: usize, buckets: &mut Vec<u32>, hit: &mut impl FnMut(usize, usize)) {
        let key = hash_chars(word);
        buckets.push(bucket(key ^ WORD));
        let mut pair_hit = None;
        if let Some(previous) = self.previous {
            let pair = mix(word
                .iter()
                .fold(extend(previous.iter().fold(CHARS, |h, &c| extend(h, c)), ' '), |h, &c| extend(h, c)));
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
        self.previous = Some(word);
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '#') || (c.is_alphabetic() && !is_cjk(c))
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
