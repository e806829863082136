//! The folder of a BERT: `config.json`, `tokenizer.json`, `model.safetensors`, each also as `….gz`. Reads them, and says which one is
//! no good.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use tokenizers::{Tokenizer, TruncationParams};

use super::InferError;
use super::cross_encoder::HeadShape;
use super::encoder::Shape;
use super::weights::{WORDS, Weights};

pub struct ModelFolder {
    dir: PathBuf,
    /// What the program carries in the place of the folder.
    carried: &'static [(&'static str, &'static [u8])],
}

/// The reranker that the program carries; its tokenizer and word embeddings are the sentence model's.
static RERANKER: [(&str, &[u8]); 2] = [
    ("config.json", include_bytes!("../../models/weirgate-reranker/config.json")),
    ("model.safetensors.gz", include_bytes!("../../models/weirgate-reranker/model.safetensors.gz")),
];

impl ModelFolder {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), carried: &[] }
    }

    /// A folder with a reranker, or the reranker that the program carries where there is no such folder.
    pub fn reranker(dir: &Path) -> Self {
        let carried: &'static [_] = if dir.exists() { &[] } else { &RERANKER };
        Self { dir: dir.to_owned(), carried }
    }

    pub fn shape(&self) -> Result<Shape, InferError> {
        let shape: Shape = serde_json::from_slice(&self.read("config.json")?)
            .map_err(|error| self.broken("config.json", error.to_string()))?;
        shape.check().map_err(|what| self.broken("config.json", what))?;
        Ok(shape)
    }

    /// What `config.json` says of a cross-encoder's head.
    pub fn head(&self) -> Result<HeadShape, InferError> {
        serde_json::from_slice(&self.read("config.json")?)
            .map_err(|error| self.broken("config.json", error.to_string()))
    }

    pub fn has(&self, name: &str) -> bool {
        [name, &packed(name)].into_iter().any(|name| self.carried(name).is_some() || self.dir.join(name).exists())
    }

    /// Cuts texts at `max_tokens` and the positions of the model; not at all where none is given.
    pub fn tokenizer(&self, shape: &Shape, max_tokens: Option<usize>) -> Result<Tokenizer, InferError> {
        let name = "tokenizer.json";
        let mut tokenizer =
            Tokenizer::from_bytes(self.read(name)?).map_err(|error| self.broken(name, error.to_string()))?;
        let truncation = max_tokens
            .map(|max| TruncationParams { max_length: max.min(shape.max_position_embeddings), ..Default::default() });
        tokenizer.with_padding(None);
        tokenizer.with_truncation(truncation).map_err(|error| self.broken(name, error.to_string()))?;
        let n_tokens = tokenizer.get_vocab_size(true);
        if n_tokens > shape.vocab_size {
            let what = format!("it knows {n_tokens} tokens and config.json says {}", shape.vocab_size);
            return Err(self.broken(name, what));
        }
        Ok(tokenizer)
    }

    pub fn weights(&self) -> Result<Weights, InferError> {
        Weights::new(self.read("model.safetensors")?).map_err(|what| self.broken("model.safetensors", what))
    }

    /// The word embeddings alone.
    pub fn words(&self) -> Result<Arc<Vec<f32>>, InferError> {
        let shape = self.shape()?;
        let words = self.weights()?.matrix(WORDS, shape.vocab_size, shape.hidden_size);
        let words = words.map_err(|what| self.broken("model.safetensors", what))?;
        Ok(Arc::new(words.into_f32(shape.hidden_size)))
    }

    pub fn broken(&self, name: &str, what: String) -> InferError {
        InferError::Broken { path: self.dir.join(name), what }
    }

    fn carried(&self, name: &str) -> Option<&'static [u8]> {
        self.carried.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, InferError> {
        if let Some(bytes) = self.carried(name) {
            return Ok(bytes.to_vec());
        }
        let (plain, gzip) = (self.dir.join(name), self.dir.join(packed(name)));
        let (path, bytes) = match self.carried(&packed(name)) {
            Some(bytes) => (gzip, unpack(bytes)),
            None if !plain.exists() && gzip.exists() => {
                (gzip.clone(), std::fs::read(gzip).and_then(|bytes| unpack(&bytes)))
            }
            None => (plain.clone(), std::fs::read(plain)),
        };
        bytes.map_err(|error| InferError::Read { path, error })
    }
}

fn packed(name: &str) -> String {
    format!("{name}.gz")
}

fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Bytes of a text that can matter per token: those of ordinary text are far shorter. Spares the tokenizer megabytes.
const BYTES_PER_TOKEN: usize = 16;

/// Ids of the first tokens of `text`, with those that mark its ends where `is_marked`.
pub fn tokens(tokenizer: &Tokenizer, text: &str, max: usize, is_marked: bool) -> Result<Vec<u32>, InferError> {
    let text = &text[..text.floor_char_boundary(max * BYTES_PER_TOKEN)];
    let encoding = tokenizer.encode_fast(text, is_marked).map_err(|error| InferError::Run(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_packed_file_is_read_where_there_is_no_plain_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(dir.path());
        let missing = folder.read("config.json").unwrap_err().to_string();
        assert!(missing.contains("config.json") && !missing.contains(".gz"), "{missing}");
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(b"packed").unwrap();
        let bytes = packer.finish().unwrap();
        let gzip = dir.path().join("config.json.gz");
        std::fs::write(&gzip, &bytes).unwrap();
        assert!(folder.has("config.json") && !folder.has("tokenizer.json"));
        assert_eq!(folder.read("config.json").unwrap(), b"packed");
        std::fs::write(&gzip, &bytes[..10]).unwrap();
        assert!(folder.read("config.json").unwrap_err().to_string().contains("config.json.gz"));
        std::fs::write(dir.path().join("config.json"), "plain").unwrap();
        assert_eq!(folder.read("config.json").unwrap(), b"plain");
    }

    #[test]
    fn what_the_program_carries_can_be_unpacked() {
        let carried = ModelFolder::reranker(Path::new("/nowhere/at-all"));
        assert!(carried.has("model.safetensors") && carried.weights().is_ok() && carried.shape().is_ok());
    }
}
