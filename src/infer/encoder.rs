//! BERT's encoder on candle: token ids in, one hidden vector per token out. Exactly the published model (post-norm layers,
//! GELU by erf), with what can be done once done at load: one product for query, key and value, the attention scale inside
//! the query's weights, the token type (always 0 here) inside the positions. Only `embedder` calls it.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder, embedding, layer_norm, linear};
use serde::Deserialize;

/// The members of `config.json` that shape the network.
#[derive(Debug, Clone, Deserialize)]
pub struct Shape {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: Activation,
}

/// The one activation that is implemented; another name in `config.json` is refused by it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Gelu,
}

pub struct Encoder {
    words: Embedding,
    /// Position and token type 0 added together.
    places: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    n_heads: usize,
    query_key_value: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    up: Linear,
    down: Linear,
    down_norm: LayerNorm,
}

impl Encoder {
    /// # Errors
    /// A tensor is missing or has another shape than `shape` says.
    pub fn load(shape: &Shape, weights: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let Activation::Gelu = shape.hidden_act;
        let (hidden, own) = (shape.hidden_size, weights.pp("embeddings"));
        let positions = own.pp("position_embeddings").get((shape.max_position_embeddings, hidden), "weight")?;
        let types = own.pp("token_type_embeddings").get((shape.type_vocab_size, hidden), "weight")?;
        let layers =
            (0..shape.num_hidden_layers).map(|n| Layer::load(shape, &weights.pp(format!("encoder.layer.{n}"))));
        Ok(Self {
            words: embedding(shape.vocab_size, hidden, own.pp("word_embeddings"))?,
            places: positions.broadcast_add(&types.get(0)?)?,
            norm: layer_norm(hidden, shape.layer_norm_eps, own.pp("LayerNorm"))?,
            layers: layers.collect::<candle_core::Result<_>>()?,
        })
    }

    /// Hidden vectors `(text, token, hidden)` of `ids` `(text, token)`. `mask` is added to attention scores, `(text, 1, 1,
    /// token)`: 0 for a token, far below 0 for padding; `None` where nothing is padded.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let places = self.places.narrow(0, 0, ids.dim(1)?)?;
        let mut hidden = self.norm.forward(&self.words.forward(ids)?.broadcast_add(&places)?)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, mask)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    fn load(shape: &Shape, weights: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let (hidden, inner, eps) = (shape.hidden_size, shape.intermediate_size, shape.layer_norm_eps);
        let (attention, output) = (weights.pp("attention"), weights.pp("output"));
        let project = |name: &str| linear(hidden, hidden, attention.pp("self").pp(name));
        let query = project("query")?;
        #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen columns")]
        let scale = 1.0 / ((hidden / shape.num_attention_heads) as f64).sqrt();
        let parts = [scaled(&query, scale)?, project("key")?, project("value")?];
        let weight = Tensor::cat(&parts.each_ref().map(Linear::weight), 0)?;
        let bias: Vec<&Tensor> = parts.iter().filter_map(Linear::bias).collect();
        Ok(Self {
            n_heads: shape.num_attention_heads,
            query_key_value: Linear::new(weight, Some(Tensor::cat(&bias, 0)?)),
            attended: linear(hidden, hidden, attention.pp("output.dense"))?,
            attended_norm: layer_norm(hidden, eps, attention.pp("output.LayerNorm"))?,
            up: linear(hidden, inner, weights.pp("intermediate.dense"))?,
            down: linear(inner, hidden, output.pp("dense"))?,
            down_norm: layer_norm(hidden, eps, output.pp("LayerNorm"))?,
        })
    }

    fn forward(&self, hidden: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let attended = self.attended.forward(&self.attend(hidden, mask)?)?;
        let hidden = self.attended_norm.forward(&(attended + hidden)?)?;
        let inner = self.up.forward(&hidden)?.gelu_erf()?;
        self.down_norm.forward(&(self.down.forward(&inner)? + hidden)?)
    }

    fn attend(&self, hidden: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (n_texts, n_tokens, width) = hidden.dims3()?;
        let heads = self.query_key_value.forward(hidden)?;
        let heads = heads.reshape((n_texts, n_tokens, 3, self.n_heads, width / self.n_heads))?;
        // (query, key or value), text, head, token, column
        let heads = heads.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (query, key, value) = (heads.get(0)?, heads.get(1)?, heads.get(2)?);
        let mut scores = query.matmul(&key.t()?)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let mixed = softmax_last_dim(&scores)?.matmul(&value)?;
        mixed.transpose(1, 2)?.contiguous()?.reshape((n_texts, n_tokens, width))
    }
}

fn scaled(linear: &Linear, scale: f64) -> candle_core::Result<Linear> {
    let bias = linear.bias().map(|bias| bias * scale).transpose()?;
    Ok(Linear::new((linear.weight() * scale)?, bias))
}

/// Ids as a tensor, padded with 0 to the longest, and the mask that hides the padding (`None` if there is none).
pub fn batch(ids: &[&[u32]]) -> candle_core::Result<(Tensor, Option<Tensor>)> {
    let longest = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let padded: Vec<u32> =
        ids.iter().flat_map(|ids| ids.iter().copied().chain(std::iter::repeat_n(0, longest - ids.len()))).collect();
    let tensor = Tensor::from_vec(padded, (ids.len(), longest), &Device::Cpu)?;
    if ids.iter().all(|ids| ids.len() == longest) {
        return Ok((tensor, None));
    }
    let hide = |ids: &&[u32]| {
        let n = ids.len();
        (0..longest).map(move |at| if at < n { 0.0 } else { HIDDEN }).collect::<Vec<f32>>()
    };
    let mask = Tensor::from_vec(ids.iter().flat_map(hide).collect(), (ids.len(), 1, 1, longest), &Device::Cpu)?;
    Ok((tensor, Some(mask)))
}

/// Added to the score of padding: far below any real one, and still finite.
const HIDDEN: f32 = -1e9;

/// Mean over the real tokens of each text, of length 1.
pub fn pooled(hidden: &Tensor, n_tokens: &[usize]) -> candle_core::Result<Vec<Vec<f32>>> {
    let mut means = Vec::with_capacity(n_tokens.len());
    for (text, &n) in n_tokens.iter().enumerate() {
        let mean = hidden.get(text)?.narrow(0, 0, n)?.mean(0)?;
        let norm = mean.sqr()?.sum(D::Minus1)?.to_scalar::<f32>()?.sqrt().max(f32::MIN_POSITIVE);
        means.push((mean / f64::from(norm))?.to_vec1()?);
    }
    Ok(means)
}

/// Weights of a safetensors file.
///
/// # Errors
/// The bytes are no such file.
pub fn weights(bytes: Vec<u8>) -> candle_core::Result<VarBuilder<'static>> {
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)
}
