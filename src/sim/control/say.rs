//! Speaking as somebody in the demo world, and reading what was said.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{Body, Problem};
use crate::sim::files::File;
use crate::sim::mentions::Allowed;
use crate::sim::messages::{CONTENT_LIMIT, Draft};
use crate::sim::snowflake::Snowflake;
use crate::sim::state::{Shared, State as Sim};
use crate::sim::world::ChannelKind;

const DEFAULT_CHANNEL: &str = "general";
const DEFAULT_PERSON: &str = "ada";

/// The members of the demo world that are not people.
const OTHER_BOT: &str = "robin";
const WEBHOOK: &str = "feeder";

/// Something to say. Channels and people are named by id or by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Say {
    /// `general`, when left out; `dm` is the direct channel with the person who speaks.
    pub channel: Option<String>,
    /// `ada`, when left out.
    pub person: Option<String>,
    pub content: String,
    pub reply_to: Option<Snowflake>,
    /// Whether a reply pings the author of the message replied to; it does, when left out.
    pub mention_reply: Option<bool>,
    /// Spoken by another bot.
    pub bot: bool,
    /// Spoken by a webhook.
    pub webhook: bool,
    /// Files to attach, or names of files to pretend to.
    pub attachments: Vec<File>,
}

impl Say {
    /// Ada says something in #general.
    #[must_use]
    pub fn new(content: impl Into<String>) -> Self {
        Self { content: content.into(), ..Self::default() }
    }

    #[must_use]
    pub fn in_channel(mut self, channel: impl Into<String>) -> Self {
        self.channel = Some(channel.into());
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, content_type: &str, content: Vec<u8>) -> Self {
        let (name, content_type) = (name.to_owned(), Some(content_type.to_owned()));
        self.attachments.push(File { name, content_type, content: Some(content), ..File::default() });
        self
    }

    #[must_use]
    pub fn by(mut self, person: impl Into<String>) -> Self {
        self.person = Some(person.into());
        self
    }
}

/// # Errors
/// When there is no such channel or person, or Discord would not take the message.
pub fn say(state: &mut Sim, say: Say) -> Result<Value, Problem> {
    let speaker = match (say.bot, say.webhook) {
        (true, true) => return Err(Problem::bad("a message is by a bot or by a webhook, not both")),
        (true, false) => OTHER_BOT,
        (false, true) => WEBHOOK,
        (false, false) => DEFAULT_PERSON,
    };
    let author = person(state, say.person.as_deref().unwrap_or(speaker))?;
    let channel = channel(state, say.channel.as_deref().unwrap_or(DEFAULT_CHANNEL), author)?;
    let length = say.content.trim().chars().count();
    if length > CONTENT_LIMIT {
        return Err(Problem::bad(format!("{length} characters are over Discord's limit of {CONTENT_LIMIT}")));
    }
    if length == 0 && say.attachments.is_empty() {
        return Err(Problem::bad("content is empty, and nothing is attached"));
    }
    if let Some(id) = say.reply_to
        && state.world.message(channel, id).is_none()
    {
        return Err(Problem::missing("message in that channel", &id.to_string()));
    }
    let mut draft = Draft::new(channel, author, say.content);
    draft.webhook = say.webhook.then_some(author);
    draft.reply_to = say.reply_to;
    draft.allowed = Allowed { replied_user: Some(say.mention_reply.unwrap_or(true)), ..Allowed::everything() };
    for file in say.attachments {
        let id = state.world.ids.next();
        draft.attachments.push(state.files.attach(channel, id, file));
    }
    let message = state.post(draft);
    Ok(state.shown(&message))
}

/// The messages of a channel, oldest first; none when there is no such channel.
pub fn list(state: &Sim, channel: &str, after: Option<Snowflake>) -> Vec<Value> {
    let from = Snowflake(after.map_or(0, |after| after.0.saturating_add(1)));
    let channel = state.world.find_channel(channel);
    channel.into_iter().flat_map(|it| it.messages.range(from..)).map(|(_, message)| state.shown(message)).collect()
}

fn person(state: &Sim, name: &str) -> Result<Snowflake, Problem> {
    state.world.find_person(name).map(|person| person.id).ok_or_else(|| Problem::missing("person", name))
}

fn channel(state: &mut Sim, name: &str, speaker: Snowflake) -> Result<Snowflake, Problem> {
    if name == "dm" {
        if speaker == state.world.bot {
            return Err(Problem::bad("the bot has no direct channel with itself"));
        }
        return Ok(state.world.direct_channel(speaker));
    }
    let channel = state.world.find_channel(name).ok_or_else(|| Problem::missing("channel", name))?;
    if !channel.kind.holds_messages() {
        return Err(Problem::bad(format!("{name:?} holds no messages: it is a {}", channel.kind.name())));
    }
    let outside = |id: &Snowflake| *id != speaker && speaker != state.world.bot;
    if channel.kind == ChannelKind::Direct && channel.recipients.iter().all(outside) {
        return Err(Problem::bad("that direct channel is between the bot and somebody else"));
    }
    Ok(channel.id)
}

pub async fn post(State(shared): State<Arc<Shared>>, Body(body): Body<Say>) -> Result<Json<Value>, Problem> {
    say(&mut shared.state(), body).map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    channel: String,
    message: Snowflake,
    content: String,
}

pub async fn edit(State(shared): State<Arc<Shared>>, Body(body): Body<Edit>) -> Result<Json<Value>, Problem> {
    let mut state = shared.state();
    let missing = Problem::missing("message in that channel", &body.message.to_string());
    let channel = state.world.find_channel(&body.channel).ok_or_else(|| Problem::missing("channel", &body.channel))?.id;
    let edited = state.edit(channel, body.message, &body.content, Allowed::everything()).ok_or(missing)?;
    Ok(Json(state.shown(&edited)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    channel: String,
    message: OneOrMany,
}

/// Many are deleted at once.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Snowflake),
    Many(Vec<Snowflake>),
}

pub async fn delete(State(shared): State<Arc<Shared>>, Body(body): Body<Delete>) -> Result<StatusCode, Problem> {
    let mut state = shared.state();
    let channel = state.world.find_channel(&body.channel).ok_or_else(|| Problem::missing("channel", &body.channel))?.id;
    let (found, first) = match &body.message {
        OneOrMany::One(id) => (state.delete(channel, *id).is_some(), Some(id)),
        OneOrMany::Many(ids) => (state.delete_at_once(channel, ids) == ids.len(), ids.first()),
    };
    let missing = || Problem::missing("message in that channel", &first.map_or_else(String::new, ToString::to_string));
    found.then_some(StatusCode::NO_CONTENT).ok_or_else(missing)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Typing {
    channel: String,
    person: String,
}

impl Default for Typing {
    fn default() -> Self {
        Self { channel: DEFAULT_CHANNEL.to_owned(), person: DEFAULT_PERSON.to_owned() }
    }
}

pub async fn typing(State(shared): State<Arc<Shared>>, Body(body): Body<Typing>) -> Result<StatusCode, Problem> {
    let mut state = shared.state();
    let person = person(&state, &body.person)?;
    let channel = channel(&mut state, &body.channel, person)?;
    state.typing(channel, person);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    after: Option<Snowflake>,
}

pub async fn messages(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Value>>, Problem> {
    let name = wanted.channel.as_deref().unwrap_or(DEFAULT_CHANNEL);
    let state = shared.state();
    if state.world.find_channel(name).is_none() {
        return Err(Problem::missing("channel", name));
    }
    Ok(Json(list(&state, name, wanted.after)))
}
