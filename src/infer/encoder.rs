//! BERT's encoder: token ids in, one hidden vector per token out. Exactly the published model (post-norm layers, GELU by
//! erf), with what can be done once done at load: one product for query, key and value, and the attention scale inside the
//! query's weights. Only `embedder` and `cross_encoder` call it.
//!
//! Texts are not padded: the tokens of all texts are rows of one matrix, and attention looks at one text's rows. Work is cut
//! two ways, and neither changes a bit of the result:
//!
//! ```text
//! texts ── groups of some hundred rows, each through all layers on one thread while its rows are in the cache
//!            └── where there are fewer groups than threads: parts of a group's rows, which meet once per layer
//! ```

use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;
use serde::Deserialize;

use super::attention::Attention;
use super::kernel::Isa;
use super::kernel::int8::QuantisedRows;
use super::kernel::vector::{Norm, add_and_norm, gelu};
use super::linear::{Linear, Part, Precision};
use super::weights::{WORDS, Weights};

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

impl Shape {
    /// # Errors
    /// The members do not go together.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.max_position_embeddings];
        if sizes.contains(&0) || self.type_vocab_size == 0 {
            return Err("a size is 0".into());
        }
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err("hidden_size is not a multiple of num_attention_heads".into());
        }
        Ok(())
    }
}

/// One text, or a pair of texts, as token ids.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    pub ids: &'a [u32],
    /// Which text of the pair each token belongs to; all to the first if there are none.
    pub types: Option<&'a [u8]>,
}

/// Hidden vectors of the last layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    pub width: usize,
    /// Vectors of `width`, one after the other, text by text.
    pub rows: Vec<f32>,
    /// Where each text begins in `rows`, counted in vectors; one more than texts.
    pub starts: Vec<usize>,
}

impl Hidden {
    /// The vectors of a text.
    pub fn text(&self, index: usize) -> &[f32] {
        &self.rows[self.starts[index] * self.width..self.starts[index + 1] * self.width]
    }
}

/// Mean of vectors of `width`, of length 1.
fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    mean.iter_mut().for_each(|value| *value /= length);
    mean
}

pub struct Encoder {
    isa: Isa,
    width: usize,
    inner_width: usize,
    n_heads: usize,
    words: Arc<Vec<f32>>,
    positions: Vec<f32>,
    types: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    /// Buffers of finished calls, for the next ones.
    rooms: Mutex<Vec<Room>>,
}

struct Layer {
    query_key_value: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

/// Buffers of a thread while it computes part of a layer.
struct Room {
    attention: Attention,
    quantised: QuantisedRows,
    attended: Vec<f32>,
    projected: Vec<f32>,
    inner: Vec<f32>,
}

/// Which vectors of a text are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    First,
    Mean,
}

/// Rows that go through all layers together. More do not fit the second cache with all that is computed from them; fewer
/// would read the weights more often.
const GROUP_ROWS: usize = 128;

/// Rows that are worth a thread of their own.
const PART_ROWS: usize = 24;

/// Rows that go through the wide middle of a layer at once.
const INNER_ROWS: usize = 96;

impl Encoder {
    /// `shared_words` are another model's word embeddings, for files that leave them out.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than `shape` says.
    pub fn load(
        isa: Isa,
        shape: &Shape,
        weights: &Weights,
        shared_words: Option<Arc<Vec<f32>>>,
        precision: Precision,
    ) -> Result<Self, String> {
        let Activation::Gelu = shape.hidden_act;
        shape.check()?;
        let width = shape.hidden_size;
        let table = |name: &str, n: usize| weights.matrix(name, n, width).map(|table| table.into_f32(width));
        let words = match shared_words {
            Some(words) if !weights.has_words() => words,
            _ => Arc::new(table(WORDS, shape.vocab_size)?),
        };
        if words.len() != shape.vocab_size * width {
            let what = "the shared word embeddings are not of the vocab_size and hidden_size that config.json says";
            return Err(what.into());
        }
        let layers = (0..shape.num_hidden_layers).map(|n| Layer::load(isa, shape, weights, n, precision));
        Ok(Self {
            isa,
            width,
            inner_width: shape.intermediate_size,
            n_heads: shape.num_attention_heads,
            words,
            positions: table("embeddings.position_embeddings.weight", shape.max_position_embeddings)?,
            types: table("embeddings.token_type_embeddings.weight", shape.type_vocab_size)?,
            norm: norm(shape, weights, "embeddings.LayerNorm")?,
            layers: layers.collect::<Result<_, _>>()?,
            rooms: Mutex::default(),
        })
    }

