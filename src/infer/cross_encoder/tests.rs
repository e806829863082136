use super::*;
use crate::infer::testing::TinyBert;

fn cross_encoder(is_int8: bool, precision: Precision) -> Result<CrossEncoder, InferError> {
    let (dir, sentence_model) = (tempfile::tempdir().unwrap(), TinyBert::default().write());
    TinyBert::default().write_cross_encoder(dir.path(), is_int8);
    CrossEncoder::load_in(dir.path(), sentence_model.path(), precision)
}

const PASSAGES: [&str; 4] = ["the cat sat on the mat", "dog", "", "on the mat the mat the mat the mat the mat dog"];

#[test]
fn a_pair_is_read_as_bert_reads_pairs_and_its_first_vector_goes_through_the_head() {
    for is_int8 in [false, true] {
        let model = cross_encoder(is_int8, Precision::F32).unwrap();
        let scores = model.score("the cat", &PASSAGES, 512).unwrap();
        let first =
            model.encoder.first(&[Sequence { ids: &[2, 4, 5, 3, 9, 3], types: Some(&[0, 0, 0, 0, 1, 1]) }]).unwrap();
        let Head::First { pooler, .. } = &model.head else { panic!("the head of a published classifier") };
        let pooled: Vec<f32> = pooler.as_ref().map_or(first.clone(), |pooler| pooler.tanh(&first));
        assert_eq!(pooler.is_some(), !is_int8);
        // The classifier of the tests is 0.1 n - 0.2.
        let expected: f32 = pooled.iter().zip(0u8..).map(|(v, n)| v * (f32::from(n) * 0.1 - 0.2)).sum::<f32>() - 0.2;
        assert!((scores[1] - expected).abs() < 1e-5, "{} {expected}", scores[1]);
        for (passage, score) in PASSAGES.iter().zip(&scores) {
            assert_eq!(model.score("the cat", &[passage], 512).unwrap(), [*score], "{passage}");
        }
    }
}

/// The logits that `eval/train/model.py` computes with the same weights.
#[test]
fn an_interaction_head_agrees_with_the_one_that_was_trained() {
    let (dir, sentence_model) = (tempfile::tempdir().unwrap(), TinyBert::default().write());
    TinyBert::default().write_interaction_encoder(dir.path());
    let score = |precision| {
        let model = CrossEncoder::load_in(dir.path(), sentence_model.path(), precision).unwrap();
        model.score("the cat", &PASSAGES, 512).unwrap()
    };
    let trained = [-6.013_022_4, -6.015_957, -6.015_910_6, -6.013_444];
    for (found, expected) in score(Precision::F32).iter().zip(trained) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
    for (found, expected) in score(Precision::Int8).iter().zip(trained) {
        assert!((found - expected).abs() < 0.1, "{found} {expected}");
    }
}

#[test]
fn stored_int8_is_run_in_either_precision() {
    let exact = cross_encoder(true, Precision::F32).unwrap().score("cat", &PASSAGES, 512).unwrap();
    let rounded = cross_encoder(true, Precision::Int8).unwrap().score("cat", &PASSAGES, 512).unwrap();
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.1, "{exact} {rounded}");
    }
}

#[test]
fn the_end_of_a_passage_is_cut_and_only_a_very_long_query() {
    let model = cross_encoder(false, Precision::F32).unwrap();
    let score = |query: &str, passage: &str, max| model.score(query, &[passage], max).unwrap();
    assert_eq!(score("cat", "dog mat sat", 6), score("cat", "dog mat", 6));
    assert_ne!(score("cat", "dog mat sat", 7), score("cat", "dog mat", 7));
    let long = "cat ".repeat(100);
    assert_eq!(score(&long, &long, 512), score(&long, &long, TinyBert::POSITIONS));
    assert_eq!(score(&long, "dog", 7), score("cat cat", "dog", 7));
    assert!(score("", "", 0)[0].is_finite());
    assert!(model.score("cat", &[], 512).unwrap().is_empty());
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    TinyBert::default().write_cross_encoder(dir.path(), true);
    let error = |sentence_model: &Path| CrossEncoder::load(dir.path(), sentence_model).err().unwrap().to_string();
    assert!(error(empty.path()).contains("config.json"));
    let sentence_model = TinyBert::default().write();
    let config = dir.path().join("config.json");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replacen('{', "{\"pooling\": \"max\",", 1)).unwrap();
    let unknown = error(sentence_model.path());
    assert!(unknown.contains("`max`") && unknown.contains("`interaction`"), "{unknown}");
    std::fs::write(&config, good).unwrap();
    std::fs::copy(sentence_model.path().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let missing = error(sentence_model.path());
    assert!(missing.contains("classifier.bias"), "{missing}");
}
