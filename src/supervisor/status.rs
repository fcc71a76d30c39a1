//! What `status` tells: everything the supervisor knows about itself, as one document.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::machine::{Cause, Outcome};
use crate::config::Mistake;
use crate::service::{Board, ChangeId, Health, unix_seconds};
use crate::source::Version;

/// How many changes are remembered.
const HISTORY: usize = 100;

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
    /// It was applied within the last `reload.bake`.
    Baking,
    Live,
    Draining,
}

/// A version that changed nothing, and why.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedVersion {
    pub version: Version,
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    pub mistakes: Vec<Mistake>,
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

/// One change and how it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    pub id: ChangeId,
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    pub cause: &'static str,
    pub from: Option<Version>,
    pub to: Version,
    pub outcome: Outcome,
    /// What it changed, or would have.
    pub steps: Vec<String>,
    pub mistakes: Vec<Mistake>,
    /// From the look that found it to its end, in milliseconds.
    pub took_ms: u64,
    /// The swap itself, in microseconds.
    pub swap_us: u64,
}

/// A cause as `status` and the journal name it.
#[must_use]
pub fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Version => "version",
        Cause::Secrets => "secrets",
        Cause::Asked => "asked",
    }
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn option_unix_seconds<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => unix_seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The supervisor's own part of the status, written by it alone and read by whoever asks.
pub struct Report {
    inner: Mutex<Inner>,
    board: Arc<Board>,
}

struct Inner {
    process: Process,
    config: ConfigStatus,
    changes: Vec<Change>,
    counts: BTreeMap<&'static str, u64>,
    bake_until: Option<Instant>,
}

impl Report {
    pub fn new(process: Process, source: String, board: Arc<Board>) -> Self {
        let config = ConfigStatus {
            source,
            version: None,
            state: ConfigState::Waiting,
            since: None,
            waiting_for: String::new(),
            refused: None,
            trouble: None,
            secrets_trouble: None,
        };
        let inner = Inner { process, config, changes: Vec::new(), counts: BTreeMap::new(), bake_until: None };
        Report { inner: Mutex::new(inner), board }
    }

    /// The whole status as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = inner.config.clone();
        if config.state == ConfigState::Live && inner.bake_until.is_some_and(|until| Instant::now() < until) {
            config.state = ConfigState::Baking;
        }
        Status {
            perch: inner.process.clone(),
            config,
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

    pub(super) fn bake(&self, length: Duration) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).bake_until = Some(Instant::now() + length);
    }

    pub(super) fn record(&self, change: Change) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match change.outcome {
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused => "refused",
            Outcome::Unavailable => "unavailable",
            Outcome::Ended => "ended",
        };
        *inner.counts.entry(outcome).or_default() += 1;
        if inner.changes.len() == HISTORY {
            inner.changes.remove(0);
        }
        inner.changes.push(change);
    }
}
