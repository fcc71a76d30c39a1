//! Every channel's messages in order, all channels side by side.

use std::collections::{HashMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::account::Account;
use super::answer::{Outcome, answer};
use super::event::{ChannelId, Incoming};
use super::session::SessionStore;
use crate::service::Live;
use crate::telemetry::panics;

/// How many messages may wait in one channel, and in all.
const CHANNEL_LIMIT: usize = 1_000;
const LIMIT: usize = 10_000;

/// A message to be answered.
pub struct Job {
    pub message: Incoming,
    pub sequence: u64,
    pub account: Arc<Account>,
}

/// The messages at work and those that wait. A channel is here while it has a message at work.
pub struct Channels {
    waiting: HashMap<ChannelId, VecDeque<Job>>,
    count: usize,
    at_work: JoinSet<(ChannelId, Arc<Account>, Outcome)>,
    dropping: bool,
    live: watch::Receiver<Arc<Live>>,
    store: Arc<SessionStore>,
}

impl Channels {
    pub fn new(live: watch::Receiver<Arc<Live>>, store: Arc<SessionStore>) -> Channels {
        Channels { waiting: HashMap::new(), count: 0, at_work: JoinSet::new(), dropping: false, live, store }
    }

    /// Takes a message on. Returns whether there was room for it.
    pub fn take(&mut self, job: Job) -> bool {
        if self.store.answered(job.message.id) {
            return true;
        }
        let channel = job.message.channel_id;
        let (sequence, message_id) = (job.sequence, job.message.id);
        match self.waiting.get_mut(&channel) {
            None => {
                self.waiting.insert(channel, VecDeque::new());
                self.store.begun(sequence);
                self.start(job);
            }
            Some(queue) if queue.len() < CHANNEL_LIMIT && self.count < LIMIT => {
                self.store.begun(sequence);
                queue.push_back(job);
                self.count += 1;
            }
            Some(_) => {
                self.store.finished(sequence, message_id);
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
        let (live, store) = (self.live.clone(), Arc::clone(&self.store));
        self.at_work.spawn(panics::SERVICE.scope(super::NAME, dealt_with(job, live, store)));
    }
}

async fn dealt_with(
    job: Job,
    live: watch::Receiver<Arc<Live>>,
    store: Arc<SessionStore>,
) -> (ChannelId, Arc<Account>, Outcome) {
    let Receipt { job, store } = &Receipt { job, store };
    let outcome = answer(&job.message, &job.account, &live).await;
    store.finished(job.sequence, job.message.id);
    (job.message.channel_id, Arc::clone(&job.account), outcome)
}

/// A message that makes perch panic is not tried again: it counts as dealt with.
struct Receipt {
    job: Job,
    store: Arc<SessionStore>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.store.finished(self.job.sequence, self.job.message.id);
        }
    }
}
