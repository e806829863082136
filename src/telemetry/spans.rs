//! Trace export: finished spans wait in a bounded queue and leave in batches, in the form of the collector that is configured.
//!
//! The request path calls `SpanSink::send` once per span and never waits; `server` runs `export` in the background and
//! hands in the HTTP POST, so nothing here opens a socket. Whether a trace is sampled is the sender's decision.

pub mod otlp;
pub mod semconv;
pub mod skywalking;
pub mod zipkin;

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// One finished operation, in the terms of the OpenTelemetry data model.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// The caller's span, from this process or from the client's `traceparent`.
    pub parent_id: Option<[u8; 8]>,
    /// Of low cardinality: the method and the matched route, or the operation and the model; never the URL path.
    pub name: String,
    pub kind: SpanKind,
    pub start: SystemTime,
    pub end: SystemTime,
    /// Names are in `semconv`.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    pub is_error: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that this process answers.
    Server,
    /// A call that this process makes.
    Client,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    String(String),
    Int(i64),
    Bool(bool),
    Double(f64),
    Strings(Vec<String>),
}

/// Where finished spans go. Clones feed the same queue.
#[derive(Debug, Clone)]
pub struct SpanSink {
    queue: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

/// The other end of a `SpanSink`, for `export`.
#[derive(Debug)]
pub struct SpanReceiver {
    queue: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
}

/// Name of this process towards collectors.
pub const SERVICE: &str = "weirgate";

/// A batch leaves when it has this many spans …
const BATCH_SPANS: usize = 512;
/// … or when its first span has waited this long.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// Between the first attempt to post a batch and the second, which is the last.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// For one attempt. While it lasts nothing is taken from the queue, so it also bounds how long a flush can hold a drain.
const POST_TIMEOUT: Duration = Duration::from_secs(5);

/// A queue for `capacity` spans (at least one) that wait for the collector; what does not fit is dropped and counted.
pub fn channel(capacity: usize) -> (SpanSink, SpanReceiver) {
    let (sender, queue) = mpsc::channel(capacity.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    (SpanSink { queue: sender, dropped: dropped.clone() }, SpanReceiver { queue, dropped })
}

impl SpanSink {
    /// Queues a span; it is dropped and counted when the queue is full or the export has ended.
    pub fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans lost since the start, in the queue or because the collector did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Posts spans until `stop` resolves or every sink is gone, then what is still queued, and returns.
///
/// `prepare` writes a batch in the form of the collector; `post` sends what it made and resolves to the status of the
/// answer, or to why there was none. A batch that fails is posted once more where that may help, then dropped and counted.
/// When a batch fails after `stop`, the rest is dropped too: a dead collector must not hold the shutdown.
pub async fn export<E, B, P, F, S>(mut spans: SpanReceiver, stop: S, prepare: E, post: P)
where
    E: Fn(&[Span]) -> Result<B, String>,
    B: Clone,
    P: Fn(B) -> F,
    F: Future<Output = Result<u16, String>>,
    S: Future<Output = ()>,
{
    let mut stop = pin!(stop);
    let mut collector = Collector::default();
    let mut batch = Vec::with_capacity(BATCH_SPANS);
    while spans.fill(&mut batch, stop.as_mut()).await {
        let outcome = match prepare(&batch) {
            Ok(prepared) => deliver(prepared, &post).await,
            Err(reason) => Err(reason),
        };
        let mut lost = 0;
        if outcome.is_err() {
            lost = batch.len();
            if spans.queue.is_closed() {
                lost += spans.discard_rest();
            }
        }
        let dropped = spans.dropped.fetch_add(lost as u64, Ordering::Relaxed) + lost as u64;
        match (collector.observe(outcome.is_ok()), outcome) {
            (Some(Turn::Failed), Err(reason)) => tracing::warn!(
                reason,
                "The trace collector does not take traces: spans are dropped until it does; check its service and port (tracing in the ConfigMap higress-config) or telemetry.otlp_endpoint"
            ),
            (Some(Turn::Recovered), _) => tracing::info!(dropped, "The trace collector takes traces again"),
            _ => {}
        }
    }
}

impl SpanReceiver {
    /// Replaces `batch` by the next one. False when there is none because the queue is closed and empty.
    async fn fill(&mut self, batch: &mut Vec<Span>, mut stop: Pin<&mut impl Future<Output = ()>>) -> bool {
        batch.clear();
        let mut due = None;
        while batch.len() < BATCH_SPANS {
            let room = BATCH_SPANS - batch.len();
            tokio::select! {
                biased;
                () = stop.as_mut(), if !self.queue.is_closed() => self.queue.close(),
                n_taken = self.queue.recv_many(batch, room) => {
                    if n_taken == 0 {
                        break;
                    }
                    due.get_or_insert_with(|| Instant::now() + FLUSH_INTERVAL);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => break,
            }
        }
        !batch.is_empty()
    }

    /// How many were left.
    fn discard_rest(&mut self) -> usize {
        let mut n_left = 0;
        while self.queue.try_recv().is_ok() {
            n_left += 1;
        }
        n_left
    }
}

/// A clock that stands before 1970 gives 0.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An id as it is written.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for AttributeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributeValue::String(text) => f.write_str(text),
            AttributeValue::Int(number) => write!(f, "{number}"),
            AttributeValue::Bool(flag) => write!(f, "{flag}"),
            AttributeValue::Double(number) => write!(f, "{number}"),
            AttributeValue::Strings(texts) => f.write_str(&texts.join(",")),
        }
    }
}

/// Why a batch was not taken.
struct Failure {
    reason: String,
    may_retry: bool,
}

async fn deliver<B, P, F>(batch: B, post: &P) -> Result<(), String>
where
    B: Clone,
    P: Fn(B) -> F,
    F: Future<Output = Result<u16, String>>,
{
    let mut outcome = attempt(post(batch.clone())).await;
    if outcome.as_ref().is_err_and(|failure| failure.may_retry) {
        sleep(RETRY_AFTER).await;
        outcome = attempt(post(batch)).await;
    }
    outcome.map_err(|failure| failure.reason)
}

/// OTLP names the statuses that may be posted again; a refusal such as 400 would only be repeated.
async fn attempt(answer: impl Future<Output = Result<u16, String>>) -> Result<(), Failure> {
    match timeout(POST_TIMEOUT, answer).await {
        Ok(Ok(200..=299)) => Ok(()),
        Ok(Ok(status)) => {
            let may_retry = matches!(status, 429 | 502 | 503 | 504);
            Err(Failure { reason: format!("it answered with status {status}"), may_retry })
        }
        Ok(Err(reason)) => Err(Failure { reason, may_retry: true }),
        Err(_) => {
            Err(Failure { reason: format!("it did not answer within {} s", POST_TIMEOUT.as_secs()), may_retry: true })
        }
    }
}

/// Whether the last batch was taken, so that an outage is one log line at each end, not one per batch.
#[derive(Default)]
struct Collector {
    is_failing: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Failed,
    Recovered,
}

impl Collector {
    fn observe(&mut self, is_ok: bool) -> Option<Turn> {
        let was_failing = std::mem::replace(&mut self.is_failing, !is_ok);
        match (was_failing, is_ok) {
            (false, false) => Some(Turn::Failed),
            (true, true) => Some(Turn::Recovered),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
