//! Keeps the services running and changes them: one loop that turns what happens into [`machine::Event`]s and does
//! what the [`machine`] answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aws::Aws;
use crate::chat::history::History;
use crate::config::{Config, Mistake, show_duration};
use crate::secrets::{Kept, Secret};
use crate::service::{Blame, Board, ChangeId, Departure, Health, Live, Readiness, Service, State};
use crate::source::{self, Look, SourceError, Uri, Version};
use crate::store::{self, Store};
use crate::systemd;
use crate::telemetry::LevelHandle;
use crate::telemetry::metrics::Source;

mod announce;
mod backoff;
mod bake;
mod change;
mod credentials;
mod departure;
mod event;
mod last_good;
mod look;
pub mod machine;
#[cfg(test)]
mod machine_tests;
mod prepare;
mod refusals;
mod services;
mod state_dir;
pub mod status;
mod substitute;
mod trial;

use backoff::{held_delay, poll_delay};
use bake::Bake;
use change::Attempt;
use credentials::Credentials;
use machine::{Action, Asker, Event, Machine, Name, Outcome, Past};
use refusals::Refusals;
use status::{ConfigState, Process, Report};
use trial::Good;

pub use state_dir::StateDir;

/// Between two looks before any configuration has said how often.
const FIRST_POLL: Duration = Duration::from_secs(2);
/// How long systemd shall wait on, each time it is told that perch still waits for its configuration.
const START_EXTENSION: Duration = Duration::from_mins(1);
/// How often it is told so.
const EXTENSION_PACE: Duration = Duration::from_secs(10);
/// How long a start waits for the newest version before it serves the last good one.
const OVERDUE: Duration = Duration::from_secs(2);
/// How long a start waits for the disk to say what earlier processes knew.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the last words (the admin socket's answers) may take once the services have drained.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a daemon is started with.
pub struct Options {
    pub uri: Uri,
    pub aws: Aws,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub services: Vec<Arc<dyn Service>>,
    /// What outlives the process; it is opened once the state directory is this process's own.
    pub store: Store,
    /// What became of the changes before.
    pub changes: store::Changes,
    /// What people said; the admin socket shows it.
    pub history: Arc<History>,
    /// Secrets that outlive the process without the disk.
    pub kept: Kept,
    pub level: LevelHandle,
    /// What `GET /metrics` shows beside the supervisor's own.
    pub metrics: Arc<[Arc<dyn Source>]>,
    /// The simulator that stands in for Discord (`perch dev`).
    pub simulator: Option<Simulated>,
}

/// What `perch dev` puts in place of what the configuration says: where the simulator is and the token it takes.
pub struct Simulated {
    pub api_url: String,
    /// An address that somebody else listens at, and the one to take for it.
    pub elsewhere: Option<(SocketAddr, SocketAddr)>,
    pub token: Secret,
}

impl Simulated {
    fn stand_in(&self, config: &mut Config) {
        if let Some(discord) = &mut config.discord {
            discord.api_url = Some(self.api_url.clone());
        }
        if let (Some(http), Some((usual, free))) = (&mut config.http, self.elsewhere)
            && http.listen == usual
        {
            http.listen = free;
        }
    }
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Drained,
    /// The drain's deadline passed with work unfinished.
    DeadlineMissed,
    /// A second signal cut the drain short.
    Interrupted,
    /// The configuration file is no valid configuration.
    Configuration,
    /// It could not begin.
    Failed,
}

/// The answer to whoever asked for a look.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Answer {
    pub outcome: Outcome,
    pub version: Option<Version>,
    /// The version that was refused, if one was.
    pub refused: Option<Version>,
    pub mistakes: Vec<Mistake>,
    pub steps: Vec<String>,
    /// How long the version is going to be watched, in seconds; 0 where it is not, or there is nothing to go back to.
    pub bake: u64,
    pub text: String,
}

