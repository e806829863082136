//! The cross-encoder of this process as a scorer. Reads English.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::RagError;
use super::embed::blocking;
use super::ports::Score;
use super::retrieve::rerank::Reranker;
use super::terms::Language;
use crate::infer::{CrossEncoder, Description, Engine, InferError, Library, Manifest, SENTENCE_MODEL};

/// Scores with the reranker of `models_dir`, which is loaded by the first search that wants it.
pub struct CrossEncoderScore(Arc<Lazy>);

struct Lazy {
    name: String,
    dir: PathBuf,
    /// Whose word embeddings it shares.
    sentence_model: PathBuf,
    /// On whose pool it runs; on all processors without one, as in a command.
    engine: Option<Arc<Engine>>,
    loaded: Mutex<Option<Arc<CrossEncoder>>>,
}

/// Tokens of question and passage read together: as in training.
const MAX_TOKENS: usize = 256;

/// Pairs that go through the pool together, so that a request's text waits for one such piece at most: some 40 ms.
const PIECE: usize = 8;

impl CrossEncoderScore {
    /// The reranker of `library`, or the one that the program carries. Its weights are not read yet.
    ///
    /// # Errors
    /// The library's cannot be read.
    pub fn find(library: &Library, engine: Option<Arc<Engine>>) -> Result<Reranker, InferError> {
        let dir = library.reranker();
        let Description { name, blends } = CrossEncoder::describe(&dir)?;
        let sentence_model = library.folder(Manifest::shipped().model(SENTENCE_MODEL)?);
        let lazy = Lazy { name, dir, sentence_model, engine, loaded: Mutex::default() };
        let score = Arc::new(Self(Arc::new(lazy)));
        Ok(Reranker { score, languages: vec![Language::English], blends })
    }
}

#[async_trait]
impl Score for CrossEncoderScore {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn score(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, String> {
        let (lazy, query) = (self.0.clone(), query.to_owned());
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let scored = blocking(move || {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            lazy.score(&query, &texts)
        });
        scored.await.map_err(|error| match error {
            RagError::Unavailable(what) => format!("the reranker is left out: {what}"),
            other => other.to_string(),
        })
    }
}

impl Lazy {
    fn score(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, InferError> {
        let Some(engine) = &self.engine else {
            return self.model()?.score(query, texts, MAX_TOKENS);
        };
        engine.wait_until_loaded()?;
        let model = self.model()?;
        let mut scores = Vec::with_capacity(texts.len());
        for piece in texts.chunks(PIECE) {
            scores.extend(engine.run(|| model.score(query, piece, MAX_TOKENS))??);
        }
        Ok(scores)
    }

    fn model(&self) -> Result<Arc<CrossEncoder>, InferError> {
        let mut loaded = self.loaded.lock();
        if let Some(model) = &*loaded {
            return Ok(model.clone());
        }
        let model = Arc::new(CrossEncoder::load(&self.dir, &self.sentence_model)?);
        *loaded = Some(model.clone());
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::Blend;
    use crate::infer::testing::TinyBert;

    /// A `models_dir` with the tiny sentence model and a reranker over it.
    fn models() -> tempfile::TempDir {
        let (dir, words) = (tempfile::tempdir().unwrap(), TinyBert::default().write());
        for folder in [SENTENCE_MODEL, "weirgate-reranker"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(words.path().join(file), dir.path().join(SENTENCE_MODEL).join(file)).unwrap();
        }
        TinyBert::default().write_interaction_encoder(&dir.path().join("weirgate-reranker"));
        dir
    }

    #[tokio::test]
    async fn a_reranker_is_found_and_scores_every_text() {
        let dir = models();
        let reranker = CrossEncoderScore::find(&Library::new(dir.path()), None).unwrap();
        assert_eq!(reranker.score.name(), "weirgate-reranker tiny");
        assert_eq!(reranker.blends.after_hop, Blend { logit: 2.0, before: 0.5, bias: -1.0 });
        assert_eq!(reranker.blends.after_fusion, Blend::default());
        assert!(reranker.reads(Language::English) && !reranker.reads(Language::Chinese));
        let texts = ["the cat sat", "dog"].repeat(PIECE);
        let scores = reranker.score.score("the cat", &texts).await.unwrap();
        assert_eq!(scores.len(), texts.len());
        assert!(scores[0] != scores[1] && scores[0] == scores[2 * PIECE - 2], "{scores:?}");
    }

    #[tokio::test]
    async fn the_carried_one_needs_the_sentence_model_and_a_broken_one_is_named_when_it_is_wanted() {
        let dir = models();
        let carried = CrossEncoderScore::find(&Library::new(dir.path().join("elsewhere")), None).unwrap();
        assert!(carried.score.name().starts_with("weirgate-reranker "), "{}", carried.score.name());
        let error = carried.score.score("cat", &["dog"]).await.unwrap_err();
        assert!(error.contains("left out") && error.contains(" fetch`"), "{error}");
        std::fs::write(dir.path().join("weirgate-reranker/model.safetensors"), "cut off").unwrap();
        let reranker = CrossEncoderScore::find(&Library::new(dir.path()), None).unwrap();
        let error = reranker.score.score("cat", &["dog"]).await.unwrap_err();
        assert!(error.contains("left out") && error.contains("model.safetensors"), "{error}");
        std::fs::write(dir.path().join("weirgate-reranker/config.json"), "{").unwrap();
        let error = CrossEncoderScore::find(&Library::new(dir.path()), None).err().unwrap().to_string();
        assert!(error.contains("config.json"), "{error}");
    }
}
