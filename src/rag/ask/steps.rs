//! Which steps an answer takes beside those of its search.

use serde::{Deserialize, Serialize};

/// Steps of understanding, correction and writing. Those that ask a model do without where none is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AskSteps {
    /// A question that leans on the conversation is made to stand alone.
    pub rewrite: bool,
    /// Other wordings, written by the model, that are searched for too; 7 at most.
    pub multi_query: usize,
    /// The questions that the question is made of are searched for too: by the model, or by the question's form.
    pub decompose: bool,
    /// What an answer could look like, written by the model, is searched for by meaning.
    pub hyde: bool,
    /// Words of the passages found first are searched for too (RM3).
    pub feedback: bool,
    /// Of passages that were judged right, only the sentences that answer are sent on (CRAG).
    pub refine: bool,
    /// The web is searched where the passages were judged wrong or doubtful, or there are none (CRAG). Needs a search engine.
    pub web: bool,
    /// The model writes the answer, where one is configured; otherwise its sentences are the documents' own.
    pub generate: bool,
}

impl Default for AskSteps {
    /// A conversation costs a call only where its question needs one; what costs calls for every question is off until a
    /// measurement says that it pays.
    fn default() -> Self {
        AskSteps {
            rewrite: true,
            multi_query: 0,
            decompose: false,
            hyde: false,
            feedback: false,
            refine: false,
            web: false,
            generate: true,
        }
    }
}

impl AskSteps {
    /// Whether one search is all there is to it.
    pub fn is_single_search(&self) -> bool {
        self.multi_query == 0 && !self.decompose && !self.hyde && !self.feedback
    }
}