/// Somebody who wants a look now.
pub struct Ask {
    pub reply: oneshot::Sender<Answer>,
    /// Who that is, in words.
    pub by: String,
    /// A version that was undone gets another chance.
    pub force: bool,
}

/// Everything that comes to the loop.
pub enum Message {
    Looked { result: Result<Look, SourceError>, took: Duration },
    Prepared { change: ChangeId, report: Box<prepare::Report> },
    Asked(Ask),
    ProbeFailed { change: ChangeId, why: String },
    GoodSaved { version: Version },
    ServiceEnded { service: Name, run: u64, why: String },
    Steady { service: Name, run: u64 },
    Departing(Option<Departure>),
    RestartDue { service: Name, run: u64 },
    Drained { in_time: bool },
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// When it can't begin: the state directory or the admin socket can't be made.
pub async fn run(options: Options) -> anyhow::Result<End> {
    let state_dir = StateDir::open(&options.state_dir)?;
    let board = Arc::new(Board::default());
    let process = Process {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        started: SystemTime::now(),
        state_dir: state_dir.path().display().to_string(),
        ready: false,
        departing: None,
    };
    let memory = options.store.clone();
    memory.open(state_dir.path().to_owned(), Arc::clone(&board), store::Pace::default());
    let report = Arc::new(Report::new(process, options.uri.to_string(), Arc::clone(&board), options.changes.clone()));
    let (sender, messages) = mpsc::channel(64);
    let tasks = TaskTracker::new();
    let admin = crate::admin::Admin {
        report: Arc::clone(&report),
        supervisor: sender.clone(),
        metrics: Arc::clone(&options.metrics),
        history: Arc::clone(&options.history),
    };
    let admin_stop = CancellationToken::new();
    let admin_task = crate::admin::start(admin, &options.runtime_dir, admin_stop.clone())?;
    let history = Arc::clone(&options.history);
    let mut supervisor = Supervisor::new(options, board, report, sender, tasks, state_dir.path().to_owned());
    supervisor.recall().await;
    let end = supervisor.live(messages).await?;
    admin_stop.cancel();
    drop(tokio::time::timeout(LAST_WORDS, admin_task).await);
    drop(tokio::time::timeout(LAST_WORDS, history.settle()).await);
    // A disk that hangs keeps its thread and not the process.
    drop(tokio::time::timeout(LAST_WORDS, tokio::task::spawn_blocking(move || memory.close())).await);
    drop(state_dir);
    Ok(end)
}

struct Supervisor {
    machine: Machine,
    source: Arc<dyn source::Source>,
    uri: Uri,
    aws: Aws,
    kept: Kept,
    refusals: Arc<Refusals>,
    credentials: Credentials,
    services: Arc<[Arc<dyn Service>]>,
    level: LevelHandle,
    simulator: Option<Simulated>,
    state_dir: PathBuf,
    store: Store,
    history: store::Changes,
    board: Arc<Board>,
    report: Arc<Report>,
    sender: mpsc::Sender<Message>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the watch for announcements that the host is to go.
    departure_watch: Option<CancellationToken>,
    /// What is announced, for the services.
    departure: watch::Sender<Option<Departure>>,
    /// Published when the first version is committed.
    live: Option<watch::Sender<Arc<Live>>>,
    /// What to go back to.
    good: Option<Good>,
    /// It is not on the disk yet.
    unsaved: bool,
    /// The version that was seen last, whatever became of it.
    seen: Option<Version>,
    /// The valid configurations that are, or may yet be, tried: the live one, the last good one and the newest.
    configs: BTreeMap<Version, Loaded>,
    attempt: Option<Attempt>,
    /// What the newest commit touched, and how the services were before it.
    touched: Option<(BTreeSet<Name>, BTreeMap<Name, Health>)>,
    /// The live version while it is on trial.
    bake: Option<Bake>,
    /// What the database says of a version that was put on trial and not blessed.
    fate: Option<store::Trial>,
    running: BTreeMap<Name, CancellationToken>,
    /// The services that nothing asks for at the moment.
    idling: BTreeMap<Name, CancellationToken>,
    askers: BTreeMap<Asker, oneshot::Sender<Answer>>,
    next_asker: Asker,
    /// Who asked for the newest look; empty where it was due by itself.
    asked_by: String,
    look_took: Duration,
    /// What the last look or try has to say to those who asked.
    last: LastWord,
    next_look: Option<Instant>,
    next_secrets: Option<Instant>,
    /// When a start that serves nothing yet is to take the last good version.
    overdue: Option<Instant>,
    /// When to drain, once perch was told to end.
    drain_due: Option<Instant>,
    /// How often in a row the source, or the secrets, were asked in vain, and a service was held back.
    source_failures: u32,
    secrets_failures: u32,
    held: u32,
    reloading: bool,
    ready: bool,
    /// What systemd was told last.
    status_line: String,
    exit: Option<End>,
    /// What was last said of each refused version, so that the same words are not said again at each try.
    said: BTreeMap<Version, String>,
}

/// A valid configuration, and the text it was read from.
#[derive(Clone)]
struct Loaded {
    config: Arc<Config>,
    bytes: Arc<[u8]>,
}

#[derive(Default)]
struct LastWord {
    refused: Option<Version>,
    mistakes: Vec<Mistake>,
    steps: Vec<String>,
    text: String,
}

impl Supervisor {
    fn new(
        options: Options,
        board: Arc<Board>,
        report: Arc<Report>,
        sender: mpsc::Sender<Message>,
        tasks: TaskTracker,
        state_dir: PathBuf,
    ) -> Self {
        Supervisor {
            machine: Machine::new(Past::default()),
            source: source::open(&options.uri, &options.aws),
            uri: options.uri,
            aws: options.aws,
            kept: options.kept,
            refusals: Arc::new(Refusals::new(Arc::clone(&board))),
            credentials: Credentials::default(),
            services: options.services.into(),
            level: options.level,
            simulator: options.simulator,
            state_dir,
            history: options.changes,
            store: options.store,
            board,
            report,
            sender,
            tasks,
            stop: CancellationToken::new(),
            departure_watch: None,
            departure: watch::Sender::new(None),
            live: None,
            good: None,
            unsaved: false,
            seen: None,
            configs: BTreeMap::new(),
            attempt: None,
            touched: None,
            bake: None,
            fate: None,
            running: BTreeMap::new(),
            idling: BTreeMap::new(),
            askers: BTreeMap::new(),
            next_asker: 0,
            asked_by: String::new(),
            look_took: Duration::ZERO,
            last: LastWord::default(),
            next_look: Some(Instant::now()),
            next_secrets: None,
            overdue: None,
            drain_due: None,
            source_failures: 0,
            secrets_failures: 0,
            held: 0,
            reloading: false,
            ready: false,
            status_line: String::new(),
            exit: None,
            said: BTreeMap::new(),
        }
    }

