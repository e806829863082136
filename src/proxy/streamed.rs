//! Answers of the gateway itself whose body is written while it is sent.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::TRANSFER_ENCODING;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::context::Context;
use super::departure::{LEFT, departure};
use super::respond;
use crate::plugins::Pieces;

/// Sends an answer whose head has been through the chain, and its pieces as they come. Whoever writes them learns that the client is gone
/// by their being dropped.
///
/// # Errors
/// The client went away.
pub async fn write(
    session: &mut Session,
    ctx: &mut Context,
    mut head: ResponseHeader,
    mut pieces: Pieces,
) -> Result<()> {
    if respond::holds(session, ctx, &head) {
        let mut body = BytesMut::new();
        while let Some(piece) = next(session, ctx, &mut pieces).await? {
            body.extend_from_slice(&piece);
        }
        let mut body = body.freeze();
        respond::finish_body(session, ctx, &mut head, &mut body).await?;
        return respond::write_whole(session, ctx, head, body).await;
    }
    let version = session.req_header().version;
    if version == http::Version::HTTP_11 {
        head.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    head.set_version(version);
    ctx.status = Some(head.status.as_u16());
    session.write_response_header(Box::new(head), false).await.map_err(|error| error.into_down())?;
    loop {
        let piece = next(session, ctx, &mut pieces).await?;
        let is_last = piece.is_none();
        let mut out = Some(piece.unwrap_or_default());
        respond::pass_chunk(session, ctx, &mut out);
        session.write_response_body(out, is_last).await.map_err(|error| error.into_down())?;
        if is_last {
            return Ok(());
        }
    }
}

/// The next piece, unless the client goes first.
async fn next(session: &mut Session, ctx: &mut Context, pieces: &mut Pieces) -> Result<Option<Bytes>> {
    tokio::select! {
        biased;
        piece = pieces.next() => Ok(piece),
        gone = departure(session) => {
            ctx.state.details = LEFT.into();
            Err(gone)
        }
    }
}
