//! One room: who is in it, what they hear, and on whose account it is.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::ring::{Ring, Said};
use super::{Common, RoomName};
use crate::chat::PersonId;

/// How many are in a room is told at most this often: with a thousand who come at once, each would be told a thousand
/// times.
const ANNOUNCEMENTS: Duration = Duration::from_secs(1);

/// Wakes whoever listens to rooms.
#[derive(Default)]
pub struct Bell {
    waker: AtomicWaker,
    /// For which client they are; nothing for one that is not limited.
    pub(super) client: Option<IpAddr>,
}

impl Bell {
    /// For somebody of this client, where it is limited.
    #[must_use]
    pub fn of(client: Option<IpAddr>) -> Bell {
        Bell { client, ..Bell::default() }
    }

    /// From now on `waker` is woken by the next ring.
    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    fn ring(&self) {
        self.waker.wake();
    }
}

/// What was said next is not kept any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Behind;

/// What who joins is told.
pub struct Joined {
    pub membership: Membership,
    /// How many are in the room now, whoever joined included.
    pub members: usize,
    /// What was said lately, or after what was asked for, the oldest first. What does not fit follows as it would have
    /// come.
    pub history: Vec<Said>,
    /// Something may have been said after what was asked for that is not kept.
    pub incomplete: bool,
}

pub(super) struct Room {
    name: RoomName,
    ring: Mutex<Ring>,
    seats: Mutex<Seats>,
    /// Grows with each announcement of how many are in the room.
    announced: AtomicU32,
    common: Arc<Common>,
    own: Weak<Room>,
}

struct Seats {
    bells: Vec<Option<Arc<Bell>>>,
    free: Vec<usize>,
    members: usize,
    /// The client that the room counts for, where it does for one.
    answerable: Option<IpAddr>,
    /// When it was last told how many there are, and whether it is about to be told.
    told: Instant,
    due: bool,
    /// When the last one left.
    emptied: Instant,
}

