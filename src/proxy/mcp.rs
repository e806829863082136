//! Requests to the MCP servers of this process (`mcpServer` in the ConfigMap `higress-config`).
//!
//! As in Higress they are answered behind the plugins, so that authentication and limits apply, and whatever route would take the
//! request: none is needed.

use http::header::{CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING};
use pingora_error::Result;
use pingora_proxy::Session;

use super::context::Context;
use super::service::Gateway;
use super::{body, respond};
use crate::llm::error::ErrorKind;
use crate::mcp::{Client, admits_pages};
use crate::plugins::Reply;

/// The answer, if the request is for one of the servers.
///
/// # Errors
/// The client went away.
pub async fn answer(gateway: &Gateway, session: &mut Session, ctx: &mut Context) -> Result<Option<Reply>> {
    let snapshot = ctx.snapshot.clone();
    let path = session.req_header().uri.path();
    let Some(server) = snapshot.settings.mcp_servers.iter().find(|server| server.takes(&ctx.state.host, path)) else {
        return Ok(None);
    };
    if session.req_header().headers.contains_key(ORIGIN) && !admits_pages(server, &ctx.state.host) {
        let message = format!(
            "Web pages may call MCP servers only at hosts that the gateway knows. Name \"{}\" in domain_list of the server \"{}\".",
            ctx.state.host, server.name
        );
        return Ok(Some(respond::error(ErrorKind::Forbidden, message, "mcp_foreign_host")));
    }
    if ctx.state.body.is_none() {
        match body::read(session, ctx).await? {
            Ok(whole) => ctx.state.body = Some(whole),
            Err(reply) => return Ok(Some(reply)),
        }
    }
    let head = session.req_header();
    let mut request = http::Request::new(ctx.state.body.clone().unwrap_or_default());
    request.method_mut().clone_from(&head.method);
    request.uri_mut().clone_from(&head.uri);
    request.headers_mut().clone_from(&head.headers);
    let client = Client::consumer(ctx.state.consumer.clone());
    let (answered, body) = gateway.mcp.answer(server, client, request).await.into_parts();
    let headers = answered.headers.iter().filter(|(name, _)| ![CONTENT_LENGTH, TRANSFER_ENCODING].contains(name));
    let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(Some(Reply { status: answered.status.as_u16(), headers, body, stream: None, details: "mcp_server".to_owned() }))
}
