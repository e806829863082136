//! The column space of a model: which hashed n-grams it reads, with their inverse document frequencies, then the
//! structure features. Learned from training rows only; every model of a router shares one.

use crate::routing::codec::{ArtifactError, Reader, Writer};
use crate::routing::features::{FeatureVector, N_STRUCTURE, NGRAM_BUCKETS};

/// A row in the space: columns ascending. N-gram columns have Euclidean length 1, structure columns follow.
pub type Row = Vec<(u32, f32)>;

/// Columns `0..n_ngrams` are n-grams, `n_ngrams..n_columns` structure features.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// Bucket of each n-gram column, ascending.
    buckets: Vec<u32>,
    /// Quantised so that what is stored is what was trained with: inverse document frequency in 1/16.
    idf: Vec<u8>,
    /// Bucket to column + 1; 0 for a bucket the space does not read.
    columns: Vec<u16>,
}

/// Most n-gram columns a space can have.
pub const MAX_NGRAMS: usize = u16::MAX as usize - 1;

const IDF_STEP: f32 = 1.0 / 16.0;

impl Space {
    /// Buckets that occur in at least `min_rows` rows, at most `max_ngrams` of them, most frequent first.
    pub fn learn<'a>(rows: impl IntoIterator<Item = &'a FeatureVector>, min_rows: u32, max_ngrams: usize) -> Self {
        let mut frequency = vec![0u32; NGRAM_BUCKETS as usize];
        let mut n_rows = 0u32;
        for row in rows {
            n_rows += 1;
            for (bucket, _) in row.split().0 {
                frequency[bucket as usize] += 1;
            }
        }
        let mut buckets: Vec<u32> = (0..NGRAM_BUCKETS).filter(|&b| frequency[b as usize] >= min_rows.max(1)).collect();
        buckets.sort_by_key(|&b| std::cmp::Reverse(frequency[b as usize]));
        buckets.truncate(max_ngrams.min(MAX_NGRAMS));
        buckets.sort_unstable();
        let idf = buckets
            .iter()
            .map(|&b| {
                let idf = ((1.0 + n_rows as f32) / (1.0 + frequency[b as usize] as f32)).ln() + 1.0;
                (idf / IDF_STEP).round().clamp(1.0, 255.0) as u8
            })
            .collect();
        Self::new(buckets, idf)
    }

    /// A space from its parts: ascending `buckets` and as many `idf` steps.
    fn new(buckets: Vec<u32>, idf: Vec<u8>) -> Self {
        let mut columns = vec![0u16; NGRAM_BUCKETS as usize];
        for (column, &bucket) in buckets.iter().enumerate() {
            columns[bucket as usize] = column as u16 + 1;
        }
        Self { buckets, idf, columns }
    }

    pub fn n_ngrams(&self) -> usize {
        self.buckets.len()
    }

    pub fn n_columns(&self) -> usize {
        self.buckets.len() + N_STRUCTURE
    }

    /// The same space with only the n-gram columns for which `keep` holds.
    pub fn restrict(&self, keep: impl Fn(usize) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.buckets.len()).filter(|&column| keep(column)).collect();
        Self::new(kept.iter().map(|&c| self.buckets[c]).collect(), kept.iter().map(|&c| self.idf[c]).collect())
    }

    /// Inverse document frequency of an n-gram column.
    pub fn idf(&self, column: usize) -> f32 {
        f32::from(self.idf[column]) * IDF_STEP
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.ascending(&self.buckets);
        writer.u8s(&self.idf);
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, ArtifactError> {
        let buckets = reader.ascending()?;
        let idf = reader.u8s()?;
        if buckets.len() != idf.len()
            || buckets.len() > MAX_NGRAMS
            || buckets.last().is_some_and(|&b| b >= NGRAM_BUCKETS)
        {
            return Err(reader.damaged("its n-gram columns do not fit the features"));
        }
        Ok(Self::new(buckets, idf))
    }

    /// `features` as a row: n-grams weighted by inverse document frequency and normalised, structure values as they are.
    pub fn project(&self, features: &FeatureVector) -> Row {
        let (ngrams, structure) = features.split();
        let mut row: Row = vec![(0, 0.0); features.len()];
        let (mut n, mut squares) = (0, 0.0f32);
        for (bucket, value) in ngrams {
            // What is not read is written over by the next: which of the n-grams are known cannot be predicted.
            let column = usize::from(self.columns[bucket as usize]);
            let is_read = column > 0;
            let column = column.saturating_sub(1);
            let idf = self.idf.get(column).map_or(0.0, |&idf| f32::from(idf) * IDF_STEP);
            let weight = if is_read { value * idf } else { 0.0 };
            squares += weight * weight;
            row[n] = (column as u32, weight);
            n += usize::from(is_read);
        }
        row.truncate(n);
        if squares > 0.0 {
            let scale = squares.sqrt().recip();
            row.iter_mut().for_each(|(_, weight)| *weight *= scale);
        }
        let first = self.buckets.len() as u32;
        row.extend(structure.map(|(feature, value)| (first + feature as u32, value)));
        row
    }
}
