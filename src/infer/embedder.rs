//! Sentences to vectors: tokenizer, encoder, mean over the tokens, length 1. As sentence-transformers does it with
//! all-MiniLM-L6-v2. Blocking and CPU-bound: called on the pool, in training and by commands, never on a proxy thread.

use std::path::Path;

use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::InferError;
use super::encoder::{Encoder, Hidden, Sequence};
use super::folder::ModelFolder;
use super::kernel::Isa;
use super::linear::Precision;

/// What turns texts into vectors of length 1. The seam behind which the encoder may be replaced.
pub trait Embedder: Send + Sync {
    /// One vector per text, in order.
    ///
    /// # Errors
    /// The model cannot be run.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, InferError>;
}

/// A BERT sentence encoder from a folder of `config.json`, `tokenizer.json` and `model.safetensors`.
pub struct SentenceEmbedder {
    tokenizer: Tokenizer,
    encoder: Encoder,
}

/// Tokens read of a text, with the two that mark its ends; what the model was trained for.
const MAX_TOKENS: usize = 256;

impl SentenceEmbedder {
    /// In the precision that is meant for daily use.
    ///
    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load(dir: &Path) -> Result<Self, InferError> {
        Self::load_in(dir, Precision::DEFAULT)
    }

    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load_in(dir: &Path, precision: Precision) -> Result<Self, InferError> {
        Self::load_on(Isa::best(), dir, precision)
    }

    pub(super) fn load_on(isa: Isa, dir: &Path, precision: Precision) -> Result<Self, InferError> {
        let folder = ModelFolder::new(dir);
        let shape = folder.shape()?;
        let tokenizer = folder.tokenizer(&shape, Some(MAX_TOKENS))?;
        let weights = folder.weights()?;
        let encoder = Encoder::load(isa, &shape, &weights, None, precision);
        let encoder = encoder.map_err(|what| folder.broken("model.safetensors", what))?;
        Ok(Self { tokenizer, encoder })
    }

    /// The vectors of the last layer, one per token, text by text in order.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn token_vectors(&self, texts: &[&str]) -> Result<Hidden, InferError> {
        let tokens = self.tokens(texts)?;
        let sequences: Vec<Sequence<'_>> = tokens.iter().map(|ids| Sequence { ids, types: None }).collect();
        self.encoder.hidden(&sequences).map_err(InferError::Run)
    }

    fn tokens(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, InferError> {
        let tokens = |text: &&str| super::folder::tokens(&self.tokenizer, text, MAX_TOKENS, true);
        if texts.len() < TOKENISED_TOGETHER {
            return texts.iter().map(tokens).collect();
        }
        texts.par_iter().map(tokens).collect()
    }
}

/// Fewer texts are tokenised before a second thread has woken up.
const TOKENISED_TOGETHER: usize = 4;

impl Embedder for SentenceEmbedder {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, InferError> {
        let tokens = self.tokens(texts)?;
        // Long texts first: the last piece of work that threads share out is a small one.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(tokens[index].len()));
        let sequences: Vec<Sequence<'_>> =
            order.iter().map(|&index| Sequence { ids: &tokens[index], types: None }).collect();
        let means = self.encoder.means(&sequences).map_err(InferError::Run)?;
        let mut vectors = vec![Vec::new(); texts.len()];
        for (&index, vector) in order.iter().zip(means.chunks_exact(self.encoder.width())) {
            vectors[index] = vector.to_vec();
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::testing::TinyBert;

    #[test]
    fn vectors_have_length_one_and_do_not_depend_on_what_else_is_in_the_batch() {
        let dir = TinyBert::default().write();
        let embedder = SentenceEmbedder::load(dir.path()).unwrap();
        let texts = ["the cat", "the cat sat on the mat", "", "dog", "qqq dog dog the mat sat"];
        let together = embedder.embed(&texts).unwrap();
        for (text, vector) in texts.iter().zip(&together) {
            assert_eq!(vector.len(), TinyBert::HIDDEN);
            assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4, "{text}");
            let alone = embedder.embed(&[text]).unwrap().remove(0);
            let distance: f32 = alone.iter().zip(vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(distance < 1e-5, "{text}: {distance}");
        }
        assert_ne!(together[0], together[3]);
        assert_eq!(embedder.embed(&[]).unwrap(), Vec::<Vec<f32>>::new());
    }

    #[test]
    fn only_the_beginning_of_a_long_text_is_read() {
        let dir = TinyBert::default().write();
        let embedder = SentenceEmbedder::load(dir.path()).unwrap();
        let long = "cat ".repeat(20_000);
        let vectors = embedder.embed(&[&long, &format!("{long} dog"), &"cat ".repeat(TinyBert::POSITIONS)]).unwrap();
        assert_eq!(vectors[0], vectors[1]);
        assert_eq!(vectors[0], vectors[2]);
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_named_by_file() {
        let error = |change: &dyn Fn(&Path)| {
            let dir = TinyBert::default().write();
            change(dir.path());
            SentenceEmbedder::load(dir.path()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let replaced =
            |name: &'static str, text: &'static str| move |dir: &Path| std::fs::write(dir.join(name), text).unwrap();
        assert!(error(&|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap()).contains("tokenizer.json"));
        assert!(error(&replaced("config.json", "{}")).contains("config.json"));
        assert!(error(&replaced("tokenizer.json", "{}")).contains("tokenizer.json"));
        assert!(error(&replaced("model.safetensors", "cut off")).contains("model.safetensors"));
        let other = TinyBert { layers: 1 }.write();
        let mismatch = error(&|dir| {
            std::fs::copy(other.path().join("model.safetensors"), dir.join("model.safetensors")).unwrap();
        });
        assert!(mismatch.contains("encoder.layer.1"), "{mismatch}");
    }
}
