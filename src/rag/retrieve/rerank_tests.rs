//! The rerank step in searches with a scripted model.

use super::*;
use crate::infer::Blend;
use crate::rag::embed::Embed;
use crate::rag::knowledge_base::{Models, NewBase, Place, Rag};
use crate::rag::retrieve::{Found, Search, Steps};
use crate::rag::scripted::ScriptedScore;
use crate::rag::testing::{WordCounts, document};

/// A search of three passages, of which "b" fits the English question's words best and "a" the Chinese one's.
async fn search(query: &str, rerank: bool, score: impl Fn(&str, &str) -> f32 + Send + Sync + 'static) -> Found {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { uri: dir.path().join("rag").display().to_string(), ..Place::default() };
    let (score, languages) = (Arc::new(ScriptedScore::new(score)), vec![Language::English]);
    let blend = Blend { logit: 0.1, before: 1.0, bias: 0.0 };
    let reranker = Reranker {
        score,
        languages,
        blends: Blends { after_hop: blend, after_hop_several: blend, after_fusion: blend },
    };
    let embed: Arc<dyn Embed> = Arc::new(WordCounts::default());
    let rag = Rag::new(place, Models { embed: Some(embed), rerank: Some(reranker) });
    let base = rag.create("notes", &NewBase::default()).await.unwrap();
    let documents = vec![
        document("a", "", "The river floods in spring. 河水每年春天都会上涨。"),
        document("b", "", "Which river is the longest river of the land?"),
        document("c", "", "The Nile is 6,650 km long."),
    ];
    base.ingest(documents, &|_| {}).await.unwrap();
    let steps = Steps { rerank, ..Steps::default() };
    base.search(&Search { query: query.into(), top_k: 3, steps, ..Search::default() }).await.unwrap()
}

fn order(found: &Found) -> Vec<&str> {
    found.candidates.iter().map(|candidate| candidate.passage.document.as_str()).collect()
}

fn answers(_: &str, passage: &str) -> f32 {
    if passage.contains("Nile") { 50.0 } else { -50.0 }
}

#[tokio::test]
async fn a_clear_judgement_of_the_model_decides_and_is_told() {
    let before = search("which is the longest river", false, answers).await;
    assert_eq!(order(&before)[0], "b");
    let found = search("which is the longest river", true, answers).await;
    assert_eq!(order(&found)[..2], ["c", "b"], "the rest keep the order of the first stage");
    assert_eq!(found.candidates[0].scores.rerank, Some(50.0));
    assert!(found.candidates.iter().all(|candidate| (0.0..=1.0).contains(&candidate.score)), "a score is a chance");
}

#[tokio::test]
async fn where_the_model_has_no_opinion_the_order_before_stays() {
    let question = "which is the longest river";
    let before = search(question, false, answers).await;
    assert_eq!(order(&search(question, true, |_, _| 0.0).await), order(&before));
}

#[tokio::test]
async fn a_question_in_another_language_is_never_shown_to_the_model() {
    let question = "河水什么时候上涨";
    let before = search(question, false, answers).await;
    let found = search(question, true, |_, _| panic!("it does not read Chinese")).await;
    assert_eq!(order(&found), order(&before));
    assert!(found.trace.notes.iter().any(|note| note.contains("language")), "{:?}", found.trace.notes);
}
