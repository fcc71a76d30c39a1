//! What was said in a room lately, one row for everybody in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;

use crate::chat::PersonId;

/// What a room keeps: so many messages, and no more than so many bytes of them.
const KEPT: usize = 1_024;
const KEPT_BYTES: usize = 1 << 20;
/// What a message takes beside its text, in bytes, about.
const OVERHEAD: usize = 128;
/// How much of what was said is told to who joins: so many messages at most, and no more than so many bytes of them.
const HISTORY: usize = 100;
const HISTORY_BYTES: usize = 64 << 10;

/// A message that was said in a room.
#[derive(Clone, Debug)]
pub struct Said {
    pub id: u64,
    /// It as it is sent to everybody.
    pub frame: Bytes,
    pub by: PersonId,
    /// What its author calls it.
    pub reference: Option<Arc<str>>,
}

/// What was said lately, in its order.
pub struct Ring {
    pub said: VecDeque<Said>,
    /// The place of the first that is kept, in the row of all that was ever said here.
    pub first: u64,
    pub bytes: usize,
    /// The id of the last message, and of the last that is not kept any more.
    pub last: u64,
    forgotten: u64,
}

/// A message's id is the moment at which it was said, in microseconds since 1970, or one more than the last where that
/// is not more: ids grow over a restart as well, as long as the clock is not put back. They stay exact as JavaScript's
/// numbers until 2255.
fn clock(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Ring {
    /// With nothing in it, as of `now`.
    pub fn new(now: SystemTime) -> Ring {
        // Whatever was said in a room of this name before has a lower id.
        let begun = clock(now);
        Ring { said: VecDeque::new(), first: 0, bytes: 0, last: begun, forgotten: begun }
    }

    /// The id of what is said next, `now`.
    pub fn next_id(&self, now: SystemTime) -> u64 {
        clock(now).max(self.last + 1)
    }

    /// What it takes with `said` more, and how much less it then takes as it forgets, in bytes.
    pub fn push(&mut self, said: Said, share: Option<usize>) -> (usize, usize) {
        let grown = said.size();
        self.last = said.id;
        self.said.push_back(said);
        self.bytes += grown;
        let most = share.map_or(KEPT_BYTES, |share| share.min(KEPT_BYTES));
        let mut gone = 0;
        while self.said.len() > 1 && (self.said.len() > KEPT || self.bytes - gone > most) {
            let Some(oldest) = self.said.pop_front() else { break };
            self.first += 1;
            self.forgotten = oldest.id;
            gone += oldest.size();
        }
        self.bytes -= gone;
        (grown, gone)
    }

    /// What who joins is told, the place of what comes after it, and whether something may be missing.
    pub fn history(&self, after: Option<u64>) -> (Vec<Said>, u64, bool) {
        // Whoever knows of a later message than the last, knows of it from before the clock was put back.
        let after = after.map(|after| (after, after < self.forgotten || after > self.last));
        let fits = {
            let mut bytes = 0;
            move |said: &&Said| {
                bytes += said.frame.len();
                bytes <= HISTORY_BYTES
            }
        };
        let (from, count, incomplete) = match after {
            Some((after, incomplete)) if after <= self.last => {
                let from = self.said.partition_point(|said| said.id <= after);
                (from, self.said.range(from..).take(HISTORY).take_while(fits).count(), incomplete)
            }
            after => {
                let count = self.said.iter().rev().take(HISTORY).take_while(fits).count();
                (self.said.len() - count, count, after.is_some())
            }
        };
        let history = self.said.range(from..from + count).cloned().collect();
        (history, self.first + (from + count) as u64, incomplete)
    }
}

impl Said {
    fn size(&self) -> usize {
        OVERHEAD + self.frame.len() + self.reference.as_ref().map_or(0, |reference| reference.len())
    }
}
