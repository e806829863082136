//! What turns text into vectors, as the rest of `rag` sees it: a model in this process, or an endpoint that `server` calls.

use std::sync::Arc;

use async_trait::async_trait;

use super::RagError;
use super::terms::Language;
use crate::infer::{Embedder, Engine, InferError, SENTENCE_MODEL};

/// An embedding model. Vectors have length 1.
#[async_trait]
pub trait Embed: Send + Sync {
    /// Recorded with each knowledge base; another name never meets its vectors.
    fn model(&self) -> &str;

    /// Numbers in a vector.
    ///
    /// # Errors
    /// It is not known before the model is asked, and the model does not answer.
    async fn dimensions(&self) -> Result<usize, RagError>;

    /// Whether its vectors of texts in this language mean anything. Others are found by their words alone.
    fn reads(&self, language: Language) -> bool;

    /// One vector per text, in order.
    ///
    /// # Errors
    /// The model is not there or cannot be run.
    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, RagError>;
}

/// Numbers in a vector of the sentence model.
const SENTENCE_DIMENSIONS: usize = 384;

/// The sentence model of this process. Reads English; of other languages it has seen too little.
pub struct SentenceModel(Source);

enum Source {
    /// Loaded when first needed, shared with the router.
    Engine(Arc<Engine>),
    /// Loaded by the command that uses it.
    Loaded(Arc<dyn Embedder>),
}

impl SentenceModel {
    pub fn of_engine(engine: Arc<Engine>) -> SentenceModel {
        SentenceModel(Source::Engine(engine))
    }

    pub fn loaded(embedder: Arc<dyn Embedder>) -> SentenceModel {
        SentenceModel(Source::Loaded(embedder))
    }
}

#[async_trait]
impl Embed for SentenceModel {
    fn model(&self) -> &str {
        SENTENCE_MODEL
    }

    async fn dimensions(&self) -> Result<usize, RagError> {
        Ok(SENTENCE_DIMENSIONS)
    }

    fn reads(&self, language: Language) -> bool {
        language == Language::English
    }

    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, RagError> {
        let embedder: Arc<dyn Embedder> = match &self.0 {
            Source::Engine(engine) => Arc::new(engine.clone()),
            Source::Loaded(embedder) => embedder.clone(),
        };
        if let Source::Engine(engine) = &self.0 {
            let engine = engine.clone();
            blocking(move || engine.wait_until_loaded()).await?;
        }
        blocking(move || embedder.embed(&texts.iter().map(String::as_str).collect::<Vec<_>>())).await
    }
}

/// Where blocking for a model holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InferError> + Send + 'static,
) -> Result<T, RagError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| RagError::Unavailable(error.to_string())),
        Err(error) => Err(RagError::Failed(format!("the model broke off: {error}"))),
    }
}
