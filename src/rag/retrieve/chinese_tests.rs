//! The measures by themselves, and the step in searches.

use super::*;
use crate::rag::ingest::NewDocument;
use crate::rag::knowledge_base::NewBase;
use crate::rag::retrieve::{Found, Steps};
use crate::rag::terms::terms;
use crate::rag::testing::{document, rag};

/// Passages, with a lexicon of them and of `n` others that have nothing in common with them.
fn known(texts: &[&str], n: usize) -> (Vec<Candidate>, HashMap<u64, String>, Lexicon) {
    let mut lexicon = Lexicon::default();
    let mut indexed = HashMap::new();
    let mut candidates = Vec::new();
    for (row, text) in (0..).zip(texts) {
        let passage = Passage { id: format!("{row}"), text: (*text).to_owned(), ..Passage::default() };
        lexicon.add(&passage.id, "", &terms(text));
        indexed.insert(row, terms(text));
        candidates.push(Candidate { row, passage, ..Candidate::default() });
    }
    (0..n).for_each(|row| lexicon.add(&format!("x{row}"), "", &terms("另外的内容说别处的天气与山水")));
    (candidates, indexed, lexicon)
}

/// Texts in their new order.
fn ordered(query: &str, texts: &[&str]) -> Vec<String> {
    let (mut candidates, indexed, lexicon) = known(texts, 20);
    order(&Question::new(query, &lexicon), &indexed, &mut candidates);
    candidates.into_iter().map(|candidate| candidate.passage.text).collect()
}

/// Both have the same terms as often; the second has them in one sentence.
const APART: &str = "水库建于上世纪。大坝很高。周围都是山林。下游有一座城市。那里有人管理。";
const TOGETHER: &str = "水库的大坝由城市管理。建于上世纪。周围都是山林。那里有人。下游很高。";

#[test]
fn terms_in_one_sentence_count_more_than_the_same_terms_apart() {
    assert_eq!(ordered("哪座城市管理水库大坝", &[APART, TOGETHER]), [TOGETHER, APART]);
    let (candidates, _, lexicon) = known(&[APART, TOGETHER], 20);
    let question = Question::new("哪座城市管理水库大坝", &lexicon);
    let by_sentences = |candidate: &Candidate| {
        question.by_sentences(&candidate.passage.text, &question.terms.iter().collect::<Vec<_>>())
    };
    assert!(by_sentences(&candidates[1]) > by_sentences(&candidates[0]) + 0.2);
}

#[test]
fn a_sentence_is_read_with_the_one_before_it_and_with_no_other() {
    let (_, _, lexicon) = known(&[], 20);
    let question = Question::new("水库大坝", &lexicon);
    let share = |text: &str| question.by_sentences(text, &question.terms.iter().collect::<Vec<_>>());
    assert_eq!(share("水库!!大坝"), share("水库大坝"), "two ends are one");
    assert!(share("水库。山林。大坝") < share("水库。大坝") - 0.2);
    assert_eq!(share("山林"), 0.0);
}

#[test]
fn a_number_is_worth_more_than_a_word_and_a_word_more_than_a_part_of_it() {
    let (_, _, lexicon) = known(&[], 20);
    let question = Question::new("清华大学的电话62782051", &lexicon);
    let of = |text: &str| question.terms.iter().find(|term| term.text == text).unwrap().weight / lexicon.idf(text);
    let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
    for (term, expected) in [("62782051", 3.0), ("清华大学", 1.0), ("电话", 1.0), ("清", 1.0), ("清华", 0.5)] {
        assert!(near(of(term), expected), "{term}: {}", of(term));
    }
    assert!(near(question.whole, question.terms.iter().map(|term| term.weight).sum()));
}

#[test]
fn a_passage_that_has_everything_has_all_of_each_measure() {
    let text = "水库大坝";
    let (candidates, indexed, lexicon) = known(&[text], 0);
    let question = Question::new(text, &lexicon);
    // Every term once in a passage of mean length.
    let expected = WORDS / (1.0 + K1) + SENTENCES + PAIRS;
    let score = question.score(&candidates[0].passage, &indexed[&0]);
    assert!((score - expected).abs() < 1e-3, "{score} {expected}");
}

#[test]
fn how_the_question_is_put_counts_with_its_stop_words() {
    let texts = ["水库是大坝", "水库的大坝"];
    assert_eq!(ordered("水库的大坝", &texts), [texts[1], texts[0]]);
    assert_eq!(pairs("水库的gpt4型, 坝").into_iter().collect::<Vec<_>>(), ["4型", "库的", "水库", "的g"]);
}

