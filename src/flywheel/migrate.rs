//! The schema and how an older database gets there: numbered files, each applied once, in one transaction.
//!
//! `PRAGMA user_version` counts the migrations applied. A released migration is never edited; a change is a new file,
//! a new entry here, and the same change in `schema/init.sql`.

use rusqlite::{Connection, TransactionBehavior};

/// Oldest first; the n-th brings a database from version n-1 to n.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001_exchange.sql"),
    include_str!("schema/0002_router_version.sql"),
    include_str!("schema/0003_config_snapshot.sql"),
];

/// `PRAGMA application_id` of our files ("weir"), so that a stranger's database is never migrated.
pub(super) const APPLICATION_ID: i64 = 0x7765_6972;

/// What a file is, before anything is written to it.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// Nothing in it yet.
    Empty,
    /// Ours, with this many migrations applied.
    Ours(i64),
    /// Another program's.
    Foreign,
}

/// Reads what kind of database this is; writes nothing.
pub(super) fn inspect(connection: &Connection) -> rusqlite::Result<Found> {
    // One moment of the file: another process may be migrating it.
    let snapshot = connection.unchecked_transaction()?;
    let number = |sql: &str| snapshot.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application_id = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let n_objects = number("SELECT count(*) FROM sqlite_schema")?;
    Ok(match (application_id, version, n_objects) {
        (APPLICATION_ID, version, _) => Found::Ours(version),
        (0, 0, 0) => Found::Empty,
        _ => Found::Foreign,
    })
}

/// Applies what is missing of `migrations`: all of it or, after an error or a kill, nothing. The caller has made sure
/// that the file is ours or empty. Two processes may do this at once; the second finds nothing left to do.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (number, migration) in (1..).zip(migrations).filter(|(number, _)| *number > version) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every schema object with its SQL, without comments and layout; columns as SQLite understands them.
    fn schema(connection: &Connection) -> Vec<String> {
        let plain = |sql: String| {
            let code: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap_or("")).collect();
            code.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let list = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(|row| plain(row.unwrap())).collect()
        };
        let mut all = list(
            "SELECT type || ' ' || name || ' ' || tbl_name || ': ' || coalesce(sql, '') FROM sqlite_schema
             WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name",
        );
        all.extend(list(
            "SELECT t.name || '.' || c.cid || ' ' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk
                 || ' ' || coalesce(c.dflt_value, '-')
             FROM sqlite_schema t, pragma_table_xinfo(t.name) c WHERE t.type = 'table' ORDER BY t.name, c.cid",
        ));
        all
    }

    fn full_schema() -> Vec<String> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema/init.sql")).unwrap();
        schema(&connection)
    }

    #[test]
    fn migrating_from_every_older_version_gives_the_full_schema() {
        let full = full_schema();
        assert!(full.iter().any(|line| line.starts_with("table router_version")), "{full:?}");
        for from in 0..=MIGRATIONS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, &MIGRATIONS[..from]).unwrap();
            if from < MIGRATIONS.len() {
                assert_ne!(schema(&connection), full, "version {from} must differ, or the comparison sees nothing");
            }
            migrate(&mut connection, MIGRATIONS).unwrap();
            assert_eq!(schema(&connection), full, "from version {from}");
            assert_eq!(inspect(&connection).unwrap(), Found::Ours(MIGRATIONS.len() as i64));
        }
    }

    #[test]
    fn a_failing_migration_leaves_the_old_version_whole() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, MIGRATIONS).unwrap();
        let before = schema(&connection);
        let broken =
            [MIGRATIONS, &["CREATE TABLE user (id TEXT) STRICT; CREATE TABLE exchange (id TEXT) STRICT;"]].concat();
        assert!(migrate(&mut connection, &broken).is_err());
        assert_eq!(schema(&connection), before);
        assert_eq!(inspect(&connection).unwrap(), Found::Ours(MIGRATIONS.len() as i64));
    }

    #[test]
    fn a_strangers_database_is_recognised() {
        let connection = Connection::open_in_memory().unwrap();
        assert_eq!(inspect(&connection).unwrap(), Found::Empty);
        connection.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
        assert_eq!(inspect(&connection).unwrap(), Found::Foreign);
    }
}
