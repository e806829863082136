//! How many tokens a text has, roughly: for budgets, features and costs when a provider sends no usage.
//!
//! An estimate, and named so wherever it is stored: real counts differ per tokenizer. It counts characters by class, with
//! the ratios providers publish: about four Latin characters per token (OpenAI's help centre) and about one and a half
//! Chinese characters per token (Alibaba Cloud's Model Studio documentation).

/// Tokens in `text`, rounded up. At least 1 for a text that is not empty.
pub fn estimate_tokens(text: &str) -> u64 {
    // In twelfths of a token, so that the ratios are whole numbers.
    let twelfths: u64 = text.chars().map(weight).sum();
    twelfths.div_ceil(12)
}

fn weight(c: char) -> u64 {
    match c {
        '\0'..='\u{7f}' => 3,
        // Kana, CJK ideographs and their extensions, Hangul, full-width forms.
        '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}' => 8,
        '\u{20000}'..='\u{3ffff}' => 8,
        // Emoji and the like are several byte-level pieces.
        '\u{1f000}'..='\u{1ffff}' => 24,
        // Other alphabets: about two characters per token.
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_weigh_differently() {
        for (text, tokens) in [
            ("", 0),
            ("a", 1),
            ("The quick brown fox jumps over it", 9),
            ("你好，世界", 4),
            ("Привет, мир!", 6),
            ("😀", 2),
        ] {
            assert_eq!(estimate_tokens(text), tokens, "{text}");
        }
    }

    #[test]
    fn more_text_is_never_fewer_tokens() {
        let text = "mixed 混合 text";
        let mut last = 0;
        for (end, _) in text.char_indices() {
            let tokens = estimate_tokens(&text[..end]);
            assert!(tokens >= last);
            last = tokens;
        }
    }
}
