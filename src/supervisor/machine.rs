//! Every decision of the supervisor, and nothing else: events go in, actions come out, and neither time nor the
//! outside world is touched. The driver beside it (`mod.rs`) does what the actions say.

use std::collections::BTreeMap;

use crate::service::ChangeId;
use crate::source::Version;

/// A service's name.
pub type Name = &'static str;

/// Everything that can happen to the supervisor, wherever it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is time to look at the source.
    LookDue,
    /// It is time to look at the secrets.
    SecretsDue,
    /// Somebody wants a look now (SIGHUP, the admin socket), and the answer goes to them.
    Asked(Asker),
    /// A look ended.
    Looked(Sight),
    /// A try ended.
    Tried { change: ChangeId, verdict: Verdict },
    /// A service's task ended although nobody stopped it. `run` is the number of its start.
    Ended { service: Name, run: u64 },
    /// A service served long enough to be trusted again.
    Steady { service: Name, run: u64 },
    /// The delay before a service's next start is over.
    RestartDue { service: Name, run: u64 },
    /// SIGTERM or SIGINT.
    Terminate,
    /// Every service has drained, or the deadline for it has passed.
    Drained,
}

/// Whoever waits for the outcome of a look; the driver knows how to answer them.
pub type Asker = u64;

/// What a look at the source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The version that was seen last.
    Same,
    /// Another version, and whether its text is a valid configuration.
    New { version: Version, valid: bool },
    /// A version that can't even be read as one (too large, a delete marker).
    Unusable { version: Version },
    /// The source brought nothing.
    Nothing,
}

/// How the preparation of a version ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is prepared; these services are asked for.
    Ready { services: Vec<Name> },
    /// It was about secrets only, and they are what they were.
    Same,
    /// It can't be prepared.
    Refused,
}

/// Why a version is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The source has a new version.
    Version,
    /// The secrets are due for a look.
    Secrets,
    /// Somebody asked.
    Asked,
}

/// How a look or a try ended, for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A new state is live.
    Applied,
    /// There was nothing new.
    Unchanged,
    /// There was something new, and it changes nothing.
    Refused,
    /// The source or the secrets could not be asked.
    Unavailable,
    /// perch is ending.
    Ended,
}

/// What the driver shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the source, then say [`Event::Looked`].
    Look,
    /// Prepare this version, then say [`Event::Tried`]. Nothing that runs may be touched.
    Try { change: ChangeId, version: Version, cause: Cause },
    /// Publish what was prepared for this change.
    Commit { change: ChangeId },
    /// Forget what was prepared for this change, if anything was.
    Discard { change: ChangeId },
    /// Start a service's task.
    Start { service: Name, run: u64 },
    /// Stop a service's task and wait for it in the background.
    Stop { service: Name },
    /// Say [`Event::RestartDue`] after a delay that grows with `failures`.
    Delay { service: Name, run: u64, failures: u32 },
    /// Tell everybody who asked.
    Answer { askers: Vec<Asker>, outcome: Outcome },
    /// Wait for the next look at the source.
    Sleep,
    /// Stop every service and say [`Event::Drained`] when they are done.
    Drain,
    /// Leave.
    Exit,
}

/// One service as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    number: u64,
    failures: u32,
    up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining,
    Ended,
}

/// What is being done at the moment; there is never more than one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Busy {
    No,
    Looking,
    Trying { change: ChangeId, version: Version, cause: Cause },
}

/// The state of all changes.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    busy: Busy,
    /// The version that is served.
    live: Option<Version>,
    /// The newest version that is not served, because it could not be prepared: worth another try.
    pending: Option<Version>,
    /// The newest version is no valid configuration.
    invalid: bool,
    services: BTreeMap<Name, Run>,
    /// They wait for the end of what is being done now.
    askers: Vec<Asker>,
    /// They came too late for it, and wait for the next look.
    late: Vec<Asker>,
    look_due: bool,
    secrets_due: bool,
    /// The version that is served is to be tried with its secrets, as the pending one was, in vain.
    live_due: Option<Cause>,
    changes: u64,
    runs: u64,
}

