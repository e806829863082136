//! An answer in a model's words: asked for, read sentence by sentence as it comes, each sentence bound to the source that
//! supports it before anybody hears it.

use futures_util::StreamExt;

use super::{Ask, Gone, Listener, whole};
use crate::rag::answer::cite::{AnswerReader, CitedSentence};
use crate::rag::answer::prompt::{Source, is_refusal, prompt};
use crate::rag::answer::{Answer, Binder, Binding, BoundSentence, answer_of, unbound_sentence};
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::ports::{Complete, Piece, Usage};
use crate::rag::retrieve::Candidate;

/// What a model wrote.
pub struct Written {
    pub answer: Answer,
    pub usage: Option<Usage>,
}

/// Why there is no answer of the model.
pub enum Failure {
    /// Nobody has heard anything yet.
    NotBegun(String),
    /// The listener has heard a part.
    Broken(String),
    Gone,
}

/// A source that the model cites counts, whatever a scorer says: no scorer here compares sentences of different languages, and none is
/// calibrated for the model's words. What is not cited never counts.
const BINDING: Binding = Binding { min_support: None, drop_unsupported: false };

impl KnowledgeBase {
    pub(super) async fn write(
        &self,
        model: &dyn Complete,
        question: &str,
        sources: &[Candidate],
        shown: &[String],
        ask: &Ask,
        listener: &Listener,
    ) -> Result<Written, Failure> {
        let numbered: Vec<Source<'_>> = sources
            .iter()
            .zip(shown)
            .map(|(candidate, text)| Source { title: &candidate.passage.header, text })
            .collect();
        // The standalone question: a part of the conversation may be cut off, and the sources were found with it.
        let asked = prompt(question, &numbered, &ask.turns);
        let whole = whole(sources);
        let scorer = self.sentence_scorer(question);
        let binder = Binder::new(&whole, &scorer, BINDING);
        let mut pieces = model.stream(asked).await.map_err(Failure::NotBegun)?;
        let mut reader = AnswerReader::new(sources.len());
        let mut telling = Telling { sources: &whole, binder, listener, sentences: Vec::new(), n_told: 0 };
        let mut usage = None;
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(Piece::Text(text)) => telling.take(reader.push(&text)).await?,
                Ok(Piece::Usage(said)) => usage = Some(said),
                Err(error) => return Err(telling.broken(error)),
            }
        }
        telling.take(reader.finish()).await?;
        // In the language of what was asked, which the standalone question may not have.
        let answer = answer_of(&ask.search.query, telling.answer());
        if telling.n_told == 0 {
            telling.tell(answer.text.clone()).await?;
        }
        Ok(Written { answer, usage })
    }
}

/// Sentences on their way to the listener. Until one of them is supported none is told, for what nothing supports is no answer.
struct Telling<'a> {
    sources: &'a [Source<'a>],
    binder: Binder<'a>,
    listener: &'a Listener,
    sentences: Vec<BoundSentence>,
    n_told: usize,
}

impl Telling<'_> {
    async fn take(&mut self, cited: Vec<CitedSentence>) -> Result<(), Failure> {
        for sentence in cited {
            let bound = self.binder.bind(&sentence).await;
            self.sentences.push(bound.unwrap_or_else(|_| unbound_sentence(&sentence, self.sources)));
        }
        if self.n_told == 0 && !self.is_answer() {
            return Ok(());
        }
        let new: Vec<String> = self.sentences.iter().skip(self.n_told).map(BoundSentence::marked).collect();
        if new.is_empty() {
            return Ok(());
        }
        let space = if self.n_told == 0 { "" } else { " " };
        let text = format!("{space}{}", new.join(" "));
        self.n_told = self.sentences.len();
        self.tell(text).await
    }

    async fn tell(&self, text: String) -> Result<(), Failure> {
        self.listener.hear(text).await.map_err(|Gone| Failure::Gone)
    }

    /// Whether what has come so far answers.
    fn is_answer(&self) -> bool {
        let text = self.sentences.iter().map(|sentence| sentence.text.as_str()).collect::<Vec<_>>().join(" ");
        let is_supported = self.sentences.iter().any(BoundSentence::is_supported);
        is_supported && !is_refusal(&text, is_supported)
    }

    /// The sentences of the answer; none if they do not answer.
    fn answer(&mut self) -> Vec<BoundSentence> {
        if self.n_told > 0 || self.is_answer() { std::mem::take(&mut self.sentences) } else { Vec::new() }
    }

    fn broken(&self, error: String) -> Failure {
        if self.n_told == 0 || self.listener.is_nobody() { Failure::NotBegun(error) } else { Failure::Broken(error) }
    }
}
