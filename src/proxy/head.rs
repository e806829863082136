//! The head of each HTTP/1 request, read before pingora sees it.
//!
//! `front` calls it on every connection that may speak HTTP/1. A head is bounded in bytes and in time as a whole, from its
//! first byte to its last, so that a client that sends a byte now and then holds nothing for long; and it is checked by
//! `framing` as it came. pingora is then given the bytes as if it had read them itself.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use pingora_timeout::{sleep, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::framing::{Lines, Refusal, check};
use crate::llm::error::{ApiError, ErrorKind};

/// What HTTP/2 connections begin with. The head of a SETTINGS frame follows, of which the type tells.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const FRAME_TYPE: usize = 3;
const SETTINGS: u8 = 4;

/// First allocation for a head.
const USUAL_HEAD: usize = 4096;

/// How long, and for how many bytes, the rest of a refused request is read away: closing on unread input makes the kernel reset the
/// connection, and the client may lose the answer.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 1 << 20;

const TOO_SLOW: Refusal = Refusal {
    kind: ErrorKind::RequestTimeout,
    reason: "head_timeout",
    message: "The head of the request was not sent completely within timeouts.request_read_secs.",
};

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a request; `None` is for ever.
    pub idle: Option<Duration>,
    /// From the first byte of a head to its end.
    pub head: Duration,
    pub max_bytes: usize,
}

/// What came.
#[derive(Debug)]
pub enum Arrived {
    /// A head that passed [`check`], and what was read beyond it.
    Request(BytesMut),
    /// The preface of HTTP/2, and what was read beyond it.
    Http2(BytesMut),
    /// The client has left or had nothing to say, or the process is to stop.
    Nothing,
}

/// What must be refused; the connection cannot be used any more.
#[derive(Debug)]
pub struct Refused {
    pub why: Refusal,
    /// As much as had come.
    pub bytes: BytesMut,
    /// Since its first byte.
    pub after: Duration,
}

/// Waits for the next request. From its first byte on it holds a token of `at_work`.
///
/// # Errors
/// What came must be refused.
pub async fn read(
    stream: &mut Stream,
    patience: Patience,
    shutdown: &mut ShutdownWatch,
    at_work: &TaskTracker,
) -> Result<Arrived, Refused> {
    let mut bytes = BytesMut::with_capacity(USUAL_HEAD);
    let first = tokio::select! {
        biased;
        read = stream.read_buf(&mut bytes) => read,
        () = over(patience.idle) => return Ok(Arrived::Nothing),
        () = after(shutdown, LAST_REQUEST) => return Ok(Arrived::Nothing),
    };
    if !matches!(first, Ok(1..)) {
        return Ok(Arrived::Nothing);
    }
    let _at_work = at_work.token();
    let began = Instant::now();
    let kind = timeout(patience.head, rest(stream, &mut bytes, patience.max_bytes)).await.unwrap_or(Err(TOO_SLOW));
    match kind {
        Ok(Kind::Request) => Ok(Arrived::Request(bytes)),
        Ok(Kind::Http2) => Ok(Arrived::Http2(bytes)),
        Ok(Kind::Nothing) => Ok(Arrived::Nothing),
        Err(why) => Err(Refused { why, bytes, after: began.elapsed() }),
    }
}

/// What a kept connection may still ask for when the process begins to drain: its client cannot know yet. Less than the moment of
/// silence in which a drain ends.
const LAST_REQUEST: Duration = Duration::from_millis(80);

/// Ends so long after the process began to drain.
pub async fn after(shutdown: &mut ShutdownWatch, time: Duration) {
    // An error: whoever would tell is gone.
    let _ = shutdown.wait_for(|is_over| *is_over).await;
    sleep(time).await;
}

/// [`Arrived`] without the bytes.
enum Kind {
    Request,
    Http2,
    Nothing,
}

async fn over(idle: Option<Duration>) {
    match idle {
        Some(idle) => sleep(idle).await,
        None => std::future::pending().await,
    }
}

/// Reads on until the head, or the preface, is there.
async fn rest(stream: &mut Stream, bytes: &mut BytesMut, max_bytes: usize) -> Result<Kind, Refusal> {
    let mut lines = Lines::default();
    let mut is_fresh = true;
    loop {
        // One empty line before a request is an old habit of clients after a body.
        if is_fresh && bytes.starts_with(b"\r\n") {
            let _ = bytes.split_to(2);
            is_fresh = false;
        }
        let is_http2 = bytes.starts_with(PREFACE);
        if is_http2 && bytes.len() >= PREFACE.len() + FRAME_HEAD {
            // The library that goes on from here does not insist.
            let is_settings = bytes[PREFACE.len() + FRAME_TYPE] == SETTINGS;
            return Ok(if is_settings { Kind::Http2 } else { Kind::Nothing });
        }
        let is_undecided = is_http2 || PREFACE.starts_with(bytes) || (is_fresh && &bytes[..] == b"\r");
        if !is_undecided {
            is_fresh = false;
            match lines.end(bytes)? {
                Some(end) if end > max_bytes => return Err(lines.too_long()),
                Some(end) => {
                    check(&bytes[..end])?;
                    encode_target(bytes);
                    return Ok(Kind::Request);
                }
                None if bytes.len() >= max_bytes => return Err(lines.too_long()),
                None => {}
            }
        }
        match stream.read_buf(bytes).await {
            Ok(1..) => {}
            _ => return Ok(Kind::Nothing),
        }
    }
}

/// Browsers and scripts send quotes and angle brackets as they are, and upstreams take them; the library that goes on from here does not.
fn encode_target(bytes: &mut BytesMut) {
    let line = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    if memchr::memchr3(b'"', b'<', b'>', &bytes[..line]).is_none() {
        return;
    }
    let mut encoded = BytesMut::with_capacity(bytes.len() + 64);
    for &byte in &bytes[..line] {
        match byte {
            b'"' => encoded.extend_from_slice(b"%22"),
            b'<' => encoded.extend_from_slice(b"%3C"),
            b'>' => encoded.extend_from_slice(b"%3E"),
            _ => encoded.extend_from_slice(&[byte]),
        }
    }
    encoded.extend_from_slice(&bytes[line..]);
    *bytes = encoded;
}

/// Answers `refusal` and ends the connection. Returns the length of the answer's body.
pub async fn refuse(mut stream: Stream, refusal: Refusal) -> usize {
    let error = ApiError::new(refusal.kind, refusal.message);
    let body = error.to_json();
    let reason = http::StatusCode::from_u16(error.status).ok().and_then(|status| status.canonical_reason());
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        error.status,
        reason.unwrap_or_default(),
        body.len(),
    );
    let n_sent = body.len();
    let _ = timeout(DRAIN_LIMIT, answer(&mut stream, head, body)).await;
    n_sent
}

async fn answer(stream: &mut Stream, head: String, body: Bytes) -> std::io::Result<()> {
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    AsyncWriteExt::shutdown(stream).await?;
    let mut rest = BytesMut::with_capacity(USUAL_HEAD);
    let mut n_drained = 0;
    while n_drained < DRAIN_BYTES {
        rest.clear();
        match stream.read_buf(&mut rest).await? {
            0 => break,
            n => n_drained += n,
        }
    }
    Ok(())
}
