//! Every channel's messages in order, all channels side by side.
//!
//! An echo is said at once, so that a channel's messages are answered one after the other. A model takes its time: what the
//! chat answers goes on in the order of the channel for each person, and nobody waits for what another one asked. Once is
//! once in either: what is dealt with is known message by message, in the ledger, the session and the marks, and
//! whoever looks what became of an answer knows its messages by what they are replies to ([`lookup`](super::lookup)).
//! No message is at work twice at the same time, although it may have come twice: left by an earlier process, and again
//! in a replay.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::answer::{Outcome, answer, converses, withdrawn};
use super::event::{ChannelId, Edited, Incoming, MessageId, MessageType, UserId};
use super::mention;
use super::seen::{Marks, Place};
use super::session::{EventId, SessionStore};
use super::talk::Talk;
use crate::service::Live;
use crate::store::{Key, Ledger, Verdict};
use crate::telemetry::panics;

/// How many messages may wait in one channel, and in all.
const CHANNEL_LIMIT: usize = 1_000;
const LIMIT: usize = 10_000;
/// So many missed messages at most are answered at once, whatever their number of channels: what is said now has its
/// way beside them.
const MISSED_AT_ONCE: usize = 8;

/// So many answers of the chat are made at once; those that were asked first have their turn first.
const ANSWERS_AT_ONCE: usize = 64;
/// And in one channel, where Discord takes about a message a second: what waits longer than a minute to be said is lost.
const CHANNEL_AT_ONCE: usize = 16;
/// So many questions of one person are open at once, wherever they asked them: who asks more is told so.
pub const OPEN_QUESTIONS: usize = 10;

/// A message to be answered.
pub struct Job {
    pub asked: Asked,
    pub account: Arc<Account>,
    /// Its author has as many open questions as anybody may have.
    pub excess: bool,
    /// The message, or its channel, was deleted.
    gone: CancellationToken,
    /// It is one of its author's open questions.
    seat: Option<Seat>,
}

/// How perch knows of a message.
pub enum Asked {
    /// The gateway brought it, with this event.
    Heard { message: Incoming, event: EventId },
    /// An earlier process began to answer it.
    Left { channel_id: ChannelId, message_id: MessageId },
    /// It was said while nobody listened, and found in the channel's history.
    Missed { message: Incoming },
}

/// Where is written down how far messages are dealt with.
#[derive(Clone)]
pub struct Records {
    pub store: Arc<SessionStore>,
    pub marks: Arc<Marks>,
    pub ledger: Ledger,
}

impl Job {
    pub fn new(asked: Asked, account: Arc<Account>) -> Job {
        Job { asked, account, excess: false, gone: CancellationToken::new(), seat: None }
    }

    pub fn key(&self) -> Key {
        Key { bot: self.account.user.id.get(), message: self.asked.message_id().get() }
    }

    fn place(&self) -> Place {
        Place::new(self.account.user.id.get(), self.asked.channel_id())
    }

    fn begun(&self, records: &Records) {
        match &self.asked {
            Asked::Heard { event, .. } => records.store.begun(*event),
            Asked::Missed { .. } => {}
            Asked::Left { .. } => return,
        }
        records.marks.begun(self.place(), self.asked.message_id());
    }

    fn finished(&self, records: &Records) {
        if let Asked::Left { .. } = self.asked {
            return;
        }
        let message = self.asked.message_id();
        records.store.done(message);
        records.marks.done(self.place(), message);
        if let Asked::Heard { event, .. } = self.asked {
            records.store.finished(event);
        }
    }

    /// It was begun and is let go: whoever looks next finds it where it was said.
    fn dropped(&self, records: &Records) {
        if !matches!(self.asked, Asked::Left { .. }) {
            records.marks.dropped(self.place(), self.asked.message_id());
        }
    }
}

impl Asked {
    fn message_id(&self) -> MessageId {
        match self {
            Asked::Heard { message, .. } | Asked::Missed { message } => message.id,
            Asked::Left { message_id, .. } => *message_id,
        }
    }

    /// Who said it, where that is known.
    fn person(&self) -> Option<UserId> {
        match self {
            Asked::Heard { message, .. } | Asked::Missed { message } => Some(message.author.id),
            Asked::Left { .. } => None,
        }
    }

    fn channel_id(&self) -> ChannelId {
        match self {
            Asked::Heard { message, .. } | Asked::Missed { message } => message.channel_id,
            Asked::Left { channel_id, .. } => *channel_id,
        }
    }

    fn was_missed(&self) -> bool {
        matches!(self, Asked::Missed { .. })
    }
}

/// The messages at work and those that wait.
pub struct Channels {
    lanes: HashMap<ChannelId, Lane>,
    count: usize,
    at_work: JoinSet<Done>,
    dropping: bool,
    live: watch::Receiver<Arc<Live>>,
    records: Records,
    talk: Arc<Talk>,
    missed: Arc<Semaphore>,
    /// For answers of the chat.
    turns: Arc<Semaphore>,
    open: Open,
}

