//! Text to the characters that n-grams are cut from. Called by `extract` only; must stay cheap and total.
//!
//! Full-width and compatibility forms fold to their plain form (NFKC), letters to lower case, each digit to `0` with
//! runs cut at two, white space to one space. So `Ｐｙｔｈｏｎ　３．１２` and `python 3.11` give the same n-grams.

use unicode_normalization::UnicodeNormalization;

/// Longest text looked at, in characters: the first and the last half of it. A prompt says what it wants at its ends, what
/// stands between them is mostly material, and the bound keeps a megabyte prompt as cheap as a long one.
pub const MAX_CHARS: usize = 800;

/// The ends of `text` if it is longer than [`MAX_CHARS`] characters, else all of it.
pub fn ends(text: &str) -> (&str, &str) {
    let half = MAX_CHARS / 2;
    if text.is_ascii() {
        return if text.len() > MAX_CHARS { (&text[..half], &text[text.len() - half..]) } else { (text, "") };
    }
    let Some((head_end, _)) = text.char_indices().nth(half) else { return (text, "") };
    let (head, rest) = text.split_at(head_end);
    match rest.char_indices().rev().nth(half - 1) {
        Some((tail_start, _)) => (head, &rest[tail_start..]),
        None => (text, ""),
    }
}

/// Folds `text` and appends it to `out`. A space stands between the pieces of successive calls.
pub fn fold_into(text: &str, out: &mut Vec<char>) {
    if !out.is_empty() && !text.is_empty() && out.last() != Some(&' ') {
        out.push(' ');
    }
    if text.is_ascii() {
        return fold_ascii(text.as_bytes(), out);
    }
    for run in text.split_inclusive(is_ideograph) {
        // The run ends with an ideograph, which is its own folded form and composes with nothing; often it is all there is.
        let (rest, last) = match run.chars().next_back().filter(|&c| is_ideograph(c)) {
            Some(last) => (&run[..run.len() - last.len_utf8()], Some(last)),
            None => (run, None),
        };
        if rest.is_ascii() {
            fold_ascii(rest.as_bytes(), out);
        } else {
            rest.nfkc().flat_map(char::to_lowercase).for_each(|folded| push_folded(folded, out));
        }
        out.extend(last);
    }
}

fn fold_ascii(text: &[u8], out: &mut Vec<char>) {
    text.iter().for_each(|&byte| match byte {
        b'!'..=b'/' | b':'..=b'~' => out.push(char::from(byte.to_ascii_lowercase())),
        _ => push_folded(char::from(byte), out),
    });
}

/// The unified ideographs of the basic plane.
fn is_ideograph(c: char) -> bool {
    matches!(c as u32, 0x3400..=0x4DBF | 0x4E00..=0x9FFF)
}

/// Both [`ends`] folded, as n-grams see them: single spaces between words, and one at either edge.
pub fn fold((head, tail): (&str, &str)) -> Vec<char> {
    let mut out = Vec::with_capacity(head.len() + tail.len() + 2);
    out.push(' ');
    fold_into(head, &mut out);
    fold_into(tail, &mut out);
    if out.last() != Some(&' ') {
        out.push(' ');
    }
    out
}

/// No character below it is one of [`is_cjk`].
pub const FIRST_CJK: u32 = 0x2E80;

/// Han, kana, hangul and their extensions: scripts written without spaces, where a character is about a syllable.
pub fn is_cjk(c: char) -> bool {
    // Asked for every character several times; one comparison answers for nearly all that are not.
    (c as u32) >= FIRST_CJK
        && matches!(c as u32, 0x2E80..=0x2FDF | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF
        | 0xF900..=0xFAFF | 0x20000..=0x323AF)
}

fn push_folded(c: char, out: &mut Vec<char>) {
    if c.is_whitespace() || c.is_control() {
        if out.last() != Some(&' ') {
            out.push(' ');
        }
    } else if !is_cjk(c) && c.is_numeric() {
        let n = out.len();
        if n < 2 || out[n - 1] != '0' || out[n - 2] != '0' {
            out.push('0');
        }
    } else {
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> String {
        fold(ends(text)).into_iter().collect()
    }

    #[test]
    fn full_width_case_digits_and_space_fold() {
        assert_eq!(folded("Ｐｙｔｈｏｎ　３．１２"), " python 0.00 ");
        assert_eq!(folded("PYTHON \t\n 7.42"), " python 0.00 ");
        assert_eq!(folded("求１０００００的平方根？"), " 求00的平方根? ");
        assert_eq!(folded("ﬁnd ½"), " find 0⁄0 ");
        assert_eq!(folded(""), " ");
    }

    #[test]
    fn long_text_keeps_both_ends() {
        let text = format!("甲{}乙", "中".repeat(3 * MAX_CHARS));
        let (head, tail) = ends(&text);
        assert!(head.starts_with('甲') && tail.ends_with('乙'));
        assert_eq!(head.chars().count() + tail.chars().count(), MAX_CHARS);
        let all = "中".repeat(MAX_CHARS);
        let (head, tail) = ends(&all);
        assert_eq!(head.len() + tail.len(), all.len());
    }
}
