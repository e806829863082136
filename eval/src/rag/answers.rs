//! `--answers`: asks every question with `…/ask` and scores the answers: exact match, F1 and answer strings without any language
//! model, and factuality grades where a judge is given. A refusal is counted as one, never graded.

use std::collections::BTreeMap;

use anyhow::Result;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::Gateway;
use super::judge::{Grading, Judge};
use super::ladder::Asking;
use super::progress_bar;
use super::set::{Query, RagSet};
use super::text::{contains_answer, exact_match_and_f1, normalize};
use crate::stats::{mean, percentile, sorted};

/// One answered question.
#[derive(Serialize, Debug, Clone, Default)]
pub struct AnswerRow {
    pub set: String,
    pub step: &'static str,
    pub query: String,
    pub question: String,
    pub reference: String,
    pub answer: String,
    pub is_refusal: bool,
    pub is_unanswerable: bool,
    pub exact_match: Option<f64>,
    pub f1: Option<f64>,
    pub contains_answer: Option<f64>,
    pub client_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grading: Option<Grading>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks the questions one after the other, then lets the judge grade the answers.
pub async fn run(gateway: &Gateway, set: &RagSet, asking: &Asking, judge: Option<&Judge>) -> Result<Vec<AnswerRow>> {
    let bar = progress_bar(&format!("{} answers", set.key), set.queries.len());
    let asked = stream::iter(&set.queries).map(|query| {
        let bar = &bar;
        async move {
            let row = ask(gateway, set, query).await;
            bar.inc(1);
            row
        }
    });
    let rows: Vec<Result<AnswerRow>> = asked.buffered(asking.concurrency.max(1)).collect().await;
    bar.finish_and_clear();
    let mut rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
    if let Some(judge) = judge {
        let bar = progress_bar(&format!("{} judge", set.key), rows.len());
        for row in rows.iter_mut() {
            if row.error.is_none() && !row.is_refusal && !row.reference.is_empty() {
                row.grading = Some(judge.grade(&row.question, &row.reference, &row.answer).await);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    Ok(rows)
}

async fn ask(gateway: &Gateway, set: &RagSet, query: &Query) -> Result<AnswerRow> {
    let asked = gateway.ask(&set.knowledge_base, &json!({"query": query.question, "stream": false})).await?;
    let mut row = AnswerRow {
        set: set.key.clone(),
        step: "ask",
        query: query.id.clone(),
        question: query.question.clone(),
        reference: query.answers.join(" / "),
        is_unanswerable: query.is_unanswerable == Some(true),
        client_ms: asked.client.as_secs_f64() * 1e3,
        ..AnswerRow::default()
    };
    match asked.outcome {
        Ok(body) => {
            (row.answer, row.is_refusal) = read_answer(&body);
            if !query.answers.is_empty() && !row.is_unanswerable {
                let given = if row.is_refusal { "" } else { row.answer.as_str() };
                let (exact_match, f1) = exact_match_and_f1(given, &query.answers);
                (row.exact_match, row.f1) = (Some(exact_match), Some(f1));
                let is_in = contains_answer(&normalize(given), &query.answer_strings);
                row.contains_answer = (!query.answer_strings.is_empty()).then_some(f64::from(is_in));
            }
        }
        Err(refused) => row.error = Some(refused.to_string()),
    }
    Ok(row)
}

/// The text and whether it is a refusal: `answer` and `refused`, or a chat completion with them beside its choices.
fn read_answer(body: &Value) -> (String, bool) {
    let text =
        ["/answer", "/answer/text", "/choices/0/message/content"].iter().find_map(|at| body.pointer(at)?.as_str());
    let refused = ["/refused", "/answer/refused", "/rag/refused"].iter().find_map(|at| body.pointer(at)?.as_bool());
    let text = text.unwrap_or_default().trim().to_string();
    let is_refusal = refused.unwrap_or(false) || text.is_empty();
    (text, is_refusal)
}

/// Means over the rows; a failed question is a wrong answer.
pub fn metrics(rows: &[AnswerRow], judge: Option<&Judge>) -> BTreeMap<&'static str, f64> {
    let answerable = || rows.iter().filter(|row| !row.is_unanswerable);
    let mut metrics = BTreeMap::from([
        ("n", rows.len() as f64),
        ("errors", rows.iter().filter(|row| row.error.is_some()).count() as f64),
        ("false_refusal", mean(answerable().map(|row| f64::from(row.is_refusal)))),
    ]);
    let mut put_share = |name, value: fn(&AnswerRow) -> Option<f64>| {
        if answerable().any(|row| value(row).is_some()) {
            metrics.insert(name, mean(answerable().map(|row| value(row).unwrap_or_default())));
        }
    };
    put_share("em", |row| row.exact_match);
    put_share("f1", |row| row.f1);
    put_share("contains", |row| row.contains_answer);
    if rows.iter().any(|row| row.is_unanswerable) {
        let unanswerable = rows.iter().filter(|row| row.is_unanswerable);
        metrics.insert("refusal", mean(unanswerable.map(|row| f64::from(row.is_refusal))));
    }
    let latencies = sorted(rows.iter().map(|row| row.client_ms));
    metrics.insert("client_ms_p50", percentile(&latencies, 50.0));
    metrics.insert("client_ms_p95", percentile(&latencies, 95.0));
    let gradings: Vec<&Grading> = rows.iter().filter_map(|row| row.grading.as_ref()).collect();
    if let Some(judge) = judge.filter(|_| !gradings.is_empty()) {
        metrics.extend(judge.metrics(&gradings));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_every_shape() {
        for (body, text, is_refusal) in [
            (json!({"answer": " Reno ", "refused": false}), "Reno", false),
            (json!({"answer": "I do not know.", "refused": true}), "I do not know.", true),
            (json!({"choices": [{"message": {"content": "Reno"}}]}), "Reno", false),
            (json!({"choices": [{"message": {"content": "No idea"}}], "rag": {"refused": true}}), "No idea", true),
            (json!({"answer": {"text": "Reno"}}), "Reno", false),
            (json!({"answer": null}), "", true),
            (json!([]), "", true),
        ] {
            assert_eq!(read_answer(&body), (text.to_string(), is_refusal), "{body}");
        }
    }

    #[test]
    fn refusals_are_wrong_where_there_is_an_answer_and_right_where_there_is_none() {
        let row =
            |is_unanswerable, is_refusal, f1| AnswerRow { is_unanswerable, is_refusal, f1, ..AnswerRow::default() };
        let rows =
            [row(false, false, Some(1.0)), row(false, true, Some(0.0)), row(true, true, None), row(true, false, None)];
        let metrics = metrics(&rows, None);
        assert_eq!((metrics["f1"], metrics["false_refusal"], metrics["refusal"]), (0.5, 0.5, 0.5));
        assert!(!metrics.contains_key("em"));
    }
}
