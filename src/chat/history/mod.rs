//! What was said: whose it is, what a model is told of it, and what is kept.
//!
//! ```text
//!  question ──► ask ──► room (what is at hand) ──► earlier turns ──► responder
//!                         ▲  │ each change, in a moment
//!              not at hand│  ▼
//!                        archive (a database) ◄── list, read, export, erase
//! ```
//!
//! An answer waits for the archive a moment at most: where a conversation can't be looked up in that time, the answer is
//! given without what was said before, and where the archive can't take down as much as people say, it stays in the room
//! until it can.

use std::convert::Infallible;
use std::future::pending;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Ending, PersonId, Turn};

mod allowance;
mod archive;
mod export;
mod held;
mod record;
mod room;
#[cfg(test)]
mod tests;
mod unwritten;

pub use archive::{Archive, Found, Pending, Record, Unavailable};
pub use export::Export;
pub use record::{
    Attachment, Conversation, ConversationId, Cursor, Exchange, Message, NotAnId, Person, State, Summary, now, shown,
    title,
};

use held::{Place, ROOM_EACH};
use room::{Beginning, Begun, Room, Standing};

/// What a database that is slow to answer may hold up an answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// Of how many people who speak at one place it is known what they said: those who spoke last.
const PLACE: u32 = 20;
/// How much of a conversation is read at once, in bytes.
const READ: usize = 4 << 20;
/// How soon it is tried again to write down what the database had no room for.
const CATCH_UP: Duration = Duration::from_millis(200);
/// How often it is written down what was said so far of an answer: so much of it a crash can lose.
const NOTE_PACE: Duration = Duration::from_secs(1);

/// Every conversation.
pub struct History {
    room: Mutex<Room>,
    archive: Arc<dyn Archive>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    pub person: PersonId,
    /// They were not known before this request, so there is nothing of theirs.
    pub newcomer: bool,
    /// As whom limits know where they come from, if they do.
    pub client: Option<IpAddr>,
}

/// Which conversation a question belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// A new one, or the one that began with the question's key.
    New,
    /// One that is there.
    Existing(ConversationId),
    /// The one with this id, which begins if it is not there.
    Own(ConversationId),
    /// The same, and what others said at the same [`ConversationId::place`] goes before the question as well.
    Shared(ConversationId),
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub text: Arc<str>,
    pub attachments: Arc<[Attachment]>,
    /// By which the person knows it again, if it has to be sent once more; at most 64 bytes.
    pub key: Option<Arc<str>>,
}

/// What becomes of a question.
pub enum Asked {
    /// It was answered before.
    Before { conversation: ConversationId, message: u64, answer: String, ending: Ending },
    /// It is to be answered.
    Now(Asking),
}

/// Why a question is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unasked {
    /// This person has no such conversation.
    #[error("there is no such conversation")]
    NoSuchConversation,
    /// The question's key is that of another one.
    #[error("another question came with this key")]
    AnotherQuestion,
}

