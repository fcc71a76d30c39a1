//! What `status` tells: everything the supervisor knows about itself, as one document.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::machine::Outcome;
use super::prepare::Took;
use crate::config::Mistake;
use crate::service::{Board, ChangeId, Departure, Health, option_unix_seconds, unix_seconds};
use crate::source::Version;
use crate::store::Changes;

/// How many changes `status` has at hand; the database keeps more.
pub const RECENT: u32 = 100;

/// The document behind `perch status`.
#[derive(Serialize)]
pub struct Status {
    pub perch: Process,
    pub config: ConfigStatus,
    /// The newest first.
    pub changes: Vec<Change>,
    pub services: BTreeMap<&'static str, Health>,
    /// What services tell about themselves, by name: `discord`, `http`.
    #[serde(flatten)]
    pub details: BTreeMap<&'static str, serde_json::Value>,
}

/// The process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub version: &'static str,
    pub pid: u32,
    /// Seconds since 1970.
    #[serde(serialize_with = "unix_seconds")]
    pub started: SystemTime,
    pub state_dir: String,
    pub ready: bool,
    /// Why the host is to go, while it is.
    pub departing: Option<Departure>,
}

/// Where the configuration stands.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigStatus {
    pub source: String,
    /// The version that is served.
    pub version: Option<Version>,
    pub state: ConfigState,
    /// Seconds since 1970 at which this version was applied.
    #[serde(serialize_with = "option_unix_seconds")]
    pub since: Option<SystemTime>,
    /// What perch waits for, while it has no configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
    /// The newest version, if it is not the one that is served.
    pub refused: Option<RefusedVersion>,
    /// The version that was blessed last: what perch goes back to, and what it starts with when it has nothing newer.
    pub last_good: Option<GoodVersion>,
    /// Why the source can't be read at the moment.
    pub trouble: Option<Trouble>,
    /// Why secrets can't be read at the moment.
    pub secrets_trouble: Option<Trouble>,
}

/// The state of the configuration that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigState {
    /// There is none yet.
    Waiting,
    /// It is new, and watched: it is undone if it makes things unhealthy.
    Baking,
    Live,
    /// perch started with it, as the newest can't be had or can't be used.
    #[serde(rename = "last good")]
    LastGood,
    /// It makes things unhealthy, and there is nothing to go back to.
    Unhealthy,
    Draining,
}

/// A version that was watched for long enough.
#[derive(Clone, Debug, Serialize)]
pub struct GoodVersion {
    pub version: Version,
    /// Seconds since 1970 at which it had been.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
}

/// A version that changed nothing, and why.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedVersion {
    pub version: Version,
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    pub mistakes: Vec<Mistake>,
    /// It was applied, made things unhealthy, and was undone: it is not tried again unless somebody insists.
    pub quarantined: bool,
}

/// Something outside that does not answer.
#[derive(Clone, Debug, Serialize)]
pub struct Trouble {
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    pub text: String,
    /// How often it was asked in vain.
    pub attempts: u32,
}

/// One change and how it ended. It is kept in the database as it is shown, so a field that is new has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    pub id: ChangeId,
    /// Seconds since 1970 at which it began.
    pub at: u64,
    /// What it began with: `start`, `version`, `secrets`, `asked`.
    pub cause: String,
    /// Who or what brought it, in words.
    #[serde(default)]
    pub by: String,
    pub from: Option<Version>,
    pub to: Version,
    pub outcome: Outcome,
    /// What was seen, where it ended badly.
    #[serde(default)]
    pub reason: String,
    /// What it changed, or would have.
    pub steps: Vec<String>,
    pub mistakes: Vec<Mistake>,
    /// From the look that found it to its commit or refusal, in milliseconds.
    pub took_ms: u64,
    #[serde(flatten)]
    pub took: Took,
    /// The swap itself, in microseconds.
    pub swap_us: u64,
    /// How long it was watched, in milliseconds; `null` while it is, or where nothing was.
    #[serde(default)]
    pub bake_ms: Option<u64>,
    /// The version of perch that made it.
    #[serde(default)]
    pub perch: String,
}

/// A duration in whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment in whole seconds since 1970.
#[must_use]
pub fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The supervisor's own part of the status, written by it alone and read by whoever asks.
pub struct Report {
    inner: Mutex<Inner>,
    board: Arc<Board>,
    kept: Changes,
}

struct Inner {
    process: Process,
    config: ConfigStatus,
    /// The oldest first.
    changes: VecDeque<Change>,
    counts: BTreeMap<&'static str, u64>,
}

impl Report {
    pub fn new(process: Process, source: String, board: Arc<Board>, kept: Changes) -> Self {
        let config = ConfigStatus {
            source,
            version: None,
            state: ConfigState::Waiting,
            since: None,
            waiting_for: String::new(),
            refused: None,
            last_good: None,
            trouble: None,
            secrets_trouble: None,
        };
        let inner = Inner { process, config, changes: VecDeque::new(), counts: BTreeMap::new() };
        Report { inner: Mutex::new(inner), board, kept }
    }

    /// Takes the changes that earlier processes made for the last ones.
    pub(super) async fn remember(&self) {
        let earlier = self.history(RECENT).await;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.changes = earlier.into_iter().rev().filter_map(|change| serde_json::from_value(change).ok()).collect();
    }

    /// The newest changes, those of earlier processes too, the newest first.
    pub async fn history(&self, count: u32) -> Vec<serde_json::Value> {
        let kept = self.kept.newest(count).await;
        kept.iter().filter_map(|record| serde_json::from_str(record).ok()).collect()
    }

    /// The whole status as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            perch: inner.process.clone(),
            config: inner.config.clone(),
            changes: inner.changes.iter().rev().cloned().collect(),
            services: self.board.services(),
            details: self.board.details(),
        }
    }

    /// How often changes ended in each outcome.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }

    pub(super) fn config<T>(&self, edit: impl FnOnce(&mut ConfigStatus) -> T) -> T {
        edit(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).config)
    }

    pub(super) fn ready(&self, ready: bool) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).process.ready = ready;
    }

    pub(super) fn departing(&self, departure: Option<Departure>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).process.departing = departure;
    }

    /// The version that a start finds in the history as the last that was served.
    pub(super) fn last_served(&self) -> Option<Version> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let served = |change: &&Change| matches!(change.outcome, Outcome::Applied | Outcome::Reverted);
        let change = inner.changes.iter().rev().find(served)?;
        if change.outcome == Outcome::Reverted { change.from.clone() } else { Some(change.to.clone()) }
    }

    /// Takes down a change.
    pub(super) fn record(&self, change: Change) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep(&change);
        inner.count(change.outcome);
        if inner.changes.len() >= RECENT as usize {
            inner.changes.pop_front();
        }
        inner.changes.push_back(change);
    }

    /// Takes down what became of a change that was recorded before.
    pub(super) fn amend(&self, id: ChangeId, amend: impl FnOnce(&mut Change)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = inner.changes.iter().rposition(|change| change.id == id) else { return };
        let before = inner.changes[index].outcome;
        amend(&mut inner.changes[index]);
        let change = inner.changes[index].clone();
        if change.outcome != before {
            inner.count(change.outcome);
        }
        self.keep(&change);
    }

    fn keep(&self, change: &Change) {
        if let Ok(record) = serde_json::to_string(change) {
            self.kept.record(change.id.0, record);
        }
    }
}

impl Inner {
    fn count(&mut self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused => "refused",
            Outcome::Reverted => "reverted",
            Outcome::Unavailable => "unavailable",
            Outcome::Ended => "ended",
        };
        *self.counts.entry(name).or_default() += 1;
    }
}
