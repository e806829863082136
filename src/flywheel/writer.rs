//! The writer thread: takes batches off the queue and commits each in one transaction.
//!
//! When the storage fails (full, read-only, broken, locked) it keeps what it has, says so once, lets the bounded queue shed
//! the rest, and tries again with a fresh connection until it works. A record that the schema refuses is dropped alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};

use super::database::{LOCK_GAP, Store, has_moved};
use super::error::{FlywheelError, is_refusal};
use super::handle::WriterState;
use super::now_ms;
use super::queue::{Batch, Op, Queue};
use super::record::{ScoreRecord, ScoreSource, ScoreTarget, check_score};
use super::rows;

/// What the writer shares with the handles.
pub(super) struct Shared {
    pub queue: Queue,
    pub state: Mutex<WriterState>,
    pub n_written: AtomicU64,
    pub n_shed: AtomicU64,
    pub n_refused: AtomicU64,
    pub n_unmatched: AtomicU64,
}

pub(super) struct Writer<'a> {
    pub store: &'a Store,
    pub shared: &'a Shared,
    pub retry_interval: Duration,
    pub max_bytes: Option<u64>,
    pub connection: Option<Connection>,
    /// Answers, scores and feedback whose exchange has not come yet.
    pub early: Vec<Early>,
}

/// A record that overtook its exchange: a client that sends feedback at once is faster than the end of its request.
pub(super) struct Early {
    op: Op,
    until: Instant,
}

/// How long an early record waits for its exchange, how many may wait, and how many bytes of them.
const EARLY_WAITS: Duration = Duration::from_secs(5);
const MAX_EARLY: usize = 1000;
const MAX_EARLY_BYTES: usize = 16 << 20;

/// What became of the records of a batch.
#[derive(Default)]
struct Tally {
    n_written: u64,
    /// Positions, ascending, of those whose exchange is not in the database: shed, pruned, another tenant's, never or not yet there.
    unmatched: Vec<usize>,
    n_refused: u64,
    first_refusal: Option<String>,
}

impl Writer<'_> {
    /// Writes until the queue is closed and empty, or closed and not writable.
    pub fn run(mut self) {
        // However this thread ends, nobody may wait for it in vain.
        let _end = End(self.shared);
        loop {
            // Those that wait for their exchange are given up in time, also when nothing else comes.
            let batch = self.shared.queue.take(self.early.iter().map(|early| early.until).min());
            let (is_closing, is_last) = (batch.is_closing, batch.is_last);
            match self.write(&batch.ops) {
                Ok(tally) => {
                    let now = Instant::now();
                    let unmatched = self.settle(&batch, tally);
                    let ops = self.shared.queue.settle(batch);
                    self.keep(ops, &unmatched, |_| now + EARLY_WAITS);
                    // The exchange may stand later in this very batch.
                    let early = std::mem::take(&mut self.early);
                    self.write_early(early);
                }
                Err(error) => {
                    let reason = error.to_string();
                    self.suspend(&reason);
                    self.shared.queue.put_back(batch, &reason);
                    if is_closing {
                        return;
                    }
                    self.shared.queue.wait_to_retry(self.retry_interval);
                }
            }
            if is_last {
                let n_left = u64::try_from(self.early.len()).unwrap_or(u64::MAX);
                self.shared.n_unmatched.fetch_add(n_left, Ordering::Relaxed);
                return;
            }
            if !is_closing {
                std::thread::sleep(LOCK_GAP);
            }
        }
    }

    /// Commits all of `ops`, or none after an error; the connection is then given up, because it may be at fault.
    fn write(&mut self, ops: &[Op]) -> Result<Tally, FlywheelError> {
        if ops.is_empty() {
            return Ok(Tally::default());
        }
        let mut connection = match self.connection.take() {
            Some(connection) if !has_moved(&connection) => connection,
            present => {
                if present.is_some() {
                    let path = self.store.path().display();
                    tracing::warn!(%path, "The flywheel's database was moved or deleted; it goes on with a new one.");
                }
                Store::open(self.store.path())?.connect_batch_writer(self.max_bytes)?
            }
        };
        let tally =
            commit(&mut connection, ops).map_err(|error| self.store.error("writing to the flywheel", &error))?;
        self.connection = Some(connection);
        Ok(tally)
    }

    /// Keeps the records at `positions` until their exchange comes, or counts them as unmatched.
    fn keep(&mut self, ops: Vec<Op>, positions: &[usize], until: impl Fn(usize) -> Instant) {
        let now = Instant::now();
        let mut n_bytes: usize = self.early.iter().map(|early| early.op.weight()).sum();
        let mut positions = positions.iter().peekable();
        for (position, op) in ops.into_iter().enumerate() {
            if positions.next_if_eq(&&position).is_none() {
                continue;
            }
            let has_room = self.early.len() < MAX_EARLY && n_bytes + op.weight() <= MAX_EARLY_BYTES;
            if until(position) > now && has_room {
                n_bytes += op.weight();
                self.early.push(Early { op, until: until(position) });
            } else {
                self.shared.n_unmatched.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tries again what came before its exchange; the batch just written may have brought it.
    fn write_early(&mut self, early: Vec<Early>) {
        let (ops, until): (Vec<Op>, Vec<Instant>) = early.into_iter().map(|early| (early.op, early.until)).unzip();
        match self.write(&ops) {
            Ok(tally) => {
                self.shared.n_written.fetch_add(tally.n_written, Ordering::Relaxed);
                self.shared.n_refused.fetch_add(tally.n_refused, Ordering::Relaxed);
                self.keep(ops, &tally.unmatched, |position| until[position]);
            }
            // The next batch meets the same storage and says so; these wait with it, as long as they may.
            Err(_) => {
                let all: Vec<usize> = (0..ops.len()).collect();
                self.keep(ops, &all, |position| until[position]);
            }
        }
    }

    /// Counts what became of a batch. Returns the positions of what found nothing to belong to.
    fn settle(&self, batch: &Batch, tally: Tally) -> Vec<usize> {
        if let Some(reason) = tally.first_refusal {
            tracing::warn!(n_refused = tally.n_refused, %reason, "The flywheel dropped records that cannot be stored.");
        }
        if !batch.ops.is_empty() {
            self.resume();
        }
        self.shared.n_written.fetch_add(tally.n_written, Ordering::Relaxed);
        self.shared.n_refused.fetch_add(tally.n_refused, Ordering::Relaxed);
        tally.unmatched
    }

    fn suspend(&self, reason: &str) {
        let mut state = self.shared.state.lock();
        match &mut *state {
            WriterState::Suspended { reason: known, .. } => reason.clone_into(known),
            other => {
                tracing::error!(
                    %reason,
                    retry_secs = self.retry_interval.as_secs_f64(),
                    "The flywheel stops storing; traffic goes on. It tries again by itself and sheds what its queue cannot hold."
                );
                *other = WriterState::Suspended { reason: reason.to_owned(), since_ms: now_ms() };
            }
        }
    }

    fn resume(&self) {
        let mut state = self.shared.state.lock();
        if let WriterState::Suspended { since_ms, .. } = *state {
            let n_shed = self.shared.n_shed.load(Ordering::Relaxed);
            tracing::info!(since_ms, n_shed, "The flywheel stores again.");
            *state = WriterState::Writing;
        }
    }
}

/// Marks the end of the thread, also after a panic: records still queued are counted as shed.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let n_lost = self.0.queue.abandon();
        self.0.n_shed.fetch_add(u64::try_from(n_lost).unwrap_or(u64::MAX), Ordering::Relaxed);
        *self.0.state.lock() = WriterState::Closed;
        if n_lost > 0 {
            tracing::error!(n_lost, "The flywheel closed with records it could not write.");
        }
    }
}