impl Room {
    /// A room in which nobody is yet.
    pub(super) fn new(name: RoomName, common: Arc<Common>) -> Arc<Room> {
        common.empty.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let told = now.checked_sub(ANNOUNCEMENTS).unwrap_or(now);
        let seats =
            Seats { bells: Vec::new(), free: Vec::new(), members: 0, answerable: None, told, due: false, emptied: now };
        Arc::new_cyclic(|own| Room {
            name,
            ring: Mutex::new(Ring::new(SystemTime::now())),
            seats: Mutex::new(seats),
            announced: AtomicU32::new(0),
            common,
            own: own.clone(),
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat; nothing where it would be the first, and its client has its share of rooms.
    pub(super) fn join(self: &Arc<Room>, after: Option<u64>, bell: &Arc<Bell>) -> Option<Joined> {
        let (seat, members, heard) = {
            let mut seats = self.seats();
            if seats.members == 0 && !self.begin(&mut seats, bell.client) {
                return None;
            }
            let seat = seats.take(Arc::clone(bell));
            self.members_changed(&mut seats, Some(seat));
            (seat, seats.members, self.announced.load(Ordering::Relaxed))
        };
        let (history, next, incomplete) = self.ring().history(after);
        let membership = Membership { room: Arc::clone(self), seat, next, heard };
        Some(Joined { membership, members, history, incomplete })
    }

    /// Makes `client` answerable for it, as the first who is in it.
    fn begin(&self, seats: &mut Seats, client: Option<IpAddr>) -> bool {
        let bytes = self.ring().bytes;
        let mut shares = self.common.shares();
        if client.is_some() && seats.answerable == client {
            shares.emptied(client, &self.name, false);
        } else {
            if !shares.has_room(client) {
                return false;
            }
            shares.give_back(seats.answerable, &self.name, bytes);
            shares.take(client, bytes);
            seats.answerable = client;
        }
        self.common.empty.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Makes somebody else answerable who is in it, where `gone` was and is not in it any more. Where all of them have
    /// their share, it stays as it is: two clients can't have more than two shares.
    fn pass_on(&self, seats: &mut Seats, gone: Option<IpAddr>) {
        let present = || seats.bells.iter().flatten().map(|bell| bell.client);
        if gone.is_none() || seats.answerable != gone || present().any(|client| client == gone) {
            return;
        }
        let bytes = self.ring().bytes;
        let mut shares = self.common.shares();
        let Some(next) = present().find(|client| shares.has_room(*client)) else { return };
        shares.give_back(gone, &self.name, bytes);
        shares.take(next, bytes);
        seats.answerable = next;
    }

    /// Nobody knows of it any more.
    pub(super) fn end(&self) {
        let mut seats = self.seats();
        let bytes = self.ring().bytes;
        self.common.shares().give_back(seats.answerable.take(), &self.name, bytes);
        self.common.empty.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long nobody has been in it.
    pub(super) fn empty_for(&self, now: Instant) -> Option<Duration> {
        let seats = self.seats();
        (seats.members == 0).then(|| now.saturating_duration_since(seats.emptied))
    }

    /// Tells everybody how many they are.
    pub(super) fn announce(&self, now: Instant) {
        let mut seats = self.seats();
        seats.due = false;
        self.announce_to(&mut seats, now, None);
    }

    fn announce_to(&self, seats: &mut Seats, now: Instant, but: Option<usize>) {
        seats.told = now;
        self.announced.fetch_add(1, Ordering::Relaxed);
        seats.ring(but);
    }

    fn members_changed(&self, seats: &mut Seats, by: Option<usize>) {
        if seats.due {
            return;
        }
        let now = Instant::now();
        if now - seats.told >= ANNOUNCEMENTS {
            self.announce_to(seats, now, by);
        } else {
            seats.due = true;
            self.common.announce_later(now + ANNOUNCEMENTS, self.own.clone());
        }
    }

    fn say(
        &self,
        by: PersonId,
        reference: Option<Arc<str>>,
        seat: usize,
        compose: impl FnOnce(u64, SystemTime) -> Bytes,
    ) -> u64 {
        let now = SystemTime::now();
        // Whose room it is stays so until what it keeps is counted.
        let seats = self.seats();
        let own = self.common.shares().keeps(seats.answerable);
        let id = {
            let mut ring = self.ring();
            let id = ring.next_id(now);
            let said = Said { id, frame: compose(id, now), by, reference };
            let share = [own, self.common.share()].into_iter().flatten().min();
            let (grown, gone) = ring.push(said, share);
            self.common.bytes.fetch_add(grown, Ordering::Relaxed);
            self.common.bytes.fetch_sub(gone, Ordering::Relaxed);
            self.common.shares().kept(seats.answerable, grown, gone);
            id
        };
        seats.ring(Some(seat));
        id
    }

    fn leave(&self, seat: usize) {
        let mut seats = self.seats();
        let gone = seats.leave(seat);
        if seats.members > 0 {
            self.members_changed(&mut seats, None);
            self.pass_on(&mut seats, gone);
        } else {
            self.common.empty.fetch_add(1, Ordering::Relaxed);
            self.common.shares().emptied(seats.answerable, &self.name, true);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let bytes = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner).bytes;
        self.common.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Seats {
    fn take(&mut self, bell: Arc<Bell>) -> usize {
        self.members += 1;
        if let Some(seat) = self.free.pop() {
            self.bells[seat] = Some(bell);
            return seat;
        }
        self.bells.push(Some(bell));
        self.bells.len() - 1
    }

    /// Gives a seat up, and says whose it was.
    fn leave(&mut self, seat: usize) -> Option<IpAddr> {
        let bell = self.bells[seat].take();
        self.members -= 1;
        if self.members == 0 {
            self.emptied = Instant::now();
            // What a crowd took is given back.
            (self.bells, self.free) = (Vec::new(), Vec::new());
        } else {
            self.free.push(seat);
        }
        bell.and_then(|bell| bell.client)
    }

    fn ring(&self, but: Option<usize>) {
        for (seat, bell) in self.bells.iter().enumerate() {
            if let Some(bell) = bell.as_ref().filter(|_| Some(seat) != but) {
                bell.ring();
            }
        }
    }
}

/// A seat in a room, with what its holder has heard so far. It is given up when it is dropped.
pub struct Membership {
    room: Arc<Room>,
    seat: usize,
    /// The place of the next message to hear.
    next: u64,
    /// The last announcement that was heard of how many there are.
    heard: u32,
}

impl Membership {
    /// Says something in the room, and returns its id. `compose` makes what everybody is sent out of the id and the
    /// time. The bell of this seat does not ring for it.
    pub fn say(
        &self,
        by: PersonId,
        reference: Option<Arc<str>>,
        compose: impl FnOnce(u64, SystemTime) -> Bytes,
    ) -> u64 {
        self.room.say(by, reference, self.seat, compose)
    }

    /// What was said next, if something was.
    ///
    /// # Errors
    /// [`Behind`] when that is not kept any more.
    pub fn hear(&mut self) -> Result<Option<Said>, Behind> {
        let ring = self.room.ring();
        let Some(index) = self.next.checked_sub(ring.first) else { return Err(Behind) };
        let said = usize::try_from(index).ok().and_then(|index| ring.said.get(index)).cloned();
        self.next += u64::from(said.is_some());
        Ok(said)
    }

    /// How many are in the room, if that was announced since it was last asked.
    pub fn members(&mut self) -> Option<usize> {
        let announced = self.room.announced.load(Ordering::Relaxed);
        if announced == self.heard {
            return None;
        }
        self.heard = announced;
        Some(self.room.seats().members)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.room.leave(self.seat);
    }
}
