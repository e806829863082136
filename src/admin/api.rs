//! `/api/v1`: configuration status and reload, router versions, flywheel figures.

use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, ControlError, Controls};

pub fn router(admin: &Admin) -> Router<Admin> {
    Router::new()
        .route("/config", get(config))
        .route("/config/reload", post(reload))
        .route("/flywheel/stats", get(flywheel_stats))
        .route("/routers/{name}/versions", get(versions))
        .route("/routers/{name}/train", post(train))
        .route("/routers/{name}/rollback", post(rollback))
        .route("/routers/{name}/versions/{version}/promote", post(promote))
        .layer(from_fn_with_state(admin.clone(), require_token))
}

pub async fn require_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
    let token = sent.and_then(|value| value.strip_prefix(b"Bearer "));
    let Some(own) = &admin.token else {
        let message = "The admin API is closed, because its token can be neither read nor made; the gateway's start log says why.";
        return ControlError::Unavailable(message.to_owned()).into_response();
    };
    if token.is_some_and(|token| own.matches(token)) {
        return next.run(request).await;
    }
    let message = "The admin API needs the header `Authorization: Bearer <token>`; the token is in admin.token in the data folder.";
    (StatusCode::UNAUTHORIZED, Json(json!({"error": {"message": message, "code": "unauthorized"}}))).into_response()
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            ControlError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            ControlError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ControlError::Failed(_) => (StatusCode::CONFLICT, "failed"),
        };
        (status, Json(json!({"error": {"message": self.to_string(), "code": code}}))).into_response()
    }
}

type Answer = Result<Json<Value>, ControlError>;

/// Controls read files and train models: they run where blocking is allowed.
async fn blocking(
    admin: Admin,
    work: impl FnOnce(&dyn Controls) -> Result<Value, ControlError> + Send + 'static,
) -> Answer {
    let done = tokio::task::spawn_blocking(move || work(admin.control.as_ref())).await;
    match done {
        Ok(result) => result.map(Json),
        Err(error) => Err(ControlError::Failed(format!("the work broke off: {error}"))),
    }
}

async fn config(State(admin): State<Admin>) -> Answer {
    blocking(admin, |control| Ok(control.config_status())).await
}

async fn reload(State(admin): State<Admin>) -> Answer {
    blocking(admin, |control| control.reload()).await
}

async fn flywheel_stats(State(admin): State<Admin>) -> Answer {
    blocking(admin, |control| control.flywheel_stats()).await
}

async fn versions(State(admin): State<Admin>, Path(name): Path<String>) -> Answer {
    blocking(admin, move |control| control.versions(&name)).await
}

#[derive(Deserialize)]
struct TrainQuery {
    /// Promote whatever the gate says.
    #[serde(default)]
    force: bool,
}

async fn train(State(admin): State<Admin>, Path(name): Path<String>, Query(query): Query<TrainQuery>) -> Answer {
    blocking(admin, move |control| control.train(&name, query.force)).await
}

async fn rollback(State(admin): State<Admin>, Path(name): Path<String>) -> Answer {
    blocking(admin, move |control| control.rollback(&name)).await
}

async fn promote(State(admin): State<Admin>, Path((name, version)): Path<(String, i64)>) -> Answer {
    blocking(admin, move |control| control.promote(&name, version)).await
}
