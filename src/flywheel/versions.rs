//! Router versions: trained artifacts, their figures, and which one serves. Exactly one version of a router serves, or
//! none. What has served is kept, so it can serve again; of the others `prune` keeps the newest.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, named_params, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::database::Store;
use super::error::FlywheelError;
use super::text_enum::text_enum;
use super::{now_ms, rows};

text_enum! {
    /// Where a version stands.
    VersionState {
        /// Trained, not promoted.
        Candidate = "candidate",
        /// Decides now.
        Serving = "serving",
        /// Served until another was promoted; a rollback may bring it back.
        Retired = "retired",
        /// Refused by the promotion gate, or rolled back.
        Rejected = "rejected",
    }
}

/// A version about to be stored.
#[derive(Clone, Debug)]
pub struct NewVersion {
    pub router: String,
    /// The kind of model, for example `linear` or `knn`.
    pub family: String,
    pub features_version: u32,
    pub seed: u64,
    /// Training rows.
    pub n_rows: u64,
    pub metrics: Value,
    /// What the promotion gate said; `None` when it has not been asked yet.
    pub verdict: Option<Value>,
    /// True when the gate refused it.
    pub is_rejected: bool,
    pub artifact: Vec<u8>,
}

/// A stored version without its artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterVersion {
    pub id: i64,
    pub router: String,
    pub created_at_ms: i64,
    pub state: VersionState,
    /// When it last began to serve by promotion; `None`: never.
    pub promoted_at_ms: Option<i64>,
    pub family: String,
    pub features_version: u32,
    pub seed: u64,
    pub n_rows: u64,
    pub metrics: Value,
    pub verdict: Option<Value>,
    pub artifact_bytes: u64,
}

