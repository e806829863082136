//! One layer of the encoder: attention, and the two linear layers with GELU between them, each added to what entered it and
//! normed.

use crate::infer::attention::Attention;
use crate::infer::kernel::Isa;
use crate::infer::kernel::int8::QuantisedRows;
use crate::infer::kernel::vector::{Norm, add_and_norm, gelu};
use crate::infer::linear::{Linear, Part, Precision};
use crate::infer::weights::Weights;

use super::Shape;

pub struct Layer {
    isa: Isa,
    width: usize,
    inner_width: usize,
    n_heads: usize,
    query_key_value: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

/// Buffers of a thread while it computes part of a layer.
pub struct Room {
    attention: Attention,
    quantised: QuantisedRows,
    attended: Vec<f32>,
    added: Vec<f32>,
    inner: Vec<f32>,
}

/// Rows that go through the wide middle of a layer at once, so that they stay in the second cache.
const INNER_ROWS: usize = 96;

impl Room {
    pub fn new(isa: Isa) -> Self {
        Self {
            attention: Attention::new(isa),
            quantised: QuantisedRows::default(),
            attended: Vec::new(),
            added: Vec::new(),
            inner: Vec::new(),
        }
    }
}

impl Layer {
    pub fn load(isa: Isa, shape: &Shape, weights: &Weights, n: usize, precision: Precision) -> Result<Self, String> {
        let (width, inner_width, n_heads) = (shape.hidden_size, shape.intermediate_size, shape.num_attention_heads);
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
        let scale = 1.0 / ((width / n_heads) as f32).sqrt();
        let projections = vec![
            part("attention.self.query", width, width, scale)?,
            part("attention.self.key", width, width, 1.0)?,
            part("attention.self.value", width, width, 1.0)?,
        ];
        Ok(Self {
            isa,
            width,
            inner_width,
            n_heads,
            query_key_value: Linear::new(isa, precision, width, projections),
            attended: linear("attention.output.dense", width, width)?,
            attended_norm: norm("attention.output.LayerNorm")?,
            up: linear("intermediate.dense", width, inner_width)?,
            down: linear("output.dense", inner_width, width)?,
            down_norm: norm("output.LayerNorm")?,
        })
    }

    /// Query, key and value of every row.
    pub fn project(&self, hidden: &[f32], projected: &mut [f32], room: &mut Room) {
        self.query_key_value.forward(hidden, projected, 3 * self.width, &mut room.quantised);
    }

    /// The rows of `hidden`, of which the first is row `first` of all. `projected` and `spans` are of all rows.
    pub fn run(&self, spans: &[(usize, usize)], projected: &[f32], first: usize, hidden: &mut [f32], room: &mut Room) {
        let width = self.width;
        let end = first + hidden.len() / width;
        room.attended.resize(hidden.len(), 0.0);
        for &(start, stop) in spans {
            let (from, to) = (first.max(start), end.min(stop));
            if from < to {
                let text = &projected[start * 3 * width..stop * 3 * width];
                let out = &mut room.attended[(from - first) * width..(to - first) * width];
                room.attention.attend(text, width, self.n_heads, from - start..to - start, out);
            }
        }
        self.finish(hidden, room);
    }

    /// The first row of every text, one after the other, from all rows.
    pub fn run_first(&self, spans: &[(usize, usize)], hidden: &[f32], projected: &[f32], room: &mut Room) -> Vec<f32> {
        let width = self.width;
        let mut first = Vec::with_capacity(spans.len() * width);
        room.attended.resize(spans.len() * width, 0.0);
        for (&(start, stop), out) in spans.iter().zip(room.attended.chunks_exact_mut(width)) {
            let text = &projected[start * 3 * width..stop * 3 * width];
            room.attention.attend(text, width, self.n_heads, 0..1, out);
            first.extend_from_slice(&hidden[start * width..][..width]);
        }
        self.finish(&mut first, room);
        first
    }

    /// What follows attention, from `room.attended` and what entered the layer in `hidden`.
    fn finish(&self, hidden: &mut [f32], room: &mut Room) {
        let width = self.width;
        room.added.resize(hidden.len(), 0.0);
        self.attended.forward(&room.attended, &mut room.added, width, &mut room.quantised);
        self.add(hidden, &room.added, &self.attended_norm);
        for hidden in hidden.chunks_mut(INNER_ROWS * width) {
            room.inner.resize(hidden.len() / width * self.inner_width, 0.0);
            self.up.forward(hidden, &mut room.inner, self.inner_width, &mut room.quantised);
            gelu(self.isa, &mut room.inner);
            self.down.forward(&room.inner, &mut room.added, width, &mut room.quantised);
            self.add(hidden, &room.added, &self.down_norm);
        }
    }

    fn add(&self, hidden: &mut [f32], added: &[f32], norm: &Norm) {
        for (row, added) in hidden.chunks_exact_mut(self.width).zip(added.chunks_exact(self.width)) {
            add_and_norm(self.isa, row, added, norm);
        }
    }
}

pub fn norm(shape: &Shape, weights: &Weights, name: &str) -> Result<Norm, String> {
    Ok(Norm {
        weight: weights.vector(&format!("{name}.weight"), shape.hidden_size)?,
        bias: weights.vector(&format!("{name}.bias"), shape.hidden_size)?,
        eps: shape.layer_norm_eps as f32,
    })
}
