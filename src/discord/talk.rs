//! What an answer of the chat takes beside the message: what was said before, how much whoever asks may have, and room
//! for files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::account::Account;
use super::answer::mark;
use super::event::{ChannelId, Incoming};
use crate::chat::PersonId;
use crate::chat::files::{Refused, Room};
use crate::chat::history::{Asker, ConversationId, History, Which};
use crate::limits::{Bill, Limits, Refusal, Scope, Who};
use crate::service::Live;

/// How much of people's files is held at once, in bytes.
const ROOM: usize = 24 << 20;
/// For how long nobody is told once more that they have too many open questions.
const TOO_MANY: Duration = Duration::from_mins(1);
/// So many channels are remembered for what they are, and so many people for what they were told.
const REMEMBERED: usize = 10_000;

/// It lives as long as the process.
pub struct Talk {
    pub history: Arc<History>,
    pub limits: Arc<Limits>,
    /// Files that were not taken, and why.
    pub refused: Arc<Refused>,
    pub room: Room,
    /// Whether a channel is a thread, for those that were asked about.
    threads: Mutex<HashMap<ChannelId, bool>>,
    told: Mutex<HashMap<Told, Instant>>,
}

/// Who is told that a limit is reached, once until it is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    /// In each channel: what was said in another one they need not have seen.
    Person(u64, ChannelId),
    /// Everybody in it, where the limit is everybody's.
    Channel(ChannelId),
    /// That the person has too many open questions.
    TooMany(u64, ChannelId),
}

impl Talk {
    pub fn new(history: Arc<History>, limits: Arc<Limits>, refused: Arc<Refused>) -> Talk {
        Talk { history, limits, refused, room: Room::new(ROOM), threads: Mutex::default(), told: Mutex::default() }
    }

    /// Lets the author of `message` ask something of so many bytes, or says when they may again.
    pub fn admit(&self, message: &Incoming, question: usize, live: &Live) -> Result<Arc<Bill>, Refusal> {
        let person = PersonId::discord(message.author.id.get());
        self.limits.admit(&live.config.limits, Who { address: None, person: &person })?;
        Bill::open(&self.limits, &live.config, None, person, question)
    }

    /// Whether to say that: whoever asks on and on is told once in a channel.
    pub fn tells(&self, message: &Incoming, refusal: &Refusal) -> bool {
        let whom = match refusal.policy.scope {
            Scope::Address | Scope::Person => Told::Person(message.author.id.get(), message.channel_id),
            Scope::Total => Told::Channel(message.channel_id),
        };
        self.once(whom, Duration::from_secs(refusal.retry_after_seconds()))
    }

    /// Whether to say that its author has too many open questions.
    pub fn tells_of_too_many(&self, message: &Incoming) -> bool {
        self.once(Told::TooMany(message.author.id.get(), message.channel_id), TOO_MANY)
    }

    fn once(&self, whom: Told, wait: Duration) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&whom).is_some_and(|until| *until > now) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.retain(|_, until| *until > now);
        }
        // One who can't be remembered is told nothing, rather than every time.
        let room = told.len() < REMEMBERED;
        if room {
            told.insert(whom, now + wait);
        }
        room
    }

    /// The conversation that `message` belongs to, and whose it is: everybody has one in every channel, so that what they
    /// said is theirs. In a thread those of all who speak are read as one.
    pub async fn conversation(&self, message: &Incoming, account: &Account) -> (Asker, Which) {
        let (bot, channel, author) = (account.user.id.get(), message.channel_id.get(), message.author.id.get());
        let place = format!("discord\n{bot}\n{channel}");
        let id = ConversationId::beside(mark(&place), mark(&format!("{place}\n{author}")));
        let which = if self.is_thread(message, account).await { Which::Shared(id) } else { Which::Own(id) };
        (Asker { person: PersonId::discord(author), newcomer: false, client: None }, which)
    }

    async fn is_thread(&self, message: &Incoming, account: &Account) -> bool {
        let channel = message.channel_id;
        if message.guild_id.is_none() {
            return false;
        }
        let known = self.threads.lock().unwrap_or_else(PoisonError::into_inner).get(&channel).copied();
        if let Some(known) = known {
            return known;
        }
        match account.rest.channel_kind(channel).await {
            Ok(kind) => {
                let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
                if threads.len() >= REMEMBERED {
                    threads.clear();
                }
                threads.insert(channel, kind.is_thread());
                kind.is_thread()
            }
            Err(error) => {
                tracing::debug!(service = super::NAME, "channel {channel} is taken for no thread: {error}");
                false
            }
        }
    }
}
