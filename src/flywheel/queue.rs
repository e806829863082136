//! The bounded queue between the request path and the writer thread.
//!
//! Bounded in records and in bytes, because one record may be a megabyte prompt. What the writer has taken but not yet
//! committed still counts, so a writer that cannot write makes the queue full, not the memory.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::record::{AnswerRecord, ExchangeRecord, FeedbackRecord, Rates, ScoreRecord};

/// One thing to write. Order is kept, so a score finds the exchange that was recorded before it.
pub(super) enum Op {
    Exchange(Box<ExchangeRecord>),
    Answer { exchange_id: String, answer: Box<AnswerRecord> },
    Score(ScoreRecord),
    Feedback { exchange_id: String, tenant: String, rates: Rates, feedback: FeedbackRecord },
}

/// What a flush gets back: everything before it is committed, or why not.
pub(super) type Flushed = Result<(), String>;

/// Taken by the writer; goes back through `Queue::settle` or `Queue::put_back`.
#[derive(Default)]
pub(super) struct Batch {
    pub ops: Vec<Op>,
    flushes: Vec<mpsc::Sender<Flushed>>,
    weight: usize,
    /// The queue was closed: nothing more will come …
    pub is_closing: bool,
    /// … and nothing is left behind this batch.
    pub is_last: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub rows: usize,
    pub bytes: usize,
    /// A batch is due when this many wait …
    pub flush_rows: usize,
    /// … or the first of them has waited this long.
    pub flush_interval: Duration,
}

pub(super) struct Queue {
    limits: Limits,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Records queued or taken.
    n_rows: usize,
    /// Their weight.
    n_bytes: usize,
    n_flushes: usize,
    /// Since when the head of `entries` has been there.
    waiting_since: Option<Instant>,
    is_closed: bool,
}

enum Entry {
    Op(Op),
    Flush(mpsc::Sender<Flushed>),
}

impl Queue {
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), wake: Condvar::new() }
    }

    /// Queues a record; false when it was shed because the queue is full or closed. Never waits for the writer.
    pub fn push(&self, op: Op) -> bool {
        let weight = op.weight();
        let mut state = self.state.lock();
        if state.is_closed || state.n_rows >= self.limits.rows || state.n_bytes + weight > self.limits.bytes {
            return false;
        }
        state.n_rows += 1;
        state.n_bytes += weight;
        state.entries.push_back(Entry::Op(op));
        state.waiting_since.get_or_insert_with(Instant::now);
        // The writer sleeps until the first record, then until its interval has passed: waking it for each one would
        // cost every request a system call.
        let n_waiting = state.entries.len();
        if n_waiting == 1 || n_waiting == self.limits.flush_rows {
            self.wake.notify_one();
        }
        true
    }

    /// Asks for everything queued so far to be written now. The receiver hears the outcome; it hears nothing but the
    /// hang-up when the queue is closed.
    pub fn flush(&self) -> mpsc::Receiver<Flushed> {
        let (sender, receiver) = mpsc::channel();
        let mut state = self.state.lock();
        if !state.is_closed {
            state.n_flushes += 1;
            state.entries.push_back(Entry::Flush(sender));
            self.wake.notify_one();
        }
        receiver
    }

    /// Accepts nothing more; the writer gets what is left at once.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// Records and bytes not yet committed.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.n_rows, state.n_bytes)
    }

    /// Waits until a batch is due and takes it. An empty one, if nothing comes until `wake_at`.
    pub fn take(&self, wake_at: Option<Instant>) -> Batch {
        let mut state = self.state.lock();
        while state.entries.is_empty() && !state.is_closed {
            match wake_at {
                None => self.wake.wait(&mut state),
                Some(at) if self.wake.wait_until(&mut state, at).timed_out() => return Batch::default(),
                Some(_) => {}
            }
        }
        let deadline = state.waiting_since.unwrap_or_else(Instant::now) + self.limits.flush_interval;
        while !state.is_urgent() && state.entries.len() < self.limits.flush_rows {
            if self.wake.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let mut batch = Batch::default();
        while batch.ops.len() < self.limits.flush_rows {
            match state.entries.pop_front() {
                Some(Entry::Op(op)) => {
                    batch.weight += op.weight();
                    batch.ops.push(op);
                }
                Some(Entry::Flush(sender)) => {
                    state.n_flushes -= 1;
                    batch.flushes.push(sender);
                }
                None => break,
            }
        }
        if state.entries.is_empty() {
            state.waiting_since = None;
        }
        batch.is_closing = state.is_closed;
        batch.is_last = state.is_closed && state.entries.is_empty();
        batch
    }

    /// The batch is done with: its place is free again and its flushes hear about it. Returns its records.
    pub fn settle(&self, batch: Batch) -> Vec<Op> {
        let mut state = self.state.lock();
        state.n_rows -= batch.ops.len();
        state.n_bytes -= batch.weight;
        drop(state);
        answer(batch.flushes, &Ok(()));
        batch.ops
    }

    /// The batch could not be written: it returns to the head of the queue, and every flush hears why.
    pub fn put_back(&self, batch: Batch, reason: &str) {
        let mut state = self.state.lock();
        let (waiting, flushes): (Vec<Entry>, Vec<Entry>) =
            state.entries.drain(..).partition(|entry| matches!(entry, Entry::Op(_)));
        state.n_flushes = 0;
        state.entries = batch.ops.into_iter().map(Entry::Op).chain(waiting).collect();
        drop(state);
        let queued = flushes.into_iter().filter_map(|entry| match entry {
            Entry::Flush(sender) => Some(sender),
            Entry::Op(_) => None,
        });
        answer(batch.flushes.into_iter().chain(queued), &Err(reason.to_owned()));
    }

    /// Waits before the next attempt: until `pause` is over, or a flush or the end asks for one now.
    pub fn wait_to_retry(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let mut state = self.state.lock();
        while !state.is_urgent() && !self.wake.wait_until(&mut state, deadline).timed_out() {}
    }

    /// Closes the queue and empties it; returns how many records were in it or taken. Waiting flushes hear the hang-up.
    pub fn abandon(&self) -> usize {
        let mut state = self.state.lock();
        let n_lost = state.n_rows;
        *state = State { is_closed: true, ..State::default() };
        n_lost
    }
}

