//! Hashed n-grams and lexicon hits of folded text, in one pass. Called by `extract`; allocates only its output.
//!
//! Character n-grams survive typos and need no word list for Chinese: 1 to 3 characters where CJK text takes part, 4
//! elsewhere, where shorter ones say nothing that those and whole words do not. Latin words and pairs of them say more than
//! their letters; the opening of the text says what kind of request it is.

use super::NGRAM_BUCKETS;
use super::lexicon::{self, N_GROUPS};
use super::normalize::{FIRST_CJK, is_cjk};

/// What one pass over the text found.
pub struct Grams {
    /// Hashed n-grams, ascending.
    pub buckets: Vec<u32>,
    /// How often each of them occurs.
    pub counts: Vec<u32>,
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

/// Hash of a character sequence.
pub fn hash_chars(chars: &[char]) -> u64 {
    mix(chars.iter().fold(CHARS, |hash, &c| extend(hash, c)))
}

/// All n-grams and lexicon hits of `text`, which is folded (see `normalize`).
///
/// Several plain loops over arrays instead of one with everything in it, without branches that depend on the text where
/// that is possible: this is most of what a routing decision costs.
pub fn grams(text: &[char]) -> Grams {
    let mut found = Found { buckets: Vec::with_capacity(text.len() * 5 + 16), ..Found::default() };
    windows(text, &mut found);
    words(text, &mut found);
    sort(&mut found.buckets);
    let (buckets, counts) = counted(&found.buckets);
    Grams { buckets, counts, hits: found.hits, opening_hits: found.opening_hits }
}

/// What the passes over the text collect.
#[derive(Default)]
struct Found {
    buckets: Vec<u32>,
    hits: [f32; N_GROUPS],
    opening_hits: [f32; N_GROUPS],
}

impl Found {
    fn hit(&mut self, group: usize, at: usize) {
        self.hits[group] += 1.0;
        if at < OPENING {
            self.opening_hits[group] += 1.0;
        }
    }
}

/// Character n-grams, and the CJK words among them.
fn windows(text: &[char], found: &mut Found) {
    for n in 2..=3.min(text.len()) {
        found.buckets.extend(text.windows(n).take(3).map(|window| bucket(hash_chars(window) ^ START)));
    }
    // One look at all characters together answers for nearly every text without one.
    if text.iter().fold(0, |all, &c| all | c as u32) >= FIRST_CJK && text.iter().copied().any(is_cjk) {
        mixed_windows(text, found);
    } else {
        found.buckets.extend(text.windows(4).map(|window| bucket(hash_chars(window))));
    }
}

/// N-grams by increasing length, each from the one a character shorter.
fn mixed_windows(text: &[char], found: &mut Found) {
    let runs = runs(text);
    let mut hashes = vec![CHARS; text.len()];
    for n in 1..=4.min(text.len()) {
        let n_windows = text.len() + 1 - n;
        hashes.truncate(n_windows);
        hashes.iter_mut().zip(&text[n - 1..]).for_each(|(hash, &c)| *hash = extend(*hash, c));
        let all_latin = -(n as i8);
        let keys = hashes.iter().map(|&hash| mix(hash)).zip(&runs);
        match n {
            4 => push_where(keys.map(|(key, &run)| (key, run == all_latin)), &mut found.buckets),
            _ => push_where(keys.map(|(key, &run)| (key, run > all_latin)), &mut found.buckets),
        }
        for (at, &run) in runs[..n_windows].iter().enumerate() {
            if usize::try_from(run).is_ok_and(|run| run >= n)
                && let Some(group) = lexicon::group_of(mix(hashes[at]))
            {
                found.hit(group, at);
            }
        }
    }
}

/// For each character how many from there on are CJK, or, negative, are not; counted up to four.
fn runs(text: &[char]) -> Vec<i8> {
    let mut runs = vec![0i8; text.len()];
    let mut run = 0i8;
    for (at, &c) in text.iter().enumerate().rev() {
        run = if is_cjk(c) { run.clamp(0, 3) + 1 } else { run.clamp(-3, 0) - 1 };
        runs[at] = run;
    }
    runs
}

/// Pushes the buckets of the keys that are wanted; whether one is wanted is no branch, because it cannot be predicted.
fn push_where(keys: impl ExactSizeIterator<Item = (u64, bool)>, buckets: &mut Vec<u32>) {
    let mut end = buckets.len();
    buckets.resize(end + keys.len(), 0);
    for (key, is_wanted) in keys {
        buckets[end] = bucket(key);
        end += usize::from(is_wanted);
    }
    buckets.truncate(end);
}

/// Each bucket of the ascending `sorted` once, and how often it is there.
fn counted(sorted: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut buckets = vec![0; sorted.len()];
    let mut ends = vec![0; sorted.len()];
    let mut n = 0;
    for (end, pair) in (1u32..).zip(sorted.windows(2)) {
        // Written over by the next one if that is equal, so that there is no branch to mispredict.
        buckets[n] = pair[0];
        ends[n] = end;
        n += usize::from(pair[0] != pair[1]);
    }
    if let Some(&last) = sorted.last() {
        buckets[n] = last;
        ends[n] = sorted.len() as u32;
        n += 1;
    }
    buckets.truncate(n);
    ends.truncate(n);
    let mut before = 0;
    ends.iter_mut().for_each(|end| *end -= std::mem::replace(&mut before, *end));
    (buckets, ends)
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

/// Latin words, pairs of them that stand next to each other, the first three, and the lexicon's words among them.
fn words(text: &[char], found: &mut Found) {
    // Hash of the word before, with the space that follows it.
    let mut previous: Option<u64> = None;
    let mut n_words = 0u32;
    let mut at = 0;
    while at < text.len() {
        let n_chars = text[at..].iter().take_while(|&&c| is_word(c)).count();
        if n_chars == 0 {
            previous = previous.filter(|_| !is_cjk(text[at]));
            at += 1;
            continue;
        }
        let word = &text[at..at + n_chars];
        let hash = word.iter().fold(CHARS, |hash, &c| extend(hash, c));
        let key = mix(hash);
        found.buckets.push(bucket(key ^ WORD));
        let mut pair_hit = None;
        if let Some(previous) = previous {
            let pair = mix(word.iter().fold(previous, |hash, &c| extend(hash, c)));
            found.buckets.push(bucket(pair ^ PAIR));
            pair_hit = lexicon::group_of(pair);
        }
        if let Some(group) = pair_hit.or_else(|| lexicon::group_of(key)).or_else(|| lexicon::group_of_ending(word)) {
            found.hit(group, at);
        }
        if n_words < 3 {
            found.buckets.push(bucket(key ^ START.rotate_left(n_words)));
        }
        n_words += 1;
        previous = Some(extend(hash, ' '));
        at += n_chars;
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
