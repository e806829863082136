//! Matrix products in f32: many rows by a matrix that is laid out beforehand in panels of as many columns as the registers
//! of a tile hold. Weights are packed once at load; attention packs its keys and values per text.

#[cfg(target_arch = "x86_64")]
use super::with_rows;
use super::{Isa, Level, blocks};

/// A matrix laid out for products with rows: panel by panel of [`Shape::columns`] outputs, in a panel input by input.
pub struct PackedF32 {
    isa: Isa,
    n_in: usize,
    n_out: usize,
    panels: Vec<f32>,
    /// Padded like the panels.
    bias: Vec<f32>,
}

/// Size of the tile of results that stays in registers.
struct Shape {
    rows: usize,
    columns: usize,
}

const MOST_ROWS: usize = 12;
const MOST_COLUMNS: usize = 32;

impl Shape {
    fn of(isa: Isa) -> Self {
        match isa.0 {
            Level::Portable => Self { rows: 4, columns: 8 },
            Level::Avx2 => Self { rows: 6, columns: 16 },
            Level::Avx512 | Level::Avx512Vnni => Self { rows: 12, columns: 32 },
        }
    }
}

/// One tile: `m` rows of `rows` by one panel.
struct Tile<'a> {
    m: usize,
    rows: &'a [f32],
    row_stride: usize,
    n_in: usize,
    panel: &'a [f32],
    bias: &'a [f32],
}

impl PackedF32 {
    /// Empty; [`Self::pack_outputs`] or [`Self::pack_inputs`] fills it.
    pub fn new(isa: Isa) -> Self {
        Self { isa, n_in: 0, n_out: 0, panels: Vec::new(), bias: Vec::new() }
    }

    /// `weights` of a linear layer, `n_out` rows of `n_in`, with its bias.
    pub fn from_weights(isa: Isa, weights: &[f32], n_out: usize, n_in: usize, bias: &[f32]) -> Self {
        let mut packed = Self::new(isa);
        packed.pack_outputs(weights, n_in, n_out, n_in);
        packed.bias[..n_out].copy_from_slice(&bias[..n_out]);
        packed
    }

    /// From a matrix with a row of `n_in` values per output, `stride` apart. The bias becomes 0.
    pub fn pack_outputs(&mut self, matrix: &[f32], stride: usize, n_out: usize, n_in: usize) {
        let width = self.prepare(n_out, n_in);
        for (output, row) in matrix.chunks(stride).take(n_out).enumerate() {
            let first = output / width * width * n_in + output % width;
            for (place, value) in self.panels[first..].iter_mut().step_by(width).zip(&row[..n_in]) {
                *place = *value;
            }
        }
    }

    /// From a matrix with a row of `n_out` values per input, `stride` apart. The bias becomes 0.
    pub fn pack_inputs(&mut self, matrix: &[f32], stride: usize, n_out: usize, n_in: usize) {
        let width = self.prepare(n_out, n_in);
        for (input, row) in matrix.chunks(stride).take(n_in).enumerate() {
            for (panel, values) in row[..n_out].chunks(width).enumerate() {
                let first = (panel * n_in + input) * width;
                self.panels[first..first + values.len()].copy_from_slice(values);
            }
        }
    }

    /// Makes room; returns the width of a panel. What is padding is 0 afterwards, the rest is to be overwritten.
    fn prepare(&mut self, n_out: usize, n_in: usize) -> usize {
        let width = Shape::of(self.isa).columns;
        let n_padded = n_out.next_multiple_of(width);
        (self.n_in, self.n_out) = (n_in, n_out);
        self.panels.resize(n_padded * n_in, 0.0);
        let n_whole = n_out / width * width * n_in;
        self.panels[n_whole..].fill(0.0);
        self.bias.clear();
        self.bias.resize(n_padded, 0.0);
        width
    }

    /// Outputs with what pads them to whole panels.
    pub fn n_padded(&self) -> usize {
        self.n_out.next_multiple_of(Shape::of(self.isa).columns)
    }

    /// `out = rows · matrixᵀ + bias` for `n_rows` rows that begin `row_stride` and `out_stride` apart.
    pub fn multiply(&self, rows: &[f32], row_stride: usize, n_rows: usize, out: &mut [f32], out_stride: usize) {
        self.run(rows, row_stride, n_rows, out, out_stride, self.n_out);
    }

    /// The same with results for the padding too (0), so that every tile is written whole.
    pub fn multiply_padded(&self, rows: &[f32], row_stride: usize, n_rows: usize, out: &mut [f32], out_stride: usize) {
        self.run(rows, row_stride, n_rows, out, out_stride, self.n_padded());
    }

