//! The second hop without a language model: a passage that was found names things, and the passages about those things are
//! candidates too. Questions that need two passages ("who directed the film in which …") often share no word with the
//! second; the first one names it. What was found and what it names are then ranked together by what they share with the
//! question and with each other ([`features`]), weighed as was learnt (`weights`).

pub mod features;
mod weights;

use std::collections::HashSet;

use self::features::{Question, Reading};
use super::fusion::Scale;
use super::lexicon::{Lexicon, Row};
use super::trace::Trace;
use super::{Candidate, Search, sort};
use crate::rag::RagError;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::terms::{Language, language};

/// Passages of the first stage that are ranked again.
pub const RANKED: usize = 20;

/// Passages that are read for the names in them.
const BRIDGES: usize = 10;

/// Passages that the hop may add.
const MAX_ADDED: usize = 60;

/// Where the hop led.
pub struct Hopped {
    pub candidates: Vec<Candidate>,
    /// How much the question looks like one that needs several passages, from 0 to 1; none where it was not read.
    pub several: Option<f32>,
}

/// The candidates with those that they, or the question, name; all in the new order.
///
/// # Errors
/// The table cannot be read.
pub async fn extend(
    base: &KnowledgeBase,
    search: &Search,
    scale: Scale,
    mut candidates: Vec<Candidate>,
    trace: &mut Trace,
) -> Result<Hopped, RagError> {
    if language(&search.query) != Language::English {
        // Names in other scripts have neither capitals nor spaces around them.
        trace.note("hop: reads English questions only; the order stays");
        return Ok(Hopped { candidates, several: None });
    }
    let lexicon = trace.timed("lexicon", base.lexicon.get(&base.table)).await?;
    let question = Question::new(&lexicon, &search.query);
    let mut behind = candidates.split_off(candidates.len().min(RANKED));
    let mut read: Vec<Reading> = candidates.iter().map(|candidate| question.read(&candidate.passage)).collect();
    let named = named(&lexicon, &question, &read);
    let mut pool = candidates;
    for (row, passage) in trace.timed("fetch", base.table.with_ids(&named, &search.filter)).await? {
        let found_before = behind.iter().position(|candidate| candidate.row == row).map(|at| behind.swap_remove(at));
        pool.push(Candidate { row, passage, ..found_before.unwrap_or_default() });
    }
    sort(&mut behind);

    let several = trace.timed_sync("hop", || {
        read.extend(pool.iter().skip(read.len()).map(|candidate| question.read(&candidate.passage)));
        let own: Vec<f32> = pool.iter().map(|candidate| scale.score(candidate)).collect();
        let cosines =
            pool.iter().map(|candidate| candidate.scores.dense.unwrap_or_else(|| scale.floor())).collect::<Vec<_>>();
        let features = question.features(&read, &own, &cosines, BRIDGES);
        let several = weights::several(search.query.split_whitespace().count(), question.need(&read), &features);
        for (candidate, features) in pool.iter_mut().zip(features) {
            candidate.score = weights::score(&features, several);
            candidate.scores.hop = Some(candidate.score);
            candidate.features = search.explain.then(|| Box::new(features));
        }
        sort(&mut pool);
        several
    });
    let lowest = pool.last().map_or(0.0, |candidate| candidate.score);
    for (place, candidate) in (1u16..).zip(&mut behind) {
        candidate.score = lowest / (1.0 + f32::from(place));
    }
    pool.append(&mut behind);
    trace.count(pool.len());
    Ok(Hopped { candidates: pool, several: Some(several) })
}

/// Passages that the question or one of the best passages names, those of better passages first.
fn named(lexicon: &Lexicon, question: &Question<'_>, read: &[Reading]) -> Vec<String> {
    let by_passages = read.iter().take(BRIDGES).flat_map(Reading::named);
    let mut seen: HashSet<Row> = read.iter().filter_map(|passage| passage.row).collect();
    let new = question.named().iter().copied().chain(by_passages).filter(|row| seen.insert(*row));
    new.take(MAX_ADDED).filter_map(|row| lexicon.id(row).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use crate::rag::knowledge_base::NewBase;
    use crate::rag::retrieve::{Found, Search, Steps};
    use crate::rag::testing::{document, rag};

    async fn search(query: &str, hop: bool) -> Found {
        let (_dir, rag, _) = rag();
        let base = rag.create("films", &NewBase::default()).await.unwrap();
        let filler = (0..20).map(|n| {
            document(&format!("x{n}"), &format!("Thing {n}"), "A film about something else, shot in a town by a crew.")
        });
        let mut documents = vec![
            document("film", "Jaws (film)", "Jaws is a film about a shark. It was made by Steven Spielberg."),
            document("person", "Steven Spielberg", "Born in Cincinnati, he grew up in Arizona."),
        ];
        documents.extend(filler);
        base.ingest(documents, &|_| {}).await.unwrap();
        let steps = Steps { hop, ..Steps::default() };
        base.search(&Search { query: query.into(), top_k: 30, steps, explain: true, ..Search::default() })
            .await
            .unwrap()
    }

    fn order(found: &Found) -> Vec<&str> {
        found.candidates.iter().map(|candidate| candidate.passage.document.as_str()).collect()
    }

    const QUESTION: &str =
        "In which town was the person born and raised who made the film about a shark that is called Jaws?";

    #[tokio::test]
    async fn what_a_good_passage_names_moves_up() {
        let (without, with) = (search(QUESTION, false).await, search(QUESTION, true).await);
        let place = |found: &Found| order(found).iter().position(|document| *document == "person");
        assert!(place(&with) < place(&without), "{:?} {:?}", order(&without), order(&with));
        let mut first = order(&with)[..2].to_vec();
        first.sort_unstable();
        assert_eq!(first, ["film", "person"]);
    }

    #[tokio::test]
    async fn every_passage_stays_once_and_scores_fall() {
        let found = search(QUESTION, true).await;
        let mut documents = order(&found);
        documents.sort_unstable();
        documents.dedup();
        assert_eq!(documents.len(), found.candidates.len());
        assert!(found.candidates.is_sorted_by(|a, b| a.score >= b.score));
        assert!(found.candidates[0].features.is_some(), "it was asked to explain itself");
    }

    #[tokio::test]
    async fn a_question_in_another_language_keeps_its_order() {
        let found = search("鲨鱼电影的导演在哪里出生?", true).await;
        assert!(found.trace.notes.iter().any(|note| note.starts_with("hop:")), "{:?}", found.trace.notes);
        assert!(found.candidates.iter().all(|candidate| candidate.scores.hop.is_none()));
    }
}
