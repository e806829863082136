//! What a run found: means with intervals, changes from step to step, refusal and latency, and the flat metrics of `summary.json`.

use std::collections::BTreeMap;

use super::answers::AnswerRow;
use super::detect::{self, Refusal, Scored};
use super::evaluator::{Evaluation, EvaluatorRow};
use super::ingest::Ingestion;
use super::ladder::Row;
use super::metrics::METRICS;
use super::resample::{self, Change, Interval};
use super::set::RagSet;
use super::steps::Step;
use crate::stats::{mean, median, percentile, sorted};

/// No more answerable questions than this may be refused when the threshold is chosen.
pub const MAX_FALSE_REFUSAL: f64 = 0.05;
/// Changes with a larger p are called no measurable effect.
pub const SIGNIFICANT_P: f64 = 0.05;

pub struct SetResult {
    pub key: String,
    pub n_documents: usize,
    pub n_queries: usize,
    /// Several grades, or on average more than two gold documents: recall at a small depth says little.
    pub has_many_gold: bool,
    pub ingestion: Ingestion,
    pub steps: Vec<StepResult>,
    pub evaluation: Option<(Evaluation, Vec<EvaluatorRow>)>,
    pub answers: Vec<AnswerRow>,
    pub answer_metrics: BTreeMap<&'static str, f64>,
    pub notes: Vec<String>,
}

pub struct StepResult {
    pub step: Step,
    pub outcome: Result<Measured, String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub mean: f64,
    pub interval: Interval,
}

/// A step that was run, over all queries.
pub struct Measured {
    pub rows: Vec<Row>,
    pub values: BTreeMap<&'static str, Estimate>,
    /// The step compared with, and the change of each metric.
    pub since: Option<(String, BTreeMap<&'static str, Change>)>,
    pub server_ms: Vec<f64>,
    pub client_ms: Vec<f64>,
    /// Median milliseconds of each part of the pipeline, in the order of time spent.
    pub trace: Vec<(String, f64)>,
    pub refusal: Option<Refusals>,
    /// Area under the ROC of "contains an answer" over this step's own first ten chunks.
    pub pairs_auc: Option<f64>,
    pub n_errors: usize,
}

/// Refusing by confidence.
pub struct Refusals {
    pub curve: Vec<Refusal>,
    pub auc: f64,
    /// The best within `MAX_FALSE_REFUSAL`, or what the given threshold does.
    pub chosen: Refusal,
    pub threshold_is_fitted: bool,
    /// What the server itself did: its action was "incorrect".
    pub by_action: Option<Refusal>,
}

/// What a step did compared with the one before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    Helps,
    Harms,
    Mixed,
    NoEffect,
}

impl SetResult {
    pub fn new(set: &RagSet, ingestion: Ingestion) -> SetResult {
        let gold: Vec<_> = set.queries.iter().map(|query| &query.gold).filter(|gold| !gold.is_empty()).collect();
        let is_graded = gold.iter().flat_map(|gold| gold.values()).any(|gain| *gain > 1);
        SetResult {
            key: set.key.clone(),
            n_documents: set.documents.len(),
            n_queries: set.queries.len(),
            has_many_gold: is_graded || mean(gold.iter().map(|gold| gold.len() as f64)) > 2.0,
            notes: ingestion.notes.clone(),
            ingestion,
            steps: Vec::new(),
            evaluation: None,
            answers: Vec::new(),
            answer_metrics: BTreeMap::new(),
        }
    }

    /// Adds a step that was run; it is compared with the last one measured that is not only for reference.
    pub fn push(&mut self, set: &RagSet, step: &Step, rows: Vec<Row>, refusal_threshold: Option<f64>) {
        let before = self.measured().rfind(|(step, _)| !step.is_reference());
        let since = before.map(|(before, measured)| (before.name.clone(), changes(&measured.rows, &rows)));
        self.notes.extend(doubts(step, &rows));
        let measured = measure(set, rows, since, refusal_threshold);
        self.steps.push(StepResult { step: step.clone(), outcome: Ok(measured) });
    }

    pub fn measured(&self) -> impl DoubleEndedIterator<Item = (&Step, &Measured)> {
        self.steps.iter().filter_map(|result| Some((&result.step, result.outcome.as_ref().ok()?)))
    }

