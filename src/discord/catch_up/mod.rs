//! Looking for what was said while there was no session, when the old one can't be resumed.
//!
//! `GUILD_CREATE` says which message was a channel's last ([`around`]). Where that is newer than what was seen ([`seen`]),
//! the channel is held, its history is read ([`mod@read`]), and what was missed is put before what was said since. The event
//! counts as dealt with when all of that is answered: a perch that stops in between resumes from before it, gets it
//! once more, and looks again.
//!
//! [`seen`]: super::seen

use std::collections::{HashMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::read::{Found, Look, Pacer, read};
use self::report::Report;
use super::NAME;
use super::channels::{Asked, Channels, Job, Records};
use super::event::ChannelId;
use super::rest::RestError;
use super::seen::Place;
use super::session::EventId;
use crate::config::discord::CatchUp as Bounds;
use crate::service::ChangeId;
use crate::telemetry::panics;

mod around;
mod read;
mod report;

/// So many channels are read at once.
const AT_ONCE: usize = 4;
/// Guilds come one after the other: a catch-up is over when none came for so long.
const QUIET: Duration = Duration::from_secs(2);

/// The looks that are wanted and those at work.
pub struct CatchUp {
    records: Records,
    patience: Duration,
    pacer: Arc<Pacer>,
    wanted: VecDeque<Look>,
    reading: JoinSet<(Look, Result<Found, RestError>)>,
    /// What is read of each channel that is being read.
    allowed: HashMap<ChannelId, usize>,
    /// Those that have to be read once more, as another session was lost meanwhile.
    again: HashMap<ChannelId, Look>,
    /// How many missed messages are in hand.
    answering: usize,
    /// The events that are dealt with when everything is.
    events: Vec<EventId>,
    /// How many missed messages were, or may still be, found in this catch-up.
    spent: usize,
    report: Report,
    /// The change that made the bot begin the session, if one did.
    caused_by: Option<ChangeId>,
    bounds: Bounds,
    /// When the catch-up is over, unless something more comes.
    over: Option<Instant>,
    /// The next guild is the first of a session, so that direct messages are due as well.
    direct_due: bool,
}

/// What there is to do.
pub enum Step {
    Read(Look, Result<Found, RestError>),
    Over,
}

impl CatchUp {
    pub fn new(records: Records, patience: Duration) -> CatchUp {
        CatchUp {
            records,
            patience,
            pacer: Arc::default(),
            wanted: VecDeque::new(),
            reading: JoinSet::new(),
            allowed: HashMap::new(),
            again: HashMap::new(),
            answering: 0,
            events: Vec::new(),
            spent: 0,
            report: Report::default(),
            caused_by: None,
            bounds: Bounds::default(),
            over: None,
            direct_due: true,
        }
    }

    /// Whether nothing is to be waited for.
    pub fn idle(&self) -> bool {
        self.reading.is_empty() && self.over.is_none()
    }

    /// What comes next. It may be given up and asked for again.
    ///
    /// # Panics
    /// With the panic of the task that read a channel.
    pub async fn next(&mut self) -> Option<Step> {
        if let Some(read) = self.reading.join_next().await {
            return match read {
                Ok((look, found)) => Some(Step::Read(look, found)),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // Its runtime ends.
                    Err(_) => None,
                },
            };
        }
        sleep_until(self.over?).await;
        Some(Step::Over)
    }

    /// Has `looks` done in their turn, with what comes in those channels held back. `event` counts as dealt with when
    /// they are.
    fn want(&mut self, looks: Vec<Look>, event: Option<EventId>, channels: &mut Channels) {
        if looks.is_empty() {
            return;
        }
        if let Some(event) = event {
            self.records.store.begun(event);
            self.events.push(event);
        }
        for look in looks {
            let place = Place::new(look.account.user.id.get(), look.channel);
            self.records.marks.open_gap(place, look.guild.is_none());
            channels.hold(look.channel);
            if self.allowed.contains_key(&look.channel) {
                self.again.insert(look.channel, look);
            } else if let Some(waiting) = self.wanted.iter_mut().find(|waiting| waiting.channel == look.channel) {
                *waiting = look;
            } else {
                self.wanted.push_back(look);
            }
        }
        self.begin();
        self.rest(channels);
    }

    /// Somebody waits in `channel`.
    pub fn hurry(&mut self, channel: ChannelId) {
        if let Some(at) = self.wanted.iter().position(|look| look.channel == channel)
            && let Some(look) = self.wanted.remove(at)
        {
            self.wanted.push_front(look);
        }
    }

    /// Starts as many looks as may be at work.
    fn begin(&mut self) {
        self.over = None;
        while self.reading.len() < AT_ONCE && self.spent < self.bounds.total {
            let Some(look) = self.wanted.pop_front() else { break };
            let most = self.bounds.per_channel.min(self.bounds.total - self.spent);
            self.spent += most;
            self.allowed.insert(look.channel, most);
            let (pacer, ledger, patience) = (Arc::clone(&self.pacer), self.records.ledger.clone(), self.patience);
            let work = async move {
                let found = read(&look, most, patience, &pacer, &ledger).await;
                (look, found)
            };
            self.reading.spawn(panics::SERVICE.scope(NAME, work));
        }
    }

    /// A channel was read. Returns what Discord said if it refused the token.
    fn done(&mut self, look: Look, found: Result<Found, RestError>, channels: &mut Channels) -> Option<String> {
        let most = self.allowed.remove(&look.channel).unwrap_or(0);
        self.spent -= most;
        let mut refused = None;
        if let Some(again) = self.again.remove(&look.channel) {
            self.wanted.push_front(again);
        } else {
            match found {
                Ok(found) => self.take_on(&look, found, most, channels),
                Err(error @ RestError::Refused { .. }) => {
                    let channel_id = look.channel.get();
                    tracing::debug!(service = NAME, channel_id, "channel {channel_id} can't be read: {error}");
                    self.close(&look, look.last, channels);
                }
                Err(error) => {
                    if let RestError::Unauthorized(said) = &error {
                        refused = Some(said.clone());
                    }
                    self.give_up(look, &error, channels);
                }
            }
        }
        self.begin();
        self.rest(channels);
        refused
    }

    fn take_on(&mut self, look: &Look, found: Found, most: usize, channels: &mut Channels) {
        if let Some(cut) = found.cut {
            if cut == read::Cut::Number && most < self.bounds.per_channel {
                self.report.total.push(look.channel);
            } else {
                self.report.cut(cut, look.channel);
            }
        }
        let job = |message| Job::new(Asked::Missed { message }, Arc::clone(&look.account));
        let missed = found.missed.into_iter().map(job).collect();
        let taken = channels.release(look.channel, missed);
        self.settle_mark(look, found.newest);
        self.answering += taken;
        self.spent += taken;
        self.report.missed += taken;
        self.report.channels += usize::from(taken > 0);
    }

    /// Leaves `look` as it is: nothing of it is answered.
    fn close(&mut self, look: &Look, newest: u64, channels: &mut Channels) {
        channels.release(look.channel, Vec::new());
        self.settle_mark(look, newest);
    }

    fn settle_mark(&self, look: &Look, newest: u64) {
        let place = Place::new(look.account.user.id.get(), look.channel);
        self.records.marks.caught_up(place, newest.max(look.last));
    }

    /// Discord can't be asked, about the others as little as about this one. What was missed is looked for when a
    /// session begins again.
    fn give_up(&mut self, look: Look, error: &RestError, channels: &mut Channels) {
        self.report.trouble = Some(error.to_string());
        for look in std::iter::once(look).chain(self.wanted.drain(..)) {
            self.report.unreachable.push(look.channel);
            channels.release(look.channel, Vec::new());
        }
    }

    /// A missed message is answered.
    pub fn answered(&mut self) {
        self.answering = self.answering.saturating_sub(1);
        self.conclude();
    }

    /// Sees whether everything was looked at.
    fn rest(&mut self, channels: &mut Channels) {
        if !self.reading.is_empty() {
            return;
        }
        // As many are answered as may be, so the rest is left.
        for look in std::mem::take(&mut self.wanted) {
            self.report.total.push(look.channel);
            self.close(&look, look.last, channels);
        }
        self.over = Some(Instant::now() + QUIET);
        self.conclude();
    }

    fn conclude(&mut self) {
        if self.answering == 0 && self.reading.is_empty() && self.wanted.is_empty() {
            for event in self.events.drain(..) {
                self.records.store.finished(event);
            }
        }
    }

    /// The catch-up is over.
    fn tell(&mut self) {
        self.over = None;
        self.spent = 0;
        let report = std::mem::take(&mut self.report);
        let change = self.caused_by.map(|change| change.0);
        if let Some(found) = report.found() {
            tracing::info!(service = NAME, change, missed = report.missed, "{found}");
        }
        for words in [report.lost(self.bounds), report.failed()].into_iter().flatten() {
            tracing::warn!(service = NAME, change, "{words}");
        }
    }

    /// Ends it in the middle. What is not answered is found again. Returns whether there was anything.
    fn interrupt(&mut self) -> bool {
        let any = !self.events.is_empty();
        self.wanted.clear();
        self.reading.abort_all();
        self.reading = JoinSet::new();
        self.allowed.clear();
        self.again.clear();
        self.events.clear();
        self.answering = 0;
        self.report.missed = 0;
        self.tell();
        self.direct_due = true;
        any
    }

    /// A session began, or goes on.
    pub fn session(&mut self, new: bool, caused_by: Option<ChangeId>) {
        self.caused_by = caused_by;
        self.direct_due = new;
    }
}
