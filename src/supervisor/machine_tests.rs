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
    Asked {
        force: bool,
    },
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
    Overdue,
    /// The verdict on the newest version on trial, or on one long past.
    Condemned {
        stale: bool,
    },
    Proven {
        stale: bool,
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
        2 => prop::bool::weighted(0.2).prop_map(|force| Rough::Asked { force }),
        6 => (0..6_u8, prop::bool::weighted(0.7)).prop_map(|(version, valid)| Rough::Looked(version, valid)),
        1 => (0..6_u8).prop_map(Rough::Unusable),
        2 => Just(Rough::Same),
        1 => Just(Rough::Nothing),
        6 => (prop::bool::weighted(0.1), 0..6_u8, 0..8_u8)
            .prop_map(|(stale, verdict, services)| Rough::Tried { stale, verdict, services }),
        1 => Just(Rough::Overdue),
        2 => prop::bool::weighted(0.2).prop_map(|stale| Rough::Condemned { stale }),
        2 => prop::bool::weighted(0.2).prop_map(|stale| Rough::Proven { stale }),
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
    /// The try whose preparation was asked for, and that has not ended.
    trying: Option<(ChangeId, Version, Cause)>,
    last_change: u64,
    looking: bool,
    /// What is live, and what it asks for.
    committed: Option<(Version, BTreeSet<Name>)>,
    prepared: BTreeMap<ChangeId, (Version, Cause, BTreeSet<Name>)>,
    valid: BTreeSet<Version>,
    /// The version that a look saw last.
    seen: Option<Version>,
    /// The last blessed version, and the change that put the live one on trial.
    good: Option<Version>,
    baking: Option<ChangeId>,
    /// A version that was undone, until a look sees another or somebody insists.
    undone: Option<Version>,
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
            Rough::Asked { force } => {
                self.next_asker += 1;
                self.asked.insert(self.next_asker);
                if *force && !self.terminated {
                    self.undone = None;
                }
                Event::Asked { asker: self.next_asker, force: *force }
            }
            Rough::Looked(number, valid) if self.looking => {
                self.looking = false;
                // What a version's text is does not change.
                let valid = &(*valid || self.valid.contains(&version(*number)));
                if *valid {
                    self.valid.insert(version(*number));
                }
                if !self.terminated {
                    self.seen = Some(version(*number));
                    self.undone.take_if(|undone| *undone != version(*number));
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
            Rough::Tried { stale: true, services, .. } => {
                let change = ChangeId(self.last_change.saturating_sub(1));
                if self.trying.as_ref().is_some_and(|(trying, ..)| *trying == change) {
                    return None;
                }
                Event::Tried { change, verdict: Verdict::Ready { services: chosen(*services) } }
            }
            Rough::Overdue => Event::Overdue,
            Rough::Condemned { stale } => {
                let change = self.on_trial(*stale)?;
                if self.baking == Some(change) && self.good.is_some() && !self.terminated {
                    self.undone = self.committed.as_ref().map(|(version, _)| version.clone());
                }
                Event::Condemned { change }
            }
            Rough::Proven { stale } => Event::Proven { change: self.on_trial(*stale)? },
            Rough::Tried { verdict, services, .. } => {
                let (change, version, cause) = self.trying.take()?;
                let verdict = match verdict {
                    0 => Verdict::Refused,
                    1 => Verdict::Same,
                    _ => Verdict::Ready { services: chosen(*services) },
                };
                if let Verdict::Ready { services } = &verdict {
                    self.prepared.insert(change, (version, cause, services.iter().copied().collect()));
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

    fn on_trial(&self, stale: bool) -> Option<ChangeId> {
        if stale { Some(ChangeId(self.last_change.saturating_sub(3))) } else { self.baking }
    }

    fn observe(&mut self, action: Action) -> Result<(), TestCaseError> {
        let harmless = matches!(action, Action::Answer { .. } | Action::Discard { .. });
        prop_assert!(!self.exited || harmless, "{action:?} after the exit");
        match action {
            Action::Look => {
                prop_assert!(!self.looking, "one look at a time");
                prop_assert!(!self.terminated);
                self.looking = true;
            }
            Action::Try { change, version, cause } => {
                prop_assert!(self.trying.is_none(), "one try at a time");
                prop_assert!(!self.terminated);
                prop_assert!(self.valid.contains(&version), "only a valid version is tried");
                prop_assert!(self.undone.as_ref() != Some(&version), "what was undone is not tried again by itself");
                if cause == Cause::Revert {
                    prop_assert_eq!(Some(&version), self.good.as_ref(), "the way back is the last blessed one");
                    self.baking = None;
                } else {
                    prop_assert!(change.0 > self.last_change, "changes are numbered upwards");
                    self.last_change = change.0;
                }
                if cause == Cause::LastGood {
                    prop_assert!(self.committed.is_none(), "only a start takes the last good version");
                    prop_assert_eq!(Some(&version), self.good.as_ref());
                }
                self.trying = Some((change, version, cause));
            }
            Action::Commit { change } => {
                prop_assert!(!self.terminated, "nothing is committed while draining");
                let prepared = self.prepared.remove(&change);
                prop_assert!(prepared.is_some(), "only what was prepared is committed, and once");
                let (version, cause, services) = prepared.unwrap();
                let before = self.committed.replace((version.clone(), services));
                let before = before.map(|(before, _)| before);
                if cause != Cause::Revert && before.as_ref() != Some(&version) {
                    self.baking = None;
                }
            }
            Action::Bake { change } => {
                let live = self.committed.as_ref().map(|(version, _)| version);
                prop_assert!(live != self.good.as_ref(), "what was watched once is not watched again");
                self.baking = Some(change);
            }
            Action::Bless { change } => {
                prop_assert_eq!(self.baking.take(), Some(change), "only what was watched is blessed");
                self.good = self.committed.as_ref().map(|(version, _)| version.clone());
            }
            Action::Discard { change } => {
                self.prepared.remove(&change);
                self.trying.take_if(|(trying, ..)| *trying == change);
            }
            Action::Start { service, run } => {
                prop_assert!(!self.terminated, "nothing starts while draining");
                let services = self.committed.as_ref().map(|(_, services)| services.clone()).unwrap_or_default();
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
            Action::Sleep { look, secrets } => {
                prop_assert!(!look || !self.looking);
                prop_assert!(!secrets || self.trying.is_none());
            }
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
    fn one_version_is_live_and_only_its_services_run(
        good in 0..3_u8,
        quarantined in 0..4_u8,
        events in prop::collection::vec(rough(), 1..120),
    ) {
        let past = |past: u8| (past > 0).then(|| Version(format!("v{}", past - 1)));
        let (good, quarantined) = (past(good), past(quarantined).filter(|_| good > 0));
        let past = Past { changes: 0, good: good.clone(), quarantined: quarantined.clone().filter(|bad| Some(bad) != good.as_ref()) };
        let mut model = Model { undone: past.quarantined.clone(), valid: good.iter().cloned().collect(), good, ..Model::default() };
        let mut machine = Machine::new(past);
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

fn version(name: &str) -> Version {
    Version(name.to_owned())
}

fn found(name: &str) -> Event {
    Event::Looked(Sight::New { version: version(name), valid: true })
}

fn attempt(change: u64, name: &str, cause: Cause) -> Action {
    Action::Try { change: ChangeId(change), version: version(name), cause }
}

fn prepared(change: u64) -> Event {
    Event::Tried { change: ChangeId(change), verdict: Verdict::Ready { services: Vec::new() } }
}

fn refused(change: u64) -> Event {
    Event::Tried { change: ChangeId(change), verdict: Verdict::Refused }
}

fn discard(change: u64) -> Action {
    Action::Discard { change: ChangeId(change) }
}

fn commit(change: u64) -> Action {
    Action::Commit { change: ChangeId(change) }
}

const LOOK_AGAIN: Action = Action::Sleep { look: true, secrets: false };
const ASK_AGAIN: Action = Action::Sleep { look: false, secrets: true };

/// A machine that has just started, with `good` as the last good version.
fn started(good: Option<&str>, quarantined: Option<&str>) -> Machine {
    let past = Past { changes: 0, good: good.map(version), quarantined: quarantined.map(version) };
    let mut machine = Machine::new(past);
    assert_eq!(machine.on(Event::LookDue), [Action::Look]);
    machine
}

/// A machine on which `v1` is live and blessed.
fn serving() -> Machine {
    let mut machine = started(None, None);
    machine.on(found("v1"));
    let (change, bake) = (ChangeId(1), Action::Bake { change: ChangeId(1) });
    assert_eq!(machine.on(prepared(1)), [commit(1), bake, ASK_AGAIN]);
    assert_eq!(machine.on(Event::Proven { change }), [Action::Bless { change }]);
    machine
}

/// The same with `v2` live and on trial.
fn on_trial() -> Machine {
    let mut machine = serving();
    machine.on(Event::LookDue);
    assert_eq!(machine.on(found("v2")), [attempt(2, "v2", Cause::Version), LOOK_AGAIN]);
    assert_eq!(machine.on(prepared(2)), [commit(2), Action::Bake { change: ChangeId(2) }, ASK_AGAIN]);
    machine
}

/// The same after `v2` was condemned and undone.
fn undone() -> Machine {
    let mut machine = on_trial();
    let change = ChangeId(2);
    assert_eq!(machine.on(Event::Condemned { change }), [attempt(2, "v1", Cause::Revert)]);
    assert_eq!(machine.on(prepared(2)), [commit(2), ASK_AGAIN]);
    machine
}

#[test]
fn a_version_that_could_not_be_prepared_is_tried_again_with_the_secrets() {
    let mut machine = started(None, None);
    assert_eq!(machine.on(found("v1")), [attempt(1, "v1", Cause::Version), LOOK_AGAIN]);
    assert_eq!(machine.on(refused(1)), [discard(1), ASK_AGAIN]);
    assert_eq!(machine.on(Event::SecretsDue), [attempt(2, "v1", Cause::Secrets)]);
}

#[test]
fn whoever_asks_during_a_look_gets_a_look_of_their_own() {
    let mut machine = started(None, None);
    assert_eq!(machine.on(Event::Asked { asker: 7, force: false }), []);
    assert_eq!(machine.on(Event::Looked(Sight::Nothing)), [Action::Look]);
    let answer = Action::Answer { askers: vec![7], outcome: Outcome::Unavailable };
    assert_eq!(machine.on(Event::Looked(Sight::Nothing)), [answer, LOOK_AGAIN]);
}

#[test]
fn a_newer_version_takes_the_place_of_the_one_in_preparation() {
    let mut machine = serving();
    machine.on(Event::LookDue);
    machine.on(found("v2"));
    assert_eq!(
        machine.on(Event::Asked { asker: 7, force: false }),
        [Action::Look],
        "it is looked for while another is prepared"
    );
    assert_eq!(machine.on(found("v3")), [discard(2), attempt(3, "v3", Cause::Version), LOOK_AGAIN]);
    assert_eq!(machine.on(prepared(2)), [discard(2)], "it came too late");
    let answer = Action::Answer { askers: vec![7], outcome: Outcome::Applied };
    assert_eq!(machine.on(prepared(3)), [commit(3), Action::Bake { change: ChangeId(3) }, answer, ASK_AGAIN]);
}

/// A machine on which `v1` is live and `v2` could not be prepared.
fn with_a_pending_version() -> Machine {
    let mut machine = serving();
    machine.on(Event::LookDue);
    machine.on(found("v2"));
    assert_eq!(machine.on(refused(2)), [discard(2), ASK_AGAIN]);
    machine
}

#[test]
fn a_pending_version_does_not_keep_new_secrets_from_the_one_that_runs() {
    let mut machine = with_a_pending_version();
    assert_eq!(machine.on(Event::SecretsDue), [attempt(3, "v2", Cause::Secrets)]);
    assert_eq!(machine.on(refused(3)), [discard(3), attempt(4, "v1", Cause::Secrets)]);
    assert_eq!(machine.on(prepared(4)), [commit(4), ASK_AGAIN]);
    assert_eq!(machine.on(Event::SecretsDue), [attempt(5, "v2", Cause::Secrets)], "it is still pending");
}

#[test]
fn whoever_asks_after_a_refusal_hears_of_it() {
    let mut machine = with_a_pending_version();
    machine.on(Event::LookDue);
    machine.on(Event::Looked(Sight::New { version: version("v3"), valid: false }));
    machine.on(Event::Asked { asker: 7, force: false });
    assert_eq!(machine.on(Event::Looked(Sight::Same)), [attempt(3, "v1", Cause::Asked), LOOK_AGAIN]);
    let same = machine.on(Event::Tried { change: ChangeId(3), verdict: Verdict::Same });
    let answer = Action::Answer { askers: vec![7], outcome: Outcome::Refused };
    assert_eq!(same, [discard(3), answer, ASK_AGAIN]);
}

#[test]
fn a_start_serves_the_last_good_version_while_the_source_is_away_and_the_newest_when_it_is_back() {
    let mut machine = started(Some("v1"), None);
    assert_eq!(machine.on(Event::Overdue), [attempt(1, "v1", Cause::LastGood)]);
    assert_eq!(machine.on(prepared(1)), [commit(1), ASK_AGAIN]);
    assert_eq!(machine.on(found("v2")), [attempt(2, "v2", Cause::Version), LOOK_AGAIN]);
    assert_eq!(machine.on(prepared(2)), [commit(2), Action::Bake { change: ChangeId(2) }, ASK_AGAIN]);

    let mut machine = started(Some("v1"), None);
    let away = machine.on(Event::Looked(Sight::Nothing));
    assert_eq!(
        away,
        [attempt(1, "v1", Cause::LastGood), LOOK_AGAIN],
        "it is not waited for once it is known to be away"
    );
}

#[test]
fn a_start_on_a_version_that_is_refused_serves_the_last_good_one() {
    let mut machine = started(Some("v1"), None);
    machine.on(found("v2"));
    assert_eq!(machine.on(refused(1)), [discard(1), attempt(2, "v1", Cause::LastGood)]);
    assert_eq!(machine.on(prepared(2)), [commit(2), ASK_AGAIN]);
    assert_eq!(machine.on(Event::SecretsDue), [attempt(3, "v2", Cause::Secrets)], "it may be prepared later");

    let mut machine = started(Some("v1"), None);
    let invalid = machine.on(Event::Looked(Sight::New { version: version("v2"), valid: false }));
    assert_eq!(invalid, [attempt(1, "v1", Cause::LastGood), LOOK_AGAIN]);
}

#[test]
fn a_start_that_takes_too_long_over_a_newer_version_serves_the_last_good_one_first() {
    let mut machine = started(Some("v1"), None);
    machine.on(found("v2"));
    assert_eq!(machine.on(Event::Overdue), [discard(1), attempt(2, "v1", Cause::LastGood)]);
    assert_eq!(machine.on(prepared(2)), [commit(2), attempt(3, "v2", Cause::Version)]);
}

#[test]
fn a_condemned_version_is_undone_and_stays_out() {
    let mut machine = undone();
    machine.on(Event::Asked { asker: 7, force: false });
    machine.on(Event::Looked(Sight::Same));
    let same = machine.on(Event::Tried { change: ChangeId(3), verdict: Verdict::Same });
    let answer = Action::Answer { askers: vec![7], outcome: Outcome::Refused };
    assert_eq!(same, [discard(3), answer, ASK_AGAIN]);
    machine.on(Event::LookDue);
    assert_eq!(machine.on(found("v2")), [LOOK_AGAIN], "it is seen anew, and still out");

    let mut restarted = started(Some("v1"), Some("v2"));
    assert_eq!(restarted.on(found("v2")), [attempt(1, "v1", Cause::LastGood), LOOK_AGAIN], "across a restart as well");
}

#[test]
fn an_undone_version_gets_another_chance_when_somebody_insists() {
    let mut machine = undone();
    assert_eq!(machine.on(Event::Asked { asker: 7, force: true }), [Action::Look]);
    assert_eq!(machine.on(found("v2")), [attempt(3, "v2", Cause::Version), LOOK_AGAIN]);
}

#[test]
fn a_newer_version_ends_the_quarantine_of_the_older() {
    let mut machine = undone();
    machine.on(Event::LookDue);
    assert_eq!(machine.on(found("v3")), [attempt(3, "v3", Cause::Version), LOOK_AGAIN]);
    machine.on(prepared(3));
    machine.on(Event::LookDue);
    assert_eq!(machine.on(found("v2")), [attempt(4, "v2", Cause::Version), LOOK_AGAIN]);
}

#[test]
fn a_newer_version_replaces_the_one_on_trial_and_the_way_back_stays() {
    let mut machine = on_trial();
    machine.on(Event::LookDue);
    machine.on(found("v3"));
    machine.on(prepared(3));
    assert_eq!(machine.on(Event::Condemned { change: ChangeId(2) }), [], "it is not judged any more");
    assert_eq!(machine.on(Event::Condemned { change: ChangeId(3) }), [attempt(3, "v1", Cause::Revert)]);
}

#[test]
fn a_condemned_version_is_undone_before_a_newer_one_is_prepared() {
    let mut machine = on_trial();
    machine.on(Event::LookDue);
    machine.on(found("v3"));
    let change = ChangeId(2);
    assert_eq!(machine.on(Event::Condemned { change }), [discard(3), attempt(2, "v1", Cause::Revert)]);
    assert_eq!(machine.on(prepared(2)), [commit(2), attempt(4, "v3", Cause::Version)]);
}

#[test]
fn the_first_version_has_nothing_to_go_back_to_and_stays_on_trial() {
    let mut machine = started(None, None);
    machine.on(found("v1"));
    machine.on(prepared(1));
    let change = ChangeId(1);
    assert_eq!(machine.on(Event::Condemned { change }), []);
    assert_eq!(machine.on(Event::Proven { change }), [Action::Bless { change }], "once it harms nothing any more");
}
