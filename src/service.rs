//! What a service is to the supervisor: something that prepares without touching what runs, and then converges on
//! whatever state was published last.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chat::Responder;
use crate::config::{Config, Place};
use crate::secrets::SecretValues;
use crate::source::Version;

/// A part of perch that serves people: it starts, fails and restarts alone.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Its name in the configuration, in `status` and in the journal's `PERCH_SERVICE`.
    fn name(&self) -> &'static str;

    /// Whether this configuration asks for it.
    fn wanted(&self, config: &Config) -> bool;

    /// Makes ready all that can fail (sockets bound, tokens tried) and touches nothing that runs. What it returns is
    /// published in [`Live`], and its own [`run`](Service::run) finds it there.
    ///
    /// # Errors
    /// Every reason why `next` can't be served.
    async fn prepare(&self, next: &Next<'_>, running: Option<&Live>) -> Result<Part, Vec<Problem>>;

    /// Asks itself, as somebody outside would, whether it does what it is there for in the state `live`. A version on
    /// trial that makes this fail is undone.
    ///
    /// # Errors
    /// What did not work, for people.
    async fn probe(&self, live: &Live) -> Result<(), String> {
        let _nothing_to_ask = live;
        Ok(())
    }

    /// Somebody asked for a look at everything (`perch reload`, SIGHUP): what it waits with is due now.
    fn asked(&self) {}

    /// What it does while nothing asks for it, until `stop` is cancelled; most services do nothing then.
    async fn idle(&self, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// Serves until `context.stop` is cancelled, then drains and returns. It follows every state published in
    /// `context.live`. A panic or an error is the supervisor's to log; it runs the service again after a delay.
    ///
    /// # Errors
    /// What made it end although nobody asked it to.
    async fn run(&self, context: Context) -> anyhow::Result<()>;
}

/// What `prepare` made, for the service's own eyes.
pub type Part = Arc<dyn Any + Send + Sync>;

/// The configuration about to be tried.
pub struct Next<'a> {
    pub config: &'a Config,
    pub secrets: &'a SecretValues,
    /// Somebody asked for this look (`perch reload`, SIGHUP), so a credential is tried again even if it is unchanged.
    pub asked: bool,
}

/// The one state that all services serve. It is published whole and never changed.
pub struct Live {
    pub change: ChangeId,
    pub version: Version,
    pub config: Arc<Config>,
    pub secrets: SecretValues,
    pub responder: Arc<dyn Responder>,
    pub parts: BTreeMap<&'static str, Readiness>,
}

/// Whether a service may serve.
#[derive(Clone)]
pub enum Readiness {
    Ready(Part),
    /// It waits or is parked from the start, and `reason` says for what.
    Held {
        state: State,
        reason: String,
    },
}

impl Live {
    /// The services that are held back since they were prepared.
    pub fn held(&self) -> impl Iterator<Item = &'static str> {
        self.parts.iter().filter(|(_, part)| matches!(part, Readiness::Held { .. })).map(|(name, _)| *name)
    }

    /// What the service named `name` prepared, if it prepared a `T`.
    #[must_use]
    pub fn part<T: Send + Sync + 'static>(&self, name: &str) -> Option<Arc<T>> {
        match self.parts.get(name)? {
            Readiness::Ready(part) => Arc::clone(part).downcast().ok(),
            Readiness::Held { .. } => None,
        }
    }
}

/// What a running service is given.
pub struct Context {
    pub live: watch::Receiver<Arc<Live>>,
    /// Cancelled when the service shall drain and return.
    pub stop: CancellationToken,
    /// Set while the host is to go: the service leaves its work to another host, and stays to take it up again.
    pub departure: Leaving,
    pub reporter: Reporter,
}

/// Whether the host is to go, as it stands.
pub type Leaving = watch::Receiver<Option<Departure>>;

/// An announcement that the host is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Departure {
    pub notice: Notice,
    /// Seconds since 1970 at which the host goes, where the announcement says it.
    #[serde(serialize_with = "option_unix_seconds")]
    pub at: Option<SystemTime>,
    /// What is announced, for people.
    pub reason: String,
}

impl Departure {
    /// Whether work is to be left to another host: not yet where perch itself is about to end, and starts again.
    #[must_use]
    pub fn leaves_work(&self) -> bool {
        self.notice != Notice::Termination
    }
}

/// Who announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// EC2 takes a spot instance back.
    SpotInterruption,
    /// Auto Scaling ends the instance, or puts it by.
    AutoScaling,
    /// EC2 recommends to replace a spot instance before it is taken back.
    Rebalance,
    /// perch itself was told to end, and gives load balancers time to notice. Nothing else is left yet.
    Termination,
}

/// One reason why a version can't be prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub place: Place,
    pub text: String,
    pub cause: Cause,
}

/// What kind of reason it is: at boot, all but [`Cause::Broken`] hold back one service and not the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A secret is not there (yet).
    Missing,
    /// A credential was refused by the other side.
    Refused,
    /// The other side can't be asked at the moment.
    Unavailable,
    /// It can't work as written: a port taken, say.
    Broken,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Ties together everything one change caused: `PERCH_CHANGE` in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeId(pub u64);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not there yet: connecting, binding.
    Starting,
    /// It serves.
    Running,
    /// It needs something that is not there yet, and looks for it.
    Waiting,
    /// It lost what it serves and is coming back by itself.
    Recovering,
    /// Trying again can't help; a person must act.
    Parked,
    /// It finishes what is in flight.
    Draining,
    /// It does not run.
    Stopped,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Waiting => "waiting",
            State::Recovering => "recovering",
            State::Parked => "parked",
            State::Draining => "draining",
            State::Stopped => "stopped",
        })
    }
}

