//! Matrix products in int8: rows quantised as they come, by weights quantised at load. The sums are whole numbers and the
//! same on every path; only the last step to f32 rounds.
//!
//! With a weight `w = scale[column] * w8` and an activation `a = scale[row] * (a8 - zero[row])`
//!
//! ```text
//! Σ a w = scale[row] * scale[column] * (Σ a8 w8 - zero[row] * Σ w8)
//! ```
//!
//! VNNI multiplies unsigned by signed bytes: its weights are stored as `w8 + 128`, which adds `128 * Σ a8` to the sum.

use super::vector::{RowScale, quantise};
#[cfg(target_arch = "x86_64")]
use super::with_rows;
use super::{Isa, Level, blocks};

/// Eight-bit weights of a linear layer, a row of `n_in` per output, and what to multiply each output with.
pub struct Int8Weights {
    pub values: Vec<i8>,
    pub scales: Vec<f32>,
}

impl Int8Weights {
    /// Rounds every output's weights to ±127 steps of its own.
    pub fn quantise(weights: &[f32], n_in: usize) -> Self {
        let mut quantised = Self { values: Vec::with_capacity(weights.len()), scales: Vec::new() };
        for row in weights.chunks(n_in.max(1)) {
            let greatest = row.iter().fold(0.0f32, |greatest, weight| greatest.max(weight.abs()));
            let scale = (greatest / 127.0).max(f32::MIN_POSITIVE);
            quantised.scales.push(scale);
            quantised.values.extend(row.iter().map(|weight| (weight / scale).round_ties_even() as i8));
        }
        quantised
    }

    pub fn dequantise(&self, n_in: usize) -> Vec<f32> {
        let rows = self.values.chunks(n_in.max(1)).zip(&self.scales);
        rows.flat_map(|(row, scale)| row.iter().map(move |value| f32::from(*value) * scale)).collect()
    }
}

/// The weights in the order in which the tiles read them: panel by panel of [`Shape::columns`] outputs, in a panel
/// [`Shape::group`] inputs of every output beside each other.
pub struct PackedI8 {
    isa: Isa,
    n_in: usize,
    n_out: usize,
    panels: Vec<i8>,
    /// Per output, padded like the panels.
    columns: Columns,
}

struct Columns {
    scales: Vec<f32>,
    /// Of the eight-bit weights.
    sums: Vec<i32>,
    bias: Vec<f32>,
}

/// Rows quantised one by one.
#[derive(Default)]
pub struct QuantisedRows {
    /// Padded with 0 to `stride`.
    values: Vec<i8>,
    /// The same in 16 bits, where the path multiplies those.
    wide: Vec<i16>,
    scales: Vec<RowScale>,
    stride: usize,
}

/// Size of the tile of results that stays in registers, and inputs that are multiplied at once.
struct Shape {
    rows: usize,
    columns: usize,
    group: usize,
}

const MOST_ROWS: usize = 12;
const MOST_COLUMNS: usize = 32;

/// Rows of activations are padded to a multiple of this, which is one of every path's `group`.
const PADDING: usize = 4;

impl Shape {
    fn of(isa: Isa, n_in: usize) -> Self {
        match isa.0 {
            Level::Portable => Self { rows: 4, columns: 4, group: n_in.next_multiple_of(PADDING) },
            Level::Avx2 | Level::Avx512 => Self { rows: 5, columns: 16, group: 2 },
            Level::Avx512Vnni => Self { rows: 12, columns: 32, group: 4 },
        }
    }
}

/// One tile: the first `m` of `rows` by one panel.
struct Tile<'a> {
    m: usize,
    stride: usize,
    values: &'a [i8],
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "read by the path of AVX2"))]
    wide: &'a [i16],
    scales: &'a [RowScale],
    panel: &'a [i8],
    column_scales: &'a [f32],
    column_sums: &'a [i32],
    bias: &'a [f32],
}

impl QuantisedRows {
    /// Takes `n_rows` rows of `n_in` values that lie one after the other.
    fn fill(&mut self, isa: Isa, rows: &[f32], n_in: usize) {
        self.stride = n_in.next_multiple_of(PADDING);
        let n_rows = rows.len() / n_in.max(1);
        self.values.resize(n_rows * self.stride, 0);
        self.scales.clear();
        for (row, quantised) in rows.chunks_exact(n_in).zip(self.values.chunks_exact_mut(self.stride)) {
            self.scales.push(quantise(isa, row, &mut quantised[..n_in]));
            quantised[n_in..].fill(0);
        }
        self.wide.clear();
        if matches!(isa.0, Level::Avx2 | Level::Avx512) {
            self.wide.extend(self.values.iter().map(|value| i16::from(*value)));
        }
    }
}

