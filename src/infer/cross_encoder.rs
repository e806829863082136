//! A cross-encoder: reads a query and a passage together and says how well the passage answers it. A BERT whose hidden
//! vectors go through a small head. Blocking and CPU-bound, as `embedder`.

mod head;

use std::path::Path;

use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::InferError;
use super::encoder::{Encoder, Sequence};
use super::folder::{ModelFolder, tokens};
use super::kernel::Isa;
use super::linear::Precision;
use head::Head;
pub use head::{Blend, Blends, HeadShape};

/// From a folder of `config.json`, `tokenizer.json` and `model.safetensors`, as sequence classifiers with one label are
/// published. The last may hold int8 matrices, and leave out the word embeddings where they are the sentence model's; then
/// so is the tokenizer, if the folder has none.
pub struct CrossEncoder {
    tokenizer: Tokenizer,
    encoder: Encoder,
    head: Head,
    /// `[CLS]` and `[SEP]`.
    begin: u32,
    separator: u32,
    max_positions: usize,
}

/// What can be known of a model before it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// With its version, by which what was measured with it is kept: "weirgate-reranker 3f2a…".
    pub name: String,
    pub blends: Blends,
}

/// Tokens that mark the beginning and the two ends of a pair.
const MARKS: usize = 3;

impl CrossEncoder {
    /// What the model in `dir`, or the one that the program carries, says of itself. Does not read the weights.
    ///
    /// # Errors
    /// The description cannot be read, or is none.
    pub fn describe(dir: &Path) -> Result<Description, InferError> {
        let folder = ModelFolder::reranker(dir);
        let HeadShape { version, blends, .. } = folder.head()?;
        let mut name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(version) = version {
            name = format!("{name} {version}");
        }
        Ok(Description { name, blends })
    }

    /// The model in `dir`, or the one that the program carries where there is no such folder. `sentence_model` is the folder of the model
    /// whose word embeddings it uses if it brings none.
    ///
    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load(dir: &Path, sentence_model: &Path) -> Result<Self, InferError> {
        Self::load_in(dir, sentence_model, Precision::Int8)
    }

    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load_in(dir: &Path, sentence_model: &Path, precision: Precision) -> Result<Self, InferError> {
        let (folder, words_folder) = (ModelFolder::reranker(dir), ModelFolder::new(sentence_model));
        let (shape, pooling, isa) = (folder.shape()?, folder.head()?.pooling, Isa::best());
        let weights = folder.weights()?;
        let has_tokenizer = weights.has_words() || folder.has("tokenizer.json");
        let of_tokenizer = if has_tokenizer { &folder } else { &words_folder };
        let tokenizer = of_tokenizer.tokenizer(&shape, None)?;
        let mark = |name: &str| {
            let missing = || of_tokenizer.broken("tokenizer.json", format!("it has no token {name}"));
            tokenizer.token_to_id(name).ok_or_else(missing)
        };
        let (begin, separator) = (mark("[CLS]")?, mark("[SEP]")?);
        if shape.max_position_embeddings <= MARKS || shape.type_vocab_size < 2 {
            return Err(folder.broken("config.json", "there is no room for a pair of texts".into()));
        }
        let shared = if weights.has_words() { None } else { Some(words_folder.words()?) };
        let encoder = Encoder::load(isa, &shape, &weights, shared, precision);
        let head = Head::load(isa, &weights, shape.hidden_size, pooling);
        let broken = |what: String| folder.broken("model.safetensors", what);
        let (encoder, head) = (encoder.map_err(broken)?, head.map_err(broken)?);
        Ok(Self { tokenizer, encoder, head, begin, separator, max_positions: shape.max_position_embeddings })
    }

    /// A logit per passage, in order: the higher, the better it answers `query`. A pair is cut to `max_tokens` tokens (and
    /// to what the model has positions for) at the passage's end; a query that would leave the passage less than half is
    /// cut to that.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn score(&self, query: &str, passages: &[&str], max_tokens: usize) -> Result<Vec<f32>, InferError> {
        let most = max_tokens.min(self.max_positions).saturating_sub(MARKS).max(1);
        let mut query = tokens(&self.tokenizer, query, most, false)?;
        query.truncate(most / 2);
        let pairs = passages.par_iter().map(|passage| self.pair(&query, passage, most - query.len()));
        let pairs: Vec<Pair> = pairs.collect::<Result<_, _>>()?;
        // Long ones first: the last piece of work that threads share out is a small one.
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(pairs[index].ids.len()));
        let sequences: Vec<Sequence<'_>> =
            order.iter().map(|&index| Sequence { ids: &pairs[index].ids, types: Some(&pairs[index].types) }).collect();
        let width = self.encoder.width();
        let mut scores = vec![0.0; passages.len()];
        if self.head.needs_first_only() {
            let first = self.encoder.first(&sequences).map_err(InferError::Run)?;
            for (&index, vector) in order.iter().zip(first.chunks_exact(width)) {
                scores[index] = self.head.forward(vector, width, 1);
            }
            return Ok(scores);
        }
        let hidden = self.encoder.hidden(&sequences).map_err(InferError::Run)?;
        let logit = |(n, &index): (usize, &usize)| self.head.forward(hidden.text(n), width, pairs[index].n_first);
        let logits: Vec<f32> = order.par_iter().enumerate().map(logit).collect();
        for (&index, logit) in order.iter().zip(logits) {
            scores[index] = logit;
        }
        Ok(scores)
    }

    fn pair(&self, query: &[u32], passage: &str, most: usize) -> Result<Pair, InferError> {
        let mut passage = tokens(&self.tokenizer, passage, most, false)?;
        passage.truncate(most);
        let mut ids = Vec::with_capacity(query.len() + passage.len() + MARKS);
        ids.push(self.begin);
        ids.extend_from_slice(query);
        ids.push(self.separator);
        let n_first = ids.len();
        ids.extend_from_slice(&passage);
        ids.push(self.separator);
        let mut types = vec![0; n_first];
        types.resize(ids.len(), 1);
        Ok(Pair { ids, types, n_first })
    }
}

struct Pair {
    ids: Vec<u32>,
    types: Vec<u8>,
    /// Tokens up to the mark that ends the query.
    n_first: usize,
}

#[cfg(test)]
mod tests;
