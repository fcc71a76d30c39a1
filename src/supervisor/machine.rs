//! Every decision of the supervisor, and nothing else: events go in, actions come out, and neither time nor the
//! outside world is touched. The driver beside it (`mod.rs`) does what the actions say.
//!
//! ```text
//!          look                try              commit            bless
//! source ──────► a version ─────────► prepared ─────────► baking ───────► the last good
//!                    │ refused            │ refused          │ condemned
//!                    ▼                    ▼                  ▼
//!               what runs stays, or at the start the last good is tried; what is condemned is quarantined
//! ```

use std::collections::BTreeMap;

pub use super::event::{Action, Asker, Cause, Event, Name, Outcome, Past, Sight, Verdict};
use crate::service::ChangeId;
use crate::source::Version;

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

/// A version in preparation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Try {
    change: ChangeId,
    version: Version,
    cause: Cause,
}

/// The newest version, when it is not served: it could not be prepared, and is worth another try.
#[derive(Debug)]
struct Pending {
    version: Version,
    /// It was merely put aside for something more urgent, and is next.
    due: bool,
}

/// The state of all changes.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    looking: bool,
    trying: Option<Try>,
    /// The version that is served.
    live: Option<Version>,
    /// The version that was blessed last: the way back.
    good: Option<Version>,
    /// The change that put the live version on trial.
    baking: Option<ChangeId>,
    /// The change that is to be undone, until it is.
    undoing: Option<ChangeId>,
    /// A version that was undone, as long as it is the newest.
    quarantined: Option<Version>,
    pending: Option<Pending>,
    /// The newest version can't be used, whatever is tried.
    unusable: bool,
    services: BTreeMap<Name, Run>,
    /// They wait for the look under way.
    askers: Vec<Asker>,
    /// They came too late for it, and wait for the next.
    late: Vec<Asker>,
    /// They wait for the try under way.
    waiting: Vec<Asker>,
    /// They want a try of their own.
    next_try: Vec<Asker>,
    secrets_due: bool,
    /// The version that is served is to be tried with its secrets, as the pending one was, in vain.
    live_due: Option<Cause>,
    changes: u64,
    runs: u64,
}

impl Machine {
    /// A machine that goes on from `past`.
    #[must_use]
    pub fn new(past: Past) -> Self {
        Machine {
            phase: Phase::Running,
            looking: false,
            trying: None,
            live: None,
            good: past.good,
            baking: None,
            undoing: None,
            quarantined: past.quarantined,
            pending: None,
            unusable: false,
            services: BTreeMap::new(),
            askers: Vec::new(),
            late: Vec::new(),
            waiting: Vec::new(),
            next_try: Vec::new(),
            secrets_due: false,
            live_due: None,
            changes: past.changes,
            runs: 0,
        }
    }

