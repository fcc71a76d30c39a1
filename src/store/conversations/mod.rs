//! What people said and what they were answered, until it is too old, too much, or deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Store;
use crate::chat::PersonId;
use crate::chat::history::{
    Archive, Conversation, ConversationId, Cursor, Exchange, Found, Pending, Person, Record, Summary, Unavailable, now,
};
use async_trait::async_trait;

mod carry;
mod prune;
mod rows;
#[cfg(test)]
mod tests;

pub(super) use carry::carry;
pub(super) use prune::{prune, too_much};

use prune::{give_up_of, sweep};

/// What [`file`](super::file) makes of it.
pub(super) const TABLES: &str = "
    CREATE TABLE person (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        updated INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX person_updated ON person (updated);
    -- What was erased belongs to nobody, 0, until all of it is gone.
    CREATE TABLE conversation (
        number INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        person INTEGER NOT NULL,
        key TEXT,
        updated INTEGER NOT NULL,
        fleeting INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX conversation_person ON conversation (person, updated, id);
    CREATE INDEX conversation_key ON conversation (person, key) WHERE key IS NOT NULL;
    CREATE INDEX conversation_age ON conversation (fleeting, updated);
    CREATE TABLE exchange (
        conversation INTEGER NOT NULL,
        number INTEGER NOT NULL,
        key TEXT,
        state INTEGER NOT NULL,
        answered INTEGER NOT NULL,
        -- See `padding`.
        padding BLOB NOT NULL,
        attachments TEXT,
        question TEXT NOT NULL,
        answer TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX exchange_number ON exchange (conversation, number);
";

/// What may wait to be written, in bytes; a disk that is slower than people write costs memory of them, and not memory.
const WAITING: usize = 4 << 20;
/// From how much on whoever writes waits a little.
const PRESSED: usize = 2 << 20;
/// And where it is put again in a moment.
const NOTES: usize = 1 << 20;
/// What a record takes beside its text, in bytes, about.
const RECORD: usize = 512;
/// What a database in memory may take, in bytes.
const IN_MEMORY: u64 = 24 << 20;
/// No longer than this goes into pruning while others wait.
pub(super) const PRUNING: Duration = Duration::from_millis(20);

/// Conversations in the store.
#[derive(Clone, Debug)]
pub struct Conversations(pub(super) Store);

/// What the owner of the database and those who ask it tell each other aside from orders.
#[derive(Debug, Default)]
pub(super) struct Shared {
    waiting: Arc<Queue>,
    /// The database is not the one that was kept.
    partial: AtomicBool,
    /// Counts the databases that were used.
    epoch: AtomicU64,
    limits: Limits,
}

/// How long and how much is kept.
#[derive(Debug)]
struct Limits {
    /// In milliseconds.
    keep: AtomicU64,
    /// In bytes.
    max_size: AtomicU64,
}

impl Default for Limits {
    fn default() -> Limits {
        // Until a configuration says otherwise.
        Limits { keep: AtomicU64::new(u64::MAX), max_size: AtomicU64::new(u64::MAX) }
    }
}

impl Shared {
    /// Another database is in use, which is `partial` where it lacks what the one in the file has.
    pub fn turn(&self, partial: bool) {
        self.partial.store(partial, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    pub fn retain(&self, keep: Option<Duration>, max_size: u64) {
        let keep = keep.map_or(u64::MAX, |keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        self.limits.keep.store(keep, Ordering::Relaxed);
        self.limits.max_size.store(max_size, Ordering::Relaxed);
    }

    /// What was last continued before this moment, in milliseconds since 1970, is kept no longer.
    fn horizon(&self) -> u64 {
        match self.limits.keep.load(Ordering::Relaxed) {
            u64::MAX => 0,
            keep => now().saturating_sub(keep),
        }
    }

    /// How often it is looked for what is too old: some of the time that it is kept may pass, and no more.
    pub fn pace(&self) -> Duration {
        let keep = Duration::from_millis(self.limits.keep.load(Ordering::Relaxed));
        (keep / 10).clamp(Duration::from_secs(1), Duration::from_hours(1))
    }

    /// How much a database may take, in bytes.
    fn room(&self, on_disk: bool) -> u64 {
        let room = self.limits.max_size.load(Ordering::Relaxed);
        if on_disk { room } else { room.min(IN_MEMORY) }
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Queue {
    /// In bytes.
    waiting: AtomicUsize,
    /// Less than [`PRESSED`] waits again.
    relieved: Notify,
}

/// A share of what may wait, until it is dropped.
struct Waiting(Arc<Queue>, usize);

impl Drop for Waiting {
    fn drop(&mut self) {
        let Waiting(queue, size) = self;
        let before = queue.waiting.fetch_sub(*size, Ordering::AcqRel);
        if before >= PRESSED && before - *size < PRESSED {
            queue.relieved.notify_waiters();
        }
    }
}

impl Conversations {
    /// Has it written down, unless so much waits already.
    fn take(&self, record: Record, most: usize) -> Option<Pending> {
        let size = record.text() + RECORD;
        let waiting = &self.0.0.conversations.waiting;
        let before = waiting.waiting.fetch_add(size, Ordering::AcqRel);
        let share = Arc::new(Waiting(Arc::clone(waiting), size));
        if before > 0 && before + size > most {
            return None;
        }
        let pending = Pending::with(&share);
        self.0.tell(move |db| {
            let _held = &share;
            rows::put(db, &record)
        });
        Some(pending)
    }
}

#[async_trait]
impl Archive for Conversations {
    fn put(&self, record: Record) -> bool {
        self.take(record, WAITING).is_some()
    }

    fn pressed(&self) -> bool {
        self.0.0.conversations.waiting.waiting.load(Ordering::Acquire) >= PRESSED
    }

    async fn relieved(&self) {
        let queue = &self.0.0.conversations.waiting;
        let relieved = queue.relieved.notified();
        tokio::pin!(relieved);
        // From here on nothing is missed.
        relieved.as_mut().enable();
        if self.pressed() {
            relieved.await;
        }
    }

    fn note(&self, record: Record) -> Option<Pending> {
        self.take(record, NOTES)
    }

    async fn last(&self, person: &PersonId, id: ConversationId, bytes: usize) -> Found<Option<Conversation>> {
        let person = person.clone();
        self.0.ask(false, move |db| rows::last(db, &person, id, bytes)).await.ok_or(Unavailable)
    }

    async fn next(&self, person: &PersonId, id: ConversationId, after: u64, bytes: usize) -> Found<Vec<Exchange>> {
        let person = person.clone();
        self.0.ask(false, move |db| rows::next(db, &person, id, after, bytes)).await.ok_or(Unavailable)
    }

    async fn asked(&self, person: &PersonId, id: ConversationId, key: &str) -> Found<Option<Exchange>> {
        let (person, key) = (person.clone(), key.to_owned());
        self.0.ask(false, move |db| rows::asked(db, &person, id, &key)).await.ok_or(Unavailable)
    }

    async fn at_place(&self, id: ConversationId, most: u32) -> Found<Vec<(PersonId, ConversationId)>> {
        self.0.ask(false, move |db| rows::at_place(db, id, most)).await.ok_or(Unavailable)
    }

    async fn begun(&self, person: &PersonId, key: &str) -> Found<Option<ConversationId>> {
        let (person, key) = (person.clone(), key.to_owned());
        self.0.ask(false, move |db| rows::begun(db, &person, &key)).await.ok_or(Unavailable)
    }

    async fn list(&self, person: &PersonId, after: Option<Cursor>, most: u32) -> Found<Vec<Summary>> {
        let person = person.clone();
        self.0.ask(false, move |db| rows::list(db, &person, after, most)).await.ok_or(Unavailable)
    }

    async fn erase(&self, person: &PersonId, id: Option<ConversationId>) -> Found<bool> {
        let person = person.clone();
        let found = self.0.ask(false, move |db| give_up_of(db, &person, id)).await.ok_or(Unavailable)?;
        // Others get their turn between two steps.
        while self.0.ask(false, sweep).await.ok_or(Unavailable)? {}
        if found {
            self.0.scrub().await.ok_or(Unavailable)?;
        }
        if !self.complete() {
            return Err(Unavailable);
        }
        Ok(found)
    }

    async fn people(&self, most: u32) -> Found<(Vec<Person>, u64)> {
        self.0.ask(false, move |db| rows::people(db, most)).await.ok_or(Unavailable)
    }

    fn complete(&self) -> bool {
        !self.0.0.conversations.partial.load(Ordering::Acquire)
    }

    fn epoch(&self) -> u64 {
        self.0.0.conversations.epoch.load(Ordering::Acquire)
    }

    fn horizon(&self) -> u64 {
        self.0.0.conversations.horizon()
    }
}
