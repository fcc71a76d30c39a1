//! `POST /channels/{id}/messages`.
//!
//! Source: Message resource, "Create Message".

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::writable;
use super::errors::ApiError;
use super::gate::json_body;
use super::multipart;
use crate::sim::mentions::Allowed;
use crate::sim::messages::{CONTENT_LIMIT, Draft};
use crate::sim::render;
use crate::sim::snowflake::Snowflake;
use crate::sim::state::{Shared, State as Sim};

/// "up to 25 characters". Source: Message resource, "Create Message", `nonce`.
const NONCE_LIMIT: usize = 25;

/// "Up to 10 rich embeds". Source: Message resource, "Create Message", `embeds`.
const EMBEDS_LIMIT: usize = 10;

/// The flags a client may set: `SUPPRESS_EMBEDS` and `SUPPRESS_NOTIFICATIONS` are kept; the others mean message kinds
/// that the simulator does not have.
const FLAGS_KEPT: u64 = 1 << 2 | 1 << 12;

pub async fn create(
    State(shared): State<Arc<Shared>>,
    Path(channel): Path<Snowflake>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let (body, files) = read(&headers, &body)?;
    let mut state = shared.state();
    writable(&state.world, channel)?;
    let bot = state.world.bot;
    let text = content(&mut state, &body)?.unwrap_or_default();
    let nonce = nonce(&body)?;
    let embeds = list(&body, "embeds", EMBEDS_LIMIT)?;
    let stickers = list(&body, "sticker_ids", 3)?;
    if text.trim().is_empty() && embeds.is_empty() && files.is_empty() && stickers.is_empty() {
        return Err(ApiError::empty_message());
    }
    let mut draft = Draft::new(channel, bot, text);
    draft.allowed = allowed_mentions(&body)?;
    draft.reply_to = reply_to(&state, channel, &body)?;
    draft.embeds = embeds.into_iter().map(as_rich).collect();
    draft.tts = body["tts"].as_bool().unwrap_or(false);
    draft.flags = body["flags"].as_u64().unwrap_or(0) & FLAGS_KEPT;
    if body["enforce_nonce"] == true
        && let Some(nonce) = &nonce
        && let Some(first) = state.by_nonce(bot, channel, nonce)
    {
        return Ok(Json(render::message(&state.world, &first)));
    }
    draft.nonce = nonce;
    draft.attachments = files.into_iter().map(|file| attachment(&mut state, channel, &file)).collect();
    let message = state.post(draft);
    state.remember_nonce(&message);
    Ok(Json(render::message(&state.world, &message)))
}

fn read(headers: &HeaderMap, body: &Bytes) -> Result<(Value, Vec<multipart::File>), ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (body, files) = if kind.starts_with("application/json") {
        (json_body(body)?, Vec::new())
    } else if let Some(boundary) = multipart::boundary(kind) {
        let form = multipart::read(body, &boundary).ok_or_else(ApiError::invalid_json)?;
        let json = form.payload_json.unwrap_or_else(|| Bytes::from_static(b"{}"));
        (json_body(&json)?, form.files)
    } else {
        let message = "Expected \"Content-Type\" header to be one of {'application/json'}.";
        return Err(ApiError::invalid_form(&[], "CONTENT_TYPE_INVALID", message));
    };
    if body.is_object() {
        Ok((body, files))
    } else {
        Err(ApiError::invalid_form(&[], "DICT_TYPE_CONVERT", "Only dictionaries may be used in a DictType"))
    }
}

/// The text, if there is one. A text over the limit is refused, and remembered as the client's mistake.
pub fn content(state: &mut Sim, body: &Value) -> Result<Option<String>, ApiError> {
    let text = match &body["content"] {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(ApiError::invalid_form(&["content"], "STRING_TYPE_CONVERT", "Could not interpret as string.")),
    };
    let length = text.trim().chars().count();
    if length > CONTENT_LIMIT {
        state.violation(format!("sent a message of {length} characters; {CONTENT_LIMIT} is the limit"));
        return Err(ApiError::too_long(&["content"], CONTENT_LIMIT));
    }
    Ok(Some(text))
}

