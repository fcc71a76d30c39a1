//! The gateway: WebSocket connections, sessions, and the events they carry.
//!
//! Source: Gateway (API version 10).

pub mod connection;
pub mod events;
mod handshake;
pub mod session;
pub mod starts;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::faults::Fault;
use super::server::Cut;
use super::state::Shared;

/// Close codes. Source: Opcodes and Status Codes, "Gateway Close Event Codes".
pub mod close {
    pub const UNKNOWN_OPCODE: u16 = 4001;
    pub const DECODE_ERROR: u16 = 4002;
    pub const NOT_AUTHENTICATED: u16 = 4003;
    pub const AUTHENTICATION_FAILED: u16 = 4004;
    pub const ALREADY_AUTHENTICATED: u16 = 4005;
    pub const INVALID_SEQUENCE: u16 = 4007;
    pub const RATE_LIMITED: u16 = 4008;
    pub const SESSION_TIMED_OUT: u16 = 4009;
    pub const INVALID_SHARD: u16 = 4010;
    pub const INVALID_VERSION: u16 = 4012;
    pub const INVALID_INTENTS: u16 = 4013;
    pub const DISALLOWED_INTENTS: u16 = 4014;
}

/// The only gateway version the simulator speaks.
pub const VERSION: &str = "10";

/// Which of the two addresses a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The one of `GET /gateway/bot`.
    First,
    /// The one of READY's `resume_gateway_url`.
    Resume,
}

pub async fn connect_first(
    State(shared): State<Arc<Shared>>,
    Extension(cut): Extension<Cut>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    connect(shared, &cut, Door::First, query, upgrade)
}

pub async fn connect_resume(
    State(shared): State<Arc<Shared>>,
    Extension(cut): Extension<Cut>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    connect(shared, &cut, Door::Resume, query, upgrade)
}

fn connect(
    shared: Arc<Shared>,
    cut: &Cut,
    door: Door,
    query: HashMap<String, String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let refused = |fault: &Fault| matches!(fault, Fault::RefuseConnections {} | Fault::GatewayOff {}).then_some(());
    if shared.state().faults.strike(refused).is_some() {
        cut.now();
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if query.contains_key("compress") {
        shared.state().violation("asked for transport compression, which the simulator does not speak");
        return (StatusCode::BAD_REQUEST, "no transport compression here: leave `compress` out").into_response();
    }
    // The upgraded socket lives in a task of axum's; the token makes the simulator's stop wait for it.
    let alive = shared.tasks.token();
    upgrade.on_upgrade(move |socket| async move {
        connection::serve(shared, socket, door, &query).await;
        drop(alive);
    })
}
