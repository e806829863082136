//! Every path against sums in f64, on shapes that leave rests everywhere.

use super::int8::{Int8Weights, PackedI8, QuantisedRows};
use super::matmul_f32::PackedF32;
use super::vector::{Norm, add_and_norm, gelu, quantise, scale, softmax};
use super::{Isa, blocks};

/// Reproducible values in ±1.
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state >> 8) / f64::from(1 << 23) - 1.0) as f32
    };
    (0..n).map(|_| next()).collect()
}

/// Rows, inputs, outputs.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 8, 16),
    (3, 5, 7),
    (12, 32, 32),
    (13, 33, 31),
    (25, 48, 65),
    (7, 130, 50),
    (0, 4, 4),
    (38, 384, 40),
];

fn product(rows: &[f32], weights: &[f32], bias: &[f32], n_in: usize) -> Vec<f64> {
    let dot =
        |row: &[f32], weights: &[f32]| row.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let of_row = |row| weights.chunks(n_in).zip(bias).map(move |(weights, bias)| dot(row, weights) + f64::from(*bias));
    rows.chunks(n_in).flat_map(of_row).collect()
}

fn greatest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn blocks_cover_all_rows_once_and_none_is_empty() {
    for (n, most) in [(0, 12), (1, 12), (12, 12), (13, 12), (20, 12), (127, 6), (128, 5)] {
        let mut next = 0;
        for (first, rows) in blocks(n, most) {
            assert_eq!(first, next);
            assert!(rows > 0 && rows <= most);
            next = first + rows;
        }
        assert_eq!(next, n);
    }
}

#[test]
fn products_in_f32_are_right_on_every_path() {
    for isa in Isa::all() {
        for (n_rows, n_in, n_out) in SHAPES {
            let (rows, weights, bias) = (values(n_rows * n_in, 1), values(n_out * n_in, 2), values(n_out, 3));
            let expected = product(&rows, &weights, &bias, n_in);
            let packed = PackedF32::from_weights(isa, &weights, n_out, n_in, &bias);
            let mut out = vec![f32::NAN; n_rows * n_out];
            packed.multiply(&rows, n_in, n_rows, &mut out, n_out);
            let difference = greatest_difference(&out, &expected);
            assert!(difference < 1e-4, "{} {n_rows}x{n_in}x{n_out}: {difference}", isa.name());
        }
    }
}

#[test]
fn a_matrix_may_lie_either_way_and_in_wider_rows_and_nothing_beside_it_is_touched() {
    for isa in Isa::all() {
        for (n_rows, n_in, n_out) in SHAPES {
            let (stride, out_stride) = (n_in.max(n_out) + 3, n_out + 2);
            let rows = values(n_rows * stride, 4);
            let (by_output, by_input) = (values(n_out * stride, 5), values(n_in * stride, 6));
            let tight = |matrix: &[f32], n: usize| -> Vec<f32> {
                matrix.chunks(stride).flat_map(|row| row[..n].to_vec()).collect()
            };
            let own_rows = tight(&rows, n_in);
            let turned: Vec<f32> = (0..n_out)
                .flat_map(|output| by_input.chunks(stride).map(move |row| row[output]).collect::<Vec<_>>())
                .collect();
            let mut packed = PackedF32::new(isa);
            for (weights, is_by_output) in [(tight(&by_output, n_in), true), (turned, false)] {
                if is_by_output {
                    packed.pack_outputs(&by_output, stride, n_out, n_in);
                } else {
                    packed.pack_inputs(&by_input, stride, n_out, n_in);
                }
                let expected = product(&own_rows, &weights, &vec![0.0; n_out], n_in);
                let mut out = vec![7.0; n_rows * out_stride];
                packed.multiply(&rows, stride, n_rows, &mut out, out_stride);
                let found = out.chunks(out_stride).flat_map(|row| row[..n_out].to_vec()).collect::<Vec<_>>();
                assert!(greatest_difference(&found, &expected) < 1e-4, "{} {n_rows}x{n_in}x{n_out}", isa.name());
                assert!(out.chunks(out_stride).all(|row| row[n_out..] == [7.0, 7.0]), "{}", isa.name());
                let n_padded = packed.n_padded();
                let mut padded = vec![7.0; n_rows * n_padded];
                packed.multiply_padded(&rows, stride, n_rows, &mut padded, n_padded);
                assert!(padded.chunks(n_padded).zip(found.chunks(n_out)).all(|(padded, found)| {
                    padded[..n_out] == *found && padded[n_out..].iter().all(|value| *value == 0.0)
                }));
            }
        }
    }
}

