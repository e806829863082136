//! A Chinese question that only words can answer: the best passages by words, ranked again by what else can be counted.
//!
//! BM25 takes every term alike, and the three readings of a Chinese text (`rag::terms`) count what is one match several times. Here
//!
//! - a term counts by what it is (`weight`), with less regard to repetition and length,
//! - two neighbouring sentences that have the question's terms count beside a passage that has them anywhere,
//! - the question's own pairs of characters count, stop words among them: they are how it is put.
//!
//! The three weights were fitted on training questions (DRCD dev, CMRC 2018 trial, XQuAD; eval/train/chinese_weights.py), as a softmax over
//! the 50 best of each question. What a kind of term is worth, `K1` and `B` were chosen with the ladder's dev questions in view. Run
//! `rag-chinese`: DRCD R@2 95.0 to 96.9, T2Ranking nDCG@10 51.8 to 54.4 and CMRC 2018 R@2 99.8 to 99.6, both of which may be chance.
//!
//! Part of weighted fusion, where there is no list of vectors to fuse with. Scores are shares of the best, as those of words alone.

use std::collections::{BTreeSet, HashMap};

use super::lexicon::Lexicon;
use super::trace::Trace;
use super::{Candidate, Fusion, Search};
use crate::rag::RagError;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::store::Passage;
use crate::rag::terms::{Kind, Language, fold, language, query_kinds};

/// Candidates that are ranked again; the rest keep their order behind them. The passage that answers is among them for 99.7 % of the
/// training questions and more.
pub const DEPTH: usize = 50;

/// Characters of a question at most. What is longer is a text, and takes longer than it is worth.
const LONGEST: usize = 200;

/// What the three measures are worth beside one another.
const WORDS: f32 = 14.6;
const SENTENCES: f32 = 11.1;
const PAIRS: f32 = 8.05;

/// Of BM25, flatter than usual: how fast a repeated term stops counting, and how much a passage's length counts.
const K1: f32 = 0.9;
const B: f32 = 0.4;

/// What ends a sentence, after folding, which makes plain marks of wide ones.
const ENDS: [char; 5] = ['。', '!', '?', ';', '\n'];

/// What a term is worth beside others that are as rare.
fn weight(kind: Kind) -> f32 {
    match kind {
        // A name or number that is asked for is what it is about.
        Kind::Spaced => 3.0,
        Kind::Word => 1.0,
        Kind::Part => 0.5,
    }
}

/// Whether this search is one for [`rank`].
pub fn is_for(search: &Search, has_vector: bool, trace: &mut Trace) -> bool {
    let steps = &search.steps;
    // `lexical` alone stays BM25, which the ladder compares with.
    let is_fused = steps.dense && steps.lexical && steps.fusion == Fusion::Weighted;
    if has_vector || !is_fused || language(&search.query) != Language::Chinese {
        return false;
    }
    let is_short = search.query.chars().nth(LONGEST).is_none();
    if !is_short {
        trace.note(format!("chinese: the question has more than {LONGEST} characters; the order by words stays"));
    }
    is_short
}

/// The best candidates in a new order. `indexed` has the terms that they are indexed by, by row.
///
/// # Errors
/// The table cannot be read.
pub async fn rank(
    base: &KnowledgeBase,
    query: &str,
    indexed: &HashMap<u64, String>,
    mut candidates: Vec<Candidate>,
    trace: &mut Trace,
) -> Result<Vec<Candidate>, RagError> {
    let lexicon = trace.timed("lexicon", base.lexicon.get(&base.table)).await?;
    trace.timed_sync("chinese", || order(&Question::new(query, &lexicon), indexed, &mut candidates));
    trace.count(candidates.len());
    Ok(candidates)
}

