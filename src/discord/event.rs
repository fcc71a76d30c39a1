//! What perch reads of the gateway's events: the few fields it acts on, so that a field Discord adds or changes
//! elsewhere can't make a message unreadable.

use serde::{Deserialize, Deserializer};
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

/// Of `MESSAGE_CREATE`. Source: Message Resource, "Message Object".
#[derive(Deserialize)]
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
}

#[derive(Deserialize)]
pub struct Author {
    pub id: UserId,
    #[serde(default, deserialize_with = "or_default")]
    pub bot: bool,
}

#[derive(Deserialize)]
pub struct Mentioned {
    pub id: UserId,
}
