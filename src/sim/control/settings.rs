//! What the application is like in the developer portal: tokens, privileged intents, limits.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{Body, Problem};
use crate::sim::gateway::close;
use crate::sim::gateway::events::{Event, intent};
use crate::sim::rate_limit::RateLimits;
use crate::sim::state::{Outgoing, Shared, State as Sim};

/// What to change; what is left out stays.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The tokens taken from now on. Sessions of others end with 4004; an empty list revokes every token.
    pub tokens: Option<Vec<String>>,
    /// Any of `guild_members`, `guild_presences`, `message_content`.
    pub privileged_intents: Option<Vec<String>>,
    /// How many IDENTIFYs are left today.
    pub session_starts_remaining: Option<u32>,
    pub rate_limits: Option<ChangeRateLimits>,
    /// Whether a person takes direct messages, by name.
    pub accepts_direct_messages: Option<std::collections::BTreeMap<String, bool>>,
    /// Whether the guild is there; an outage takes it away.
    pub guild_available: Option<bool>,
}

/// See [`RateLimits`].
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRateLimits {
    pub scale: u32,
    pub global: u32,
}

/// # Errors
/// When an intent or a person is unknown; then nothing is changed.
pub fn change(state: &mut Sim, settings: Settings) -> Result<(), Problem> {
    let intents = settings.privileged_intents.map(|names| bits(&names)).transpose()?;
    let mut people = Vec::new();
    for (name, accepts) in settings.accepts_direct_messages.into_iter().flatten() {
        let person = state.world.find_person(&name).ok_or_else(|| Problem::missing("person", &name))?;
        people.push((person.id, accepts));
    }
    for (id, accepts) in people {
        if let Some(person) = state.world.people.get_mut(&id) {
            person.accepts_direct_messages = accepts;
        }
    }
    if let Some(intents) = intents {
        state.privileged_intents = intents;
    }
    if let Some(remaining) = settings.session_starts_remaining {
        state.starts.set_remaining(remaining);
    }
    if let Some(ChangeRateLimits { scale, global }) = settings.rate_limits {
        state.limits.set(RateLimits { scale, global });
    }
    if let Some(available) = settings.guild_available {
        let guild = state.world.guild.id;
        state.world.guild.available = available;
        state.dispatch(&if available { Event::GuildCreate(guild) } else { Event::GuildDelete(guild) });
    }
    if let Some(tokens) = settings.tokens {
        state.tokens = tokens;
        end_foreign_sessions(state);
    }
    state.gateway_changed();
    Ok(())
}

fn bits(names: &[String]) -> Result<u64, Problem> {
    let bit = |name: &String| match name.as_str() {
        "guild_members" => Ok(intent::GUILD_MEMBERS),
        "guild_presences" => Ok(intent::GUILD_PRESENCES),
        "message_content" => Ok(intent::MESSAGE_CONTENT),
        _ => Err(Problem::missing("privileged intent", name)),
    };
    names.iter().map(bit).try_fold(0, |all, bit| Ok(all | bit?))
}

/// A reset token ends what was opened with it.
fn end_foreign_sessions(state: &mut Sim) {
    let ended: Vec<_> = state
        .connections
        .values()
        .filter_map(|connection| Some((connection.id, connection.session.clone()?)))
        .filter(|(_, session)| !state.sessions.token(session).is_some_and(|token| state.accepts(token)))
        .collect();
    for (connection, session) in ended {
        state.sessions.remove(&session);
        if let Some(connection) = state.connections.get(&connection) {
            connection.tell(Outgoing::Close(close::AUTHENTICATION_FAILED, "Authentication failed.".to_owned()));
        }
    }
}

pub async fn patch(State(shared): State<Arc<Shared>>, Body(settings): Body<Settings>) -> Result<Json<Value>, Problem> {
    let mut state = shared.state();
    change(&mut state, settings)?;
    Ok(Json(serde_json::json!({
        "tokens": state.tokens.len(),
        "privileged_intents": state.privileged_intents,
        "session_start_limit": state.starts.object(Instant::now()),
    })))
}

pub async fn expire_sessions(State(shared): State<Arc<Shared>>) -> StatusCode {
    let mut state = shared.state();
    state.sessions.clear();
    state.gateway_changed();
    StatusCode::NO_CONTENT
}
