//! Keeps the services running and changes them: one loop that turns what happens into [`machine::Event`]s and does
//! what the [`machine`] answers.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aws::Aws;
use crate::config::{Config, Mistake, Mistakes, plan};
use crate::secrets::Secret;
use crate::service::{Board, ChangeId, Context, Live, Readiness, Reporter, Service, State};
use crate::source::{self, Look, Source, SourceError, Uri, Version};
use crate::systemd;
use crate::telemetry::{LevelHandle, panics};

mod backoff;
pub mod machine;
#[cfg(test)]
mod machine_tests;
mod prepare;
mod state_dir;
pub mod status;

use backoff::{poll_delay, restart_delay};
use machine::{Action, Asker, Cause, Event, Machine, Name, Outcome, Sight, Verdict};
use prepare::{Preparation, Prepared};
use status::{Change, ConfigState, Process, RefusedVersion, Report, Trouble};

pub use state_dir::StateDir;

/// Between two looks before any configuration has said how often.
const FIRST_POLL: Duration = Duration::from_secs(2);
/// A look takes no longer than this; each source has shorter time-outs of its own.
const LOOK_TIMEOUT: Duration = Duration::from_secs(45);
/// A service that ran this long without failing starts again from the shortest delay.
const STEADY: Duration = Duration::from_mins(1);
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
    pub level: LevelHandle,
    /// Text that `GET /metrics` shows beside the supervisor's own.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The simulator that stands in for Discord (`perch dev`).
    pub simulator: Option<Simulated>,
}

/// Where the simulator is and the token it takes.
pub struct Simulated {
    pub api_url: String,
    pub token: Secret,
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

/// A version in preparation.
struct Trial {
    change: ChangeId,
    version: Version,
    cause: Cause,
    started: Instant,
    prepared: Option<Live>,
    cancel: CancellationToken,
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
                self.board.set(service, run, State::Recovering, why);
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

    // ---- look ------------------------------------------------------------------------------------------------

    fn look(&mut self) {
        self.next_look = None;
        self.last = LastWord::default();
        let source = Arc::clone(&self.source);
        let seen = self.seen.clone();
        let sender = self.sender.clone();
        let stop = self.stop.clone();
        let uri = self.uri.to_string();
        self.tasks.spawn(async move {
            let look = tokio::time::timeout(LOOK_TIMEOUT, source.look(seen.as_ref()));
            let result = tokio::select! {
                result = look => result.unwrap_or_else(|_| {
                    let text = format!("{uri} did not answer within {} s", LOOK_TIMEOUT.as_secs());
                    Err(SourceError::Unavailable(text))
                }),
                () = stop.cancelled() => return,
            };
            // The loop outlives every task but at the very end, when nobody needs the result.
            drop(sender.send(Message::Looked(result)).await);
        });
    }

    /// What a look found, with the text judged, and the journal told of what is new.
    fn judge(&mut self, result: Result<Look, SourceError>) -> Sight {
        match result {
            Ok(look) => {
                self.source_answers();
                match look {
                    Look::Unchanged => Sight::Same,
                    Look::Found(found) => self.judge_found(&found),
                }
            }
            Err(SourceError::Unusable { version, text }) => {
                self.source_answers();
                if self.seen.as_ref() == Some(&version) {
                    return Sight::Same;
                }
                self.seen = Some(version.clone());
                self.forget_pending();
                let mistakes = vec![Mistake { place: crate::config::Place::default(), text }];
                self.refuse(None, &version, Cause::Version, mistakes, Vec::new(), Duration::ZERO);
                Sight::Unusable { version }
            }
            Err(SourceError::Absent(text)) => self.source_brings_nothing(text, false),
            Err(SourceError::Unavailable(text)) => self.source_brings_nothing(text, true),
        }
    }

    fn judge_found(&mut self, found: &source::Found) -> Sight {
        self.seen = Some(found.version.clone());
        let version = found.version.clone();
        match Config::load(&found.bytes) {
            Ok(mut config) => {
                if let (Some(simulator), Some(discord)) = (&self.simulator, &mut config.discord) {
                    discord.api_url = Some(simulator.api_url.clone());
                }
                self.forget_pending();
                self.configs.insert(version.clone(), Arc::new(config));
                Sight::New { version, valid: true }
            }
            Err(Mistakes(mistakes)) => {
                self.forget_pending();
                self.refuse(None, &version, Cause::Version, mistakes, Vec::new(), Duration::ZERO);
                if self.live.is_none() && matches!(self.uri, Uri::File(_)) {
                    self.exit = Some(End::Configuration);
                }
                Sight::New { version, valid: false }
            }
        }
    }

