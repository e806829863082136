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

mod layer;

use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;
use serde::Deserialize;

use super::kernel::Isa;
use super::kernel::vector::{Norm, add_and_norm};
use super::linear::Precision;
use super::weights::{WORDS, Weights};
use layer::{Layer, Room};

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
    words: Arc<Vec<f32>>,
    positions: Vec<f32>,
    types: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    states: Kept<State>,
    rooms: Kept<Room>,
}

/// The rows of a group between its layers.
#[derive(Default)]
struct State {
    hidden: Vec<f32>,
    /// Query, key and value of every row.
    projected: Vec<f32>,
    /// The same for the next layer, while parts of the group still read the ones above.
    next: Vec<f32>,
}

/// Buffers of finished calls, for the next ones: as many as were ever in use at once.
struct Kept<T>(Mutex<Vec<T>>);

impl<T> Kept<T> {
    fn take(&self, new: impl FnOnce() -> T) -> T {
        let kept = self.0.lock().pop();
        kept.unwrap_or_else(new)
    }

    fn give_back(&self, buffers: T) {
        self.0.lock().push(buffers);
    }
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
            words,
            positions: table("embeddings.position_embeddings.weight", shape.max_position_embeddings)?,
            types: table("embeddings.token_type_embeddings.weight", shape.type_vocab_size)?,
            norm: layer::norm(shape, weights, "embeddings.LayerNorm")?,
            layers: layers.collect::<Result<_, _>>()?,
            states: Kept(Mutex::default()),
            rooms: Kept(Mutex::default()),
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
        let width = self.width;
        let n_rows: usize = texts.iter().map(|text| text.ids.len()).sum();
        if n_rows == 0 {
            return vec![0.0; if wanted == Wanted::Mean { texts.len() * width } else { 0 }];
        }
        let mut spans = Vec::with_capacity(texts.len());
        for text in texts {
            let start = spans.last().map_or(0, |(_, end)| *end);
            spans.push((start, start + text.ids.len()));
        }
        let part_rows = n_rows.div_ceil(n_parts.clamp(1, n_rows.div_ceil(PART_ROWS)));
        let mut state = self.states.take(State::default);
        state.hidden.resize(n_rows * width, 0.0);
        state.projected.resize(n_rows * 3 * width, 0.0);
        self.each_part(part_rows, &mut state.hidden, &mut state.projected, |room, first, hidden, projected| {
            self.embed(texts, &spans, first, hidden);
            if let Some(layer) = self.layers.first() {
                layer.project(hidden, projected, room);
            }
        });
        let (last, others) = match (self.layers.split_last(), wanted) {
            (Some((last, others)), Wanted::First) => (Some(last), others),
            _ => (None, self.layers.as_slice()),
        };
        for (n, layer) in others.iter().enumerate() {
            self.run_layer(layer, self.layers.get(n + 1), part_rows, &spans, &mut state);
        }
        let State { hidden, projected, .. } = &state;
        let text = |&(start, stop): &(usize, usize)| &hidden[start * width..stop * width];
        let vectors = match (wanted, last) {
            (Wanted::All, _) => hidden.clone(),
            (Wanted::Mean, _) => spans.iter().flat_map(|span| mean(text(span), width)).collect(),
            (Wanted::First, None) => spans.iter().flat_map(|span| text(span)[..width].iter().copied()).collect(),
            (Wanted::First, Some(last)) => {
                let mut room = self.rooms.take(|| Room::new(self.isa));
                let first = last.run_first(&spans, hidden, projected, &mut room);
                self.rooms.give_back(room);
                first
            }
        };
        self.states.give_back(state);
        vectors
    }

    /// One layer over all rows, and the projections of the `following` one.
    fn run_layer(
        &self,
        layer: &Layer,
        following: Option<&Layer>,
        part_rows: usize,
        spans: &[(usize, usize)],
        state: &mut State,
    ) {
        let State { hidden, projected, next } = state;
        if hidden.len() == part_rows * self.width {
            // In one part all that is read of the projections has been read before they are written.
            let mut room = self.rooms.take(|| Room::new(self.isa));
            layer.run(spans, projected, 0, hidden, &mut room);
            if let Some(following) = following {
                following.project(hidden, projected, &mut room);
            }
            return self.rooms.give_back(room);
        }
        next.resize(projected.len(), 0.0);
        self.each_part(part_rows, hidden, next, |room, first, hidden, next| {
            layer.run(spans, projected, first, hidden, room);
            if let Some(following) = following {
                following.project(hidden, next, room);
            }
        });
        std::mem::swap(projected, next);
    }

    /// Calls `work` for every part with a room, its first row, and its rows of two matrices; in parallel if there is more
    /// than one part.
    fn each_part(
        &self,
        part_rows: usize,
        hidden: &mut [f32],
        projected: &mut [f32],
        work: impl Fn(&mut Room, usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let run = |part: usize, hidden: &mut [f32], projected: &mut [f32]| {
            let mut room = self.rooms.take(|| Room::new(self.isa));
            work(&mut room, part * part_rows, hidden, projected);
            self.rooms.give_back(room);
        };
        let width = self.width;
        if hidden.len() == part_rows * width {
            return run(0, hidden, projected);
        }
        let parts = hidden.par_chunks_mut(part_rows * width).zip(projected.par_chunks_mut(part_rows * 3 * width));
        parts.enumerate().for_each(|(part, (hidden, projected))| run(part, hidden, projected));
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