impl History {
    /// What `archive` keeps, and what comes to it.
    #[must_use]
    pub fn new(archive: Arc<dyn Archive>) -> Arc<History> {
        Arc::new(History { room: Mutex::default(), archive })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a question in, and finds the last `turns` turns that went before it. A question whose key is known is not
    /// asked twice: where it was answered, that is the answer; an answer that is under way is given up, and like one
    /// that failed or was stopped it is made anew in its place. In a conversation that is its person's own by name, it may
    /// have been changed since.
    ///
    /// # Errors
    /// Where the conversation is not this person's, whether there is one or not; and where the key is another question's.
    pub async fn ask(
        self: &Arc<Self>,
        asker: &Asker,
        which: Which,
        question: Question,
        turns: usize,
    ) -> Result<Asked, Unasked> {
        // Before anything is looked up, as it may be gone after that.
        if self.archive.pressed() {
            // However many there are who write, what they say is taken down as fast as they say it.
            drop(timeout(PATIENCE, self.archive.relieved()).await);
        }
        let id = match (which, asker.newcomer) {
            (Which::New, true) => None,
            (Which::New, false) => self.begun(&asker.person, question.key.as_ref()).await,
            (Which::Existing(_), true) => return Err(Unasked::NoSuchConversation),
            (Which::Existing(id), false) | (Which::Own(id) | Which::Shared(id), _) => Some(id),
        };
        let mut beginning =
            Beginning { asker, question, id, which, new: id.is_none(), doubtful: false, known: None, turns };
        if let Some(id) = id {
            match self.recall(&asker.person, id).await {
                Ok(true) => {}
                Ok(false)
                    if matches!(which, Which::Own(_) | Which::Shared(_))
                        && !self.is_somebody_elses(&asker.person, id) =>
                {
                    (beginning.new, beginning.doubtful) = (true, true);
                }
                Ok(false) => return Err(Unasked::NoSuchConversation),
                Err(Unavailable) => beginning.doubtful = true,
            }
            if let Some(key) = beginning.question.key.clone()
                && !beginning.new
                && self.room().lacks(id, &key)
            {
                beginning.known = in_time(self.archive.asked(&asker.person, id, &key)).await.ok().flatten();
            }
        }
        if let Which::Shared(id) = which {
            // Of those that can't be had in time nothing is known.
            in_time(self.recall_place(id)).await.unwrap_or_default();
        }
        let begun = self.change(|room, archive| room.begin(beginning, archive));
        Ok(match begun {
            Begun::Before { id, number, answer, ending } => {
                Asked::Before { conversation: id, message: Exchange::answer_id(number), answer, ending }
            }
            Begun::Now { place, given_up, earlier } => Asked::Now(self.asking(place, Some(given_up), earlier)),
            Begun::Another => return Err(Unasked::AnotherQuestion),
            Begun::Passing { place } => Asked::Now(self.asking(place, None, Vec::new())),
        })
    }

    /// Lets `work` change the room, and sees to it later that what the archive has no room for is written down.
    fn change<T>(self: &Arc<Self>, work: impl FnOnce(&mut Room, &dyn Archive) -> T) -> T {
        let mut room = self.room();
        let done = work(&mut room, &*self.archive);
        // Without a runtime perch is ending.
        if room.falls_behind()
            && let Ok(runtime) = Handle::try_current()
        {
            let history = Arc::downgrade(self);
            runtime.spawn(async move {
                loop {
                    sleep(CATCH_UP).await;
                    let Some(history) = history.upgrade() else { return };
                    if !history.room().catch_up(&*history.archive) {
                        return;
                    }
                }
            });
        }
        done
    }

    /// Completes when everything is written down, or about to be: to be awaited when nobody says anything any more.
    pub async fn settle(&self) {
        while self.room().catch_up(&*self.archive) {
            sleep(CATCH_UP / 10).await;
        }
    }

    fn asking(self: &Arc<Self>, place: Place, given_up: Option<CancellationToken>, earlier: Vec<Turn>) -> Asking {
        let (cut, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Asking { history: Arc::clone(self), place, given_up, earlier, cut, ended }
    }

    async fn begun(&self, person: &PersonId, key: Option<&Arc<str>>) -> Option<ConversationId> {
        let key = key?;
        let here = self.room().begun(person, key);
        match here {
            Some(id) => Some(id),
            None => in_time(self.archive.begun(person, key)).await.ok().flatten(),
        }
    }

    fn is_somebody_elses(&self, person: &PersonId, id: ConversationId) -> bool {
        self.room().standing(person, id, self.archive.horizon()) == Standing::SomebodyElses
    }

    /// Has this person's conversation at hand. Returns whether there is one.
    async fn recall(&self, person: &PersonId, id: ConversationId) -> Result<bool, Unavailable> {
        let standing = self.room().standing(person, id, self.archive.horizon());
        match standing {
            Standing::Theirs => return Ok(true),
            Standing::SomebodyElses => return Ok(false),
            Standing::Absent => {}
        }
        match in_time(self.archive.last(person, id, ROOM_EACH)).await? {
            Some(kept) => {
                self.room().restore(person, id, kept, &*self.archive);
                Ok(true)
            }
            None if self.archive.complete() => Ok(false),
            None => Err(Unavailable),
        }
    }

    /// Has what was said lately at the place of a conversation at hand.
    async fn recall_place(&self, id: ConversationId) -> Result<(), Unavailable> {
        for (person, id) in self.archive.at_place(id, PLACE).await? {
            self.recall(&person, id).await?;
        }
        Ok(())
    }

    /// This person's conversation: all of it, or the newest few megabytes.
    ///
    /// # Errors
    /// When it can't be read at the moment.
    pub async fn conversation(
        &self,
        person: &PersonId,
        id: ConversationId,
    ) -> Result<Option<Conversation>, Unavailable> {
        let (whole, standing) = {
            let (room, horizon) = (self.room(), self.archive.horizon());
            (room.whole(person, id, horizon), room.standing(person, id, horizon))
        };
        if whole.is_some() || standing == Standing::SomebodyElses {
            return Ok(whole);
        }
        match self.archive.last(person, id, READ).await? {
            Some(mut kept) => {
                self.room().lay_over(person, id, &mut kept.exchanges);
                Ok(Some(kept))
            }
            None if self.archive.complete() => Ok(None),
            None => Err(Unavailable),
        }
    }

    /// The next exchanges of this person's conversation after the one with the number `after`; none at its end.
    ///
    /// # Errors
    /// When they can't be read at the moment.
    pub async fn exchanges(
        &self,
        person: &PersonId,
        id: ConversationId,
        after: u64,
    ) -> Result<Vec<Exchange>, Unavailable> {
        let whole = self.room().whole(person, id, self.archive.horizon());
        let mut exchanges = if let Some(whole) = whole {
            whole.exchanges
        } else {
            let mut kept = self.archive.next(person, id, after, READ).await?;
            if kept.is_empty() {
                self.room().lay_over(person, id, &mut kept);
            }
            kept
        };
        exchanges.retain(|exchange| exchange.number > after);
        Ok(exchanges)
    }

    /// This person's conversations after `after`, the latest first, at most `most` of them, and whether there may be
    /// more.
    ///
    /// # Errors
    /// When they can't be read at the moment.
    pub async fn list(
        &self,
        person: &PersonId,
        after: Option<Cursor>,
        most: u32,
    ) -> Result<(Vec<Summary>, bool), Unavailable> {
        let mut summaries = self.room().unwritten(person);
        let kept = self.archive.list(person, after, most).await?;
        let full = kept.len() >= most as usize;
        summaries.retain(|summary| after.is_none_or(|after| summary.cursor() < after));
        let here: Vec<ConversationId> = summaries.iter().map(|summary| summary.id).collect();
        summaries.extend(kept.into_iter().filter(|summary| !here.contains(&summary.id)));
        summaries.sort_unstable_by_key(|summary| std::cmp::Reverse(summary.cursor()));
        let more = full || summaries.len() > most as usize;
        summaries.truncate(most as usize);
        Ok((summaries, more))
    }

    /// Whether all that was kept can be read; where it can't, a list of it is not all there is.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.archive.complete()
    }

    /// Forgets one conversation of this person, or all of them, for good. Returns whether there was anything.
    ///
    /// # Errors
    /// When it is not sure that nothing is left.
    pub async fn erase(&self, person: &PersonId, id: Option<ConversationId>) -> Result<bool, Unavailable> {
        let here = self.room().erase(person, id);
        let kept = self.archive.erase(person, id).await?;
        Ok(here || kept)
    }

    /// How many answers are being made.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.room().under_way()
    }

