//! The events of the gateway, which intents they need, and what they carry.
//!
//! Sources: Gateway, "List of Intents"; gateway events.

use serde_json::{Value, json};

use crate::sim::render;
use crate::sim::snowflake::{Snowflake, now_ms};
use crate::sim::world::{Message, World};

pub mod intent {
    pub const GUILDS: u64 = 1 << 0;
    pub const GUILD_MEMBERS: u64 = 1 << 1;
    pub const GUILD_PRESENCES: u64 = 1 << 8;
    pub const GUILD_MESSAGES: u64 = 1 << 9;
    pub const GUILD_MESSAGE_TYPING: u64 = 1 << 11;
    pub const DIRECT_MESSAGES: u64 = 1 << 12;
    pub const DIRECT_MESSAGE_TYPING: u64 = 1 << 14;
    pub const MESSAGE_CONTENT: u64 = 1 << 15;
    /// Those that must be enabled for the application first. Source: Gateway, "Privileged Intents".
    pub const PRIVILEGED: u64 = GUILD_MEMBERS | GUILD_PRESENCES | MESSAGE_CONTENT;
    /// Every bit that is an intent: 0 to 16, 20, 21, 24 and 25.
    pub const KNOWN: u64 = 0x1_ffff | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 25;
}

pub enum Event {
    MessageCreate(Message),
    MessageUpdate(Message),
    MessageDelete {
        id: Snowflake,
        channel: Snowflake,
        guild: Option<Snowflake>,
    },
    MessageDeleteBulk {
        ids: Vec<Snowflake>,
        channel: Snowflake,
        guild: Option<Snowflake>,
    },
    TypingStart {
        channel: Snowflake,
        guild: Option<Snowflake>,
        person: Snowflake,
    },
    /// The guild comes into sight.
    GuildCreate(Snowflake),
    /// An outage takes it away. Source: gateway events, "Guild Delete".
    GuildDelete(Snowflake),
    /// CHANNEL_* and THREAD_*, rendered while the channel was there, and only made for those the bot may see.
    Channel {
        name: &'static str,
        object: Value,
    },
}

impl Event {
    /// The guild it belongs to, which decides the shard; `None` is shard 0.
    pub fn guild(&self) -> Option<Snowflake> {
        match self {
            Self::MessageCreate(message) | Self::MessageUpdate(message) => message.guild,
            Self::MessageDelete { guild, .. }
            | Self::MessageDeleteBulk { guild, .. }
            | Self::TypingStart { guild, .. } => *guild,
            Self::GuildCreate(guild) | Self::GuildDelete(guild) => Some(*guild),
            Self::Channel { object, .. } => object["guild_id"].as_str().and_then(|id| id.parse().ok()),
        }
    }

    /// Name and data for a session with these intents, or nothing when they do not cover it or the bot may not see
    /// where it happened.
    pub fn payload(&self, world: &World, intents: u64) -> Option<(&'static str, Value)> {
        let sees = |channel: &Snowflake| world.channels.get(channel).is_none_or(|channel| world.bot_sees(channel));
        let needed = self.intent();
        (intents & needed != 0).then_some(())?;
        let gone = self.guild().is_some() && !world.guild.available;
        (!gone || matches!(self, Self::GuildDelete(_))).then_some(())?;
        let content = intents & intent::MESSAGE_CONTENT != 0;
        Some(match self {
            Self::MessageCreate(message) if sees(&message.channel) => {
                ("MESSAGE_CREATE", render::message_event(world, message, content))
            }
            Self::MessageUpdate(message) if sees(&message.channel) => {
                ("MESSAGE_UPDATE", render::message_event(world, message, content))
            }
            Self::MessageDelete { id, channel, guild } if sees(channel) => {
                ("MESSAGE_DELETE", in_guild(json!({ "id": id, "channel_id": channel }), *guild))
            }
            Self::MessageDeleteBulk { ids, channel, guild } if sees(channel) => {
                ("MESSAGE_DELETE_BULK", in_guild(json!({ "ids": ids, "channel_id": channel }), *guild))
            }
            Self::TypingStart { channel, guild, person } if sees(channel) => {
                let object = json!({ "channel_id": channel, "user_id": person, "timestamp": now_ms() / 1000 });
                let mut object = in_guild(object, *guild);
                if let Some(person) = world.people.get(person).filter(|_| guild.is_some()) {
                    object["member"] = render::member(person);
                }
                ("TYPING_START", object)
            }
            Self::GuildCreate(_) => ("GUILD_CREATE", render::guild_create(world, intents & intent::GUILD_MEMBERS != 0)),
            Self::GuildDelete(guild) => ("GUILD_DELETE", json!({ "id": guild, "unavailable": true })),
            Self::Channel { name, object } => (name, object.clone()),
            _ => return None,
        })
    }

    fn intent(&self) -> u64 {
        match self {
            Self::Channel { .. } | Self::GuildCreate(_) | Self::GuildDelete(_) => intent::GUILDS,
            Self::TypingStart { guild: Some(_), .. } => intent::GUILD_MESSAGE_TYPING,
            Self::TypingStart { guild: None, .. } => intent::DIRECT_MESSAGE_TYPING,
            _ if self.guild().is_some() => intent::GUILD_MESSAGES,
            _ => intent::DIRECT_MESSAGES,
        }
    }
}

fn in_guild(mut object: Value, guild: Option<Snowflake>) -> Value {
    if let Some(guild) = guild {
        object["guild_id"] = json!(guild);
    }
    object
}
