//! Answers made by the gateway itself.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderName, Method, StatusCode, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::context::Context;
use super::hygiene::x_envoy;
use super::mcp_session::Announcement;
use super::{balance, cors, grpc, http10, outgoing, streamed};
use crate::llm::error::{ApiError, ErrorKind};
use crate::plugins::{BodyStream, Reply, Request};

/// How Envoy says that a circuit breaker refused a request: to the client, and in the access log.
pub const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub const OVERFLOW_DETAILS: &str = "upstream_reset_before_response_started{overflow}";

/// How long the rest of a refused request is read away.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// An OpenAI-shaped error as a reply. `details` goes to the access log.
pub fn error(kind: ErrorKind, message: impl Into<String>, details: &str) -> Reply {
    api_error(&ApiError::new(kind, message), details)
}

pub fn api_error(error: &ApiError, details: &str) -> Reply {
    Reply::new(error.status, details).json(error.to_json())
}

/// Writes `reply` through the response half of the chain.
///
/// # Errors
/// The client went away.
pub async fn write(session: &mut Session, ctx: &mut Context, reply: Reply) -> Result<()> {
    ctx.state.is_upstream_answer = false;
    if ctx.state.details.is_empty() {
        ctx.state.details.clone_from(&reply.details);
    }
    let stream = reply.stream.as_ref().and_then(BodyStream::take);
    let (mut head, mut body) = parts(reply)?;
    if let Some(replacement) = finish_head(session, ctx, &mut head)? {
        body = replacement;
    } else if let Some(pieces) = stream {
        return streamed::write(session, ctx, head, pieces).await;
    }
    finish_and_write(session, ctx, head, body).await
}

/// Sends a whole answer whose head has been through [`finish_head`].
///
/// # Errors
/// The client went away.
pub async fn finish_and_write(
    session: &mut Session,
    ctx: &mut Context,
    mut head: ResponseHeader,
    mut body: Bytes,
) -> Result<()> {
    if holds(session, ctx, &head) {
        finish_body(session, ctx, &mut head, &mut body).await?;
    }
    if grpc::is_grpc(&session.req_header().headers) {
        grpc::translate(&mut head, &mut body, session.req_header().version)?;
    }
    write_whole(session, ctx, head, body).await
}

/// Sends an answer that has been through the chain.
///
/// # Errors
/// The client went away.
pub async fn write_whole(
    session: &mut Session,
    ctx: &mut Context,
    mut head: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    ctx.status = Some(head.status.as_u16());
    without_length(&mut head);
    // A HEAD request and the statuses without body get the head alone.
    let is_bare = body.is_empty() || session.req_header().method == Method::HEAD || is_bare(head.status);
    write_head(session, Box::new(head), is_bare).await?;
    if !is_bare {
        session.write_response_body(Some(body), true).await.map_err(|error| error.into_down())?;
    }
    read_away(session).await;
    Ok(())
}

/// Reads what is left of a request that has been answered: closing on unread input makes the kernel reset the connection, and the client may
/// lose the answer it was sent.
pub async fn read_away(session: &mut Session) {
    if !session.is_body_done() {
        let _ = tokio::time::timeout(DRAIN_LIMIT, session.drain_request_body()).await;
    }
}

/// Whether an answer of this status has no body, whatever a plugin made it of.
pub fn is_bare(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// No length is said where there is no body; a 304 says that of what was not sent.
fn without_length(head: &mut ResponseHeader) {
    if is_bare(head.status) {
        head.remove_header(&TRANSFER_ENCODING);
    }
    if head.status == StatusCode::NO_CONTENT {
        head.remove_header(&CONTENT_LENGTH);
    }
}

/// Sends a head. In HTTP/2 one that is all there is ends the stream: clients of gRPC take no other for an answer without messages.
///
/// # Errors
/// The client went away.
pub async fn write_head(session: &mut Session, head: Box<ResponseHeader>, is_all: bool) -> Result<()> {
    let written = match session.as_downstream_mut() {
        ServerSession::H2(stream) if is_all => stream.write_response_header(head, true),
        // pingora forgets here that it is all.
        _ => session.write_response_header(head, is_all).await,
    };
    written.map_err(|error| error.into_down())
}

/// What the answer of an upstream gets before it goes out. As [`finish_head`], with the route's own header changes first.
///
/// # Errors
/// A plugin answers with a status that does not exist.
pub fn finish_upstream_head(
    session: &mut Session,
    ctx: &mut Context,
    head: &mut ResponseHeader,
) -> Result<Option<Bytes>> {
    outgoing::finish(head, ctx);
    if let Some(cookie) = ctx.balance.cookie.take() {
        // Made of a configured name and path, which may hold what a header cannot; then there is no session.
        let _ = head.append_header(SET_COOKIE, cookie);
    }
    ctx.announcement = announcement(ctx, head);
    if ctx.announcement.is_some()
        && head.remove_header(&CONTENT_LENGTH).is_some()
        && session.req_header().version == Version::HTTP_11
    {
        // The announcement will be longer. Insertion of a static name and value does not fail.
        let _ = head.insert_header(TRANSFER_ENCODING, "chunked");
    }
    finish_head(session, ctx, head)
}

fn announcement(ctx: &Context, head: &ResponseHeader) -> Option<Announcement> {
    let parameter = ctx.session_parameter()?;
    let kind = head.headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let address = ctx.upstream_address.parse().ok()?;
    kind.starts_with("text/event-stream").then(|| Announcement::new(parameter, balance::number(address)))
}

/// Head, with its length if it is known, and body of a reply.
fn parts(reply: Reply) -> Result<(ResponseHeader, Bytes)> {
    let mut head = ResponseHeader::build(reply.status, Some(reply.headers.len() + 4))?;
    for (name, value) in reply.headers {
        head.append_header(name, value)?;
    }
    // These have no body, whatever a configuration says.
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED) {
        head.remove_header(&CONTENT_TYPE);
        return Ok((head, Bytes::new()));
    }
    if reply.stream.is_none() {
        head.set_content_length(reply.body.len())?;
    }
    Ok((head, reply.body))
}

