//! A cross-encoder: reads a query and a passage together and says how well the passage answers it. A BERT whose first
//! token's vector goes through a small head. Blocking and CPU-bound, as `embedder`.

use std::path::Path;

use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::InferError;
use super::encoder::{Encoder, Sequence};
use super::folder::{ModelFolder, tokens};
use super::kernel::Isa;
use super::linear::Precision;
use super::weights::Weights;

/// From a folder of `config.json`, `tokenizer.json` and `model.safetensors`, as sequence classifiers with one label are
/// published. The last may hold int8 matrices, and leave out the word embeddings where they are the sentence model's.
pub struct CrossEncoder {
    tokenizer: Tokenizer,
    encoder: Encoder,
    head: Head,
    /// `[CLS]` and `[SEP]`.
    begin: u32,
    separator: u32,
    max_positions: usize,
}

/// `classifier(tanh(pooler(first)))`, or without the pooler.
struct Head {
    pooler: Option<Layer>,
    classifier: Layer,
}

/// A row of weights per output, and the biases.
struct Layer {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Tokens that mark the beginning and the two ends of a pair.
const MARKS: usize = 3;

impl CrossEncoder {
    /// `sentence_model` is the folder of the model whose word embeddings it uses if it brings none.
    ///
    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load(dir: &Path, sentence_model: &Path) -> Result<Self, InferError> {
        Self::load_in(dir, sentence_model, Precision::Int8)
    }

    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn load_in(dir: &Path, sentence_model: &Path, precision: Precision) -> Result<Self, InferError> {
        let (folder, isa) = (ModelFolder::new(dir), Isa::best());
        let shape = folder.shape()?;
        let tokenizer = folder.tokenizer(&shape, None)?;
        let mark = |name: &str| {
            let missing = || folder.broken("tokenizer.json", format!("it has no token {name}"));
            tokenizer.token_to_id(name).ok_or_else(missing)
        };
        let (begin, separator) = (mark("[CLS]")?, mark("[SEP]")?);
        if shape.max_position_embeddings <= MARKS || shape.type_vocab_size < 2 {
            return Err(folder.broken("config.json", "there is no room for a pair of texts".into()));
        }
        let weights = folder.weights()?;
        let shared = if weights.has_words() { None } else { Some(ModelFolder::new(sentence_model).words()?) };
        let encoder = Encoder::load(isa, &shape, &weights, shared, precision);
        let head = Head::load(&weights, shape.hidden_size);
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
        let first = self.encoder.first(&sequences).map_err(InferError::Run)?;
        let mut scores = vec![0.0; passages.len()];
        for (&index, vector) in order.iter().zip(first.chunks_exact(self.encoder.width())) {
            scores[index] = self.head.forward(vector);
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
        let mut types = vec![0; ids.len()];
        ids.extend_from_slice(&passage);
        ids.push(self.separator);
        types.resize(ids.len(), 1);
        Ok(Pair { ids, types })
    }
}

struct Pair {
    ids: Vec<u32>,
    types: Vec<u8>,
}

impl Head {
    fn load(weights: &Weights, width: usize) -> Result<Self, String> {
        let layer = |name: &str, n_out: usize| {
            let bias = weights.head(&format!("{name}.bias"), &[n_out])?;
            Ok::<_, String>(Layer { weights: weights.head(&format!("{name}.weight"), &[n_out, width])?, bias })
        };
        let pooler = weights.pooler();
        Ok(Self { pooler: pooler.map(|name| layer(name, width)).transpose()?, classifier: layer("classifier", 1)? })
    }

