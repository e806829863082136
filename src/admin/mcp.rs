//! `/v1/rag/mcp/{knowledge_base}`: any knowledge base as an MCP server, for whoever has the admin token. `?tenant=` names whose
//! documents are seen and written beside everybody's.

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use serde::Deserialize;

use super::{Admin, rag};
use crate::mcp::{Client, server_of};
use crate::rag::api::shown_error;

#[derive(Deserialize)]
pub struct Seat {
    tenant: Option<String>,
}

pub async fn answer(
    State(admin): State<Admin>,
    Path(knowledge_base): Path<String>,
    Query(seat): Query<Seat>,
    request: Request,
) -> Response {
    if let Err(error) = admin.rag.base(&knowledge_base).await {
        return rag::whole(shown_error(&error));
    }
    let (head, body) = request.into_parts();
    let body = match rag::whole_body(body).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let request = Request::from_parts(head, body);
    let answered = admin.mcp.answer(&server_of(&knowledge_base), Client::operator(seat.tenant), request).await;
    answered.map(Body::from)
}