impl PackedI8 {
    pub fn from_weights(isa: Isa, weights: &Int8Weights, n_out: usize, n_in: usize, bias: &[f32]) -> Self {
        let Shape { columns: width, group, .. } = Shape::of(isa, n_in);
        let (n_in_padded, n_padded) = (n_in.next_multiple_of(PADDING), n_out.next_multiple_of(width));
        let offset = if isa.0 == Level::Avx512Vnni { i8::MIN } else { 0 };
        let mut panels = vec![0; n_padded * n_in_padded];
        let mut columns = Columns { scales: vec![0.0; n_padded], sums: vec![0; n_padded], bias: vec![0.0; n_padded] };
        columns.scales[..n_out].copy_from_slice(&weights.scales[..n_out]);
        columns.bias[..n_out].copy_from_slice(&bias[..n_out]);
        for (output, row) in weights.values.chunks_exact(n_in).take(n_out).enumerate() {
            columns.sums[output] = row.iter().map(|value| i32::from(*value)).sum();
            let panel = &mut panels[output / width * width * n_in_padded..];
            for (input, value) in row.iter().enumerate() {
                let place = (input / group * width + output % width) * group + input % group;
                panel[place] = value.wrapping_add(offset);
            }
        }
        Self { isa, n_in, n_out, panels, columns }
    }

    /// `out = rows · weightsᵀ + bias`. Rows lie one after the other, those of `out` begin `out_stride` apart; `quantised` is
    /// room for the rows in eight bits.
    pub fn multiply(&self, rows: &[f32], quantised: &mut QuantisedRows, out: &mut [f32], out_stride: usize) {
        quantised.fill(self.isa, rows, self.n_in);
        self.multiply_quantised(quantised, out, out_stride);
    }

    fn multiply_quantised(&self, rows: &QuantisedRows, out: &mut [f32], out_stride: usize) {
        let Shape { rows: most, columns: width, .. } = Shape::of(self.isa, self.n_in);
        let stride = self.n_in.next_multiple_of(PADDING);
        assert!(rows.stride == stride && out_stride >= self.n_out, "rows are not of the matrix's width");
        for (panel, weights) in self.panels.chunks_exact(width * stride).enumerate() {
            let columns = panel * width..(panel + 1) * width;
            let n_columns = width.min(self.n_out - columns.start);
            for (first, m) in blocks(rows.scales.len(), most) {
                let tile = Tile {
                    m,
                    stride,
                    values: &rows.values[first * stride..],
                    wide: rows.wide.get(first * stride..).unwrap_or_default(),
                    scales: &rows.scales[first..],
                    panel: weights,
                    column_scales: &self.columns.scales[columns.clone()],
                    column_sums: &self.columns.sums[columns.clone()],
                    bias: &self.columns.bias[columns.clone()],
                };
                let out = &mut out[first * out_stride + columns.start..];
                if n_columns == width {
                    tile.run(self.isa, out, out_stride);
                    continue;
                }
                let mut whole = [0.0; MOST_ROWS * MOST_COLUMNS];
                tile.run(self.isa, &mut whole, width);
                for (row, whole) in out.chunks_mut(out_stride).take(m).zip(whole.chunks(width)) {
                    row[..n_columns].copy_from_slice(&whole[..n_columns]);
                }
            }
        }
    }
}