    /// The metrics that decide whether a step helps.
    pub fn deciding(&self) -> &'static [&'static str] {
        if self.has_many_gold { &["ndcg10", "mrr10"] } else { &["r5", "all5", "mrr10", "ndcg10"] }
    }

    pub fn verdict(&self, changes: &BTreeMap<&'static str, Change>) -> Verdict {
        let significant: Vec<f64> = self
            .deciding()
            .iter()
            .filter_map(|key| changes.get(key))
            .filter(|change| change.p < SIGNIFICANT_P)
            .map(|change| change.difference)
            .collect();
        match (significant.iter().any(|d| *d > 0.0), significant.iter().any(|d| *d < 0.0)) {
            (true, true) => Verdict::Mixed,
            (true, false) => Verdict::Helps,
            (false, true) => Verdict::Harms,
            (false, false) => Verdict::NoEffect,
        }
    }

    /// `<set>.<step>.<metric>`: shares from 0 to 1, times in milliseconds.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        let mut put = |name: String, value: f64| metrics.insert(format!("{}.{name}", self.key), value);
        put("documents".into(), self.n_documents as f64);
        put("queries".into(), self.n_queries as f64);
        put("chunks".into(), self.ingestion.knowledge_base.chunks as f64);
        if let Some(speed) = self.ingestion.chunks_per_second() {
            put("ingest_chunks_per_s".into(), speed);
        }
        for (step, measured) in self.measured() {
            for (name, value) in measured.metrics() {
                put(format!("{}.{name}", step.name), value);
            }
        }
        if let Some((evaluation, _)) = &self.evaluation {
            for (name, value) in [
                ("auc", evaluation.auc),
                ("balanced_accuracy", evaluation.split.balanced_accuracy),
                ("accuracy", evaluation.split.accuracy),
                ("threshold", evaluation.split.threshold),
                ("pairs", evaluation.n_pairs as f64),
                ("positive_share", evaluation.positive_share),
            ] {
                put(format!("evaluator_{name}"), value);
            }
        }
        for (name, value) in &self.answer_metrics {
            put(format!("ask.{name}"), *value);
        }
        metrics
    }
}

impl Measured {
    pub fn mean(&self, key: &str) -> Option<f64> {
        self.values.get(key).map(|estimate| estimate.mean)
    }

    /// Uncompressed by sent tokens; None where nothing was compressed.
    pub fn token_ratio(&self) -> Option<f64> {
        let (whole, sent) = (self.mean("tokens_chunks")?, self.mean("tokens")?);
        (sent > 0.0 && sent != whole).then(|| whole / sent)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = Vec::new();
        let mut put = |name: &str, value: f64| metrics.push((name.to_string(), value));
        for (key, estimate) in &self.values {
            put(key, estimate.mean);
            put(&format!("{key}_low"), estimate.interval.low);
            put(&format!("{key}_high"), estimate.interval.high);
        }
        for (key, change) in self.since.iter().flat_map(|(_, changes)| changes) {
            put(&format!("{key}_change"), change.difference);
            put(&format!("{key}_p"), change.p);
        }
        // A server without a trace is timed at the client.
        let server_ms = if self.server_ms.is_empty() { &self.client_ms } else { &self.server_ms };
        put("latency_ms_p50", percentile(server_ms, 50.0));
        put("latency_ms_p95", percentile(server_ms, 95.0));
        put("client_ms_p50", percentile(&self.client_ms, 50.0));
        put("client_ms_p95", percentile(&self.client_ms, 95.0));
        put("errors", self.n_errors as f64);
        if let Some(ratio) = self.token_ratio() {
            put("token_ratio", ratio);
        }
        if let Some(auc) = self.pairs_auc {
            put("pairs_auc", auc);
        }
        if let Some(refusals) = &self.refusal {
            put("refusal_auc", refusals.auc);
            put("refusal", refusals.chosen.refused);
            put("false_refusal", refusals.chosen.falsely_refused);
            if refusals.chosen.threshold.is_finite() {
                put("refusal_threshold", refusals.chosen.threshold);
            }
            if let Some(by_action) = refusals.by_action {
                put("refusal_by_action", by_action.refused);
                put("false_refusal_by_action", by_action.falsely_refused);
            }
        }
        metrics
    }
}

