//! Keeps the services running and changes them: one loop that turns what happens into [`machine::Event`]s and does
//! what the [`machine`] answers.

use std::collections::BTreeMap;
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
use crate::config::{Config, Mistake};
use crate::secrets::Secret;
use crate::service::{Blame, Board, ChangeId, Live, Readiness, Service, State};
use crate::source::{self, Look, Source, SourceError, Uri, Version};
use crate::store::{self, Store};
use crate::systemd;
use crate::telemetry::LevelHandle;

mod announce;
mod backoff;
mod change;
mod look;
pub mod machine;
#[cfg(test)]
mod machine_tests;
mod prepare;
mod services;
mod state_dir;
pub mod status;

use backoff::poll_delay;
use change::Trial;
use machine::{Action, Asker, Event, Machine, Name, Outcome};
use prepare::Prepared;
use status::{ConfigState, Process, Report};

pub use state_dir::StateDir;

/// Between two looks before any configuration has said how often.
const FIRST_POLL: Duration = Duration::from_secs(2);
/// How long systemd shall wait on, each time it is told that perch still waits for its configuration.
const START_EXTENSION: Duration = Duration::from_mins(1);
/// How often it is told so.
const EXTENSION_PACE: Duration = Duration::from_secs(10);
/// How long the last words (the admin socket's answers) may take once the services have drained.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a daemon is started with.
pub struct Options {
    pub uri: Uri,
    pub aws: Aws,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub services: Vec<Arc<dyn Service>>,
    /// What the services remember; it is opened once the state directory is this process's own.
    pub store: Store,
    pub level: LevelHandle,
    /// Text that `GET /metrics` shows beside the supervisor's own.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
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
    pub text: String,
}

/// Everything that comes to the loop.
pub enum Message {
    Looked(Result<Look, SourceError>),
    Prepared { change: ChangeId, prepared: Box<Prepared>, troubles: Vec<String> },
    Asked(oneshot::Sender<Answer>),
    ServiceEnded { service: Name, run: u64, why: String },
    Steady { service: Name, run: u64 },
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
    };
    let memory = options.store.clone();
    memory.open(state_dir.path().to_owned(), Arc::clone(&board), store::Pace::default());
    let report = Arc::new(Report::new(process, options.uri.to_string(), Arc::clone(&board)));
    let (sender, messages) = mpsc::channel(64);
    let tasks = TaskTracker::new();
    let admin = crate::admin::Admin {
        report: Arc::clone(&report),
        supervisor: sender.clone(),
        metrics: Arc::clone(&options.metrics),
    };
    let admin_stop = CancellationToken::new();
    let admin_task = crate::admin::start(admin, &options.runtime_dir, admin_stop.clone())?;
    let mut supervisor = Supervisor::new(options, board, report, sender, tasks);
    let end = supervisor.live(messages).await?;
    admin_stop.cancel();
    drop(tokio::time::timeout(LAST_WORDS, admin_task).await);
    // A disk that hangs keeps its thread and not the process.
    drop(tokio::time::timeout(LAST_WORDS, tokio::task::spawn_blocking(move || memory.close())).await);
    drop(state_dir);
    Ok(end)
}

