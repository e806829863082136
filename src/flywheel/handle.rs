//! The request path's handle on the flywheel: queue and forget.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::database::Store;
use super::error::FlywheelError;
use super::queue::{Limits, Op, Queue};
use super::record::{AnswerRecord, ExchangeRecord, FeedbackRecord, Rates, ScoreRecord};
use super::writer::{Shared, Writer};

/// How the writer behaves. The defaults suit a gateway with a local disk.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A record is committed at most this long after it was queued; what a killed process may lose.
    pub flush_interval: Duration,
    /// A batch is committed early when it has this many records. Small enough that what a record holds is still in the processor's
    /// cache when it is written; large enough that a commit falls into the way of less than one request in a hundred, and that the
    /// writer keeps up with what two cores can serve.
    pub flush_rows: usize,
    /// Records that may wait; more are shed.
    pub queue_rows: usize,
    /// Memory they may hold, bytes (an estimate).
    pub queue_bytes: usize,
    /// Time between two attempts while the storage fails.
    pub retry_interval: Duration,
    /// The database file may not grow past this size, bytes; reaching it counts as a full disk.
    pub max_bytes: Option<u64>,
    /// Store no text that a user or a model wrote: no messages, outputs or comments. Hashes and features are stored.
    pub redact: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(200),
            flush_rows: 256,
            queue_rows: 10_000,
            queue_bytes: 64 << 20,
            retry_interval: Duration::from_secs(10),
            max_bytes: None,
            redact: false,
        }
    }
}

/// What the writer has done since it started. A record is one call of a `record…` method.
#[derive(Clone, Debug, Serialize)]
pub struct Counters {
    /// Committed.
    pub written: u64,
    /// Dropped because the queue was full, or never written before the end.
    pub shed: u64,
    /// Dropped because the record cannot be stored: an impossible value or an id that exists; the log says which.
    pub failed: u64,
    /// Answers, scores and feedback for an exchange that is not in the database, or is another tenant's.
    pub unmatched: u64,
    /// Records waiting.
    pub queued: usize,
    /// Memory they hold, bytes (an estimate).
    pub queued_bytes: usize,
    pub state: WriterState,
}

/// Whether records reach the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum WriterState {
    Writing,
    /// The storage fails; the writer keeps trying.
    Suspended {
        /// What failed and what to do.
        reason: String,
        /// Unix time, milliseconds.
        since_ms: i64,
    },
    Closed,
}

/// Records exchanges off the request path. Cheap to clone; when the last clone goes, what is queued is written and the
/// thread ends.
#[derive(Clone)]
pub struct Flywheel {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    shared: Arc<Shared>,
    redact: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flywheel {
    /// Opens or creates the database at `path` and starts the writer thread.
    ///
    /// # Errors
    /// As [`Store::open`]. The gateway then serves without a flywheel.
    pub fn open(path: &Path, options: Options) -> Result<Self, FlywheelError> {
        let store = Store::open(path)?;
        let connection = store.connect_batch_writer(options.max_bytes)?;
        let limits = Limits {
            rows: options.queue_rows,
            bytes: options.queue_bytes,
            flush_rows: options.flush_rows.max(1),
            flush_interval: options.flush_interval,
        };
        let shared = Arc::new(Shared {
            queue: Queue::new(limits),
            state: Mutex::new(WriterState::Writing),
            n_written: AtomicU64::new(0),
            n_shed: AtomicU64::new(0),
            n_refused: AtomicU64::new(0),
            n_unmatched: AtomicU64::new(0),
        });
        let Options { retry_interval, max_bytes, redact, .. } = options;
        let thread = std::thread::Builder::new()
            .name("flywheel".into())
            .spawn({
                let (store, shared) = (store.clone(), shared.clone());
                move || {
                    let connection = Some(connection);
                    let early = Vec::new();
                    Writer { store: &store, shared: &shared, retry_interval, max_bytes, connection, early }.run();
                }
            })
            .map_err(|source| FlywheelError::Io { doing: "starting the flywheel's writer thread", source })?;
        Ok(Self { inner: Arc::new(Inner { store, shared, redact, thread: Mutex::new(Some(thread)) }) })
    }

    /// Whether texts are dropped before they are stored.
    pub fn is_redacting(&self) -> bool {
        self.inner.redact
    }

    /// The database, for reading and for everything that may take its time.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Records an exchange with the answers known by now.
    pub fn record(&self, mut record: ExchangeRecord) {
        if self.inner.redact {
            record.redact();
        }
        self.push(Op::Exchange(Box::new(record)));
    }

    /// Adds an answer to an exchange recorded before, for example that of a shadow call.
    pub fn record_answer(&self, exchange_id: &str, mut answer: AnswerRecord) {
        if self.inner.redact {
            answer.redact();
        }
        self.push(Op::Answer { exchange_id: exchange_id.to_owned(), answer: Box::new(answer) });
    }

    /// Gives an answer its score, unless it has a newer one.
    pub fn record_score(&self, record: ScoreRecord) {
        self.push(Op::Score(record));
    }

    /// Adds what a user of `tenant` said about the served answer. Another tenant's exchange is left alone, and another consumer's
    /// unless it `rates` all. False: the queue is full.
    pub fn record_feedback(&self, exchange_id: &str, tenant: &str, rates: Rates, mut feedback: FeedbackRecord) -> bool {
        if self.inner.redact {
            feedback.redact();
        }
        let (exchange_id, tenant) = (exchange_id.to_owned(), tenant.to_owned());
        self.push(Op::Feedback { exchange_id, tenant, rates, feedback })
    }

    /// Blocks until everything recorded before is committed.
    ///
    /// # Errors
    /// `Suspended` when the storage fails now too; the records stay queued. `Closed` after `close`.
    pub fn flush(&self) -> Result<(), FlywheelError> {
        match self.inner.shared.queue.flush().recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(FlywheelError::Suspended(reason)),
            Err(_hung_up) => Err(FlywheelError::Closed),
        }
    }

    /// Writes what is queued and ends the writer, for every clone. Blocks until then. What cannot be written is
    /// counted as shed.
    pub fn close(&self) {
        self.inner.close();
    }

    pub fn counters(&self) -> Counters {
        let shared = &self.inner.shared;
        let (queued, queued_bytes) = shared.queue.depth();
        Counters {
            written: shared.n_written.load(Ordering::Relaxed),
            shed: shared.n_shed.load(Ordering::Relaxed),
            failed: shared.n_refused.load(Ordering::Relaxed),
            unmatched: shared.n_unmatched.load(Ordering::Relaxed),
            queued,
            queued_bytes,
            state: shared.state.lock().clone(),
        }
    }

    fn push(&self, op: Op) -> bool {
        let is_taken = self.inner.shared.queue.push(op);
        if !is_taken {
            self.inner.shared.n_shed.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }
}

impl Inner {
    fn close(&self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("The flywheel's writer thread had panicked; please report it.");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
