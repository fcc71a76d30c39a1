//! How much of all bodies together is held while they come, and what is given back when many have come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::http::problem::Problem;
use crate::http::router::App;
use crate::os;

/// How much of all bodies together is held while they come, in bytes, files included: a host has 1 GiB of memory.
pub const BODIES: usize = 64 << 20;
/// And of one client's, in bytes: with half of the files' room beside it, others have more than a third. The largest body
/// that can be configured fits.
const SHARE: usize = BODIES / 4;
/// So much of each body is not counted: whoever says little is heard, however much others send.
const UNCOUNTED: usize = 4 << 10;
/// When so much was held at once, in bytes, memory is given back once that is over.
const FLOOD: usize = 4 << 20;
/// It is over when nothing was held for so long.
const CALM: Duration = Duration::from_secs(2);

/// Who holds how much, and whether memory is to be given back.
#[derive(Default)]
pub struct Flood {
    /// In bytes; who holds nothing is not in it.
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// The most that was held since memory was given back.
    peak: AtomicUsize,
    over: Notify,
}

impl Flood {
    /// Gives memory back when a flood of bodies is over: the allocator keeps small blocks, and whatever lies between them,
    /// until somebody asks. It does not end.
    pub async fn give_back(&self) {
        loop {
            self.over.notified().await;
            // The last body is read; its answer, and what its connection reads into, are still there.
            while tokio::time::timeout(CALM, self.over.notified()).await.is_ok() {}
            self.peak.store(0, Ordering::Relaxed);
            // It looks at all memory, some milliseconds for each 100 MiB. It has nothing to fail with.
            drop(tokio::task::spawn_blocking(os::give_back_memory).await);
            sleep(CALM).await;
        }
    }

    /// Adds to what a client holds, and says whether it may.
    fn grow(&self, client: IpAddr, by: usize) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let held = clients.entry(client).or_default();
        *held += by;
        *held <= SHARE
    }

    fn shrink(&self, client: IpAddr, by: usize) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = clients.get_mut(&client) {
            *held = held.saturating_sub(by);
            if *held == 0 {
                clients.remove(&client);
            }
        }
    }
}

/// One request's share of what all bodies together may hold, given back when it ends.
pub struct Held<'a> {
    app: &'a App,
    /// Whoever is limited as one.
    client: Option<IpAddr>,
    bytes: usize,
}

impl Held<'_> {
    pub fn new(app: &App, client: Option<IpAddr>) -> Held<'_> {
        Held { app, client, bytes: 0 }
    }

    /// Counts what came.
    ///
    /// # Errors
    /// It is more than there is room for.
    pub fn grow(&mut self, by: usize) -> Result<(), Problem> {
        let counted = self.counted();
        self.bytes += by;
        let by = self.counted() - counted;
        if by == 0 {
            return Ok(());
        }
        let all = self.app.bodies.fetch_add(by, Ordering::Relaxed) + by;
        self.app.flood.peak.fetch_max(all, Ordering::Relaxed);
        let own = self.client.is_none_or(|client| self.app.flood.grow(client, by));
        if !own || all + self.app.room.taken() > BODIES {
            let detail = "too many large requests are coming in at the moment; try again shortly";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(CALM));
        }
        Ok(())
    }

    fn counted(&self) -> usize {
        self.bytes.saturating_sub(UNCOUNTED)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let counted = self.counted();
        if counted == 0 {
            return;
        }
        if let Some(client) = self.client {
            self.app.flood.shrink(client, counted);
        }
        self.app.bodies.fetch_sub(counted, Ordering::Relaxed);
        if self.app.flood.peak.load(Ordering::Relaxed) >= FLOOD {
            self.app.flood.over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_a_share_and_others_have_theirs() {
        let flood = Flood::default();
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        assert!(flood.grow(greedy, SHARE));
        assert!(!flood.grow(greedy, 1));
        assert!(flood.grow(other, SHARE));
        flood.shrink(greedy, 2);
        assert!(flood.grow(greedy, 1));
        flood.shrink(greedy, SHARE);
        flood.shrink(other, SHARE);
        assert!(flood.clients.lock().unwrap().is_empty(), "who holds nothing is forgotten");
    }
}
