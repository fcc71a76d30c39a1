//! The machine, driven with random events and held against what must always be true.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::machine::*;
use crate::service::ChangeId;
use crate::source::Version;

const SERVICES: [Name; 3] = ["discord", "http", "other"];

/// An event in the rough: numbers are folded into whatever is there when it comes.
#[derive(Clone, Debug)]
enum Rough {
    LookDue,
    SecretsDue,
    Asked,
    Looked(u8, bool),
    Unusable(u8),
    Same,
    Nothing,
    /// The end of the newest try, or of one long past.
    Tried {
        stale: bool,
        verdict: u8,
        services: u8,
    },
    Ended(u8, bool),
    Steady(u8),
    RestartDue(u8, bool),
    Terminate,
    Drained,
}

fn rough() -> impl Strategy<Value = Rough> {
    prop_oneof![
        4 => Just(Rough::LookDue),
        2 => Just(Rough::SecretsDue),
        2 => Just(Rough::Asked),
        6 => (0..6_u8, prop::bool::weighted(0.7)).prop_map(|(version, valid)| Rough::Looked(version, valid)),
        1 => (0..6_u8).prop_map(Rough::Unusable),
        2 => Just(Rough::Same),
        1 => Just(Rough::Nothing),
        6 => (prop::bool::weighted(0.1), 0..6_u8, 0..8_u8)
            .prop_map(|(stale, verdict, services)| Rough::Tried { stale, verdict, services }),
        3 => (0..3_u8, prop::bool::weighted(0.2)).prop_map(|(service, stale)| Rough::Ended(service, stale)),
        1 => (0..3_u8).prop_map(Rough::Steady),
        3 => (0..3_u8, prop::bool::weighted(0.2)).prop_map(|(service, stale)| Rough::RestartDue(service, stale)),
        1 => Just(Rough::Terminate),
        1 => Just(Rough::Drained),
    ]
}

/// What an observer of the actions knows.
#[derive(Default)]
struct Model {
    /// Changes whose preparation was asked for, and not yet ended.
    trying: Option<ChangeId>,
    version_of: BTreeMap<ChangeId, Version>,
    last_change: u64,
    looking: bool,
    /// What the newest commit asks for.
    committed: Option<(ChangeId, BTreeSet<Name>)>,
    prepared: BTreeMap<ChangeId, BTreeSet<Name>>,
    valid: BTreeSet<Version>,
    /// Tasks that run, and the number of their start.
    running: BTreeMap<Name, u64>,
    /// Starts that ended and wait for another.
    waiting: BTreeMap<Name, u64>,
    asked: BTreeSet<Asker>,
    next_asker: Asker,
    terminated: bool,
    exited: bool,
}

impl Model {
    fn event(&mut self, rough: &Rough) -> Option<Event> {
        let version = |number: u8| Version(format!("v{number}"));
        Some(match rough {
            Rough::LookDue => Event::LookDue,
            Rough::SecretsDue => Event::SecretsDue,
            Rough::Asked => {
                self.next_asker += 1;
                self.asked.insert(self.next_asker);
                Event::Asked(self.next_asker)
            }
            Rough::Looked(number, valid) if self.looking => {
                self.looking = false;
                if *valid {
                    self.valid.insert(version(*number));
                }
                Event::Looked(Sight::New { version: version(*number), valid: *valid })
            }
            Rough::Unusable(number) if self.looking => {
                self.looking = false;
                Event::Looked(Sight::Unusable { version: version(*number) })
            }
            Rough::Same if self.looking => {
                self.looking = false;
                Event::Looked(Sight::Same)
            }
            Rough::Nothing if self.looking => {
                self.looking = false;
                Event::Looked(Sight::Nothing)
            }
            Rough::Looked(..) | Rough::Unusable(_) | Rough::Same | Rough::Nothing => return None,
            Rough::Tried { stale: true, services, .. } => Event::Tried {
                change: ChangeId(self.last_change.saturating_sub(1)),
                verdict: Verdict::Ready { services: chosen(*services) },
            },
            Rough::Tried { verdict, services, .. } => {
                let change = self.trying.take()?;
                let verdict = match verdict {
                    0 => Verdict::Refused,
                    1 => Verdict::Same,
                    _ => Verdict::Ready { services: chosen(*services) },
                };
                if let Verdict::Ready { services } = &verdict {
                    self.prepared.insert(change, services.iter().copied().collect());
                }
                Event::Tried { change, verdict }
            }
            Rough::Ended(service, stale) => {
                let service = SERVICES[usize::from(*service)];
                let run = *self.running.get(service)?;
                if *stale {
                    return Some(Event::Ended { service, run: run.wrapping_sub(1) });
                }
                self.running.remove(service);
                self.waiting.insert(service, run);
                Event::Ended { service, run }
            }
            Rough::Steady(service) => {
                let service = SERVICES[usize::from(*service)];
                Event::Steady { service, run: *self.running.get(service)? }
            }
            Rough::RestartDue(service, stale) => {
                let service = SERVICES[usize::from(*service)];
                let run = *self.waiting.get(service)?;
                Event::RestartDue { service, run: if *stale { run.wrapping_sub(1) } else { run } }
            }
            Rough::Terminate => {
                self.terminated = true;
                Event::Terminate
            }
            Rough::Drained => Event::Drained,
        })
    }

