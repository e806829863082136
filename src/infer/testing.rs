//! A BERT of a few kilobytes with random weights, and a model of one file, for tests.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::json;

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

    fn weights(&self) -> HashMap<String, Tensor> {
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
