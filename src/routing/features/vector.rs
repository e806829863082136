//! The sparse vector every model reads, and its compact byte form for storage without the prompt's text.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::FEATURES_VERSION;

/// Sparse features of one prompt: strictly increasing indices, one value each.
///
/// Indices below [`super::NGRAM_BUCKETS`] are hashed n-grams whose value is the damped count `1 + ln(count)`; the
/// [`super::N_STRUCTURE`] indices from there on are structure features, roughly 0..1. Inverse document frequencies are
/// learned by the models, never stored here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct FeatureVector {
    pub(super) indices: Vec<u32>,
    pub(super) values: Vec<f32>,
}

/// The vector as written, before it is known to be one.
#[derive(Deserialize)]
struct Parts {
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl TryFrom<Parts> for FeatureVector {
    type Error = VectorError;

    fn try_from(Parts { indices, values }: Parts) -> Result<Self, VectorError> {
        let ascending = indices.is_sorted_by(|a, b| a < b);
        if ascending && indices.len() == values.len() && values.iter().all(|value| value.is_finite()) {
            Ok(Self { indices, values })
        } else {
            Err(VectorError::Parts)
        }
    }
}

/// Why stored bytes are not a feature vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    #[error(
        "the features were written by version {found} and this program reads version {FEATURES_VERSION}; extract them again from the prompt, or leave the row out of training"
    )]
    Version { found: u32 },
    #[error(
        "a feature vector needs strictly ascending `indices` and as many finite `values`; leave the row out of training"
    )]
    Parts,
    #[error("the feature bytes are cut off or damaged at byte {at}; leave the row out of training")]
    Damaged { at: usize },
}

/// Values are stored in steps of 1/64 up to 4, which is finer than what any model resolves after quantisation.
const VALUE_STEP: f32 = 1.0 / 64.0;

impl FeatureVector {
    /// Number of features that are not zero.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Number of n-grams.
    pub fn n_ngrams(&self) -> usize {
        self.indices.partition_point(|&index| index < super::NGRAM_BUCKETS)
    }

    /// Pairs of (index, value) in increasing order of index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.indices.iter().copied().zip(self.values.iter().copied())
    }

    /// The n-gram part and the structure part.
    pub fn split(&self) -> (impl Iterator<Item = (u32, f32)> + '_, impl Iterator<Item = (usize, f32)> + '_) {
        let at = self.n_ngrams();
        let pairs =
            |from: usize, to: usize| self.indices[from..to].iter().copied().zip(self.values[from..to].iter().copied());
        let structure = pairs(at, self.indices.len())
            .map(|(index, value)| ((index - super::NGRAM_BUCKETS) as usize, value))
            .filter(|&(index, _)| index < super::N_STRUCTURE);
        (pairs(0, at), structure)
    }

    /// One value of the structure part, 0 when absent.
    pub fn structure(&self, feature: usize) -> f32 {
        let index = super::NGRAM_BUCKETS + feature as u32;
        self.indices.binary_search(&index).map_or(0.0, |at| self.values[at])
    }

    /// Version, count, then per feature the gap to the previous index (LEB128) and the value in 1/64 steps. About
    /// three bytes a feature. Values are rounded to the step, so only extracted (already rounded) vectors round trip.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.indices.len() * 3);
        write_varint(FEATURES_VERSION, &mut out);
        write_varint(self.indices.len() as u32, &mut out);
        let mut previous = 0;
        for (index, value) in self.iter() {
            write_varint(index - previous, &mut out);
            out.push((value / VALUE_STEP).round().clamp(0.0, 255.0) as u8);
            previous = index;
        }
        out
    }

    /// Inverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// Another features version, or bytes that are not what `to_bytes` writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VectorError> {
        let mut at = 0;
        let found = read_varint(bytes, &mut at)?;
        if found != FEATURES_VERSION {
            return Err(VectorError::Version { found });
        }
        let n = read_varint(bytes, &mut at)? as usize;
        if n > bytes.len() {
            return Err(VectorError::Damaged { at });
        }
        let mut vector = Self { indices: Vec::with_capacity(n), values: Vec::with_capacity(n) };
        let mut previous: Option<u32> = None;
        for _ in 0..n {
            let gap = read_varint(bytes, &mut at)?;
            let index = match previous {
                None => gap,
                Some(previous) if gap > 0 => previous.checked_add(gap).ok_or(VectorError::Damaged { at })?,
                Some(_) => return Err(VectorError::Damaged { at }),
            };
            let step = *bytes.get(at).ok_or(VectorError::Damaged { at })?;
            at += 1;
            vector.indices.push(index);
            vector.values.push(f32::from(step) * VALUE_STEP);
            previous = Some(index);
        }
        if at == bytes.len() { Ok(vector) } else { Err(VectorError::Damaged { at }) }
    }
}

/// The values of n-grams that occur so often.
pub(super) fn damped(counts: &[u32]) -> Vec<f32> {
    static SMALL: LazyLock<[f32; 64]> = LazyLock::new(|| std::array::from_fn(|count| logarithmic(count as u32)));
    let small: &[f32; 64] = &SMALL;
    counts.iter().map(|&count| small.get(count as usize).copied().unwrap_or_else(|| logarithmic(count))).collect()
}

fn logarithmic(count: u32) -> f32 {
    round_value(1.0 + (count.max(1) as f32).ln())
}

/// Rounds to what the byte form can hold, so that a stored vector is the extracted one.
pub(super) fn round_value(value: f32) -> f32 {
    (value / VALUE_STEP).round().clamp(0.0, 255.0) * VALUE_STEP
}

fn write_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Result<u32, VectorError> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at).ok_or(VectorError::Damaged { at: *at })?;
        *at += 1;
        let bits = u32::from(byte & 0x7F);
        value |= bits.checked_shl(shift).filter(|v| v >> shift == bits).ok_or(VectorError::Damaged { at: *at })?;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(VectorError::Damaged { at: *at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_foreign_bytes_are_refused() {
        let vector = FeatureVector { indices: vec![3, 900, 70_000], values: vec![1.0, 1.6875, 0.25] };
        let bytes = vector.to_bytes();
        assert_eq!(FeatureVector::from_bytes(&bytes), Ok(vector));
        for cut in 0..bytes.len() {
            assert!(FeatureVector::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut foreign = bytes.clone();
        foreign[0] = 99;
        assert_eq!(FeatureVector::from_bytes(&foreign), Err(VectorError::Version { found: 99 }));
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(FeatureVector::from_bytes(&longer), Err(VectorError::Damaged { .. })));
    }

    #[test]
    fn json_that_is_no_vector_is_refused() {
        let read = |json: &str| serde_json::from_str::<FeatureVector>(json);
        assert_eq!(read(r#"{"indices":[1,5],"values":[1.0,2.0]}"#).unwrap().len(), 2);
        for wrong in [
            r#"{"indices":[5,1],"values":[1,2]}"#,
            r#"{"indices":[1,1],"values":[1,2]}"#,
            r#"{"indices":[1],"values":[]}"#,
        ] {
            assert!(read(wrong).unwrap_err().to_string().contains("strictly ascending"), "{wrong}");
        }
    }
}
