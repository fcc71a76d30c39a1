//! Reading what was said in one channel while nobody listened.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::discord::account::Account;
use crate::discord::event::{ChannelId, GuildId, Incoming, MessageId};
use crate::discord::history::{PAGE, sorted};
use crate::discord::mention;
use crate::discord::rest::RestError;
use crate::store::{Key, Ledger, Standing, Verdict};

/// So many pages of a channel are read at most: 2,000 messages, one every two seconds of the hour that is looked back
/// by default. Discord gives out five pages of a channel in five seconds.
pub const PAGES: usize = 20;
/// Between two pages, whatever channels they are of: a fifth of the fifty requests a second that Discord allows a bot,
/// and less than the 10,000 refused ones in ten minutes for which it shuts an address out.
///
/// Source: Rate Limits, "Global Rate Limit" and "Invalid Request Limit".
const PACE: Duration = Duration::from_millis(100);

/// A channel to be read.
#[derive(Clone)]
pub struct Look {
    pub channel: ChannelId,
    /// `None` is a direct message. What REST says of a message leaves it out.
    pub guild: Option<GuildId>,
    pub account: Arc<Account>,
    /// Only what came after this one is answered.
    pub since: u64,
    /// Up to here everything is dealt with; 0 when nothing is known.
    pub seen: u64,
    /// The newest message that Discord spoke of.
    pub last: u64,
}

/// What was found in a channel.
#[derive(Default)]
pub struct Found {
    /// The messages for the bot that nobody answered, the oldest first.
    pub missed: Vec<Incoming>,
    /// The newest message of the channel.
    pub newest: u64,
    /// What is not in `missed` although it may belong there.
    pub cut: Option<Cut>,
}

/// Why something is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is too old.
    Age,
    /// There are newer ones, as many as may be answered.
    Number,
    /// It is behind so many others that it was not read.
    Pages,
}

/// Sees to it that pages are not asked for in quick succession.
#[derive(Default)]
pub struct Pacer(Mutex<Option<Instant>>);

impl Pacer {
    async fn turn(&self) {
        let mut next = self.0.lock().await;
        if let Some(at) = *next {
            sleep_until(at).await;
        }
        *next = Some(Instant::now() + PACE);
    }
}

/// Reads back from the newest message to the last one that was seen, and keeps the newest `most` that nobody answered.
/// An answer comes after its question, so it is met first: that a reply is there counts, whatever became of the
/// ledger.
///
/// Discord gives the text of messages that mention the bot, and of direct messages, without the privileged intent here
/// too. Source: "You Might Not Need a Privileged Intent", "Message Content Intent".
///
/// # Errors
/// As [`RestError`] says, after `patience` when Discord is in trouble.
pub async fn read(
    look: &Look,
    most: usize,
    patience: Duration,
    pacer: &Pacer,
    ledger: &Ledger,
) -> Result<Found, RestError> {
    let bot = look.account.user.id;
    let deadline = Instant::now() + patience;
    let mut found = Found::default();
    let mut answered: HashSet<MessageId> = HashSet::new();
    let mut before = None;
    for _ in 0..PAGES {
        pacer.turn().await;
        let values = look.account.rest.messages_before(look.channel, before, deadline).await?;
        let full = values.len() == PAGE;
        for (past, value) in sorted(values).into_iter().rev() {
            let id = past.id.get();
            found.newest = found.newest.max(id);
            before = Some(id);
            if id <= look.seen {
                return Ok(found.in_order());
            }
            if past.author.id == bot {
                answered.extend(past.replies_to().into_iter().chain(past.is_part_for()));
                continue;
            }
            let Ok(mut message) = Incoming::deserialize(&value) else { continue };
            message.guild_id = look.guild;
            if !mention::is_for(&message, bot) || settled(&message, &answered, look, ledger).await {
                continue;
            }
            let cut = match () {
                () if id <= look.since => Some(Cut::Age),
                () if found.missed.len() == most => Some(Cut::Number),
                () => None,
            };
            if cut.is_some() {
                // Of what was said before perch knew the channel nobody can say that it was missed.
                found.cut = cut.filter(|cut| *cut != Cut::Age || look.seen > 0);
                return Ok(found.in_order());
            }
            found.missed.push(message);
        }
        if !full || before.is_some_and(|before| before <= look.since) {
            return Ok(found.in_order());
        }
    }
    found.cut = Some(Cut::Pages);
    Ok(found.in_order())
}

/// Whether `message` was answered, as the ledger or the channel itself says. Of one that was begun, whether all of the
/// answer was said is looked at when its turn comes.
async fn settled(message: &Incoming, answered: &HashSet<MessageId>, look: &Look, ledger: &Ledger) -> bool {
    let key = Key { bot: look.account.user.id.get(), message: message.id.get() };
    match ledger.find(key).await {
        Some(standing) => standing == Standing::Settled,
        None if answered.contains(&message.id) => {
            ledger.settle(key, Verdict::Done);
            true
        }
        None => false,
    }
}

impl Found {
    fn in_order(mut self) -> Found {
        self.missed.reverse();
        self
    }
}
