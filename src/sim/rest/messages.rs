//! Reading, editing and deleting messages.
//!
//! Source: Message resource.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::visible;
use super::create_message::{allowed_mentions, content};
use super::errors::ApiError;
use super::gate::json_body;
use crate::sim::render;
use crate::sim::snowflake::Snowflake;
use crate::sim::state::Shared;
use crate::sim::world::{Channel, ChannelKind, Message};

/// "max number of messages to return (1-100)", 50 when left out. Source: Message resource, "Get Channel Messages".
const LIMIT: usize = 50;
const LIMIT_RANGE: std::ops::RangeInclusive<usize> = 1..=100;

#[derive(Deserialize)]
pub struct Page {
    around: Option<Snowflake>,
    before: Option<Snowflake>,
    after: Option<Snowflake>,
    limit: Option<usize>,
}

/// Newest first, whichever way it was asked for.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<Snowflake>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let not_snowflake = |_| ApiError::invalid_form(&["after"], "NUMBER_TYPE_COERCE", "Value is not snowflake.");
    let Query(page) = page.map_err(not_snowflake)?;
    let limit = page.limit.unwrap_or(LIMIT);
    if !LIMIT_RANGE.contains(&limit) {
        let message = "int value should be between 1 and 100.";
        return Err(ApiError::invalid_form(&["limit"], "NUMBER_TYPE_MAX", message));
    }
    let state = shared.state();
    let channel = visible(&state.world, id)?;
    if !channel.kind.holds_messages() {
        return Err(ApiError::non_text_channel());
    }
    // "If the current user is missing the READ_MESSAGE_HISTORY permission … no messages will be returned".
    if !channel.access.history {
        return Ok(Json(json!([])));
    }
    let picked = pick(channel, &page, limit);
    let content = state.reads_content();
    Ok(Json(picked.into_iter().map(|message| render::message_read(&state.world, message, content)).collect()))
}

fn pick<'a>(channel: &'a Channel, page: &Page, limit: usize) -> Vec<&'a Message> {
    let all = &channel.messages;
    if let Some(around) = page.around {
        let older = all.range(..around).rev().take(limit / 2);
        let mut picked: Vec<_> = older.map(|(_, message)| message).collect();
        picked.reverse();
        let left = limit - picked.len();
        picked.extend(all.range(around..).take(left).map(|(_, message)| message));
        picked.reverse();
        picked
    } else if let Some(after) = page.after {
        // The oldest of those that come after, so that a client can walk forward.
        let next = all.range(Snowflake(after.0.saturating_add(1))..).take(limit);
        let mut picked: Vec<_> = next.map(|(_, message)| message).collect();
        picked.reverse();
        picked
    } else {
        let end = page.before.unwrap_or(Snowflake(u64::MAX));
        all.range(..end).rev().take(limit).map(|(_, message)| message).collect()
    }
}

pub async fn one(
    State(shared): State<Arc<Shared>>,
    Path((channel, id)): Path<(Snowflake, Snowflake)>,
) -> Result<Json<Value>, ApiError> {
    let state = shared.state();
    // "requires the current user to have the READ_MESSAGE_HISTORY permission".
    if !visible(&state.world, channel)?.access.history {
        return Err(ApiError::missing_access());
    }
    let message = state.world.message(channel, id).ok_or_else(ApiError::unknown_message)?;
    Ok(Json(render::message_read(&state.world, message, state.reads_content())))
}

pub async fn edit(
    State(shared): State<Arc<Shared>>,
    Path((channel, id)): Path<(Snowflake, Snowflake)>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = json_body(&body)?;
    let mut state = shared.state();
    visible(&state.world, channel)?;
    let old = state.world.message(channel, id).ok_or_else(ApiError::unknown_message)?;
    if old.author != state.world.bot {
        return Err(ApiError::not_own_message());
    }
    let kept = (old.content.clone(), !old.embeds.is_empty() || !old.attachments.is_empty());
    let text = content(&mut state, &body)?.unwrap_or(kept.0);
    if text.trim().is_empty() && !kept.1 {
        return Err(ApiError::empty_message());
    }
    let allowed = allowed_mentions(&body)?;
    let message = state.edit(channel, id, &text, allowed).ok_or_else(ApiError::unknown_message)?;
    Ok(Json(render::message(&state.world, &message)))
}

pub async fn delete(
    State(shared): State<Arc<Shared>>,
    Path((channel, id)): Path<(Snowflake, Snowflake)>,
) -> Result<StatusCode, ApiError> {
    let mut state = shared.state();
    let direct = visible(&state.world, channel)?.kind == ChannelKind::Direct;
    let author = state.world.message(channel, id).ok_or_else(ApiError::unknown_message)?.author;
    if author != state.world.bot {
        // Others' messages need MANAGE_MESSAGES, which the bot does not have; in a direct message nobody has it.
        return Err(if direct { ApiError::not_own_message() } else { ApiError::missing_permissions() });
    }
    state.delete(channel, id);
    Ok(StatusCode::NO_CONTENT)
}