    /// Whether nothing is looked for and nothing tried.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.looking && self.trying.is_none()
    }

    /// The version that is to be the way back.
    #[must_use]
    pub fn good(&self) -> Option<&Version> {
        self.good.as_ref()
    }

    /// Whether `version` was undone, and is not to be applied again.
    #[must_use]
    pub fn is_quarantined(&self, version: &Version) -> bool {
        self.quarantined.as_ref() == Some(version)
    }

    /// The number for something that happened outside of every try.
    pub fn next_change(&mut self) -> ChangeId {
        self.changes += 1;
        ChangeId(self.changes)
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
            Event::Asked { asker, .. } if self.phase != Phase::Running => {
                actions.push(Action::Answer { askers: vec![asker], outcome: Outcome::Ended });
            }
            Event::Tried { change, .. } if self.phase != Phase::Running => {
                actions.push(Action::Discard { change });
            }
            _ if self.phase != Phase::Running => {}
            Event::LookDue => {
                if !self.looking {
                    self.look(&mut actions);
                }
            }
            Event::SecretsDue => {
                self.secrets_due = true;
                self.next(&mut actions);
            }
            Event::Asked { asker, force } => {
                if force {
                    self.quarantined = None;
                }
                if self.looking {
                    self.late.push(asker);
                } else {
                    self.askers.push(asker);
                    self.look(&mut actions);
                }
            }
            Event::Looked(sight) => {
                if self.looking {
                    self.looked(sight, &mut actions);
                }
            }
            Event::Overdue => {
                let already = self.trying.as_ref().is_some_and(|trying| Some(&trying.version) == self.good.as_ref());
                if !already {
                    self.fall_back(&mut actions);
                }
            }
            Event::Tried { change, verdict } => self.tried(change, verdict, &mut actions),
            Event::Condemned { change } => self.condemned(change, &mut actions),
            Event::Proven { change } => {
                if self.baking == Some(change) {
                    self.baking = None;
                    self.good.clone_from(&self.live);
                    actions.push(Action::Bless { change });
                }
            }
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

    // ---- looking ---------------------------------------------------------------------------------------------

    fn look(&mut self, actions: &mut Vec<Action>) {
        self.looking = true;
        actions.push(Action::Look);
    }

    fn looked(&mut self, sight: Sight, actions: &mut Vec<Action>) {
        self.looking = false;
        let askers = std::mem::take(&mut self.askers);
        let (outcome, askers) = match sight {
            Sight::New { version, valid } => {
                let undone = self.is_quarantined(&version);
                if !undone {
                    // It is newer than what was undone.
                    self.quarantined = None;
                }
                // It is newer than what could not be prepared before, so that one is history.
                self.pending = None;
                self.unusable = undone || !valid;
                if self.unusable {
                    (Outcome::Refused, askers)
                } else {
                    self.waiting.extend(askers);
                    self.newest(version, actions);
                    (Outcome::Applied, Vec::new())
                }
            }
            Sight::Unusable { .. } => {
                (self.pending, self.unusable) = (None, true);
                (Outcome::Refused, askers)
            }
            // What is asked for by hand is tried in full, even when the text is the same: a secret or a token may be new.
            Sight::Same if !askers.is_empty() && (self.pending.is_some() || self.live.is_some()) => {
                self.next_try.extend(askers);
                (Outcome::Unchanged, Vec::new())
            }
            Sight::Same if self.live.is_none() => (Outcome::Refused, askers),
            Sight::Same => (self.unless_unusable(Outcome::Unchanged), askers),
            Sight::Nothing => (Outcome::Unavailable, askers),
        };
        answer(askers, outcome, actions);
        if self.trying.is_none() {
            self.fall_back(actions);
        }
        self.next(actions);
        self.sleep(!self.looking, false, actions);
    }

    // ---- trying ----------------------------------------------------------------------------------------------

    fn attempt(&mut self, version: Version, cause: Cause, actions: &mut Vec<Action>) {
        let change = self.next_change();
        self.begin(Try { change, version, cause }, actions);
    }

    fn begin(&mut self, new: Try, actions: &mut Vec<Action>) {
        let Try { change, version, cause } = new.clone();
        self.trying = Some(new);
        self.live_due = None;
        self.secrets_due = false;
        actions.push(Action::Try { change, version, cause });
    }

    /// Tries a version that has just come, in place of any other but one that is there to serve at once.
    fn newest(&mut self, version: Version, actions: &mut Vec<Action>) {
        let urgent = |trying: &Try| matches!(trying.cause, Cause::LastGood | Cause::Revert);
        if let Some(trying) = self.trying.as_ref().filter(|trying| urgent(trying)) {
            self.pending = (trying.version != version).then_some(Pending { version, due: true });
        } else {
            self.put_aside(actions);
            self.attempt(version, Cause::Version, actions);
        }
    }

    /// Ends the try under way for something newer or more urgent. Whoever waits for it waits for that.
    fn put_aside(&mut self, actions: &mut Vec<Action>) -> Option<Version> {
        let Try { change, version, .. } = self.trying.take()?;
        actions.push(Action::Discard { change });
        Some(version)
    }

    /// At the start, with nothing served: tries the last good version, if there is one.
    fn fall_back(&mut self, actions: &mut Vec<Action>) {
        if self.live.is_some() {
            return;
        }
        let Some(good) = self.good.clone() else { return };
        if let Some(version) = self.put_aside(actions).filter(|_| !self.unusable) {
            self.pending = Some(Pending { version, due: true });
        }
        self.attempt(good, Cause::LastGood, actions);
    }

    fn tried(&mut self, change: ChangeId, verdict: Verdict, actions: &mut Vec<Action>) {
        let Some(Try { version, cause, .. }) = self.trying.take_if(|trying| trying.change == change) else {
            actions.push(Action::Discard { change });
            return;
        };
        let outcome = match verdict {
            Verdict::Ready { services } => {
                self.commit(change, version, cause, actions);
                self.converge(&services, actions);
                if cause == Cause::Revert { Outcome::Reverted } else { Outcome::Applied }
            }
            Verdict::Same => {
                actions.push(Action::Discard { change });
                Outcome::Unchanged
            }
            Verdict::Refused => {
                actions.push(Action::Discard { change });
                let first = self.live.is_none() && cause != Cause::LastGood;
                if self.live.as_ref() != Some(&version) && cause != Cause::LastGood && cause != Cause::Revert {
                    self.pending = Some(Pending { version, due: false });
                    // A version that can't be prepared shall not keep new secrets from the one that runs.
                    self.live_due = Some(cause).filter(|cause| *cause != Cause::Version);
                }
                if first {
                    self.fall_back(actions);
                }
                if cause == Cause::Revert {
                    // It is tried again when the secrets are due.
                    let askers = [&mut self.waiting, &mut self.next_try].into_iter().flat_map(std::mem::take).collect();
                    answer(askers, Outcome::Refused, actions);
                    return self.sleep(false, true, actions);
                }
                Outcome::Refused
            }
        };
        answer(std::mem::take(&mut self.waiting), self.unless_unusable(outcome), actions);
        self.next(actions);
        self.sleep(false, self.trying.is_none(), actions);
    }

    fn commit(&mut self, change: ChangeId, version: Version, cause: Cause, actions: &mut Vec<Action>) {
        let same = self.live.as_ref() == Some(&version);
        // New secrets for the version that runs leave a newer one pending.
        self.pending.take_if(|pending| pending.version == version);
        actions.push(Action::Commit { change });
        self.undoing = None;
        if cause == Cause::Revert {
            self.live = Some(version);
        } else if !same {
            // The last good version has been watched before.
            self.baking = (self.good.as_ref() != Some(&version)).then_some(change);
            self.live = Some(version);
            if self.baking.is_some() {
                actions.push(Action::Bake { change });
            }
        }
    }

    fn condemned(&mut self, change: ChangeId, actions: &mut Vec<Action>) {
        // The first version has nothing to go back to, and stays on trial.
        if self.baking != Some(change) || self.good.is_none() {
            return;
        }
        self.baking = None;
        self.quarantined.clone_from(&self.live);
        // What is tried now is no news any more once something newer came that can't be.
        let superseded = std::mem::replace(&mut self.unusable, self.pending.is_none());
        if let Some(Try { change, version, .. }) = self.trying.take() {
            actions.push(Action::Discard { change });
            if self.live.as_ref() != Some(&version) && !superseded {
                self.pending = Some(Pending { version, due: true });
            }
        }
        self.undoing = Some(change);
        self.undo(actions);
    }

    /// Goes back to the last good version. What the change caused ends under its own number.
    fn undo(&mut self, actions: &mut Vec<Action>) {
        if let Some((change, version)) = self.undoing.zip(self.good.clone()) {
            self.begin(Try { change, version, cause: Cause::Revert }, actions);
        }
    }

    // ---- services --------------------------------------------------------------------------------------------

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

    // ---- what is next ----------------------------------------------------------------------------------------

    /// Nothing new, and the newest version still changes nothing: whoever asks shall not take that for success.
    fn unless_unusable(&self, outcome: Outcome) -> Outcome {
        if outcome == Outcome::Unchanged && self.unusable { Outcome::Refused } else { outcome }
    }

    fn next(&mut self, actions: &mut Vec<Action>) {
        if !self.looking && !self.late.is_empty() {
            self.askers = std::mem::take(&mut self.late);
            self.look(actions);
        }
        if self.trying.is_some() {
            return;
        }
        if self.undoing.is_some() {
            return self.undo(actions);
        }
        let due = self.pending.as_mut().is_some_and(|pending| std::mem::take(&mut pending.due));
        let newest = self.pending.as_ref().map(|pending| pending.version.clone()).or_else(|| self.live.clone());
        if due && let Some(version) = newest {
            self.attempt(version, Cause::Version, actions);
        } else if !self.next_try.is_empty() {
            let askers = std::mem::take(&mut self.next_try);
            match newest {
                Some(version) => {
                    self.waiting.extend(askers);
                    self.attempt(version, Cause::Asked, actions);
                }
                None => answer(askers, Outcome::Refused, actions),
            }
        } else if let Some((cause, live)) = self.live_due.take().zip(self.live.clone()) {
            self.attempt(live, cause, actions);
        } else if std::mem::take(&mut self.secrets_due)
            && let Some(version) = newest
        {
            self.attempt(version, Cause::Secrets, actions);
        }
    }

    fn sleep(&self, look: bool, secrets: bool, actions: &mut Vec<Action>) {
        let (look, secrets) = (look && !self.looking, secrets && self.trying.is_none());
        if look || secrets {
            actions.push(Action::Sleep { look, secrets });
        }
    }

    fn terminate(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::Draining;
        if let Some(Try { change, .. }) = self.trying.take() {
            actions.push(Action::Discard { change });
        }
        self.looking = false;
        let lists = [&mut self.askers, &mut self.late, &mut self.waiting, &mut self.next_try];
        let askers = lists.into_iter().flat_map(std::mem::take).collect();
        answer(askers, Outcome::Ended, actions);
        actions.push(Action::Drain);
    }
}

fn answer(askers: Vec<Asker>, outcome: Outcome, actions: &mut Vec<Action>) {
    if !askers.is_empty() {
        actions.push(Action::Answer { askers, outcome });
    }
}
