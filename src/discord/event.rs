//! What perch reads of the gateway's events: the few fields it acts on, so that a field Discord adds or changes
//! elsewhere can't make a message unreadable.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
pub use serenity::model::Timestamp;
pub use serenity::model::channel::MessageType;
pub use serenity::model::id::{ApplicationId, ChannelId, GuildId, MessageId, UserId, WebhookId};

/// The data of an event or of an operation.
#[derive(Deserialize)]
pub struct Data<T> {
    pub d: T,
}

/// A field that may be absent may as well be null.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(field: D) -> Result<T, D::Error> {
    Option::deserialize(field).map(Option::unwrap_or_default)
}

/// An id that nothing depends on: one that can't be read is none.
fn or_none<'de, D: Deserializer<'de>>(field: D) -> Result<Option<u64>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    }
    .filter(|id| *id > 0))
}

/// Reads the data of the frame `text`.
pub fn read<T: for<'a> Deserialize<'a>>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str::<Data<T>>(text).map(|data| data.d)
}

/// Of READY. Source: Gateway Events, "Ready".
#[derive(Deserialize)]
pub struct Ready {
    pub user: User,
    pub session_id: String,
    pub resume_gateway_url: String,
    #[serde(default, deserialize_with = "or_default")]
    pub guilds: Vec<Guild>,
    pub application: Option<Application>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct User {
    pub id: UserId,
    pub username: String,
}

#[derive(Deserialize)]
pub struct Application {
    pub id: ApplicationId,
}

/// Of `GUILD_CREATE`, `GUILD_DELETE` and READY.
#[derive(Deserialize)]
pub struct Guild {
    pub id: GuildId,
    /// Discord has an outage there; the bot has not left.
    #[serde(default)]
    pub unavailable: Option<bool>,
}

/// Of `GUILD_CREATE`. Source: Gateway Events, "Guild Create Extra Fields".
#[derive(Deserialize)]
pub struct GuildCreated {
    pub id: GuildId,
    #[serde(default)]
    pub unavailable: Option<bool>,
    /// When the bot was taken in.
    pub joined_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "or_default")]
    pub channels: Vec<Channel>,
    /// "All active threads in the guild that current user has permission to view".
    #[serde(default, deserialize_with = "or_default")]
    pub threads: Vec<Channel>,
}

/// Of one channel alone.
#[derive(Deserialize)]
pub struct ChannelKind {
    #[serde(rename = "type")]
    pub kind: u8,
}

impl ChannelKind {
    /// Source: Channel Resource, "Channel Types": threads of announcements, public and private ones.
    pub fn is_thread(&self) -> bool {
        matches!(self.kind, 10..=12)
    }
}

/// Source: Channel Resource, "Channel Object".
#[derive(Deserialize)]
pub struct Channel {
    pub id: ChannelId,
    #[serde(rename = "type")]
    pub kind: u8,
    /// Of a forum it is a thread; it "may not point to an existing or valid message".
    #[serde(default, deserialize_with = "or_none")]
    pub last_message_id: Option<u64>,
    #[serde(default, deserialize_with = "or_default")]
    pub flags: u64,
}

/// Of `MESSAGE_DELETE`. Source: Gateway Events, "Message Delete".
#[derive(Deserialize)]
pub struct Deleted {
    pub id: MessageId,
    pub channel_id: ChannelId,
}

/// Of `MESSAGE_DELETE_BULK`. Source: Gateway Events, "Message Delete Bulk".
#[derive(Deserialize)]
pub struct DeletedAtOnce {
    pub ids: Vec<MessageId>,
    pub channel_id: ChannelId,
}

/// Of `CHANNEL_DELETE` and `THREAD_DELETE`. Source: Gateway Events, "Channel Delete", "Thread Delete".
#[derive(Deserialize)]
pub struct DeletedChannel {
    pub id: ChannelId,
}

/// Of `MESSAGE_UPDATE`: the message as it is now, or what was changed of it. Source: Gateway Events, "Message Update".
#[derive(Deserialize)]
pub struct Edited {
    pub id: MessageId,
    pub channel_id: ChannelId,
    content: Option<String>,
    mentions: Option<Vec<Mentioned>>,
    attachments: Option<Vec<Attached>>,
}

impl Edited {
    /// What `message` is now.
    pub fn of(&self, message: &Incoming) -> Incoming {
        let mut changed = message.clone();
        changed.content = self.content.clone().unwrap_or(changed.content);
        changed.mentions = self.mentions.clone().unwrap_or(changed.mentions);
        changed.attachments = self.attachments.clone().unwrap_or(changed.attachments);
        changed
    }
}

/// Of `MESSAGE_CREATE`. Source: Message Resource, "Message Object".
#[derive(Clone, Deserialize)]
pub struct Incoming {
    pub id: MessageId,
    pub channel_id: ChannelId,
    /// Absent in direct messages.
    pub guild_id: Option<GuildId>,
    pub author: Author,
    pub webhook_id: Option<WebhookId>,
    #[serde(rename = "type")]
    pub kind: MessageType,
    #[serde(default, deserialize_with = "or_default")]
    pub content: String,
    #[serde(default, deserialize_with = "or_default")]
    pub mentions: Vec<Mentioned>,
    #[serde(default, deserialize_with = "or_default")]
    pub attachments: Vec<Attached>,
}

/// Source: Message Resource, "Attachment Object".
#[derive(Clone, Deserialize)]
pub struct Attached {
    pub filename: String,
    /// Discord leaves it out where it does not know.
    pub content_type: Option<String>,
    /// In bytes.
    pub size: u64,
    pub url: String,
}

#[derive(Clone, Deserialize)]
pub struct Author {
    pub id: UserId,
    #[serde(default, deserialize_with = "or_default")]
    pub bot: bool,
}

#[derive(Clone, Deserialize)]
pub struct Mentioned {
    pub id: UserId,
}
