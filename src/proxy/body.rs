//! Reading a request body whole, within its limit.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Version;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use pingora_timeout::timeout;

use super::context::Context;
use super::respond;
use crate::llm::error::ErrorKind;
use crate::plugins::Reply;

/// First allocation for a body whose announced length is believed up to here; a longer one grows as it arrives.
const TRUSTED_LENGTH: usize = 1 << 20;

/// Reads the body to its end. The inner error is the 413 to answer with.
///
/// # Errors
/// The client broke off.
pub async fn read(session: &mut Session, ctx: &mut Context) -> Result<Result<Bytes, Reply>> {
    let read = read_whole(session, ctx).await?;
    ctx.received_body = read.as_ref().ok().cloned();
    Ok(read)
}

async fn read_whole(session: &mut Session, ctx: &Context) -> Result<Result<Bytes, Reply>> {
    let limit = ctx.snapshot.limits.max_body_bytes;
    let announced = session.req_header().headers.get(http::header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()).and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Ok(Err(too_large(session, limit)));
    }
    invite(session).await?;
    let patience = ctx.snapshot.limits.client_read_timeout;
    let Some(first) = next_piece(session, patience).await? else { return Ok(Ok(Bytes::new())) };
    if first.len() > limit {
        return Ok(Err(too_large(session, limit)));
    }
    // Most bodies come in one read: keep that buffer instead of copying it.
    let Some(second) = next_piece(session, patience).await? else { return Ok(Ok(first)) };
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(first.len() * 4).min(TRUSTED_LENGTH).max(first.len()));
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if whole.len() + chunk.len() > limit {
            return Ok(Err(too_large(session, limit)));
        }
        whole.extend_from_slice(&chunk);
        next = next_piece(session, patience).await?;
    }
    Ok(Ok(whole.freeze()))
}

/// Every client error here is the client's: pingora does not mark it so outside its own proxy loop.
pub async fn next_piece(session: &mut Session, patience: Duration) -> Result<Option<Bytes>> {
    match timeout(patience, session.read_request_body()).await {
        Ok(read) => read.map_err(|error| error.into_down()),
        Err(_) => Err(Error::explain(ErrorType::ReadTimedout, "the request body stopped coming").into_down()),
    }
}

/// Clients that send `Expect: 100-continue` (curl above 1 MiB) wait for this line before they send the body. Whether it was sent.
///
/// # Errors
/// The client went away.
pub async fn invite(session: &mut Session) -> Result<bool> {
    let head = session.req_header();
    let asked = head
        .headers
        .get(http::header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let is_waiting = asked && head.version == Version::HTTP_11;
    if is_waiting {
        session.write_continue_response().await.map_err(|error| error.into_down())?;
        session.req_header_mut().remove_header(&http::header::EXPECT);
    }
    Ok(is_waiting)
}

fn too_large(session: &mut Session, limit: usize) -> Reply {
    // The rest of the body is still on its way; reading it only to keep the connection would serve nobody.
    session.set_keepalive(None);
    let message = format!(
        "The request body is longer than {limit} bytes, the limit of this gateway. Send less, or raise limits.max_body_bytes in config.toml."
    );
    respond::error(ErrorKind::BodyTooLarge, message, "request_payload_too_large")
}
