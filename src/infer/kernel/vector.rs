//! What lies between the matrix products, row by row: layer norm, GELU, softmax, quantisation of activations. Written as
//! plain loops that the compiler vectorises, once per instruction set; no intrinsics here.

use super::{Isa, Level};

/// Sums and maxima are kept in so many lanes, one 512-bit register, and folded at the end: in the same order everywhere.
const LANES: usize = 16;

/// Defines a function that runs `$body` compiled for the instruction set it is given.
macro_rules! for_each_isa {
    ($(#[$attribute:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $output:ty)? = $body:ident) => {
        $(#[$attribute])*
        pub fn $name(isa: Isa, $($argument: $type),*) $(-> $output)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($argument: $type),*) $(-> $output)? {
                    $body::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $output)? {
                    $body::<true>($($argument),*)
                }
                #[expect(unsafe_code, reason = "functions compiled for detected instructions can be called no other way")]
                // SAFETY: an `Isa` exists only where the processor has its instructions.
                return unsafe {
                    match isa.0 {
                        Level::Avx512 | Level::Avx512Vnni => avx512($($argument),*),
                        Level::Avx2 => avx2($($argument),*),
                        Level::Portable => $body::<HAS_FMA>($($argument),*),
                    }
                };
            }
            #[cfg(not(target_arch = "x86_64"))]
            match isa.0 {
                _ => $body::<HAS_FMA>($($argument),*),
            }
        }
    };
}

/// Whether the portable path multiplies and adds in one instruction. Where it has none, `mul_add` is a slow function.
const HAS_FMA: bool = cfg!(target_arch = "aarch64");

for_each_isa! {
    /// `x Φ(x)`, with Φ the normal distribution: GELU by erf, to 1e-6.
    gelu(values: &mut [f32]) = gelu_body
}

for_each_isa! {
    /// `values` of a row become `exp(value - maximum)`; returns 1 / their sum, which the caller multiplies in where it is
    /// cheapest.
    softmax(values: &mut [f32]) -> f32 = softmax_body
}

for_each_isa! {
    /// Layer norm of `row + added`, written to `row`.
    add_and_norm(row: &mut [f32], added: &[f32], norm: &Norm) = add_and_norm_body
}

for_each_isa! {
    /// Rounds a row to eight bits; see [`RowScale`].
    quantise(row: &[f32], quantised: &mut [i8]) -> RowScale = quantise_body
}

for_each_isa! {
    scale(row: &mut [f32], factor: f32) = scale_body
}

/// Learned scale and shift of a layer norm.
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub eps: f32,
}

/// How a quantised row is read: `value = scale * (quantised - zero)`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowScale {
    pub scale: f32,
    pub zero: i32,
    /// Sum of the quantised values.
    pub sum: i32,
}

#[inline(always)]
fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// One instruction, unlike `max`; `b` if `a` is not a number.
#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// From here on Φ is 0 or 1 in f32.
const GELU_END: f32 = 5.5;

/// `(Φ(x) - 1/2) / x` on ±5.5 as a polynomial in `2 (x/5.5)² - 1`, highest power first; fitted here to the least maximum of
/// the error of `x Φ(x)`, which is 1.3e-7 before rounding.
const GELU: [f32; 15] = [
    0.000_478_258_07,
    -0.001_336_620_4,
    0.001_220_968_4,
    -0.001_331_349_1,
    0.003_985_875_8,
    -0.007_552_659_6,
    0.010_623_083,
    -0.014_740_121,
    0.020_240_33,
    -0.026_094_04,
    0.032_088_53,
    -0.038_789_332,
    0.047_736_64,
    -0.064_172_41,
    0.128_551_95,
];

#[inline(always)]
fn gelu_body<const FMA: bool>(values: &mut [f32]) {
    for value in values {
        let x = *value;
        let near = x.clamp(-GELU_END, GELU_END);
        let square = madd::<FMA>(near * near, 2.0 / (GELU_END * GELU_END), -1.0);
        let slope = GELU[1..].iter().fold(GELU[0], |sum, &coefficient| madd::<FMA>(sum, square, coefficient));
        *value = x * madd::<FMA>(near, slope, 0.5);
    }
}

/// Added to a number of small size, leaves it rounded to a whole one in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// `exp(x)` for `x` ≤ 0 to 2e-7 of itself; 0 where it is below 1e-37.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOG2_HIGH: f32 = 0.693_145_75;
    const LOG2_LOW: f32 = 1.428_606_8e-6;
    let x = greater(x, -87.0);
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = madd::<FMA>(whole, -LOG2_LOW, madd::<FMA>(whole, -LOG2_HIGH, x));
    // Taylor's series suffices on ±0.35.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = madd::<FMA>(sum, rest, coefficient);
    }
    // The whole number goes into the exponent's bits.
    f32::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[inline(always)]
fn softmax_body<const FMA: bool>(values: &mut [f32]) -> f32 {
    let greatest = fold_lanes(values, f32::MIN, greater);
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp::<FMA>(*value - greatest);
            *sum += *value;
        }
    }
    let mut sum = sum_of(sums);
    for value in rest {
        *value = exp::<FMA>(*value - greatest);
        sum += *value;
    }
    1.0 / sum
}

#[inline(always)]
fn scale_body<const FMA: bool>(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|value| *value *= factor);
}

#[inline(always)]
fn add_and_norm_body<const FMA: bool>(row: &mut [f32], added: &[f32], norm: &Norm) {
    #[expect(clippy::cast_precision_loss, reason = "rows have some hundred columns")]
    let per_column = 1.0 / row.len() as f32;
    for (value, added) in row.iter_mut().zip(added) {
        *value += added;
    }
    let mean = sum_over(row, |value| value) * per_column;
    let variance = sum_over(row, |value| (value - mean) * (value - mean)) * per_column;
    let factor = 1.0 / (variance + norm.eps).sqrt();
    for ((value, weight), bias) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        *value = madd::<FMA>((*value - mean) * factor, *weight, *bias);
    }
}

/// Sum of `of` every value.
#[inline(always)]
fn sum_over(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += of(*value);
        }
    }
    rest.iter().fold(sum_of(sums), |sum, value| sum + of(*value))
}

#[inline(always)]
fn quantise_body<const FMA: bool>(row: &[f32], quantised: &mut [i8]) -> RowScale {
    // 0 is among the values, so that it is met exactly: padding and the dead half of GELU stay 0.
    let least = fold_lanes(row, 0.0, lesser);
    let greatest = fold_lanes(row, 0.0, greater);
    let scale = ((greatest - least) / 255.0).max(f32::MIN_POSITIVE);
    let per_step = 1.0 / scale;
    let zero = (-128.0 - least * per_step).round_ties_even().clamp(-128.0, 127.0);
    let mut sum = 0i32;
    for (value, quantised) in row.iter().zip(quantised) {
        let step = madd::<FMA>(*value, per_step, zero);
        // Not `clamp`: what is not a number becomes -128.
        let step = lesser(greater(step, -128.0), 127.0);
        let whole = (step + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
        sum += whole;
        *quantised = whole as i8;
    }
    RowScale { scale, zero: zero as i32, sum }
}

#[inline(always)]
fn fold_lanes(values: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, *value);
        }
    }
    rest.iter().fold(halve(lanes, &join), |folded, value| join(folded, *value))
}

#[inline(always)]
fn sum_of(lanes: [f32; LANES]) -> f32 {
    halve(lanes, &|a, b| a + b)
}

/// Joins the upper half of the lanes with the lower one until one is left.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], join: &impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low = join(*low, *high);
        }
    }
    lanes[0]
}
