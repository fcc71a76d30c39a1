//! What exists on the simulated Discord: people, one guild, its channels, and what was said in them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::snowflake::{Snowflake, Snowflakes};

/// How many messages a channel remembers, so that a simulator left running keeps its size.
const MESSAGES_KEPT: usize = 5_000;

/// Permission bits. Source: Permissions, "Bitwise Permission Flags".
pub mod permission {
    pub const VIEW_CHANNEL: u64 = 1 << 10;
    pub const SEND_MESSAGES: u64 = 1 << 11;
    pub const MANAGE_MESSAGES: u64 = 1 << 13;
    pub const EMBED_LINKS: u64 = 1 << 14;
    pub const ATTACH_FILES: u64 = 1 << 15;
    pub const READ_MESSAGE_HISTORY: u64 = 1 << 16;
    pub const MENTION_EVERYONE: u64 = 1 << 17;
    pub const SEND_MESSAGES_IN_THREADS: u64 = 1 << 38;
    /// What everybody may in the demo guild.
    pub const EVERYONE: u64 =
        VIEW_CHANNEL | SEND_MESSAGES | EMBED_LINKS | ATTACH_FILES | READ_MESSAGE_HISTORY | SEND_MESSAGES_IN_THREADS;
}

#[derive(Clone, Debug)]
pub struct Person {
    pub id: Snowflake,
    pub name: String,
    pub display_name: String,
    pub bot: bool,
    /// In the guild. A webhook writes without being a member.
    pub member: bool,
    pub accepts_direct_messages: bool,
    pub roles: Vec<Snowflake>,
}

#[derive(Clone, Debug)]
pub struct Role {
    pub id: Snowflake,
    pub name: String,
    pub permissions: u64,
    pub mentionable: bool,
    /// The bot whose own role this is.
    pub of_bot: Option<Snowflake>,
}

/// Source: Channel resource, "Channel Types".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    Text,
    Direct,
    Voice,
    Category,
    Announcement,
    Thread,
    Forum,
}

impl ChannelKind {
    pub const fn number(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Direct => 1,
            Self::Voice => 2,
            Self::Category => 4,
            Self::Announcement => 5,
            Self::Thread => 11,
            Self::Forum => 15,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Direct => "dm",
            Self::Voice => "voice",
            Self::Category => "category",
            Self::Announcement => "announcement",
            Self::Thread => "thread",
            Self::Forum => "forum",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Text, Self::Direct, Self::Voice, Self::Category, Self::Announcement, Self::Thread, Self::Forum]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// Holds messages itself. A forum's messages are in its threads.
    pub const fn holds_messages(self) -> bool {
        !matches!(self, Self::Category | Self::Forum)
    }
}

/// What the bot may do in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub view: bool,
    pub send: bool,
    pub history: bool,
}

impl Access {
    pub const FULL: Self = Self { view: true, send: true, history: true };
}

#[derive(Clone, Debug)]
pub struct Channel {
    pub id: Snowflake,
    pub kind: ChannelKind,
    /// `None` is a direct message.
    pub guild: Option<Snowflake>,
    pub parent: Option<Snowflake>,
    pub name: String,
    pub topic: Option<String>,
    pub position: u16,
    pub access: Access,
    /// The other people of a direct message.
    pub recipients: Vec<Snowflake>,
    pub owner: Option<Snowflake>,
    pub archived: bool,
    pub last_message: Option<Snowflake>,
    pub messages: BTreeMap<Snowflake, Message>,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub id: Snowflake,
    pub channel: Snowflake,
    pub guild: Option<Snowflake>,
    pub author: Snowflake,
    pub webhook: Option<Snowflake>,
    pub content: String,
    pub edited_ms: Option<u64>,
    pub mentions: Vec<Snowflake>,
    pub mention_roles: Vec<Snowflake>,
    pub mention_everyone: bool,
    /// Whose client would notify them: mentions, members of mentioned roles, everyone; never the author.
    pub pinged: Vec<Snowflake>,
    pub reply_to: Option<Snowflake>,
    pub nonce: Option<Value>,
    pub attachments: Vec<Value>,
    pub embeds: Vec<Value>,
    pub tts: bool,
    pub flags: u64,
}

pub struct Guild {
    pub id: Snowflake,
    pub name: String,
    pub owner: Snowflake,
    pub roles: Vec<Role>,
    /// Without an outage that takes it away.
    pub available: bool,
}

pub struct World {
    pub ids: Snowflakes,
    pub bot: Snowflake,
    pub application: Snowflake,
    pub people: BTreeMap<Snowflake, Person>,
    pub guild: Guild,
    pub channels: BTreeMap<Snowflake, Channel>,
}

/// A fixed id of the demo world; all of them are from April 2023.
const fn fixed(number: u64) -> Snowflake {
    Snowflake(1_100_000_000_000_000_000 + number)
}

