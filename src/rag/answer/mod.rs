//! Answers that stand on sources: the prompt, the citations read back, each bound to the sentence that supports it, and
//! an answer without any language model.
//!
//! ```text
//! sources ── prompt ── (model) ── cite: sentences with numbers ── bind: source sentences ── Answer, or the refusal
//!         └─ extractive: the best sentences themselves ───────────────────────────────────┘
//! ```
//!
//! Called by the ask endpoint and the `ai-rag` plugin, which send the prompt and stream. No answer leaves without a
//! citation: what no source supports is marked, and an answer that nothing supports becomes the refusal.

pub mod cite;
pub mod prompt;

use std::ops::Range;

use super::correct::calibrate::Platt;
use super::ports::{Score, scores_of};
use super::sentence::sentences;
use cite::CitedSentence;
use prompt::{Source, is_refusal, refusal};

/// An answer with its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// With marks.
    pub text: String,
    /// The sources do not answer; `text` is the refusal, in the question's language.
    pub refused: bool,
    pub sentences: Vec<BoundSentence>,
    /// From 0 to 1 where the scorer is calibrated; of the question against the best source sentence.
    pub confidence: Option<f64>,
}

impl Answer {
    pub fn refuse(question: &str, confidence: Option<f64>) -> Self {
        Answer { text: refusal(question).to_string(), refused: true, sentences: Vec::new(), confidence }
    }

    pub fn n_unsupported(&self) -> usize {
        self.sentences.iter().filter(|sentence| !sentence.is_supported()).count()
    }
}

/// A sentence of an answer and what supports it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundSentence {
    pub text: String,
    /// Empty: nothing supports it.
    pub evidence: Vec<Evidence>,
}

impl BoundSentence {
    pub fn is_supported(&self) -> bool {
        !self.evidence.is_empty()
    }

    /// The sentence with its marks behind it.
    pub fn marked(&self) -> String {
        let citations = self.evidence.iter().map(|evidence| evidence.source).collect();
        CitedSentence { text: self.text.clone(), citations, invalid: Vec::new() }.marked()
    }
}

/// The sentence of a source that supports a sentence of the answer best.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Position of the source, from 0.
    pub source: usize,
    /// Where the sentence stands in the source's text, in bytes.
    pub range: Range<usize>,
    pub score: f32,
    /// The model did not cite this source; it was found.
    pub added: bool,
}

/// How strictly an answer is bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Binding {
    /// A source sentence with a lower score does not support; on the scorer's scale. Without it a source that the model
    /// cited always counts, and one that it did not cite never does.
    pub min_support: Option<f32>,
    /// Whether sentences that nothing supports are left out of the text, or only marked in the result.
    pub drop_unsupported: bool,
}

/// Binds a model's answer to its sources: citations below the least support go, sentences without any get the best
/// source sentence that supports them. An answer without a supported sentence is the refusal.
///
/// # Errors
/// The scorer fails; the caller may then use [`unbound`].
pub async fn bind(
    question: &str,
    answer: &[CitedSentence],
    sources: &[Source<'_>],
    scorer: &dyn Score,
    binding: &Binding,
) -> Result<Answer, String> {
    if refuses(answer) {
        return Ok(Answer::refuse(question, None));
    }
    let binder = Binder::new(sources, scorer, *binding);
    let mut bound = Vec::with_capacity(answer.len());
    for sentence in answer {
        bound.push(binder.bind(sentence).await?);
    }
    if binding.drop_unsupported {
        bound.retain(BoundSentence::is_supported);
    }
    Ok(answer_of(question, bound))
}

/// Binds sentence by sentence, for an answer that is given out while it comes.
pub struct Binder<'a> {
    places: Vec<Place<'a>>,
    scorer: &'a dyn Score,
    binding: Binding,
}

impl<'a> Binder<'a> {
    pub fn new(sources: &[Source<'a>], scorer: &'a dyn Score, binding: Binding) -> Binder<'a> {
        Binder { places: source_sentences(sources), scorer, binding }
    }

    /// The sentence with what supports it; without evidence where nothing does.
    ///
    /// # Errors
    /// The scorer fails.
    pub async fn bind(&self, sentence: &CitedSentence) -> Result<BoundSentence, String> {
        let Binder { places, scorer, binding } = self;
        let cited = |place: &Place<'_>| sentence.citations.contains(&place.source);
        let mut evidence = Vec::new();
        if !sentence.citations.is_empty() {
            let candidates: Vec<&Place<'_>> = places.iter().filter(|place| cited(place)).collect();
            evidence = best_of_each(&sentence.text, &candidates, *scorer, binding.min_support).await?;
            // As the model ordered them.
            evidence.sort_by_key(|found| sentence.citations.iter().position(|source| *source == found.source));
        }
        if evidence.is_empty() && binding.min_support.is_some() {
            let candidates: Vec<&Place<'_>> = places.iter().filter(|place| !cited(place)).collect();
            let found = best_of_each(&sentence.text, &candidates, *scorer, binding.min_support).await?;
            let best = found.into_iter().max_by(|a, b| a.score.total_cmp(&b.score).then(b.source.cmp(&a.source)));
            evidence.extend(best.map(|best| Evidence { added: true, ..best }));
        }
        Ok(BoundSentence { text: sentence.text.clone(), evidence })
    }
}