    fn observe(&mut self, action: Action) -> Result<(), TestCaseError> {
        let harmless = matches!(action, Action::Answer { .. } | Action::Discard { .. });
        prop_assert!(!self.exited || harmless, "{action:?} after the exit");
        match action {
            Action::Look => {
                prop_assert!(!self.looking && self.trying.is_none(), "one thing at a time");
                prop_assert!(!self.terminated);
                self.looking = true;
            }
            Action::Try { change, version, .. } => {
                prop_assert!(!self.looking && self.trying.is_none(), "one thing at a time");
                prop_assert!(!self.terminated);
                prop_assert!(change.0 > self.last_change, "changes are numbered upwards");
                prop_assert!(self.valid.contains(&version), "only a valid version is tried");
                self.last_change = change.0;
                self.version_of.insert(change, version);
                self.trying = Some(change);
            }
            Action::Commit { change } => {
                prop_assert!(!self.terminated, "nothing is committed while draining");
                let services = self.prepared.remove(&change);
                prop_assert!(services.is_some(), "only what was prepared is committed, and once");
                let newer = self.committed.as_ref().is_none_or(|(last, _)| *last < change);
                prop_assert!(newer, "an older change never replaces a newer one");
                self.committed = services.map(|services| (change, services));
            }
            Action::Discard { change } => {
                self.prepared.remove(&change);
                if self.trying == Some(change) {
                    self.trying = None;
                }
            }
            Action::Start { service, run } => {
                prop_assert!(!self.terminated, "nothing starts while draining");
                let (_, services) = self.committed.clone().unwrap_or((ChangeId(0), BTreeSet::new()));
                prop_assert!(services.contains(service), "{service} belongs to no committed version");
                prop_assert!(!self.running.contains_key(service), "{service} runs twice");
                self.waiting.remove(service);
                self.running.insert(service, run);
            }
            Action::Stop { service } => {
                self.running.remove(service);
                self.waiting.remove(service);
            }
            Action::Delay { service, run, failures } => {
                prop_assert!(failures > 0);
                prop_assert_eq!(self.waiting.get(service), Some(&run));
            }
            Action::Answer { askers, .. } => {
                for asker in askers {
                    prop_assert!(self.asked.remove(&asker), "everybody is answered once");
                }
            }
            Action::Sleep => prop_assert!(!self.looking && self.trying.is_none()),
            Action::Drain => prop_assert!(self.terminated),
            Action::Exit => self.exited = true,
        }
        Ok(())
    }

    /// What holds between any two events.
    fn settled(&self) -> Result<(), TestCaseError> {
        let wanted = self.committed.as_ref().map(|(_, services)| services.clone()).unwrap_or_default();
        let known: BTreeSet<Name> = self.running.keys().chain(self.waiting.keys()).copied().collect();
        if !self.terminated {
            prop_assert_eq!(known, wanted, "what runs or waits to run is what the one live version asks for");
            if !self.looking && self.trying.is_none() {
                prop_assert!(self.asked.is_empty(), "nobody is left waiting");
            }
        }
        Ok(())
    }
}

fn chosen(bits: u8) -> Vec<Name> {
    SERVICES.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0).map(|(_, name)| *name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_version_is_live_and_only_its_services_run(events in prop::collection::vec(rough(), 1..120)) {
        let mut machine = Machine::new(0);
        let mut model = Model::default();
        for rough in &events {
            let Some(event) = model.event(rough) else { continue };
            for action in machine.on(event) {
                model.observe(action)?;
            }
            model.settled()?;
        }
        if model.terminated {
            prop_assert!(model.asked.is_empty(), "whoever asked was answered before the end");
        }
    }
}