impl Store {
    /// Stores a version and returns its id; ids grow and are never reused.
    pub fn insert_version(&self, version: &NewVersion) -> Result<i64, FlywheelError> {
        let state = if version.is_rejected { VersionState::Rejected } else { VersionState::Candidate };
        self.write("storing a router version", |connection| {
            connection.execute(
                "INSERT INTO router_version (router, created_at_ms, state, family, features_version, seed, n_rows, metrics,
                     verdict, artifact)
                 VALUES (:router, :created_at_ms, :state, :family, :features_version, :seed, :n_rows, :metrics, :verdict,
                     :artifact)",
                named_params! {
                    ":router": version.router,
                    ":created_at_ms": now_ms(),
                    ":state": state,
                    ":family": version.family,
                    ":features_version": version.features_version,
                    // SQLite has no unsigned integers. The bits are what counts in a seed, and no count reaches the sign.
                    ":seed": version.seed.cast_signed(),
                    ":n_rows": version.n_rows.cast_signed(),
                    ":metrics": version.metrics.to_string(),
                    ":verdict": version.verdict.as_ref().map(Value::to_string),
                    ":artifact": version.artifact,
                },
            )?;
            Ok(connection.last_insert_rowid())
        })
    }

    /// The versions of `router`, or of all, newest first.
    pub fn list_versions(&self, router: Option<&str>) -> Result<Vec<RouterVersion>, FlywheelError> {
        self.read("listing router versions", |connection| {
            connection
                .prepare(&format!(
                    "SELECT {COLUMNS} FROM router_version WHERE ?1 IS NULL OR router = ?1 ORDER BY id DESC"
                ))?
                .query_map([router], version_from_row)?
                .collect()
        })
    }

    /// A version and its artifact.
    pub fn version(&self, id: i64) -> Result<Option<(RouterVersion, Vec<u8>)>, FlywheelError> {
        self.read("reading a router version", |connection| with_artifact(connection, "id = ?1", params![id]))
    }

    /// The version of `router` that decides now, and its artifact.
    pub fn serving_version(&self, router: &str) -> Result<Option<(RouterVersion, Vec<u8>)>, FlywheelError> {
        self.read("reading the serving router version", |connection| {
            with_artifact(connection, "router = ?1 AND state = 'serving'", params![router])
        })
    }

    /// Id of the version of `router` that decides now. Cheap: asked every second.
    pub fn serving_id(&self, router: &str) -> Result<Option<i64>, FlywheelError> {
        self.read("reading the serving router version", |connection| {
            let sql = "SELECT id FROM router_version WHERE router = ?1 AND state = 'serving'";
            connection.query_row(sql, params![router], |row| row.get(0)).optional()
        })
    }

    /// Writes down what the promotion gate said about a version that does not serve; `is_rejected` when it refused.
    pub fn set_verdict(&self, id: i64, verdict: &Value, is_rejected: bool) -> Result<(), FlywheelError> {
        let n_updated = self.write("storing a verdict", |connection| {
            connection.execute(
                "UPDATE router_version
                 SET verdict = ?2, state = CASE WHEN ?3 AND state = 'candidate' THEN 'rejected' ELSE state END
                 WHERE id = ?1",
                params![id, verdict.to_string(), is_rejected],
            )
        })?;
        if n_updated == 0 { Err(FlywheelError::NoSuchVersion(id)) } else { Ok(()) }
    }

    /// Lets version `id` serve; the one before it is retired in the same transaction. Serving already is fine. An
    /// operator may promote any version, whatever the gate said.
    pub fn set_serving(&self, id: i64) -> Result<RouterVersion, FlywheelError> {
        self.promote("promoting a router version", |transaction| {
            let Some(version) = one(transaction, "id = ?1", params![id])? else { return Ok(None) };
            if version.state == VersionState::Serving {
                return Ok(Some(version));
            }
            // Later than any earlier promotion even when the clock stepped back: rollback goes by this order.
            let promoted_at_ms: i64 = transaction.query_row(
                "SELECT max(?2, coalesce(max(promoted_at_ms), 0) + 1) FROM router_version WHERE router = ?1",
                params![version.router, now_ms()],
                |row| row.get(0),
            )?;
            transaction.execute(
                "UPDATE router_version SET state = 'retired' WHERE router = ?1 AND state = 'serving'",
                params![version.router],
            )?;
            transaction.execute(
                "UPDATE router_version SET state = 'serving', promoted_at_ms = ?2 WHERE id = ?1",
                params![id, promoted_at_ms],
            )?;
            one(transaction, "id = ?1", params![id])
        })?
        .ok_or(FlywheelError::NoSuchVersion(id))
    }

    /// Lets the version serve that did before the present one, which is rejected: a further rollback goes further back. Those whose
    /// artifact `is_readable` refuses are passed over. `None`: there is no other, and from now on none serves.
    pub fn rollback(
        &self,
        router: &str,
        is_readable: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<RouterVersion>, FlywheelError> {
        self.promote("rolling a router back", |transaction| {
            let n_rejected = transaction.execute(
                "UPDATE router_version SET state = 'rejected' WHERE router = ?1 AND state = 'serving'",
                params![router],
            )?;
            if n_rejected == 0 {
                return Ok(Err(FlywheelError::NothingToRollBack(router.to_owned())));
            }
            let mut retired = transaction.prepare(
                "SELECT id, artifact FROM router_version WHERE router = ?1 AND state = 'retired' ORDER BY promoted_at_ms DESC",
            )?;
            let mut retired = retired.query(params![router])?;
            while let Some(row) = retired.next()? {
                if is_readable(row.get_ref("artifact")?.as_blob()?) {
                    let id: i64 = row.get("id")?;
                    transaction.execute("UPDATE router_version SET state = 'serving' WHERE id = ?1", params![id])?;
                    return one(transaction, "id = ?1", params![id]).map(Ok);
                }
            }
            Ok(Ok(None))
        })?
    }

    fn promote<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, FlywheelError> {
        self.write(doing, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }
}

const COLUMNS: &str = "id, router, created_at_ms, state, promoted_at_ms, family, features_version, seed, n_rows, metrics, \
    verdict, length(artifact) AS artifact_bytes";

fn one(
    connection: &Connection,
    condition: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Option<RouterVersion>> {
    connection
        .query_row(&format!("SELECT {COLUMNS} FROM router_version WHERE {condition}"), params, version_from_row)
        .optional()
}

fn with_artifact(
    connection: &Connection,
    condition: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Option<(RouterVersion, Vec<u8>)>> {
    connection
        .query_row(&format!("SELECT {COLUMNS}, artifact FROM router_version WHERE {condition}"), params, |row| {
            Ok((version_from_row(row)?, row.get("artifact")?))
        })
        .optional()
}

fn version_from_row(row: &Row<'_>) -> rusqlite::Result<RouterVersion> {
    Ok(RouterVersion {
        id: row.get("id")?,
        router: row.get("router")?,
        created_at_ms: row.get("created_at_ms")?,
        state: row.get("state")?,
        promoted_at_ms: row.get("promoted_at_ms")?,
        family: row.get("family")?,
        features_version: row.get("features_version")?,
        seed: row.get::<_, i64>("seed")?.cast_unsigned(),
        n_rows: rows::count(row, "n_rows")?,
        metrics: rows::json(row, "metrics")?.unwrap_or(Value::Null),
        verdict: rows::json(row, "verdict")?,
        artifact_bytes: rows::count(row, "artifact_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::store;
    use super::*;

    fn new(router: &str, seed: u64) -> NewVersion {
        NewVersion {
            router: router.into(),
            family: "linear".into(),
            features_version: 3,
            seed,
            n_rows: 1000,
            metrics: json!({"utility": 0.75}),
            verdict: None,
            is_rejected: false,
            artifact: seed.to_le_bytes().to_vec(),
        }
    }

    fn states(store: &Store, router: &str) -> Vec<(i64, &'static str)> {
        let mut versions = store.list_versions(Some(router)).unwrap();
        versions.reverse();
        versions.iter().map(|version| (version.id, version.state.as_str())).collect()
    }

    #[test]
    fn a_version_is_stored_as_it_is() {
        let (_folder, store) = store();
        let id = store.insert_version(&new("default", u64::MAX)).unwrap();
        let (version, artifact) = store.version(id).unwrap().unwrap();
        assert_eq!(artifact, u64::MAX.to_le_bytes());
        assert_eq!(
            (version.seed, version.state, version.promoted_at_ms, version.artifact_bytes),
            (u64::MAX, VersionState::Candidate, None, 8)
        );
        assert_eq!(version.metrics, json!({"utility": 0.75}));
        assert_eq!(store.version(id + 1).unwrap(), None);
        assert_eq!(store.serving_version("default").unwrap(), None);
    }

    #[test]
    fn promotion_retires_the_one_before_and_leaves_other_routers_alone() {
        let (_folder, store) = store();
        let [a, b, other] =
            [new("default", 1), new("default", 2), new("code", 3)].map(|v| store.insert_version(&v).unwrap());
        store.set_serving(other).unwrap();
        store.set_serving(a).unwrap();
        let promoted = store.set_serving(b).unwrap();
        assert_eq!(promoted.state, VersionState::Serving);
        assert_eq!(states(&store, "default"), [(a, "retired"), (b, "serving")]);
        assert_eq!(store.serving_version("default").unwrap().unwrap().0, promoted);
        assert_eq!(store.serving_version("code").unwrap().unwrap().0.id, other);
        assert_eq!(store.set_serving(b).unwrap(), promoted, "again changes nothing");
        assert!(matches!(store.set_serving(99), Err(FlywheelError::NoSuchVersion(99))));
        assert_eq!(states(&store, "default"), [(a, "retired"), (b, "serving")]);
    }

    #[test]
    fn rollback_walks_back_and_never_returns_to_a_rejected_version() {
        let (_folder, store) = store();
        let ids = [1, 2, 3, 4].map(|seed| store.insert_version(&new("default", seed)).unwrap());
        let [a, b, c, d] = ids;
        for id in [a, b, c] {
            store.set_serving(id).unwrap();
        }
        let back = || store.rollback("default", |_| true).map(|version| version.map(|version| version.id));
        assert_eq!(back().unwrap(), Some(b));
        assert_eq!(states(&store, "default"), [(a, "retired"), (b, "serving"), (c, "rejected"), (d, "candidate")]);
        store.set_serving(d).unwrap();
        assert_eq!(back().unwrap(), Some(b), "what served before d, not the rejected c");
        assert_eq!(back().unwrap(), Some(a));
        assert_eq!(back().unwrap(), None, "before the first one there was the seed");
        assert_eq!(store.serving_version("default").unwrap(), None);
        assert!(matches!(back(), Err(FlywheelError::NothingToRollBack(_))));
        assert_eq!(store.set_serving(c).unwrap().state, VersionState::Serving, "an operator may insist");
    }

    #[test]
    fn a_rollback_passes_over_what_cannot_be_read() {
        let (_folder, store) = store();
        let [a, b, c] = [1, 2, 3].map(|seed| store.insert_version(&new("default", seed)).unwrap());
        for id in [a, b, c] {
            store.set_serving(id).unwrap();
        }
        let is_readable = |artifact: &[u8]| artifact != 2_u64.to_le_bytes();
        assert_eq!(store.rollback("default", is_readable).unwrap().map(|version| version.id), Some(a));
        assert_eq!(states(&store, "default"), [(a, "serving"), (b, "retired"), (c, "rejected")]);
    }

    #[test]
    fn a_verdict_can_reject_a_candidate_but_not_what_serves() {
        let (_folder, store) = store();
        let [a, b] = [1, 2].map(|seed| store.insert_version(&new("default", seed)).unwrap());
        store.set_serving(a).unwrap();
        store.set_verdict(a, &json!({"better": true}), true).unwrap();
        store.set_verdict(b, &json!({"better": false}), true).unwrap();
        assert_eq!(states(&store, "default"), [(a, "serving"), (b, "rejected")]);
        assert_eq!(store.version(b).unwrap().unwrap().0.verdict, Some(json!({"better": false})));
        assert!(matches!(store.set_verdict(9, &json!({}), false), Err(FlywheelError::NoSuchVersion(9))));
    }

    #[test]
    fn the_schema_refuses_a_second_serving_version() {
        let (_folder, store) = store();
        for seed in [1, 2] {
            store.insert_version(&new("default", seed)).unwrap();
        }
        let forced = store.write("test", |c| c.execute("UPDATE router_version SET state = 'serving'", []));
        assert!(forced.unwrap_err().to_string().contains("UNIQUE"));
    }
}
