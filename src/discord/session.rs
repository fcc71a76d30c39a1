//! The gateway session: what it takes to resume it, and how far its events have been dealt with.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::event::MessageId;

/// So many answered messages are remembered, so that a replay does not answer one again.
const ANSWERED: usize = 4_096;

/// What RESUME needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    /// The last event dealt with.
    pub sequence: u64,
    pub resume_url: String,
}

/// The one session, kept in memory. It outlives a panic of the service.
#[derive(Default)]
pub struct SessionStore(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    session: Option<Session>,
    /// Events that were taken from the gateway and not yet dealt with.
    unfinished: BTreeSet<u64>,
    answered: Answered,
}

#[derive(Default)]
struct Answered {
    order: VecDeque<MessageId>,
    set: HashSet<MessageId>,
}

impl SessionStore {
    /// A new session began.
    pub fn open(&self, session: Session) {
        let mut kept = self.kept();
        kept.unfinished.clear();
        kept.session = Some(session);
    }

    /// The session can't be resumed any more.
    pub fn forget(&self) {
        let mut kept = self.kept();
        kept.unfinished.clear();
        kept.session = None;
    }

    /// The session to resume on the next connection: whatever was taken is in this process' hands.
    pub fn session(&self) -> Option<Session> {
        self.kept().session.clone()
    }

    /// Goes back to before the first event that was not dealt with, as whoever had it in hand is gone.
    pub fn rewind(&self) {
        let mut kept = self.kept();
        let first = kept.unfinished.pop_first();
        kept.unfinished.clear();
        if let (Some(first), Some(session)) = (first, &mut kept.session) {
            session.sequence = session.sequence.min(first - 1);
        }
    }

    /// The event `sequence` was taken from the gateway.
    pub fn taken(&self, sequence: u64) {
        if let Some(session) = &mut self.kept().session {
            session.sequence = sequence;
        }
    }

    /// The event `sequence` is being dealt with until [`finished`](Self::finished).
    pub fn begun(&self, sequence: u64) {
        self.kept().unfinished.insert(sequence);
    }

    /// The event `sequence`, which brought `message`, is dealt with for good.
    pub fn finished(&self, sequence: u64, message: MessageId) {
        let mut kept = self.kept();
        kept.unfinished.remove(&sequence);
        kept.answered.insert(message);
    }

    /// Whether `message` was dealt with before.
    pub fn answered(&self, message: MessageId) -> bool {
        self.kept().answered.set.contains(&message)
    }

    /// Whether anything taken is not dealt with yet.
    #[cfg(test)]
    pub fn busy(&self) -> bool {
        !self.kept().unfinished.is_empty()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answered {
    fn insert(&mut self, message: MessageId) {
        if self.set.insert(message) {
            self.order.push_back(message);
        }
        if self.order.len() > ANSWERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewind_goes_before_the_first_unfinished_event() {
        let store = SessionStore::default();
        store.rewind();
        store.open(Session { id: "a".to_owned(), sequence: 1, resume_url: String::new() });
        for sequence in 2..=6 {
            store.taken(sequence);
        }
        store.begun(3);
        store.begun(5);
        store.finished(3, MessageId::new(30));
        assert_eq!(store.session().unwrap().sequence, 6);
        store.rewind();
        assert_eq!(store.session().unwrap().sequence, 4);
        assert!(store.answered(MessageId::new(30)) && !store.answered(MessageId::new(50)));
        store.forget();
        assert!(store.session().is_none());
    }

    #[test]
    fn only_so_many_answers_are_remembered() {
        let store = SessionStore::default();
        for id in 1..=2 * ANSWERED as u64 {
            store.finished(id, MessageId::new(id));
        }
        assert_eq!(store.kept().answered.set.len(), ANSWERED);
        assert!(!store.answered(MessageId::new(1)));
    }
}
