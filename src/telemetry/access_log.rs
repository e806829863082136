//! The access log: one JSON object per request, with the fields Higress logs (`ai_log` included), or the line that the
//! configuration gives a form for.
//!
//! Lines are made on the request's thread and written by one thread of its own through a bounded queue, so a slow disk
//! never holds a request; what does not fit is dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

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
    queue: Option<SyncSender<Vec<u8>>>,
}

/// Lines that may wait for the disk before further ones are dropped.
const QUEUE_LINES: usize = 8192;

impl AccessLog {
    /// Writes nothing.
    pub fn off() -> AccessLog {
        AccessLog { queue: None }
    }

    pub fn to_stdout() -> io::Result<AccessLog> {
        Self::to_writer(Box::new(io::stdout()))
    }

    /// Appends to a file, creating it and its folder.
    ///
    /// # Errors
    /// When the folder or file cannot be created or opened.
    pub fn to_file(path: &Path) -> io::Result<AccessLog> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Self::to_writer(Box::new(file))
    }

    fn to_writer(writer: Box<dyn Write + Send>) -> io::Result<AccessLog> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&lines, writer))?;
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
        !matches!(queue.try_send(line), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
    }
}

/// Ends when every sender is gone. A failing sink is not an error of any request: it is reported once and lines are lost.
fn write_lines(lines: &Receiver<Vec<u8>>, mut writer: Box<dyn Write + Send>) {
    let mut reported = false;
    while let Ok(first) = lines.recv() {
        let mut batch = first;
        while batch.len() < 1 << 16 {
            match lines.try_recv() {
                Ok(line) => batch.extend_from_slice(&line),
                Err(_) => break,
            }
        }
        if let Err(error) = writer.write_all(&batch).and_then(|()| writer.flush()) {
            if !reported {
                tracing::error!(%error, "The access log cannot be written; lines are lost until its disk or pipe works again");
            }
            reported = true;
        } else {
            reported = false;
        }
    }
}
