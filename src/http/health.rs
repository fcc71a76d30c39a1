//! What a load balancer asks.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::router::App;

/// Whether a host should get traffic.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    ready: bool,
    /// Why it should not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Liveness: the process serves.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "It serves", content_type = "text/plain", body = String)))]
pub async fn health() -> &'static str {
    "ok\n"
}

/// Whether this host should get traffic.
#[utoipa::path(
    get,
    path = "/ready",
    responses(
        (status = 200, description = "It should", body = Readiness),
        (status = 503, description = "It should not: it starts, drains, or is about to go", body = Readiness)
    )
)]
pub async fn ready(State(app): State<App>) -> (StatusCode, Json<Readiness>) {
    let reason = if app.stop.is_cancelled() {
        Some("draining".to_owned())
    } else {
        app.departure.borrow().as_ref().map(|departure| departure.reason.clone())
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready: reason.is_none(), reason }))
}