    fn run(&self, rows: &[f32], row_stride: usize, n_rows: usize, out: &mut [f32], out_stride: usize, n_out: usize) {
        let Shape { rows: most, columns: width } = Shape::of(self.isa);
        assert!(row_stride >= self.n_in && out_stride >= n_out, "rows must not overlap");
        for panel in 0..n_out.div_ceil(width) {
            let columns = panel * width..((panel + 1) * width).min(n_out);
            let weights = &self.panels[panel * width * self.n_in..(panel + 1) * width * self.n_in];
            let bias = &self.bias[panel * width..(panel + 1) * width];
            for (first, m) in blocks(n_rows, most) {
                let rows = &rows[first * row_stride..];
                let tile = Tile { m, rows, row_stride, n_in: self.n_in, panel: weights, bias };
                let out = &mut out[first * out_stride + columns.start..];
                if columns.len() == width {
                    tile.run(self.isa, out, out_stride);
                    continue;
                }
                let mut whole = [0.0; MOST_ROWS * MOST_COLUMNS];
                tile.run(self.isa, &mut whole, width);
                for (row, whole) in out.chunks_mut(out_stride).take(m).zip(whole.chunks(width)) {
                    row[..columns.len()].copy_from_slice(&whole[..columns.len()]);
                }
            }
        }
    }
}

impl Tile<'_> {
    #[inline]
    fn run(&self, isa: Isa, out: &mut [f32], out_stride: usize) {
        let Shape { rows, columns } = Shape::of(isa);
        // What the tiles below rely on.
        assert!(self.m > 0 && self.m <= rows && self.rows.len() >= (self.m - 1) * self.row_stride + self.n_in);
        assert!(self.panel.len() == self.n_in * columns && self.bias.len() == columns);
        assert!(out.len() >= (self.m - 1) * out_stride + columns);
        match isa.0 {
            Level::Portable => self.portable(out, out_stride),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                #[expect(unsafe_code, reason = "compiled for instructions that the processor was asked for")]
                // SAFETY: an `Isa` exists only where the processor has its instructions; bounds are asserted above.
                unsafe {
                    with_rows!(self.m, [1 2 3 4 5 6], avx2(self, out, out_stride));
                }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => {
                #[expect(unsafe_code, reason = "compiled for instructions that the processor was asked for")]
                // SAFETY: an `Isa` exists only where the processor has its instructions; bounds are asserted above.
                unsafe {
                    with_rows!(self.m, [1 2 3 4 5 6 7 8 9 10 11 12], avx512(self, out, out_stride));
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.portable(out, out_stride),
        }
    }

    fn portable(&self, out: &mut [f32], out_stride: usize) {
        const WIDTH: usize = 8;
        let mut sums = [[0.0f32; WIDTH]; 4];
        let (inputs, _) = self.panel.as_chunks::<WIDTH>();
        for (input, weights) in inputs.iter().enumerate() {
            for (sums, row) in sums.iter_mut().zip(self.rows.chunks(self.row_stride)).take(self.m) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += row[input] * weight;
                }
            }
        }
        for (out, sums) in out.chunks_mut(out_stride).zip(sums).take(self.m) {
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(self.bias) {
                *out = sum + bias;
            }
        }
    }
}

/// # Safety
/// `tile.rows` has `M` rows of `n_in` values `row_stride` apart, `out` room for `M` rows of 16, `panel` and `bias` are of
/// 16 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "loads and stores through pointers; checked once per tile by the caller")]
unsafe fn avx2<const M: usize>(tile: &Tile<'_>, out: &mut [f32], out_stride: usize) {
    use std::arch::x86_64::*;
    let (rows, panel, bias) = (tile.rows.as_ptr(), tile.panel.as_ptr(), tile.bias.as_ptr());
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for input in 0..tile.n_in {
        // SAFETY: within `panel`, and row `row` is within `rows`; see above.
        unsafe {
            let weights = [_mm256_loadu_ps(panel.add(input * 16)), _mm256_loadu_ps(panel.add(input * 16 + 8))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*rows.add(row * tile.row_stride + input));
                sums[0] = _mm256_fmadd_ps(value, weights[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(value, weights[1], sums[1]);
            }
        }
    }
    let out = out.as_mut_ptr();
    for (row, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: `out` has room for 16 columns in each of `M` rows.
            unsafe {
                let sum = _mm256_add_ps(*sum, _mm256_loadu_ps(bias.add(half * 8)));
                _mm256_storeu_ps(out.add(row * out_stride + half * 8), sum);
            }
        }
    }
}

/// # Safety
/// `tile.rows` has `M` rows of `n_in` values `row_stride` apart, `out` room for `M` rows of 32, `panel` and `bias` are of
/// 32 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "loads and stores through pointers; checked once per tile by the caller")]
unsafe fn avx512<const M: usize>(tile: &Tile<'_>, out: &mut [f32], out_stride: usize) {
    use std::arch::x86_64::*;
    let (rows, panel, bias) = (tile.rows.as_ptr(), tile.panel.as_ptr(), tile.bias.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for input in 0..tile.n_in {
        // SAFETY: within `panel`, and row `row` is within `rows`; see above.
        unsafe {
            let weights = [_mm512_loadu_ps(panel.add(input * 32)), _mm512_loadu_ps(panel.add(input * 32 + 16))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*rows.add(row * tile.row_stride + input));
                sums[0] = _mm512_fmadd_ps(value, weights[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(value, weights[1], sums[1]);
            }
        }
    }
    let out = out.as_mut_ptr();
    for (row, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: `out` has room for 32 columns in each of `M` rows.
            unsafe {
                let sum = _mm512_add_ps(*sum, _mm512_loadu_ps(bias.add(half * 16)));
                _mm512_storeu_ps(out.add(row * out_stride + half * 16), sum);
            }
        }
    }
}
