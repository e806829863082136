//! Reading: which exchanges, one of them whole, rows for the trainer.

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, named_params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::database::Store;
use super::error::FlywheelError;
use super::record::{JsonText, Mode, StoredExchange};
use super::rows;

/// Which exchanges to look at; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    pub tenant: Option<String>,
    pub route: Option<String>,
    pub mode: Option<Mode>,
    /// Arrived at this time or later, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Arrived before this time.
    pub until_ms: Option<i64>,
}

/// One prompt and what each model made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingRow {
    pub exchange_id: String,
    pub at_ms: i64,
    pub prompt_hash: String,
    /// `None` when redacted.
    pub messages: Option<Value>,
    pub features: Option<Vec<u8>>,
    pub features_version: Option<u32>,
    /// Scored answers only; at least one.
    pub answers: Vec<TrainingAnswer>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TrainingAnswer {
    pub model: String,
    /// 0 to 1.
    pub score: f64,
    pub latency_ms: f64,
    pub cost_usd: Option<f64>,
}

impl Store {
    /// Everything known about one exchange.
    pub fn exchange(&self, id: &str) -> Result<Option<StoredExchange>, FlywheelError> {
        self.read("reading an exchange", |connection| {
            let snapshot = connection.transaction()?;
            rows::load_exchange(&snapshot, id)
        })
    }

    /// The newest `limit` exchanges in `filter` that have a scored answer, oldest first; the order is the same every
    /// time.
    pub fn examples(&self, filter: &Filter, limit: usize) -> Result<Vec<TrainingRow>, FlywheelError> {
        let mut examples = Vec::new();
        self.for_each_example(filter, limit, |row| examples.push(row))?;
        Ok(examples)
    }

    /// [`Store::examples`] one by one, for a caller that turns each prompt into features and lets the text go.
    pub fn for_each_example(
        &self,
        filter: &Filter,
        limit: usize,
        mut visit: impl FnMut(TrainingRow),
    ) -> Result<(), FlywheelError> {
        self.read("reading training rows", |connection| {
            let snapshot = connection.transaction()?;
            visit_examples(&snapshot, filter, limit, &mut visit)
        })
    }

    /// What shadow calls of `router` have cost since then (Unix milliseconds), US dollars.
    pub fn shadow_cost_since(&self, router: &str, since_ms: i64) -> Result<f64, FlywheelError> {
        self.read("adding up shadow calls", |connection| {
            connection.query_row(
                "SELECT coalesce(sum(a.cost_usd), 0.0) FROM exchange e JOIN answer a ON a.exchange_id = e.id
                 WHERE e.at_ms >= ?2 AND e.router = ?1 AND a.role = 'shadow'",
                rusqlite::params![router, since_ms],
                |row| row.get(0),
            )
        })
    }

    /// How many exchanges have an answer scored at `since_ms` (Unix milliseconds) or later; what a retraining trigger
    /// compares with its threshold.
    pub fn scored_rows_since(&self, since_ms: i64) -> Result<u64, FlywheelError> {
        self.read("counting scored rows", |connection| {
            // Left alone SQLite walks all answers in the order of their exchanges, because that is what DISTINCT likes.
            connection.query_row(
                "SELECT count(DISTINCT exchange_id) FROM answer INDEXED BY answer_by_score_time WHERE scored_at_ms >= ?1",
                [since_ms],
                |row| rows::count(row, 0),
            )
        })
    }
}

/// `Filter` in SQL; `e` is the exchange table. The lower bound in time has an index.
pub(super) const IN_FILTER: &str = "e.at_ms >= :since_ms AND (:until_ms IS NULL OR e.at_ms < :until_ms) AND (:tenant IS NULL OR e.tenant = :tenant) \
    AND (:route IS NULL OR e.route = :route) AND (:mode IS NULL OR e.mode = :mode)";

pub(super) const HAS_SCORE: &str = "EXISTS (SELECT 1 FROM answer a WHERE a.exchange_id = e.id AND a.score IS NOT NULL)";

impl Filter {
    /// Values for the parameters of `IN_FILTER`.
    pub(super) fn params(&self) -> [(&'static str, Box<dyn ToSql + '_>); 5] {
        [
            (":since_ms", Box::new(self.since_ms.unwrap_or(i64::MIN))),
            (":until_ms", Box::new(self.until_ms)),
            (":tenant", Box::new(&self.tenant)),
            (":route", Box::new(&self.route)),
            (":mode", Box::new(&self.mode)),
        ]
    }
}