    /// The loop. Whatever happens comes through here, one thing at a time.
    async fn live(&mut self, mut messages: mpsc::Receiver<Message>) -> anyhow::Result<End> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut watchdog = tokio::time::interval(systemd::watchdog_pace().unwrap_or(Duration::from_hours(1)));
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut extension = tokio::time::interval(EXTENSION_PACE);
        let board = Arc::clone(&self.board);
        let mut signalled = false;
        self.watch_departure();
        while self.exit.is_none() {
            tokio::select! {
                Some(message) = messages.recv() => self.take(message),
                _ = terminate.recv() => self.signal(&mut signalled),
                _ = interrupt.recv() => self.signal(&mut signalled),
                _ = hangup.recv() => {
                    tracing::info!(service = "supervisor", "SIGHUP: looking for a new configuration and new secrets");
                    self.ask(Ask { reply: oneshot::channel().0, by: "SIGHUP".to_owned(), force: false });
                }
                () = until(self.drain_due) => {
                    self.drain_due = None;
                    self.on(Event::Terminate);
                }
                () = until(self.next_look), if self.drain_due.is_none() => {
                    self.next_look = None;
                    self.asked_by.clear();
                    self.on(Event::LookDue);
                }
                () = until(self.overdue) => {
                    self.overdue = None;
                    self.on(Event::Overdue);
                    self.idle_rest();
                }
                () = until(self.bake.as_ref().map(|bake| bake.due(Instant::now()))), if self.drain_due.is_none() => self.judge_bake(),
                () = until(self.next_secrets), if self.drain_due.is_none() => {
                    self.next_secrets = None;
                    self.on(Event::SecretsDue);
                }
                () = until(self.credentials.due()), if self.drain_due.is_none() => {
                    self.credentials.looked(Instant::now());
                    self.on(Event::SecretsDue);
                }
                () = board.changed() => {
                    self.judge_bake();
                    self.credentials.note(!board.blamed().is_empty(), Instant::now());
                }
                _ = watchdog.tick() => systemd::watchdog(),
                _ = extension.tick(), if !self.ready => systemd::extend_start(START_EXTENSION),
            }
            self.tell_systemd();
        }
        Ok(self.exit.unwrap_or(End::Failed))
    }

