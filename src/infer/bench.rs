//! How long the sentence model takes on this machine: `weirgate models bench`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::InferError;
use super::encoder::{Encoder, Sequence};
use super::folder::ModelFolder;
use super::kernel::Isa;
use super::linear::Precision;

/// One measurement.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    pub precision: Precision,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    pub threads: usize,
    pub tokens: usize,
    pub texts: usize,
    /// Of the fastest of several runs; without tokenising.
    pub ms: f64,
}

/// Tokens and texts.
const SHAPES: [(usize, usize); 5] = [(20, 1), (128, 1), (128, 20), (256, 1), (20, 32)];

/// A shape is run until this much time has passed, and [`RUNS`] times at least.
const TIME: Duration = Duration::from_millis(700);
const RUNS: usize = 3;

/// Runs the model of `dir` in every precision, on one thread and on all.
///
/// # Errors
/// The model cannot be loaded or run.
pub fn bench(dir: &Path) -> Result<Vec<Row>, InferError> {
    let folder = ModelFolder::new(dir);
    let (shape, weights, isa) = (folder.shape()?, folder.weights()?, Isa::best());
    let most = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut rows = Vec::new();
    for precision in [Precision::F32, Precision::Int8] {
        let encoder = Encoder::load(isa, &shape, &weights, None, precision);
        let encoder = encoder.map_err(|what| folder.broken("model.safetensors", what))?;
        for threads in if most == 1 { vec![1] } else { vec![1, most] } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|error| InferError::Run(error.to_string()))?;
            for (tokens, texts) in SHAPES {
                let tokens = tokens.min(shape.max_position_embeddings);
                let ids: Vec<u32> = (0..tokens as u32).map(|n| (1000 + n * 37) % shape.vocab_size as u32).collect();
                let sequences = vec![Sequence { ids: &ids, types: None }; texts];
                let ms = pool.install(|| fastest(&encoder, &sequences))?;
                rows.push(Row { precision, isa: isa.name(), threads, tokens, texts, ms });
            }
        }
    }
    Ok(rows)
}

fn fastest(encoder: &Encoder, sequences: &[Sequence<'_>]) -> Result<f64, InferError> {
    let (begun, mut best) = (Instant::now(), f64::INFINITY);
    for run in 0.. {
        if run >= RUNS && begun.elapsed() > TIME {
            break;
        }
        let started = Instant::now();
        encoder.means(sequences).map_err(InferError::Run)?;
        best = best.min(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}
