//! The access log: one JSON object per request, with the fields Higress logs (`ai_log` included), or the line that the
//! configuration gives a form for.
//!
//! Lines are made on the request's thread and written by one thread of its own through a queue that is bounded in lines and in
//! bytes (a line may hold a whole prompt), so a slow disk never holds a request; what does not fit is dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde_json::{Map, Value};

/// One request. Durations in milliseconds, sizes in bytes; field names are those of Higress' access log format.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    pub start_time: String,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub method: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    pub protocol: &'a str,
    pub response_code: u16,
    pub response_code_details: &'a str,
    /// Envoy's short form of what went wrong.
    pub response_flags: &'a str,
    pub duration: u64,
    pub bytes_received: usize,
    pub bytes_sent: usize,
    pub downstream_remote_address: &'a str,
    pub route_name: &'a str,
    pub upstream_cluster: &'a str,
    pub upstream_host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_service_time: Option<u64>,
    pub user_agent: &'a str,
    pub x_forwarded_for: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_log: Option<&'a Map<String, Value>>,
    /// What plugins add, as fields of their own.
    #[serde(flatten)]
    pub further: Option<&'a Map<String, Value>>,
}

/// Where lines go.
#[derive(Clone)]
pub struct AccessLog {
    queue: Option<Queue>,
}

#[derive(Clone)]
struct Queue {
    lines: SyncSender<Vec<u8>>,
    /// Of the lines that wait.
    n_bytes: Arc<AtomicUsize>,
}

/// Lines, and their bytes, that may wait for the disk before further ones are dropped.
const QUEUE_LINES: usize = 8192;
const QUEUE_BYTES: usize = 64 << 20;

/// What the end of the process waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

impl AccessLog {
    /// Writes nothing.
    pub fn off() -> AccessLog {
        AccessLog { queue: None }
    }

    /// `lost` counts lines that could not be written.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn to_stdout(lost: Counter) -> io::Result<AccessLog> {
        Self::to_writer(Box::new(io::stdout()), lost)
    }

    /// Appends to a file, creating it and its folder. `lost` counts lines that could not be written.
    ///
    /// # Errors
    /// When the folder or file cannot be created or opened.
    pub fn to_file(path: &Path, lost: Counter) -> io::Result<AccessLog> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Self::to_writer(Box::new(file), lost)
    }

    fn to_writer(writer: Box<dyn Write + Send>, lost: Counter) -> io::Result<AccessLog> {
        let (lines, waiting) = sync_channel(QUEUE_LINES);
        let queue = Queue { lines, n_bytes: Arc::default() };
        let n_bytes = queue.n_bytes.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&waiting, &n_bytes, writer, &lost))?;
        Ok(AccessLog { queue: Some(queue) })
    }

    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues a line of the usual form. Returns false if it was dropped.
    pub fn write(&self, entry: &Entry<'_>) -> bool {
        let mut line = Vec::with_capacity(512);
        if serde_json::to_writer(&mut line, entry).is_err() {
            return false;
        }
        line.push(b'\n');
        self.write_line(line)
    }

    /// Queues a line that has its end. Returns false if it was dropped.
    pub fn write_line(&self, line: Vec<u8>) -> bool {
        let Some(queue) = &self.queue else { return true };
        let n = line.len();
        if queue.n_bytes.fetch_add(n, Ordering::Relaxed) + n <= QUEUE_BYTES && queue.lines.try_send(line).is_ok() {
            return true;
        }
        queue.n_bytes.fetch_sub(n, Ordering::Relaxed);
        false
    }

    /// Waits until what was queued is written, for as long as a sink in order needs at most.
    pub fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let until = Instant::now() + FLUSH_LIMIT;
        while queue.n_bytes.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends when every sender is gone. A failing sink is not an error of any request: it is reported once and lines are lost.
fn write_lines(lines: &Receiver<Vec<u8>>, n_bytes: &AtomicUsize, mut writer: Box<dyn Write + Send>, lost: &Counter) {
    let mut reported = false;
    while let Ok(first) = lines.recv() {
        let mut batch = first;
        let mut n_lines = 1;
        while batch.len() < 1 << 16 {
            match lines.try_recv() {
                Ok(line) => batch.extend_from_slice(&line),
                Err(_) => break,
            }
            n_lines += 1;
        }
        if let Err(error) = writer.write_all(&batch).and_then(|()| writer.flush()) {
            if !reported {
                tracing::error!(%error, "The access log cannot be written; lines are lost until its disk or pipe works again");
            }
            reported = true;
            lost.inc_by(n_lines);
        } else {
            reported = false;
        }
        n_bytes.fetch_sub(batch.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A sink that takes nothing until it is told to, and hands on what it took.
    struct Stuck(mpsc::Receiver<()>, mpsc::Sender<usize>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_sink_refuses_are_counted_as_lost() {
        let lost = Counter::default();
        let log = AccessLog::to_writer(Box::new(Full), lost.clone()).unwrap();
        for _ in 0..3 {
            assert!(log.write_line(b"x\n".to_vec()));
        }
        log.flush();
        assert_eq!(lost.get(), 3);
    }

    #[test]
    fn lines_that_wait_are_bounded_in_bytes_and_all_of_them_are_written_in_the_end() {
        let ((go, gate), (wrote, written)) = (mpsc::channel(), mpsc::channel());
        let log = AccessLog::to_writer(Box::new(Stuck(gate, wrote)), Counter::default()).unwrap();
        let line = vec![b'x'; QUEUE_BYTES / 4];
        let n_taken = (0..10).filter(|_| log.write_line(line.clone())).count();
        assert_eq!(n_taken, 4);
        drop(go);
        log.flush();
        assert_eq!(written.try_iter().sum::<usize>(), QUEUE_BYTES);
        assert!(log.write_line(line), "there is room again");
    }
}
