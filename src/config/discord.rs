//! `[discord]`: the bot.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{Entry, Table, quote};
use super::secret::{self, SecretRef};

/// Where Discord's REST API lives unless the configuration says otherwise.
pub const API_URL: &str = "https://discord.com";

/// Up to a day: who asked yesterday has found another way.
const MAX_AGE_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const PER_CHANNEL_BOUNDS: RangeInclusive<u32> = 1..=1_000;
const TOTAL_BOUNDS: RangeInclusive<u32> = 1..=10_000;

/// The bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discord {
    pub token: SecretRef,
    pub respond: Respond,
    /// Another address of the REST API, without a trailing slash. It is taken for a proxy that keeps Discord's rate
    /// limits; perch then only obeys the 429s it answers.
    pub api_url: Option<String>,
    /// What the bot asks to be told beside what it needs.
    pub intents: Intents,
    pub catch_up: CatchUp,
}

/// Gateway intents, as Discord's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intents(pub u64);

/// Those that may be asked for beside `guilds`, `guild_messages` and `direct_messages`, which perch always asks for.
///
/// Source: Gateway, "List of Intents".
const INTENTS: [(&str, u64); 18] = [
    ("guild_members", 1 << 1),
    ("guild_moderation", 1 << 2),
    ("guild_expressions", 1 << 3),
    ("guild_integrations", 1 << 4),
    ("guild_webhooks", 1 << 5),
    ("guild_invites", 1 << 6),
    ("guild_voice_states", 1 << 7),
    ("guild_presences", 1 << 8),
    ("guild_message_reactions", 1 << 10),
    ("guild_message_typing", 1 << 11),
    ("direct_message_reactions", 1 << 13),
    ("direct_message_typing", 1 << 14),
    ("message_content", 1 << 15),
    ("guild_scheduled_events", 1 << 16),
    ("auto_moderation_configuration", 1 << 20),
    ("auto_moderation_execution", 1 << 21),
    ("guild_message_polls", 1 << 24),
    ("direct_message_polls", 1 << 25),
];

impl Intents {
    fn read(table: &mut Table<'_>) -> Intents {
        let entries = table.entry("intents").map(Entry::one_or_many).unwrap_or_default();
        let bit = |entry: Entry<'_>| {
            let name = entry.text("an intent such as \"message_content\"")?;
            let found = INTENTS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
            if found.is_none() {
                let known = INTENTS.map(|(name, _)| name).join(", ");
                entry.mistake(format!("{} is no intent that can be added; these can: {known}", quote(name)));
            }
            found
        };
        Intents(entries.into_iter().filter_map(bit).fold(0, |bits, bit| bits | bit))
    }
}

impl fmt::Display for Intents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = INTENTS.iter().filter(|(_, bit)| self.0 & bit != 0).map(|(name, _)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// How much is answered of what was said while there was no session, where the old one can't be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// What is older is not answered; zero turns it off.
    pub max_age: Duration,
    /// How many messages of a channel are answered, the newest.
    pub per_channel: usize,
    /// How many are answered in all.
    pub total: usize,
}

impl Default for CatchUp {
    /// An hour is longer than a host takes to be replaced, and an answer that late is still of use. Discord takes an
    /// answer a second in a channel: a hundred are nearly two minutes, which whoever writes there now waits behind them.
    fn default() -> CatchUp {
        CatchUp { max_age: Duration::from_hours(1), per_channel: 100, total: 500 }
    }
}

impl CatchUp {
    fn read(mut table: Table<'_>) -> CatchUp {
        let default = CatchUp::default();
        let number = |number: Option<u32>, default| number.and_then(|number| number.try_into().ok()).unwrap_or(default);
        let catch_up = CatchUp {
            max_age: table.duration("max_age", MAX_AGE_BOUNDS).unwrap_or(default.max_age),
            per_channel: number(table.integer("per_channel", PER_CHANNEL_BOUNDS), default.per_channel),
            total: number(table.integer("total", TOTAL_BOUNDS), default.total),
        };
        table.finish();
        catch_up
    }
}

/// What makes the bot's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respond {
    /// It says back what it is told.
    Echo,
    /// The responder of the `[chat]` table.
    Chat,
}

impl fmt::Display for Respond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Respond::Echo => "echo",
            Respond::Chat => "chat",
        })
    }
}

impl Discord {
    pub(super) fn read(mut table: Table<'_>) -> Discord {
        let token = secret::read(&mut table, "token");
        let respond =
            table.choice("respond", &[("echo", Respond::Echo), ("chat", Respond::Chat)]).unwrap_or(Respond::Echo);
        let api_url = table.address("api_url", API_URL).filter(|url| url != API_URL);
        let intents = Intents::read(&mut table);
        let catch_up = table.table("catch_up").map(CatchUp::read).unwrap_or_default();
        table.finish();
        Discord { token, respond, api_url, intents, catch_up }
    }
}