#[test]
fn products_in_int8_are_near_on_every_path_and_the_same_on_all() {
    for (n_rows, n_in, n_out) in SHAPES {
        let (rows, weights, bias) = (values(n_rows * n_in, 1), values(n_out * n_in, 2), values(n_out, 3));
        let expected = product(&rows, &weights, &bias, n_in);
        let quantised = Int8Weights::quantise(&weights, n_in);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::all() {
            let packed = PackedI8::from_weights(isa, &quantised, n_out, n_in, &bias);
            let mut out = vec![f32::NAN; n_rows * n_out];
            packed.multiply(&rows, &mut QuantisedRows::default(), &mut out, n_out);
            let difference = greatest_difference(&out, &expected);
            // Half a step of 1/127 and of 2/255 per product, adding up like a random walk.
            let tolerance = 0.02 * (n_in as f64).sqrt();
            assert!(difference < tolerance, "{} {n_rows}x{n_in}x{n_out}: {difference}", isa.name());
            let first = first.get_or_insert_with(|| out.clone());
            let apart = first.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "{} {n_rows}x{n_in}x{n_out}: {apart}", isa.name());
        }
    }
}

#[test]
fn int8_is_exact_at_its_ends_where_sixteen_bits_would_overflow() {
    let n_in = 64;
    for (row, weight) in [(1.0f32, 1.0f32), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
        let quantised = Int8Weights::quantise(&vec![weight; n_in], n_in);
        for isa in Isa::all() {
            let packed = PackedI8::from_weights(isa, &quantised, 1, n_in, &[0.5]);
            let mut out = [0.0];
            packed.multiply(&vec![row; n_in], &mut QuantisedRows::default(), &mut out, 1);
            let expected = row * weight * n_in as f32 + 0.5;
            assert!((out[0] - expected).abs() < 1e-3, "{} {row} {weight}: {}", isa.name(), out[0]);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let (n_rows, n_in, n_out) = (29, 70, 45);
    let (rows, weights, bias) = (values(n_rows * n_in, 7), values(n_out * n_in, 8), values(n_out, 9));
    for isa in Isa::all() {
        let f32s = PackedF32::from_weights(isa, &weights, n_out, n_in, &bias);
        let int8s = PackedI8::from_weights(isa, &Int8Weights::quantise(&weights, n_in), n_out, n_in, &bias);
        let (mut together, mut alone) = (vec![0.0; n_rows * n_out], vec![0.0; n_out]);
        let mut room = QuantisedRows::default();
        f32s.multiply(&rows, n_in, n_rows, &mut together, n_out);
        for (row, expected) in rows.chunks(n_in).zip(together.chunks(n_out)) {
            f32s.multiply(row, n_in, 1, &mut alone, n_out);
            assert_eq!(alone, expected, "{}", isa.name());
        }
        int8s.multiply(&rows, &mut room, &mut together, n_out);
        for (row, expected) in rows.chunks(n_in).zip(together.chunks(n_out)) {
            int8s.multiply(row, &mut room, &mut alone, n_out);
            assert_eq!(alone, expected, "{}", isa.name());
        }
    }
}

#[test]
fn stored_int8_weights_read_as_what_was_stored() {
    let weights = values(40, 10);
    let quantised = Int8Weights::quantise(&weights, 8);
    assert_eq!((quantised.values.len(), quantised.scales.len()), (40, 5));
    for (row, (weights, read)) in weights.chunks(8).zip(quantised.dequantise(8).chunks(8)).enumerate() {
        for (weight, read) in weights.iter().zip(read) {
            assert!((weight - read).abs() <= quantised.scales[row] * 0.5001);
        }
    }
    assert!(Int8Weights::quantise(&[0.0; 4], 2).dequantise(2).iter().all(|weight| *weight == 0.0));
}

/// By its series, which converges everywhere below 5.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.5 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn gelu_is_that_of_erf() {
    let inputs: Vec<f32> = (-12_000..=12_000).map(|n| n as f32 / 1000.0).chain([-1e9, 1e9, 0.0]).collect();
    for isa in Isa::all() {
        let mut outputs = inputs.clone();
        gelu(isa, &mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x) * 0.5 * (1.0 + erf(f64::from(*x) / std::f64::consts::SQRT_2));
            let tolerance = 1.5e-6f64.max(exact.abs() * 2e-7).max(if *x < -5.5 { f64::from(-*x) * 1e-7 } else { 0.0 });
            assert!((f64::from(*y) - exact).abs() < tolerance, "{} gelu({x}) = {y}, not {exact}", isa.name());
        }
    }
}