impl Tile<'_> {
    #[inline]
    fn run(&self, isa: Isa, out: &mut [f32], out_stride: usize) {
        let Shape { rows, columns, .. } = Shape::of(isa, self.stride);
        // What the tiles below rely on.
        assert!(self.m > 0 && self.m <= rows && self.scales.len() >= self.m && self.stride.is_multiple_of(PADDING));
        assert!(self.values.len() >= self.m * self.stride && self.panel.len() == self.stride * columns);
        assert!(out.len() >= (self.m - 1) * out_stride + columns);
        let per_column = [self.column_scales.len(), self.column_sums.len(), self.bias.len()];
        assert!(per_column == [columns; 3]);
        match isa.0 {
            Level::Portable => self.portable(out, out_stride),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => {
                assert!(self.wide.len() >= self.m * self.stride);
                #[expect(unsafe_code, reason = "compiled for instructions that the processor was asked for")]
                // SAFETY: an `Isa` exists only where the processor has its instructions; bounds are asserted above.
                unsafe {
                    with_rows!(self.m, [1 2 3 4 5], avx2(self, out, out_stride));
                }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => {
                #[expect(unsafe_code, reason = "compiled for instructions that the processor was asked for")]
                // SAFETY: an `Isa` exists only where the processor has its instructions; bounds are asserted above.
                unsafe {
                    with_rows!(self.m, [1 2 3 4 5 6 7 8 9 10 11 12], vnni(self, out, out_stride));
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.portable(out, out_stride),
        }
    }

    fn portable(&self, out: &mut [f32], out_stride: usize) {
        let rows = self.values.chunks_exact(self.stride).zip(self.scales).take(self.m);
        for ((row, row_scale), out) in rows.zip(out.chunks_mut(out_stride)) {
            for (column, weights) in self.panel.chunks_exact(self.stride).enumerate() {
                let products = row.iter().zip(weights).map(|(a, b)| i32::from(*a) * i32::from(*b));
                let sum = products.sum::<i32>() - row_scale.zero * self.column_sums[column];
                let scale = row_scale.scale * self.column_scales[column];
                #[expect(clippy::cast_precision_loss, reason = "rounding to f32 is the point")]
                let value = sum as f32 * scale + self.bias[column];
                out[column] = value;
            }
        }
    }
}

/// # Safety
/// `tile` has `M` rows of `stride` values in `wide`, a panel of 16 columns, and `out` has room for `M` rows of 16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "loads and stores through pointers; checked once per tile by the caller")]
unsafe fn avx2<const M: usize>(tile: &Tile<'_>, out: &mut [f32], out_stride: usize) {
    use std::arch::x86_64::*;
    let (rows, panel) = (tile.wide.as_ptr(), tile.panel.as_ptr());
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for pair in 0..tile.stride / 2 {
        // SAFETY: a pair of inputs of 16 columns is 32 bytes of the panel; each row has both inputs.
        unsafe {
            let load = |half: usize| _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.add(pair * 32 + half * 16).cast()));
            let weights = [load(0), load(1)];
            for (row, sums) in sums.iter_mut().enumerate() {
                let values = rows.add(row * tile.stride + pair * 2).cast::<i32>().read_unaligned();
                let values = _mm256_set1_epi32(values);
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(values, weights[0]));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(values, weights[1]));
            }
        }
    }
    let out = out.as_mut_ptr();
    for (row, (sums, row_scale)) in sums.iter().zip(tile.scales).enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: what belongs to columns has 16 of them, and so has every row of `out`.
            unsafe {
                let of_columns = _mm256_loadu_si256(tile.column_sums.as_ptr().add(half * 8).cast());
                let sum = _mm256_sub_epi32(*sum, _mm256_mullo_epi32(of_columns, _mm256_set1_epi32(row_scale.zero)));
                let scales = _mm256_loadu_ps(tile.column_scales.as_ptr().add(half * 8));
                let scales = _mm256_mul_ps(scales, _mm256_set1_ps(row_scale.scale));
                let bias = _mm256_loadu_ps(tile.bias.as_ptr().add(half * 8));
                let value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scales, bias);
                _mm256_storeu_ps(out.add(row * out_stride + half * 8), value);
            }
        }
    }
}

/// # Safety
/// `tile` has `M` rows of `stride` values, a panel of 32 columns, and `out` has room for `M` rows of 32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[expect(unsafe_code, reason = "loads and stores through pointers; checked once per tile by the caller")]
unsafe fn vnni<const M: usize>(tile: &Tile<'_>, out: &mut [f32], out_stride: usize) {
    use std::arch::x86_64::*;
    let (rows, panel) = (tile.values.as_ptr(), tile.panel.as_ptr());
    let mut sums = [[_mm512_setzero_si512(); 2]; M];
    for four in 0..tile.stride / 4 {
        // SAFETY: four inputs of 32 columns are 128 bytes of the panel; each row has all four.
        unsafe {
            let load = |half: usize| _mm512_loadu_si512(panel.add(four * 128 + half * 64).cast());
            let weights = [load(0), load(1)];
            for (row, sums) in sums.iter_mut().enumerate() {
                let values = rows.add(row * tile.stride + four * 4).cast::<i32>().read_unaligned();
                let values = _mm512_set1_epi32(values);
                sums[0] = _mm512_dpbusd_epi32(sums[0], weights[0], values);
                sums[1] = _mm512_dpbusd_epi32(sums[1], weights[1], values);
            }
        }
    }
    let out = out.as_mut_ptr();
    for (row, (sums, row_scale)) in sums.iter().zip(tile.scales).enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: what belongs to columns has 32 of them, and so has every row of `out`.
            unsafe {
                let of_columns = _mm512_loadu_si512(tile.column_sums.as_ptr().add(half * 16).cast());
                let excess = _mm512_mullo_epi32(of_columns, _mm512_set1_epi32(row_scale.zero));
                let excess = _mm512_add_epi32(excess, _mm512_set1_epi32(128 * row_scale.sum));
                let scales = _mm512_loadu_ps(tile.column_scales.as_ptr().add(half * 16));
                let scales = _mm512_mul_ps(scales, _mm512_set1_ps(row_scale.scale));
                let bias = _mm512_loadu_ps(tile.bias.as_ptr().add(half * 16));
                let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(*sum, excess)), scales, bias);
                _mm512_storeu_ps(out.add(row * out_stride + half * 16), value);
            }
        }
    }
}
