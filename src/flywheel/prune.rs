//! Retention: the oldest exchanges go first, and the file gets smaller, not just emptier. May run in another process
//! than the gateway's.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, named_params};
use serde::Serialize;

use super::database::{LOCK_GAP, Store};
use super::error::FlywheelError;
use super::{now_ms, rows};

/// Exchanges per transaction and pages given back at a time: the gateway's writer waits for each.
const MAX_ROWS_PER_STEP: u32 = 200;
const PAGES_PER_STEP: u32 = 500;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Exchanges deleted, with their answers and feedback.
    pub n_deleted: u64,
    /// Size on disk, write-ahead log included. A reader that is busy at the end can keep the log from shrinking.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

impl Store {
    /// Deletes exchanges that arrived `max_age` ago or earlier, then the oldest until the data takes at most `max_bytes`,
    /// and gives the space back. `None` sets no limit. Of router versions that never served only the newest of each router are
    /// kept; the others do not count towards the size, or they would in time leave no room for what they are trained on.
    pub fn prune(&self, max_age: Option<Duration>, max_bytes: Option<u64>) -> Result<PruneReport, FlywheelError> {
        let bytes_before = self.bytes_on_disk();
        let n_deleted = self.write("pruning", |connection| {
            let mut n_deleted = 0;
            if let Some(max_age) = max_age {
                let max_age_ms = i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX);
                let until_ms = now_ms().saturating_sub(max_age_ms);
                n_deleted += delete_while(connection, until_ms, |_| Ok(MAX_ROWS_PER_STEP))?;
            }
            if let Some(max_bytes) = max_bytes {
                n_deleted += delete_while(connection, i64::MAX, |connection| n_too_many(connection, max_bytes))?;
            }
            delete_idle_versions(connection)?;
            give_back(connection)?;
            Ok(n_deleted)
        })?;
        Ok(PruneReport { n_deleted, bytes_before, bytes_after: self.bytes_on_disk() })
    }
}

/// Deletes the oldest exchanges up to `until_ms`, as many at a time as `n_next` says, until there are none or it
/// says 0.
fn delete_while(
    connection: &mut Connection,
    until_ms: i64,
    n_next: impl Fn(&Connection) -> rusqlite::Result<u32>,
) -> rusqlite::Result<u64> {
    let mut n_deleted = 0;
    loop {
        let n_wanted = n_next(connection)?;
        if n_wanted == 0 {
            return Ok(n_deleted);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let n_gone = transaction
            .prepare_cached(
                "DELETE FROM exchange WHERE id IN
                     (SELECT id FROM exchange WHERE at_ms <= :until_ms ORDER BY at_ms, id LIMIT :n_wanted)",
            )?
            .execute(named_params! {":until_ms": until_ms, ":n_wanted": n_wanted})?;
        transaction.commit()?;
        if n_gone == 0 {
            return Ok(n_deleted);
        }
        n_deleted += n_gone as u64;
        std::thread::sleep(LOCK_GAP);
    }
}

/// Versions that never served, kept for each router: to be looked at, or promoted by hand.
const IDLE_VERSIONS_KEPT: u32 = 20;

fn delete_idle_versions(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute(
        "DELETE FROM router_version WHERE id IN
             (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY router ORDER BY id DESC) AS place
                              FROM router_version WHERE promoted_at_ms IS NULL AND state <> 'serving')
              WHERE place > ?1)",
        [IDLE_VERSIONS_KEPT],
    )
}

/// How many exchanges to delete next so that the pages in use come down to `max_bytes`: an estimate from the average
/// size, repeated until it is 0.
fn n_too_many(connection: &Connection, max_bytes: u64) -> rusqlite::Result<u32> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| rows::count(row, 0));
    let n_pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    let versions = "SELECT coalesce(sum(length(artifact)), 0) FROM router_version";
    let version_bytes = connection.query_row(versions, [], |row| rows::count(row, 0))?;
    let used_bytes = (n_pages * pragma("page_size")?).saturating_sub(version_bytes);
    let excess_bytes = used_bytes.saturating_sub(max_bytes);
    if excess_bytes == 0 {
        return Ok(0);
    }
    let n_exchanges = connection.query_row("SELECT count(*) FROM exchange", [], |row| rows::count(row, 0))?;
    let bytes_each = (used_bytes / n_exchanges.max(1)).max(1);
    let n_excess = u32::try_from(excess_bytes / bytes_each).unwrap_or(u32::MAX);
    Ok(n_excess.clamp(1, MAX_ROWS_PER_STEP))
}

