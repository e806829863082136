//! Texts as the metrics compare them: normalised words, answer strings, exact match, F1, and an estimate of tokens.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

/// Lower-case words between single spaces, with a space at both ends, so that `contains` means "as whole words". Canonically
/// decomposed, so marks separate; each character of scripts written without spaces is a word of its own.
pub fn normalize(text: &str) -> String {
    let mut words = String::from(" ");
    for character in text.nfd().flat_map(char::to_lowercase) {
        if is_unspaced(character) {
            separate(&mut words);
            words.push(character);
            words.push(' ');
        } else if character.is_alphanumeric() || character == '_' {
            words.push(character);
        } else {
            separate(&mut words);
        }
    }
    separate(&mut words);
    words
}

/// The answer strings of a question, normalised; those without a word are left out.
pub fn normalize_answers(answers: &[String]) -> Vec<String> {
    answers.iter().map(|answer| normalize(answer)).filter(|answer| !answer.trim().is_empty()).collect()
}

/// Whether a normalised text contains one of the normalised answers.
pub fn contains_answer(normalized_text: &str, normalized_answers: &[String]) -> bool {
    normalized_answers.iter().any(|answer| normalized_text.contains(answer.as_str()))
}

/// Exact match and F1 of words with the best fitting answer, as SQuAD scores them: case, punctuation and articles do not count.
pub fn exact_match_and_f1(given: &str, answers: &[String]) -> (f64, f64) {
    let given = answer_words(given);
    let (mut best_exact, mut best_f1) = (0.0f64, 0.0f64);
    for answer in answers {
        let answer = answer_words(answer);
        best_exact = best_exact.max(f64::from(given == answer));
        best_f1 = best_f1.max(f1(&given, &answer));
    }
    (best_exact, best_f1)
}

/// About how many tokens a language model counts: a word of up to six letters is one, longer ones one for each six, numbers one
/// for each three digits, each unspaced character and each punctuation mark one. Texts are compared, so only the ratio matters.
pub fn estimate_tokens(text: &str) -> usize {
    let (mut n_tokens, mut run, mut run_is_digits) = (0, 0usize, false);
    let tokens_of = |run: usize, is_digits: bool| run.div_ceil(if is_digits { 3 } else { 6 });
    for character in text.chars() {
        let is_digit = character.is_ascii_digit();
        let is_word = character.is_alphanumeric() && !is_unspaced(character);
        if is_word && (run == 0 || is_digit == run_is_digits) {
            run += 1;
            run_is_digits = is_digit;
            continue;
        }
        n_tokens += tokens_of(run, run_is_digits);
        run = usize::from(is_word);
        run_is_digits = is_digit;
        n_tokens += usize::from(!is_word && !character.is_whitespace());
    }
    n_tokens + tokens_of(run, run_is_digits)
}

fn separate(words: &mut String) {
    if !words.ends_with(' ') {
        words.push(' ');
    }
}

/// Han, kana and their iteration marks.
fn is_unspaced(character: char) -> bool {
    matches!(character, '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{30FA}' | '\u{30FC}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

fn answer_words(text: &str) -> Vec<String> {
    const ARTICLES: [&str; 3] = ["a", "an", "the"];
    normalize(text).split_whitespace().filter(|word| !ARTICLES.contains(word)).map(str::to_string).collect()
}

fn f1(given: &[String], answer: &[String]) -> f64 {
    if given.is_empty() || answer.is_empty() {
        return f64::from(given == answer);
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in answer {
        *left.entry(word).or_default() += 1;
    }
    let mut n_shared = 0.0;
    for word in given {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            n_shared += 1.0;
        }
    }
    2.0 * n_shared / (given.len() + answer.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_and_unspaced_scripts_are_characters() {
        for (text, expected) in [
            ("May 18, 2018.", " may 18 2018 "),
            ("  Parens-patriae_x ", " parens patriae_x "),
            ("梵語《八篇書》", " 梵 語 八 篇 書 "),
            ("Café", " cafe "),
            ("第3版iOS", " 第 3 版 ios "),
            ("…", " "),
        ] {
            assert_eq!(normalize(text), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_is_found_as_whole_words_only() {
        let answers = normalize_answers(&["Reno".to_string(), "!".to_string(), "梵語".to_string()]);
        assert_eq!(answers.len(), 2);
        for (text, expected) in
            [("In Reno, Nevada", true), ("Moreno Valley", false), ("哪一門梵語的參考", true), ("梵文語", false)]
        {
            assert_eq!(contains_answer(&normalize(text), &answers), expected, "{text}");
        }
    }

    #[test]
    fn exact_match_and_f1_by_hand() {
        let answers = |texts: &[&str]| texts.iter().map(|text| (*text).to_string()).collect::<Vec<_>>();
        for (given, expected, exact, f1) in [
            ("The Chief of Protocol.", vec!["chief of protocol"], 1.0, 1.0),
            ("Chief", vec!["chief of protocol"], 0.0, 0.5),
            ("in May 2018", vec!["2017", "May 18, 2018"], 0.0, 2.0 / 3.0),
            ("", vec!["x"], 0.0, 0.0),
            ("梵語文", vec!["梵語"], 0.0, 0.8),
            ("a a a", vec!["the"], 1.0, 1.0),
            ("x x", vec!["x"], 0.0, 2.0 / 3.0),
        ] {
            let (given_exact, given_f1) = exact_match_and_f1(given, &answers(&expected));
            assert_eq!(given_exact, exact, "{given}");
            assert!((given_f1 - f1).abs() < 1e-12, "{given}: {given_f1}");
        }
    }

    #[test]
    fn tokens_are_estimated_by_words_digits_and_marks() {
        for (text, expected) in
            [("", 0), ("one two", 2), ("considered", 2), ("in 2018.", 4), ("梵語, yes", 4), ("x9", 2), (" \n", 0)]
        {
            assert_eq!(estimate_tokens(text), expected, "{text:?}");
        }
    }
}
