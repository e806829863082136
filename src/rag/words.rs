//! Words and tokens counted in any script, without a tokenizer: a word ends at white space, and each Han or kana
//! character is a word of its own. Called by refinement, compression and prompts. Estimates, not a model's count.

use std::ops::Range;

/// Byte ranges of the words, in order. Punctuation stays with the word before it.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    // Whether the next character may still belong to the last word.
    let mut open = false;
    let mut after_character = false;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        if c.is_whitespace() {
            (open, after_character) = (false, false);
        } else if is_character_word(c) {
            found.push(at..end);
            (open, after_character) = (true, true);
        } else {
            let joins = open && !(after_character && c.is_alphanumeric());
            match found.last_mut() {
                Some(last) if joins => last.end = end,
                _ => found.push(at..end),
            }
            // "中。abc": the letter after the full stop begins a word, as it would after the character.
            after_character = after_character && joins;
            open = true;
        }
    }
    found
}

pub fn count_words(text: &str) -> usize {
    words(text).len()
}

/// Whether the character is written without spaces around its words: Han and kana.
pub fn is_character_word(c: char) -> bool {
    matches!(u32::from(c),
        0x3005..=0x3007 | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF
        | 0xFF66..=0xFF9F | 0x2_0000..=0x3_FFFF)
}

/// About how many tokens a language model reads: a quarter for a Latin letter, digit, mark or space, half for a letter
/// of another alphabet, one for a Han or kana character. Real tokenizers differ by about a quarter either way, so a
/// budget that must hold needs that much room.
pub fn estimate_tokens(text: &str) -> usize {
    let quarters: usize = text
        .chars()
        .map(|c| match c {
            _ if is_character_word(c) => 4,
            '\0'..='\u{24F}' => 1,
            _ if c.is_alphanumeric() => 2,
            _ => 1,
        })
        .sum();
    quarters.div_ceil(4)
}

/// Puts pieces of one text together again: with a space, but not between two characters that are words.
pub fn join_pieces<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for piece in pieces {
        let piece = piece.trim();
        if piece.is_empty() {
            continue;
        }
        let (Some(last), Some(first)) = (joined.chars().next_back(), piece.chars().next()) else {
            joined.push_str(piece);
            continue;
        };
        if !(is_wide(last) && is_wide(first)) {
            joined.push(' ');
        }
        joined.push_str(piece);
    }
    joined
}

/// Characters and the marks that go with them, which bring their own space.
fn is_wide(c: char) -> bool {
    is_character_word(c) || matches!(u32::from(c), 0x3000..=0x303F | 0xFF00..=0xFF65 | 0x2018..=0x201D | 0x2026)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        words(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn words_of_any_script() {
        for (text, expected) in [
            ("", vec![]),
            ("  a well-known  fact. ", vec!["a", "well-known", "fact."]),
            ("中文。", vec!["中", "文。"]),
            ("版本2.0发布", vec!["版", "本", "2.0", "发", "布"]),
            ("用 Rust 写", vec!["用", "Rust", "写"]),
            ("好。abc", vec!["好。", "abc"]),
            ("\u{201c}引\u{201d}", vec!["\u{201c}", "引\u{201d}"]),
        ] {
            assert_eq!(split(text), expected, "{text:?}");
        }
    }

    #[test]
    fn tokens_are_estimated_by_script() {
        for (text, expected) in
            [("", 0), ("four", 1), ("fours", 2), ("中文", 2), ("Привет", 3), ("café au lait", 3), ("中ab", 2)]
        {
            assert_eq!(estimate_tokens(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pieces_are_joined_as_the_script_does() {
        assert_eq!(join_pieces(["A b.", "C d."]), "A b. C d.");
        assert_eq!(join_pieces(["第一。", "第二。"]), "第一。第二。");
        assert_eq!(join_pieces(["用", "Rust", ""]), "用 Rust");
    }

    proptest::proptest! {
        #[test]
        fn words_cover_everything_but_space(text in "\\PC{0,60}") {
            let joined: String = split(&text).concat();
            let expected: String = text.split_whitespace().collect();
            proptest::prop_assert_eq!(joined, expected);
        }
    }
}
