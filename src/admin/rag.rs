//! `/v1/rag`, `/v1/vector_stores` and `/v1/files` on the admin port, for whoever has the admin token. The interfaces themselves are in `rag::api`.

use std::convert::Infallible;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::StreamExt;
use serde_json::json;

use super::{Admin, api, mcp};
use crate::rag::api::files::{self, FilesAnswer};
use crate::rag::api::{ApiRequest, ApiResponse, ask_as_events, handle, shown_error, vector_stores, wants_stream};
use crate::rag::knowledge_base::Caller;

/// Bytes of a body at most: the largest file that is read, with room for its frame.
const MAX_BODY_BYTES: usize = 128 << 20;

pub fn router(admin: &Admin) -> Router<Admin> {
    Router::new()
        .route("/mcp/{knowledge_base}", any(mcp::answer))
        .route("/{*path}", any(answer))
        .layer(from_fn_with_state(admin.clone(), api::require_token))
}

pub fn vector_stores_router(admin: &Admin) -> Router<Admin> {
    let stores = Router::new().route("/", any(stores)).route("/{*path}", any(stores));
    stores.layer(from_fn_with_state(admin.clone(), api::require_token))
}

pub fn files_router(admin: &Admin) -> Router<Admin> {
    let uploads = Router::new().route("/", any(uploads)).route("/{*path}", any(uploads));
    uploads.layer(from_fn_with_state(admin.clone(), api::require_token))
}

async fn stores(State(admin): State<Admin>, request: Request) -> Response {
    match read(request).await {
        Ok(request) => whole(vector_stores::handle(&admin.rag, &admin.files, request).await),
        Err(response) => *response,
    }
}

async fn uploads(State(admin): State<Admin>, request: Request) -> Response {
    let request = match read(request).await {
        Ok(request) => request,
        Err(response) => return *response,
    };
    match files::handle(&admin.rag, &admin.files, request).await {
        FilesAnswer::Json(response) => whole(response),
        // Never shown as a page of this port: it is a stranger's content.
        FilesAnswer::Content(bytes) => {
            ([(header::CONTENT_TYPE, "application/octet-stream"), (header::CONTENT_DISPOSITION, "attachment")], bytes)
                .into_response()
        }
    }
}

async fn answer(State(admin): State<Admin>, request: Request) -> Response {
    let request = match read(request).await {
        Ok(request) => request,
        Err(response) => return *response,
    };
    if wants_stream(&request) {
        return match ask_as_events(&admin.rag, &request).await {
            Ok(events) => {
                let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
                (head, Body::from_stream(events.map(Ok::<_, Infallible>))).into_response()
            }
            Err(error) => whole(shown_error(&error)),
        };
    }
    whole(handle(&admin.rag, request).await)
}

pub fn whole(response: ApiResponse) -> Response {
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(response.body)).into_response()
}

/// The request as the interfaces take it; the answer if it has no body that can be read.
async fn read(request: Request) -> Result<ApiRequest, Box<Response>> {
    let (head, body) = request.into_parts();
    let body = match whole_body(body).await {
        Ok(body) => body,
        Err(refused) => return Err(refused),
    };
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(ApiRequest {
        method: head.method.to_string(),
        path: head.uri.path().trim_start_matches('/').to_owned(),
        query: head.uri.query().map(str::to_owned),
        content_type: content_type.map(str::to_owned),
        body,
        caller: Caller::Operator,
    })
}

/// The whole body, or the answer to one that is too large.
pub async fn whole_body(body: Body) -> Result<Bytes, Box<Response>> {
    to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
        let message = format!("the body is cut off, or larger than {} MiB", MAX_BODY_BYTES >> 20);
        let error = json!({"error": {"message": message, "code": "too_large"}});
        Box::new((StatusCode::PAYLOAD_TOO_LARGE, Json(error)).into_response())
    })
}