impl Machine {
    /// A machine whose first change has the number after `changes`.
    #[must_use]
    pub fn new(changes: u64) -> Self {
        Machine {
            phase: Phase::Running,
            busy: Busy::No,
            live: None,
            pending: None,
            services: BTreeMap::new(),
            askers: Vec::new(),
            late: Vec::new(),
            look_due: false,
            secrets_due: false,
            live_due: None,
            invalid: false,
            changes,
            runs: 0,
        }
    }

    /// Takes one event and says what follows from it.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Terminate => self.terminate(&mut actions),
            Event::Drained if self.phase == Phase::Draining => {
                self.phase = Phase::Ended;
                actions.push(Action::Exit);
            }
            Event::Asked(asker) if self.phase != Phase::Running => {
                actions.push(Action::Answer { askers: vec![asker], outcome: Outcome::Ended });
            }
            Event::Tried { change, .. } if self.phase != Phase::Running => {
                actions.push(Action::Discard { change });
            }
            _ if self.phase != Phase::Running => {}
            Event::LookDue => {
                self.look_due = self.busy != Busy::Looking;
                self.next(&mut actions);
            }
            Event::SecretsDue => {
                self.secrets_due = true;
                self.next(&mut actions);
            }
            Event::Asked(asker) => {
                if self.busy == Busy::No {
                    self.askers.push(asker);
                    self.look(&mut actions);
                } else {
                    self.late.push(asker);
                }
            }
            Event::Looked(sight) => {
                if self.busy == Busy::Looking {
                    self.looked(sight, &mut actions);
                }
            }
            Event::Tried { change, verdict } => self.tried(change, verdict, &mut actions),
            Event::Ended { service, run } => self.ended(service, run, &mut actions),
            Event::Steady { service, run } => {
                if let Some(known) = self.services.get_mut(service)
                    && known.number == run
                    && known.up
                {
                    known.failures = 0;
                }
            }
            Event::RestartDue { service, run } => self.restart(service, run, &mut actions),
            Event::Drained => {}
        }
        actions
    }

    fn look(&mut self, actions: &mut Vec<Action>) {
        self.busy = Busy::Looking;
        self.look_due = false;
        actions.push(Action::Look);
    }

    fn attempt(&mut self, version: Version, cause: Cause, actions: &mut Vec<Action>) {
        self.changes += 1;
        let change = ChangeId(self.changes);
        self.busy = Busy::Trying { change, version: version.clone(), cause };
        self.live_due = None;
        self.secrets_due = false;
        actions.push(Action::Try { change, version, cause });
    }

    fn looked(&mut self, sight: Sight, actions: &mut Vec<Action>) {
        self.busy = Busy::No;
        let asked = !self.askers.is_empty();
        match sight {
            Sight::New { version, valid: true } => {
                self.invalid = false;
                self.attempt(version, Cause::Version, actions);
            }
            Sight::New { valid: false, .. } | Sight::Unusable { .. } => {
                // It is newer than what could not be prepared before, so that one is history.
                self.pending = None;
                self.invalid = true;
                self.rest(Outcome::Refused, actions);
            }
            // What is asked for by hand is tried in full, even when the text is the same: a secret or a token may be new.
            Sight::Same if asked => match self.pending.clone().or_else(|| self.live.clone()) {
                Some(version) => self.attempt(version, Cause::Asked, actions),
                None => self.rest(Outcome::Refused, actions),
            },
            Sight::Same => self.rest(Outcome::Unchanged, actions),
            Sight::Nothing => self.rest(Outcome::Unavailable, actions),
        }
    }

    fn tried(&mut self, change: ChangeId, verdict: Verdict, actions: &mut Vec<Action>) {
        let Busy::Trying { change: current, version, cause } = self.busy.clone() else {
            actions.push(Action::Discard { change });
            return;
        };
        if current != change {
            actions.push(Action::Discard { change });
            return;
        }
        self.busy = Busy::No;
        match verdict {
            Verdict::Ready { services } => {
                // New secrets for the version that runs leave a newer one pending.
                if self.live.as_ref() != Some(&version) || cause == Cause::Version {
                    self.pending = None;
                }
                self.live = Some(version);
                actions.push(Action::Commit { change });
                self.converge(&services, actions);
                self.rest(Outcome::Applied, actions);
            }
            Verdict::Same => {
                actions.push(Action::Discard { change });
                self.rest(Outcome::Unchanged, actions);
            }
            Verdict::Refused => {
                actions.push(Action::Discard { change });
                if self.live.as_ref() != Some(&version) {
                    self.pending = Some(version);
                    // A version that can't be prepared shall not keep new secrets from the one that runs.
                    self.live_due = Some(cause).filter(|cause| *cause != Cause::Version);
                }
                self.rest(Outcome::Refused, actions);
            }
        }
    }

    /// Starts what the new state asks for and stops what it does not.
    fn converge(&mut self, wanted: &[Name], actions: &mut Vec<Action>) {
        let gone: Vec<Name> = self.services.keys().copied().filter(|name| !wanted.contains(name)).collect();
        for service in gone {
            self.services.remove(service);
            actions.push(Action::Stop { service });
        }
        for service in wanted {
            // One that waits for its restart gets the new state at once: it may be what was missing.
            if self.services.get(service).is_none_or(|run| !run.up) {
                let failures = self.services.get(service).map_or(0, |run| run.failures);
                self.start(service, failures, actions);
            }
        }
    }

    fn start(&mut self, service: Name, failures: u32, actions: &mut Vec<Action>) {
        self.runs += 1;
        self.services.insert(service, Run { number: self.runs, failures, up: true });
        actions.push(Action::Start { service, run: self.runs });
    }

    fn ended(&mut self, service: Name, run: u64, actions: &mut Vec<Action>) {
        if let Some(known) = self.services.get_mut(service)
            && known.number == run
            && known.up
        {
            known.up = false;
            known.failures = known.failures.saturating_add(1);
            actions.push(Action::Delay { service, run, failures: known.failures });
        }
    }

    fn restart(&mut self, service: Name, run: u64, actions: &mut Vec<Action>) {
        if let Some(known) = self.services.get(service)
            && known.number == run
            && !known.up
        {
            let failures = known.failures;
            self.start(service, failures, actions);
        }
    }

    /// What was being done is over: whoever waited hears of it, and whoever came meanwhile is next.
    fn rest(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        // Nothing new, and the newest version still changes nothing: whoever asks shall not take that for success.
        let outcome = if outcome == Outcome::Unchanged && self.invalid { Outcome::Refused } else { outcome };
        let askers = std::mem::take(&mut self.askers);
        if !askers.is_empty() {
            actions.push(Action::Answer { askers, outcome });
        }
        self.next(actions);
        if self.busy == Busy::No {
            actions.push(Action::Sleep);
        }
    }

    fn next(&mut self, actions: &mut Vec<Action>) {
        if self.busy != Busy::No {
            return;
        }
        if !self.late.is_empty() {
            self.askers = std::mem::take(&mut self.late);
            self.look(actions);
        } else if self.look_due {
            self.look(actions);
        } else if let Some((cause, live)) = self.live_due.take().zip(self.live.clone()) {
            self.attempt(live, cause, actions);
        } else if self.secrets_due {
            self.secrets_due = false;
            if let Some(version) = self.pending.clone().or_else(|| self.live.clone()) {
                self.attempt(version, Cause::Secrets, actions);
            }
        }
    }

    fn terminate(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::Draining;
        if let Busy::Trying { change, .. } = &self.busy {
            actions.push(Action::Discard { change: *change });
        }
        self.busy = Busy::No;
        let mut askers = std::mem::take(&mut self.askers);
        askers.append(&mut self.late);
        if !askers.is_empty() {
            actions.push(Action::Answer { askers, outcome: Outcome::Ended });
        }
        actions.push(Action::Drain);
    }
}
