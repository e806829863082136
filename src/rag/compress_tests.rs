use super::*;
use crate::rag::overlap::LexicalScorer;
use crate::rag::scripted::ScriptedScore;

fn passage<'a>(document: &'a str, chunk: &'a str, header: &'a str, text: &'a str) -> Ranked<'a> {
    Ranked { document, chunk, header, text, score: 0.0 }
}

/// Scores a sentence by the number that stands in it.
fn by_number() -> ScriptedScore {
    ScriptedScore::new(|_, text| {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0.0)
    })
}

fn texts(compressed: &Compressed) -> Vec<String> {
    compressed.pieces.iter().map(Piece::text).collect()
}

fn budget(max_tokens: usize) -> Compression {
    Compression { max_tokens, ..Compression::default() }
}

#[tokio::test]
async fn the_best_sentences_stay_in_their_order_with_their_places() {
    let passages = [
        passage("d1", "c1", "Films", "Alpha has 1. Beta has 9. Gamma has 8."),
        passage("d2", "c2", "", "Delta has 2. Epsilon has 7."),
    ];
    let scorer = by_number();
    let compression = Compression { min_score: Some(5.0), ..Compression::default() };
    let found = compress("q", &passages, &scorer, &compression).await.unwrap();
    assert_eq!(texts(&found), ["Beta has 9. Gamma has 8.", "Epsilon has 7."]);
    assert_eq!(found.text(), "Films\nBeta has 9. Gamma has 8.\n\nEpsilon has 7.");
    let piece = &found.pieces[0];
    assert_eq!((piece.document.as_str(), piece.chunk.as_str(), piece.passage), ("d1", "c1", 0));
    let sentence = &piece.sentences[0];
    assert_eq!((sentence.index, &passages[0].text[sentence.range.clone()]), (1, "Beta has 9."));
    assert_eq!(scorer.calls(), 1, "all sentences in one call");
    assert!(found.tokens < found.tokens_before);
}

#[tokio::test]
async fn the_budget_holds_headers_included() {
    let passages = [
        passage("d1", "c1", "A long header of many words", "Alpha has 1. Beta has 9. Gamma has 8."),
        passage("d2", "c2", "", "Delta has 2. Epsilon has 7."),
    ];
    for max_tokens in 0..40 {
        let found = compress("q", &passages, &by_number(), &budget(max_tokens)).await.unwrap();
        assert!(found.tokens <= max_tokens, "{max_tokens}: {found:?}");
    }
    // Nine does not fit with its header; seven does without one.
    let found = compress("q", &passages, &by_number(), &budget(6)).await.unwrap();
    assert_eq!(texts(&found), ["Epsilon has 7."]);
}