/// Moves free pages to the end of the file and cuts them off, then empties the write-ahead log into the file.
fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    loop {
        let n_free: u32 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        if n_free == 0 {
            break;
        }
        // SQLite frees one page per step of this statement, so its (empty) rows must be walked to the end.
        connection.pragma(None, "incremental_vacuum", PAGES_PER_STEP, |_| Ok(()))?;
        std::thread::sleep(LOCK_GAP);
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::super::query::Filter;
    use super::super::testing::{exchange, store};
    use super::super::versions::NewVersion;
    use super::*;

    /// `n` exchanges of about 8 KiB, one second apart, the last one now.
    fn fill(store: &Store, n: i64) -> i64 {
        let newest_ms = now_ms();
        store
            .write("test", |connection| {
                let transaction = connection.transaction()?;
                for i in 0..n {
                    let mut record = exchange(&format!("r{i:05}"), newest_ms - 1000 * (n - 1 - i));
                    record.answers[0].output = Some("x".repeat(8 << 10));
                    rows::insert_exchange(&transaction, &record, newest_ms)?;
                }
                transaction.commit()
            })
            .unwrap();
        newest_ms
    }

    fn version(router: &str, n_bytes: usize) -> NewVersion {
        NewVersion {
            router: router.into(),
            family: "linear".into(),
            features_version: 1,
            seed: 1,
            n_rows: 10,
            metrics: serde_json::Value::Null,
            verdict: None,
            is_rejected: false,
            artifact: vec![7; n_bytes],
        }
    }

    #[test]
    fn by_age_exactly_the_older_ones_go() {
        let (_folder, store) = store();
        let newest_ms = fill(&store, 1000);
        // Half a second of slack on either side of the boundary for the time the test itself takes.
        let report =
            store.prune(Some(Duration::from_millis(99_500 + (now_ms() - newest_ms).unsigned_abs())), None).unwrap();
        let stats = store.stats(&Filter::default()).unwrap();
        assert_eq!((report.n_deleted, stats.n_exchanges, stats.n_answers), (900, 100, 100));
        assert_eq!(stats.oldest_ms, Some(newest_ms - 99_000));
        assert!(report.bytes_after < report.bytes_before / 5, "{report:?}");
        assert_eq!(store.integrity().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn by_size_the_file_really_shrinks_and_not_much_more_than_asked() {
        let (_folder, store) = store();
        let newest_ms = fill(&store, 1000);
        let max_bytes = 2 << 20;
        let report = store.prune(None, Some(max_bytes)).unwrap();
        assert!(report.bytes_before > 8 << 20, "{report:?}");
        assert!(report.bytes_after <= max_bytes && report.bytes_after > max_bytes * 9 / 10, "{report:?}");
        assert_eq!(store.stats(&Filter::default()).unwrap().newest_ms, Some(newest_ms), "the newest stay");
        let again = store.prune(None, Some(max_bytes)).unwrap();
        assert_eq!(again.n_deleted, 0);
    }

    #[test]
    fn router_versions_survive_an_impossible_limit() {
        let (_folder, store) = store();
        fill(&store, 10);
        let version = version("default", 1 << 20);
        let id = store.insert_version(&version).unwrap();
        let report = store.prune(None, Some(1)).unwrap();
        assert_eq!(report.n_deleted, 10);
        assert_eq!(store.version(id).unwrap().unwrap().1, version.artifact);
    }

    #[test]
    fn of_versions_that_never_served_the_newest_stay() {
        let (_folder, store) = store();
        let served = store.insert_version(&version("a", 1)).unwrap();
        store.set_serving(served).unwrap();
        let of_a: Vec<i64> = (0..25).map(|_| store.insert_version(&version("a", 1)).unwrap()).collect();
        let of_b = store.insert_version(&version("b", 1)).unwrap();
        store.prune(None, None).unwrap();
        let mut left: Vec<i64> = store.list_versions(None).unwrap().into_iter().map(|version| version.id).collect();
        left.sort_unstable();
        assert_eq!(left, [&[served], &of_a[5..], &[of_b]].concat());
    }
}
