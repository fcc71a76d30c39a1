//! How much of all files together is held at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for, in bytes.
const UNIT: usize = 1 << 10;
/// Clients that are gone are forgotten when there are so many.
const CLIENTS: usize = 1_000;

/// A bound on memory. Who wants some of it waits for its turn, the first who asked first; one client gets no more than half
/// of it, and its turns are behind one another.
#[derive(Clone, Debug)]
pub struct Room {
    units: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<IpAddr, Weak<Semaphore>>>>,
    bytes: usize,
    /// Of one file at a time, so that what looking at one takes beside it is taken once.
    turn: Arc<Semaphore>,
}

/// A part of a [`Room`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    units: OwnedSemaphorePermit,
    /// The same of the client's half.
    own: Option<OwnedSemaphorePermit>,
    turn: Arc<Semaphore>,
}

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Room {
        Room {
            units: Arc::new(Semaphore::new(bytes / UNIT)),
            clients: Arc::default(),
            bytes,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits until there is room for `bytes`; `None` if there never is.
    pub async fn take(&self, bytes: usize) -> Option<Share> {
        self.take_for(None, bytes).await
    }

    /// The same for a client that is known by its address.
    pub async fn take_for(&self, client: Option<IpAddr>, bytes: usize) -> Option<Share> {
        if bytes > self.bytes {
            return None;
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        let own = match client {
            Some(client) => {
                let half = u32::try_from(self.half()).unwrap_or(u32::MAX);
                Some(self.client(client).acquire_many_owned(units.min(half)).await.ok()?)
            }
            None => None,
        };
        let units = Arc::clone(&self.units).acquire_many_owned(units).await.ok()?;
        Some(Share { units, own, turn: Arc::clone(&self.turn) })
    }

    fn half(&self) -> usize {
        self.bytes / UNIT / 2
    }

    fn client(&self, client: IpAddr) -> Arc<Semaphore> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS {
            clients.retain(|_, half| half.strong_count() > 0);
        }
        let known = clients.get(&client).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let half = Arc::new(Semaphore::new(self.half()));
            clients.insert(client, Arc::downgrade(&half));
            half
        })
    }

    /// How much of it is taken, in bytes.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.bytes - self.units.available_permits() * UNIT
    }
}

impl Share {
    /// Gives back all but what `bytes` need.
    pub fn keep(&mut self, bytes: usize) {
        for permit in std::iter::once(&mut self.units).chain(&mut self.own) {
            drop(permit.split(permit.num_permits().saturating_sub(bytes.div_ceil(UNIT))));
        }
    }

    /// Takes what `bytes` need out of it, or all that there is.
    #[must_use]
    pub fn part(&mut self, bytes: usize) -> Option<Share> {
        let part = |permit: &mut OwnedSemaphorePermit| permit.split(bytes.div_ceil(UNIT).min(permit.num_permits()));
        Some(Share {
            units: part(&mut self.units)?,
            own: self.own.as_mut().and_then(part),
            turn: Arc::clone(&self.turn),
        })
    }

    /// Waits for the one turn that there is at what takes memory of its own for a moment.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_finds_no_room_waits_for_it() {
        let room = Room::new(10 << 10);
        assert!(room.take((10 << 10) + 1).await.is_none());
        let mut first = room.take((8 << 10) - 1).await.unwrap();
        assert_eq!(room.taken(), 8 << 10);
        let second = room.take(5 << 10);
        tokio::pin!(second);
        assert!(second.as_mut().now_or_never().is_none());
        // Somebody who wants less does not come before.
        let third = room.take(1);
        tokio::pin!(third);
        assert!(third.as_mut().now_or_never().is_none());
        let part = first.part(3 << 10).unwrap();
        first.keep(1 << 10);
        let second = second.as_mut().now_or_never().unwrap().unwrap();
        assert_eq!(room.taken(), 10 << 10, "the third has what is left");
        drop((first, part));
        drop(third.await);
        assert_eq!(room.taken(), 5 << 10);
        drop(second);
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn one_client_leaves_half_of_it_to_others() {
        let room = Room::new(10 << 10);
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"].map(|address| Some(address.parse().unwrap()));
        let mut held = room.take_for(greedy, 4 << 10).await.unwrap();
        let waiting = room.take_for(greedy, 3 << 10);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(room.take_for(other, 5 << 10).now_or_never().is_some(), "nobody waits behind another client");
        let part = held.part(1 << 10).unwrap();
        held.keep(1 << 10);
        assert!(waiting.as_mut().now_or_never().is_some());
        drop((held, part));
        // What is more than half is had alone.
        assert!(room.take_for(greedy, 9 << 10).now_or_never().is_some());
        assert_eq!(room.taken(), 0);
    }
}
