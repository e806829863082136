use proptest::prelude::*;

use super::*;

fn features(text: &str) -> FeatureVector {
    extract(&Prompt::single(text))
}

/// The part of the features that says what a text is about: n-grams only.
fn ngrams(text: &str) -> Vec<(u32, f32)> {
    features(text).split().0.collect()
}

proptest! {
    #[test]
    fn any_text_gives_a_well_formed_vector_that_survives_its_bytes(
        text in any::<String>(), n_turns in any::<u32>(), n_chars_total in any::<usize>(), has_tools in any::<bool>(),
    ) {
        let vector = extract(&Prompt { text: &text, n_turns, n_chars_total, has_tools });
        prop_assert!(vector.indices.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(vector.indices.iter().all(|&index| index < NGRAM_BUCKETS + N_STRUCTURE as u32));
        prop_assert!(vector.values.iter().all(|value| (0.0..=4.0).contains(value)));
        prop_assert_eq!(FeatureVector::from_bytes(&vector.to_bytes()), Ok(vector));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
        let _ = FeatureVector::from_bytes(&bytes);
    }

    #[test]
    fn the_same_prompt_gives_the_same_vector(text in "[a-z求解写药 ]{0,80}") {
        prop_assert_eq!(features(&text), features(&text));
    }
}

#[test]
fn full_width_case_and_white_space_do_not_matter() {
    assert_eq!(ngrams("Ｗｒｉｔｅ　ａ　Ｐｏｅｍ"), ngrams("write a poem"));
    assert_eq!(ngrams("SELECT  *\n FROM T"), ngrams("select * from t"));
    assert_eq!(ngrams("求１２３与４５６之和"), ngrams("求987与654之和"));
    assert_ne!(ngrams("write a poem"), ngrams("write a program"));
}

#[test]
fn length_is_recovered_from_the_features() {
    for n in [1usize, 30, 1_000, 50_000] {
        let prompt = Prompt { text: "x", n_turns: 3, n_chars_total: n, has_tools: true };
        let ratio = n_chars(&extract(&prompt)) / n as f32;
        assert!((0.8..1.25).contains(&ratio), "{n}: {ratio}");
    }
}

#[test]
fn a_typo_leaves_most_features_alone() {
    let (right, wrong) = (ngrams("请用动态规划求最长公共子序列的长度"), ngrams("请用动态规划求最长公供子序列的长度"));
    let shared = right.iter().filter(|gram| wrong.contains(gram)).count();
    assert!(shared * 10 > right.len() * 7, "{shared} of {}", right.len());
}

#[test]
fn a_huge_prompt_costs_what_a_long_one_does() {
    let vector = features(&"中文 and English ".repeat(100_000));
    assert!(vector.len() < 6 * normalize::MAX_CHARS);
}
