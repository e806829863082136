//! The encoder against a forward pass in f64 that is written straight from the paper, and against itself in other company.

use super::*;
use crate::infer::folder::ModelFolder;
use crate::infer::testing::TinyBert;

fn tiny(isa: Isa, precision: Precision) -> Encoder {
    let dir = TinyBert::default().write();
    let folder = ModelFolder::new(dir.path());
    Encoder::load(isa, &folder.shape().unwrap(), &folder.weights().unwrap(), None, precision).unwrap()
}

/// Texts of one to all positions, of known tokens.
fn texts(n: usize) -> Vec<(Vec<u32>, Vec<u8>)> {
    let text = |index: usize| {
        let length = index * 7 % TinyBert::POSITIONS + 1;
        let ids = (0..length).map(|token| ((index * 3 + token * token) % 10) as u32).collect();
        (ids, (0..length).map(|token| u8::from(token > length / 2)).collect())
    };
    (0..n).map(text).collect()
}

fn sequences(texts: &[(Vec<u32>, Vec<u8>)]) -> Vec<Sequence<'_>> {
    texts.iter().map(|(ids, types)| Sequence { ids, types: Some(types) }).collect()
}

fn threads(n: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// BERT in f64, a vector of vectors at a time.
struct Reference(std::collections::HashMap<String, candle_core::Tensor>);

impl Reference {
    fn get(&self, name: &str) -> Vec<f64> {
        let values: Vec<f32> = self.0[name].flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f64::from).collect()
    }

    fn linear(&self, name: &str, row: &[f64]) -> Vec<f64> {
        let (weights, bias) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let dot = |weights: &[f64]| weights.iter().zip(row).map(|(a, b)| a * b).sum::<f64>();
        weights.chunks(row.len()).zip(bias).map(|(weights, bias)| dot(weights) + bias).collect()
    }

    fn norm(&self, name: &str, row: &[f64]) -> Vec<f64> {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let deviation = (row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n + 1e-12).sqrt();
        let learned = self.get(&format!("{name}.weight")).into_iter().zip(self.get(&format!("{name}.bias")));
        row.iter().zip(learned).map(|(value, (weight, bias))| (value - mean) / deviation * weight + bias).collect()
    }

    fn hidden(&self, ids: &[u32], types: &[u8]) -> Vec<Vec<f64>> {
        const N_HEADS: usize = 2;
        let width = TinyBert::HIDDEN;
        let row = |table: &str, index: usize| {
            self.get(&format!("embeddings.{table}.weight"))[index * width..][..width].to_vec()
        };
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        let embed = |(token, (id, kind)): (usize, (&u32, &u8))| {
            let word = sum(&row("word_embeddings", *id as usize), &row("position_embeddings", token));
            self.norm("embeddings.LayerNorm", &sum(&word, &row("token_type_embeddings", usize::from(*kind))))
        };
        let mut rows: Vec<Vec<f64>> = ids.iter().zip(types).enumerate().map(embed).collect();
        for layer in (0..2).map(|n| format!("encoder.layer.{n}")) {
            let project = |name: &str| -> Vec<Vec<f64>> {
                rows.iter().map(|row| self.linear(&format!("{layer}.attention.self.{name}"), row)).collect()
            };
            let (queries, keys, values) = (project("query"), project("key"), project("value"));
            let mut mixed = vec![vec![0.0; width]; rows.len()];
            for head in 0..N_HEADS {
                let own = head * width / N_HEADS..(head + 1) * width / N_HEADS;
                for (query, mixed) in queries.iter().zip(&mut mixed) {
                    let score = |key: &Vec<f64>| {
                        let dot: f64 = query[own.clone()].iter().zip(&key[own.clone()]).map(|(a, b)| a * b).sum();
                        (dot / (own.len() as f64).sqrt()).exp()
                    };
                    let scores: Vec<f64> = keys.iter().map(score).collect();
                    let total: f64 = scores.iter().sum();
                    for (score, value) in scores.iter().zip(&values) {
                        own.clone().for_each(|column| mixed[column] += score / total * value[column]);
                    }
                }
            }
            for (row, mixed) in rows.iter_mut().zip(mixed) {
                let attended = self.linear(&format!("{layer}.attention.output.dense"), &mixed);
                let middle = self.norm(&format!("{layer}.attention.output.LayerNorm"), &sum(row, &attended));
                let mut inner = self.linear(&format!("{layer}.intermediate.dense"), &middle);
                inner.iter_mut().for_each(|value| *value *= normal_distribution(*value));
                let out = self.linear(&format!("{layer}.output.dense"), &inner);
                *row = self.norm(&format!("{layer}.output.LayerNorm"), &sum(&middle, &out));
            }
        }
        rows
    }
}

