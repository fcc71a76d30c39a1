//! What a load balancer asks.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::router::App;

/// Liveness: the process serves.
pub async fn health() -> &'static str {
    "ok\n"
}

/// Whether this host should get traffic.
pub async fn ready(State(app): State<App>) -> (StatusCode, Json<Value>) {
    if app.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reason": "draining" })));
    }
    if let Some(departure) = &*app.departure.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reason": departure.reason })));
    }
    (StatusCode::OK, Json(json!({ "ready": true })))
}
