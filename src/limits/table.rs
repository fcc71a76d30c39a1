//! Who has used how much: bounded, and shared by all threads.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

use super::used::Used;
use crate::config::limits::Allowance;

/// So many threads can ask at once without waiting for one another, about.
const SHARDS: usize = 16;
/// The most clients that one shard knows: with all, some 57,000 clients in 4 MiB. It is what a hash table of 4,096
/// buckets holds.
const MOST_EACH: usize = 3_584;
/// How often those who have used nothing for long are forgotten, in nanoseconds.
const SWEEP: u64 = 60_000_000_000;

/// What each of many clients has used. Clients are known by a keyed hash: nobody can choose one that another has, and
/// nothing of them is kept.
pub struct Table {
    key: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    clients: HashMap<u64, Used, BuildHasherDefault<Hashed>>,
    swept: u64,
}

impl Default for Table {
    fn default() -> Self {
        Table { key: RandomState::new(), shards: Default::default() }
    }
}

impl Table {
    /// Reads and changes what `client` has used as of `now`, in nanoseconds since perch started.
    pub fn with<T>(
        &self,
        client: &(impl Hash + ?Sized),
        now: u64,
        allowance: &Allowance,
        act: impl FnOnce(&mut Used) -> T,
    ) -> T {
        let hash = self.key.hash_one(client);
        // Bits that the hash table makes no use of: it goes by the lowest and the highest.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(shard.swept) > SWEEP {
            shard.sweep(allowance, now);
        }
        if !shard.clients.contains_key(&hash) && shard.clients.len() >= MOST_EACH {
            shard.make_room(allowance, now);
        }
        let used = shard.clients.entry(hash).or_default();
        used.settle(allowance, now);
        act(used)
    }
}

#[cfg(test)]
impl Table {
    /// How many clients it knows.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no test panics in there").clients.len()).sum()
    }
}

impl Shard {
    /// Forgets those who have nothing to be remembered for.
    fn sweep(&mut self, allowance: &Allowance, now: u64) {
        self.swept = now;
        self.clients.retain(|_, used| {
            used.settle(allowance, now);
            used.share(allowance) > 0.0
        });
        if self.clients.len() < self.clients.capacity() / 4 {
            self.clients.shrink_to_fit();
        }
    }

    /// Forgets the half that has used least. A flood of addresses makes room for itself so, and whoever is near a limit
    /// stays known.
    fn make_room(&mut self, allowance: &Allowance, now: u64) {
        self.sweep(allowance, now);
        if self.clients.len() < MOST_EACH / 2 {
            return;
        }
        let mut shares: Vec<f64> = self.clients.values().map(|used| used.share(allowance)).collect();
        let middle = shares.len() / 2;
        let (_, &mut median, _) = shares.select_nth_unstable_by(middle, f64::total_cmp);
        self.clients.retain(|_, used| used.share(allowance) > median);
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
