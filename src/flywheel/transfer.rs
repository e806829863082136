//! Export and import: JSON lines, one exchange with its answers and feedback each. Export, import and export again
//! gives the same bytes.

use std::io::{BufRead, Write};

use rusqlite::types::ToSql;
use rusqlite::{Connection, TransactionBehavior};
use serde::Serialize;

use super::database::{LOCK_GAP, Store};
use super::error::{FlywheelError, is_refusal};
use super::query::{Filter, IN_FILTER};
use super::record::{FeedbackRecord, JsonText, Rates, StoredExchange};
use super::{now_ms, rows};

/// Lines per transaction: the gateway's own writer has to wait for it.
const LINES_PER_TRANSACTION: usize = 200;

/// Bad lines that are described; all are counted.
const MAX_BAD_LINES_KEPT: usize = 100;

/// Stands in for the messages of a redacted exchange: their features, with the version of what made them.
pub type Features<'a> = dyn Fn(&JsonText) -> Option<(Vec<u8>, u32)> + 'a;

/// What an import did. Lines are counted from 1; blank ones are passed over.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ImportReport {
    pub n_inserted: u64,
    /// Exchanges that were there already; they are left as they are.
    pub n_skipped: u64,
    pub n_bad: u64,
    /// The first hundred bad lines.
    pub bad: Vec<BadLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadLine {
    pub line: u64,
    pub reason: String,
}

impl Store {
    /// Writes the exchanges in `filter`, oldest first, and returns their number. It is one moment of the database, even
    /// while the gateway writes.
    pub fn export(&self, writer: &mut dyn Write, filter: &Filter) -> Result<u64, FlywheelError> {
        let mut n_lines = 0;
        let mut failure = None;
        self.read("exporting", |connection| {
            let snapshot = connection.transaction()?;
            each_stored_exchange(&snapshot, filter, |stored| {
                let written = serde_json::to_writer(&mut *writer, &stored)
                    .map_err(std::io::Error::from)
                    .and_then(|()| writer.write_all(b"\n"));
                match written {
                    Ok(()) => n_lines += 1,
                    Err(error) => failure = Some(error),
                }
                failure.is_none()
            })
        })?;
        match failure.map_or_else(|| writer.flush(), Err) {
            Ok(()) => Ok(n_lines),
            Err(source) => Err(FlywheelError::Io { doing: "writing the export", source }),
        }
    }

    /// Stores every exchange of `reader` that is not there yet. A bad line is reported and the rest goes on. `redact`
    /// leaves out text, as `Options::redact` does, and keeps the features it finds in it, so that training stays possible.
    ///
    /// # Errors
    /// When reading or storing fails; lines committed before stay, and importing the same file again continues.
    pub fn import(
        &self,
        reader: &mut dyn BufRead,
        redact: Option<&Features<'_>>,
    ) -> Result<ImportReport, FlywheelError> {
        let mut report = ImportReport::default();
        let mut lines = Lines { reader, number: 0, failure: None };
        self.write("importing", |connection| {
            loop {
                let chunk: Vec<(u64, Vec<u8>)> = lines.by_ref().take(LINES_PER_TRANSACTION).collect();
                if chunk.is_empty() {
                    return Ok(());
                }
                import_chunk(connection, &chunk, redact, &mut report)?;
                std::thread::sleep(LOCK_GAP);
            }
        })?;
        match lines.failure {
            None => Ok(report),
            Some(source) => Err(FlywheelError::Io { doing: "reading the import", source }),
        }
    }
}

/// Calls `visit` until it returns false.
fn each_stored_exchange(
    connection: &Connection,
    filter: &Filter,
    mut visit: impl FnMut(StoredExchange) -> bool,
) -> rusqlite::Result<()> {
    let params = filter.params();
    let params: Vec<(&str, &dyn ToSql)> = params.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    let columns = rows::EXCHANGE_COLUMNS;
    let mut statement =
        connection.prepare(&format!("SELECT {columns} FROM exchange e WHERE {IN_FILTER} ORDER BY e.at_ms, e.id"))?;
    let mut exchanges = statement.query(&*params)?;
    while let Some(row) = exchanges.next()? {
        if !visit(rows::complete(connection, rows::exchange_from_row(row)?)?) {
            break;
        }
    }
    Ok(())
}

