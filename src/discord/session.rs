//! The gateway session: what it takes to resume it, and how far its events have been dealt with.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::event::MessageId;
pub use crate::store::Saved as Session;
use crate::store::{SessionOwner, Sessions};

/// So many answered messages are remembered, so that a replay does not answer one again.
const ANSWERED: usize = 4_096;

/// An event of one session: the numbers begin anew with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    session: u64,
    sequence: u64,
}

/// The one session. It outlives a panic of the service, and by way of [`Sessions`] the process.
pub struct SessionStore {
    kept: Mutex<Kept>,
    sessions: Sessions,
}

#[derive(Default)]
struct Kept {
    owner: Option<SessionOwner>,
    /// Its sequence is that of the last event taken.
    session: Option<Session>,
    /// How many sessions there were before.
    number: u64,
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
    pub fn new(sessions: Sessions) -> SessionStore {
        SessionStore { kept: Mutex::default(), sessions }
    }

    /// Goes over to the session that `owner` left behind, if there is one. That of whoever was before stays where it is
    /// saved.
    pub async fn adopt(&self, owner: SessionOwner) {
        let session = self.sessions.find(owner).await;
        let mut kept = self.kept();
        kept.begin_anew();
        kept.owner = Some(owner);
        kept.session = session;
    }

    /// A new session began.
    pub fn open(&self, session: Session) {
        let mut kept = self.kept();
        kept.begin_anew();
        kept.session = Some(session);
        self.save(&kept);
    }

    /// The bot is in these guilds now.
    pub fn guilds(&self, guilds: Vec<u64>) {
        let mut kept = self.kept();
        if let Some(session) = &mut kept.session {
            session.guilds = guilds;
        }
        // It is saved with the event that says so.
    }

    /// The session can't be resumed any more.
    pub fn forget(&self) {
        let mut kept = self.kept();
        kept.begin_anew();
        kept.session = None;
        self.save(&kept);
    }

    /// Saves the session as a new process has to resume it: from before the first event that is not dealt with.
    fn save(&self, kept: &Kept) {
        let Some(owner) = kept.owner else { return };
        let mut session = kept.session.clone();
        if let (Some(session), Some(first)) = (&mut session, kept.unfinished.first()) {
            session.sequence = session.sequence.min(first - 1);
        }
        self.sessions.save(owner, session);
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
        let mut kept = self.kept();
        if let Some(session) = &mut kept.session {
            session.sequence = sequence;
        }
        self.save(&kept);
    }

    /// The event `sequence` of the session that is open.
    pub fn event(&self, sequence: u64) -> EventId {
        EventId { session: self.kept().number, sequence }
    }

    /// The event `event` is being dealt with until [`finished`](Self::finished).
    pub fn begun(&self, event: EventId) {
        let mut kept = self.kept();
        if event.session == kept.number {
            kept.unfinished.insert(event.sequence);
        }
    }

    /// The event `event` is dealt with for good.
    pub fn finished(&self, event: EventId) {
        let mut kept = self.kept();
        // One of a session that is over says nothing of this one.
        if event.session == kept.number {
            kept.unfinished.remove(&event.sequence);
            self.save(&kept);
        }
    }

    /// `message` is dealt with for good.
    pub fn done(&self, message: MessageId) {
        self.kept().answered.insert(message);
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
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn begin_anew(&mut self) {
        self.number += 1;
        self.unfinished.clear();
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
    use crate::store::Store;

    fn owner() -> SessionOwner {
        SessionOwner { bot: 1, intents: 1, shard: 0, shards: 1, token_mark: 1 }
    }

    #[tokio::test]
    async fn what_is_saved_is_before_the_first_unfinished_event() {
        let memory = Store::in_memory();
        let store = SessionStore::new(memory.sessions());
        store.adopt(owner()).await;
        store.open(Session { id: "a".to_owned(), sequence: 1, ..Session::default() });
        for sequence in 2..=6 {
            if sequence > 3 {
                store.begun(store.event(sequence));
            }
            store.taken(sequence);
        }
        store.finished(store.event(5));
        let saved = async || memory.sessions().find(owner()).await.map(|session| session.sequence);
        assert_eq!(saved().await, Some(3));
        store.finished(store.event(4));
        assert_eq!(saved().await, Some(5));
        store.finished(store.event(6));
        assert_eq!(saved().await, Some(6));

        store.adopt(SessionOwner { bot: 2, ..owner() }).await;
        assert!(store.session().is_none());
        store.adopt(owner()).await;
        assert_eq!(store.session().unwrap().sequence, 6);
        store.forget();
        assert_eq!(saved().await, None);
    }

    #[test]
    fn a_rewind_goes_before_the_first_unfinished_event() {
        let store = SessionStore::new(Store::in_memory().sessions());
        store.rewind();
        store.open(Session { id: "a".to_owned(), sequence: 1, ..Session::default() });
        for sequence in 2..=6 {
            store.taken(sequence);
        }
        store.begun(store.event(3));
        store.begun(store.event(5));
        store.finished(store.event(3));
        store.done(MessageId::new(30));
        assert_eq!(store.session().unwrap().sequence, 6);
        store.rewind();
        assert_eq!(store.session().unwrap().sequence, 4);
        assert!(store.answered(MessageId::new(30)) && !store.answered(MessageId::new(50)));
        store.forget();
        assert!(store.session().is_none());
    }

    #[tokio::test]
    async fn an_event_of_an_earlier_session_finishes_none_of_this_one() {
        let memory = Store::in_memory();
        let store = SessionStore::new(memory.sessions());
        store.adopt(owner()).await;
        let session = |id: &str| Session { id: id.to_owned(), sequence: 1, ..Session::default() };
        store.open(session("a"));
        let old = store.event(2);
        store.begun(old);
        store.taken(2);
        store.open(session("b"));
        store.begun(store.event(2));
        store.taken(2);
        store.finished(old);
        store.taken(3);
        assert_eq!(memory.sessions().find(owner()).await.map(|session| session.sequence), Some(1));
    }

    #[test]
    fn only_so_many_answers_are_remembered() {
        let store = SessionStore::new(Store::in_memory().sessions());
        for id in 1..=2 * ANSWERED as u64 {
            store.done(MessageId::new(id));
        }
        assert_eq!(store.kept().answered.set.len(), ANSWERED);
        assert!(!store.answered(MessageId::new(1)));
    }
}