fn nonce(body: &Value) -> Result<Option<Value>, ApiError> {
    let nonce = match &body["nonce"] {
        Value::Null => return Ok(None),
        nonce @ (Value::String(_) | Value::Number(_)) => nonce,
        _ => return Err(ApiError::invalid_form(&["nonce"], "STRING_TYPE_CONVERT", "Could not interpret as string.")),
    };
    if nonce.as_str().is_some_and(|text| text.chars().count() > NONCE_LIMIT) {
        return Err(ApiError::too_long(&["nonce"], NONCE_LIMIT));
    }
    Ok(Some(nonce.clone()))
}

fn list(body: &Value, field: &str, limit: usize) -> Result<Vec<Value>, ApiError> {
    match &body[field] {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) if items.len() <= limit => Ok(items.clone()),
        Value::Array(_) => Err(ApiError::too_long(&[field], limit)),
        _ => Err(ApiError::invalid_form(&[field], "LIST_TYPE_CONVERT", "Only iterables may be used in a ListType")),
    }
}

pub fn allowed_mentions(body: &Value) -> Result<Allowed, ApiError> {
    if body["allowed_mentions"].is_null() {
        return Ok(Allowed::everything());
    }
    let wrong =
        |_| ApiError::invalid_form(&["allowed_mentions"], "MODEL_TYPE_CONVERT", "Not an allowed mentions object.");
    let allowed = Allowed::deserialize(&body["allowed_mentions"]).map_err(wrong)?;
    match allowed.mistake() {
        None => Ok(allowed),
        Some((field, code, message)) => Err(ApiError::invalid_form(&["allowed_mentions", field], code, message)),
    }
}

/// The message to reply to, if it is there. If it is not, `fail_if_not_exists` decides: true, which is the default,
/// refuses the request, false sends a normal message.
///
/// Source: Message resource, "Message Reference Structure".
fn reply_to(state: &Sim, channel: Snowflake, body: &Value) -> Result<Option<Snowflake>, ApiError> {
    let reference = &body["message_reference"];
    if reference.is_null() {
        return Ok(None);
    }
    let id = |field: &str| {
        let value = &reference[field];
        value.as_str().and_then(|id| id.parse::<Snowflake>().ok()).or_else(|| value.as_u64().map(Snowflake))
    };
    let path = ["message_reference"];
    let unknown = || ApiError::invalid_form(&path, "MESSAGE_REFERENCE_UNKNOWN_MESSAGE", "Unknown message");
    let message = id("message_id").ok_or_else(|| {
        ApiError::invalid_form(&["message_reference", "message_id"], "BASE_TYPE_REQUIRED", "This field is required")
    })?;
    if id("channel_id").is_some_and(|given| given != channel) {
        let code = "REPLIES_CANNOT_REFERENCE_OTHER_CHANNEL";
        return Err(ApiError::invalid_form(&path, code, "Cannot reply to a message in a different channel"));
    }
    if state.world.message(channel, message).is_none() {
        return if reference["fail_if_not_exists"] == false { Ok(None) } else { Err(unknown()) };
    }
    // "When creating a message as a reply …, the current user must have the READ_MESSAGE_HISTORY permission."
    if state.world.channels.get(&channel).is_some_and(|channel| !channel.access.history) {
        return Err(ApiError::no_reply_without_history());
    }
    Ok(Some(message))
}

/// "It will be `rich` regardless of if you try to set it." Source: Message resource, "Create Message", limitations.
fn as_rich(mut embed: Value) -> Value {
    if embed.is_object() {
        embed["type"] = json!("rich");
    }
    embed
}

pub fn attachment(state: &mut Sim, channel: Snowflake, file: &multipart::File) -> Value {
    let id = state.world.ids.next();
    let url = format!("https://cdn.discordapp.com/attachments/{channel}/{id}/{}", file.name);
    json!({
        "id": id,
        "filename": file.name,
        "size": file.size,
        "url": url,
        "proxy_url": url,
        "content_type": file.content_type,
    })
}
