//! Where conversations are kept for longer than a process lives.

use std::any::Any;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use thiserror::Error;

use super::record::{Conversation, ConversationId, Cursor, Exchange, Person, Summary};
use crate::chat::PersonId;

/// A database of conversations. What is told or asked of it is done in that order. It never holds up an answer: what
/// is told it waits elsewhere, and what is asked of it has a time-out.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Takes down what `record` has, in a moment: a conversation that is not there begins with it, exchanges that are
    /// there are replaced. Somebody else's conversation stays as it is. Returns whether there is room for so much to
    /// wait.
    fn put(&self, record: Record) -> bool;

    /// Whether so much waits to be taken down that whoever has more had better wait.
    fn pressed(&self) -> bool;

    /// Completes when that is not so any more.
    async fn relieved(&self);

    /// The same as [`Archive::put`] for what is put again in a moment: it is only taken where little waits.
    fn note(&self, record: Record) -> Option<Pending>;

    /// The newest exchanges of this person's conversation that fit into so many bytes, and one at least.
    async fn last(&self, person: &PersonId, id: ConversationId, bytes: usize) -> Found<Option<Conversation>>;

    /// The next exchanges after the one with the number `after` that fit into so many bytes, and one at least.
    async fn next(&self, person: &PersonId, id: ConversationId, after: u64, bytes: usize) -> Found<Vec<Exchange>>;

    /// The exchange that was asked for with this key.
    async fn asked(&self, person: &PersonId, id: ConversationId, key: &str) -> Found<Option<Exchange>>;

    /// Those conversations at the place of this one that were continued last, at most `most` of them, and whose they are.
    async fn at_place(&self, id: ConversationId, most: u32) -> Found<Vec<(PersonId, ConversationId)>>;

    /// The conversation that began with this key.
    async fn begun(&self, person: &PersonId, key: &str) -> Found<Option<ConversationId>>;

    /// This person's conversations that come after `after`, the latest first, at most `most` of them.
    async fn list(&self, person: &PersonId, after: Option<Cursor>, most: u32) -> Found<Vec<Summary>>;

    /// Forgets one conversation of this person, or all of them, and leaves no text of it behind. Returns whether there
    /// was anything.
    async fn erase(&self, person: &PersonId, id: Option<ConversationId>) -> Found<bool>;

    /// Those who were heard of last, at most `most` of them, the latest first, and how many there are in all.
    async fn people(&self, most: u32) -> Found<(Vec<Person>, u64)>;

    /// Whether all that was kept is in reach; where it is not, what is not found may be there all the same.
    fn complete(&self) -> bool;

    /// A number that changes when what was put before may be gone.
    fn epoch(&self) -> u64;

    /// What was last continued before this moment, in milliseconds since 1970, is kept no longer.
    fn horizon(&self) -> u64;
}

/// The archive can't say: it does not answer, or a part of it is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the history can't be read at the moment")]
pub struct Unavailable;

/// What an archive has of something.
pub type Found<T> = Result<T, Unavailable>;

/// Something that an archive has taken, and that may wait to be written down.
#[derive(Clone, Debug)]
pub struct Pending(Weak<dyn Any + Send + Sync>);

impl Pending {
    /// What waits for as long as somebody holds `what`.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(what: &Arc<T>) -> Self {
        let what = Arc::downgrade(what);
        Pending(what)
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Default for Pending {
    /// Nothing, which waits no more.
    fn default() -> Self {
        Pending(Weak::<()>::new())
    }
}

/// Something to be taken down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: ConversationId,
    pub person: PersonId,
    /// By which whoever began the conversation knows it again.
    pub key: Option<Arc<str>>,
    /// Milliseconds since 1970 at which it was last continued.
    pub updated: u64,
    /// It is all there is of somebody who may never come back.
    pub fleeting: bool,
    pub exchanges: Vec<Exchange>,
}

impl Record {
    /// How much text is in it, in bytes.
    #[must_use]
    pub fn text(&self) -> usize {
        self.exchanges.iter().map(Exchange::text).sum()
    }
}