/// What one channel has. It is here while it has something.
#[derive(Default)]
struct Lane {
    at_work: Vec<Working>,
    waiting: VecDeque<Job>,
    /// Set while the channel's history is looked at for missed messages; they come before these.
    held: Option<Vec<Job>>,
}

/// A message at work.
struct Working {
    message: MessageId,
    /// Whose next question waits for it.
    person: Option<UserId>,
    /// The whole channel waits for it.
    alone: bool,
    gone: CancellationToken,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.at_work.is_empty() && self.waiting.is_empty() && self.held.is_none()
    }

    /// Takes out what is to be started next, if anything is: where the `chat` answers, whatever comes first of a person
    /// who has nothing at work.
    fn next(&mut self, chat: bool) -> Option<Job> {
        if self.at_work.iter().any(|working| working.alone || !chat) || self.at_work.len() >= CHANNEL_AT_ONCE {
            return None;
        }
        let mut behind: HashSet<UserId> = self.at_work.iter().filter_map(|working| working.person).collect();
        let free = |job: &Job| {
            let twice = self.at_work.iter().any(|working| working.message == job.asked.message_id());
            let waits = !job.excess && job.asked.person().is_some_and(|person| !behind.insert(person));
            !(twice || waits)
        };
        let first = self.waiting.iter().position(free)?;
        self.waiting.remove(first)
    }
}

/// How many open questions everybody has who has any.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<HashMap<UserId, usize>>>);

/// One of them, until it is dropped.
struct Seat {
    open: Open,
    person: UserId,
}

impl Open {
    /// One more for `person`, unless these are too many.
    fn seat(&self, person: UserId) -> Option<Seat> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = open.entry(person).or_default();
        (*theirs < OPEN_QUESTIONS).then(|| {
            *theirs += 1;
            Seat { open: self.clone(), person }
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = open.get_mut(&self.person) {
            *theirs -= 1;
            if *theirs == 0 {
                open.remove(&self.person);
            }
        }
    }
}

/// A message that is dealt with.
pub struct Done {
    channel: ChannelId,
    message: MessageId,
    pub account: Arc<Account>,
    pub outcome: Outcome,
    /// It had been missed.
    pub missed: bool,
}

impl Channels {
    pub fn new(live: watch::Receiver<Arc<Live>>, records: Records, talk: Arc<Talk>) -> Channels {
        Channels {
            lanes: HashMap::new(),
            count: 0,
            at_work: JoinSet::new(),
            dropping: false,
            live,
            records,
            talk,
            missed: Arc::new(Semaphore::new(MISSED_AT_ONCE)),
            turns: Arc::new(Semaphore::new(ANSWERS_AT_ONCE)),
            open: Open::default(),
        }
    }

    /// Takes a message on. Returns whether there was room for it.
    pub fn take(&mut self, mut job: Job) -> bool {
        if self.records.store.answered(job.asked.message_id()) {
            return true;
        }
        let channel = job.asked.channel_id();
        let lane = self.lanes.entry(channel).or_default();
        let waiting = lane.waiting.len() + lane.held.as_ref().map_or(0, Vec::len);
        if lane.is_empty() || (waiting < CHANNEL_LIMIT && self.count < LIMIT) {
            if let Asked::Heard { message, .. } = &job.asked
                && converses(&self.live.borrow())
            {
                job.seat = self.open.seat(message.author.id);
                job.excess = job.seat.is_none();
            }
            job.begun(&self.records);
            self.count += 1;
            match &mut lane.held {
                Some(held) => held.push(job),
                None => lane.waiting.push_back(job),
            }
            if !self.holds(channel) {
                self.go_on(channel);
            }
        } else {
            job.finished(&self.records);
            if !self.dropping {
                self.dropping = true;
                tracing::warn!(
                    service = super::NAME,
                    channel_id = channel.get(),
                    "messages in channel {channel} come faster than Discord takes answers; some are left unanswered"
                );
            }
            return false;
        }
        true
    }

    /// Those messages in `channel` that are `gone` were deleted: what answers them stops, and those that wait are not
    /// asked any more.
    pub fn delete(&mut self, channel: ChannelId, gone: impl Fn(MessageId) -> bool) {
        let Some(lane) = self.lanes.get_mut(&channel) else { return };
        for working in lane.at_work.iter().filter(|working| gone(working.message)) {
            working.gone.cancel();
        }
        for job in lane.waiting.iter_mut().chain(lane.held.iter_mut().flatten()) {
            if gone(job.asked.message_id()) {
                job.gone.cancel();
                job.seat = None;
            }
        }
    }

    /// A message was changed: one that waits is asked as it is now. One whose mention of the bot is gone is for the bot no
    /// more; of a reply nobody can say that, as it needs none.
    pub fn edit(&mut self, edited: &Edited) {
        let Some(lane) = self.lanes.get_mut(&edited.channel_id) else { return };
        for job in lane.waiting.iter_mut().chain(lane.held.iter_mut().flatten()) {
            let bot = job.account.user.id;
            let (Asked::Heard { message, .. } | Asked::Missed { message }) = &mut job.asked else { continue };
            if message.id != edited.id {
                continue;
            }
            let changed = edited.of(message);
            if mention::is_for(&changed, bot) {
                *message = changed;
            } else if message.kind == MessageType::Regular {
                job.gone.cancel();
                job.seat = None;
            }
        }
    }

