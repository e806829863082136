//! From passages to sources: what of them a model is shown, and the web where they do not answer (CRAG).

use std::collections::BTreeMap;

use super::Ask;
use crate::rag::correct::Action;
use crate::rag::correct::keywords::rewrite;
use crate::rag::correct::refine::{Mode, Refinement, Strip, refine, refine_pages};
use crate::rag::correct::web::{WebPage, search, visit};
use crate::rag::document::Document;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::read::{self, Limits};
use crate::rag::retrieve::{Candidate, Found, Trace};
use crate::rag::store::Passage;
use crate::rag::words::{estimate_tokens, join_pieces};

/// The sources of an answer. `shown` has, for each of `sources`, what a model reads of it; it is empty where nothing answers, and then
/// `sources` are the passages that do not.
pub struct Gathered {
    pub sources: Vec<Candidate>,
    pub shown: Vec<String>,
    pub trace: Trace,
}

/// A passage and what is shown of it.
type Source = (Candidate, String);

impl KnowledgeBase {
    /// Everything that fails here costs a step, never the answer; the trace has a note of it.
    pub(super) async fn gather(&self, question: &str, found: Found, ask: &Ask) -> Gathered {
        let Found { candidates, action, context, mut trace, .. } = found;
        let mut gathered: Vec<Source> = Vec::new();
        if action.is_none_or(Action::uses_documents) {
            gathered = match context {
                Some(context) => context
                    .pieces
                    .iter()
                    .filter_map(|piece| Some((candidates.get(piece.passage)?.clone(), piece.text())))
                    .collect(),
                None if ask.steps.refine => self.refined(question, &candidates, &mut trace).await,
                None => candidates.iter().map(as_it_is).collect(),
            };
        }
        let is_wanting = candidates.is_empty() || action.is_some_and(Action::searches_web);
        if ask.steps.web && is_wanting {
            gathered.extend(self.search_the_web(question, &mut trace).await);
        }
        let gathered = within(gathered, ask.max_tokens);
        if gathered.is_empty() {
            return Gathered { sources: candidates, shown: Vec::new(), trace };
        }
        let (sources, shown) = gathered.into_iter().unzip();
        Gathered { sources, shown, trace }
    }

    /// The strips that answer, by their passages; the passages as they are if scoring fails.
    async fn refined(&self, question: &str, candidates: &[Candidate], trace: &mut Trace) -> Vec<Source> {
        let passages: Vec<&str> = candidates.iter().map(|candidate| candidate.passage.text.as_str()).collect();
        let scorer = self.sentence_scorer(question);
        let refinement = Refinement::new(Mode::Excerption);
        match trace.timed("refine", refine(question, &passages, &scorer, &refinement)).await {
            Ok(strips) => by_passage(&strips)
                .into_iter()
                .filter_map(|(passage, text)| Some((candidates.get(passage)?.clone(), text)))
                .collect(),
            Err(error) => {
                trace.note(format!("refine: {error}; the passages are used as they are"));
                candidates.iter().map(as_it_is).collect()
            }
        }
    }

    async fn search_the_web(&self, question: &str, trace: &mut Trace) -> Vec<Source> {
        let Some(web) = &self.outside.web else {
            trace.note("web: no search engine is configured, see [rag.web] in config.toml");
            return Vec::new();
        };
        let keywords = trace.timed("keywords", rewrite(question, self.outside.model.as_deref())).await;
        keywords.note.iter().for_each(|note| trace.note(note));
        let query = keywords.query();
        let searched = search(web.fetch.as_ref(), &web.provider, &query, &web.settings);
        let pages = match trace.timed("web", searched).await {
            Ok(pages) => pages,
            Err(error) => {
                tracing::warn!(error, "The web search for an answer failed");
                trace.note(format!("web: {error}"));
                return Vec::new();
            }
        };
        let (pages, notes) = trace.timed("visit", visit(web.fetch.as_ref(), pages, &web.settings, &read_page)).await;
        notes.iter().for_each(|note| trace.note(note));
        let scorer = self.sentence_scorer(question);
        match trace.timed("refine", refine_pages(question, &pages, &scorer, &Refinement::for_web())).await {
            Ok(strips) => {
                let kept = paragraphs(&pages, &strips);
                kept.into_iter().filter_map(|(page, text)| Some(of_page(pages.get(page)?, text))).collect()
            }
            Err(error) => {
                trace.note(format!("web: {error}"));
                Vec::new()
            }
        }
    }
}

fn as_it_is(candidate: &Candidate) -> Source {
    (candidate.clone(), candidate.passage.text.clone())
}

/// The kept strips of each passage as one text, in the order of the passages.
fn by_passage(strips: &[Strip]) -> BTreeMap<usize, String> {
    let mut texts: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for strip in strips {
        texts.entry(strip.passage).or_default().push(&strip.text);
    }
    texts.into_iter().map(|(passage, texts)| (passage, join_pieces(texts))).collect()
}

/// The kept paragraphs of each page, without the title that a strip begins with.
fn paragraphs(pages: &[WebPage], strips: &[Strip]) -> BTreeMap<usize, String> {
    let mut texts: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for strip in strips {
        let ranges = strip.ranges.iter();
        let own = ranges.filter_map(|range| pages.get(strip.passage)?.text.get(range.clone()));
        texts.entry(strip.passage).or_default().extend(own);
    }
    texts.into_iter().map(|(page, texts)| (page, texts.join("\n"))).collect()
}

/// A page as a passage whose document is its address.
fn of_page(page: &WebPage, text: String) -> Source {
    let passage = Passage {
        id: page.url.clone(),
        document: page.url.clone(),
        n_chunks: 1,
        title: page.title.clone(),
        header: page.title.clone(),
        text: text.clone(),
        metadata: BTreeMap::from([("url".to_owned(), page.url.clone())]),
        ..Passage::default()
    };
    (Candidate { passage, ..Candidate::default() }, text)
}

/// The first document of a page: a page is one.
fn read_page(bytes: &[u8], content_type: &str) -> Result<Document, String> {
    let documents = read::read("page.html", Some(content_type), bytes, &Limits::default());
    documents.map_err(|error| error.to_string())?.into_iter().next().ok_or_else(|| "it has no text".to_owned())
}

/// What fits, the best first; a source that does not fit makes room for a shorter one behind it.
fn within(gathered: Vec<Source>, max_tokens: usize) -> Vec<Source> {
    let mut left = max_tokens;
    let mut kept: Vec<Source> = Vec::new();
    for source in gathered {
        let n_tokens = estimate_tokens(&source.1) + estimate_tokens(&source.0.passage.header);
        if n_tokens <= left || kept.is_empty() {
            left = left.saturating_sub(n_tokens);
            kept.push(source);
        }
    }
    kept
}
