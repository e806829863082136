//! Asks every query of a set at one step of the ladder and turns what came back into rows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::{Found, Gateway, Hit, Refused, Timed};
use super::metrics::{self, Ranked, Values, documents_in_order};
use super::progress_bar;
use super::set::{Query, RagSet};
use super::steps::{SWITCHES, Step};
use super::text::{contains_answer, estimate_tokens, normalize};

/// Statuses with which a server says that it cannot do what a step asks for.
const UNAVAILABLE: [u16; 6] = [400, 404, 409, 422, 501, 503];

/// How every query is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Chunks asked for; more than ten, so that ten documents remain where a document has several chunks.
    pub top_k: usize,
    /// Chunks that would be sent to a language model, and that compression works on.
    pub context_chunks: usize,
    pub max_tokens: Option<usize>,
    /// 1 measures latency; more only saves time.
    pub concurrency: usize,
    /// Queries asked beforehand, uncounted.
    pub n_warmup: usize,
    /// Switches that the server does not know.
    pub unknown_switches: Vec<&'static str>,
}

/// One query at one step.
#[derive(Serialize, Clone, Debug, Default)]
pub struct Row {
    pub set: String,
    pub step: String,
    pub query: String,
    pub documents: Vec<Ranked>,
    /// What was judged of the first ten chunks, and whether they contain an answer string.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<(f64, bool)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The server's confidence, else the best judgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    pub values: Values,
    /// Of the answer whose tokens are counted.
    pub server_ms: Option<f64>,
    pub client_ms: f64,
    /// Milliseconds by part of the pipeline.
    pub trace: BTreeMap<String, f64>,
    /// Kinds of scores that some result has: the parts that had a say.
    pub scored_by: BTreeSet<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a step.
pub enum StepOutcome {
    Measured(Vec<Row>),
    /// The server said that it has no such part.
    Unavailable(String),
}

/// The switches that the server refuses by name; without them it can be asked for the others.
pub async fn unknown_switches(gateway: &Gateway, set: &RagSet) -> Result<Vec<&'static str>> {
    let lexical = Step { name: "lexical".to_string(), parts: vec!["lexical"] };
    let Some(query) = set.queries.first() else { return Ok(Vec::new()) };
    let mut unknown = Vec::new();
    loop {
        let body = json!({"query": query.question, "top_k": 1, "steps": lexical.body(&unknown)});
        let found = gateway.search(&set.knowledge_base, &body).await?;
        let Err(refused) = found.outcome else { return Ok(unknown) };
        let is_refused = |switch: &&str| refused.message.contains(&format!("unknown field `{switch}`"));
        match SWITCHES.into_iter().find(is_refused).filter(|switch| refused.status == 400 && !unknown.contains(switch))
        {
            Some(switch) => unknown.push(switch),
            None => return Ok(unknown),
        }
    }
}

/// Asks all queries; the first one decides whether the step is available.
pub async fn run(gateway: &Gateway, set: &RagSet, step: &Step, asking: &Asking) -> Result<StepOutcome> {
    let name = &set.knowledge_base;
    let Some(first) = set.queries.first() else { return Ok(StepOutcome::Measured(Vec::new())) };
    let probe = gateway.search(name, &body(first, step, asking.top_k, asking)).await?;
    let unavailable = match &probe.outcome {
        Ok(found) => left_out(step, found),
        Err(refused) => is_unavailable(step, refused).then(|| refused.to_string()),
    };
    if let Some(reason) = unavailable {
        return Ok(StepOutcome::Unavailable(reason));
    }
    for query in set.queries.iter().take(asking.n_warmup) {
        gateway.search(name, &body(query, step, asking.top_k, asking)).await?;
    }
    let bar = progress_bar(&format!("{} {}", set.key, step.name), set.queries.len());
    let asked = stream::iter(&set.queries).map(|query| {
        let bar = &bar;
        async move {
            let row = ask(gateway, set, query, step, asking).await;
            bar.inc(1);
            row
        }
    });
    let rows: Vec<Result<Row>> = asked.buffered(asking.concurrency.max(1)).collect().await;
    bar.finish_and_clear();
    Ok(StepOutcome::Measured(rows.into_iter().collect::<Result<_>>()?))
}

async fn ask(gateway: &Gateway, set: &RagSet, query: &Query, step: &Step, asking: &Asking) -> Result<Row> {
    let name = &set.knowledge_base;
    let mut found = gateway.search(name, &body(query, step, asking.top_k, asking)).await?;
    let mut deep_hits = None;
    // Compression is measured on the chunks that would be sent, not on the deeper list that the ranking is measured on.
    if step.has("compress") && asking.context_chunks != asking.top_k && found.outcome.is_ok() {
        let deep = std::mem::replace(
            &mut found,
            gateway.search(name, &body(query, step, asking.context_chunks, asking)).await?,
        );
        deep_hits = deep.outcome.ok().map(|deep| deep.results);
    }
    let mut row = row(query, found, deep_hits.as_deref(), asking);
    row.set.clone_from(&set.key);
    row.step.clone_from(&step.name);
    Ok(row)
}