fn measure(
    set: &RagSet,
    rows: Vec<Row>,
    since: Option<(String, BTreeMap<&'static str, Change>)>,
    refusal_threshold: Option<f64>,
) -> Measured {
    let values = METRICS.iter().filter_map(|metric| {
        let values: Vec<f64> = rows.iter().filter_map(|row| row.values.get(metric.key).copied()).collect();
        let estimate = Estimate { mean: mean(values.iter().copied()), interval: resample::interval(&values) };
        (!values.is_empty()).then_some((metric.key, estimate))
    });
    let pairs: Vec<Scored> = rows.iter().flat_map(|row| row.pairs.iter().copied()).collect();
    let answered = || rows.iter().filter(|row| row.error.is_none());
    Measured {
        values: values.collect(),
        since,
        server_ms: sorted(answered().filter_map(|row| row.server_ms)),
        client_ms: sorted(answered().map(|row| row.client_ms)),
        trace: trace(&rows),
        refusal: refusals(set, &rows, refusal_threshold),
        pairs_auc: detect::auc(&pairs),
        n_errors: rows.iter().filter(|row| row.error.is_some()).count(),
        rows,
    }
}

/// Changes of every metric over the queries that have it in both.
fn changes(before: &[Row], after: &[Row]) -> BTreeMap<&'static str, Change> {
    let change = |key: &'static str| {
        let pairs: Vec<(f64, f64)> = before
            .iter()
            .zip(after)
            .filter_map(|(before, after)| Some((*before.values.get(key)?, *after.values.get(key)?)))
            .collect();
        (!pairs.is_empty()).then(|| (key, resample::change(&pairs)))
    };
    METRICS.iter().filter_map(|metric| change(metric.key)).collect()
}

fn trace(rows: &[Row]) -> Vec<(String, f64)> {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, ms) in rows.iter().flat_map(|row| &row.trace) {
        by_name.entry(name).or_default().push(*ms);
    }
    let mut trace: Vec<(String, f64)> = by_name.into_iter().map(|(name, ms)| (name.to_string(), median(ms))).collect();
    trace.sort_by(|a, b| b.1.total_cmp(&a.1));
    trace
}

fn refusals(set: &RagSet, rows: &[Row], threshold: Option<f64>) -> Option<Refusals> {
    let with_class = || {
        let rows = set.queries.iter().zip(rows).filter(|(_, row)| row.error.is_none());
        rows.filter_map(|(query, row)| Some((row, !query.is_unanswerable?)))
    };
    let scored: Vec<Scored> =
        with_class().filter_map(|(row, is_answerable)| Some((row.confidence?, is_answerable))).collect();
    let curve = detect::refusals(&scored);
    let chosen = match threshold {
        Some(threshold) => detect::refusal_at(&scored, threshold),
        None => detect::best_refusal(&curve, MAX_FALSE_REFUSAL),
    };
    // "Incorrect" as a score below the threshold.
    let acted: Vec<Scored> = with_class()
        .filter_map(|(row, is_answerable)| Some((f64::from(row.action.as_deref()? != "incorrect"), is_answerable)))
        .collect();
    Some(Refusals {
        auc: detect::auc(&scored)?,
        chosen: chosen?,
        threshold_is_fitted: threshold.is_none(),
        by_action: detect::refusal_at(&acted, 0.5),
        curve,
    })
}