    /// Columns of a hidden vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One vector per token.
    ///
    /// # Errors
    /// A text is longer than the model's positions, or has a token or type that the model does not know.
    pub fn hidden(&self, texts: &[Sequence<'_>]) -> Result<Hidden, String> {
        let lengths = texts.iter().map(|text| text.ids.len());
        let starts = std::iter::once(0).chain(lengths.scan(0, |end, n| {
            *end += n;
            Some(*end)
        }));
        Ok(Hidden { width: self.width, starts: starts.collect(), rows: self.run(texts, Wanted::All)? })
    }

    /// The mean over the tokens of each text, of length 1; one after the other.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn means(&self, texts: &[Sequence<'_>]) -> Result<Vec<f32>, String> {
        self.run(texts, Wanted::Mean)
    }

    /// The first token's vector of each text, one after the other; a sixth cheaper than all of them for six layers. No text
    /// may be empty.
    ///
    /// # Errors
    /// As [`Self::hidden`]; or a text is empty.
    pub fn first(&self, texts: &[Sequence<'_>]) -> Result<Vec<f32>, String> {
        if texts.iter().any(|text| text.ids.is_empty()) {
            return Err("a text without tokens has no first one".into());
        }
        self.run(texts, Wanted::First)
    }

    fn run(&self, texts: &[Sequence<'_>], wanted: Wanted) -> Result<Vec<f32>, String> {
        texts.iter().try_for_each(|text| self.check(text))?;
        let groups = groups(texts);
        let n_threads = rayon::current_num_threads();
        if groups.len() == 1 {
            return Ok(self.run_group(groups[0], wanted, n_threads));
        }
        let n_parts = n_threads / groups.len().max(1);
        let done: Vec<Vec<f32>> = groups.par_iter().map(|group| self.run_group(group, wanted, n_parts)).collect();
        Ok(done.concat())
    }

    fn check(&self, text: &Sequence<'_>) -> Result<(), String> {
        let (n_words, n_types) = (self.words.len() / self.width, self.types.len() / self.width);
        if text.ids.len() * self.width > self.positions.len() {
            return Err(format!("{} tokens are more than the model has positions", text.ids.len()));
        }
        if let Some(id) = text.ids.iter().find(|id| **id as usize >= n_words) {
            return Err(format!("the model has no token {id}"));
        }
        let types = text.types.unwrap_or_default();
        if text.types.is_some() && types.len() != text.ids.len() || types.iter().any(|t| usize::from(*t) >= n_types) {
            return Err("the types of a text are not one known type per token".into());
        }
        Ok(())
    }

    /// One group of texts through all layers, by up to `n_parts` threads.
    fn run_group(&self, texts: &[Sequence<'_>], wanted: Wanted, n_parts: usize) -> Vec<f32> {
        let n_rows: usize = texts.iter().map(|text| text.ids.len()).sum();
        if n_rows == 0 {
            return vec![0.0; if wanted == Wanted::Mean { texts.len() * self.width } else { 0 }];
        }
        let mut spans = Vec::with_capacity(texts.len());
        for text in texts {
            let start = spans.last().map_or(0, |(_, end)| *end);
            spans.push((start, start + text.ids.len()));
        }
        let part_rows = n_rows.div_ceil(n_parts.clamp(1, n_rows.div_ceil(PART_ROWS)));
        let width = self.width;
        let mut hidden = vec![0.0; n_rows * width];
        let mut projected = vec![0.0; n_rows * 3 * width];
        let mut next = vec![0.0; if part_rows < n_rows { n_rows * 3 * width } else { 0 }];

        self.for_parts(part_rows, &mut hidden, &mut projected, |room, first, hidden, projected| {
            self.embed(texts, &spans, first, hidden);
            if let Some(layer) = self.layers.first() {
                layer.query_key_value.forward(hidden, projected, 3 * width, &mut room.quantised);
            }
        });
        for (n, layer) in self.layers.iter().enumerate() {
            let following = self.layers.get(n + 1);
            if following.is_none() && wanted == Wanted::First {
                return self.last_of_first(layer, &spans, &hidden, &projected);
            }
            if part_rows == n_rows {
                // On one thread what is read before it is written may lie in the same place.
                let mut room = self.room();
                self.attend(&mut room, &spans, &projected, 0..n_rows);
                self.finish(layer, &mut room, &mut hidden);
                if let Some(following) = following {
                    let project = &following.query_key_value;
                    project.forward(&hidden, &mut projected, 3 * width, &mut room.quantised);
                }
                self.give_back(room);
                continue;
            }
            self.for_parts(part_rows, &mut hidden, &mut next, |room, first, hidden, next| {
                self.attend(room, &spans, &projected, first..first + hidden.len() / width);
                self.finish(layer, room, hidden);
                if let Some(following) = following {
                    following.query_key_value.forward(hidden, next, 3 * width, &mut room.quantised);
                }
            });
            std::mem::swap(&mut projected, &mut next);
        }
        let text = |&(start, stop): &(usize, usize)| &hidden[start * width..stop * width];
        match wanted {
            Wanted::All => hidden,
            Wanted::First => spans.iter().flat_map(|span| text(span)[..width].iter().copied()).collect(),
            Wanted::Mean => spans.iter().flat_map(|span| mean(text(span), width)).collect(),
        }
    }

    /// Calls `work` for every part with a room, its first row, and its rows of two matrices; in parallel if there is more
    /// than one part.
    fn for_parts(
        &self,
        part_rows: usize,
        hidden: &mut [f32],
        projected: &mut [f32],
        work: impl Fn(&mut Room, usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let run = |part: usize, hidden: &mut [f32], projected: &mut [f32]| {
            let mut room = self.room();
            work(&mut room, part * part_rows, hidden, projected);
            self.give_back(room);
        };
        let width = self.width;
        if hidden.len() == part_rows * width {
            return run(0, hidden, projected);
        }
        let parts =
            hidden.par_chunks_mut(part_rows * width).zip(projected.par_chunks_mut(part_rows * 3 * width)).enumerate();
        parts.for_each(|(part, (hidden, projected))| run(part, hidden, projected));
    }

    /// Word, position and type of every token from row `first` on, normed.
    fn embed(&self, texts: &[Sequence<'_>], spans: &[(usize, usize)], first: usize, hidden: &mut [f32]) {
        let width = self.width;
        let end = first + hidden.len() / width;
        let of = |table: &'_ [f32], index: usize, row: &mut [f32]| {
            row.iter_mut().zip(&table[index * width..][..width]).for_each(|(sum, value)| *sum += value);
        };
        for (text, (start, stop)) in texts.iter().zip(spans) {
            for row in first.max(*start)..end.min(*stop) {
                let token = row - start;
                let hidden = &mut hidden[(row - first) * width..][..width];
                hidden.copy_from_slice(&self.words[text.ids[token] as usize * width..][..width]);
                of(&self.positions, token, hidden);
                let kind = text.types.map_or(0, |types| usize::from(types[token]));
                add_and_norm(self.isa, hidden, &self.types[kind * width..][..width], &self.norm);
            }
        }
    }

    /// Attention for the tokens of `rows`, each over its own text, into `room.attended`.
    fn attend(&self, room: &mut Room, spans: &[(usize, usize)], projected: &[f32], rows: std::ops::Range<usize>) {
        let width = self.width;
        room.attended.resize(rows.len() * width, 0.0);
        for &(start, stop) in spans {
            let (from, to) = (rows.start.max(start), rows.end.min(stop));
            if from < to {
                let text = &projected[start * 3 * width..stop * 3 * width];
                let out = &mut room.attended[(from - rows.start) * width..(to - rows.start) * width];
                room.attention.attend(text, width, self.n_heads, from - start..to - start, out);
            }
        }
    }

    /// What follows attention in a layer: from `room.attended` and what entered the layer in `hidden`.
    fn finish(&self, layer: &Layer, room: &mut Room, hidden: &mut [f32]) {
        let (isa, width) = (self.isa, self.width);
        room.projected.resize(hidden.len(), 0.0);
        layer.attended.forward(&room.attended, &mut room.projected, width, &mut room.quantised);
        for (row, added) in hidden.chunks_exact_mut(width).zip(room.projected.chunks_exact(width)) {
            add_and_norm(isa, row, added, &layer.attended_norm);
        }
        for hidden in hidden.chunks_mut(INNER_ROWS * width) {
            let n_rows = hidden.len() / width;
            room.inner.resize(n_rows * self.inner_width, 0.0);
            layer.up.forward(hidden, &mut room.inner, self.inner_width, &mut room.quantised);
            gelu(isa, &mut room.inner);
            let added = &mut room.projected[..n_rows * width];
            layer.down.forward(&room.inner, added, width, &mut room.quantised);
            for (row, added) in hidden.chunks_exact_mut(width).zip(added.chunks_exact(width)) {
                add_and_norm(isa, row, added, &layer.down_norm);
            }
        }
    }

    /// The last layer where only each text's first token is wanted.
    fn last_of_first(&self, layer: &Layer, spans: &[(usize, usize)], hidden: &[f32], projected: &[f32]) -> Vec<f32> {
        let width = self.width;
        let mut room = self.room();
        let mut first = Vec::with_capacity(spans.len() * width);
        room.attended.resize(spans.len() * width, 0.0);
        for (&(start, stop), out) in spans.iter().zip(room.attended.chunks_exact_mut(width)) {
            let text = &projected[start * 3 * width..stop * 3 * width];
            room.attention.attend(text, width, self.n_heads, 0..1, out);
            first.extend_from_slice(&hidden[start * width..][..width]);
        }
        self.finish(layer, &mut room, &mut first);
        self.give_back(room);
        first
    }

    fn room(&self) -> Room {
        let kept = self.rooms.lock().pop();
        kept.unwrap_or_else(|| Room {
            attention: Attention::new(self.isa),
            quantised: QuantisedRows::default(),
            attended: Vec::new(),
            projected: Vec::new(),
            inner: Vec::new(),
        })
    }

    fn give_back(&self, room: Room) {
        self.rooms.lock().push(room);
    }
}

impl Layer {
    fn load(isa: Isa, shape: &Shape, weights: &Weights, n: usize, precision: Precision) -> Result<Self, String> {
        let (width, inner) = (shape.hidden_size, shape.intermediate_size);
        let part = |name: &str, n_in: usize, n_out: usize, factor: f32| {
            let name = format!("encoder.layer.{n}.{name}");
            let matrix = weights.matrix(&format!("{name}.weight"), n_out, n_in)?;
            Ok::<_, String>(Part { matrix, bias: weights.vector(&format!("{name}.bias"), n_out)?, factor })
        };
        let linear = |name: &str, n_in: usize, n_out: usize| {
            Ok::<_, String>(Linear::new(isa, precision, n_in, vec![part(name, n_in, n_out, 1.0)?]))
        };
        let norm = |name: &str| norm(shape, weights, &format!("encoder.layer.{n}.{name}"));
        #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen columns")]
        let scale = 1.0 / ((width / shape.num_attention_heads) as f32).sqrt();
        let projections = vec![
            part("attention.self.query", width, width, scale)?,
            part("attention.self.key", width, width, 1.0)?,
            part("attention.self.value", width, width, 1.0)?,
        ];
        Ok(Self {
            query_key_value: Linear::new(isa, precision, width, projections),
            attended: linear("attention.output.dense", width, width)?,
            attended_norm: norm("attention.output.LayerNorm")?,
            up: linear("intermediate.dense", width, inner)?,
            down: linear("output.dense", inner, width)?,
            down_norm: norm("output.LayerNorm")?,
        })
    }
}

fn norm(shape: &Shape, weights: &Weights, name: &str) -> Result<Norm, String> {
    Ok(Norm {
        weight: weights.vector(&format!("{name}.weight"), shape.hidden_size)?,
        bias: weights.vector(&format!("{name}.bias"), shape.hidden_size)?,
        eps: shape.layer_norm_eps as f32,
    })
}

/// Cuts texts into groups of about [`GROUP_ROWS`] rows, in order.
fn groups<'a, 'b>(texts: &'b [Sequence<'a>]) -> Vec<&'b [Sequence<'a>]> {
    let mut groups = Vec::new();
    let (mut first, mut n_rows) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        if n_rows > 0 && n_rows + text.ids.len() > GROUP_ROWS {
            groups.push(&texts[first..index]);
            (first, n_rows) = (index, 0);
        }
        n_rows += text.ids.len();
    }
    groups.push(&texts[first..]);
    groups
}

#[cfg(test)]
mod tests;