    /// Those who were heard of last, at most `most` of them, and how many there are in all.
    ///
    /// # Errors
    /// When they can't be read at the moment.
    pub async fn people(&self, most: u32) -> Result<(Vec<Person>, u64), Unavailable> {
        self.archive.people(most).await
    }
}

/// What the archive says, if it says so in time.
async fn in_time<T>(asked: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
    timeout(PATIENCE, asked).await.unwrap_or(Err(Unavailable))
}

/// A question that is being answered. When it is dropped before its end, the answer was given up.
pub struct Asking {
    history: Arc<History>,
    place: Place,
    /// Nothing, where nothing is kept of it.
    given_up: Option<CancellationToken>,
    earlier: Vec<Turn>,
    /// perch ends first.
    cut: AtomicBool,
    ended: AtomicBool,
}

impl Asking {
    #[must_use]
    pub fn conversation(&self) -> ConversationId {
        self.place.id
    }

    /// The id of the answer.
    #[must_use]
    pub fn message(&self) -> u64 {
        Exchange::answer_id(self.place.number)
    }

    /// What was said before, the oldest first.
    #[must_use]
    pub fn earlier(&self) -> &[Turn] {
        &self.earlier
    }

    /// Completes when the question was asked once more, or its conversation deleted: nobody waits for this answer.
    pub async fn given_up(&self) {
        match &self.given_up {
            Some(given_up) => given_up.cancelled().await,
            None => pending().await,
        }
    }

    /// Notes a piece of the answer that the person has got.
    pub fn say(&self, piece: &str) {
        self.history.room().say(self.place, piece);
    }

    /// Has what was said so far written down, about once a second.
    pub async fn note_down(&self) -> Infallible {
        let mut pace = interval_at(Instant::now() + NOTE_PACE, NOTE_PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            self.note();
        }
    }

    fn note(&self) {
        self.history.change(|room, archive| room.note(self.place, archive));
    }

    /// perch ends before the answer does: when that fails now, it was stopped.
    pub fn cut_off(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.note();
    }

    /// The whole answer.
    pub fn done(&self, answer: &str) {
        self.ended(answer, Ending::Said);
    }

    /// All of the answer that there will be, and why there is no more.
    pub fn ended(&self, answer: &str, ending: Ending) {
        self.end(State::of(ending), Some(answer));
    }

    /// There is no answer, or no more than was said.
    pub fn failed(&self) {
        let state = if self.cut.load(Ordering::Relaxed) { State::Stopped } else { State::Failed };
        self.end(state, None);
    }

    fn end(&self, state: State, answer: Option<&str>) {
        if self.given_up.is_some() && !self.ended.swap(true, Ordering::Relaxed) {
            self.history.change(|room, archive| room.end(self.place, state, answer, archive));
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.end(State::Stopped, None);
    }
}
