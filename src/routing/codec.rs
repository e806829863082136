//! Bytes of the artifacts (routers and seeds): a header that says what this is, then little-endian fields, then a
//! checksum. Hand-written so that an artifact is the same to the bit wherever it was trained.

use sha2::{Digest, Sha256};

use super::features::FEATURES_VERSION;

/// Raised when the layout of either artifact changes.
pub const FORMAT_VERSION: u32 = 1;

const CHECKSUM_LEN: usize = 8;

/// Why bytes are not the artifact asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    #[error("these bytes are not a {expected}: they begin with {found:?}; check that the right file was given")]
    Magic { expected: &'static str, found: String },
    #[error(
        "the {expected} has format version {found} and this program reads version {FORMAT_VERSION}; train it again with this program"
    )]
    Format { expected: &'static str, found: u32 },
    #[error(
        "the {expected} was trained on features of version {found} and this program extracts version {FEATURES_VERSION}; train it again with this program"
    )]
    Features { expected: &'static str, found: u32 },
    #[error(
        "the {expected} is damaged: its checksum does not match its {n_bytes} bytes; copy it again or train it again"
    )]
    Checksum { expected: &'static str, n_bytes: usize },
    #[error("the {expected} is damaged at byte {at}: {what}; train it again")]
    Damaged { expected: &'static str, at: usize, what: &'static str },
}

/// Which artifact: the first four bytes, and the word errors use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub magic: [u8; 4],
    pub name: &'static str,
}

pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new(kind: Kind) -> Self {
        let mut writer = Self { bytes: kind.magic.to_vec() };
        writer.u32(FORMAT_VERSION);
        writer.u32(FEATURES_VERSION);
        writer
    }

    /// The bytes with their checksum.
    pub fn finish(mut self) -> Vec<u8> {
        let checksum = Sha256::digest(&self.bytes);
        self.bytes.extend_from_slice(&checksum[..CHECKSUM_LEN]);
        self.bytes
    }

    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn f32(&mut self, value: f32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn len(&mut self, value: usize) {
        self.u32(value as u32);
    }

    pub fn str(&mut self, value: &str) {
        self.u8s(value.as_bytes());
    }

    pub fn u8s(&mut self, values: &[u8]) {
        self.len(values.len());
        self.bytes.extend_from_slice(values);
    }

    pub fn f32s(&mut self, values: &[f32]) {
        self.len(values.len());
        values.iter().for_each(|&value| self.f32(value));
    }

    pub fn u16s(&mut self, values: &[u16]) {
        self.len(values.len());
        values.iter().for_each(|value| self.bytes.extend_from_slice(&value.to_le_bytes()));
    }

    /// Ascending numbers, as gaps of seven bits a byte.
    pub fn ascending(&mut self, values: &[u32]) {
        self.len(values.len());
        let mut previous = 0;
        for &value in values {
            let mut gap = value - previous;
            while gap >= 0x80 {
                self.u8((gap as u8) | 0x80);
                gap >>= 7;
            }
            self.u8(gap as u8);
            previous = value;
        }
    }
}

pub struct Reader<'a> {
    kind: Kind,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Checks header and checksum of `bytes`.
    ///
    /// # Errors
    /// Another artifact, another version, or damage.
    pub fn open(kind: Kind, bytes: &'a [u8]) -> Result<Self, ArtifactError> {
        let expected = kind.name;
        if !bytes.starts_with(&kind.magic) {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(4)]).into_owned();
            return Err(ArtifactError::Magic { expected, found });
        }
        let mut reader = Self { kind, bytes, at: kind.magic.len() };
        let found = reader.u32()?;
        if found != FORMAT_VERSION {
            return Err(ArtifactError::Format { expected, found });
        }
        let found = reader.u32()?;
        if found != FEATURES_VERSION {
            return Err(ArtifactError::Features { expected, found });
        }
        let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else {
            return Err(reader.damaged("it ends within its header"));
        };
        if Sha256::digest(content)[..CHECKSUM_LEN] != checksum[..] {
            return Err(ArtifactError::Checksum { expected, n_bytes: bytes.len() });
        }
        Ok(Self { bytes: content, ..reader })
    }

    /// Checks that everything was read.
    pub fn finish(self) -> Result<(), ArtifactError> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.damaged("bytes are left over")) }
    }

    pub fn damaged(&self, what: &'static str) -> ArtifactError {
        ArtifactError::Damaged { expected: self.kind.name, at: self.at, what }
    }

    pub fn u8(&mut self) -> Result<u8, ArtifactError> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, ArtifactError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub fn f32(&mut self) -> Result<f32, ArtifactError> {
        let value = f32::from_bits(self.u32()?);
        if value.is_finite() { Ok(value) } else { Err(self.damaged("a number is not finite")) }
    }

    /// A count of items of which each takes at least one byte.
    pub fn len(&mut self) -> Result<usize, ArtifactError> {
        let n = self.u32()? as usize;
        if n <= self.bytes.len() { Ok(n) } else { Err(self.damaged("a count is larger than the artifact")) }
    }

    pub fn str(&mut self) -> Result<String, ArtifactError> {
        let bytes = self.u8s()?;
        String::from_utf8(bytes).map_err(|_| self.damaged("a name is not UTF-8"))
    }

    pub fn u8s(&mut self) -> Result<Vec<u8>, ArtifactError> {
        let n = self.len()?;
        Ok(self.take(n)?.to_vec())
    }

    pub fn f32s(&mut self) -> Result<Vec<f32>, ArtifactError> {
        let n = self.len()?;
        (0..n).map(|_| self.f32()).collect()
    }

    pub fn u16s(&mut self) -> Result<Vec<u16>, ArtifactError> {
        let n = self.len()?;
        let bytes = self.take(n * 2)?;
        Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    }

    pub fn ascending(&mut self) -> Result<Vec<u32>, ArtifactError> {
        let n = self.len()?;
        let mut values: Vec<u32> = Vec::with_capacity(n);
        for _ in 0..n {
            let (mut gap, mut shift) = (0u64, 0);
            loop {
                let byte = self.u8()?;
                gap |= u64::from(byte & 0x7F) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
                if shift > 28 {
                    return Err(self.damaged("a gap is too long"));
                }
            }
            let next = values.last().map_or(gap, |&last| u64::from(last) + gap);
            let next = u32::try_from(next).map_err(|_| self.damaged("an index is too large"))?;
            if values.last().is_some_and(|&last| last >= next) {
                return Err(self.damaged("indices do not ascend"));
            }
            values.push(next);
        }
        Ok(values)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], ArtifactError> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else { return Err(self.damaged("it ends too early")) };
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }
}