    fn signal(&mut self, signalled: &mut bool) {
        if std::mem::replace(signalled, true) {
            tracing::warn!(service = "supervisor", "a second signal: ending at once, with work unfinished");
            self.exit = Some(End::Interrupted);
            return;
        }
        systemd::stopping();
        self.pause_trial();
        self.report.config(|config| config.state = ConfigState::Draining);
        self.report.ready(false);
        let unready = self.live.as_ref().map_or(Duration::ZERO, |live| live.borrow().config.run.unready);
        if unready.is_zero() {
            tracing::info!(service = "supervisor", "draining: finishing what is in flight, then ending");
            return self.on(Event::Terminate);
        }
        let shown = show_duration(unready);
        tracing::info!(
            service = "supervisor",
            "ending: /ready answers 503 for {shown} while requests are served, then what is in flight is finished"
        );
        self.be_unready();
        self.drain_due = Some(Instant::now() + unready);
    }

    fn ask(&mut self, Ask { reply, by, force }: Ask) {
        self.next_asker += 1;
        let asker = self.next_asker;
        self.askers.insert(asker, reply);
        self.asked_by = by;
        if force {
            self.lift_quarantine();
        }
        for service in self.services.iter() {
            service.asked();
        }
        self.begin_reload();
        self.on(Event::Asked { asker, force });
    }

    fn begin_reload(&mut self) {
        if self.ready && !self.reloading {
            self.reloading = true;
            systemd::reloading();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Looked { result, took } => {
                self.look_took = took;
                let sight = self.judge(result);
                self.on(Event::Looked(sight));
            }
            Message::Prepared { change, report } => {
                self.note_secrets_trouble(change, &report);
                let verdict = self.verdict(change, *report);
                self.on(Event::Tried { change, verdict });
            }
            Message::Asked(ask) => self.ask(ask),
            Message::GoodSaved { version } => {
                self.unsaved &= self.good.as_ref().is_none_or(|good| good.version != version);
            }
            Message::ProbeFailed { change, why } => {
                if self.bake.as_ref().is_some_and(|bake| bake.change == change) {
                    self.condemn(&why);
                }
            }
            Message::ServiceEnded { service, run, why } => {
                self.board.set(service, run, State::Recovering, Blame::Configuration, why);
                self.on(Event::Ended { service, run });
            }
            Message::Departing(announced) => self.depart(announced),
            Message::Steady { service, run } => self.on(Event::Steady { service, run }),
            Message::RestartDue { service, run } => self.on(Event::RestartDue { service, run }),
            Message::Drained { in_time } => {
                self.exit = Some(if in_time { End::Drained } else { End::DeadlineMissed });
                self.on(Event::Drained);
            }
        }
    }

