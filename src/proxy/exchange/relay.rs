//! Passing a begun answer on to the client, byte for byte, while watching both ends.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, header};
use pingora_core::protocols::http::client::HttpSession;
use pingora_error::{Error, ErrorSource, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::Exchange;
use super::attempt::{CallFacts, Opened};
use super::failure::{STOPPING, without_context};
use super::pump::Pump;
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::observe::{BodyKind, Observer};
use crate::llm::provider::Api;
use crate::llm::sse::error_event;
use crate::plugins::{Answered, CompletedCall, End, Reply};
use crate::proxy::context::Context;
use crate::proxy::departure::{LEFT, departure};
use crate::proxy::hygiene::present;
use crate::proxy::{answer_head, respond};

/// Headers of an answer that belong to the upstream connection.
const NOT_RELAYED: &[&str] = &["transfer-encoding", "te", "trailer"];

/// Commits the answer's head and streams the rest.
///
/// # Errors
/// The client went away.
pub async fn relay(exchange: &Exchange, session: &mut Session, ctx: &mut Context, opened: Box<Opened>) -> Result<()> {
    let is_event_stream = opened.is_event_stream();
    let mut watch = Watch::new(&opened);
    let begun = opened.started;
    let Opened { mut upstream, peer, mut head, first, is_done, call, lease: _lease, mut rest, .. } = *opened;
    if rest.as_ref().is_some_and(|rest| !rest.is_read()) {
        // The answer may end before the request does, and what follows is no request then.
        session.set_keepalive(None);
    }

    prepare_head(session, &mut head, is_event_stream)?;
    respond::mark_upstream_answer(ctx, &mut head, begun.elapsed());
    if let Some(body) = respond::finish_upstream_head(session, ctx, &mut head)? {
        let answered = watch.answered(&call, End::Complete);
        exchange.count_answered(&answered);
        ctx.state.llm_mut().attempts.push(answered);
        exchange.finish(upstream, &peer, is_done, call.idle).await;
        return respond::finish_and_write(session, ctx, head, body).await;
    }
    if ctx.is_bare {
        // Of the upstream's own making, or of a plugin's; then what comes behind it is nobody's.
        let answered = watch.answered(&call, End::Complete);
        exchange.count_answered(&answered);
        ctx.state.llm_mut().attempts.push(answered);
        exchange.finish(upstream, &peer, is_done, call.idle).await;
        return respond::write_whole(session, ctx, head, Bytes::new()).await;
    }
    if respond::holds(session, ctx, &head) {
        let limit = ctx.snapshot.limits.max_body_bytes;
        let whole = read_whole(&mut upstream, &mut watch, first, is_done, limit);
        let read = tokio::select! {
            biased;
            read = whole => Ok(read),
            () = exchange.ending.cancelled() => Ok((End::Cut(STOPPING.into()), Bytes::new())),
            gone = departure(session) => Err(gone),
        };
        let (end, mut body) = read.as_ref().map_or((End::Cancelled, Bytes::new()), Clone::clone);
        let is_reusable = end == End::Complete;
        let answered = watch.answered(&call, end.clone());
        exchange.count_answered(&answered);
        ctx.state.llm_mut().attempts.push(answered);
        exchange.finish(upstream, &peer, is_reusable, call.idle).await;
        if let Err(gone) = read {
            ctx.state.details = LEFT.into();
            return Err(gone);
        }
        if let End::Cut(reason) = end {
            return respond::write(session, ctx, cut_reply(ctx, &reason)).await;
        }
        respond::finish_body(session, ctx, &mut head, &mut body).await?;
        return respond::write_whole(session, ctx, head, body).await;
    }
    ctx.status = Some(head.status.as_u16());
    let begun_body = Gathered { chunk: first, is_done, failed: None };
    let streamed = tokio::select! {
        biased;
        streamed = stream(session, ctx, &mut upstream, &mut watch, Box::new(head), begun_body, &mut rest) => streamed,
        () = exchange.ending.cancelled() => Ok(End::Cut(STOPPING.into())),
    };
    if let Ok(End::Cut(reason)) = &streamed {
        show_cut(session, &watch, reason).await;
    }
    let end = streamed.as_ref().map_or(End::Cancelled, Clone::clone);
    match &end {
        End::Cut(_) => ctx.state.details = "upstream_reset_after_response_started".into(),
        End::Cancelled => ctx.state.details = LEFT.into(),
        _ => {}
    }
    let is_reusable = end == End::Complete && rest.as_ref().is_none_or(Pump::is_over);
    let answered = watch.answered(&call, end);
    exchange.count_answered(&answered);
    ctx.state.llm_mut().attempts.push(answered);
    exchange.finish(upstream, &peer, is_reusable, call.idle).await;
    if streamed.is_ok() {
        respond::read_away(session).await;
    }
    streamed.map(|_| ()).map_err(|error| error.into_down())
}

/// Largest answer of a call beside the client's exchange; a longer one counts as cut.
const COLLECT_LIMIT: usize = 32 << 20;

/// Reads a begun answer whole, for calls beside the client's exchange.
pub async fn collect(exchange: &Exchange, opened: Box<Opened>) -> CompletedCall {
    let mut watch = Watch::new(&opened);
    let Opened { mut upstream, peer, head, first, is_done, call, .. } = *opened;
    let (end, body) = read_whole(&mut upstream, &mut watch, first, is_done, COLLECT_LIMIT).await;
    let is_reusable = end == End::Complete;
    let answered = watch.answered(&call, end);
    exchange.count_answered(&answered);
    exchange.finish(upstream, &peer, is_reusable, call.idle).await;
    let content_type = head.headers.get(header::CONTENT_TYPE).cloned();
    CompletedCall { answered, response: Some((head.status.as_u16(), content_type, body)) }
}

/// Reads the rest of a begun answer.
async fn read_whole(
    upstream: &mut HttpSession,
    watch: &mut Watch,
    first: Bytes,
    mut is_done: bool,
    limit: usize,
) -> (End, Bytes) {
    let mut body = BytesMut::new();
    let mut chunk = first;
    let end = loop {
        watch.see(&chunk);
        body.extend_from_slice(&chunk);
        if is_done {
            break if watch.is_cut_short() { End::Cut(NO_FINISH_REASON.into()) } else { End::Complete };
        }
        if body.len() > limit {
            break End::Cut(format!("the answer is longer than {limit} bytes"));
        }
        chunk = Bytes::new();
        match upstream.read_response_body().await {
            Ok(Some(next)) => chunk = next,
            Ok(None) => is_done = true,
            Err(error) => break End::Cut(error.to_string()),
        }
    };
    (end, body.freeze())
}

/// An answer that broke off while it was held back: nothing of it has reached the client.
fn cut_reply(ctx: &Context, reason: &str) -> Reply {
    let message = format!("Service \"{}\" broke off its answer ({reason}). Retry the request.", ctx.state.service);
    respond::error(ErrorKind::UpstreamUnreachable, message, "upstream_reset_after_response_started")
}

const NO_FINISH_REASON: &str = "it ended without a finish reason";

/// Sends head and body. `Ok` says how the upstream ended; `Err` that the client is gone.
async fn stream(
    session: &mut Session,
    ctx: &mut Context,
    upstream: &mut HttpSession,
    watch: &mut Watch,
    head: Box<ResponseHeader>,
    begun: Gathered,
    rest: &mut Option<Pump>,
) -> Result<End> {
    let Gathered { chunk: first, mut is_done, .. } = begun;
    let mut trailers = None;
    if is_done {
        match read_trailers(session, upstream).await {
            Ok(read) => trailers = read,
            Err(error) => return Ok(End::Cut(error.to_string())),
        }
    }
    let is_all = is_done && first.is_empty() && trailers.is_none();
    respond::write_head(session, head, is_all).await?;
    let has_ended = is_all && session.req_header().version == http::Version::HTTP_2;
    let mut chunk = first;
    loop {
        let mut gathered = if is_done { Gathered { chunk, is_done, failed: None } } else { gather(upstream, chunk) };
        chunk = std::mem::take(&mut gathered.chunk);
        is_done = gathered.is_done;
        // Known only for HTTP/2 and for bodies with a length that has been reached: saves one empty read.
        is_done = is_done || upstream.response_done();
        watch.see(&chunk);
        let is_cut_short = is_done && watch.is_cut_short();
        if !chunk.is_empty() || is_done {
            let mut out = Some(chunk);
            respond::pass_chunk(session, ctx, &mut out);
            if is_cut_short {
                let _ = session.write_response_body(out, false).await;
                return Ok(End::Cut(NO_FINISH_REASON.into()));
            }
            if is_done && trailers.is_none() {
                match read_trailers(session, upstream).await {
                    Ok(read) => trailers = read,
                    Err(error) => gathered.failed = Some(error),
                }
            }
            let is_last = is_done && trailers.is_none() && gathered.failed.is_none();
            if !has_ended {
                session.write_response_body(out, is_last).await?;
            }
        }
        if let Some(error) = gathered.failed {
            return Ok(End::Cut(error.to_string()));
        }
        if is_done {
            if let Some(trailers) = trailers {
                session.as_downstream_mut().write_response_trailers(trailers).await?;
            }
            return Ok(End::Complete);
        }
        if rest.is_some() && ctx.is_out_of_time() {
            return Ok(End::Cut("the answer took longer than the route allows".to_owned()));
        }
        let read = loop {
            tokio::select! {
                read = upstream.read_response_body() => break read,
                moved = meanwhile(rest, session, ctx) => match moved {
                    Ok(()) => {}
                    Err(error) if error.esource() == &ErrorSource::Upstream => return Ok(End::Cut(error.to_string())),
                    Err(gone) => return Err(gone),
                }
            }
        };
        match read {
            Ok(Some(next)) => chunk = next,
            Ok(None) => {
                is_done = true;
                chunk = Bytes::new();
            }
            Err(error) => return Ok(End::Cut(error.to_string())),
        }
    }
}

/// Passes on what is still to come of the request; there is an end to it only when the client leaves.
async fn meanwhile(rest: &mut Option<Pump>, session: &mut Session, ctx: &mut Context) -> Result<()> {
    match rest {
        Some(rest) => rest.step(session, ctx).await,
        None => Err(departure(session).await),
    }
}

/// What follows the body, between two sides that both speak HTTP/2.
async fn read_trailers(session: &Session, upstream: &mut HttpSession) -> Result<Option<HeaderMap>> {
    match upstream {
        HttpSession::H2(upstream) if session.req_header().version == http::Version::HTTP_2 => {
            upstream.read_trailers().await
        }
        _ => Ok(None),
    }
}

/// A piece of the answer with what had already arrived behind it.
struct Gathered {
    chunk: Bytes,
    is_done: bool,
    /// The upstream broke off after `chunk`.
    failed: Option<Box<Error>>,
}

/// Bytes gathered before they go out.
const GATHER_LIMIT: usize = 64 * 1024;

/// Takes what has arrived by now, without waiting: an answer that comes in one burst leaves in one write.
fn gather(upstream: &mut HttpSession, chunk: Bytes) -> Gathered {
    let mut gathered = Gathered { chunk, is_done: false, failed: None };
    while gathered.chunk.len() < GATHER_LIMIT {
        // Reading a body may be broken off at any await; pingora's own proxy relies on that too.
        match upstream.read_response_body().now_or_never() {
            None => break,
            Some(Ok(Some(more))) if gathered.chunk.is_empty() => gathered.chunk = more,
            Some(Ok(Some(more))) => {
                let mut joined = BytesMut::with_capacity(gathered.chunk.len() + more.len());
                joined.extend_from_slice(&gathered.chunk);
                joined.extend_from_slice(&more);
                gathered.chunk = joined.freeze();
            }
            Some(Ok(None)) => {
                gathered.is_done = true;
                break;
            }
            Some(Err(error)) => {
                gathered.failed = Some(error);
                break;
            }
        }
    }
    gathered
}

fn prepare_head(session: &Session, head: &mut ResponseHeader, is_event_stream: bool) -> Result<()> {
    answer_head::clean(session.req_header(), head)?;
    for name in present(&head.headers, NOT_RELAYED) {
        head.remove_header(&name);
    }
    if is_event_stream {
        // pingora keeps a body whose length is known until it is whole; events are to arrive as they come.
        head.remove_header(&header::CONTENT_LENGTH);
    }
    let has_length = head.headers.contains_key(header::CONTENT_LENGTH);
    let has_body = !matches!(head.status.as_u16(), 204 | 304);
    let version = session.req_header().version;
    if !has_length && has_body && version == http::Version::HTTP_11 {
        // Insertion of a static name and value does not fail.
        let _ = head.insert_header(header::TRANSFER_ENCODING, "chunked");
    }
    head.set_version(version);
    Ok(())
}

/// A cut stream must not look complete: an event stream gets an error event and no `[DONE]`, anything else loses its
/// connection before the announced end.
async fn show_cut(session: &mut Session, watch: &Watch, reason: &str) {
    session.set_keepalive(None);
    if watch.takes_events {
        let message = format!(
            "The provider's stream broke off before its end ({}). What came so far is incomplete; retry the request.",
            without_context(reason)
        );
        let event = error_event(&ApiError::new(ErrorKind::UpstreamCut, message), watch.api, watch.is_mid_event());
        if session.write_response_body(Some(event), true).await.is_ok() {
            return;
        }
    }
    session.shutdown().await;
}

/// The codings that are used on the web; other words, `identity` for one, change nothing.
const CODINGS: &[&str] = &["gzip", "x-gzip", "deflate", "compress", "br", "zstd"];

fn is_encoded(head: &ResponseHeader) -> bool {
    let values = head.headers.get_all(header::CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut words = values.flat_map(|value| value.split(',')).map(str::trim);
    words.any(|word| CODINGS.iter().any(|coding| word.eq_ignore_ascii_case(coding)))
}

/// Looks at an answer as it passes.
struct Watch {
    /// 502 for a success status whose stream began with an error event.
    status: u16,
    observer: Option<Observer>,
    api: Option<Api>,
    /// It is a stream of events, in the clear: one of ours can stand among them.
    takes_events: bool,
    /// Chat streams name a finish reason or send `[DONE]`; one that ends without was cut, however politely.
    says_when_it_ends: bool,
    started: Instant,
    first_byte: Option<std::time::Duration>,
    last_bytes: [u8; 2],
}

impl Watch {
    fn new(opened: &Opened) -> Watch {
        let status = opened.status();
        let is_event_stream = opened.is_event_stream();
        let kind = if is_event_stream { BodyKind::Sse } else { BodyKind::Json };
        // Not asked for, but some providers compress all the same.
        let is_encoded = is_encoded(&opened.head);
        let is_read = status < 400 && !is_encoded;
        Watch {
            status,
            observer: opened.call.want.filter(|_| is_read).map(|want| Observer::new(kind, want)),
            api: opened.call.api,
            // What streams and is no model's has events of its own.
            takes_events: is_event_stream && !is_encoded && opened.rest.is_none(),
            says_when_it_ends: is_event_stream && opened.call.api == Some(Api::ChatCompletions),
            started: opened.started,
            first_byte: opened.first_byte,
            last_bytes: [b'\n'; 2],
        }
    }

    fn see(&mut self, chunk: &[u8]) {
        if let Some(observer) = &mut self.observer {
            observer.feed(chunk);
        }
        match chunk {
            [] => {}
            [only] => self.last_bytes = [self.last_bytes[1], *only],
            [.., before, last] => self.last_bytes = [*before, *last],
        }
    }

    /// Whether the answer's end came too early.
    fn is_cut_short(&self) -> bool {
        self.says_when_it_ends && self.observer.as_ref().is_some_and(|observer| !observer.is_complete())
    }

    /// Whether the client has part of an event that never got its blank line.
    fn is_mid_event(&self) -> bool {
        self.last_bytes != *b"\n\n"
    }

    fn answered(self, call: &CallFacts, end: End) -> Answered {
        Answered {
            model: call.model.clone(),
            service: call.service.clone(),
            status: Some(self.status),
            end,
            observation: self.observer.map(Observer::finish).unwrap_or_default(),
            latency: self.started.elapsed(),
            first_token: self.first_byte,
        }
    }
}
