//! Rooms that people talk in: what is said has one order for all, and whoever lost their connection goes on where they
//! were.
//!
//! A room keeps what was said lately in one ring ([`ring`]), and everybody in it reads that ring at their own pace:
//! nothing is kept for each reader, what is said is there once, and who falls behind what is kept is told so rather than
//! waited for. All of it lives as long as the process, within bounds.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

mod name;
mod ring;
mod room;
mod shares;
#[cfg(test)]
mod tests;

pub use name::RoomName;
pub use ring::Said;
pub use room::{Behind, Bell, Joined, Membership};

use room::Room;
use shares::Shares;

/// So many rooms there may be at once: what each takes when nothing is said in it is about a KiB.
const MOST_ROOMS: usize = 10_000;
/// What is kept of all rooms together, in bytes: a host has 1 GiB of memory.
const KEPT_BYTES: usize = 32 << 20;
/// How long a room with nobody in it is remembered: long enough for everybody in it to come back after a restart of
/// theirs.
const EMPTY: Duration = Duration::from_mins(10);
/// How often rooms are looked through for empty ones.
const SWEEP: Duration = Duration::from_mins(1);

/// All the rooms there are.
#[derive(Default)]
pub struct Rooms {
    open: Mutex<HashMap<RoomName, Arc<Room>>>,
    common: Arc<Common>,
}

/// What all rooms share.
#[derive(Default)]
struct Common {
    /// How many rooms there are, and what is kept of all of them, in bytes.
    rooms: AtomicUsize,
    bytes: AtomicUsize,
    /// In how many rooms nobody is.
    empty: AtomicUsize,
    /// Locked after a room's seats where both are.
    shares: Mutex<Shares>,
    /// Rooms that are to tell how many are in them, the soonest first.
    due: Mutex<VecDeque<(Instant, Weak<Room>)>>,
    more_due: Notify,
}

impl Common {
    /// What a room may keep while all of them together keep too much, in bytes.
    fn share(&self) -> Option<usize> {
        let too_much = self.bytes.load(Ordering::Relaxed) > KEPT_BYTES;
        too_much.then(|| KEPT_BYTES / self.rooms.load(Ordering::Relaxed).max(1))
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce_later(&self, at: Instant, room: Weak<Room>) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push_back((at, room));
        self.more_due.notify_one();
    }
}

/// Why there is no room for somebody.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many rooms as there may be.
    All,
    /// The client is answerable for as many as it may be.
    Share(NonZeroU32),
}

impl Rooms {
    /// Takes a seat in a room, which begins where there is none of this name. `bell` rings whenever there is something
    /// new in it, and says whose seat it is: each client may be the first in `most` rooms. Where `after` is given, what
    /// was said after the message of that id is told first.
    ///
    /// # Errors
    /// [`Full`] when it would be one room too many.
    pub fn join(
        &self,
        name: &RoomName,
        after: Option<u64>,
        bell: &Arc<Bell>,
        most: Option<NonZeroU32>,
    ) -> Result<Joined, Full> {
        // The seat is taken while nobody can forget the room.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.common.shares().most = most;
        if let Some(joined) = open.get(name).and_then(|room| room.join(after, bell)) {
            return Ok(joined);
        }
        if !self.common.shares().has_room(bell.client) {
            self.forget_empty_of(&mut open, bell);
        }
        if let (false, Some(most)) = (self.common.shares().has_room(bell.client), most) {
            return Err(Full::Share(most));
        }
        // Nobody was in it, and it was another's.
        if let Some(joined) = open.get(name).and_then(|room| room.join(after, bell)) {
            return Ok(joined);
        }
        if open.len() >= MOST_ROOMS {
            let empty = self.common.empty.load(Ordering::Relaxed) > 0;
            if !empty || !self.forget(&mut open, Instant::now(), Duration::ZERO) {
                return Err(Full::All);
            }
        }
        let room = Room::new(name.clone(), Arc::clone(&self.common));
        open.insert(name.clone(), Arc::clone(&room));
        self.common.rooms.store(open.len(), Ordering::Relaxed);
        room.join(after, bell).ok_or(Full::All)
    }

    /// Tells who is in a room how many they are, where that had to wait, and forgets empty rooms; until it is dropped.
    pub async fn tend(&self) {
        let mut sweep = Instant::now() + SWEEP;
        loop {
            let due = self.common.due.lock().unwrap_or_else(PoisonError::into_inner).front().map(|(at, _)| *at);
            tokio::select! {
                () = tokio::time::sleep_until(due.map_or(sweep, |due| due.min(sweep))) => {}
                () = self.common.more_due.notified() => continue,
            }
            let now = Instant::now();
            self.announce(now);
            if now >= sweep {
                sweep = now + SWEEP;
                self.sweep(now);
            }
        }
    }

    fn announce(&self, now: Instant) {
        while let Some(room) = self.next_due(now) {
            if let Some(room) = room.upgrade() {
                room.announce(now);
            }
        }
    }

    fn next_due(&self, now: Instant) -> Option<Weak<Room>> {
        let mut due = self.common.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.front()?.0 > now {
            return None;
        }
        due.pop_front().map(|(_, room)| room)
    }

    fn sweep(&self, now: Instant) {
        let patience = if self.common.share().is_some() { Duration::ZERO } else { EMPTY };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget(&mut open, now, patience);
    }

    /// Forgets the rooms in which nobody has been for so long, and says whether there were any.
    fn forget(&self, open: &mut HashMap<RoomName, Arc<Room>>, now: Instant, patience: Duration) -> bool {
        let before = open.len();
        open.retain(|_, room| {
            let stays = room.empty_for(now).is_none_or(|empty| empty < patience);
            if !stays {
                room.end();
            }
            stays
        });
        if open.capacity() > 4 * open.len() {
            open.shrink_to_fit();
        }
        self.common.rooms.store(open.len(), Ordering::Relaxed);
        open.len() < before
    }

    /// Forgets the rooms of a client in which nobody is: one that has its share makes room for itself.
    fn forget_empty_of(&self, open: &mut HashMap<RoomName, Arc<Room>>, bell: &Bell) {
        let empty = self.common.shares().empty_of(bell.client);
        for name in empty {
            if let Some(room) = open.remove(&name) {
                room.end();
            }
        }
        self.common.rooms.store(open.len(), Ordering::Relaxed);
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.open.lock().unwrap().len()
    }
}
