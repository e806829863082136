//! The flywheel in figures, for people.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::Serialize;

use super::database::Store;
use super::error::FlywheelError;
use super::query::{Filter, HAS_SCORE, IN_FILTER};
use super::record::{AnswerOutcome, Role};
use super::rows;

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
    use super::super::testing::{answer, insert, store};
    use super::*;

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
}