fn body(query: &Query, step: &Step, top_k: usize, asking: &Asking) -> Value {
    let mut body = json!({"query": query.question, "top_k": top_k});
    if let Some(steps) = step.body(&asking.unknown_switches) {
        body["steps"] = steps;
    }
    if let Some(max_tokens) = asking.max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    body
}

fn is_unavailable(step: &Step, refused: &Refused) -> bool {
    UNAVAILABLE.contains(&refused.status) && step.is_named_in(&refused.message)
}

/// The note of a server that answers without the reranker it was asked for.
fn left_out(step: &Step, found: &Found) -> Option<String> {
    let is_reranked = found.results.iter().any(|hit| hit.score_of("rerank").is_some());
    let is_left_out = step.has("rerank") && !is_reranked && !found.results.is_empty() && !found.trace.notes.is_empty();
    is_left_out.then(|| found.trace.notes.join("; "))
}

/// The row of an answer; `deep` is the longer ranking where it was asked for separately.
fn row(query: &Query, found: Timed<Found>, deep: Option<&[Hit]>, asking: &Asking) -> Row {
    let client_ms = found.client.as_secs_f64() * 1e3;
    let found = match found.outcome {
        Ok(found) => found,
        Err(refused) => {
            let values = metrics::failed(&query.gold, !query.answer_strings.is_empty());
            return Row {
                query: query.id.clone(),
                values,
                client_ms,
                error: Some(refused.to_string()),
                ..Row::default()
            };
        }
    };
    let ranking = deep.unwrap_or(&found.results);
    let documents = documents_in_order(ranking.iter().map(|hit| hit.document.as_str()));
    let mut values = metrics::ranking(&documents, &query.gold);
    values.extend(sent_values(query, &found, asking.context_chunks));
    let best = ranking.iter().filter_map(Hit::judgement).max_by(f64::total_cmp);
    let ranked = |document: &&str| Ranked {
        document: (*document).to_string(),
        gain: query.gold.get(*document).copied().unwrap_or_default(),
    };
    Row {
        query: query.id.clone(),
        documents: documents.iter().take(10).map(ranked).collect(),
        pairs: pairs(query, ranking.iter().take(10)),
        action: found.action,
        confidence: found.confidence.or(best),
        values,
        server_ms: found.trace.ms,
        client_ms,
        scored_by: found.results.iter().flat_map(Hit::score_kinds).map(str::to_string).collect(),
        notes: found.trace.notes,
        trace: found.trace.steps.into_iter().map(|step| (step.name, step.ms)).collect(),
        ..Row::default()
    }
}

/// Judgements of chunks with the label "contains an answer string".
pub fn pairs<'a>(query: &Query, hits: impl Iterator<Item = &'a Hit>) -> Vec<(f64, bool)> {
    if query.answer_strings.is_empty() {
        return Vec::new();
    }
    let is_right = |hit: &Hit| contains_answer(&normalize(&hit.whole_text()), &query.answer_strings);
    hits.filter_map(|hit| Some((hit.judgement()?, is_right(hit)))).collect()
}