fn import_chunk(
    connection: &mut Connection,
    chunk: &[(u64, Vec<u8>)],
    redact: Option<&Features<'_>>,
    report: &mut ImportReport,
) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (line, bytes) in chunk {
        let imported = match parse(bytes, redact) {
            Ok(stored) => {
                let savepoint = transaction.savepoint()?;
                match insert(&savepoint, &stored) {
                    Ok(is_new) => {
                        savepoint.commit()?;
                        Ok(is_new)
                    }
                    Err(error) if is_refusal(&error) => Err(error.to_string()),
                    Err(error) => return Err(error),
                }
            }
            Err(reason) => Err(reason),
        };
        match imported {
            Ok(true) => report.n_inserted += 1,
            Ok(false) => report.n_skipped += 1,
            Err(reason) => {
                report.n_bad += 1;
                if report.bad.len() < MAX_BAD_LINES_KEPT {
                    report.bad.push(BadLine { line: *line, reason });
                }
            }
        }
    }
    transaction.commit()
}

fn parse(line: &[u8], redact: Option<&Features<'_>>) -> Result<StoredExchange, String> {
    let mut stored: StoredExchange = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    stored.exchange.check()?;
    stored.feedback.iter().try_for_each(FeedbackRecord::check)?;
    if let Some(features) = redact {
        let exchange = &mut stored.exchange;
        if exchange.features.is_none()
            && let Some((bytes, version)) = exchange.messages.as_ref().and_then(features)
        {
            (exchange.features, exchange.features_version) = (Some(bytes), Some(version));
        }
        exchange.redact();
        stored.feedback.iter_mut().for_each(FeedbackRecord::redact);
    }
    Ok(stored)
}

fn insert(connection: &Connection, stored: &StoredExchange) -> rusqlite::Result<bool> {
    if !rows::insert_exchange(connection, &stored.exchange, now_ms())? {
        return Ok(false);
    }
    // The answers carry their scores already, so feedback is only kept.
    for feedback in &stored.feedback {
        rows::insert_feedback(connection, &stored.exchange.id, None, Rates::All, feedback)?;
    }
    Ok(true)
}

/// The lines that are not blank, with their numbers; stops at the end or at a failure.
struct Lines<'a> {
    reader: &'a mut dyn BufRead,
    number: u64,
    failure: Option<std::io::Error>,
}

