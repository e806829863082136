//! A BERT of a few kilobytes with random weights, and a model of one file, for tests.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::json;

use super::kernel::int8::Int8Weights;
use super::manifest::{File, Model};

/// Contents of the only file of [`small_model`].
pub const CONTENT: &[u8] = b"the weights of a small model";

/// A model as the manifest describes one.
pub fn small_model() -> Model {
    let text = |text: &str| text.to_owned();
    Model {
        name: text("small"),
        task: text("test"),
        about: text(""),
        licence: text("Apache-2.0"),
        origin: text(""),
        package: text("no-such-package"),
        version: text("0"),
        folder: text("package/model"),
        files: vec![File {
            name: text("weights"),
            bytes: CONTENT.len() as u64,
            sha256: text("281460c956437276c4ee8558a20754784e02ba0eee1130efc0bbf40006186429"),
        }],
    }
}

/// What is written by [`TinyBert::write`].
pub struct TinyBert {
    pub layers: usize,
}

impl Default for TinyBert {
    fn default() -> Self {
        Self { layers: 2 }
    }
}

const WORDS: [&str; 10] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "dog"];

impl TinyBert {
    pub const HIDDEN: usize = 8;
    pub const POSITIONS: usize = 24;
    const INNER: usize = 16;

    /// The three files of a sentence encoder, in a folder of their own.
    pub fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "vocab_size": WORDS.len(), "hidden_size": Self::HIDDEN, "num_hidden_layers": self.layers,
            "num_attention_heads": 2, "intermediate_size": Self::INNER, "max_position_embeddings": Self::POSITIONS,
            "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
        candle_core::safetensors::save(&self.weights(), dir.path().join("model.safetensors")).unwrap();
        dir
    }

    /// The three files of a cross-encoder that shares the word embeddings of [`Self::write`]: with int8 matrices as a
    /// release ships them, or in f32 with a pooler, as they are published.
    pub fn write_cross_encoder(&self, dir: &Path, is_int8: bool) {
        let sentence_model = self.write();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(sentence_model.path().join(name), dir.join(name)).unwrap();
        }
        let mut tensors = self.classifier(Self::HIDDEN);
        let path = dir.join("model.safetensors");
        if is_int8 {
            tensors.remove("bert.embeddings.word_embeddings.weight");
            return std::fs::write(path, int8_file(&tensors)).unwrap();
        }
        let square = row(Self::HIDDEN * Self::HIDDEN).affine(0.05, 0.0).unwrap();
        tensors.insert("bert.pooler.dense.weight".into(), square.reshape((Self::HIDDEN, Self::HIDDEN)).unwrap());
        tensors.insert("bert.pooler.dense.bias".into(), row(Self::HIDDEN));
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    /// The two files of a cross-encoder with an `interaction` head, as `eval/train` makes them: words and tokenizer are those
    /// of [`Self::write`].
    pub fn write_interaction_encoder(&self, dir: &Path) {
        let sentence_model = self.write();
        let config = std::fs::read_to_string(sentence_model.path().join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["pooling"] = json!("interaction");
        config["version"] = json!("tiny");
        config["after_hop"] = json!({"logit": 2.0, "before": 0.5, "bias": -1.0});
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let mut tensors = self.classifier(Self::HIDDEN + 2);
        tensors.remove("bert.embeddings.word_embeddings.weight");
        candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    }

    /// The encoder's tensors and a classifier of weights 0.1 n - 0.2.
    fn classifier(&self, n_in: usize) -> HashMap<String, Tensor> {
        let weights = self.weights().into_iter();
        let mut tensors: HashMap<String, Tensor> =
            weights.map(|(name, tensor)| (format!("bert.{name}"), tensor)).collect();
        tensors.insert("classifier.weight".into(), row(n_in).reshape((1, n_in)).unwrap());
        tensors.insert("classifier.bias".into(), row(1));
        tensors
    }

    pub fn weights(&self) -> HashMap<String, Tensor> {
        let mut weights = HashMap::new();
        let mut state = 1u32;
        let mut add = |name: String, shape: &[usize]| {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 8) / f64::from(1 << 24) - 0.5
            };
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| next() as f32).collect();
            weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
        };
        let (hidden, inner) = (Self::HIDDEN, Self::INNER);
        add("embeddings.word_embeddings.weight".into(), &[WORDS.len(), hidden]);
        add("embeddings.position_embeddings.weight".into(), &[Self::POSITIONS, hidden]);
        add("embeddings.token_type_embeddings.weight".into(), &[2, hidden]);
        let norm = "embeddings.LayerNorm".to_owned();
        let mut norms = vec![norm];
        for layer in (0..self.layers).map(|n| format!("encoder.layer.{n}")) {
            let squares =
                ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"];
            let shaped = squares.map(|name| (name, hidden, hidden)).into_iter();
            for (name, from, to) in
                shaped.chain([("intermediate.dense", hidden, inner), ("output.dense", inner, hidden)])
            {
                add(format!("{layer}.{name}.weight"), &[to, from]);
                add(format!("{layer}.{name}.bias"), &[to]);
            }
            norms.extend(["attention.output.LayerNorm", "output.LayerNorm"].map(|name| format!("{layer}.{name}")));
        }
        for norm in norms {
            add(format!("{norm}.weight"), &[hidden]);
            add(format!("{norm}.bias"), &[hidden]);
        }
        weights
    }
}

/// 0.1 n - 0.2.
fn row(n: usize) -> Tensor {
    Tensor::arange(0.0f32, n as f32, &Device::Cpu).unwrap().affine(0.1, -0.2).unwrap()
}

/// A safetensors file with every layer's matrices as int8 and a scale per row. Written by hand: candle has no int8.
fn int8_file(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut add = |name: String, kind: &str, shape: &[usize], bytes: &[u8]| {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name, json!({"dtype": kind, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    };
    let little = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let mut scales = Vec::new();
    let mut sorted: Vec<_> = tensors.iter().collect();
    // f32 first, so that they stay aligned.
    sorted.sort_by_key(|(name, tensor)| (is_int8(name, tensor), *name));
    for (name, tensor) in sorted {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        if !is_int8(name, tensor) {
            add(name.clone(), "F32", tensor.dims(), &little(&values));
            continue;
        }
        let quantised = Int8Weights::quantise(&values, tensor.dims()[1]);
        let bytes: Vec<u8> = quantised.values.iter().map(|value| value.cast_unsigned()).collect();
        add(name.clone(), "I8", tensor.dims(), &bytes);
        scales.push((format!("{name}_scale"), quantised.scales));
    }
    for (name, scales) in scales {
        add(name, "F32", &[scales.len()], &little(&scales));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend(data);
    file
}

fn is_int8(name: &str, tensor: &Tensor) -> bool {
    name.contains("encoder.layer") && tensor.rank() == 2
}

/// Whole words only; anything else is unknown.
fn tokenizer() -> serde_json::Value {
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
        },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}
