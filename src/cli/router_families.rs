//! The part of `weirgate router eval` that asks what a sentence embedding is worth: families of routers, with and without one,
//! on questions and on sources they were not trained on.
//!
//! Domains stand in for models: each labelled question is one that its domain's model answers right and the others wrong. Real
//! outcomes of a strong and a weak model (JSON lines with question, strong, weak, fold and bench) are judged by APGR.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::CliError;
use super::router_eval::{Labelled, ratio, read_lines};
use crate::infer::Embedder;
use crate::routing::{Domain, Example, Family, Outcome, Policy, Prompt, Router, TrainOptions, decide, extract, train};

/// Those that read the text alone, and the one that reads the embedding too.
const FAMILIES: [Family; 3] = [Family::Ngrams, Family::Neighbours, Family::Semantic];

/// Answers of two models to one question.
#[derive(Deserialize)]
struct Pair {
    question: String,
    strong: f32,
    weak: f32,
    fold: usize,
    bench: String,
}

/// Texts with their embeddings, in pieces, and the time each text took.
pub fn embed(embedder: &dyn Embedder, texts: &[&str]) -> Result<(Vec<Vec<f32>>, Vec<f64>), CliError> {
    let mut vectors = Vec::with_capacity(texts.len());
    let mut millis = Vec::with_capacity(texts.len());
    for text in texts {
        let started = Instant::now();
        vectors.extend(embedder.embed(&[text]).map_err(CliError::failed)?);
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok((vectors, millis))
}

/// Domain accuracy of each family on `judged`, on sources left out of `training`, and on `typos` (the questions of `judged`
/// mistyped): the share of unchanged choices.
pub fn domains(
    training: &[Labelled],
    judged: &[Labelled],
    typos: &[String],
    embedder: &dyn Embedder,
    seed: u64,
) -> Result<Map<String, Value>, CliError> {
    let texts = |rows: &[Labelled]| embed(embedder, &rows.iter().map(|row| row.question.as_str()).collect::<Vec<_>>());
    let examples = |rows: &[Labelled], vectors: Vec<Vec<f32>>| -> Vec<Example> {
        rows.iter().zip(vectors).enumerate().map(|(index, (row, vector))| labelled(index, row, vector)).collect()
    };
    let trained_on = examples(training, texts(training)?.0);
    let (vectors, mut millis) = texts(judged)?;
    let judged_on = examples(judged, vectors);
    let (typo_vectors, _) = embed(embedder, &typos.iter().map(String::as_str).collect::<Vec<_>>())?;
    let sources: BTreeSet<&str> = training.iter().map(Labelled::collection).collect();
    let mut metrics = Map::new();
    for family in FAMILIES {
        let router = fit(&trained_on, family, seed)?;
        let choices: Vec<String> = judged_on.iter().map(|example| choice(&router, example)).collect();
        let right = judged.iter().zip(&choices).filter(|(row, choice)| row.domain.name() == **choice).count();
        metrics.insert(format!("domain_accuracy_{}", family.name()), json!(ratio(right, judged.len())));
        let stable = typos.iter().zip(&typo_vectors).zip(&choices).filter(|((text, vector), before)| {
            let mistyped = Example { features: extract(&Prompt::single(text)), ..judged_on[0].clone() };
            choice(&router, &Example { embedding: Some((*vector).clone()), ..mistyped }) == **before
        });
        metrics.insert(format!("typo_stability_{}", family.name()), json!(ratio(stable.count(), typos.len())));
        let mut n_right = 0;
        for source in &sources {
            let is_in = |index: &usize| training[*index].collection() == *source;
            let (out, rest): (Vec<usize>, Vec<usize>) = (0..training.len()).partition(is_in);
            let router = fit(&picked(&trained_on, &rest), family, seed)?;
            let is_right = |index: &&usize| choice(&router, &trained_on[**index]) == training[**index].domain.name();
            n_right += out.iter().filter(is_right).count();
        }
        let share = ratio(n_right, training.len());
        metrics.insert(format!("unseen_source_accuracy_{}", family.name()), json!(share));
    }
    millis.sort_by(f64::total_cmp);
    let at = |share: usize| millis[(millis.len() - 1) * share / 100];
    metrics.insert("embedding_ms_p50".into(), json!(at(50)));
    metrics.insert("embedding_ms_p99".into(), json!(at(99)));
    Ok(metrics)
}

/// APGR of each family on a file of outcomes, by the folds it names.
pub fn outcomes(path: &Path, embedder: &dyn Embedder, seed: u64) -> Result<Map<String, Value>, CliError> {
    let mut by_bench: BTreeMap<String, Vec<Pair>> = BTreeMap::new();
    for pair in read_lines::<Pair>(path, "an outcome of two models")? {
        by_bench.entry(pair.bench.clone()).or_default().push(pair);
    }
    let mut metrics = Map::new();
    for (bench, pairs) in by_bench {
        // Scores beyond 1 are a judge's points, of too few questions to rank anything.
        if pairs.iter().any(|pair| !(0.0..=1.0).contains(&pair.strong) || !(0.0..=1.0).contains(&pair.weak)) {
            continue;
        }
        let texts: Vec<&str> = pairs.iter().map(|pair| pair.question.as_str()).collect();
        let (vectors, _) = embed(embedder, &texts)?;
        let examples: Vec<Example> =
            pairs.iter().zip(vectors).enumerate().map(|(index, (pair, vector))| paired(index, pair, vector)).collect();
        let folds: BTreeSet<usize> = pairs.iter().map(|pair| pair.fold).collect();
        metrics.insert(format!("n_{bench}"), json!(pairs.len()));
        for family in FAMILIES {
            let mut needs = vec![0.0f32; pairs.len()];
            for fold in &folds {
                let (judged, rest): (Vec<usize>, Vec<usize>) =
                    (0..pairs.len()).partition(|&index| pairs[index].fold == *fold);
                let router = fit(&picked(&examples, &rest), family, seed)?;
                for index in judged {
                    needs[index] = gain(&router, &examples[index]);
                }
            }
            metrics.insert(format!("apgr_{bench}_{}", family.name()), json!(apgr(&pairs, &needs)));
        }
    }
    Ok(metrics)
}

fn fit(examples: &[Example], family: Family, seed: u64) -> Result<Router, CliError> {
    let baseline = Domain::Generic.name().to_owned();
    let options = TrainOptions { seed, folds: 2, baseline, families: vec![family], ..TrainOptions::default() };
    Ok(train(examples, None, &options, &mut |_| {}).map_err(CliError::failed)?.router)
}

fn picked(examples: &[Example], indices: &[usize]) -> Vec<Example> {
    indices.iter().map(|&index| examples[index].clone()).collect()
}

fn choice(router: &Router, example: &Example) -> String {
    let predictions = router.predict(&example.features, example.embedding.as_deref());
    decide(&predictions, &Policy::default(), Domain::Generic.name()).model
}

fn labelled(index: usize, row: &Labelled, vector: Vec<f32>) -> Example {
    let outcomes = Domain::ALL.map(|domain| outcome(domain.name(), f32::from(u8::from(domain == row.domain))));
    Example { hash: index as u64, features: row.features(), embedding: Some(vector), outcomes: outcomes.to_vec() }
}

fn paired(index: usize, pair: &Pair, vector: Vec<f32>) -> Example {
    Example {
        hash: index as u64,
        features: extract(&Prompt::single(&pair.question)),
        embedding: Some(vector),
        outcomes: vec![outcome("strong", pair.strong), outcome("weak", pair.weak)],
    }
}

fn outcome(model: &str, score: f32) -> Outcome {
    Outcome { model: model.to_owned(), score, latency_ms: 0.0, cost_usd: 0.0 }
}

/// How much better the strong model is expected to be.
fn gain(router: &Router, example: &Example) -> f32 {
    let predictions = router.predict(&example.features, example.embedding.as_deref());
    let of = |name: &str| predictions.iter().find(|p| p.model == name).map_or(0.0, |p| p.score);
    of("strong") - of("weak")
}

/// Share of the gap between the models that is recovered, over the share of questions sent to the strong one: the area under
/// the curve through eleven thresholds, which are quantiles of `needs` (RouteLLM's measure).
fn apgr(pairs: &[Pair], needs: &[f32]) -> f64 {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by(|&a, &b| needs[b].total_cmp(&needs[a]).then(a.cmp(&b)));
    let mean =
        |score: &dyn Fn(&Pair) -> f32| pairs.iter().map(|p| f64::from(score(p))).sum::<f64>() / count(pairs.len());
    let (strong, weak) = (mean(&|pair| pair.strong), mean(&|pair| pair.weak));
    let recovered = |n_strong: usize| {
        let of = |(rank, &index): (usize, &usize)| {
            f64::from(if rank < n_strong { pairs[index].strong } else { pairs[index].weak })
        };
        let score = order.iter().enumerate().map(of).sum::<f64>() / count(pairs.len());
        (score - weak) / (strong - weak)
    };
    let points: Vec<f64> = (0..=10).map(|tenth| recovered(pairs.len() * tenth / 10)).collect();
    points.windows(2).map(|pair| (pair[0] + pair[1]) / 20.0).sum()
}

#[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^52")]
fn count(n: usize) -> f64 {
    n.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apgr_is_one_half_for_chance_and_more_for_knowing() {
        let pair = |i: usize| Pair {
            question: String::new(),
            strong: 1.0,
            weak: f32::from(u8::from(i.is_multiple_of(2))),
            fold: 0,
            bench: String::new(),
        };
        let pairs: Vec<Pair> = (0..200).map(pair).collect();
        let knowing: Vec<f32> = pairs.iter().map(|pair| pair.strong - pair.weak).collect();
        let ignorant: Vec<f32> = (0..200u16).map(|i| f32::from(i * 7 / 2 % 100)).collect();
        assert!((apgr(&pairs, &knowing) - 0.75).abs() < 0.01, "{}", apgr(&pairs, &knowing));
        assert!((apgr(&pairs, &ignorant) - 0.5).abs() < 0.06, "{}", apgr(&pairs, &ignorant));
    }
}
