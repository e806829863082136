//! Records to rows and back: every statement that knows the columns of `exchange`, `answer` and `feedback`.
//!
//! The functions run inside the caller's transaction. An exchange takes several statements, so a caller that goes on
//! after an error must take back what was written before it. Parameters are numbered, because SQLite looks for names with
//! every record.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, RowIndex, params};
use serde_json::Value;

use super::record::{
    AnswerRecord, DecisionRecord, ExchangeRecord, FeedbackRecord, JsonText, Rates, ScoreRecord, ScoreTarget,
    StoredExchange,
};

/// Stores an exchange with its answers. False: an exchange with this id exists already, nothing was stored.
pub(super) fn insert_exchange(connection: &Connection, record: &ExchangeRecord, now_ms: i64) -> rusqlite::Result<bool> {
    let decision = record.decision.as_ref();
    let n_inserted = connection
        .prepare_cached(
            "INSERT INTO exchange (id, at_ms, tenant, route, consumer, mode, stream, prompt_hash, router, router_version,
                 chosen, reasons, features_version, features, messages)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            record.id,
            record.at_ms,
            record.tenant,
            record.route,
            record.consumer,
            record.mode,
            record.stream,
            record.prompt_hash,
            decision.map(|decision| &decision.router),
            decision.and_then(|decision| decision.router_version),
            decision.map(|decision| &decision.chosen),
            decision.map(|decision| &decision.reasons.0),
            record.features_version,
            record.features,
            // JSON null means "no messages" when an export is read back, so it means that here too.
            record.messages.as_ref().map(|messages| messages.0.as_str()).filter(|text| *text != "null"),
        ])?;
    if n_inserted == 0 {
        return Ok(false);
    }
    for (ordinal, answer) in (0..).zip(&record.answers) {
        insert_answer(connection, &record.id, ordinal, answer, now_ms)?;
    }
    Ok(true)
}

/// Adds one more answer. False: no such exchange.
pub(super) fn append_answer(
    connection: &Connection,
    exchange_id: &str,
    answer: &AnswerRecord,
    now_ms: i64,
) -> rusqlite::Result<bool> {
    let next_ordinal = connection
        .prepare_cached(
            "SELECT (SELECT coalesce(max(ordinal), -1) + 1 FROM answer WHERE exchange_id = e.id)
             FROM exchange e WHERE e.id = ?1",
        )?
        .query_row([exchange_id], |row| row.get(0))
        .optional()?;
    let Some(ordinal) = next_ordinal else { return Ok(false) };
    insert_answer(connection, exchange_id, ordinal, answer, now_ms)?;
    Ok(true)
}

/// Gives an answer its score unless it has a newer one. False: no such answer.
pub(super) fn set_score(connection: &Connection, record: &ScoreRecord) -> rusqlite::Result<bool> {
    let ordinal: Option<i64> = match &record.target {
        ScoreTarget::Served => connection
            .prepare_cached("SELECT max(ordinal) FROM answer WHERE exchange_id = ?1 AND role = 'served'")?
            .query_row([&record.exchange_id], |row| row.get(0))?,
        ScoreTarget::Model(model) => connection
            .prepare_cached("SELECT max(ordinal) FROM answer WHERE exchange_id = ?1 AND model = ?2")?
            .query_row([&record.exchange_id, model], |row| row.get(0))?,
    };
    let Some(ordinal) = ordinal else { return Ok(false) };
    connection
        .prepare_cached(
            "UPDATE answer SET score = ?3, score_source = ?4, scored_at_ms = ?5
             WHERE exchange_id = ?1 AND ordinal = ?2 AND coalesce(scored_at_ms <= ?5, TRUE)",
        )?
        .execute(params![record.exchange_id, ordinal, record.score, record.source, record.at_ms])?;
    Ok(true)
}

/// Stores feedback. False: no such exchange, it is not this tenant's (`None`: any tenant's), or it is not for its giver to rate.
pub(super) fn insert_feedback(
    connection: &Connection,
    exchange_id: &str,
    tenant: Option<&str>,
    rates: Rates,
    feedback: &FeedbackRecord,
) -> rusqlite::Result<bool> {
    let n_inserted = connection
        .prepare_cached(
            "INSERT INTO feedback (exchange_id, at_ms, score, consumer, text)
             SELECT e.id, ?3, ?4, ?5, ?6 FROM exchange e
             WHERE e.id = ?1 AND (?2 IS NULL OR e.tenant = ?2) AND (?7 OR e.consumer IS ?5)",
        )?
        .execute(params![
            exchange_id,
            tenant,
            feedback.at_ms,
            feedback.score,
            feedback.consumer,
            feedback.text,
            rates == Rates::All
        ])?;
    Ok(n_inserted == 1)
}

/// The columns `exchange_from_row` reads; `e` is the exchange table.
pub(super) const EXCHANGE_COLUMNS: &str = "e.id, e.at_ms, e.tenant, e.route, e.consumer, e.mode, e.stream, e.prompt_hash, \
    e.router, e.router_version, e.chosen, e.reasons, e.features_version, e.features, e.messages";

