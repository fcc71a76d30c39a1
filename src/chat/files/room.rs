//! How much of all files together is held at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for, in bytes.
const UNIT: usize = 1 << 10;

/// A bound on memory. Who wants some of it waits for its turn, the first who asked first.
#[derive(Clone, Debug)]
pub struct Room {
    units: Arc<Semaphore>,
    bytes: usize,
}

/// A part of a [`Room`], given back when it is dropped.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Room {
        Room { units: Arc::new(Semaphore::new(bytes / UNIT)), bytes }
    }

    /// Waits until there is room for `bytes`; `None` if there never is.
    pub async fn take(&self, bytes: usize) -> Option<Share> {
        if bytes > self.bytes {
            return None;
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        Arc::clone(&self.units).acquire_many_owned(units).await.ok().map(Share)
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
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(UNIT));
        drop(self.0.split(surplus));
    }

    /// Takes what `bytes` need out of it, or all that there is.
    #[must_use]
    pub fn part(&mut self, bytes: usize) -> Option<Share> {
        self.0.split(bytes.div_ceil(UNIT).min(self.0.num_permits())).map(Share)
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
}