impl State {
    fn is_urgent(&self) -> bool {
        self.is_closed || self.n_flushes > 0
    }
}

impl Op {
    /// Bytes it keeps in memory, about.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Exchange(record) => record.weight(),
                Self::Answer { answer, .. } => answer.weight(),
                Self::Score(_) => 0,
                Self::Feedback { feedback, .. } => feedback.weight(),
            }
    }
}

fn answer(flushes: impl IntoIterator<Item = mpsc::Sender<Flushed>>, flushed: &Flushed) {
    for flush in flushes {
        // A caller that stopped waiting is nobody's problem.
        let _gone = flush.send(flushed.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::exchange;
    use super::*;

    const LIMITS: Limits = Limits { rows: 3, bytes: 1 << 20, flush_rows: 2, flush_interval: Duration::ZERO };

    fn op(id: &str) -> Op {
        Op::Exchange(Box::new(exchange(id, 1)))
    }

    fn ids(batch: &Batch) -> Vec<&str> {
        let mut ids = Vec::new();
        for op in &batch.ops {
            let Op::Exchange(record) = op else { panic!("only exchanges here") };
            ids.push(record.id.as_str());
        }
        ids
    }

    #[test]
    fn taken_records_count_until_settled() {
        let queue = Queue::new(LIMITS);
        assert!(queue.push(op("a")) && queue.push(op("b")) && queue.push(op("c")));
        assert!(!queue.push(op("d")), "full");
        let batch = queue.take(None);
        assert_eq!(ids(&batch), ["a", "b"], "no more than flush_rows");
        assert!(!queue.push(op("d")), "taken is not yet written");
        drop(queue.settle(batch));
        assert!(queue.push(op("d")));
        assert_eq!(queue.depth().0, 2);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let weight = op("a").weight();
        let queue = Queue::new(Limits { bytes: 2 * weight, ..LIMITS });
        assert!(queue.push(op("a")) && queue.push(op("b")));
        assert!(!queue.push(op("c")));
        drop(queue.settle(queue.take(None)));
        assert_eq!(queue.depth(), (0, 0));
        assert!(queue.push(op("c")));
    }

    #[test]
    fn a_batch_put_back_comes_first_and_flushes_hear_why() {
        let queue = Queue::new(LIMITS);
        assert!(queue.push(op("a")));
        let first = queue.flush();
        let batch = queue.take(None);
        assert!(queue.push(op("b")));
        let second = queue.flush();
        queue.put_back(batch, "disk full");
        assert_eq!(first.recv().unwrap(), Err("disk full".into()));
        assert_eq!(second.recv().unwrap(), Err("disk full".into()));
        assert_eq!(ids(&queue.take(None)), ["a", "b"]);
    }

    #[test]
    fn a_flush_is_answered_after_what_came_before_it() {
        let queue = Queue::new(LIMITS);
        assert!(queue.push(op("a")) && queue.push(op("b")) && queue.push(op("c")));
        let flush = queue.flush();
        drop(queue.settle(queue.take(None)));
        assert!(flush.try_recv().is_err(), "c is still queued");
        drop(queue.settle(queue.take(None)));
        assert_eq!(flush.recv().unwrap(), Ok(()));
    }

    #[test]
    fn closing_hands_out_the_rest_and_then_the_end() {
        let queue = Queue::new(LIMITS);
        assert!(queue.push(op("a")) && queue.push(op("b")) && queue.push(op("c")));
        queue.close();
        assert!(!queue.push(op("d")));
        assert!(queue.flush().recv().is_err());
        assert!(!queue.take(None).is_last);
        assert!(queue.take(None).is_last);
        assert_eq!(queue.abandon(), 3, "never settled");
    }
}
