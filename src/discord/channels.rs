//! Every channel's messages in order, all channels side by side.

use std::collections::{HashMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::account::Account;
use super::answer::{Outcome, answer};
use super::event::{ChannelId, Incoming, MessageId};
use super::session::SessionStore;
use crate::service::Live;
use crate::store::{Key, Ledger, Verdict};
use crate::telemetry::panics;

/// How many messages may wait in one channel, and in all.
const CHANNEL_LIMIT: usize = 1_000;
const LIMIT: usize = 10_000;

/// A message to be answered.
pub struct Job {
    pub asked: Asked,
    pub account: Arc<Account>,
}

/// How perch knows of a message.
pub enum Asked {
    /// The gateway brought it, with this sequence number.
    Heard { message: Incoming, sequence: u64 },
    /// An earlier process began to answer it.
    Left { channel_id: ChannelId, message_id: MessageId },
}

impl Job {
    pub fn key(&self) -> Key {
        Key { bot: self.account.user.id.get(), message: self.asked.message_id().get() }
    }
}

impl Asked {
    fn message_id(&self) -> MessageId {
        match self {
            Asked::Heard { message, .. } => message.id,
            Asked::Left { message_id, .. } => *message_id,
        }
    }

    fn channel_id(&self) -> ChannelId {
        match self {
            Asked::Heard { message, .. } => message.channel_id,
            Asked::Left { channel_id, .. } => *channel_id,
        }
    }

    fn begun(&self, store: &SessionStore) {
        if let Asked::Heard { sequence, .. } = self {
            store.begun(*sequence);
        }
    }

    fn finished(&self, store: &SessionStore) {
        if let Asked::Heard { message, sequence } = self {
            store.finished(*sequence, message.id);
        }
    }
}

/// The messages at work and those that wait. A channel is here while it has a message at work.
pub struct Channels {
    waiting: HashMap<ChannelId, VecDeque<Job>>,
    count: usize,
    at_work: JoinSet<(ChannelId, Arc<Account>, Outcome)>,
    dropping: bool,
    live: watch::Receiver<Arc<Live>>,
    store: Arc<SessionStore>,
    ledger: Ledger,
}

impl Channels {
    pub fn new(live: watch::Receiver<Arc<Live>>, store: Arc<SessionStore>, ledger: Ledger) -> Channels {
        Channels { waiting: HashMap::new(), count: 0, at_work: JoinSet::new(), dropping: false, live, store, ledger }
    }

    /// Takes a message on. Returns whether there was room for it.
    pub fn take(&mut self, job: Job) -> bool {
        if self.store.answered(job.asked.message_id()) {
            return true;
        }
        let channel = job.asked.channel_id();
        match self.waiting.get_mut(&channel) {
            None => {
                self.waiting.insert(channel, VecDeque::new());
                job.asked.begun(&self.store);
                self.start(job);
            }
            Some(queue) if queue.len() < CHANNEL_LIMIT && self.count < LIMIT => {
                job.asked.begun(&self.store);
                queue.push_back(job);
                self.count += 1;
            }
            Some(_) => {
                job.asked.finished(&self.store);
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
        }
        true
    }

    /// Whether nothing is at work.
    pub fn idle(&self) -> bool {
        self.at_work.is_empty()
    }

    /// The next message that is dealt with; `None` when none is at work.
    ///
    /// # Panics
    /// With the panic of the task that dealt with it.
    pub async fn next(&mut self) -> Option<(Arc<Account>, Outcome)> {
        let (channel, account, outcome) = match self.at_work.join_next().await? {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Its runtime ends.
                Err(_) => return None,
            },
        };
        match self.waiting.get_mut(&channel).and_then(VecDeque::pop_front) {
            Some(job) => {
                self.count -= 1;
                self.start(job);
            }
            None => {
                self.waiting.remove(&channel);
            }
        }
        if self.count == 0 {
            self.dropping = false;
        }
        Some((account, outcome))
    }

    fn start(&mut self, job: Job) {
        let (live, store, ledger) = (self.live.clone(), Arc::clone(&self.store), self.ledger.clone());
        self.at_work.spawn(panics::SERVICE.scope(super::NAME, dealt_with(job, live, store, ledger)));
    }
}

async fn dealt_with(
    job: Job,
    live: watch::Receiver<Arc<Live>>,
    store: Arc<SessionStore>,
    ledger: Ledger,
) -> (ChannelId, Arc<Account>, Outcome) {
    let Receipt { job, store, ledger } = &Receipt { job, store, ledger };
    let outcome = answer(job, &live, ledger).await;
    job.asked.finished(store);
    (job.asked.channel_id(), Arc::clone(&job.account), outcome)
}

/// A message that makes perch panic is not tried again: it counts as dealt with.
struct Receipt {
    job: Job,
    store: Arc<SessionStore>,
    ledger: Ledger,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ledger.settle(self.job.key(), Verdict::Lost);
            self.job.asked.finished(&self.store);
        }
    }
}
