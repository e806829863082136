//! From recorded outcomes to a new router version, promoted only if it is better.
//!
//! A fifth of the questions (by hash, always the same ones) is never trained on, by any version: on these the new router is
//! compared with the serving one. The result is stored either way, with the verdict.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::live::{Setup, shipped_seed};
use crate::flywheel::{Filter, FlywheelError, NewVersion, RouterVersion, Store, TrainingRow};
use crate::infer::{Embedder, InferError};
use crate::routing::{
    ColdStart, CrossValidation, Example, FEATURES_VERSION, FeatureVector, Outcome, Prediction, Progress, Prompt,
    Router, Seed, TrainError, TrainOptions, Trained, Verdict, extract, gate, train,
};

/// Newest scored exchanges that are trained on.
const MAX_ROWS: usize = 50_000;
/// Newest questions that are embedded for a training: at some 15 ms each, a minute.
const MAX_EMBEDDED: usize = 4000;
/// Of each, more than the model reads.
const EMBEDDED_CHARS: usize = 4000;
/// One question in this many is held out.
const HOLD_OUT: u64 = 5;

/// Why there is no new version.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    #[error(
        "only {found} scored questions are recorded and learn.minRows asks for {needed}: collect more in training mode, with a higher shadow rate, or lower minRows"
    )]
    TooFewRows { found: u64, needed: u64 },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Store(#[from] FlywheelError),
    #[error("router version {id} in the database cannot be read: {error}")]
    Artifact { id: i64, error: crate::routing::ArtifactError },
}

/// What a training brought.
#[derive(Debug, Clone)]
pub struct Learned {
    pub version: i64,
    pub n_rows: usize,
    pub n_held_out: usize,
    pub report: CrossValidation,
    pub verdict: Verdict,
    pub is_promoted: bool,
}