    fn forward(&self, first: &[f32]) -> f32 {
        let pooled = self.pooler.as_ref().map(|pooler| pooler.forward(first).map(f32::tanh).collect::<Vec<_>>());
        self.classifier.forward(pooled.as_deref().unwrap_or(first)).next().unwrap_or_default()
    }
}

impl Layer {
    fn forward<'a>(&'a self, input: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let rows = self.weights.chunks_exact(input.len().max(1)).zip(&self.bias);
        rows.map(move |(row, bias)| row.iter().zip(input).map(|(weight, value)| weight * value).sum::<f32>() + bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::testing::TinyBert;

    fn cross_encoder(is_int8: bool, precision: Precision) -> Result<CrossEncoder, InferError> {
        let (dir, sentence_model) = (tempfile::tempdir().unwrap(), TinyBert::default().write());
        TinyBert::default().write_cross_encoder(dir.path(), is_int8);
        CrossEncoder::load_in(dir.path(), sentence_model.path(), precision)
    }

    const PASSAGES: [&str; 4] = ["the cat sat on the mat", "dog", "", "on the mat the mat the mat the mat the mat dog"];

    #[test]
    fn a_pair_is_read_as_bert_reads_pairs_and_its_first_vector_goes_through_the_head() {
        for is_int8 in [false, true] {
            let model = cross_encoder(is_int8, Precision::F32).unwrap();
            let scores = model.score("the cat", &PASSAGES, 512).unwrap();
            let first = model
                .encoder
                .first(&[Sequence { ids: &[2, 4, 5, 3, 9, 3], types: Some(&[0, 0, 0, 0, 1, 1]) }])
                .unwrap();
            let pooled: Vec<f32> = match &model.head.pooler {
                Some(pooler) => pooler.forward(&first).map(f32::tanh).collect(),
                None => first,
            };
            assert_eq!(model.head.pooler.is_some(), !is_int8);
            // The classifier of the tests is 0.1 n - 0.2.
            let expected: f32 =
                pooled.iter().zip(0u8..).map(|(v, n)| v * (f32::from(n) * 0.1 - 0.2)).sum::<f32>() - 0.2;
            assert!((scores[1] - expected).abs() < 1e-5, "{} {expected}", scores[1]);
            for (passage, score) in PASSAGES.iter().zip(&scores) {
                assert_eq!(model.score("the cat", &[passage], 512).unwrap(), [*score], "{passage}");
            }
        }
    }

    #[test]
    fn stored_int8_is_run_in_either_precision() {
        let exact = cross_encoder(true, Precision::F32).unwrap().score("cat", &PASSAGES, 512).unwrap();
        let rounded = cross_encoder(true, Precision::Int8).unwrap().score("cat", &PASSAGES, 512).unwrap();
        for (exact, rounded) in exact.iter().zip(&rounded) {
            assert!((exact - rounded).abs() < 0.1, "{exact} {rounded}");
        }
    }

    #[test]
    fn the_end_of_a_passage_is_cut_and_only_a_very_long_query() {
        let model = cross_encoder(false, Precision::F32).unwrap();
        let score = |query: &str, passage: &str, max| model.score(query, &[passage], max).unwrap();
        assert_eq!(score("cat", "dog mat sat", 6), score("cat", "dog mat", 6));
        assert_ne!(score("cat", "dog mat sat", 7), score("cat", "dog mat", 7));
        let long = "cat ".repeat(100);
        assert_eq!(score(&long, &long, 512), score(&long, &long, TinyBert::POSITIONS));
        assert_eq!(score(&long, "dog", 7), score("cat cat", "dog", 7));
        assert!(score("", "", 0)[0].is_finite());
        assert!(model.score("cat", &[], 512).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_named() {
        let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        TinyBert::default().write_cross_encoder(dir.path(), true);
        let error = |sentence_model: &Path| CrossEncoder::load(dir.path(), sentence_model).err().unwrap().to_string();
        assert!(error(empty.path()).contains("config.json"));
        let sentence_model = TinyBert::default().write();
        std::fs::copy(sentence_model.path().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        let missing = error(sentence_model.path());
        assert!(missing.contains("classifier.bias"), "{missing}");
    }
}
