//! Making, changing and deleting channels.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{Body, Problem, overview};
use crate::sim::gateway::events::Event;
use crate::sim::render;
use crate::sim::state::{Shared, State as Sim};
use crate::sim::world::{Access, Channel, ChannelKind};

/// A channel to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewChannel {
    pub name: String,
    /// `text` when left out; `dm`, `thread`, `forum`, `announcement`, `voice`, `category`.
    pub kind: Option<String>,
    /// Of a thread: the channel it is in.
    pub parent: Option<String>,
    /// Of a direct channel: who is at the other end.
    pub person: Option<String>,
    pub topic: Option<String>,
    /// What the bot may do; everything, when left out.
    pub view: Option<bool>,
    pub send: Option<bool>,
    pub history: Option<bool>,
}

/// A change to a channel. What is left out stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeChannel {
    pub name: Option<String>,
    pub topic: Option<String>,
    pub archived: Option<bool>,
    pub view: Option<bool>,
    pub send: Option<bool>,
    pub history: Option<bool>,
}

fn access(old: Access, view: Option<bool>, send: Option<bool>, history: Option<bool>) -> Access {
    Access { view: view.unwrap_or(old.view), send: send.unwrap_or(old.send), history: history.unwrap_or(old.history) }
}

pub async fn create(
    State(shared): State<Arc<Shared>>,
    Body(new): Body<NewChannel>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let mut state = shared.state();
    let channel = make(&mut state, new)?;
    Ok((StatusCode::CREATED, Json(channel)))
}

fn make(state: &mut Sim, new: NewChannel) -> Result<Value, Problem> {
    let kind = new.kind.as_deref().unwrap_or("text");
    let kind = ChannelKind::named(kind).ok_or_else(|| Problem::missing("kind of channel", kind))?;
    if kind == ChannelKind::Direct {
        let name = new.person.ok_or_else(|| Problem::bad("a dm needs a person"))?;
        let person = state.world.find_person(&name).ok_or_else(|| Problem::missing("person", &name))?.id;
        let id = state.world.direct_channel(person);
        let channel = state.world.channels.get(&id).ok_or_else(|| Problem::bad("it is gone"))?;
        return Ok(overview::channel(state, channel));
    }
    if new.name.trim().is_empty() {
        return Err(Problem::bad("a channel needs a name"));
    }
    let parent = match (&new.parent, kind) {
        (None, ChannelKind::Thread) => return Err(Problem::bad("a thread needs a parent")),
        (None, _) => None,
        (Some(name), _) => Some(state.world.find_channel(name).ok_or_else(|| Problem::missing("channel", name))?.id),
    };
    let id = state.world.ids.next();
    let channel = Channel {
        id,
        kind,
        guild: Some(state.world.guild.id),
        parent,
        name: new.name,
        topic: new.topic,
        position: u16::try_from(state.world.channels.len()).unwrap_or(u16::MAX),
        access: access(Access::FULL, new.view, new.send, new.history),
        recipients: Vec::new(),
        owner: (kind == ChannelKind::Thread).then_some(state.world.guild.owner),
        archived: false,
        last_message: None,
        messages: BTreeMap::new(),
    };
    state.world.channels.insert(id, channel.clone());
    // The last "message" of a forum is a thread. Source: Channel resource, "Channel Structure", `last_message_id`.
    if let Some(forum) = parent.and_then(|id| state.world.channels.get_mut(&id))
        && forum.kind == ChannelKind::Forum
    {
        forum.last_message = Some(id);
    }
    announce(state, "CREATE", &channel);
    Ok(overview::channel(state, &channel))
}

pub async fn change(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(change): Body<ChangeChannel>,
) -> Result<Json<Value>, Problem> {
    let mut state = shared.state();
    let missing = || Problem::missing("channel", &name);
    let id = state.world.find_channel(&name).ok_or_else(missing)?.id;
    let channel = state.world.channels.get_mut(&id).ok_or_else(missing)?;
    channel.access = access(channel.access, change.view, change.send, change.history);
    channel.name = change.name.unwrap_or_else(|| channel.name.clone());
    channel.topic = change.topic.or_else(|| channel.topic.take());
    channel.archived = change.archived.unwrap_or(channel.archived);
    let channel = channel.clone();
    announce(&mut state, "UPDATE", &channel);
    Ok(Json(overview::channel(&state, &channel)))
}

pub async fn delete(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let mut state = shared.state();
    let id = state.world.find_channel(&name).ok_or_else(|| Problem::missing("channel", &name))?.id;
    let channels = &mut state.world.channels;
    let gone: Vec<_> = channels.values().filter(|it| it.id == id || it.parent == Some(id)).map(|it| it.id).collect();
    // Threads go before the channel they are in.
    for id in gone.into_iter().rev() {
        if let Some(channel) = state.world.channels.get(&id).cloned() {
            announce(&mut state, "DELETE", &channel);
            state.world.channels.remove(&id);
        }
    }
    state.happened("channels", serde_json::json!({}));
    Ok(StatusCode::NO_CONTENT)
}

/// Tells sessions and the page. Sources: gateway events, "Channels" and "Threads".
fn announce(state: &mut Sim, what: &str, channel: &Channel) {
    let thread = channel.kind == ChannelKind::Thread;
    let name = match (thread, what) {
        (true, "CREATE") => "THREAD_CREATE",
        (true, "UPDATE") => "THREAD_UPDATE",
        (true, _) => "THREAD_DELETE",
        (false, "CREATE") => "CHANNEL_CREATE",
        (false, "UPDATE") => "CHANNEL_UPDATE",
        (false, _) => "CHANNEL_DELETE",
    };
    let mut object = render::channel_event(&state.world, channel);
    if name == "THREAD_CREATE" {
        object["newly_created"] = Value::Bool(true);
    }
    let seen = state.world.bot_sees(channel);
    if channel.guild.is_some() && (seen || what == "UPDATE") {
        state.dispatch(&Event::Channel { name, object });
    }
    state.happened("channels", serde_json::json!({}));
}
