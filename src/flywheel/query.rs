//! Reading: statistics for people, rows for the trainer.

use std::collections::BTreeMap;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, named_params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::database::Store;
use super::error::FlywheelError;
use super::record::{AnswerOutcome, JsonText, Mode, Role, StoredExchange};
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

/// The flywheel in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    pub n_exchanges: u64,
    pub n_answers: u64,
    pub n_feedback: u64,
    /// Share of exchanges with at least one scored answer; `None` without exchanges.
    pub scored_share: Option<f64>,
    /// Of all answers, US dollars.
    pub cost_usd: f64,
    /// Arrival of the first and of the last exchange, Unix milliseconds.
    pub oldest_ms: Option<i64>,
    pub newest_ms: Option<i64>,
    /// All answers, by model.
    pub by_model: Vec<GroupStats>,
    /// Served answers, by route.
    pub by_route: Vec<GroupStats>,
    /// The whole file, whatever the filter.
    pub db_bytes: u64,
}

/// Answers that have something in common. Latencies are those of complete answers, milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct GroupStats {
    pub name: String,
    pub n: u64,
    pub ok_share: f64,
    pub n_scored: u64,
    pub score_mean: Option<f64>,
    pub latency_ms_mean: Option<f64>,
    pub latency_ms_p50: Option<f64>,
    pub latency_ms_p95: Option<f64>,
    pub cost_usd: f64,
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
    /// Counts, shares, latencies and cost of the exchanges in `filter`. Reads them all: for people, not per request.
    pub fn stats(&self, filter: &Filter) -> Result<Stats, FlywheelError> {
        let mut stats = self.read("reading statistics", |connection| {
            let snapshot = connection.transaction()?;
            read_stats(&snapshot, filter)
        })?;
        stats.db_bytes = self.bytes_on_disk();
        Ok(stats)
    }

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

const HAS_SCORE: &str = "EXISTS (SELECT 1 FROM answer a WHERE a.exchange_id = e.id AND a.score IS NOT NULL)";

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

