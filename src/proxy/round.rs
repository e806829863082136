//! A round of an admitted request: everything between admission and the upstream.

use bytes::Bytes;
use pingora_error::Result;
use pingora_proxy::Session;

use super::context::Context;
use super::exchange::is_streamed;
use super::service::Gateway;
use super::{body, chain, conversation, gate, mcp, mirror, respond, retry};
use crate::plugins::Reply;

/// What a round came to.
pub enum Round {
    Answered,
    /// pingora streams the request through.
    Upstream,
    /// The answer is an error that leads to another route.
    Again,
}

impl Gateway {
    /// Everything between admission and the upstream: match, run the chain, ask the MCP servers, redirect. `Some` is an answer
    /// to give now.
    async fn before_upstream(&self, session: &mut Session, ctx: &mut Context) -> Result<Option<Reply>> {
        if let Err(reply) = gate::enter(ctx, session.req_header()) {
            chain::join_refusal(ctx, &reply);
            return Ok(Some(reply));
        }
        if let Some(reply) = chain::run(session, ctx).await? {
            return Ok(Some(reply));
        }
        let reply = mcp::answer(self, session, ctx).await?;
        Ok(reply.or_else(|| ctx.unrouted.take()).or_else(|| gate::redirect(ctx, session.req_header())))
    }

    /// One round of an admitted request. An answer with an error may lead to another round, see [`Context::reenter`].
    pub(super) async fn round(&self, session: &mut Session, ctx: &mut Context) -> Result<Round> {
        if let Some(reply) = self.before_upstream(session, ctx).await? {
            return answer_or_again(session, ctx, reply).await;
        }
        let rpc = ctx.rpc();
        // Once the body has been read here, pingora could replay 64 KiB of it at most; the exchange has no such limit. It also
        // is the one that can hold an answer back.
        let is_held = chain::may_hold_answer(session, ctx);
        let has_no_body = ctx.state.body.as_ref().is_none_or(Bytes::is_empty);
        if rpc.is_none() && has_no_body && conversation::is_websocket(session.req_header()) {
            ctx.is_unheld_upgrade = is_held;
            return Ok(Round::Upstream);
        }
        if is_held {
            // A compressed answer would tell the plugins nothing.
            session.req_header_mut().remove_header(&http::header::ACCEPT_ENCODING);
        }
        let is_wanted = is_held || rpc.is_some() || ctx.reentry().is_some() || mirror::wants_body(session, ctx);
        if is_wanted && ctx.state.body.is_none() {
            match body::read(session, ctx).await? {
                Ok(whole) => ctx.state.body = Some(whole),
                Err(reply) => {
                    respond::write(session, ctx, reply).await?;
                    return Ok(Round::Answered);
                }
            }
        }
        mirror::send(self, session, ctx);
        if let Some(service) = rpc {
            match self.dubbo.serve(session, ctx, &service, &self.resolver).await? {
                None => return Ok(Round::Answered),
                Some(reply) if retry::wants_fallback(ctx, reply.status) && ctx.fall_back() => {}
                Some(reply) => return answer_or_again(session, ctx, reply).await,
            }
        }
        if ctx.state.body.is_some() {
            return self.exchange.serve(session, ctx).await;
        }
        if is_streamed(session, ctx) {
            return self.exchange.serve_streamed(session, ctx).await;
        }
        Ok(Round::Upstream)
    }
}

/// Gives the answer, unless it leads to another round.
///
/// # Errors
/// The client went away.
pub async fn answer_or_again(session: &mut Session, ctx: &mut Context, reply: Reply) -> Result<Round> {
    if ctx.wants_reentry(reply.status) {
        return Ok(Round::Again);
    }
    respond::write(session, ctx, reply).await?;
    Ok(Round::Answered)
}