/// Φ by the series of erf; the inputs here are small.
fn normal_distribution(x: f64) -> f64 {
    let x = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 + sum * std::f64::consts::FRAC_2_SQRT_PI / 2.0
}

#[test]
fn the_network_is_the_published_one_on_every_path() {
    let reference = Reference(TinyBert::default().weights());
    let texts = texts(9);
    let exact: Vec<f64> = texts.iter().flat_map(|(ids, types)| reference.hidden(ids, types)).flatten().collect();
    for isa in Isa::all() {
        let found = tiny(isa, Precision::F32).hidden(&sequences(&texts)).unwrap();
        assert_eq!(found.rows.len(), exact.len());
        let difference = found.rows.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(difference < 1e-4, "{}: {difference}", isa.name());
        let int8 = tiny(isa, Precision::Int8).hidden(&sequences(&texts)).unwrap();
        for index in 0..texts.len() {
            let cosine = cosine(int8.text(index), found.text(index));
            assert!(cosine > 0.99, "{} text {index}: {cosine}", isa.name());
        }
    }
}

#[test]
fn neither_the_batch_nor_the_threads_change_a_bit() {
    let texts = texts(70);
    let sequences = sequences(&texts);
    for isa in Isa::all() {
        for precision in [Precision::F32, Precision::Int8] {
            let encoder = tiny(isa, precision);
            let alone: Vec<f32> = sequences.iter().flat_map(|text| encoder.hidden(&[*text]).unwrap().rows).collect();
            for (n_threads, n_texts) in [(1, 70), (2, 70), (3, 9), (4, 9), (3, 20), (5, 1)] {
                let pool = threads(n_threads);
                let together = pool.install(|| encoder.hidden(&sequences[..n_texts])).unwrap();
                let expected = &alone[..together.rows.len()];
                assert_eq!(together.rows, expected, "{} {precision:?} {n_threads} {n_texts}", isa.name());
                let first = pool.install(|| encoder.first(&sequences[..n_texts])).unwrap();
                for (index, first) in first.chunks(TinyBert::HIDDEN).enumerate() {
                    assert_eq!(first, &together.text(index)[..TinyBert::HIDDEN], "text {index}");
                }
            }
        }
    }
}

#[test]
fn the_type_of_a_token_matters_and_0_is_meant_without() {
    let encoder = tiny(Isa::best(), Precision::F32);
    let run = |types: Option<&[u8]>| encoder.hidden(&[Sequence { ids: &[2, 5, 3], types }]).unwrap().rows;
    assert_eq!(run(None), run(Some(&[0, 0, 0])));
    assert_ne!(run(None), run(Some(&[0, 1, 1])));
}

#[test]
fn what_the_model_cannot_read_is_an_error() {
    let encoder = tiny(Isa::best(), Precision::Int8);
    let error = |ids: &[u32], types: Option<&[u8]>| encoder.hidden(&[Sequence { ids, types }]).unwrap_err();
    assert!(error(&[2; TinyBert::POSITIONS + 1], None).contains("25 tokens"));
    assert!(error(&[2, 10], None).contains("token 10"));
    assert!(error(&[2, 3], Some(&[0])).contains("types"));
    assert!(error(&[2, 3], Some(&[0, 2])).contains("types"));
    assert!(encoder.first(&[Sequence { ids: &[], types: None }]).is_err());
    let nothing = encoder.hidden(&[Sequence { ids: &[], types: None }]).unwrap();
    assert_eq!((nothing.rows.len(), nothing.text(0).len(), nothing.starts), (0, 0, vec![0, 0]));
    assert_eq!(encoder.means(&[Sequence { ids: &[], types: None }]).unwrap(), vec![0.0; TinyBert::HIDDEN]);
    assert!(encoder.hidden(&[]).unwrap().rows.is_empty());
}
