//! Sentences to vectors: tokenizer, encoder, mean over the tokens, length 1. As sentence-transformers does it with
//! all-MiniLM-L6-v2. Blocking and CPU-bound: called on the pool, in training and by commands, never on a proxy thread.

use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use super::InferError;
use super::encoder::{self, Encoder, Shape};

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

/// Bytes of a text that can matter: tokens of ordinary text are far shorter than 16 bytes. Spares the tokenizer megabytes.
const MAX_BYTES: usize = MAX_TOKENS * 16;

/// Texts that go through the encoder together, similar lengths beside each other.
const BATCH: usize = 16;

impl SentenceEmbedder {
    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load(dir: &Path) -> Result<Self, InferError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|error| InferError::Read { path, error })
        };
        let broken = |name: &str, what: String| InferError::Broken { path: dir.join(name), what };
        let shape: Shape =
            serde_json::from_slice(&read("config.json")?).map_err(|error| broken("config.json", error.to_string()))?;
        if shape.num_attention_heads == 0 || !shape.hidden_size.is_multiple_of(shape.num_attention_heads) {
            return Err(broken("config.json", "hidden_size is not a multiple of num_attention_heads".into()));
        }
        let mut tokenizer = Tokenizer::from_bytes(read("tokenizer.json")?)
            .map_err(|error| broken("tokenizer.json", error.to_string()))?;
        let truncation =
            TruncationParams { max_length: MAX_TOKENS.min(shape.max_position_embeddings), ..Default::default() };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(truncation)).map_err(|error| broken("tokenizer.json", error.to_string()))?;
        let n_tokens = tokenizer.get_vocab_size(true);
        if n_tokens > shape.vocab_size {
            let what = format!("it knows {n_tokens} tokens and config.json says {}", shape.vocab_size);
            return Err(broken("tokenizer.json", what));
        }
        let weights = encoder::weights(read("model.safetensors")?);
        let encoder = weights.and_then(|weights| Encoder::load(&shape, &weights));
        let encoder = encoder.map_err(|error| broken("model.safetensors", error.to_string()))?;
        Ok(Self { tokenizer, encoder })
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, InferError> {
        let text = &text[..text.floor_char_boundary(MAX_BYTES)];
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| InferError::Run(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn embed_batch(&self, ids: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let (tensor, mask) = encoder::batch(ids)?;
        let hidden = self.encoder.forward(&tensor, mask.as_ref())?;
        encoder::pooled(&hidden, &ids.iter().map(|ids| ids.len()).collect::<Vec<_>>())
    }
}

impl Embedder for SentenceEmbedder {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, InferError> {
        let tokens: Vec<Vec<u32>> = texts.iter().map(|text| self.tokens(text)).collect::<Result<_, _>>()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| tokens[index].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        for chunk in order.chunks(BATCH) {
            let ids: Vec<&[u32]> = chunk.iter().map(|&index| tokens[index].as_slice()).collect();
            let embedded = self.embed_batch(&ids).map_err(|error| InferError::Run(error.to_string()))?;
            for (&index, vector) in chunk.iter().zip(embedded) {
                vectors[index] = vector;
            }
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