/// Commits all of `ops` but those that cannot be stored.
fn commit(connection: &mut Connection, ops: &[Op]) -> rusqlite::Result<Tally> {
    let refusal = |(index, op)| check(op).err().map(|reason| (index, reason));
    let mut refused: BTreeMap<usize, String> = ops.iter().enumerate().filter_map(refusal).collect();
    loop {
        // What the schema refuses may have been half written. Beginning again without it is the rare way out; a
        // savepoint around every record would double the cost of all.
        match attempt(connection, ops, &refused)? {
            Ok(tally) => return Ok(tally),
            Err((index, reason)) => _ = refused.insert(index, reason),
        }
    }
}

/// Commits the batch without the `refused`, or finds one more of them (its index and why) and commits nothing.
fn attempt(
    connection: &mut Connection,
    ops: &[Op],
    refused: &BTreeMap<usize, String>,
) -> rusqlite::Result<Result<Tally, (usize, String)>> {
    let mut tally = Tally { first_refusal: refused.values().next().cloned(), ..Tally::default() };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (index, op) in ops.iter().enumerate() {
        if refused.contains_key(&index) {
            tally.n_refused += 1;
            continue;
        }
        match insert(&transaction, op) {
            Ok(true) => tally.n_written += 1,
            Ok(false) => match op {
                Op::Exchange(record) => {
                    tally.n_refused += 1;
                    tally.first_refusal.get_or_insert_with(|| format!("exchange `{}` is already recorded", record.id));
                }
                Op::Answer { .. } | Op::Score(_) | Op::Feedback { .. } => tally.unmatched.push(index),
            },
            Err(error) if is_refusal(&error) => return Ok(Err((index, error.to_string()))),
            Err(error) => return Err(error),
        }
    }
    transaction.commit()?;
    Ok(Ok(tally))
}

fn check(op: &Op) -> Result<(), String> {
    match op {
        Op::Exchange(record) => record.check(),
        Op::Answer { answer, .. } => answer.check(),
        Op::Score(record) => check_score(record.score),
        Op::Feedback { feedback, .. } => feedback.check(),
    }
}

/// Writes one record. False: an exchange that exists already, or anything else that finds nothing to belong to; nothing
/// was written then.
fn insert(connection: &Connection, op: &Op) -> rusqlite::Result<bool> {
    match op {
        Op::Exchange(record) => rows::insert_exchange(connection, record, now_ms()),
        Op::Answer { exchange_id, answer } => rows::append_answer(connection, exchange_id, answer, now_ms()),
        Op::Score(record) => rows::set_score(connection, record),
        Op::Feedback { exchange_id, tenant, rates, feedback } => {
            if !rows::insert_feedback(connection, exchange_id, Some(tenant), *rates, feedback)? {
                return Ok(false);
            }
            if let Some(score) = feedback.score {
                // An exchange without a served answer keeps the feedback all the same.
                rows::set_score(
                    connection,
                    &ScoreRecord {
                        exchange_id: exchange_id.clone(),
                        target: ScoreTarget::Served,
                        score,
                        source: ScoreSource::Feedback,
                        at_ms: feedback.at_ms,
                    },
                )?;
            }
            Ok(true)
        }
    }
}
