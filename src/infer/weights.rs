//! Tensors of a safetensors file, in f32 or quantised. Read here through candle, which nothing else does.
//!
//! A matrix may be stored as f32, f16 or bf16, or as int8 with one f32 scale per row in `<name>_scale`.

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device};

use super::kernel::int8::Int8Weights;

/// Name of the word embeddings.
pub const WORDS: &str = "embeddings.word_embeddings.weight";

/// The tensors of a file. Errors are sentences that name the tensor.
pub struct Weights {
    file: BufferedSafetensors,
    /// What the names of the encoder's tensors begin with: `bert.` where the file has a classifier too.
    prefix: &'static str,
}

/// A matrix as it is stored, row by row.
pub enum Matrix {
    F32(Vec<f32>),
    Int8(Int8Weights),
}

impl Matrix {
    pub fn into_f32(self, n_columns: usize) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Int8(weights) => weights.dequantise(n_columns),
        }
    }

    pub fn into_int8(self, n_columns: usize) -> Int8Weights {
        match self {
            Self::F32(values) => Int8Weights::quantise(&values, n_columns),
            Self::Int8(weights) => weights,
        }
    }
}

impl Weights {
    /// # Errors
    /// The bytes are no safetensors file.
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        let file = BufferedSafetensors::new(bytes).map_err(|error| error.to_string())?;
        let prefix = if file.get("bert.embeddings.LayerNorm.weight").is_ok() { "bert." } else { "" };
        Ok(Self { file, prefix })
    }

    /// Whether the word embeddings are among them.
    pub fn has_words(&self) -> bool {
        self.file.get(&format!("{}{WORDS}", self.prefix)).is_ok()
    }

    /// Name of the layer between encoder and classifier, if there is one.
    pub fn pooler(&self) -> Option<&'static str> {
        ["bert.pooler.dense", "pooler.dense"].into_iter().find(|name| self.file.get(&format!("{name}.weight")).is_ok())
    }

    /// A vector of the encoder.
    ///
    /// # Errors
    /// It is missing, or of another shape or type.
    pub fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>, String> {
        self.read(&format!("{}{name}", self.prefix), &[n])
    }

    /// A vector of what comes after the encoder.
    ///
    /// # Errors
    /// It is missing, or of another shape or type.
    pub fn head(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        self.read(name, shape)
    }

    /// A matrix of the encoder.
    ///
    /// # Errors
    /// It is missing, or of another shape or type.
    pub fn matrix(&self, name: &str, n_rows: usize, n_columns: usize) -> Result<Matrix, String> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.file.get(&name).map_err(|_| missing(&name))?;
        if tensor.dtype().to_string() != "I8" {
            return self.read(&name, &[n_rows, n_columns]).map(Matrix::F32);
        }
        check_shape(&name, tensor.shape(), &[n_rows, n_columns])?;
        let values = tensor.data().iter().map(|byte| byte.cast_signed()).collect();
        let scales = self.read(&format!("{name}_scale"), &[n_rows])?;
        Ok(Matrix::Int8(Int8Weights { values, scales }))
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let tensor = self.file.get(name).map_err(|_| missing(name))?;
        check_shape(name, tensor.shape(), shape)?;
        let values = self.file.load(name, &Device::Cpu).and_then(|tensor| tensor.to_dtype(DType::F32));
        let values = values.and_then(|tensor| tensor.flatten_all()?.to_vec1());
        values.map_err(|error| format!("tensor {name} cannot be read: {error}"))
    }
}

fn missing(name: &str) -> String {
    format!("it has no tensor {name}")
}

fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("tensor {name} is of shape {found:?} and config.json says {expected:?}"))
}
