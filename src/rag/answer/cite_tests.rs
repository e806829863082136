use std::collections::BTreeSet;

use super::*;

fn shown(answer: &str) -> Vec<String> {
    read(answer, 3).iter().map(CitedSentence::marked).collect()
}

#[test]
fn marks_in_any_form_belong_to_the_sentence_before() {
    for (answer, expected) in [
        ("Jaws is a film [1]. It was made in 1975 [2][3].", vec!["Jaws is a film. [1]", "It was made in 1975. [2][3]"]),
        ("Jaws is a film. [1] It was made in 1975. [2, 3]", vec!["Jaws is a film. [1]", "It was made in 1975. [2][3]"]),
        ("Jaws is a film.[1] It was made.[1-3]", vec!["Jaws is a film. [1]", "It was made. [1][2][3]"]),
        ("According to [2], Jaws is a film.", vec!["According to, Jaws is a film. [2]"]),
        ("《大白鲨》是电影【1】。它很有名[来源2]。", vec!["《大白鲨》是电影。 [1]", "它很有名。 [2]"]),
        ("Film [Source 1]. Old [^2]. New [1](https://a.org).", vec!["Film. [1]", "Old. [2]", "New. [1]"]),
        ("Only [7]. Twice [1] and [1].", vec!["Only.", "Twice and. [1]"]),
        ("Nothing. In [2019] and [a] and [0].", vec!["Nothing.", "In [2019] and [a] and."]),
        ("[1]", vec![]),
        ("<think>Maybe [1].</think> Jaws [2].", vec!["Jaws. [2]"]),
        ("<think>endless [1].", vec![]),
        ("- First [1]\n- Second [2]\n", vec!["- First [1]", "- Second [2]"]),
        ("", vec![]),
    ] {
        assert_eq!(shown(answer), expected, "{answer}");
    }
}

#[test]
fn invalid_numbers_are_told() {
    let found = read("Only [7] and [0].", 3);
    assert_eq!(found[0].invalid, [7, 0]);
    assert!(found[0].citations.is_empty());
    assert!(read("Any [1].", 0)[0].citations.is_empty());
}

#[test]
fn sentences_come_when_the_next_has_begun() {
    let mut reader = AnswerReader::new(3);
    let mut given: Vec<(usize, String)> = Vec::new();
    for (n, delta) in ["Jaws is", " a film.", " [", "1", "]", " It", " is old [2", "].", " End"].into_iter().enumerate()
    {
        given.extend(reader.push(delta).into_iter().map(|sentence| (n, sentence.marked())));
    }
    assert_eq!(given, [(5, "Jaws is a film. [1]".to_string()), (8, "It is old. [2]".to_string())]);
    assert_eq!(reader.finish().iter().map(CitedSentence::marked).collect::<Vec<_>>(), ["End"]);
}

#[test]
fn thinking_is_skipped_in_pieces_too() {
    let mut reader = AnswerReader::new(3);
    for delta in ["<th", "ink>It [1]. Or", " not. </thi", "nk>Jaws [2]"] {
        assert!(reader.push(delta).is_empty());
    }
    assert_eq!(reader.finish()[0].marked(), "Jaws [2]");
}

proptest::proptest! {
    /// Where a sentence ends may look otherwise once more of it has come, so only the words and what they cite are compared.
    #[test]
    fn no_cutting_of_the_stream_loses_words_or_citations(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "Jaws is a film", ".", " ", "[1]", "[2, 3]", "[9]", "[", "]", "12", "它是电影", "。", "【1】", "\n", "a-b", "[x]", "?",
            ]),
            0..24,
        ),
        step in 1_usize..7,
    ) {
        let answer = parts.concat();
        let mut reader = AnswerReader::new(3);
        let mut streamed = Vec::new();
        let chars: Vec<char> = answer.chars().collect();
        for piece in chars.chunks(step) {
            streamed.extend(reader.push(&piece.iter().collect::<String>()));
        }
        streamed.extend(reader.finish());
        let said = |sentences: &[CitedSentence]| {
            let words: String = sentences.iter().flat_map(|s| s.text.chars()).filter(|c| !c.is_whitespace()).collect();
            let cited: BTreeSet<usize> = sentences.iter().flat_map(|s| s.citations.iter().copied()).collect();
            let invalid: BTreeSet<usize> = sentences.iter().flat_map(|s| s.invalid.iter().copied()).collect();
            (words, cited, invalid)
        };
        proptest::prop_assert_eq!(said(&streamed), said(&read(&answer, 3)));
    }

    #[test]
    fn any_answer_can_be_read(answer in "(\\PC|[\\[\\]0-9<>/. 。【】-]){0,80}", n_sources in 0_usize..5) {
        for sentence in read(&answer, n_sources) {
            proptest::prop_assert!(sentence.citations.iter().all(|source| *source < n_sources));
        }
    }
}