/// Says that an answer is an upstream's, and how long it took, as Envoy does and other tools read.
pub fn mark_upstream_answer(ctx: &mut Context, head: &mut ResponseHeader, took: Duration) {
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    ctx.state.is_upstream_answer = true;
    ctx.upstream_service_time = Some(took);
    // Name and value are header text.
    let _ = head.insert_header("x-envoy-upstream-service-time", took);
}

/// What every answer gets before it goes out: headers that plugins asked for, then the chain in reverse. `Some` is the body
/// of another answer, whose head is in `head` now: a plugin answers instead.
///
/// # Errors
/// A plugin answers with a status that does not exist.
pub fn finish_head(session: &mut Session, ctx: &mut Context, head: &mut ResponseHeader) -> Result<Option<Bytes>> {
    let mut replacement = None;
    if ctx.is_stopping() {
        // The answer tells the client so; the next request would meet a closed connection.
        session.set_keepalive(None);
    }
    for (name, value) in std::mem::take(&mut ctx.state.reply_headers) {
        // The names are valid header names already; insertion cannot fail for them.
        let _ = head.insert_header(name, value);
    }
    for plugin in ctx.ran.iter().rev() {
        let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        if let Some(reply) = plugin.replace_answer(&request, head) {
            request.state.is_upstream_answer = false;
            request.state.details.clone_from(&reply.details);
            let (new_head, body) = parts(reply)?;
            *head = new_head;
            replacement = Some(body);
        }
        plugin.on_response_headers(&mut request, head);
    }
    if let Some(cors) = ctx.route.as_ref().and_then(|entry| entry.route.admission.cors.as_ref()) {
        cors::decorate(cors, session.req_header(), head);
    }
    without_length(head);
    http10::end_with_answer(session, head);
    ctx.is_bare = is_bare(head.status);
    if ctx.snapshot.settings.disable_x_envoy_headers {
        for name in x_envoy(&head.headers) {
            head.remove_header(&name);
        }
    }
    Ok(replacement)
}

/// Whether a plugin that ran wants this answer when it is whole, and it is, or may be held back until it is.
pub fn holds(session: &mut Session, ctx: &mut Context, head: &ResponseHeader) -> bool {
    let is_bare = session.req_header().method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED;
    // The status of a call comes behind its messages, so they are not to be held as a whole. An answer without its body says how long
    // that would be.
    if grpc::is_grpc(&head.headers) || (is_bare && ctx.state.is_upstream_answer) {
        return false;
    }
    ctx.ran.iter().any(|plugin| {
        let request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        let may_hold = !request.state.is_upstream_answer || plugin.may_hold_answer(&request);
        may_hold && plugin.wants_response_body(&request, head)
    })
}

/// Shows the whole answer to the plugins that want it, in reverse order.
///
/// # Errors
/// A plugin made a head that cannot carry a length.
pub async fn finish_body(
    session: &mut Session,
    ctx: &mut Context,
    head: &mut ResponseHeader,
    body: &mut Bytes,
) -> Result<()> {
    for plugin in ctx.ran.iter().rev() {
        let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        if plugin.wants_response_body(&request, head) {
            plugin.on_response_body(&mut request, head, body).await;
        }
    }
    head.remove_header(&TRANSFER_ENCODING);
    head.set_content_length(body.len())
}

/// Shows a piece of the request's body, on its way upstream, to the plugins that ran. A WebSocket's frames are no body.
pub fn pass_request_chunk(session: &mut Session, ctx: &mut Context, chunk: &Bytes) {
    if session.was_upgraded() {
        return;
    }
    for plugin in &ctx.ran {
        let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        plugin.on_request_chunk(&mut request, chunk);
    }
}

/// Shows a piece of the answer's body to the plugins that ran, in reverse order; they may replace it.
pub fn pass_chunk(session: &mut Session, ctx: &mut Context, chunk: &mut Option<Bytes>) {
    let Some(bytes) = chunk.as_mut().filter(|_| !session.was_upgraded()) else { return };
    if let Some(announcement) = &mut ctx.announcement {
        announcement.pass(bytes);
    }
    for plugin in ctx.ran.iter().rev() {
        let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        plugin.on_response_chunk(&mut request, bytes);
    }
}
