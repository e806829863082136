//! The rest of a request's body, on its way to an HTTP/2 upstream while the answer comes.
//!
//! pingora's own proxy waits for room in the upstream's window before it looks at the answer again. Whoever answers while it reads (gRPC
//! in both directions, for one) and has its own window full then waits for the gateway, and the gateway for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use http::Version;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use pingora_timeout::timeout;

use crate::proxy::context::Context;
use crate::proxy::departure::departure;
use crate::proxy::{body, respond};

/// What is read ahead of the upstream. That a client of HTTP/1 has left is noticed only while it is read from; one of HTTP/2 says so.
const READ_AHEAD: usize = 1 << 20;

pub struct Pump {
    writer: SendStream<Bytes>,
    /// Read, and not taken by the upstream yet.
    waiting: VecDeque<Bytes>,
    n_waiting: usize,
    /// The client has sent everything.
    is_read: bool,
    /// The upstream has everything, or wants no more.
    is_over: bool,
    /// The client speaks HTTP/2, where a stream may be silent, and its end is told apart from its body.
    is_http2: bool,
    read_patience: Duration,
    write_patience: Duration,
}

impl Pump {
    /// `before` is what an earlier attempt has read of the body already.
    pub fn new(
        writer: SendStream<Bytes>,
        before: Option<Bytes>,
        session: &mut Session,
        ctx: &Context,
        write_patience: Duration,
    ) -> Pump {
        let n_waiting = before.as_ref().map_or(0, Bytes::len);
        Pump {
            writer,
            waiting: before.into_iter().collect(),
            n_waiting,
            is_read: session.is_body_done(),
            is_over: false,
            is_http2: session.req_header().version == Version::HTTP_2,
            read_patience: ctx.snapshot.limits.client_read_timeout,
            write_patience,
        }
    }

    pub fn is_read(&self) -> bool {
        self.is_read
    }

    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Reads a piece, or hands some on; afterwards waits for the client to leave. May be broken off at any time.
    ///
    /// # Errors
    /// The client left or stopped sending, or the upstream stopped taking: the error's source says which.
    pub async fn step(&mut self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        if self.is_over {
            return Err(match self.is_read || self.is_http2 {
                true => departure(session).await,
                // It would be read for nobody; the answer ends the exchange.
                false => std::future::pending().await,
            });
        }
        let may_read = !self.is_read && self.n_waiting < READ_AHEAD;
        let has_work = self.n_waiting > 0 || self.is_read;
        let patience = Some(self.read_patience).filter(|_| !self.is_http2);
        let piece = if may_read && has_work {
            tokio::select! {
                sent = self.send() => return sent,
                piece = next_piece(session, patience) => piece?,
            }
        } else if may_read {
            next_piece(session, patience).await?
        } else if self.is_read || self.is_http2 {
            tokio::select! {
                sent = self.send() => return sent,
                gone = departure(session) => return Err(gone),
            }
        } else {
            return self.send().await;
        };
        match piece {
            Some(piece) => {
                respond::pass_request_chunk(session, ctx, &piece);
                self.n_waiting += piece.len();
                self.waiting.push_back(piece);
                self.is_read = session.is_body_done();
            }
            None => self.is_read = true,
        }
        Ok(())
    }

    /// Hands on what the upstream has room for. One that takes no more says why in its answer, or by ending it.
    async fn send(&mut self) -> Result<()> {
        match timeout(self.write_patience, self.send_waiting()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Closed)) => {
                self.is_over = true;
                Ok(())
            }
            Err(_) => Err(Error::explain(ErrorType::WriteTimedout, "the upstream takes no more of the body").into_up()),
        }
    }

    async fn send_waiting(&mut self) -> std::result::Result<(), Closed> {
        while let Some(piece) = self.waiting.front_mut() {
            if piece.is_empty() {
                self.waiting.pop_front();
                continue;
            }
            self.writer.reserve_capacity(piece.len());
            let room = poll_fn(|context| self.writer.poll_capacity(context)).await;
            let room = room.and_then(std::result::Result::ok).ok_or(Closed)?;
            let part = piece.split_to(room.min(piece.len()));
            self.n_waiting -= part.len();
            let is_last = self.is_read && self.n_waiting == 0;
            self.writer.send_data(part, is_last).map_err(|_| Closed)?;
            if is_last {
                self.is_over = true;
                return Ok(());
            }
        }
        if self.is_read {
            self.writer.send_data(Bytes::new(), true).map_err(|_| Closed)?;
            self.is_over = true;
        }
        Ok(())
    }
}

/// The upstream takes nothing more on this stream.
struct Closed;

async fn next_piece(session: &mut Session, patience: Option<Duration>) -> Result<Option<Bytes>> {
    match patience {
        Some(patience) => body::next_piece(session, patience).await,
        None => session.read_request_body().await.map_err(|error| error.into_down()),
    }
}
