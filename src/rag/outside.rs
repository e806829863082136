//! What the pipeline may ask outside the process: a language model, and the web. Neither has to be there.

use std::sync::Arc;

use super::correct::provider::Provider;
use super::correct::web::WebSettings;
use super::ports::{Complete, Fetch};

/// Set once when the process starts; shared by all knowledge bases.
#[derive(Clone, Default)]
pub struct Outside {
    /// Writes answers, and queries where a step asks for them. Without it answers are made of the documents' own sentences.
    pub model: Option<Arc<dyn Complete>>,
    pub web: Option<Web>,
}

/// A search engine and the way to it.
#[derive(Clone)]
pub struct Web {
    pub fetch: Arc<dyn Fetch>,
    pub provider: Provider,
    pub settings: WebSettings,
}
