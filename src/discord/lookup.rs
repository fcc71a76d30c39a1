//! Looking what became of an answer that an earlier process began to send: by reading the channel, never by guessing.

use serde::Deserialize;

use super::event::{ChannelId, Incoming, MessageId, UserId};
use super::history::{PAGE, Past, sorted};
use super::rest::{Rest, RestError};

/// An answer comes within minutes of its question, and few channels have more messages in that time.
const PAGES: usize = 10;

/// What is found.
#[derive(Default)]
pub struct Found {
    /// The message to be answered. Without it nothing is proven: it was deleted, or the channel's history can't be read.
    pub question: Option<Incoming>,
    /// How many parts of the answer were said.
    pub said: usize,
    /// The last message of the bot was one of them.
    last: bool,
}

/// Looks in `channel` for `message` and for up to `parts` messages of `bot` that answer it: replies to it, and what stands
/// behind one of them and is no reply. Where answers are said `in_order`, another one ends the search.
///
/// # Errors
/// As [`RestError`] says.
pub async fn look(
    rest: &Rest,
    channel: ChannelId,
    message: MessageId,
    bot: UserId,
    parts: usize,
    in_order: bool,
) -> Result<Found, RestError> {
    let mut found = Found::default();
    // The message itself comes first, as the proof that the history can be read.
    let mut after = message.get() - 1;
    for _ in 0..PAGES {
        let values = rest.messages_after(channel, after).await?;
        let full = values.len() == PAGE;
        let page = sorted(values);
        after = page.last().map_or(after, |(past, _)| past.id.get());
        for (past, value) in page {
            if past.id == message {
                found.question = Incoming::deserialize(&value).ok();
            } else if past.author.id == bot && !found.take(&past, message, in_order) {
                return Ok(found);
            }
        }
        if !full || found.said >= parts {
            return Ok(found);
        }
    }
    // So much was said that the answer may be further down.
    Ok(Found { question: None, ..found })
}

impl Found {
    /// Takes one of the bot's own messages into account. Returns whether more of the answer can follow.
    fn take(&mut self, past: &Past, message: MessageId, in_order: bool) -> bool {
        let answered = past.replies_to().or_else(|| past.is_part_for());
        self.last = answered.map_or(self.last, |question| question == message);
        self.said += usize::from(self.last);
        self.last || self.said == 0 || !in_order
    }
}