    /// A newer version has come, so none but the live one is tried any more.
    fn forget_pending(&mut self) {
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        self.configs.retain(|known, _| Some(known) == live.as_ref());
    }

    /// The source answers; if it did not before, that is over.
    fn source_answers(&mut self) {
        self.source_failures = 0;
        if let Some(trouble) = self.report.config(|config| config.trouble.take()) {
            let lasted = trouble.since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(
                service = "supervisor",
                "{} can be read after {lasted} s (attempts in vain: {})",
                self.uri,
                trouble.attempts
            );
        }
    }

    /// The source brings nothing. The journal hears of it once, however long it lasts.
    fn source_brings_nothing(&mut self, text: String, outage: bool) -> Sight {
        self.last.text.clone_from(&text);
        // An object that is not there yet is looked for at the full pace: somebody is about to upload it.
        self.source_failures = if outage { self.source_failures + 1 } else { 0 };
        let first = self.report.config(|config| {
            let first = config.trouble.is_none();
            let trouble = config.trouble.get_or_insert_with(|| Trouble {
                since: SystemTime::now(),
                text: String::new(),
                attempts: 0,
            });
            trouble.attempts += 1;
            trouble.text.clone_from(&text);
            first
        });
        if self.live.is_none() {
            if matches!(self.uri, Uri::File(_)) {
                tracing::error!(service = "supervisor", "no configuration: {text}");
                self.exit = Some(End::Configuration);
            } else if first {
                tracing::warn!(service = "supervisor", "waiting for a configuration: {text}");
            }
            self.report.config(|config| config.waiting_for = text);
        } else if first {
            tracing::warn!(service = "supervisor", "what runs goes on, without newer versions: {text}");
        }
        Sight::Nothing
    }

    // ---- try -------------------------------------------------------------------------------------------------