#[test]
fn softmax_is_that_of_f64() {
    for isa in Isa::all() {
        for n in [1, 2, 15, 16, 17, 40, 130] {
            let mut row: Vec<f32> = values(n, 11).iter().map(|value| value * 30.0).collect();
            let greatest = row.iter().copied().fold(f32::MIN, f32::max);
            let exact: Vec<f64> = row.iter().map(|value| (f64::from(*value) - f64::from(greatest)).exp()).collect();
            let sum: f64 = exact.iter().sum();
            let factor = softmax(isa, &mut row);
            scale(isa, &mut row, factor);
            let exact: Vec<f64> = exact.iter().map(|value| value / sum).collect();
            assert!(greatest_difference(&row, &exact) < 1e-6, "{} {n}", isa.name());
        }
        let mut hidden = [0.0, f32::MIN, f32::MIN];
        assert_eq!(softmax(isa, &mut hidden), 1.0);
        assert!(hidden[1] < 1e-37 && hidden[2] < 1e-37);
    }
}

#[test]
fn norm_is_that_of_f64() {
    for isa in Isa::all() {
        for n in [1, 8, 16, 33, 384] {
            let (mut row, added) = (values(n, 12), values(n, 13));
            let norm = Norm { weight: values(n, 14), bias: values(n, 15), eps: 1e-3 };
            let sums: Vec<f64> = row.iter().zip(&added).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
            let mean = sums.iter().sum::<f64>() / n as f64;
            let variance = sums.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n as f64;
            let scaled = sums.iter().map(|value| (value - mean) / (variance + 1e-3).sqrt());
            let learned = norm.weight.iter().zip(&norm.bias);
            let exact: Vec<f64> =
                scaled.zip(learned).map(|(value, (w, b))| value * f64::from(*w) + f64::from(*b)).collect();
            add_and_norm(isa, &mut row, &added, &norm);
            assert!(greatest_difference(&row, &exact) < 1e-5, "{} {n}", isa.name());
        }
    }
}

#[test]
fn rows_are_quantised_to_within_a_step_whatever_they_hold() {
    let rows = [values(50, 16), vec![0.0; 50], vec![1e-30; 50], values(50, 17).iter().map(|v| v + 5.0).collect()];
    for isa in Isa::all() {
        for row in &rows {
            let mut quantised = vec![0i8; row.len()];
            let scale = quantise(isa, row, &mut quantised);
            assert_eq!(scale.sum, quantised.iter().map(|value| i32::from(*value)).sum::<i32>());
            for (value, quantised) in row.iter().zip(&quantised) {
                let read = scale.scale * (i32::from(*quantised) - scale.zero) as f32;
                assert!((value - read).abs() <= scale.scale * 1.01, "{} {value} {read}", isa.name());
            }
        }
    }
}

#[test]
fn what_is_not_a_number_passes_through_without_a_panic() {
    for isa in Isa::all() {
        let mut row = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        gelu(isa, &mut row);
        quantise(isa, &row, &mut [0; 5]);
        softmax(isa, &mut row);
    }
}