fn read_stats(connection: &Connection, filter: &Filter) -> rusqlite::Result<Stats> {
    let params = filter.params();
    let params = params.each_ref().map(|(name, value)| (*name, value.as_ref()));
    let mut stats = connection.query_row(
        &format!(
            "SELECT count(*), coalesce(sum({HAS_SCORE}), 0), min(at_ms), max(at_ms),
                 coalesce(sum((SELECT count(*) FROM feedback f WHERE f.exchange_id = e.id)), 0)
             FROM exchange e WHERE {IN_FILTER}"
        ),
        &params,
        |row| {
            let (n_exchanges, n_scored) = (rows::count(row, 0)?, rows::count(row, 1)?);
            Ok(Stats {
                n_exchanges,
                n_answers: 0,
                n_feedback: rows::count(row, 4)?,
                scored_share: share(n_scored, n_exchanges),
                cost_usd: 0.0,
                oldest_ms: row.get(2)?,
                newest_ms: row.get(3)?,
                by_model: Vec::new(),
                by_route: Vec::new(),
                db_bytes: 0,
            })
        },
    )?;
    let (mut by_model, mut by_route) = (BTreeMap::new(), BTreeMap::new());
    let mut statement = connection.prepare(&format!(
        "SELECT e.route, a.role, a.model, a.outcome, a.score, a.latency_ms, a.cost_usd
         FROM exchange e JOIN answer a ON a.exchange_id = e.id WHERE {IN_FILTER}"
    ))?;
    let mut answers = statement.query(&params)?;
    while let Some(row) = answers.next()? {
        let sample =
            Sample { outcome: row.get(3)?, score: row.get(4)?, latency_ms: row.get(5)?, cost_usd: row.get(6)? };
        stats.n_answers += 1;
        stats.cost_usd += sample.cost_usd.unwrap_or(0.0);
        group(&mut by_model, row.get_ref(2)?.as_str()?).add(&sample);
        if row.get::<_, Role>(1)? == Role::Served {
            group(&mut by_route, row.get_ref(0)?.as_str()?).add(&sample);
        }
    }
    let finish = |groups: BTreeMap<String, Group>| groups.into_iter().map(|(name, group)| group.finish(name)).collect();
    stats.by_model = finish(by_model);
    stats.by_route = finish(by_route);
    Ok(stats)
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

struct Sample {
    outcome: AnswerOutcome,
    score: Option<f64>,
    latency_ms: f64,
    cost_usd: Option<f64>,
}

#[derive(Default)]
struct Group {
    n: u64,
    n_scored: u64,
    score_sum: f64,
    cost_usd: f64,
    ok_latencies_ms: Vec<f64>,
}

impl Group {
    fn add(&mut self, sample: &Sample) {
        self.n += 1;
        self.cost_usd += sample.cost_usd.unwrap_or(0.0);
        if let Some(score) = sample.score {
            self.n_scored += 1;
            self.score_sum += score;
        }
        if sample.outcome == AnswerOutcome::Ok {
            self.ok_latencies_ms.push(sample.latency_ms);
        }
    }

    fn finish(mut self, name: String) -> GroupStats {
        let latencies_ms = &mut self.ok_latencies_ms;
        latencies_ms.sort_by(f64::total_cmp);
        let n_ok = latencies_ms.len();
        // Nearest rank: the smallest value that `percent` of all do not exceed.
        let percentile = |percent: usize| {
            let rank = (n_ok * percent).div_ceil(100);
            latencies_ms.get(rank.saturating_sub(1)).copied()
        };
        GroupStats {
            name,
            n: self.n,
            ok_share: n_ok as f64 / self.n as f64,
            n_scored: self.n_scored,
            score_mean: (self.n_scored > 0).then(|| self.score_sum / self.n_scored as f64),
            latency_ms_mean: (n_ok > 0).then(|| latencies_ms.iter().sum::<f64>() / n_ok as f64),
            latency_ms_p50: percentile(50),
            latency_ms_p95: percentile(95),
            cost_usd: self.cost_usd,
        }
    }
}

/// The group called `name`; the name is copied only the first time.
fn group<'a>(groups: &'a mut BTreeMap<String, Group>, name: &str) -> &'a mut Group {
    if !groups.contains_key(name) {
        groups.insert(name.to_owned(), Group::default());
    }
    groups.entry(name.to_owned()).or_default()
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::super::record::AnswerRecord;
    use super::super::testing::{answer, exchange, store};
    use super::*;

    fn insert(store: &Store, id: &str, at_ms: i64, answers: Vec<AnswerRecord>) {
        let mut record = exchange(id, at_ms);
        record.answers = answers;
        assert!(store.write("test", |c| rows::insert_exchange(c, &record, 1_000 + at_ms)).unwrap());
    }

    fn ids(store: &Store, filter: &Filter, limit: usize) -> Vec<String> {
        store.examples(filter, limit).unwrap().into_iter().map(|row| row.exchange_id).collect()
    }

    #[test]
    fn statistics_add_up() {
        let (_folder, store) = store();
        for i in 0..20 {
            let mut small = answer("small", (i < 10).then_some(0.5));
            small.latency_ms = f64::from(i + 1);
            let large = AnswerRecord { role: Role::Shadow, outcome: AnswerOutcome::Failed, ..answer("large", None) };
            insert(&store, &format!("r{i:02}"), i64::from(i), vec![small, large]);
        }
        let stats = store.stats(&Filter::default()).unwrap();
        assert_eq!((stats.n_exchanges, stats.n_answers, stats.n_feedback), (20, 40, 0));
        assert_eq!((stats.scored_share, stats.oldest_ms, stats.newest_ms), (Some(0.5), Some(0), Some(19)));
        assert!((stats.cost_usd - 0.004).abs() < 1e-12, "{}", stats.cost_usd);
        assert!(stats.db_bytes > 4096);
        let [large, small] = &stats.by_model[..] else { panic!("{:?}", stats.by_model) };
        assert_eq!((large.name.as_str(), large.n, large.ok_share, large.latency_ms_p50), ("large", 20, 0.0, None));
        assert_eq!((small.n, small.ok_share, small.n_scored, small.score_mean), (20, 1.0, 10, Some(0.5)));
        assert_eq!(
            (small.latency_ms_mean, small.latency_ms_p50, small.latency_ms_p95),
            (Some(10.5), Some(10.0), Some(19.0))
        );
        let [chat] = &stats.by_route[..] else { panic!("{:?}", stats.by_route) };
        assert_eq!((chat.name.as_str(), chat.n, chat.ok_share), ("chat", 20, 1.0));

        let later = store.stats(&Filter { since_ms: Some(15), until_ms: Some(18), ..Filter::default() }).unwrap();
        assert_eq!((later.n_exchanges, later.scored_share), (3, Some(0.0)));
        let nobody = store.stats(&Filter { tenant: Some("other".into()), ..Filter::default() }).unwrap();
        assert_eq!((nobody.n_exchanges, nobody.scored_share, nobody.by_model.len()), (0, None, 0));
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