/// A sentence with the sources that the model cites for it, each as a whole.
pub fn unbound_sentence(sentence: &CitedSentence, sources: &[Source<'_>]) -> BoundSentence {
    let whole = |source: &usize| {
        let range = 0..sources.get(*source)?.text.len();
        Some(Evidence { source: *source, range, score: 0.0, added: false })
    };
    let evidence = sentence.citations.iter().filter_map(whole).collect();
    BoundSentence { text: sentence.text.clone(), evidence }
}

/// The answer with the model's own citations, each bound to its source as a whole; where there is no scorer.
pub fn unbound(question: &str, answer: &[CitedSentence], sources: &[Source<'_>]) -> Answer {
    if refuses(answer) {
        return Answer::refuse(question, None);
    }
    answer_of(question, answer.iter().map(|sentence| unbound_sentence(sentence, sources)).collect())
}

/// How an answer is made of the sources' own sentences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extraction {
    /// Below this the answer is the refusal: a confidence where `confidence` is given, otherwise a score.
    pub threshold: f64,
    pub confidence: Option<Platt>,
    pub max_sentences: usize,
    /// Further sentences must score at most so much less than the best.
    pub margin: f32,
}

impl Default for Extraction {
    fn default() -> Self {
        Extraction { threshold: 0.5, confidence: None, max_sentences: 1, margin: 0.0 }
    }
}

/// Answers without a language model: the best sentences of the sources, in their order, each with its citation.
///
/// # Errors
/// The scorer fails.
pub async fn extract(
    question: &str,
    sources: &[Source<'_>],
    scorer: &dyn Score,
    extraction: &Extraction,
) -> Result<Answer, String> {
    let places = source_sentences(sources);
    let texts: Vec<String> = places
        .iter()
        .map(|place| match sources.get(place.source).map_or("", |source| source.title.trim()) {
            "" => place.text.to_string(),
            title => format!("{title}: {}", place.text),
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let scores = scores_of(scorer, question, &texts).await?;
    let mut ranked: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some(&(_, best)) = ranked.first() else { return Ok(Answer::refuse(question, None)) };
    let confidence = extraction.confidence.map(|platt| platt.confidence(best));
    let sure = confidence.unwrap_or_else(|| f64::from(best)) >= extraction.threshold;
    if !sure || extraction.max_sentences == 0 {
        return Ok(Answer::refuse(question, confidence));
    }
    ranked.truncate(extraction.max_sentences);
    ranked.retain(|(_, score)| *score >= best - extraction.margin);
    ranked.sort_by_key(|(n, _)| *n);
    let bound = ranked.into_iter().filter_map(|(n, score)| {
        let place = places.get(n)?;
        let evidence = vec![Evidence { source: place.source, range: place.range.clone(), score, added: false }];
        Some(BoundSentence { text: place.text.to_string(), evidence })
    });
    Ok(Answer { confidence, ..answer_of(question, bound.collect()) })
}

struct Place<'a> {
    source: usize,
    range: Range<usize>,
    text: &'a str,
}

fn source_sentences<'a>(sources: &[Source<'a>]) -> Vec<Place<'a>> {
    let of_source = |(source, text): (usize, &'a str)| {
        let place = move |range: Range<usize>| Some(Place { source, text: text.get(range.clone())?, range });
        sentences(text).into_iter().filter_map(place)
    };
    sources.iter().map(|source| source.text).enumerate().flat_map(of_source).collect()
}

async fn best_of_each(
    sentence: &str,
    places: &[&Place<'_>],
    scorer: &dyn Score,
    min_support: Option<f32>,
) -> Result<Vec<Evidence>, String> {
    let texts: Vec<&str> = places.iter().map(|place| place.text).collect();
    let scores = scores_of(scorer, sentence, &texts).await?;
    let mut best: Vec<Evidence> = Vec::new();
    for (place, score) in places.iter().zip(scores) {
        if min_support.is_some_and(|min| score < min) {
            continue;
        }
        let evidence = Evidence { source: place.source, range: place.range.clone(), score, added: false };
        match best.iter_mut().find(|known| known.source == place.source) {
            Some(known) if known.score >= score => {}
            Some(known) => *known = evidence,
            None => best.push(evidence),
        }
    }
    Ok(best)
}

fn refuses(answer: &[CitedSentence]) -> bool {
    let text = answer.iter().map(|sentence| sentence.text.as_str()).collect::<Vec<_>>().join(" ");
    is_refusal(&text, answer.iter().any(|sentence| !sentence.citations.is_empty()))
}

/// The sentences as an answer; the refusal if none of them is supported.
pub fn answer_of(question: &str, sentences: Vec<BoundSentence>) -> Answer {
    if !sentences.iter().any(BoundSentence::is_supported) {
        return Answer::refuse(question, None);
    }
    let text = sentences.iter().map(BoundSentence::marked).collect::<Vec<_>>().join(" ");
    Answer { text, refused: false, sentences, confidence: None }
}

#[cfg(test)]
mod tests;