#[tokio::test]
async fn nothing_relevant_gives_nothing() {
    let passages = [passage("d", "c", "Title", "Alpha has 1. Beta has 2.")];
    let strict = Compression { min_score: Some(3.0), ..Compression::default() };
    let found = compress("q", &passages, &by_number(), &strict).await.unwrap();
    assert!(found.is_empty() && found.tokens == 0 && found.text().is_empty());
    assert!(found.tokens_before > 0);
    let none = by_number();
    assert!(compress("q", &[], &none, &strict).await.unwrap().is_empty());
    assert_eq!(none.calls(), 0);
    let broken = ScriptedScore::new(|_, _| f32::NAN);
    assert!(compress("q", &passages, &broken, &Compression::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pronoun_brings_the_sentence_before() {
    let text = "Spielberg made it. He was born in 9. Nothing here. 该片于8年上映。";
    let passages = [passage("d", "c", "", text)];
    let some = Compression { min_score: Some(5.0), ..Compression::default() };
    let found = compress("q", &passages, &by_number(), &some).await.unwrap();
    assert_eq!(texts(&found), ["Spielberg made it. He was born in 9. Nothing here. 该片于8年上映。"]);
    let kinds: Vec<bool> = found.pieces[0].sentences.iter().map(|sentence| sentence.antecedent).collect();
    assert_eq!(kinds, [true, false, true, false]);

    let without = Compression { keep_antecedents: false, ..some };
    let found = compress("q", &passages, &by_number(), &without).await.unwrap();
    assert_eq!(texts(&found), ["He was born in 9. 该片于8年上映。"]);
}

#[tokio::test]
async fn overlapping_chunks_give_a_sentence_once() {
    let passages =
        [passage("d", "c1", "", "Alpha has 1. Beta has 9."), passage("d", "c2", "", "Beta  has 9. Gamma has 8.")];
    let found = compress("q", &passages, &by_number(), &Compression::default()).await.unwrap();
    assert_eq!(texts(&found), ["Alpha has 1. Beta has 9.", "Gamma has 8."]);
    assert_eq!(found.pieces[1].sentences[0].index, 1);
}

#[tokio::test]
async fn sentences_are_scored_with_their_header() {
    let seen = ScriptedScore::new(|_, text| if text.starts_with("Jaws: ") { 1.0 } else { 0.0 });
    let passages = [passage("d", "c", "Jaws", "It was shot in 1974.")];
    let found = compress("q", &passages, &seen, &Compression::default()).await.unwrap();
    assert_eq!(found.pieces[0].sentences[0].score, 1.0);
    assert_eq!(found.pieces[0].sentences[0].text, "It was shot in 1974.");
}

#[tokio::test]
async fn a_good_passage_lifts_its_sentences_but_not_over_the_least_score() {
    let passages = [
        Ranked { score: 5.0, ..passage("d1", "c1", "", "Alpha has 1. Beta has 4.") },
        Ranked { score: f32::NEG_INFINITY, ..passage("d2", "c2", "", "Delta has 6.") },
    ];
    let weighted = Compression { max_tokens: 5, passage_weight: 1.0, ..Compression::default() };
    let found = compress("q", &passages, &by_number(), &weighted).await.unwrap();
    assert_eq!(texts(&found), ["Beta has 4."]);
    assert_eq!(found.pieces[0].sentences[0].score, 4.0);
    let strict = Compression { min_score: Some(5.0), ..weighted };
    assert_eq!(texts(&compress("q", &passages, &by_number(), &strict).await.unwrap()), ["Delta has 6."]);
}

#[tokio::test]
async fn chinese_is_compressed_without_a_model() {
    let text = "网关负责转发请求。限流插件支持集群模式。日志默认保存七天。";
    let passages = [passage("d", "c", "", text)];
    let compression = Compression { min_score: Some(0.3), ..Compression::default() };
    let found = compress("限流支持集群吗？", &passages, &LexicalScorer, &compression).await.unwrap();
    assert_eq!(texts(&found), ["限流插件支持集群模式。"]);
}

#[test]
fn both_ends_hold_the_best() {
    for (n, expected) in
        [(0, vec![]), (1, vec![1]), (2, vec![1, 2]), (5, vec![1, 3, 5, 4, 2]), (6, vec![1, 3, 5, 6, 4, 2])]
    {
        assert_eq!(both_ends_order((1..=n).collect()), expected);
    }
}

#[tokio::test]
async fn both_ends_is_a_switch() {
    let passages =
        ["Alpha has 1.", "Beta has 2.", "Gamma has 3.", "Delta has 4."].map(|text| passage("d", text, "", text));
    let ends = Compression { both_ends: true, ..Compression::default() };
    let found = compress("q", &passages, &by_number(), &ends).await.unwrap();
    assert_eq!(texts(&found), ["Alpha has 1.", "Gamma has 3.", "Delta has 4.", "Beta has 2."]);
}

proptest::proptest! {
    #[test]
    fn any_passage_can_be_compressed(text in "(\\PC|[。. \\nHe]){0,120}", max_tokens in 0_usize..60) {
        let passages = [passage("d", "c", "", &text)];
        let candidates = candidates(&passages);
        let scored: Vec<Candidate<'_>> = candidates.into_iter().map(|c| Candidate { score: 1.0, preference: c.tokens as f32, ..c }).collect();
        let compression = budget(max_tokens);
        let kept = select(&scored, &compression);
        let found = assemble(&passages, &scored, &kept, &compression);
        proptest::prop_assert!(found.tokens <= max_tokens);
        for sentence in found.pieces.iter().flat_map(|piece| &piece.sentences) {
            proptest::prop_assert_eq!(text.get(sentence.range.clone()), Some(sentence.text.as_str()));
        }
    }
}
