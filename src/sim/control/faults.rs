//! Setting faults and taking them away.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Body, Problem};
use crate::sim::faults::{Fault, Order, When};
use crate::sim::gateway::connection::{heartbeat_request, invalid_session, reconnect};
use crate::sim::state::{Outgoing, Shared, State as Sim};

/// Sets a fault and returns its number; what happens now happens, and nothing stays.
pub fn set(state: &mut Sim, order: Order) -> Option<u64> {
    let now = order.fault.when() == Some(When::Now);
    state.happened("fault", json!({ "fault": order }));
    if now {
        strike(state, &order.fault);
        return None;
    }
    if matches!(order.fault, Fault::GatewayOff {}) {
        tell_all(state, || Outgoing::Cut);
    }
    let id = state.faults.set(order);
    state.gateway_changed();
    Some(id)
}

fn strike(state: &mut Sim, fault: &Fault) {
    match fault {
        Fault::Close { code, reason, .. } => tell_all(state, || Outgoing::Close(*code, reason.clone())),
        Fault::Reconnect { .. } => tell_all(state, || Outgoing::Text(reconnect())),
        Fault::RequestHeartbeat {} => tell_all(state, || Outgoing::Text(heartbeat_request())),
        Fault::InvalidSession { resumable, .. } => {
            if !resumable {
                // The sessions are gone; their connections stay until the client closes them.
                state.sessions.clear();
            }
            tell_all(state, || Outgoing::Text(invalid_session(*resumable)));
        }
        _ => tell_all(state, || Outgoing::Cut),
    }
}

fn tell_all(state: &Sim, what: impl Fn() -> Outgoing) {
    for connection in state.connections.values() {
        connection.tell(what());
    }
}

/// Takes one fault or a list of them; either all are set or none.
pub async fn post(State(shared): State<Arc<Shared>>, Body(body): Body<Value>) -> Result<Json<Value>, Problem> {
    let list = match body {
        Value::Array(list) => list,
        one => vec![one],
    };
    let orders = list.into_iter().map(Order::parse).collect::<Result<Vec<_>, _>>().map_err(Problem::bad)?;
    let mut state = shared.state();
    let ids: Vec<_> = orders.into_iter().filter_map(|order| set(&mut state, order)).collect();
    Ok(Json(json!({ "ids": ids, "faults": state.faults.list() })))
}

pub async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "faults": shared.state().faults.list() }))
}

pub async fn clear(State(shared): State<Arc<Shared>>) -> StatusCode {
    let mut state = shared.state();
    state.faults.clear();
    state.gateway_changed();
    StatusCode::NO_CONTENT
}

pub async fn remove(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Result<StatusCode, Problem> {
    let mut state = shared.state();
    if !state.faults.remove(id) {
        return Err(Problem::missing("fault", &id.to_string()));
    }
    state.gateway_changed();
    Ok(StatusCode::NO_CONTENT)
}
