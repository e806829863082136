//! A question to a cited answer, or to the refusal.
//!
//! ```text
//! find: standalone question ── searches ── one list ── judgement
//! gather: passages, refined or compressed ── the web, where they do not do ── a budget of tokens
//! write: a language model's sentences, each bound to its source ── or the sources' own sentences
//! ```
//!
//! [`KnowledgeBase::answer`] is the one way in: the JSON interface, the model names `rag/…` and the command line call it. Where nothing
//! relevant was found nobody writes anything: the refusal costs no call of a model. A model that is down costs its words, not the
//! answer: the sources' own sentences take their place, unless the client has begun to read.

mod events;
mod find;
mod gather;
mod steps;
#[cfg(test)]
mod tests;
mod write;

pub use events::{Event, Events, events};
pub use steps::AskSteps;

use tokio::sync::mpsc;

use self::gather::Gathered;
use self::write::Failure;
use super::RagError;
use super::answer::prompt::Source;
use super::answer::{Answer, Extraction, extract};
use super::correct::Action;
use super::knowledge_base::KnowledgeBase;
use super::overlap::LexicalScorer;
use super::ports::{Message, Score, Usage};
use super::retrieve::{Candidate, Found, Search, Steps, Trace};

/// A question with what was said before it, and how to answer it.
#[derive(Debug, Clone)]
pub struct Ask {
    /// `query` is the question as it was asked.
    pub search: Search,
    /// The conversation before the question.
    pub turns: Vec<Message>,
    pub steps: AskSteps,
    /// Tokens of the sources that a model is shown, estimated. The best source is shown whatever it takes.
    pub max_tokens: usize,
}

impl Ask {
    pub fn new(search: Search) -> Ask {
        Ask { search, turns: Vec::new(), steps: AskSteps::default(), max_tokens: MAX_TOKENS }
    }
}

/// An answer and what it was made of.
#[derive(Debug, Clone)]
pub struct Asked {
    pub answer: Answer,
    /// The passages that the answer's evidence counts, from 0.
    pub sources: Vec<Candidate>,
    pub action: Option<Action>,
    pub written_by: Writer,
    /// Of the call that wrote the answer, where its provider says it.
    pub usage: Option<Usage>,
    pub trace: Trace,
}

/// Who put an answer into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// A language model.
    Model,
    /// Its sentences are the sources' own. The refusal, too, is nobody's.
    Sources,
}

/// Who listens while an answer is written.
#[derive(Debug, Clone, Default)]
pub struct Listener(Option<mpsc::Sender<String>>);

/// The one who asked is gone, and nobody wants the answer any more.
struct Gone;

impl Listener {
    pub fn new(sender: mpsc::Sender<String>) -> Listener {
        Listener(Some(sender))
    }

    async fn hear(&self, text: String) -> Result<(), Gone> {
        match &self.0 {
            Some(sender) => sender.send(text).await.map_err(|_| Gone),
            None => Ok(()),
        }
    }

    fn is_nobody(&self) -> bool {
        self.0.is_none()
    }
}

/// Sentences of an answer made of the sources' own, at most.
const MAX_SENTENCES: usize = 2;

/// A further sentence must be nearly as good as the best.
const MARGIN: f32 = 0.1;

/// Shared words, weighted by their rarity, that the best sentence must have for an answer where no model judges.
const MIN_OVERLAP: f64 = 0.35;

/// Usual prompts are shorter, and every model that is worth asking reads this much.
const MAX_TOKENS: usize = 3_000;

impl KnowledgeBase {
    /// Answers a question that stands alone.
    ///
    /// # Errors
    /// As [`KnowledgeBase::answer`].
    pub async fn ask(&self, search: &Search) -> Result<Asked, RagError> {
        self.answer(&Ask::new(search.clone()), &Listener::default()).await
    }

    /// Answers, and tells the listener each sentence as it is ready; what it heard is the text of the answer that is returned.
    ///
    /// # Errors
    /// As [`KnowledgeBase::search`]; the scorer fails; the model breaks off after the listener has heard a part.
    pub async fn answer(&self, ask: &Ask, listener: &Listener) -> Result<Asked, RagError> {
        // An answer is judged where there are thresholds, whatever the search does by itself.
        let steps = Steps { correct: true, ..ask.search.steps };
        let ask = Ask { search: Search { steps, ..ask.search.clone() }, ..ask.clone() };
        let (question, found) = self.find(&ask).await?;
        let Found { action, confidence, .. } = found;
        let Gathered { sources, shown, mut trace } = self.gather(&question, found, &ask).await;
        let done = |answer: Answer, written_by: Writer, usage: Option<Usage>, sources: Vec<Candidate>, trace: Trace| {
            let answer = Answer { confidence: confidence.or(answer.confidence), ..answer };
            Ok(Asked { answer, sources, action, written_by, usage, trace: trace.end() })
        };
        if shown.is_empty() {
            let answer = Answer::refuse(&ask.search.query, confidence);
            heard(listener.hear(answer.text.clone()).await)?;
            return done(answer, Writer::Sources, None, sources, trace);
        }
        if let Some(model) = self.outside.model.as_deref().filter(|_| ask.steps.generate) {
            let written = trace.timed("write", self.write(model, &question, &sources, &shown, &ask, listener)).await;
            match written {
                Ok(written) => return done(written.answer, Writer::Model, written.usage, sources, trace),
                Err(Failure::Gone) => return Err(gone()),
                Err(Failure::Broken(error)) => {
                    return Err(RagError::Cut(format!("the model broke its answer off: {error}")));
                }
                Err(Failure::NotBegun(error)) => {
                    tracing::warn!(
                        knowledge_base = self.table.name(),
                        error,
                        "No model wrote this answer; it quotes the documents"
                    );
                    trace.note(format!("write: {error}; the answer quotes the documents"));
                }
            }
        }
        let answer = trace.timed("answer", self.quote(&question, &sources, action)).await?;
        heard(listener.hear(answer.text.clone()).await)?;
        done(answer, Writer::Sources, None, sources, trace)
    }

    /// The sources' own sentences as an answer.
    async fn quote(&self, question: &str, sources: &[Candidate], action: Option<Action>) -> Result<Answer, RagError> {
        // A model's judgement of the passages stands, and then a model may choose the sentences. Where there is none, the
        // words decide: a threshold for them means nothing on a model's scale.
        let is_judged = action.is_some_and(Action::uses_documents);
        let by_model = self.sentence_scorer(question);
        let (scorer, threshold): (&dyn Score, f64) =
            if is_judged { (&by_model, f64::NEG_INFINITY) } else { (&LexicalScorer, MIN_OVERLAP) };
        let extraction = Extraction { threshold, confidence: None, max_sentences: MAX_SENTENCES, margin: MARGIN };
        extract(question, &whole(sources), scorer, &extraction).await.map_err(RagError::Failed)
    }
}

/// The sources as they are stored.
fn whole(sources: &[Candidate]) -> Vec<Source<'_>> {
    sources.iter().map(|candidate| Source { title: &candidate.passage.header, text: &candidate.passage.text }).collect()
}

fn heard(result: Result<(), Gone>) -> Result<(), RagError> {
    result.map_err(|Gone| gone())
}

fn gone() -> RagError {
    RagError::Unavailable("nobody waits for the answer any more".to_owned())
}