    fn attempt(&mut self, change: ChangeId, version: Version, cause: Cause) {
        let Some(config) = self.configs.get(&version).cloned() else {
            // The machine names only versions that it was given as valid, so this is a fault of ours.
            tracing::error!(service = "supervisor", change = %change, "version {version} is to be tried but is unknown");
            let verdict = Verdict::Refused;
            return self.on(Event::Tried { change, verdict });
        };
        if cause == Cause::Version {
            self.begin_reload();
        }
        self.next_secrets = None;
        let cancel = self.stop.child_token();
        let preparation = Preparation {
            change,
            version: version.clone(),
            config,
            why: cause,
            running: self.live.as_ref().map(|live| Arc::clone(&live.borrow())),
            services: Arc::clone(&self.services),
            aws: self.aws.clone(),
            parked: self.board.services().values().any(|health| health.state == State::Parked),
            simulated: self.simulator.as_ref().map(|simulator| simulator.token.clone()),
        };
        self.trial =
            Some(Trial { change, version, cause, started: Instant::now(), prepared: None, cancel: cancel.clone() });
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let prepared = AssertUnwindSafe(preparation.run()).catch_unwind();
            let (prepared, troubles) = tokio::select! {
                result = prepared => result.unwrap_or_else(|payload| {
                    let text = format!("perch panicked while preparing it: {}", panics::text(payload.as_ref()));
                    let problem = crate::service::Problem {
                        place: crate::config::Place::default(),
                        text,
                        cause: crate::service::Cause::Broken,
                    };
                    (Prepared::Refused(vec![problem]), Vec::new())
                }),
                () = cancel.cancelled() => return,
            };
            drop(sender.send(Message::Prepared { change, prepared: Box::new(prepared), troubles }).await);
        });
    }

    /// What a preparation came to, with the journal told.
    fn verdict(&mut self, change: ChangeId, prepared: Prepared) -> Verdict {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.change == change) else { return Verdict::Refused };
        match prepared {
            Prepared::Same => {
                // With no other version to try, nothing that could not be asked is waited for any more.
                if self.configs.len() == 1 {
                    self.secrets_failures = 0;
                }
                Verdict::Same
            }
            Prepared::Ready(live) => {
                let services = live.parts.keys().copied().collect();
                trial.prepared = Some(live);
                Verdict::Ready { services }
            }
            Prepared::Refused(problems) => {
                let (version, cause, took) = (trial.version.clone(), trial.cause, trial.started.elapsed());
                let unavailable = problems.iter().any(|problem| problem.cause == crate::service::Cause::Unavailable);
                self.secrets_failures = if unavailable { self.secrets_failures + 1 } else { 0 };
                let mistakes =
                    problems.into_iter().map(|problem| Mistake { place: problem.place, text: problem.text }).collect();
                let steps = self.steps_to(&version);
                self.refuse(Some(change), &version, cause, mistakes, steps, took);
                if self.live.is_none() && matches!(self.uri, Uri::File(_)) && !unavailable {
                    self.exit = Some(End::Failed);
                }
                Verdict::Refused
            }
        }
    }

    /// What going to `version` changes, in words.
    fn steps_to(&self, version: &Version) -> Vec<String> {
        let old = self.live.as_ref().map(|live| Arc::clone(&live.borrow().config));
        match (old, self.configs.get(version)) {
            (Some(old), Some(new)) => plan::plan(&old, new).iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// Puts down a version that changes nothing.
    fn refuse(
        &mut self,
        change: Option<ChangeId>,
        version: &Version,
        cause: Cause,
        mistakes: Vec<Mistake>,
        steps: Vec<String>,
        took: Duration,
    ) {
        let list = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect::<String>();
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        // A secret that turned bad under a running version refuses the secret, not the version.
        let what = if live.as_ref() == Some(version) { "new secrets for version" } else { "version" };
        let text = format!("{what} {version} refused:{list}");
        self.said.retain(|known, _| known == version || Some(known) == live.as_ref());
        if self.said.get(version) != Some(&text) {
            let goes_on = match &live {
                Some(live) => format!("version {live} stays in use"),
                None => "there is no earlier version to run".to_owned(),
            };
            tracing::error!(
                service = "supervisor",
                change = change.map(|change| change.0),
                config_version = %version,
                "{what} {version} refused, {goes_on}:{list}"
            );
            self.said.insert(version.clone(), text);
            self.report.record(Change {
                id: change.unwrap_or(ChangeId(0)),
                at: SystemTime::now(),
                cause: status::cause_name(cause),
                from: live.clone(),
                to: version.clone(),
                outcome: Outcome::Refused,
                steps,
                mistakes: mistakes.clone(),
                took_ms: millis(took),
                swap_us: 0,
            });
        }
        let refused = RefusedVersion { version: version.clone(), at: SystemTime::now(), mistakes: mistakes.clone() };
        let waiting = live.is_none();
        self.report.config(|config| {
            if waiting {
                config.waiting_for = format!("version {version} of {} was refused; upload a good one", config.source);
            }
            config.refused = Some(refused);
        });
        self.last = LastWord { refused: Some(version.clone()), mistakes, steps: Vec::new(), text: String::new() };
    }

    fn note_secrets_trouble(&mut self, change: ChangeId, prepared: &Prepared, troubles: &[String]) {
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        let of_live =
            self.trial.as_ref().is_some_and(|trial| trial.change == change && Some(&trial.version) == live.as_ref());
        // A version that is refused tells nothing of the secrets in use.
        if !of_live && !matches!(prepared, Prepared::Ready(_)) {
            return;
        }
        let text = troubles.join("; ");
        let had = self.report.config(|config| {
            let had = config.secrets_trouble.clone();
            config.secrets_trouble = (!text.is_empty()).then(|| Trouble {
                since: had.as_ref().map_or_else(SystemTime::now, |had| had.since),
                attempts: had.as_ref().map_or(0, |had| had.attempts) + 1,
                text: text.clone(),
            });
            had
        });
        match (had, text.is_empty()) {
            (None, false) => {
                tracing::warn!(service = "supervisor", "secrets can't be read, those in use stay in use: {text}");
            }
            (Some(had), true) => {
                let lasted = had.since.elapsed().unwrap_or_default().as_secs();
                tracing::info!(service = "supervisor", "secrets can be read again after {lasted} s");
            }
            _ => {}
        }
    }

    // ---- commit ----------------------------------------------------------------------------------------------

    /// Publishes what was prepared. There is no await here: services see the old state or the new, never a mixture.
    fn commit(&mut self, change: ChangeId) {
        let Some(Trial { cause, started, prepared: Some(live), .. }) =
            self.trial.take().filter(|trial| trial.change == change)
        else {
            return;
        };
        let steps = self.steps_to(&live.version);
        let swap = Instant::now();
        let live = Arc::new(live);
        let old = match &self.live {
            Some(sender) => Some(sender.send_replace(Arc::clone(&live))),
            None => {
                self.live = Some(watch::Sender::new(Arc::clone(&live)));
                None
            }
        };
        let from = old.as_ref().map(|old| old.version.clone());
        self.level.set(live.config.log.level);
        let swap_us = u64::try_from(swap.elapsed().as_micros()).unwrap_or(u64::MAX);
        let took_ms = millis(started.elapsed());
        let same = from.as_ref() == Some(&live.version);
        self.said.remove(&live.version);
        if !same || self.seen.as_ref() == Some(&live.version) {
            self.said.clear();
            self.configs.retain(|version, _| *version == live.version);
            self.secrets_failures = 0;
        }
        self.report.config(|config| {
            config.version = Some(live.version.clone());
            config.waiting_for.clear();
            if config.refused.as_ref().is_some_and(|_| self.seen.as_ref() == Some(&live.version)) {
                config.refused = None;
            }
            if !same {
                config.state = ConfigState::Live;
                config.since = Some(SystemTime::now());
            }
        });
        if !same {
            self.report.bake(live.config.reload.bake);
        }
        if old.as_deref().is_some_and(|old| same && still_held(old, &live)) {
            // Nothing came of it but another reason to wait.
            return self.tell_held(change, old.as_deref(), &live);
        }
        let what = what_came(from.is_some(), same, cause, &steps);
        tracing::info!(service = "supervisor", change = %change, config_version = %live.version, "{what}");
        self.tell_held(change, old.as_deref(), &live);
        self.report.record(Change {
            id: change,
            at: SystemTime::now(),
            cause: status::cause_name(cause),
            from,
            to: live.version.clone(),
            outcome: Outcome::Applied,
            steps: steps.clone(),
            mistakes: Vec::new(),
            took_ms,
            swap_us,
        });
        self.last = LastWord { steps, ..LastWord::default() };
    }

    /// Says which services the new state holds back, unless the old one did so for the same reason.
    fn tell_held(&self, change: ChangeId, old: Option<&Live>, live: &Live) {
        for (name, part) in &live.parts {
            let Readiness::Held { state, reason } = part else { continue };
            if old.and_then(|old| old.parts.get(name)).is_some_and(|old| old.is_held_like(part)) {
                continue;
            }
            let version = &live.version;
            if *state == State::Parked {
                tracing::error!(service = name, change = %change, config_version = %version,
                    "{name} is parked until a person acts: {reason}");
            } else {
                tracing::warn!(service = name, change = %change, config_version = %version, "{name} is waiting: {reason}");
            }
        }
    }

    // ---- services --------------------------------------------------------------------------------------------

    fn start(&mut self, service: Name, run: u64) {
        let Some(known) = self.services.iter().find(|known| known.name() == service).cloned() else { return };
        let Some(live) = self.live.as_ref() else { return };
        let stop = CancellationToken::new();
        self.running.insert(service, stop.clone());
        self.board.begin(service, run);
        let context = Context {
            live: live.subscribe(),
            stop: stop.clone(),
            reporter: Reporter::new(service, run, Arc::clone(&self.board)),
        };
        let sender = self.sender.clone();
        self.tasks.spawn(panics::SERVICE.scope(service, async move {
            let steady = sender.clone();
            let serve = AssertUnwindSafe(known.run(context)).catch_unwind();
            tokio::pin!(serve);
            let early = tokio::time::timeout(STEADY, &mut serve).await;
            let result = match early {
                Ok(result) => result,
                Err(_) => {
                    drop(steady.send(Message::Steady { service, run }).await);
                    serve.await
                }
            };
            let why = match result {
                Ok(Ok(())) if stop.is_cancelled() => return,
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(payload) => format!("it panicked: {}", panics::text(payload.as_ref())),
            };
            if !stop.is_cancelled() {
                drop(sender.send(Message::ServiceEnded { service, run, why }).await);
            }
        }));
    }

    fn delay(&mut self, service: Name, run: u64, failures: u32) {
        let delay = restart_delay(failures);
        let why = self.board.services().get(service).map(|health| health.reason.clone()).unwrap_or_default();
        let seconds = delay.as_secs_f32();
        tracing::error!(service, "{service} failed and is started again in {seconds:.1} s: {why}");
        self.board.restarted(service);
        self.board.set(service, run, State::Recovering, format!("{why}; it is started again after {seconds:.1} s"));
        let (sender, stop) = (self.sender.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => drop(sender.send(Message::RestartDue { service, run }).await),
                () = stop.cancelled() => {}
            }
        });
    }

    // ---- rest ------------------------------------------------------------------------------------------------

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

    fn drain(&mut self) {
        self.stop.cancel();
        for stop in self.running.values() {
            stop.cancel();
        }
        self.tasks.close();
        let limit = self.live.as_ref().map_or(Duration::from_secs(1), |live| live.borrow().config.run.drain);
        let (tasks, sender) = (self.tasks.clone(), self.sender.clone());
        // Not in the tracker it waits for; it ends with the loop that takes its message.
        tokio::spawn(async move {
            let in_time = tokio::time::timeout(limit, tasks.wait()).await.is_ok();
            if !in_time {
                tracing::error!(
                    service = "supervisor",
                    "the drain's deadline of {} s passed with work unfinished",
                    limit.as_secs()
                );
            }
            drop(sender.send(Message::Drained { in_time }).await);
        });
    }

    /// READY once it is true, and the line that `systemctl status` shows, when it is another one.
    fn tell_systemd(&mut self) {
        let services = self.board.services();
        let draining = self.stop.is_cancelled();
        let config = self.report.config(|config| config.clone());
        if !self.ready
            && !draining
            && self.live.is_some()
            // Only listeners hold it back: it never waits for Discord.
            && services.get(crate::http::NAME).is_none_or(|http| http.state == State::Running)
        {
            self.ready = true;
            self.report.ready(true);
            systemd::ready();
        }
        let line = status_line(&config, &services, draining);
        if line != self.status_line {
            systemd::status(&line);
            self.status_line = line;
        }
    }
}