impl World {
    /// The guild "Birdhouse" with its people and channels. Its ids are the same in every run.
    pub fn demo(bot_name: &str) -> Self {
        let (guild, bot, bot_role) = (fixed(1), fixed(10), fixed(3));
        let person = |number, name: &str, display_name: &str, roles: &[Snowflake]| Person {
            id: fixed(number),
            name: name.to_owned(),
            display_name: display_name.to_owned(),
            bot: false,
            member: true,
            accepts_direct_messages: true,
            roles: roles.to_vec(),
        };
        let keepers = fixed(2);
        let people = [
            Person { bot: true, roles: vec![bot_role], ..person(10, bot_name, bot_name, &[]) },
            person(11, "ada", "Ada", &[keepers]),
            person(12, "grace", "Grace", &[]),
            person(13, "linus", "Linus", &[]),
            Person { bot: true, ..person(14, "robin", "Robin", &[]) },
            Person { bot: true, member: false, ..person(15, "feeder", "Feeder", &[]) },
            Person { accepts_direct_messages: false, ..person(16, "hermit", "Hermit", &[]) },
        ];
        let role = |id, name: &str, permissions, mentionable| Role {
            id,
            name: name.to_owned(),
            permissions,
            mentionable,
            of_bot: None,
        };
        let roles = vec![
            role(guild, "@everyone", permission::EVERYONE, false),
            role(keepers, "keepers", permission::MENTION_EVERYONE | permission::MANAGE_MESSAGES, true),
            Role { of_bot: Some(bot), ..role(bot_role, bot_name, permission::EVERYONE, false) },
        ];
        let mut world = Self {
            ids: Snowflakes::default(),
            bot,
            application: bot,
            people: people.into_iter().map(|person| (person.id, person)).collect(),
            guild: Guild { id: guild, name: "Birdhouse".to_owned(), owner: fixed(11), roles, available: true },
            channels: BTreeMap::new(),
        };
        let text = |number, name: &str, topic: &str| Channel {
            id: fixed(number),
            kind: ChannelKind::Text,
            guild: Some(guild),
            parent: None,
            name: name.to_owned(),
            topic: Some(topic.to_owned()).filter(|topic| !topic.is_empty()),
            position: u16::try_from(number % 100).unwrap_or(0),
            access: Access::FULL,
            recipients: Vec::new(),
            owner: None,
            archived: false,
            last_message: None,
            messages: BTreeMap::new(),
        };
        let read_only = Access { send: false, ..Access::FULL };
        let hidden = Access { view: false, send: false, history: false };
        let thread = |parent, owner, channel: Channel| Channel {
            kind: ChannelKind::Thread,
            parent: Some(fixed(parent)),
            owner: Some(fixed(owner)),
            topic: None,
            ..channel
        };
        let direct = |number, other| Channel {
            kind: ChannelKind::Direct,
            guild: None,
            recipients: vec![fixed(other)],
            ..text(number, "", "")
        };
        world.channels = [
            text(100, "general", "Say hello to the bot"),
            text(101, "random", "Anything with feathers"),
            Channel { access: read_only, ..text(102, "announcements", "The bot reads here and may not write") },
            Channel { access: hidden, ..text(103, "keepers-only", "The bot can't see this one") },
            Channel {
                kind: ChannelKind::Forum,
                last_message: Some(fixed(105)),
                ..text(104, "field-notes", "One sighting a post")
            },
            thread(104, 12, text(105, "A wren in the hedge", "")),
            thread(100, 11, text(106, "nest box", "")),
            direct(200, 11),
            direct(201, 16),
        ]
        .into_iter()
        .map(|channel| (channel.id, channel))
        .collect();
        world
    }

    /// A channel by id, or by name with or without `#`.
    pub fn find_channel(&self, wanted: &str) -> Option<&Channel> {
        let by_id = wanted.parse().ok().and_then(|id| self.channels.get(&id));
        let name = wanted.strip_prefix('#').unwrap_or(wanted);
        by_id.or_else(|| self.channels.values().find(|channel| channel.guild.is_some() && channel.name == name))
    }

    /// A person by id, user name or display name, in any case.
    pub fn find_person(&self, wanted: &str) -> Option<&Person> {
        let by_id = wanted.parse().ok().and_then(|id| self.people.get(&id));
        let name = wanted.strip_prefix('@').unwrap_or(wanted);
        let called =
            |person: &&Person| person.name.eq_ignore_ascii_case(name) || person.display_name.eq_ignore_ascii_case(name);
        by_id.or_else(|| self.people.values().find(called))
    }

    /// The direct channel between the bot and somebody, made when there is none.
    pub fn direct_channel(&mut self, person: Snowflake) -> Snowflake {
        let existing = self
            .channels
            .values()
            .find(|channel| channel.kind == ChannelKind::Direct && channel.recipients.as_slice() == [person]);
        if let Some(channel) = existing {
            return channel.id;
        }
        let id = self.ids.next();
        let channel = Channel {
            id,
            kind: ChannelKind::Direct,
            guild: None,
            parent: None,
            name: String::new(),
            topic: None,
            position: 0,
            access: Access::FULL,
            recipients: vec![person],
            owner: None,
            archived: false,
            last_message: None,
            messages: BTreeMap::new(),
        };
        self.channels.insert(id, channel);
        id
    }

    pub fn message(&self, channel: Snowflake, id: Snowflake) -> Option<&Message> {
        self.channels.get(&channel)?.messages.get(&id)
    }

    /// Keeps a message as its channel's newest.
    pub fn insert(&mut self, message: Message) {
        if let Some(channel) = self.channels.get_mut(&message.channel) {
            channel.last_message = Some(message.id);
            channel.archived = false;
            channel.messages.insert(message.id, message);
            while channel.messages.len() > MESSAGES_KEPT {
                channel.messages.pop_first();
            }
        }
    }

    /// What somebody may in the guild as a whole; the owner may everything.
    pub fn may(&self, person: Snowflake, permission: u64) -> bool {
        let Some(person) = self.people.get(&person) else { return false };
        let granted =
            self.guild.roles.iter().filter(|role| role.id == self.guild.id || person.roles.contains(&role.id));
        person.id == self.guild.owner || granted.fold(0, |all, role| all | role.permissions) & permission != 0
    }

    /// Whether the bot sees a channel; a thread is seen with its parent.
    pub fn bot_sees(&self, channel: &Channel) -> bool {
        let parent = channel.parent.and_then(|id| self.channels.get(&id));
        channel.access.view && parent.is_none_or(|parent| parent.access.view)
    }
}