    /// Holds back what comes in `channel` from now on, until [`release`](Self::release).
    pub fn hold(&mut self, channel: ChannelId) {
        self.lanes.entry(channel).or_default().held.get_or_insert_default();
    }

    pub fn holds(&self, channel: ChannelId) -> bool {
        self.lanes.get(&channel).is_some_and(|lane| lane.held.is_some())
    }

    /// Goes on in `channel`: with the `missed` messages first, the oldest first, and what was held back after them.
    /// Returns how many of the missed were taken on.
    pub fn release(&mut self, channel: ChannelId, missed: Vec<Job>) -> usize {
        let Some(lane) = self.lanes.get_mut(&channel) else { return 0 };
        let held = lane.held.take().unwrap_or_default();
        let known = |job: &Job| {
            let message = job.asked.message_id();
            self.records.store.answered(message) || self.records.marks.in_hand(job.place(), message)
        };
        let mut jobs: Vec<Job> = missed.into_iter().filter(|job| !known(job)).collect();
        let taken = jobs.len();
        for job in &jobs {
            job.begun(&self.records);
        }
        self.count += taken;
        jobs.extend(held);
        // What is held may have been said before the newest that was found.
        jobs.sort_by_key(|job| job.asked.message_id());
        lane.waiting.extend(jobs);
        self.go_on(channel);
        taken
    }

    /// Lets go of the missed messages that are not at work, and of what waits behind them: they are found again, in
    /// their order. Returns whether there were any.
    pub fn let_go(&mut self) -> bool {
        let mut any = false;
        for lane in self.lanes.values_mut() {
            let first = lane.waiting.iter().position(|job| job.asked.was_missed());
            let behind = lane.waiting.split_off(first.unwrap_or(lane.waiting.len()));
            let held = lane.held.take();
            any |= held.is_some() || !behind.is_empty();
            for job in behind.into_iter().chain(held.into_iter().flatten()) {
                self.count -= 1;
                job.dropped(&self.records);
            }
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        any
    }

    /// Whether nothing is at work.
    pub fn idle(&self) -> bool {
        self.at_work.is_empty()
    }

    /// The next message that is dealt with; `None` when none is at work.
    ///
    /// # Panics
    /// With the panic of the task that dealt with it.
    pub async fn next(&mut self) -> Option<Done> {
        let done = match self.at_work.join_next().await? {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Its runtime ends.
                Err(_) => return None,
            },
        };
        if let Some(lane) = self.lanes.get_mut(&done.channel) {
            lane.at_work.retain(|working| working.message != done.message);
        }
        self.go_on(done.channel);
        Some(done)
    }

    /// Starts what waits in `channel` and need not wait any longer.
    fn go_on(&mut self, channel: ChannelId) {
        let chat = converses(&self.live.borrow());
        while let Some(job) = self.lanes.get_mut(&channel).and_then(|lane| lane.next(chat)) {
            self.count -= 1;
            self.start(job, chat);
        }
        if self.lanes.get(&channel).is_some_and(Lane::is_empty) {
            self.lanes.remove(&channel);
        }
        if self.count == 0 {
            self.dropping = false;
        }
    }

    fn start(&mut self, job: Job, chat: bool) {
        let working = Working {
            message: job.asked.message_id(),
            person: job.asked.person().filter(|_| !job.excess),
            alone: !chat,
            gone: job.gone.clone(),
        };
        self.lanes.entry(job.asked.channel_id()).or_default().at_work.push(working);
        let (records, talk) = (self.records.clone(), Arc::clone(&self.talk));
        let missed = job.asked.was_missed().then(|| Arc::clone(&self.missed));
        let turns = (chat && !job.excess).then(|| Arc::clone(&self.turns));
        let work = dealt_with(job, self.live.clone(), records, talk, [missed, turns]);
        self.at_work.spawn(panics::SERVICE.scope(super::NAME, work));
    }
}

async fn dealt_with(
    job: Job,
    live: watch::Receiver<Arc<Live>>,
    records: Records,
    talk: Arc<Talk>,
    queues: [Option<Arc<Semaphore>>; 2],
) -> Done {
    let Receipt { job, records } = &Receipt { job, records };
    let work = async {
        let mut turns = Vec::new();
        for queue in queues.iter().flatten() {
            turns.push(queue.acquire().await);
        }
        answer(job, &live, &records.ledger, &talk).await
    };
    let outcome = tokio::select! {
        biased;
        () = job.gone.cancelled() => withdrawn(job, &records.ledger),
        outcome = work => outcome,
    };
    job.finished(records);
    Done {
        channel: job.asked.channel_id(),
        message: job.asked.message_id(),
        account: Arc::clone(&job.account),
        outcome,
        missed: job.asked.was_missed(),
    }
}

/// A message that makes perch panic is not tried again: it counts as dealt with.
struct Receipt {
    job: Job,
    records: Records,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.records.ledger.settle(self.job.key(), Verdict::Lost);
            self.job.finished(&self.records);
        }
    }
}