/// What a commit came to, in words; `same` says that its version ran before.
fn what_came(had_one: bool, same: bool, cause: Cause, steps: &[String]) -> String {
    match (had_one, same) {
        (false, _) => "first configuration applied".to_owned(),
        // An object or a file that has its former text again.
        (true, true) if cause == Cause::Version => "the version that runs is the newest again".to_owned(),
        (true, true) => "secrets looked at anew and applied".to_owned(),
        (true, false) if steps.is_empty() => "new version applied; it changes nothing but its text".to_owned(),
        (true, false) => {
            let list = steps.iter().map(|step| format!("\n  {step}")).collect::<String>();
            format!("new version applied:{list}")
        }
    }
}

/// Whether `live` has the secrets of `old` and holds back the same services.
fn still_held(old: &Live, live: &Live) -> bool {
    let held = |live: &Live| live.parts.values().map(|part| matches!(part, Readiness::Held { .. })).collect::<Vec<_>>();
    old.secrets == live.secrets && held(old).contains(&true) && held(old) == held(live)
}

/// One line for people.
fn status_line(
    config: &status::ConfigStatus,
    services: &BTreeMap<Name, crate::service::Health>,
    draining: bool,
) -> String {
    if draining {
        return "draining: finishing what is in flight".to_owned();
    }
    let Some(version) = &config.version else {
        let what = if config.waiting_for.is_empty() { &config.source } else { &config.waiting_for };
        return format!("waiting for a configuration: {what}");
    };
    let services = services.iter().map(|(name, health)| match health.reason.as_str() {
        "" => format!("{name} {}", health.state),
        reason => format!("{name} {} ({reason})", health.state),
    });
    let mut line = format!("configuration {version}; {}", services.collect::<Vec<_>>().join(", "));
    if let Some(refused) = &config.refused {
        line.push_str(&format!("; newer version {} refused", refused.version));
    }
    if config.trouble.is_some() {
        line.push_str(&format!("; {} can't be read", config.source));
    }
    line
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Completes at `moment`, and never where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