#[test]
fn a_version_that_could_not_be_prepared_is_tried_again_with_the_secrets() {
    let mut machine = Machine::new(0);
    let version = Version("v1".to_owned());
    assert_eq!(machine.on(Event::LookDue), [Action::Look]);
    let found = Sight::New { version: version.clone(), valid: true };
    let change = ChangeId(1);
    let attempt = Action::Try { change, version: version.clone(), cause: Cause::Version };
    assert_eq!(machine.on(Event::Looked(found)), [attempt]);
    let refused = machine.on(Event::Tried { change, verdict: Verdict::Refused });
    assert_eq!(refused, [Action::Discard { change }, Action::Sleep]);
    let again = Action::Try { change: ChangeId(2), version, cause: Cause::Secrets };
    assert_eq!(machine.on(Event::SecretsDue), [again]);
}

#[test]
fn whoever_asks_during_a_look_gets_a_look_of_their_own() {
    let mut machine = Machine::new(0);
    machine.on(Event::LookDue);
    assert_eq!(machine.on(Event::Asked(7)), []);
    assert_eq!(machine.on(Event::Looked(Sight::Nothing)), [Action::Look]);
    let answer = Action::Answer { askers: vec![7], outcome: Outcome::Unavailable };
    assert_eq!(machine.on(Event::Looked(Sight::Nothing)), [answer, Action::Sleep]);
}

#[test]
fn a_look_that_comes_due_during_a_try_follows_it() {
    let mut machine = Machine::new(0);
    machine.on(Event::LookDue);
    machine.on(Event::Looked(Sight::New { version: Version("v1".to_owned()), valid: true }));
    assert_eq!(machine.on(Event::LookDue), []);
    let change = ChangeId(1);
    let applied = machine.on(Event::Tried { change, verdict: Verdict::Ready { services: Vec::new() } });
    assert_eq!(applied, [Action::Commit { change }, Action::Look]);
    assert_eq!(machine.on(Event::LookDue), [], "it is being looked");
    assert_eq!(machine.on(Event::Looked(Sight::Same)), [Action::Sleep]);
}

/// A machine on which `v1` is live and `v2` could not be prepared.
fn with_a_pending_version() -> Machine {
    let mut machine = Machine::new(0);
    let version = |name: &str| Version(name.to_owned());
    machine.on(Event::LookDue);
    machine.on(Event::Looked(Sight::New { version: version("v1"), valid: true }));
    machine.on(Event::Tried { change: ChangeId(1), verdict: Verdict::Ready { services: Vec::new() } });
    machine.on(Event::LookDue);
    machine.on(Event::Looked(Sight::New { version: version("v2"), valid: true }));
    let refused = machine.on(Event::Tried { change: ChangeId(2), verdict: Verdict::Refused });
    assert_eq!(refused, [Action::Discard { change: ChangeId(2) }, Action::Sleep]);
    machine
}

#[test]
fn a_pending_version_does_not_keep_new_secrets_from_the_one_that_runs() {
    let mut machine = with_a_pending_version();
    let attempt = |change, version: &str| Action::Try {
        change: ChangeId(change),
        version: Version(version.to_owned()),
        cause: Cause::Secrets,
    };
    assert_eq!(machine.on(Event::SecretsDue), [attempt(3, "v2")]);
    let refused = machine.on(Event::Tried { change: ChangeId(3), verdict: Verdict::Refused });
    assert_eq!(refused, [Action::Discard { change: ChangeId(3) }, attempt(4, "v1")]);
    let applied = machine.on(Event::Tried { change: ChangeId(4), verdict: Verdict::Ready { services: Vec::new() } });
    assert_eq!(applied, [Action::Commit { change: ChangeId(4) }, Action::Sleep]);
    assert_eq!(machine.on(Event::SecretsDue), [attempt(5, "v2")], "it is still pending");
}

#[test]
fn whoever_asks_after_a_refusal_hears_of_it() {
    let mut machine = with_a_pending_version();
    machine.on(Event::LookDue);
    machine.on(Event::Looked(Sight::New { version: Version("v3".to_owned()), valid: false }));
    machine.on(Event::Asked(7));
    let cause = Cause::Asked;
    let attempt = Action::Try { change: ChangeId(3), version: Version("v1".to_owned()), cause };
    assert_eq!(machine.on(Event::Looked(Sight::Same)), [attempt]);
    let same = machine.on(Event::Tried { change: ChangeId(3), verdict: Verdict::Same });
    let answer = Action::Answer { askers: vec![7], outcome: Outcome::Refused };
    assert_eq!(same, [Action::Discard { change: ChangeId(3) }, answer, Action::Sleep]);
}
