//! Whether a streamed request is tried again. The exchange, which holds the body, has its own loop.
//!
//! pingora can send a request again as long as its body fits into the retry buffer (64 KiB) and nothing has been answered.

use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use super::context::Context;
use super::failure;
use crate::config::model::RetryOn;

/// Marks the error by which an answer is given up for another attempt.
const AGAIN: ErrorType = ErrorType::Custom("answer given up for another attempt");

/// After a connection failed. Nothing was sent, so nothing can be done twice.
pub fn after_no_connection(session: &Session, ctx: &mut Context) -> bool {
    is_listed(ctx, RetryOn::ConnectFailure) && has_attempts(session, ctx) && has_room(ctx)
}

/// After an answer's head has come.
///
/// # Errors
/// The answer is to be given up: the request is tried again, or the default backend is asked.
pub fn after_answer(session: &Session, ctx: &mut Context, status: u16) -> Result<()> {
    let may_repeat = is_listed(ctx, RetryOn::Status(status)) && is_safe(session, ctx) && has_attempts(session, ctx);
    if may_repeat && has_room(ctx) {
        return Error::e_explain(AGAIN, format!("status {status} is repeated"));
    }
    if wants_fallback(ctx, status) && is_whole(session) && ctx.fall_back() {
        return Error::e_explain(AGAIN, format!("the default backend answers for status {status}"));
    }
    Ok(())
}

/// After a failure on an open connection.
pub fn after_failure(session: &Session, ctx: &mut Context, error: &Error, is_reused: bool) -> bool {
    if error.etype() == &AGAIN {
        return true;
    }
    if error.esource() == &ErrorSource::Downstream || session.response_written().is_some() || !is_whole(session) {
        return false;
    }
    if failure::was_refused(error) {
        // Nothing was done, whatever the method.
        return is_listed(ctx, RetryOn::RefusedStream) && has_attempts(session, ctx) && has_room(ctx);
    }
    // Or it takes the head and no more: nothing has been answered.
    let was_closed = error.retry.retry() || error.etype() == &ErrorType::WriteError;
    let is_stale = is_reused && was_closed && session.req_header().method.is_idempotent();
    if is_stale {
        // The connection was at fault and not the endpoint, which keeps its sessions.
        ctx.visited.pop();
    }
    let may_repeat = is_listed(ctx, RetryOn::ServerError) && is_safe(session, ctx) && has_attempts(session, ctx);
    is_stale || (may_repeat && has_room(ctx))
}

/// Whether the default backend answers in place of this status.
pub fn wants_fallback(ctx: &Context, status: u16) -> bool {
    let fallback = ctx.route.as_ref().and_then(|entry| entry.route.fallback.as_ref());
    !ctx.has_fallen_back && fallback.is_some_and(|fallback| fallback.statuses.contains(&status))
}

fn is_listed(ctx: &Context, reason: RetryOn) -> bool {
    let Some(route) = &ctx.route else { return false };
    let on = &route.retry().on;
    let is_server_error = match reason {
        RetryOn::Status(status) => status >= 500,
        RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::ServerError => true,
    };
    on.contains(&reason) || (is_server_error && on.contains(&RetryOn::ServerError))
}

/// Whether asking twice does no harm, or is wanted.
fn is_safe(session: &Session, ctx: &Context) -> bool {
    ctx.route.as_ref().is_some_and(|route| route.retry().non_idempotent) || session.req_header().method.is_idempotent()
}

fn has_attempts(session: &Session, ctx: &Context) -> bool {
    !ctx.has_fallen_back
        && !ctx.is_out_of_time()
        && is_whole(session)
        && ctx.route.as_ref().is_some_and(|route| ctx.tries <= route.retry().attempts)
}

/// Whether the service takes another repetition. Asked last, because the answer keeps a place for it.
fn has_room(ctx: &mut Context) -> bool {
    ctx.retrying = None;
    let Some(upstream) = &ctx.upstream else { return true };
    ctx.retrying = upstream.retry();
    ctx.retrying.is_some()
}

/// Whether what was read of the body can be sent again.
fn is_whole(session: &Session) -> bool {
    !session.as_ref().retry_buffer_truncated()
}
