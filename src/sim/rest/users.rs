//! Who the bot is, where its gateway is, and direct channels.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::errors::ApiError;
use super::gate::json_body;
use crate::sim::render;
use crate::sim::snowflake::Snowflake;
use crate::sim::state::Shared;

pub async fn gateway(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "url": shared.gateway_url() }))
}

/// Source: Gateway, "Get Gateway Bot".
pub async fn gateway_bot(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let starts = shared.state().starts.object(Instant::now());
    Json(json!({ "url": shared.gateway_url(), "shards": 1, "session_start_limit": starts }))
}

pub async fn me(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(render::current_user(&shared.state().world))
}

pub async fn user(State(shared): State<Arc<Shared>>, Path(id): Path<Snowflake>) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    state.world.people.get(&id).map(|person| Json(render::user(person))).ok_or_else(ApiError::unknown_user)
}

pub async fn application(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.state();
    Json(render::application(&state.world, state.application_flags()))
}

/// Partial guilds. Source: User resource, "Get Current User Guilds".
pub async fn my_guilds(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.state();
    let guild = &state.world.guild;
    let permissions = guild.roles.iter().filter(|role| role.id == guild.id || role.of_bot == Some(state.world.bot));
    let permissions = permissions.fold(0, |all, role| all | role.permissions);
    Json(json!([{
        "id": guild.id,
        "name": guild.name,
        "icon": null,
        "banner": null,
        "owner": guild.owner == state.world.bot,
        "permissions": permissions.to_string(),
        "features": [],
    }]))
}

/// Source: User resource, "Create DM". Somebody who takes no messages still has a channel; sending fails.
pub async fn open_direct_channel(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let body = json_body(&body)?;
    let recipient = body["recipient_id"].as_str().and_then(|id| id.parse::<Snowflake>().ok());
    let recipient = recipient
        .ok_or_else(|| ApiError::invalid_form(&["recipient_id"], "BASE_TYPE_REQUIRED", "This field is required"))?;
    let mut state = shared.state();
    if !state.world.people.contains_key(&recipient) {
        return Err(ApiError::unknown_user());
    }
    if recipient == state.world.bot {
        return Err(ApiError::cannot_message_user());
    }
    let id = state.world.direct_channel(recipient);
    let channel = state.world.channels.get(&id).ok_or_else(ApiError::unknown_channel)?;
    Ok((StatusCode::OK, Json(render::channel(&state.world, channel))))
}
