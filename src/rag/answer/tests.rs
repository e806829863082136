use super::cite::read;
use super::prompt::{REFUSAL_CHINESE, REFUSAL_ENGLISH};
use super::*;
use crate::rag::overlap::LexicalScorer;
use crate::rag::scripted::ScriptedScore;

const SOURCES: [Source<'static>; 3] = [
    Source { title: "Jaws", text: "Jaws is a film. It was directed by Steven Spielberg in 1974." },
    Source { title: "Alien", text: "Alien is a film. Ridley Scott directed it." },
    Source { title: "大白鲨", text: "《大白鲨》是一部电影。导演是斯皮尔伯格。" },
];

/// The share of the query's words that the text has.
fn words_in_common() -> ScriptedScore {
    ScriptedScore::new(|query, text| {
        let words: Vec<&str> = query.split_whitespace().collect();
        words.iter().filter(|word| text.contains(word.trim_end_matches('.'))).count() as f32 / words.len() as f32
    })
}

const STRICT: Binding = Binding { min_support: Some(0.5), drop_unsupported: false };

async fn bound(answer: &str, binding: Binding) -> Answer {
    bind("Who?", &read(answer, 3), &SOURCES, &words_in_common(), &binding).await.unwrap()
}

fn evidence(answer: &Answer) -> Vec<Vec<(usize, &str, bool)>> {
    let of_one = |found: &Evidence| (found.source, &SOURCES[found.source].text[found.range.clone()], found.added);
    answer.sentences.iter().map(|sentence| sentence.evidence.iter().map(of_one).collect()).collect()
}

#[tokio::test]
async fn citations_are_bound_to_the_sentence_that_supports() {
    let answer = bound("It was directed by Steven Spielberg [1]. Ridley Scott directed it [2].", STRICT).await;
    assert_eq!(
        evidence(&answer),
        [
            vec![(0, "It was directed by Steven Spielberg in 1974.", false)],
            vec![(1, "Ridley Scott directed it.", false)]
        ]
    );
    assert_eq!(answer.text, "It was directed by Steven Spielberg. [1] Ridley Scott directed it. [2]");
    assert!(!answer.refused && answer.n_unsupported() == 0);
}

#[tokio::test]
async fn a_wrong_citation_is_replaced_and_a_missing_one_found() {
    let answer = bound("Ridley Scott directed it [1]. Jaws is a film.", STRICT).await;
    assert_eq!(evidence(&answer), [vec![(1, "Ridley Scott directed it.", true)], vec![(0, "Jaws is a film.", true)]]);
    assert_eq!(answer.text, "Ridley Scott directed it. [2] Jaws is a film. [1]");
}

#[tokio::test]
async fn what_nothing_supports_is_marked_or_left_out() {
    let text = "Jaws is a film [1]. Penguins sail yachts happily [2][9].";
    let kept = bound(text, STRICT).await;
    assert_eq!((kept.n_unsupported(), kept.sentences.len()), (1, 2));
    assert_eq!(kept.text, "Jaws is a film. [1] Penguins sail yachts happily.");
    let dropped = bound(text, Binding { drop_unsupported: true, ..STRICT }).await;
    assert_eq!(dropped.text, "Jaws is a film. [1]");
    // Without a least support the model is believed.
    let lenient = bound(text, Binding { min_support: None, drop_unsupported: false }).await;
    assert_eq!(lenient.text, "Jaws is a film. [1] Penguins sail yachts happily. [2]");
}

#[tokio::test]
async fn no_answer_without_a_citation() {
    for (answer, binding) in [
        ("Penguins sail yachts happily.", STRICT),
        ("Jaws is a film.", Binding { min_support: None, drop_unsupported: false }),
        ("I don't know: the documents do not answer this question.", STRICT),
        ("", STRICT),
    ] {
        let answer = bound(answer, binding).await;
        assert!(answer.refused);
        assert_eq!(answer.text, REFUSAL_ENGLISH);
    }
    let chinese = bind("谁？", &read("企鹅驾驶游艇。", 3), &SOURCES, &words_in_common(), &STRICT).await.unwrap();
    assert_eq!(chinese.text, REFUSAL_CHINESE);
}

#[tokio::test]
async fn refusing_and_empty_sources_cost_no_scoring() {
    let scorer = words_in_common();
    let refusal = read(REFUSAL_ENGLISH, 3);
    assert!(bind("Who?", &refusal, &SOURCES, &scorer, &STRICT).await.unwrap().refused);
    assert!(bind("Who?", &read("Jaws [1].", 0), &[], &scorer, &STRICT).await.unwrap().refused);
    assert!(extract("Who?", &[], &scorer, &Extraction::default()).await.unwrap().refused);
    assert_eq!(scorer.calls(), 0);
}

#[test]
fn without_a_scorer_the_models_citations_stand() {
    let answer = unbound("Who?", &read("Jaws is a film [1]. Really [7].", 3), &SOURCES);
    assert_eq!(answer.text, "Jaws is a film. [1] Really.");
    assert_eq!(answer.sentences[0].evidence[0].range, 0..SOURCES[0].text.len());
    assert!(unbound("Who?", &read("Jaws is a film.", 3), &SOURCES).refused);
}

#[tokio::test]
async fn the_extractive_answer_is_a_sentence_of_a_source() {
    let scorer = ScriptedScore::new(|_, text| match text {
        "Jaws: It was directed by Steven Spielberg in 1974." => 2.0,
        "Alien: Ridley Scott directed it." => 1.5,
        _ => -3.0,
    });
    let one = Extraction { threshold: 1.0, ..Extraction::default() };
    let answer = extract("Who directed Jaws?", &SOURCES, &scorer, &one).await.unwrap();
    assert_eq!(answer.text, "It was directed by Steven Spielberg in 1974. [1]");
    assert_eq!((answer.refused, answer.confidence), (false, None));
    assert_eq!(scorer.calls(), 1);

    let several = Extraction { max_sentences: 3, margin: 1.0, ..one };
    let answer = extract("Who directed Jaws?", &SOURCES, &scorer, &several).await.unwrap();
    assert_eq!(answer.text, "It was directed by Steven Spielberg in 1974. [1] Ridley Scott directed it. [2]");

    let strict = Extraction { threshold: 2.5, ..one };
    assert!(extract("Who directed Jaws?", &SOURCES, &scorer, &strict).await.unwrap().refused);
}

#[tokio::test]
async fn the_confidence_decides_where_there_is_one() {
    let scorer = ScriptedScore::new(|_, _| 2.0);
    let platt = Platt { slope: 1.0, intercept: 0.0 };
    let extraction = Extraction { threshold: 0.9, confidence: Some(platt), ..Extraction::default() };
    let answer = extract("Who?", &SOURCES, &scorer, &extraction).await.unwrap();
    assert!(answer.refused && answer.confidence.unwrap() > 0.88, "{answer:?}");
    let lower = Extraction { threshold: 0.8, ..extraction };
    assert!(!extract("Who?", &SOURCES, &scorer, &lower).await.unwrap().refused);
}

#[tokio::test]
async fn chinese_is_answered_without_a_model() {
    let extraction = Extraction { threshold: 0.2, ..Extraction::default() };
    let answer = extract("《大白鲨》的导演是谁？", &SOURCES[2..], &LexicalScorer, &extraction).await.unwrap();
    assert_eq!(answer.text, "导演是斯皮尔伯格。 [1]");
}