fn visit_examples(
    connection: &Connection,
    filter: &Filter,
    limit: usize,
    visit: &mut impl FnMut(TrainingRow),
) -> rusqlite::Result<()> {
    let Some(skip) = limit.checked_sub(1) else { return Ok(()) };
    let params = filter.params();
    let mut params: Vec<(&str, &dyn ToSql)> = params.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    let skip = i64::try_from(skip).unwrap_or(i64::MAX);
    // Where the newest `limit` begin. Finding that first spares sorting the prompts themselves.
    let first: Option<(i64, String)> = {
        params.push((":skip", &skip));
        let sql = format!(
            "SELECT e.at_ms, e.id FROM exchange e WHERE {IN_FILTER} AND {HAS_SCORE}
             ORDER BY e.at_ms DESC, e.id DESC LIMIT 1 OFFSET :skip"
        );
        let first = connection.query_row(&sql, &*params, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        params.pop();
        first
    };
    let (first_at_ms, first_id) = first.unwrap_or((i64::MIN, String::new()));
    params.push((":first_at_ms", &first_at_ms));
    params.push((":first_id", &first_id));
    let mut exchanges = connection.prepare(&format!(
        "SELECT e.id, e.at_ms, e.prompt_hash, e.features_version, e.features, e.messages FROM exchange e
         WHERE {IN_FILTER} AND {HAS_SCORE} AND (e.at_ms, e.id) >= (:first_at_ms, :first_id) ORDER BY e.at_ms, e.id"
    ))?;
    let mut answers = connection.prepare(
        "SELECT model, score, latency_ms, cost_usd FROM answer WHERE exchange_id = :id AND score IS NOT NULL ORDER BY ordinal",
    )?;
    let mut exchanges = exchanges.query(&*params)?;
    while let Some(row) = exchanges.next()? {
        let exchange_id: String = row.get("id")?;
        let answers = answers
            .query_map(named_params! {":id": exchange_id}, |row| {
                Ok(TrainingAnswer {
                    model: row.get(0)?,
                    score: row.get(1)?,
                    latency_ms: row.get(2)?,
                    cost_usd: row.get(3)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        visit(TrainingRow {
            exchange_id,
            at_ms: row.get("at_ms")?,
            prompt_hash: row.get("prompt_hash")?,
            messages: row.get::<_, Option<String>>("messages")?.map(|text| JsonText(text).value()),
            features: row.get("features")?,
            features_version: row.get("features_version")?,
            answers,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::{AnswerRecord, Role};
    use super::super::testing::{answer, exchange, insert, store};
    use super::*;

    fn ids(store: &Store, filter: &Filter, limit: usize) -> Vec<String> {
        store.examples(filter, limit).unwrap().into_iter().map(|row| row.exchange_id).collect()
    }

    #[test]
    fn examples_are_the_newest_scored_ones_in_order() {
        let (_folder, store) = store();
        insert(&store, "c", 2, vec![answer("small", Some(1.0)), answer("large", None), answer("code", Some(0.0))]);
        insert(&store, "a", 3, vec![answer("small", Some(1.0))]);
        insert(&store, "b", 2, vec![answer("small", Some(1.0))]);
        insert(&store, "unscored", 4, vec![answer("small", None)]);
        let all = Filter::default();
        assert_eq!(ids(&store, &all, 10), ["b", "c", "a"]);
        assert_eq!(ids(&store, &all, 2), ["c", "a"]);
        assert_eq!(ids(&store, &all, 0), Vec::<String>::new());
        assert_eq!(ids(&store, &all, usize::MAX), ["b", "c", "a"]);
        assert_eq!(ids(&store, &Filter { until_ms: Some(3), ..Filter::default() }, 1), ["c"]);
        assert_eq!(ids(&store, &Filter { mode: Some(Mode::Training), ..Filter::default() }, 9), Vec::<String>::new());

        let rows = store.examples(&all, 10).unwrap();
        let stored = exchange("c", 2);
        assert_eq!(
            rows[1].messages.as_ref().map(|messages| crate::flywheel::JsonText(messages.to_string())),
            stored.messages
        );
        assert_eq!((&rows[1].features, rows[1].features_version), (&stored.features, stored.features_version));
        let answers: Vec<_> = rows[1].answers.iter().map(|answer| (answer.model.as_str(), answer.score)).collect();
        assert_eq!(answers, [("small", 1.0), ("code", 0.0)]);
    }

    #[test]
    fn shadow_calls_are_added_up_by_router_and_day() {
        let (_folder, store) = store();
        let shadow = || AnswerRecord { role: Role::Shadow, ..answer("large", None) };
        insert(&store, "before", 1, vec![shadow()]);
        insert(&store, "a", 2, vec![shadow(), answer("small", None)]);
        insert(&store, "b", 3, vec![shadow()]);
        let since = store.exchange("a").unwrap().unwrap().exchange.at_ms;
        assert!((store.shadow_cost_since("default", since).unwrap() - 0.0002).abs() < 1e-9);
        assert_eq!(store.shadow_cost_since("other", since).unwrap(), 0.0);
    }

    #[test]
    fn the_retraining_trigger_counts_exchanges_by_score_time() {
        let (_folder, store) = store();
        insert(&store, "a", 1, vec![answer("small", Some(1.0)), answer("large", Some(1.0))]);
        insert(&store, "b", 2, vec![answer("small", Some(1.0))]);
        insert(&store, "c", 3, vec![answer("small", None)]);
        assert_eq!([0, 1_001, 1_002, 1_003].map(|since| store.scored_rows_since(since).unwrap()), [2, 2, 1, 0]);
    }

    #[test]
    fn an_exchange_reads_back_as_recorded() {
        let (_folder, store) = store();
        let mut record = exchange("a", 1);
        record.answers.push(AnswerRecord { scored_at_ms: Some(7), ..answer("large", Some(0.25)) });
        store.write("test", |c| rows::insert_exchange(c, &record, 5)).unwrap();
        assert_eq!(store.exchange("a").unwrap(), Some(StoredExchange { exchange: record, feedback: Vec::new() }));
        assert_eq!(store.exchange("b").unwrap(), None);
    }
}