    fn on(&mut self, event: Event) {
        for action in self.machine.on(event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Look => self.look(),
            Action::Try { change, version, cause } => self.attempt(change, version, cause),
            Action::Commit { change } => {
                self.commit(change);
                self.watch_departure();
            }
            Action::Bake { change } => self.begin_bake(change),
            Action::Bless { change } => self.bless(change),
            Action::Discard { change } => {
                if let Some(attempt) = self.attempt.take_if(|attempt| attempt.change == change) {
                    attempt.cancel.cancel();
                    self.withdraw_trial(&attempt.version);
                }
            }
            Action::Start { service, run } => self.start(service, run),
            Action::Stop { service } => {
                if let Some(stop) = self.running.remove(service) {
                    stop.cancel();
                }
                self.board.remove(service);
            }
            Action::Delay { service, run, failures } => self.delay(service, run, failures),
            Action::Answer { askers, outcome } => self.answer(&askers, outcome),
            Action::Sleep { look, secrets } => self.sleep(look, secrets),
            Action::Drain => self.drain(),
            Action::Exit => {}
        }
    }

    fn answer(&mut self, askers: &[Asker], outcome: Outcome) {
        let version = self.live.as_ref().map(|live| live.borrow().version.clone());
        if outcome == Outcome::Refused && self.last.refused.is_none() {
            // It was refused when it came, and nothing was said of it since.
            let refused = self.report.config(|config| config.refused.clone());
            self.last.mistakes = refused.as_ref().map(|refused| refused.mistakes.clone()).unwrap_or_default();
            self.last.refused = refused.map(|refused| refused.version);
        }
        let answer = Answer {
            outcome,
            version,
            refused: self.last.refused.clone().filter(|_| outcome == Outcome::Refused),
            mistakes: self.last.mistakes.clone(),
            steps: self.last.steps.clone(),
            bake: self.bake.as_ref().filter(|_| self.good.is_some()).map_or(0, |bake| bake.length().as_secs()),
            text: self.last.text.clone(),
        };
        for asker in askers {
            if let Some(reply) = self.askers.remove(asker) {
                // Whoever asked may have gone.
                drop(reply.send(answer.clone()));
            }
        }
    }

    /// Sets the alarm for the next look at the source, at the secrets, or both.
    fn sleep(&mut self, look: bool, secrets: bool) {
        if self.machine.is_idle() && std::mem::take(&mut self.reloading) {
            systemd::ready();
        }
        if self.live.is_some() || self.machine.is_idle() {
            self.idle_rest();
        }
        let live = self.live.as_ref().map(|live| Arc::clone(&live.borrow()));
        let reload = live.as_ref().map(|live| live.config.reload.clone());
        let poll = reload.as_ref().map_or(FIRST_POLL, |reload| reload.poll);
        // Neither alarm is reset but by what it is for, so that the more frequent one does not push the other away for
        // ever.
        if look {
            self.save_last_good(None);
            let due = Instant::now() + poll_delay(self.source.pace(poll), self.source_failures);
            self.next_look = Some(self.next_look.map_or(due, |next| next.min(due)));
        }
        if secrets {
            let waits = |part: &Readiness| matches!(part, Readiness::Held { state: State::Waiting, .. });
            let held = live.as_ref().is_none_or(|live| live.parts.values().any(waits));
            self.held = if held { self.held + 1 } else { 0 };
            let delay = if self.secrets_failures > 0 {
                poll_delay(poll, self.secrets_failures)
            } else if held {
                held_delay(poll, self.held)
            } else {
                reload.map_or(poll, |reload| reload.secrets)
            };
            let due = Instant::now() + delay;
            self.next_secrets = Some(self.next_secrets.map_or(due, |next| next.min(due)));
        }
    }
}

/// Completes at `moment`, and never where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
