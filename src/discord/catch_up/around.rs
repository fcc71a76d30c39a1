//! Where to look: what `GUILD_CREATE` says of its channels, and the direct messages that perch remembers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::read::Look;
use super::{QUIET, Step};
use crate::config::discord::CatchUp as Bounds;
use crate::discord::bot::Bot;
use crate::discord::event::{Channel, GuildCreated};
use crate::discord::seen::Place;
use crate::discord::session::EventId;

/// So many conversations with one person are looked at, those that were active last. Discord does not say in which of
/// them something is new.
const DIRECT: usize = 100;

/// Source: API Reference, "Snowflakes": milliseconds since the first second of 2015, above the lowest 22 bits.
const EPOCH_MS: u64 = 1_420_070_400_000;
const SNOWFLAKE_MS: u32 = 22;

/// The bot does not see the channel. Source: Channel Resource, "Obfuscated Channels".
const OBFUSCATED: u64 = 1 << 17;

/// Whether a channel of type `kind` holds messages: text, voice, announcement, the three kinds of thread, stage. A
/// category does not, and those of a forum (15, 16) are in its threads.
///
/// Source: Channel Resource, "Channel Types".
fn holds_messages(kind: u8) -> bool {
    matches!(kind, 0 | 2 | 5 | 10..=13)
}

/// The first id of a message said at `time`.
fn snowflake_at(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX).saturating_sub(EPOCH_MS) << SNOWFLAKE_MS
}

impl Bot<'_> {
    /// Looks for what was missed in a guild that comes into sight with `event`.
    pub(in crate::discord) fn look_around(&mut self, guild: &GuildCreated, event: EventId) {
        self.catch_up.bounds = self.bounds();
        let mut looks = Vec::new();
        if std::mem::take(&mut self.catch_up.direct_due) {
            looks = self.direct_looks();
        }
        let floor = self.floor();
        let joined = guild.joined_at.map_or(0, |at| {
            snowflake_at(SystemTime::UNIX_EPOCH + Duration::from_secs(at.unix_timestamp().unsigned_abs()))
        });
        for channel in guild.channels.iter().chain(&guild.threads) {
            looks.extend(self.look(channel, guild, floor, joined));
        }
        self.catch_up.want(looks, Some(event), &mut self.channels);
    }

    /// Looks for direct messages that were missed, where no guild is to come.
    pub(in crate::discord) fn look_at_direct(&mut self) {
        self.catch_up.bounds = self.bounds();
        self.catch_up.direct_due = false;
        let looks = self.direct_looks();
        self.catch_up.want(looks, None, &mut self.channels);
    }

    /// The look that `channel` needs, if it needs one.
    fn look(&mut self, channel: &Channel, guild: &GuildCreated, floor: u64, joined: u64) -> Option<Look> {
        if !holds_messages(channel.kind) || channel.flags & OBFUSCATED != 0 {
            return None;
        }
        // The first message of a forum's post has the id of the post. Source: Channel Resource, "Start Thread in Forum".
        let first = if matches!(channel.kind, 10..=12) { channel.id.get() } else { 0 };
        let last = channel.last_message_id.unwrap_or(0).max(first);
        let place = Place::new(self.account.user.id.get(), channel.id);
        let marks = &self.discord.marks;
        let seen = marks.dealt_with(place);
        if last <= seen.unwrap_or(0) && !marks.has_gap(place) {
            return None;
        }
        if last <= floor || self.catch_up.bounds.max_age.is_zero() {
            if seen.is_some_and(|seen| seen < last) && !self.catch_up.bounds.max_age.is_zero() {
                self.catch_up.report.age.push(channel.id);
                self.catch_up.over.get_or_insert_with(|| Instant::now() + QUIET);
            }
            // Of the others nothing needs to be remembered.
            if seen.is_some() || marks.has_gap(place) {
                marks.caught_up(place, last);
            }
            return None;
        }
        let since = floor.max(seen.unwrap_or(joined));
        Some(Look {
            channel: channel.id,
            guild: Some(guild.id),
            account: Arc::clone(&self.account),
            since,
            seen: seen.unwrap_or(0),
            last,
        })
    }

    /// The conversations with one person. Bots can't list them, so those that perch remembers.
    fn direct_looks(&self) -> Vec<Look> {
        let (bot, floor) = (self.account.user.id.get(), self.floor());
        if self.catch_up.bounds.max_age.is_zero() {
            return Vec::new();
        }
        let seen = |channel| self.discord.marks.dealt_with(Place::new(bot, channel)).unwrap_or(0);
        let look = |channel| Look {
            channel,
            guild: None,
            account: Arc::clone(&self.account),
            since: floor.max(seen(channel)),
            seen: seen(channel),
            last: 0,
        };
        self.discord.marks.direct(bot, DIRECT).into_iter().map(look).collect()
    }

    /// What is older is not looked for.
    fn floor(&self) -> u64 {
        snowflake_at(SystemTime::now().checked_sub(self.catch_up.bounds.max_age).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    fn bounds(&self) -> Bounds {
        self.live.borrow().config.discord.as_ref().map(|discord| discord.catch_up).unwrap_or_default()
    }

    /// Goes on with the catch-up. Returns what Discord said if it refused the token that is in use.
    pub(in crate::discord) fn looked(&mut self, step: Option<Step>) -> Option<String> {
        match step? {
            Step::Read(look, found) => {
                let current = look.account.same(&self.account);
                self.catch_up.done(look, found, &mut self.channels).filter(|_| current)
            }
            Step::Over => {
                self.catch_up.tell();
                None
            }
        }
    }

    /// Lets go of what was missed and is not at work: perch stops, or becomes another.
    pub(in crate::discord) fn let_go(&mut self) {
        let interrupted = self.catch_up.interrupt();
        if self.channels.let_go() | interrupted {
            self.discord.store.rewind();
        }
    }
}