#[test]
fn what_was_not_read_stays_behind_in_its_order_and_scores_are_shares_of_the_best() {
    let texts: Vec<String> = (0..DEPTH + 3).map(|n| format!("水库 {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (mut candidates, indexed, lexicon) = known(&texts, 0);
    order(&Question::new(&format!("水库 {}", DEPTH - 1), &lexicon), &indexed, &mut candidates);
    let rows: Vec<u64> = candidates.iter().map(|candidate| candidate.row).collect();
    assert_eq!((rows[0], rows[1]), (DEPTH as u64 - 1, 0), "equal ones stay in their order");
    assert_eq!(rows[DEPTH..], [50, 51, 52]);
    assert_eq!(candidates[0].score, 1.0);
    assert!(
        candidates.is_sorted_by(|a, b| a.score >= b.score) && candidates[DEPTH].score < candidates[DEPTH - 1].score
    );
    assert!(candidates.iter().all(|candidate| candidate.scores.fused == Some(candidate.score)));
}

#[test]
fn a_question_without_terms_and_no_candidates_change_nothing() {
    let (mut candidates, indexed, lexicon) = known(&[APART, TOGETHER], 0);
    candidates.iter_mut().for_each(|candidate| candidate.score = 0.5);
    let before = candidates.clone();
    order(&Question::new("是什么", &lexicon), &indexed, &mut candidates);
    assert_eq!(candidates, before);
    order(&Question::new("水库", &lexicon), &indexed, &mut []);
}

/// Words alone put the passage first that repeats the words around the number.
const NUMBERED: &str = "商场在人民路一百号附近。每天九点开门,晚上十点关门,节假日照常营业。一层卖水果和蔬菜,二层卖衣服和鞋子,三层卖书籍和文具。\
                        儿童乐园在四层,餐厅在五层,停车场在地下。会员每月有优惠,积分可以换礼品。张先生的电话4008208888,他管理仓库。";
const REPEATING: &str = "电话旁边放电话,电话上面放电话。";
const QUESTION: &str = "电话4008208888是谁的";

async fn search(query: &str, steps: Steps) -> Found {
    let (_dir, rag, _) = rag();
    let base = rag.create("shop", &NewBase::default()).await.unwrap();
    let filler = (0..20).map(|n| document(&format!("x{n}"), "", &format!("第{n}号货架上放着水杯、毛巾和别的东西。")));
    let mut documents: Vec<NewDocument> = filler.collect();
    documents.push(document("number", "", NUMBERED));
    documents.push(document("words", "", REPEATING));
    documents.push(document("english", "", "The shop opens at nine and closes at ten."));
    base.ingest(documents, &|_| {}).await.unwrap();
    base.search(&Search { query: query.into(), top_k: 10, steps, ..Search::default() }).await.unwrap()
}

fn first(found: &Found) -> &str {
    &found.candidates[0].passage.document
}

fn ran(found: &Found) -> bool {
    found.trace.steps.iter().any(|step| step.name == "chinese")
}

#[tokio::test]
async fn a_number_that_is_asked_for_decides_and_the_trace_says_what_ran() {
    let found = search(QUESTION, Steps::default()).await;
    assert!(ran(&found) && first(&found) == "number", "{:?}", found.candidates);
    assert_eq!(found.candidates[0].score, 1.0);
    assert!(found.candidates.is_sorted_by(|a, b| a.score >= b.score));
    // By ranks, and by words alone, the list of words stays as it is.
    for steps in [
        Steps { fusion: Fusion::Rrf, ..Steps::default() },
        Steps { dense: false, ..Steps::default() },
        Steps { lexical: false, ..Steps::default() },
    ] {
        let found = search(QUESTION, steps).await;
        assert!(!ran(&found) && first(&found) == "words", "{steps:?} {:?}", found.candidates);
    }
}

#[tokio::test]
async fn an_english_question_is_left_alone() {
    for query in ["When does the shop open? 客服", "when does the shop close"] {
        let found = search(query, Steps::default()).await;
        assert!(!ran(&found) && first(&found) == "english", "{:?}", found.trace);
    }
}

#[tokio::test]
async fn a_text_in_the_place_of_a_question_is_left_alone_and_the_trace_says_so() {
    let found = search(&QUESTION.repeat(20), Steps::default()).await;
    assert!(!ran(&found) && first(&found) == "words", "{:?}", found.candidates);
    assert!(found.trace.notes.iter().any(|note| note.starts_with("chinese:")), "{:?}", found.trace.notes);
}

#[test]
fn a_question_with_a_vector_is_left_alone() {
    let search = Search { query: QUESTION.into(), ..Search::default() };
    let mut trace = Trace::default();
    assert!(!is_for(&search, true, &mut trace) && is_for(&search, false, &mut trace));
}
