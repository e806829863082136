//! The arithmetic of the encoder on plain slices: matrix products in f32 and int8, and what lies between them row by row.
//! Every function has a path per instruction set, chosen by what the processor has; `Isa` is that choice. Knows nothing of
//! BERT. Called by `linear`, `attention` and `encoder`.
//!
//! An element of a result is computed by the same operations in the same order whatever else is computed with it: neither
//! the other rows of a batch nor the number of threads changes it.

pub mod int8;
pub mod matmul_f32;
#[cfg(test)]
mod tests;
pub mod vector;

/// An instruction set this processor has. It cannot be made otherwise than by detection, which is what allows its holders
/// to call functions compiled for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

/// In ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has more than the portable path"))]
enum Level {
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL; products of int8 go the way of AVX2.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
}

impl Isa {
    /// The fastest.
    pub fn best() -> Self {
        Self::all().last().copied().unwrap_or(Self(Level::Portable))
    }

    /// All this processor has, slowest first.
    pub fn all() -> Vec<Self> {
        let mut levels = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            levels.push(Self(Level::Avx2));
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if has_avx512 {
                levels.push(Self(Level::Avx512));
                if is_x86_feature_detected!("avx512vnni") {
                    levels.push(Self(Level::Avx512Vnni));
                }
            }
        }
        levels
    }

    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// Cuts `n_rows` into pieces of nearly the same size, at most `most` rows each: (first row, rows).
fn blocks(n_rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let n_blocks = n_rows.div_ceil(most);
    (0..n_blocks).map(move |block| {
        let first = block * n_rows / n_blocks;
        (first, (block + 1) * n_rows / n_blocks - first)
    })
}

/// Expands to a call of `$function::<M>` with `M` = `$n`, which is among the listed sizes.
#[cfg(target_arch = "x86_64")]
macro_rules! with_rows {
    ($n:expr, [$($size:literal)*], $function:ident $arguments:tt) => {
        match $n {
            $($size => $function::<$size> $arguments,)*
            _ => debug_assert!(false, "a block has a listed number of rows"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
use with_rows;