/// What the texts say that would be sent to a language model.
fn sent_values(query: &Query, found: &Found, context_chunks: usize) -> Values {
    let chunks: Vec<String> = found.results.iter().take(context_chunks).map(Hit::whole_text).collect();
    let n_chunk_tokens: usize = chunks.iter().map(|text| estimate_tokens(text)).sum();
    let normalized_chunks = chunks.iter().map(|text| normalize(text)).collect::<Vec<_>>();
    let context = found.context.as_ref();
    let normalized_sent = context.map(|context| vec![normalize(&context.text)]);
    let sent = normalized_sent.as_ref().unwrap_or(&normalized_chunks);
    let n_sent_tokens = context.map_or(n_chunk_tokens, |context| estimate_tokens(&context.text));

    let mut values = Values::from([("tokens", n_sent_tokens as f64), ("tokens_chunks", n_chunk_tokens as f64)]);
    if !query.answer_strings.is_empty() {
        let is_in = |texts: &[String]| texts.iter().any(|text| contains_answer(text, &query.answer_strings));
        values.insert("ans5", f64::from(is_in(sent)));
        values.insert("ans5_chunks", f64::from(is_in(&normalized_chunks)));
    }
    let supporting: Vec<String> = query.supporting_sentences.iter().map(|sentence| normalize(sentence)).collect();
    if !supporting.is_empty() {
        let n_sent =
            supporting.iter().filter(|sentence| sent.iter().any(|text| text.contains(sentence.as_str()))).count();
        values.insert("support", n_sent as f64 / supporting.len() as f64);
    }
    if let Some(context) = context {
        values.extend(context.tokens.map(|tokens| ("tokens_server", tokens)));
        let n_sentences = context.sentences.len();
        if n_sentences > 0 && !query.gold.is_empty() {
            let n_gold =
                context.sentences.iter().filter(|sentence| query.gold.contains_key(&sentence.document)).count();
            values.insert("context_gold", n_gold as f64 / n_sentences as f64);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rag::metrics::Gains;

    const ASKING: Asking = Asking {
        top_k: 20,
        context_chunks: 2,
        max_tokens: None,
        concurrency: 1,
        n_warmup: 0,
        unknown_switches: Vec::new(),
    };

    fn query() -> Query {
        Query {
            id: "q".into(),
            question: "where?".into(),
            answers: vec!["Reno".into()],
            answer_strings: vec![" reno ".into()],
            supporting_sentences: vec!["She moved to Reno.".into(), "Never said.".into()],
            is_unanswerable: None,
            gold: Gains::from([("b".to_string(), 1)]),
        }
    }

    fn timed(body: Value) -> Timed<Found> {
        Timed { outcome: Ok(serde_json::from_value(body).unwrap()), client: Duration::from_millis(5) }
    }

    #[test]
    fn chunks_become_documents_and_only_the_first_texts_count_as_sent() {
        let found = timed(json!({"results": [
            {"document": "a", "text": "nothing", "scores": {"rerank": 0.2}},
            {"document": "a", "title": "A", "text": "more", "scores": {"rerank": null}},
            {"document": "b", "header": "B > C", "text": "she moved to reno", "scores": {"rerank": 0.9}},
        ], "trace": {"ms": 3.5, "steps": [{"name": "dense", "ms": 1.5, "candidates": 3}]}}));
        let row = row(&query(), found, None, &ASKING);
        let values = &row.values;
        assert_eq!((values["r2"], values["mrr10"], values["ans5"], values["support"]), (1.0, 0.5, 0.0, 0.0));
        assert_eq!(row.documents.iter().map(|ranked| ranked.gain).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(row.pairs, [(0.2, false), (0.9, true)]);
        assert_eq!((row.confidence, row.server_ms, row.trace["dense"]), (Some(0.9), Some(3.5), 1.5));
        // "nothing" has 7 letters, "A" and "more" at most 6.
        assert_eq!((values["tokens"], values.get("context_gold")), (4.0, None));
        assert_eq!(row.scored_by.iter().collect::<Vec<_>>(), ["rerank"]);
    }

    #[test]
    fn a_compressed_context_is_what_is_sent() {
        let found = timed(json!({"results": [{"document": "a", "text": "one two three four"}], "action": "correct",
            "confidence": 0.7, "context": {"text": "Reno", "tokens": 3,
            "sentences": [{"document": "a"}, {"document": "b"}]}}));
        let deep: Vec<Hit> = serde_json::from_value(json!([{"document": "b", "text": ""}])).unwrap();
        let row = row(&query(), found, Some(&deep), &ASKING);
        let values = &row.values;
        assert_eq!((values["ans5"], values["ans5_chunks"], values["r2"]), (1.0, 0.0, 1.0));
        assert_eq!((values["tokens"], values["tokens_chunks"], values["tokens_server"]), (1.0, 4.0, 3.0));
        assert_eq!((values["context_gold"], row.confidence), (0.5, Some(0.7)));
    }

    #[test]
    fn nothing_relevant_sends_nothing() {
        let row = row(&query(), timed(json!({"results": [], "action": "incorrect"})), None, &ASKING);
        assert_eq!((row.values["tokens"], row.values["ans5"], row.values["r5"]), (0.0, 0.0, 0.0));
        assert_eq!(row.confidence, None);
    }

    #[test]
    fn a_failed_query_counts_as_zero() {
        let refused = Refused { status: 500, message: "oops".into() };
        let row = row(&query(), Timed { outcome: Err(refused), client: Duration::ZERO }, None, &ASKING);
        assert_eq!((row.values["r5"], row.values["ans5"], row.values.get("tokens")), (0.0, 0.0, None));
        assert_eq!(row.error.unwrap(), "status 500: oops");
    }

    #[test]
    fn a_server_that_says_it_left_the_reranker_out_did_not_rerank() {
        let rerank = Step::parse("rerank").unwrap();
        let found = |scores: Value, notes: Value| -> Found {
            let results = json!([{"document": "a", "text": "", "scores": scores}]);
            serde_json::from_value(json!({"results": results, "trace": {"notes": notes}})).unwrap()
        };
        for (scores, notes, expected) in [
            (json!({"fused": 1}), json!(["no reranker"]), Some("no reranker")),
            (json!({"rerank": 1}), json!(["something else"]), None),
            (json!({"fused": 1}), json!([]), None),
        ] {
            assert_eq!(left_out(&rerank, &found(scores, notes)).as_deref(), expected);
        }
        assert_eq!(left_out(&Step::parse("rrf").unwrap(), &found(json!({}), json!(["x"]))), None);
    }

    #[test]
    fn only_a_named_part_makes_a_step_unavailable() {
        let rerank = Step::parse("rerank").unwrap();
        for (status, message, expected) in [
            (503, "the reranker is not installed", true),
            (400, "unknown (param steps.hop)", true),
            (500, "the reranker is not installed", false),
            (400, "top_k too large", false),
        ] {
            assert_eq!(is_unavailable(&rerank, &Refused { status, message: message.into() }), expected, "{message}");
        }
    }
}