struct Supervisor {
    machine: Machine,
    source: Arc<dyn Source>,
    uri: Uri,
    aws: Aws,
    services: Arc<[Arc<dyn Service>]>,
    level: LevelHandle,
    simulator: Option<Simulated>,
    board: Arc<Board>,
    report: Arc<Report>,
    sender: mpsc::Sender<Message>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Published when the first version is committed.
    live: Option<watch::Sender<Arc<Live>>>,
    /// The version that was seen last, whatever became of it.
    seen: Option<Version>,
    /// The valid configurations that are, or may yet be, tried: the live one and the newest.
    configs: BTreeMap<Version, Arc<Config>>,
    trial: Option<Trial>,
    running: BTreeMap<Name, CancellationToken>,
    askers: BTreeMap<Asker, oneshot::Sender<Answer>>,
    next_asker: Asker,
    /// What the last look or try has to say to those who asked.
    last: LastWord,
    next_look: Option<Instant>,
    next_secrets: Option<Instant>,
    /// How often in a row the source, or the secrets, were asked in vain.
    source_failures: u32,
    secrets_failures: u32,
    reloading: bool,
    ready: bool,
    /// What systemd was told last.
    status_line: String,
    exit: Option<End>,
    /// What was last said of each refused version, so that the same words are not said again at each try.
    said: BTreeMap<Version, String>,
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
    ) -> Self {
        Supervisor {
            machine: Machine::new(0),
            source: source::open(&options.uri, &options.aws),
            uri: options.uri,
            aws: options.aws,
            services: options.services.into(),
            level: options.level,
            simulator: options.simulator,
            board,
            report,
            sender,
            tasks,
            stop: CancellationToken::new(),
            live: None,
            seen: None,
            configs: BTreeMap::new(),
            trial: None,
            running: BTreeMap::new(),
            askers: BTreeMap::new(),
            next_asker: 0,
            last: LastWord::default(),
            next_look: Some(Instant::now()),
            next_secrets: None,
            source_failures: 0,
            secrets_failures: 0,
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
        while self.exit.is_none() {
            tokio::select! {
                Some(message) = messages.recv() => self.take(message),
                _ = terminate.recv() => self.signal(&mut signalled),
                _ = interrupt.recv() => self.signal(&mut signalled),
                _ = hangup.recv() => {
                    tracing::info!(service = "supervisor", "SIGHUP: looking for a new configuration and new secrets");
                    self.ask(oneshot::channel().0);
                }
                () = until(self.next_look) => {
                    self.next_look = None;
                    self.on(Event::LookDue);
                }
                () = until(self.next_secrets) => {
                    self.next_secrets = None;
                    self.on(Event::SecretsDue);
                }
                () = board.changed() => {}
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
        tracing::info!(service = "supervisor", "draining: finishing what is in flight, then ending");
        systemd::stopping();
        self.report.config(|config| config.state = ConfigState::Draining);
        self.report.ready(false);
        self.on(Event::Terminate);
    }

    fn ask(&mut self, reply: oneshot::Sender<Answer>) {
        self.next_asker += 1;
        self.askers.insert(self.next_asker, reply);
        self.begin_reload();
        self.on(Event::Asked(self.next_asker));
    }

    fn begin_reload(&mut self) {
        if self.ready && !self.reloading {
            self.reloading = true;
            systemd::reloading();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Looked(result) => {
                let sight = self.judge(result);
                self.on(Event::Looked(sight));
            }
            Message::Prepared { change, prepared, troubles } => {
                self.note_secrets_trouble(change, &prepared, &troubles);
                let verdict = self.verdict(change, *prepared);
                self.on(Event::Tried { change, verdict });
            }
            Message::Asked(reply) => self.ask(reply),
            Message::ServiceEnded { service, run, why } => {
                self.board.set(service, run, State::Recovering, Blame::Configuration, why);
                self.on(Event::Ended { service, run });
            }
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
            Action::Commit { change } => self.commit(change),
            Action::Discard { change } => {
                if self.trial.as_ref().is_some_and(|trial| trial.change == change)
                    && let Some(trial) = self.trial.take()
                {
                    trial.cancel.cancel();
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
            Action::Sleep => self.sleep(),
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
            text: self.last.text.clone(),
        };
        for asker in askers {
            if let Some(reply) = self.askers.remove(asker) {
                // Whoever asked may have gone.
                drop(reply.send(answer.clone()));
            }
        }
    }

    /// Sets the two alarms: the next look at the source, and the next look at the secrets.
    fn sleep(&mut self) {
        if std::mem::take(&mut self.reloading) {
            systemd::ready();
        }
        let live = self.live.as_ref().map(|live| Arc::clone(&live.borrow()));
        let reload = live.as_ref().map(|live| live.config.reload.clone());
        let poll = reload.as_ref().map_or(FIRST_POLL, |reload| reload.poll);
        let pace = self.source.pace(poll);
        let look_due = Instant::now() + poll_delay(pace, self.source_failures);
        let held = live.as_ref().is_some_and(|live| {
            live.parts.values().any(|part| matches!(part, Readiness::Held { state: State::Waiting, .. }))
        });
        let secrets = if self.secrets_failures > 0 {
            poll_delay(poll, self.secrets_failures)
        } else if held || live.is_none() {
            poll
        } else {
            reload.map_or(poll, |reload| reload.secrets)
        };
        let secrets_due = Instant::now() + secrets;
        // Neither alarm was reset but by what it is for, so that the more frequent one does not push the other away
        // for ever.
        self.next_look = Some(self.next_look.map_or(look_due, |next| next.min(look_due)));
        self.next_secrets = Some(self.next_secrets.map_or(secrets_due, |next| next.min(secrets_due)));
    }
}

/// Completes at `moment`, and never where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
