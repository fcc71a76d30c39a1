//! What happens when somebody writes, edits or deletes: the one way messages come into the world, whoever sends them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::gateway::events::Event;
use super::mentions::{self, Allowed};
use super::render;
use super::snowflake::{Snowflake, now_ms};
use super::state::State;
use super::world::{Message, permission};

/// "Up to 2000 characters", which are Unicode code points: Discord's API counts with Python.
///
/// Source: Message resource, "Create Message"; discord-api-docs issue 1315.
pub const CONTENT_LIMIT: usize = 2000;

/// How long a nonce is remembered: "the past few minutes". Source: Message resource, "Create Message".
const NONCE_REMEMBERED: Duration = Duration::from_mins(3);

/// A message about to be sent.
pub struct Draft {
    pub channel: Snowflake,
    pub author: Snowflake,
    pub webhook: Option<Snowflake>,
    pub content: String,
    pub allowed: Allowed,
    pub reply_to: Option<Snowflake>,
    pub nonce: Option<Value>,
    pub attachments: Vec<Value>,
    pub embeds: Vec<Value>,
    pub tts: bool,
    pub flags: u64,
}

impl Draft {
    pub fn new(channel: Snowflake, author: Snowflake, content: impl Into<String>) -> Self {
        Self {
            channel,
            author,
            webhook: None,
            content: content.into(),
            allowed: Allowed::everything(),
            reply_to: None,
            nonce: None,
            attachments: Vec::new(),
            embeds: Vec::new(),
            tts: false,
            flags: 0,
        }
    }
}

/// The nonces of late, so that the same one gets its first message.
#[derive(Default)]
pub struct Nonces {
    messages: HashMap<UsedNonce, Snowflake>,
    /// The oldest first.
    order: VecDeque<(Instant, UsedNonce)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct UsedNonce {
    author: Snowflake,
    channel: Snowflake,
    /// As JSON, for a number is another one than its digits.
    nonce: String,
}

impl Nonces {
    fn find(&mut self, used: &UsedNonce, now: Instant) -> Option<Snowflake> {
        while let Some((_, oldest)) = self.order.pop_front_if(|(at, _)| now - *at >= NONCE_REMEMBERED) {
            self.messages.remove(&oldest);
        }
        self.messages.get(used).copied()
    }

    fn remember(&mut self, used: UsedNonce, message: Snowflake, now: Instant) {
        if let Entry::Vacant(vacant) = self.messages.entry(used.clone()) {
            vacant.insert(message);
            self.order.push_back((now, used));
        }
    }
}

/// The mentions a text has in force, and whom they notify.
struct Mentioned {
    users: Vec<Snowflake>,
    roles: Vec<Snowflake>,
    everyone: bool,
    pinged: Vec<Snowflake>,
}

impl State {
    /// Creates a message and tells everybody who may see it.
    pub fn post(&mut self, draft: Draft) -> Message {
        // Discord takes white space off both ends.
        let content = draft.content.trim().to_owned();
        let mentioned = self.mentioned(&draft, &content);
        let message = Message {
            id: self.world.ids.next(),
            channel: draft.channel,
            guild: self.world.channels.get(&draft.channel).and_then(|channel| channel.guild),
            author: draft.author,
            webhook: draft.webhook,
            content,
            edited_ms: None,
            mentions: mentioned.users,
            mention_roles: mentioned.roles,
            mention_everyone: mentioned.everyone,
            pinged: mentioned.pinged,
            reply_to: draft.reply_to,
            nonce: draft.nonce,
            attachments: draft.attachments,
            embeds: draft.embeds,
            tts: draft.tts,
            flags: draft.flags,
        };
        self.world.insert(message.clone());
        if message.author == self.world.bot {
            self.counters.messages_created += 1;
            self.counters.pings += u64::try_from(message.pinged.len()).unwrap_or(0);
        }
        self.dispatch(&Event::MessageCreate(message.clone()));
        self.happened("message", json!({ "message": self.shown(&message) }));
        message
    }

    /// A message as the page and tests see it: Discord's object, and who was pinged.
    pub fn shown(&self, message: &Message) -> Value {
        let mut object = render::message(&self.world, message);
        object["pinged"] = json!(message.pinged);
        if let Some(guild) = message.guild {
            object["guild_id"] = json!(guild);
        }
        object
    }

