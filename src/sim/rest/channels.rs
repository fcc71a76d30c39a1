//! Guilds and channels as REST shows them, and what the bot may do in them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::errors::ApiError;
use crate::sim::render;
use crate::sim::snowflake::Snowflake;
use crate::sim::state::{Shared, State as Sim};
use crate::sim::world::{Channel, ChannelKind, World};

/// The channel, if the bot sees it.
///
/// # Errors
/// 10003 when there is none, 50001 when the bot may not view it.
pub fn visible(world: &World, id: Snowflake) -> Result<&Channel, ApiError> {
    let channel = world.channels.get(&id).ok_or_else(ApiError::unknown_channel)?;
    if world.bot_sees(channel) { Ok(channel) } else { Err(ApiError::missing_access()) }
}

/// The channel, if the bot may write there.
///
/// # Errors
/// Also 50008 where no messages are, 50013 without the permission, 50007 for people who take no direct messages.
pub fn writable(world: &World, id: Snowflake) -> Result<&Channel, ApiError> {
    let channel = visible(world, id)?;
    if !channel.kind.holds_messages() {
        return Err(ApiError::non_text_channel());
    }
    let parent = channel.parent.and_then(|id| world.channels.get(&id));
    if !channel.access.send || parent.is_some_and(|parent| !parent.access.send) {
        return Err(ApiError::missing_permissions());
    }
    let open = |id: &Snowflake| world.people.get(id).is_some_and(|person| person.accepts_direct_messages);
    if channel.kind == ChannelKind::Direct && !channel.recipients.iter().all(open) {
        return Err(ApiError::cannot_message_user());
    }
    Ok(channel)
}

fn in_guild(state: &Sim, id: Snowflake) -> Result<(), ApiError> {
    if state.world.guild.id == id { Ok(()) } else { Err(ApiError::unknown_guild()) }
}

pub async fn guild(State(shared): State<Arc<Shared>>, Path(id): Path<Snowflake>) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    in_guild(&state, id)?;
    Ok(Json(render::guild(&state.world)))
}

/// "Does not include threads", nor what the bot may not view. Sources: Guild resource, "Get Guild Channels"; Channel
/// resource, "Obfuscated Channels".
pub async fn guild_channels(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<Snowflake>,
) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    in_guild(&state, id)?;
    let world = &state.world;
    let seen = |it: &&Channel| it.guild.is_some() && it.kind != ChannelKind::Thread && world.bot_sees(it);
    Ok(Json(world.channels.values().filter(seen).map(|it| render::channel(world, it)).collect()))
}

pub async fn active_threads(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<Snowflake>,
) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    in_guild(&state, id)?;
    let world = &state.world;
    let seen = |it: &&Channel| it.kind == ChannelKind::Thread && !it.archived && world.bot_sees(it);
    let threads: Vec<_> = world.channels.values().filter(seen).map(|it| render::channel(world, it)).collect();
    Ok(Json(json!({ "threads": threads, "members": [] })))
}

pub async fn member(
    State(shared): State<Arc<Shared>>,
    Path((guild, user)): Path<(Snowflake, Snowflake)>,
) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    in_guild(&state, guild)?;
    let person = state.world.people.get(&user).filter(|person| person.member);
    person.map(|person| Json(render::member(person))).ok_or_else(ApiError::unknown_member)
}

pub async fn channel(State(shared): State<Arc<Shared>>, Path(id): Path<Snowflake>) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    let channel = visible(&state.world, id)?;
    Ok(Json(render::channel(&state.world, channel)))
}

pub async fn type_in(State(shared): State<Arc<Shared>>, Path(id): Path<Snowflake>) -> Result<StatusCode, ApiError> {
    let mut state = shared.state();
    writable(&state.world, id)?;
    let bot = state.world.bot;
    state.typing(id, bot);
    Ok(StatusCode::NO_CONTENT)
}