impl Iterator for Lines<'_> {
    type Item = (u64, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            }
            if !line.trim_ascii().is_empty() {
                return Some((self.number, line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{AnswerOutcome, AnswerRecord, Role};
    use super::super::testing::{answer, exchange, store};
    use super::*;

    fn insert_sample(store: &Store) {
        let mut full = exchange("full", 2);
        full.answers.push(AnswerRecord {
            role: Role::Shadow,
            outcome: AnswerOutcome::Cut,
            error: Some("connection reset".into()),
            first_token_ms: Some(0.1 + 0.2),
            scored_at_ms: Some(9),
            ..answer("large", Some(1.0 / 3.0))
        });
        let feedback = [(5, Some(1.0), Some("好")), (4, None, None), (5, Some(0.0), None)]
            .map(|(at_ms, score, text)| FeedbackRecord { at_ms, score, text: text.map(Into::into), consumer: None });
        let mut bare = exchange("bare", 1);
        (bare.consumer, bare.messages, bare.features, bare.features_version) =
            (None, Some(JsonText("null".into())), None, None);
        (bare.decision, bare.answers) = (None, Vec::new());
        for stored in [
            StoredExchange { exchange: full, feedback: feedback.into() },
            StoredExchange { exchange: bare, feedback: Vec::new() },
        ] {
            assert!(store.write("test", |c| insert(c, &stored)).unwrap());
        }
    }

    fn export(store: &Store) -> Vec<u8> {
        let mut bytes = Vec::new();
        store.export(&mut bytes, &Filter::default()).unwrap();
        bytes
    }

    #[test]
    fn export_import_export_gives_the_same_bytes_and_a_second_import_changes_nothing() {
        let ((_a, from), (_b, to)) = (store(), store());
        insert_sample(&from);
        let exported = export(&from);
        assert_eq!(exported.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert!(exported.starts_with(b"{\"id\":\"bare\""), "oldest first");
        for (n_inserted, n_skipped) in [(2, 0), (0, 2)] {
            let report = to.import(&mut &*exported, None).unwrap();
            assert_eq!((report.n_inserted, report.n_skipped, report.n_bad), (n_inserted, n_skipped, 0));
            assert_eq!(String::from_utf8(export(&to)).unwrap(), String::from_utf8(exported.clone()).unwrap());
        }
    }

    #[test]
    fn a_bad_line_is_named_and_the_rest_goes_on() {
        let ((_a, from), (_b, to)) = (store(), store());
        insert_sample(&from);
        let good = String::from_utf8(export(&from)).unwrap();
        let mut lines: Vec<Vec<u8>> = good.lines().map(|line| line.as_bytes().to_vec()).collect();
        let bad_mode = good.lines().next().unwrap().replace("\"serve\"", "\"sleep\"").replace("bare", "other");
        let bad_score = good.lines().nth(1).unwrap().replace("0.3333333333333333", "3.5").replace("full", "other");
        let bad_base64 = good.lines().nth(1).unwrap().replace("AQID", "A!").replace("full", "other");
        let bad_utf8 = [b"{\"id\":\"", &[0xff][..], b"\"}"].concat();
        let at = |n: usize| n - 1;
        for (n, line) in [
            (1, b"{not json".to_vec()),
            (2, bad_mode.into()),
            (3, Vec::new()),
            (4, bad_score.into()),
            (6, bad_base64.into()),
            (7, bad_utf8),
        ] {
            lines.insert(at(n), line);
        }
        let report = to.import(&mut &*lines.join(&b'\n'), None).unwrap();
        assert_eq!((report.n_inserted, report.n_skipped, report.n_bad), (2, 0, 5));
        let reasons: Vec<(u64, &str)> = report.bad.iter().map(|bad| (bad.line, bad.reason.as_str())).collect();
        for ((line, reason), (expected_line, part)) in
            reasons.iter().zip([(1, "column"), (2, "sleep"), (4, "3.5"), (6, "features"), (7, "code point")])
        {
            assert_eq!(*line, expected_line, "{reasons:?}");
            assert!(reason.contains(part), "{reasons:?}");
        }
        assert_eq!(export(&to), good.as_bytes());
        assert_eq!(to.integrity().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn importing_can_redact() {
        let ((_a, from), (_b, to)) = (store(), store());
        insert_sample(&from);
        let features: &Features<'_> = &|messages| Some((messages.0.as_bytes()[..1].to_vec(), 9));
        to.import(&mut &*export(&from), Some(features)).unwrap();
        let redacted = String::from_utf8(export(&to)).unwrap();
        for text in ["问题", "answer by", "好"] {
            assert!(!redacted.contains(text), "{redacted}");
        }
        assert!(redacted.contains("AQID") && redacted.contains("hash-full"));
        let mut plain = exchange("plain", 1);
        (plain.features, plain.features_version) = (None, None);
        let line = serde_json::to_vec(&StoredExchange { exchange: plain, feedback: Vec::new() }).unwrap();
        to.import(&mut &*line, Some(features)).unwrap();
        let stored = to.exchange("plain").unwrap().unwrap().exchange;
        assert_eq!((stored.features, stored.features_version, stored.messages), (Some(b"[".to_vec()), Some(9), None));
    }

    #[test]
    fn more_lines_than_a_transaction_holds() {
        let (_folder, store) = store();
        let n_lines = 2 * LINES_PER_TRANSACTION + 1;
        let lines: String = (0..n_lines)
            .map(|i| {
                let stored = StoredExchange { exchange: exchange(&format!("r{i}"), 1), feedback: Vec::new() };
                serde_json::to_string(&stored).unwrap() + "\r\n"
            })
            .collect();
        assert_eq!(store.import(&mut lines.as_bytes(), None).unwrap().n_inserted, n_lines as u64);
        assert_eq!(store.stats(&Filter::default()).unwrap().n_exchanges, n_lines as u64);
    }

    #[test]
    fn a_full_disk_under_the_export_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (_folder, store) = store();
        insert_sample(&store);
        let error = store.export(&mut Full, &Filter::default()).unwrap_err();
        assert!(error.to_string().starts_with("writing the export failed"), "{error}");
    }
}