/// What a failure can come from, as far as whoever reports it can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// Nothing that perch was told: an outage, a lost network, or no failure at all.
    #[default]
    Others,
    /// What the configuration asks for: intents that are not granted, an address that does not answer.
    Configuration,
    /// A secret in use: a token or a key that is refused. A newer one may be there, or the configuration name a wrong one.
    Credential,
}

/// What `status` shows of a service.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    pub state: State,
    /// Seconds since 1970 at which it came into this state.
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    /// Why it is not running; empty while it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How often it was started again after a panic or an error.
    pub restarts: u32,
    /// What its failure may come from.
    #[serde(skip)]
    pub blame: Blame,
    /// How often it was reported on.
    #[serde(skip)]
    pub reports: u64,
    /// When it was running last, if it is not running now.
    #[serde(skip)]
    pub ran_until: Option<Instant>,
    /// The number of the start that may report.
    #[serde(skip)]
    run: u64,
}

impl Health {
    fn turn(&mut self, state: State, blame: Blame, reason: String) {
        self.reports += 1;
        if self.state == State::Running && state != State::Running {
            self.ran_until = Some(Instant::now());
        }
        if self.state != state {
            self.since = SystemTime::now();
        }
        self.state = state;
        self.blame = blame;
        self.reason = reason;
    }
}

/// Serializes a time as whole seconds since 1970.
///
/// # Errors
/// The serializer's own.
pub fn unix_seconds<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    serializer.serialize_u64(since.as_secs())
}

/// The same of a time that may not be known.
///
/// # Errors
/// The serializer's own.
pub fn option_unix_seconds<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => unix_seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// Where services say how they are, and where `status` reads it.
#[derive(Default)]
pub struct Board {
    services: Mutex<BTreeMap<&'static str, Health>>,
    details: Mutex<BTreeMap<&'static str, serde_json::Value>>,
    changed: tokio::sync::Notify,
}

impl Board {
    fn begin(&self, name: &'static str, run: u64) {
        {
            let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            let health = services.entry(name).or_insert_with(|| Health {
                state: State::Stopped,
                since: SystemTime::now(),
                reason: String::new(),
                restarts: 0,
                blame: Blame::Others,
                reports: 0,
                ran_until: None,
                run,
            });
            health.run = run;
            health.turn(State::Starting, Blame::Others, String::new());
        }
        self.changed.notify_one();
    }

    /// Puts down a service's state; `since` moves only when the state does. What has been removed, or started again
    /// since, is not there to be put down.
    pub fn set(&self, name: &'static str, run: u64, state: State, blame: Blame, reason: impl Into<String>) {
        {
            let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(health) = services.get_mut(name).filter(|health| health.run == run) else { return };
            health.turn(state, blame, reason.into());
        }
        self.changed.notify_one();
    }

    fn set_details(&self, name: &'static str, run: u64, value: serde_json::Value) {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.get(name).is_some_and(|health| health.run == run) {
            self.details.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
        }
    }

    /// Shows something that is no service: its `details`, and while there is `trouble` with it, that among the services.
    pub fn remark(&self, name: &'static str, trouble: Option<String>, details: serde_json::Value) {
        {
            let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            self.details.lock().unwrap_or_else(PoisonError::into_inner).insert(name, details);
            match trouble {
                Some(reason) => {
                    let health = services.entry(name).or_insert_with(|| Health {
                        state: State::Recovering,
                        since: SystemTime::now(),
                        reason: String::new(),
                        restarts: 0,
                        blame: Blame::Others,
                        reports: 0,
                        ran_until: None,
                        run: 0,
                    });
                    health.turn(State::Recovering, Blame::Others, reason);
                }
                None => drop(services.remove(name)),
            }
        }
        self.changed.notify_one();
    }

    /// Counts one more start after a panic or an error.
    pub fn restarted(&self, name: &'static str) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = services.get_mut(name) {
            health.restarts += 1;
        }
    }

    /// Forgets a service that the configuration no longer asks for.
    pub fn remove(&self, name: &'static str) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.remove(name);
        self.details.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        drop(services);
        self.changed.notify_one();
    }

    /// Every service's state.
    #[must_use]
    pub fn services(&self) -> BTreeMap<&'static str, Health> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The services whose credential is refused, with what they say of it.
    #[must_use]
    pub fn blamed(&self) -> BTreeMap<&'static str, String> {
        let blamed = |(name, health): (_, Health)| (health.blame == Blame::Credential).then_some((name, health.reason));
        self.services().into_iter().filter_map(blamed).collect()
    }

    /// What services tell about themselves beyond their state.
    #[must_use]
    pub fn details(&self) -> BTreeMap<&'static str, serde_json::Value> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Completes at the next change of a state.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The pen of one start of a service for the [`Board`]. Once the service is gone or started again it writes nothing.
#[derive(Clone)]
pub struct Reporter {
    name: &'static str,
    run: u64,
    board: Arc<Board>,
}

impl Reporter {
    /// The pen of the service's start number `run`. From now on no other start of it may write.
    #[must_use]
    pub fn new(name: &'static str, run: u64, board: Arc<Board>) -> Self {
        board.begin(name, run);
        Reporter { name, run, board }
    }

    /// Says how the service is; `reason` is a sentence for people, empty while it runs.
    pub fn state(&self, state: State, reason: impl Into<String>) {
        self.board.set(self.name, self.run, state, Blame::Others, reason);
    }

    /// Says that the service is not as it should be, and that this may come from what perch was told.
    pub fn failed(&self, state: State, blame: Blame, reason: impl Into<String>) {
        self.board.set(self.name, self.run, state, blame, reason);
    }

    /// Shows `details` under the service's name in `status --json`.
    pub fn details(&self, details: serde_json::Value) {
        self.board.set_details(self.name, self.run, details);
    }
}