/// Trains, judges and stores a version; promotes it if the gate says so (or `force` does). Prompts are embedded by `embedder`
/// if the setup asks for it; without one, or if it cannot, the families that need none are trained.
///
/// # Errors
/// Too few rows, rows that cannot be trained on, or a database that cannot be read or written.
pub fn learn(
    store: &Store,
    name: &str,
    setup: &Setup,
    embedder: Option<&dyn Embedder>,
    force: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Learned, LearnError> {
    let embedder = embedder.filter(|_| setup.embeds);
    let (mut dated, mut texts) = (Vec::new(), NewestTexts::default());
    // One by one: prompts may be long, and what is learned from them is short.
    store.for_each_example(&Filter::default(), MAX_ROWS, |row| {
        let Some(example) = example(&row, setup) else { return };
        if embedder.is_some() {
            texts.extend(example.hash, row.messages.as_ref().and_then(last_user_text));
        }
        dated.push((row.at_ms, example));
    })?;
    let mut examples = newest_outcomes(dated);
    if let Some(embedder) = embedder
        && let Err(error) = embed(&mut examples, &texts.into_newest(), embedder)
    {
        tracing::warn!(router = name, %error, "The new version is trained without embeddings");
    }
    let found = u64::try_from(examples.len()).unwrap_or(u64::MAX);
    if found < setup.min_rows {
        return Err(LearnError::TooFewRows { found, needed: setup.min_rows });
    }
    let (held_out, training): (Vec<Example>, Vec<Example>) =
        examples.into_iter().partition(|example| example.hash % HOLD_OUT == 0);
    let seed = shipped_seed();
    let options = TrainOptions {
        seed: setup.seed,
        folds: setup.folds,
        policy: setup.policy,
        baseline: setup.baseline.clone(),
        ..TrainOptions::default()
    };
    let Trained { router, report } = train(&training, seed.as_deref(), &options, progress)?;
    // A version that cannot be read does not serve either; a new one must still be possible.
    let serving = serving_router(store, name).unwrap_or_else(|error| {
        tracing::warn!(router = name, %error, "The new version is compared with the shipped seed instead of the serving one");
        None
    });
    let serving = serving.map(|(_, router)| router);
    let now = predictor(serving, seed.clone(), setup);
    let then = predictor(Some(router.clone()), seed, setup);
    let verdict = gate(&now, &then, &held_out, &setup.policy, &setup.baseline, setup.seed);
    let is_promoted = verdict.promote || force;
    let version = store.insert_version(&NewVersion {
        router: name.to_owned(),
        family: format!("{:?}", router.family()),
        features_version: FEATURES_VERSION,
        seed: setup.seed,
        n_rows: u64::try_from(training.len()).unwrap_or(u64::MAX),
        metrics: json!(report),
        verdict: Some(json!(verdict)),
        is_rejected: !is_promoted,
        artifact: router.to_bytes(),
    })?;
    if is_promoted {
        store.set_serving(version)?;
    }
    Ok(Learned { version, n_rows: training.len(), n_held_out: held_out.len(), report, verdict, is_promoted })
}

/// The router that serves now, from the database.
///
/// # Errors
/// The database cannot be read, or its artifact is of another format.
pub fn serving_router(store: &Store, name: &str) -> Result<Option<(i64, Router)>, LearnError> {
    match store.serving_version(name)? {
        Some((meta, artifact)) => match Router::from_bytes(&artifact) {
            Ok(router) => Ok(Some((meta.id, router))),
            Err(error) => Err(LearnError::Artifact { id: meta.id, error }),
        },
        None => Ok(None),
    }
}

/// Lets a version serve that this program can read.
///
/// # Errors
/// There is no such version, or it is of another format.
pub fn promote(store: &Store, id: i64) -> Result<RouterVersion, LearnError> {
    if let Some((_, artifact)) = store.version(id)? {
        Router::from_bytes(&artifact).map_err(|error| LearnError::Artifact { id, error })?;
    }
    Ok(store.set_serving(id)?)
}

/// Goes back to the version that served before, of those this program can read. `None`: there is none, and the shipped seed
/// decides again.
///
/// # Errors
/// No version serves, or the database cannot be read or written.
pub fn rollback(store: &Store, name: &str) -> Result<Option<RouterVersion>, FlywheelError> {
    store.rollback(name, |artifact| Router::from_bytes(artifact).is_ok())
}

/// One example per question, with the newest outcome of each model: when a provider changes what stands behind a name, what
/// it answered before is no longer evidence.
fn newest_outcomes(mut dated: Vec<(i64, Example)>) -> Vec<Example> {
    dated.sort_by_key(|(at_ms, _)| *at_ms);
    let mut by_question: BTreeMap<u64, Example> = BTreeMap::new();
    for (_, example) in dated {
        let known =
            by_question.entry(example.hash).or_insert_with(|| Example { outcomes: Vec::new(), ..example.clone() });
        for outcome in example.outcomes {
            known.outcomes.retain(|older| older.model != outcome.model);
            known.outcomes.push(outcome);
        }
    }
    by_question.into_values().collect()
}

/// The texts of the questions seen last, by hash.
#[derive(Default)]
struct NewestTexts {
    /// With how many had been seen before.
    by_hash: HashMap<u64, (usize, String)>,
    n_seen: usize,
}

impl NewestTexts {
    fn extend(&mut self, hash: u64, text: Option<Cow<'_, str>>) {
        let Some(text) = text else { return };
        let begin = text.char_indices().nth(EMBEDDED_CHARS).map_or(&*text, |(end, _)| &text[..end]);
        self.by_hash.insert(hash, (self.n_seen, begin.to_owned()));
        self.n_seen += 1;
        if self.by_hash.len() >= 2 * MAX_EMBEDDED {
            self.keep_newest();
        }
    }

    fn keep_newest(&mut self) {
        let mut times: Vec<usize> = self.by_hash.values().map(|(at, _)| *at).collect();
        times.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        if let Some(&first) = times.get(MAX_EMBEDDED - 1) {
            self.by_hash.retain(|_, (at, _)| *at >= first);
        }
    }

    fn into_newest(mut self) -> HashMap<u64, (usize, String)> {
        self.keep_newest();
        self.by_hash
    }
}

/// Gives the questions whose text is at hand their embedding.
fn embed(
    examples: &mut [Example],
    texts: &HashMap<u64, (usize, String)>,
    embedder: &dyn Embedder,
) -> Result<(), InferError> {
    let mut chosen: Vec<&mut Example> =
        examples.iter_mut().filter(|example| texts.contains_key(&example.hash)).collect();
    let of_chosen: Vec<&str> = chosen.iter().map(|example| texts[&example.hash].1.as_str()).collect();
    for (example, vector) in chosen.iter_mut().zip(embedder.embed(&of_chosen)?) {
        example.embedding = Some(vector);
    }
    Ok(())
}

/// How a router decides when it serves: its own predictions, the seed's for candidates it has never seen.
fn predictor(router: Option<Router>, seed: Option<Arc<Seed>>, setup: &Setup) -> impl Fn(&Example) -> Vec<Prediction> {
    let cold_start = ColdStart::new(&setup.candidates, &setup.baseline);
    move |example| {
        let domains = seed.as_ref().map(|seed| seed.classify(&example.features));
        cold_start.predict(router.as_ref(), domains.as_ref(), &example.features, example.embedding.as_deref())
    }
}

/// A recorded exchange as a training example; `None` if its prompt is neither stored nor as features of this version, or if
/// no current candidate answered.
fn example(row: &TrainingRow, setup: &Setup) -> Option<Example> {
    let stored = row.features.as_deref().filter(|_| row.features_version == Some(FEATURES_VERSION));
    let features = match stored.and_then(|bytes| FeatureVector::from_bytes(bytes).ok()) {
        Some(features) => features,
        None => features_of_messages(row.messages.as_ref()?)?,
    };
    let outcomes: Vec<Outcome> = row
        .answers
        .iter()
        .filter(|answer| setup.candidates.iter().any(|candidate| candidate.model == answer.model))
        .map(|answer| Outcome {
            model: answer.model.clone(),
            #[expect(clippy::cast_possible_truncation, reason = "scores and milliseconds need no more than f32")]
            score: answer.score as f32,
            #[expect(clippy::cast_possible_truncation, reason = "as above")]
            latency_ms: answer.latency_ms as f32,
            #[expect(clippy::cast_possible_truncation, reason = "as above")]
            cost_usd: answer.cost_usd.unwrap_or(0.0) as f32,
        })
        .collect();
    (!outcomes.is_empty()).then_some(Example { hash: question_hash(row)?, features, embedding: None, outcomes })
}

fn question_hash(row: &TrainingRow) -> Option<u64> {
    row.prompt_hash.get(..16).and_then(|head| u64::from_str_radix(head, 16).ok())
}

/// Features of stored messages in the form in which they are stored; `None` if that is no conversation.
pub fn features_of_text(messages: &str) -> Option<Vec<u8>> {
    features_of_messages(&serde_json::from_str(messages).ok()?).map(|features| features.to_bytes())
}

/// Features made anew from stored messages, when the extractor has changed since.
fn features_of_messages(messages: &Value) -> Option<FeatureVector> {
    let list = messages.as_array()?;
    Some(extract(&Prompt {
        text: &last_user_text(messages)?,
        n_turns: u32::try_from(list.iter().filter(is_user).count()).unwrap_or(u32::MAX),
        n_chars_total: messages.to_string().len(),
        has_tools: false,
    }))
}

fn is_user(message: &&Value) -> bool {
    message.get("role").and_then(|role| role.as_str()) == Some("user")
}

/// What the user asked last.
fn last_user_text(messages: &Value) -> Option<Cow<'_, str>> {
    let list = messages.as_array()?;
    let content = list.iter().rev().find(is_user).or(list.last())?.get("content")?;
    if let Some(parts) = content.as_array() {
        let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
        return Some(Cow::Owned(texts.join("\n")));
    }
    content.as_str().map(Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_texts_are_kept_and_no_more() {
        let mut texts = NewestTexts::default();
        texts.extend(0, Some(Cow::Borrowed("old")));
        for hash in 0..3 * MAX_EMBEDDED as u64 {
            texts.extend(hash, Some(Cow::Owned(format!("{hash}{}", "字".repeat(2 * EMBEDDED_CHARS)))));
            assert!(texts.by_hash.len() < 2 * MAX_EMBEDDED);
        }
        texts.extend(7, Some(Cow::Borrowed("asked again")));
        texts.extend(8, None);
        let newest = texts.into_newest();
        assert_eq!(newest.len(), MAX_EMBEDDED);
        assert_eq!(newest[&7].1, "asked again");
        assert!(!newest.contains_key(&8) && newest.contains_key(&(2 * MAX_EMBEDDED as u64 + 1)));
        assert!(newest.values().all(|(_, text)| text.chars().count() <= EMBEDDED_CHARS));
    }

    #[test]
    fn the_newest_outcome_of_a_model_replaces_the_one_before() {
        let example = |hash: u64, model: &str, score: f32| Example {
            hash,
            features: extract(&Prompt::single("x")),
            embedding: None,
            outcomes: vec![Outcome { model: model.to_owned(), score, latency_ms: 1.0, cost_usd: 0.0 }],
        };
        let dated = vec![
            (3, example(1, "a", 0.9)),
            (1, example(1, "a", 0.1)),
            (2, example(1, "b", 0.5)),
            (1, example(2, "a", 0.2)),
        ];
        let examples = newest_outcomes(dated);
        let scores =
            |example: &Example| example.outcomes.iter().map(|o| (o.model.clone(), o.score)).collect::<Vec<_>>();
        assert_eq!(scores(&examples[0]), [("b".to_owned(), 0.5), ("a".to_owned(), 0.9)]);
        assert_eq!(scores(&examples[1]), [("a".to_owned(), 0.2)]);
    }
}
