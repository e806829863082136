//! The admin port: health, metrics and the REST API. Paths and handlers only; the work is behind [`Controls`].
//!
//! `/healthz`, `/readyz` and `/metrics` are open, because probes and scrapers carry no credentials and they reveal nothing of
//! requests. Everything under `/api` and `/v1` needs the admin token, also from loopback.

mod api;
mod mcp;
mod rag;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::base::secret::Secret;
use crate::mcp::Mcp;
use crate::rag::files::Files;
use crate::rag::knowledge_base::Rag;
use crate::telemetry::metrics::Metrics;

/// Whether the process takes traffic; shared with `server`.
#[derive(Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// What the API may see and do; implemented by `server`. Methods may block.
pub trait Controls: Send + Sync {
    fn config_status(&self) -> Value;
    fn reload(&self) -> Result<Value, ControlError>;
    fn train(&self, router: &str, force: bool) -> Result<Value, ControlError>;
    fn versions(&self, router: &str) -> Result<Value, ControlError>;
    fn promote(&self, router: &str, version: i64) -> Result<Value, ControlError>;
    fn rollback(&self, router: &str) -> Result<Value, ControlError>;
    fn flywheel_stats(&self) -> Result<Value, ControlError>;
}

/// Why a control did nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}

#[derive(Clone)]
pub struct Admin {
    pub health: Health,
    pub metrics: Arc<Metrics>,
    pub control: Arc<dyn Controls>,
    pub rag: Arc<Rag>,
    pub files: Arc<Files>,
    pub mcp: Arc<Mcp>,
    /// `None`: nobody may change anything.
    pub token: Option<Secret>,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, admin: Admin) {
    if let Err(error) = axum::serve(listener, router(admin)).await {
        tracing::error!(%error, "The admin port stopped serving");
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::router(&admin))
        .nest("/v1/rag", rag::router(&admin))
        .nest("/v1/vector_stores", rag::vector_stores_router(&admin))
        .nest("/v1/files", rag::files_router(&admin))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.health.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
