use proptest::prelude::*;

use super::*;

#[test]
fn terms_of_spaced_scripts() {
    for (text, expected) in [
        ("", ""),
        (" \n ", ""),
        ("The cats were running", "cat run"),
        ("Scott’s and Ed's films", "scott ed film"),
        ("Café Müller, Łódź", "cafe muller lodz"),
        ("ＦＵＬＬ　ｗｉｄｔｈ ﬁle", "full width file"),
        ("Covid-19 in the U.S. and U.K.", "covid 19 us uk"),
        ("pi is 3.14, not 3,5", "pi 3.14 3,5"),
        ("max_tokens=1024", "max token 1024"),
        ("see example.com.Then stop", "see exampl com stop"),
        ("Чёрный й", "черныи и"),
        ("İstanbul ISTANBUL", "istanbul istanbul"),
        ("!!! … --- 🎉", ""),
    ] {
        assert_eq!(terms(text), expected, "{text:?}");
    }
}

#[test]
fn han_gives_words_pairs_and_characters() {
    let has = |text: &str, term: &str| terms(text).split(' ').any(|have| have == term);
    for term in ["清华大学", "清华", "大学", "清"] {
        assert!(has("我来到清华大学", term), "{term}: {}", terms("我来到清华大学"));
    }
    assert!(!has("我来到清华大学", "到清"), "across two words");
    assert!(has("詹姆斯·史都华", "詹姆") || has("詹姆斯·史都华", "詹姆斯"));
    // Words around a stop word are not a pair, and a stop word is not a term.
    for term in ["的", "什么", "京的", "么是"] {
        assert!(!has("北京的历史是什么", term), "{term}: {}", terms("北京的历史是什么"));
    }
    assert!(has("GPT模型2024年", "gpt") && has("GPT模型2024年", "模型") && has("GPT模型2024年", "2024"));
}

#[test]
fn other_scripts_without_spaces_give_pairs() {
    assert_eq!(terms("ひらがな"), "ひら らが がな");
    assert_eq!(terms("한국어"), "한국 국어");
    assert!(terms("ภาษาไทย").split(' ').count() > 3);
}

#[test]
fn a_question_says_each_term_once() {
    assert_eq!(query_terms("What is the cat's cat? Cats!"), "cat");
    assert_eq!(terms("cat cats"), "cat cat");
}

/// The isolated form U+FC70 folds to a space and a mark, which segmentation takes for one word.
#[test]
fn a_folded_mark_does_not_put_a_space_into_a_term() {
    assert_eq!(terms("a1 \u{FE70} b1"), "a1 \u{064B} b1");
}

#[test]
fn long_blobs_are_cut() {
    assert_eq!(terms(&"é1".repeat(1000)).chars().count(), MAX_TERM_CHARS);
}

#[test]
fn languages() {
    for (text, expected) in [
        ("What is RAG?", Language::English),
        ("Qu'est-ce que c'est", Language::English),
        ("什么是检索增强生成", Language::Chinese),
        ("Weirgate 是什么", Language::Chinese),
        ("The word 道 means way in Chinese philosophy", Language::English),
        ("これは日本語の文章です", Language::Other),
        ("한국어 문장", Language::Other),
        ("Привет, мир", Language::Other),
        ("2024", Language::Other),
        ("", Language::Other),
    ] {
        assert_eq!(language(text), expected, "{text:?}");
    }
}

proptest! {
    #[test]
    fn terms_are_single_spaced_and_folded(text in "\\PC{0,60}|[a-zA-Z0-9_.' ]{0,60}|[一-龥ぁ-ん가-힣a-z的。 ]{0,40}") {
        let joined = terms(&text);
        prop_assert!(joined.is_empty() || joined.split(' ').all(|term| !term.is_empty() && !term.contains(char::is_whitespace)));
        prop_assert_eq!(&joined, &terms(&text));
        let each: HashSet<&str> = joined.split_whitespace().collect();
        let query = query_terms(&text);
        prop_assert_eq!(query.split_whitespace().count(), each.len());
    }
}