    fn mentioned(&self, draft: &Draft, content: &str) -> Mentioned {
        let written = mentions::find(content);
        let world = &self.world;
        let in_guild = world.channels.get(&draft.channel).is_some_and(|channel| channel.guild.is_some());
        let may_everyone = in_guild && world.may(draft.author, permission::MENTION_EVERYONE);
        let mut users: Vec<_> =
            written.users.into_iter().filter(|id| world.people.contains_key(id) && draft.allowed.user(*id)).collect();
        // The reply's own ping is a mention that is not in the text.
        let replied = draft.reply_to.and_then(|id| world.message(draft.channel, id)).map(|message| message.author);
        users.extend(replied.filter(|id| draft.allowed.replied_user() && !users.contains(id)));
        let roles: Vec<_> = world
            .guild
            .roles
            .iter()
            .filter(|role| in_guild && written.roles.contains(&role.id) && draft.allowed.role(role.id))
            .filter(|role| role.mentionable || may_everyone)
            .map(|role| role.id)
            .collect();
        let everyone = written.everyone && may_everyone && draft.allowed.everyone();
        let notified = |id: &Snowflake| {
            let member = world.people.get(id).filter(|person| person.member);
            users.contains(id)
                || in_guild
                    && member.is_some_and(|person| everyone || person.roles.iter().any(|role| roles.contains(role)))
        };
        let pinged = world.people.keys().copied().filter(|id| *id != draft.author && notified(id)).collect();
        Mentioned { users, roles, everyone, pinged }
    }

    /// The message that an earlier request with this nonce created. Source: Message resource, `enforce_nonce`.
    pub fn by_nonce(&mut self, author: Snowflake, channel: Snowflake, nonce: &Value) -> Option<Message> {
        let used = UsedNonce { author, channel, nonce: nonce.to_string() };
        let id = self.nonces.find(&used, Instant::now())?;
        let first = self.world.message(channel, id)?.clone();
        self.counters.nonce_deduplicated += 1;
        Some(first)
    }

    pub fn remember_nonce(&mut self, message: &Message) {
        if let Some(nonce) = &message.nonce {
            let used = UsedNonce { author: message.author, channel: message.channel, nonce: nonce.to_string() };
            self.nonces.remember(used, message.id, Instant::now());
        }
    }

    /// Changes a message's text. Nobody is notified anew. Source: Message resource, "Edit Message".
    pub fn edit(&mut self, channel: Snowflake, id: Snowflake, content: &str, allowed: Allowed) -> Option<Message> {
        let old = self.world.message(channel, id)?;
        let mut draft = Draft::new(channel, old.author, content.trim());
        draft.allowed = allowed;
        draft.reply_to = old.reply_to;
        let mentioned = self.mentioned(&draft, content);
        let message = self.world.channels.get_mut(&channel)?.messages.get_mut(&id)?;
        message.content = draft.content;
        message.edited_ms = Some(now_ms());
        message.mentions = mentioned.users;
        message.mention_roles = mentioned.roles;
        message.mention_everyone = mentioned.everyone;
        let message = message.clone();
        self.dispatch(&Event::MessageUpdate(message.clone()));
        self.happened("message_edited", json!({ "message": self.shown(&message) }));
        Some(message)
    }

    pub fn delete(&mut self, channel: Snowflake, id: Snowflake) -> Option<Message> {
        let message = self.world.channels.get_mut(&channel)?.messages.remove(&id)?;
        self.dispatch(&Event::MessageDelete { id, channel, guild: message.guild });
        self.happened("message_deleted", json!({ "channel_id": channel, "id": id }));
        Some(message)
    }

    /// As a moderator's bot deletes many at once. Returns how many there were.
    pub fn delete_at_once(&mut self, channel: Snowflake, ids: &[Snowflake]) -> usize {
        let Some(there) = self.world.channels.get_mut(&channel) else { return 0 };
        let guild = there.guild;
        let ids: Vec<Snowflake> = ids.iter().copied().filter(|id| there.messages.remove(id).is_some()).collect();
        for id in &ids {
            self.happened("message_deleted", json!({ "channel_id": channel, "id": id }));
        }
        let gone = ids.len();
        self.dispatch(&Event::MessageDeleteBulk { ids, channel, guild });
        gone
    }

    pub fn typing(&mut self, channel: Snowflake, person: Snowflake) {
        let guild = self.world.channels.get(&channel).and_then(|channel| channel.guild);
        self.counters.typings += u64::from(person == self.world.bot);
        self.dispatch(&Event::TypingStart { channel, guild, person });
        self.happened("typing", json!({ "channel_id": channel, "user_id": person }));
    }
}