/// What looks as if the server had not done what it was asked.
fn doubts(step: &Step, rows: &[Row]) -> Vec<String> {
    let answered: Vec<&Row> = rows.iter().filter(|row| row.error.is_none()).collect();
    let mut notes = Vec::new();
    if let Some(error) = rows.iter().find_map(|row| row.error.as_ref()) {
        let n_errors = rows.len() - answered.len();
        notes.push(format!("`{}`: {n_errors} queries failed and count as 0; the first: {error}", step.name));
    }
    if answered.is_empty() {
        return notes;
    }
    if step.has("compress") && answered.iter().all(|row| !row.values.contains_key("tokens_server")) {
        notes.push(format!("`{}`: no answer carries a context; was anything compressed?", step.name));
    }
    let is_silent = |part: &&str| step.has(part) && !answered.iter().any(|row| row.scored_by.contains(*part));
    let silent: Vec<&str> = ["dense", "lexical", "hop", "rerank"].into_iter().filter(is_silent).collect();
    if !silent.is_empty() {
        let parts = silent.join("`, `");
        notes.push(format!("`{}`: no result has a score of `{parts}`; did that part run?", step.name));
    }
    let noted: Vec<&Row> = answered.iter().copied().filter(|row| !row.notes.is_empty()).collect();
    if let Some(note) = noted.first().and_then(|row| row.notes.first()) {
        notes.push(format!(
            "`{}`: the server left something out in {} answers; the first: {note}",
            step.name,
            noted.len()
        ));
    }
    if answered.iter().all(|row| row.documents.is_empty()) {
        notes.push(format!("`{}`: no query found anything.", step.name));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::metrics::Gains;
    use crate::rag::set::Query;

    fn query(id: usize, is_unanswerable: Option<bool>) -> Query {
        Query {
            id: id.to_string(),
            question: String::new(),
            answers: Vec::new(),
            answer_strings: Vec::new(),
            supporting_sentences: Vec::new(),
            is_unanswerable,
            gold: Gains::from([("g".to_string(), 1)]),
        }
    }

    fn set(queries: Vec<Query>) -> RagSet {
        RagSet { key: "s".into(), knowledge_base: "s".into(), documents: Vec::new(), queries }
    }

    fn row(r5: f64, confidence: f64, action: &str) -> Row {
        Row {
            values: [("r5", r5)].into(),
            confidence: Some(confidence),
            action: Some(action.into()),
            server_ms: Some(confidence * 10.0),
            trace: [("dense".to_string(), 2.0), ("rerank".to_string(), 9.0)].into(),
            ..Row::default()
        }
    }

    #[test]
    fn steps_are_compared_with_the_one_before_that_is_no_reference() {
        let set = set((0..20).map(|i| query(i, None)).collect());
        let mut result = SetResult::new(&set, Ingestion::default());
        for (step, r5) in [("higress", 0.0), ("lexical", 1.0), ("rrf", 1.0)] {
            result.push(&set, &Step::parse(step).unwrap(), vec![row(r5, 0.5, "correct"); 20], None);
        }
        let since: Vec<Option<&str>> =
            result.measured().map(|(_, measured)| measured.since.as_ref().map(|(name, _)| name.as_str())).collect();
        assert_eq!(since, [None, Some("higress"), Some("higress")]);
        let metrics = result.metrics();
        assert_eq!((metrics["s.rrf.r5"], metrics["s.rrf.r5_change"], metrics["s.rrf.latency_ms_p50"]), (1.0, 1.0, 5.0));
        assert!(metrics["s.rrf.r5_p"] < 0.001 && !metrics.contains_key("s.rrf.ans5"));
        let (_, last) = result.measured().last().unwrap();
        assert_eq!(last.trace[0], ("rerank".to_string(), 9.0));
        assert_eq!(result.verdict(&last.since.as_ref().unwrap().1), Verdict::Helps);
    }

    #[test]
    fn refusal_is_measured_by_confidence_and_by_action() {
        let set = set(vec![query(0, Some(false)), query(1, Some(false)), query(2, Some(true)), query(3, Some(true))]);
        let rows = vec![
            row(1.0, 0.9, "correct"),
            row(1.0, 0.6, "incorrect"),
            row(1.0, 0.7, "ambiguous"),
            row(1.0, 0.1, "incorrect"),
        ];
        let refusals = refusals(&set, &rows, None).unwrap();
        assert_eq!((refusals.auc, refusals.chosen.refused, refusals.chosen.falsely_refused), (0.75, 0.5, 0.0));
        let by_action = refusals.by_action.unwrap();
        assert_eq!((by_action.refused, by_action.falsely_refused), (0.5, 0.5));
        let fixed = super::refusals(&set, &rows, Some(0.8)).unwrap();
        assert_eq!((fixed.chosen.refused, fixed.chosen.falsely_refused, fixed.threshold_is_fitted), (1.0, 0.5, false));
    }

    #[test]
    fn what_a_step_does_is_judged_by_significant_changes() {
        let result = SetResult::new(&set(vec![query(0, None)]), Ingestion::default());
        let change = |difference, p| Change { difference, p, n_better: 0, n_worse: 0 };
        for (changes, expected) in [
            (vec![("r5", change(0.1, 0.01))], Verdict::Helps),
            (vec![("r5", change(-0.1, 0.01)), ("ans5", change(0.3, 0.001))], Verdict::Harms),
            (vec![("r5", change(0.1, 0.01)), ("mrr10", change(-0.1, 0.01))], Verdict::Mixed),
            (vec![("r5", change(0.1, 0.2))], Verdict::NoEffect),
        ] {
            assert_eq!(result.verdict(&changes.into_iter().collect()), expected);
        }
    }
}
