//! What the terms of a question are, for those who trust some more than others.

use std::collections::HashSet;

use super::{JIEBA, fold, is_han, is_hangul, is_unspaced, query_terms, runs};

/// What a term is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A word or number of a script with spaces.
    Spaced,
    /// A word as the dictionary cuts the text, or one character.
    Word,
    /// A shorter word within a word, or a pair of characters.
    Part,
}

/// The terms of a question as [`query_terms`] has them, each with its kind.
pub fn query_kinds(text: &str) -> Vec<(String, Kind)> {
    let folded = fold(text);
    let han = runs(&folded, is_han).filter(|(belongs, _)| *belongs);
    let words: HashSet<&str> = han.flat_map(|(_, run)| JIEBA.cut(run, true)).map(|token| token.word).collect();
    let kind = |term: &str| {
        if !term.contains(|c: char| is_han(c) || is_unspaced(c) || is_hangul(c)) {
            Kind::Spaced
        } else if words.contains(term) || term.chars().nth(1).is_none() {
            Kind::Word
        } else {
            Kind::Part
        }
    };
    query_terms(text).split_whitespace().map(|term| (term.to_owned(), kind(term))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_of_a_question_has_its_kind() {
        let question = "清华大学的GPT-4模型, ひらがな";
        let kinds = query_kinds(question);
        let terms: Vec<&str> = kinds.iter().map(|(term, _)| term.as_str()).collect();
        assert_eq!(terms.join(" "), query_terms(question));
        for (term, expected) in [
            ("gpt", Kind::Spaced),
            ("4", Kind::Spaced),
            ("清华大学", Kind::Word),
            ("模型", Kind::Word),
            ("清", Kind::Word),
            ("清华", Kind::Part),
            ("大学", Kind::Part),
            ("ひら", Kind::Part),
        ] {
            let kind = kinds.iter().find(|(have, _)| have == term).map(|(_, kind)| *kind);
            assert_eq!(kind, Some(expected), "{term}: {kinds:?}");
        }
    }

    #[test]
    fn a_word_that_is_also_a_part_of_another_is_a_word() {
        let kinds = query_kinds("大学和清华大学");
        assert!(kinds.contains(&("大学".to_owned(), Kind::Word)), "{kinds:?}");
    }
}