fn order(question: &Question, indexed: &HashMap<u64, String>, candidates: &mut [Candidate]) {
    let (read, behind) = candidates.split_at_mut(candidates.len().min(DEPTH));
    let terms = |candidate: &Candidate| indexed.get(&candidate.row).map_or("", String::as_str);
    let scores: Vec<f32> = read.iter().map(|one| question.score(&one.passage, terms(one))).collect();
    let best = scores.iter().copied().fold(0.0, f32::max);
    if best <= 0.0 {
        return;
    }
    let set = |candidate: &mut Candidate, score: f32| {
        (candidate.score, candidate.scores.fused) = (score, Some(score));
    };
    read.iter_mut().zip(scores).for_each(|(candidate, score)| set(candidate, score / best));
    // Stable: equal ones stay in the order of words.
    read.sort_by(|a, b| b.score.total_cmp(&a.score));
    let lowest = read.last().map_or(0.0, |candidate| candidate.score);
    (1u16..).zip(behind).for_each(|(place, candidate)| set(candidate, lowest / (1.0 + f32::from(place))));
}

/// A term of the question with its weight, which counts how rare it is, too.
struct Term {
    text: String,
    weight: f32,
}

/// What passages are compared with.
struct Question {
    terms: Vec<Term>,
    /// Weight of all terms together.
    whole: f32,
    pairs: BTreeSet<String>,
    /// Terms of a passage, on average.
    mean_length: f32,
}

impl Question {
    fn new(query: &str, lexicon: &Lexicon) -> Question {
        let weighed = query_kinds(query).into_iter();
        let terms: Vec<Term> =
            weighed.map(|(text, kind)| Term { weight: weight(kind) * lexicon.idf(&text), text }).collect();
        Question {
            whole: terms.iter().map(|term| term.weight).sum(),
            terms,
            pairs: pairs(&fold(query)),
            mean_length: lexicon.mean_length().max(1.0),
        }
    }

    /// How well a passage fits; without an upper bound that means anything.
    fn score(&self, passage: &Passage, indexed: &str) -> f32 {
        if self.whole <= 0.0 {
            return 0.0;
        }
        let text = fold(&format!("{}\n{}", passage.header, passage.text));
        let present: Vec<&Term> = self.terms.iter().filter(|term| text.contains(&term.text)).collect();
        let pairs = match self.pairs.len() {
            0 => present.iter().map(|term| term.weight).sum::<f32>() / self.whole,
            n => self.pairs.iter().filter(|pair| text.contains(pair.as_str())).count() as f32 / n as f32,
        };
        WORDS * self.by_words(indexed) + SENTENCES * self.by_sentences(&text, &present) + PAIRS * pairs
    }

    /// BM25 with weights, as a share of what there is to have.
    fn by_words(&self, indexed: &str) -> f32 {
        let mut counts: HashMap<&str, f32> = self.terms.iter().map(|term| (term.text.as_str(), 0.0)).collect();
        let mut length = 0.0;
        for term in indexed.split_whitespace() {
            length += 1.0;
            if let Some(count) = counts.get_mut(term) {
                *count += 1.0;
            }
        }
        let saturation = K1 * (1.0 - B + B * length / self.mean_length);
        // In the order of the question: sums of floats depend on it.
        let counted = self.terms.iter().filter_map(|term| Some((term, *counts.get(term.text.as_str())?)));
        counted.map(|(term, count)| term.weight * count / (count + saturation)).sum::<f32>() / self.whole
    }

    /// The best of the text's sentences, each with the one before it: what they have of the terms.
    fn by_sentences(&self, text: &str, present: &[&Term]) -> f32 {
        let mut best = 0.0_f32;
        let mut before = vec![false; present.len()];
        for sentence in text.split(ENDS).filter(|sentence| !sentence.is_empty()) {
            let here: Vec<bool> = present.iter().map(|term| sentence.contains(&term.text)).collect();
            let both = present.iter().zip(here.iter().zip(&before));
            best = best.max(both.filter(|(_, (here, before))| **here || **before).map(|(term, _)| term.weight).sum());
            before = here;
        }
        best / self.whole
    }
}

/// Two characters side by side that are not both ASCII, each two once.
fn pairs(folded: &str) -> BTreeSet<String> {
    let words = folded.split(|c: char| !c.is_alphanumeric());
    let pairs = words.flat_map(|word| word.chars().zip(word.chars().skip(1)));
    pairs.filter(|(a, b)| !(a.is_ascii() && b.is_ascii())).map(|(a, b)| String::from_iter([a, b])).collect()
}

#[cfg(test)]
#[path = "chinese_tests.rs"]
mod tests;
