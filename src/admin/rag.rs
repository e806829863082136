//! `/v1/rag` on the admin port, for whoever has the admin token. The interface itself is `rag::api`.

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::json;

use super::{Admin, api, mcp};
use crate::rag::api::{ApiRequest, ApiResponse, handle};
use crate::rag::knowledge_base::Caller;

/// Bytes of a body at most: the largest file that is read, with room for its frame.
const MAX_BODY_BYTES: usize = 128 << 20;

pub fn router(admin: &Admin) -> Router<Admin> {
    Router::new()
        .route("/mcp/{knowledge_base}", any(mcp::answer))
        .route("/{*path}", any(answer))
        .layer(from_fn_with_state(admin.clone(), api::require_token))
}

async fn answer(State(admin): State<Admin>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match whole(body).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let request = ApiRequest {
        method: head.method.to_string(),
        path: head.uri.path().trim_start_matches('/').to_owned(),
        query: head.uri.query().map(str::to_owned),
        content_type: content_type.map(str::to_owned),
        body,
        caller: Caller::Operator,
    };
    into_response(handle(&admin.rag, request).await)
}

/// The whole body, or the answer to one that is too large.
pub async fn whole(body: Body) -> Result<Bytes, Box<Response>> {
    to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
        let message = format!("the body is cut off, or larger than {} MiB", MAX_BODY_BYTES >> 20);
        let error = json!({"error": {"message": message, "code": "too_large"}});
        Box::new((StatusCode::PAYLOAD_TOO_LARGE, Json(error)).into_response())
    })
}

pub fn into_response(response: ApiResponse) -> Response {
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(response.body)).into_response()
}
