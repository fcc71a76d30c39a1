//! Every channel's messages in order, all channels side by side.

use std::collections::{HashMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::account::Account;
use super::answer::{Outcome, answer};
use super::event::{ChannelId, Incoming, MessageId};
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

/// A message to be answered.
pub struct Job {
    pub asked: Asked,
    pub account: Arc<Account>,
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
}

/// What one channel has. It is here while it has something.
#[derive(Default)]
struct Lane {
    at_work: bool,
    waiting: VecDeque<Job>,
    /// Set while the channel's history is looked at for missed messages; they come before these.
    held: Option<Vec<Job>>,
}

/// A message that is dealt with.
pub struct Done {
    channel: ChannelId,
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
        }
    }

    /// Takes a message on. Returns whether there was room for it.
    pub fn take(&mut self, job: Job) -> bool {
        if self.records.store.answered(job.asked.message_id()) {
            return true;
        }
        let channel = job.asked.channel_id();
        let lane = self.lanes.entry(channel).or_default();
        let waiting = lane.waiting.len() + lane.held.as_ref().map_or(0, Vec::len);
        if !lane.at_work && lane.held.is_none() {
            job.begun(&self.records);
            self.start(job);
        } else if waiting < CHANNEL_LIMIT && self.count < LIMIT {
            job.begun(&self.records);
            self.count += 1;
            match &mut lane.held {
                Some(held) => held.push(job),
                None => lane.waiting.push_back(job),
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
        self.lanes.retain(|_, lane| lane.at_work || !lane.waiting.is_empty());
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
            lane.at_work = false;
        }
        self.go_on(done.channel);
        Some(done)
    }

    /// Starts what waits first in `channel`, unless something is at work there.
    fn go_on(&mut self, channel: ChannelId) {
        let Some(lane) = self.lanes.get_mut(&channel) else { return };
        if lane.at_work {
            return;
        }
        match lane.waiting.pop_front() {
            Some(job) => {
                self.count -= 1;
                self.start(job);
            }
            None if lane.held.is_none() => {
                self.lanes.remove(&channel);
            }
            None => {}
        }
        if self.count == 0 {
            self.dropping = false;
        }
    }

    fn start(&mut self, job: Job) {
        self.lanes.entry(job.asked.channel_id()).or_default().at_work = true;
        let (records, talk) = (self.records.clone(), Arc::clone(&self.talk));
        let work = dealt_with(job, self.live.clone(), records, talk, Arc::clone(&self.missed));
        self.at_work.spawn(panics::SERVICE.scope(super::NAME, work));
    }
}

async fn dealt_with(
    job: Job,
    live: watch::Receiver<Arc<Live>>,
    records: Records,
    talk: Arc<Talk>,
    missed: Arc<Semaphore>,
) -> Done {
    let Receipt { job, records } = &Receipt { job, records };
    let _permit = if job.asked.was_missed() { missed.acquire().await.ok() } else { None };
    let outcome = answer(job, &live, &records.ledger, &talk).await;
    job.finished(records);
    let (channel, account, missed) = (job.asked.channel_id(), Arc::clone(&job.account), job.asked.was_missed());
    Done { channel, account, outcome, missed }
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