/// An exchange by id, with everything that belongs to it.
pub(super) fn load_exchange(connection: &Connection, id: &str) -> rusqlite::Result<Option<StoredExchange>> {
    connection
        .prepare_cached(&format!("SELECT {EXCHANGE_COLUMNS} FROM exchange e WHERE e.id = ?1"))?
        .query_row([id], exchange_from_row)
        .optional()?
        .map(|exchange| complete(connection, exchange))
        .transpose()
}

/// Adds answers and feedback to an exchange read by `exchange_from_row`.
pub(super) fn complete(connection: &Connection, mut exchange: ExchangeRecord) -> rusqlite::Result<StoredExchange> {
    exchange.answers = connection
        .prepare_cached(
            "SELECT role, model, provider, outcome, http_status, latency_ms, first_token_ms, prompt_tokens,
                 completion_tokens, cost_usd, score, score_source, scored_at_ms, error, output
             FROM answer WHERE exchange_id = ?1 ORDER BY ordinal",
        )?
        .query_map([&exchange.id], answer_from_row)?
        .collect::<rusqlite::Result<_>>()?;
    let feedback = connection
        .prepare_cached(
            "SELECT at_ms, score, consumer, text FROM feedback WHERE exchange_id = ?1 ORDER BY at_ms, rowid",
        )?
        .query_map([&exchange.id], feedback_from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(StoredExchange { exchange, feedback })
}

/// An exchange without its answers.
pub(super) fn exchange_from_row(row: &Row<'_>) -> rusqlite::Result<ExchangeRecord> {
    let decision = match (row.get("router")?, row.get("chosen")?, row.get("reasons")?) {
        (Some(router), Some(chosen), Some(reasons)) => {
            let reasons = JsonText(reasons);
            Some(DecisionRecord { router, router_version: row.get("router_version")?, chosen, reasons })
        }
        _ => None,
    };
    Ok(ExchangeRecord {
        id: row.get("id")?,
        at_ms: row.get("at_ms")?,
        tenant: row.get("tenant")?,
        route: row.get("route")?,
        consumer: row.get("consumer")?,
        mode: row.get("mode")?,
        prompt_hash: row.get("prompt_hash")?,
        messages: row.get::<_, Option<String>>("messages")?.map(JsonText),
        features: row.get("features")?,
        features_version: row.get("features_version")?,
        stream: row.get("stream")?,
        decision,
        answers: Vec::new(),
    })
}

/// A JSON column; `None` for NULL.
pub(super) fn json(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Value>> {
    let index = row.as_ref().column_index(column)?;
    let text: Option<String> = row.get(index)?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
}

/// A count; SQLite has no unsigned integers.
pub(super) fn count(row: &Row<'_>, index: impl RowIndex) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(|n| n.max(0).cast_unsigned())
}

/// One row of plain values: an INSERT from a SELECT would cost half as much again, because SQLite then keeps a copy
/// of every page it touches in case a later row fails.
fn insert_answer(
    connection: &Connection,
    exchange_id: &str,
    ordinal: i64,
    answer: &AnswerRecord,
    now_ms: i64,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "INSERT INTO answer (exchange_id, ordinal, role, model, provider, outcome, http_status, latency_ms,
                 first_token_ms, prompt_tokens, completion_tokens, cost_usd, score, score_source, scored_at_ms, error, output)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?
        .execute(params![
            exchange_id,
            ordinal,
            answer.role,
            answer.model,
            answer.provider,
            answer.outcome,
            answer.http_status,
            answer.latency_ms,
            answer.first_token_ms,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.cost_usd,
            answer.score,
            answer.score_source,
            answer.score.map(|_| answer.scored_at_ms.unwrap_or(now_ms)),
            answer.error,
            answer.output,
        ])
}

fn answer_from_row(row: &Row<'_>) -> rusqlite::Result<AnswerRecord> {
    Ok(AnswerRecord {
        role: row.get("role")?,
        model: row.get("model")?,
        provider: row.get("provider")?,
        output: row.get("output")?,
        outcome: row.get("outcome")?,
        error: row.get("error")?,
        http_status: row.get("http_status")?,
        latency_ms: row.get("latency_ms")?,
        first_token_ms: row.get("first_token_ms")?,
        prompt_tokens: row.get("prompt_tokens")?,
        completion_tokens: row.get("completion_tokens")?,
        cost_usd: row.get("cost_usd")?,
        score: row.get("score")?,
        score_source: row.get("score_source")?,
        scored_at_ms: row.get("scored_at_ms")?,
    })
}

fn feedback_from_row(row: &Row<'_>) -> rusqlite::Result<FeedbackRecord> {
    Ok(FeedbackRecord {
        at_ms: row.get("at_ms")?,
        score: row.get("score")?,
        text: row.get("text")?,
        consumer: row.get("consumer")?,
    })
}
