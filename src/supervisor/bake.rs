//! Watching a version that was just applied, and judging it by what it touched.
//!
//! Only a failure that the version may be to blame for ([`Blame`]), of a service that its plan touched, condemns it, and
//! not one that was there before. An outage of others makes the trial longer, and never condemns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine::Name;
use super::{Message, Supervisor};
use crate::service::{Blame, ChangeId, Health, State};

/// An outage of others makes the trial at most so many times as long.
const LONGEST: u32 = 3;
/// Between two probes of the services on trial, and how long each may take.
const PROBE_PACE: Duration = Duration::from_millis(500);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// So many probes in a row have to fail: one may meet a full queue.
const PROBES: u32 = 2;

/// A credential that served under the version, and is refused now, was rotated more likely than it was named wrongly: its
/// newest value is looked for first.
const DOUBT: Duration = Duration::from_secs(10);
/// A service that still runs so long after the commit has come to terms with it.
const SETTLING: Duration = Duration::from_secs(1);

/// A version on trial.
pub(super) struct Bake {
    pub change: ChangeId,
    pub started: Instant,
    /// When it is over unless somebody else's outage makes it longer.
    until: Instant,
    longest: Instant,
    /// It was judged after its time, and had to go on.
    prolonged: bool,
    watched: BTreeMap<Name, Watch>,
    /// There is nothing to go back to, so it goes on until nothing is to blame.
    endless: bool,
    probes: CancellationToken,
}

/// One service on trial.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// It failed before: the version is not to blame for that.
    failing: bool,
    /// It failed under a version that was on trial as well, and this many reports ago nobody had said more of it.
    inherited: Option<u64>,
    /// Since when a credential that had served is refused.
    doubt: Option<Instant>,
}

impl Drop for Bake {
    fn drop(&mut self) {
        self.probes.cancel();
    }
}

/// How it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Going,
    /// It was long enough.
    Proven,
    /// In words.
    Condemned(String),
}

/// What a trial begins with.
pub(super) struct Begin<'a> {
    pub change: ChangeId,
    pub length: Duration,
    pub watched: BTreeSet<Name>,
    /// How the services were when the version came.
    pub before: &'a BTreeMap<Name, Health>,
    /// The trial of a version that this one replaces, if that was not over.
    pub earlier: Option<&'a Bake>,
    /// There is nothing to go back to.
    pub endless: bool,
}

impl Bake {
    /// Begins to watch.
    pub fn new(begin: Begin<'_>, now: Instant) -> Bake {
        let Begin { change, length, watched, before, earlier, endless } = begin;
        let watch = |name: &Name| {
            let blamed = before.get(name).filter(|health| to_blame(health));
            // What an unproven version broke, this one may have broken as well.
            match earlier {
                None => Watch { failing: blamed.is_some(), ..Watch::default() },
                Some(earlier) => {
                    let failing = earlier.watched.get(name).is_some_and(|watch| watch.failing);
                    Watch { failing, inherited: blamed.map(|health| health.reports), doubt: None }
                }
            }
        };
        Bake {
            change,
            started: now,
            until: now + length,
            longest: now + length * LONGEST,
            prolonged: false,
            watched: watched.into_iter().map(|name| (name, watch(&name))).collect(),
            endless,
            probes: CancellationToken::new(),
        }
    }

    /// Judges by how the services are now; `held` are those that wait for a secret since the start.
    pub fn judge(&mut self, services: &BTreeMap<Name, Health>, held: &BTreeSet<Name>, now: Instant) -> Standing {
        let (started, over) = (self.started, now >= self.until);
        // What makes the trial longer: to its end, or until it is over.
        let (mut outage, mut open) = (false, false);
        for (name, watch) in &mut self.watched {
            let Some(health) = services.get(name) else { continue };
            let served = health.ran_until.is_some_and(|until| until >= started + SETTLING);
            if health.state == State::Running {
                *watch = Watch::default();
            } else if !to_blame(health) {
                watch.doubt = None;
                // It has not come to what can go wrong yet, or is kept from it by somebody else.
                let early = matches!(health.state, State::Starting | State::Waiting);
                let undecided = early && !served && !held.contains(name);
                open |= undecided;
                outage |= !undecided;
            } else if watch.failing {
                open |= self.endless;
            } else if watch.inherited == Some(health.reports) && !over {
                open = true;
            } else {
                if health.blame == Blame::Credential && served {
                    let since = *watch.doubt.get_or_insert(now);
                    if now < since + DOUBT {
                        open = true;
                        continue;
                    }
                }
                return Standing::Condemned(format!("{name}: {}", health.reason));
            }
        }
        if over && !open && (!outage || now >= self.longest) {
            return Standing::Proven;
        }
        self.prolonged = over;
        Standing::Going
    }

    /// Begins anew with a version that is to blame and has to stay. What is known of it is not said again.
    pub fn go_on(&mut self, services: &BTreeMap<Name, Health>, now: Instant) {
        let length = self.length();
        (self.started, self.until, self.longest) = (now, now + length, now + length * LONGEST);
        self.prolonged = false;
        for (name, watch) in &mut self.watched {
            watch.failing |= services.get(name).is_some_and(to_blame);
        }
    }

    /// How long it is watched unless somebody else's outage makes it longer.
    pub fn length(&self) -> Duration {
        self.until - self.started
    }

    /// When it has to be judged although nothing happens.
    pub fn due(&self, now: Instant) -> Instant {
        let end = match self.prolonged {
            false => self.until,
            true if now < self.longest => self.longest,
            // Then every change of a service's state is looked at.
            true => now + self.length().max(Duration::from_secs(1)),
        };
        let doubts = self.watched.values().filter_map(|watch| watch.doubt.map(|since| since + DOUBT));
        doubts.fold(end, Instant::min)
    }

    fn watches(&self, name: Name) -> bool {
        self.watched.contains_key(name)
    }
}

fn to_blame(health: &Health) -> bool {
    health.blame != Blame::Others
}

impl Supervisor {
    /// Judges the version on trial, if there is one, and lets the machine act on it.
    pub(super) fn judge_bake(&mut self) {
        let Some(bake) = &mut self.bake else { return };
        let held = self.live.as_ref().map(|live| live.borrow().held().collect()).unwrap_or_default();
        match bake.judge(&self.board.services(), &held, Instant::now()) {
            Standing::Going => {}
            Standing::Proven => {
                let change = bake.change;
                self.on(super::machine::Event::Proven { change });
            }
            Standing::Condemned(why) => self.condemn(&why),
        }
    }

    /// Asks the services on trial again and again whether they do what they are there for.
    pub(super) fn probe(&self, bake: &Bake) {
        let Some(live) = self.live.as_ref().map(|live| Arc::clone(&live.borrow())) else { return };
        for service in self.services.iter().filter(|service| bake.watches(service.name())) {
            let service = Arc::clone(service);
            let (live, stop, sender) = (Arc::clone(&live), bake.probes.clone(), self.sender.clone());
            let change = bake.change;
            let probing = async move {
                let mut failures = 0;
                loop {
                    tokio::time::sleep(PROBE_PACE).await;
                    let probe = tokio::time::timeout(PROBE_TIMEOUT, service.probe(&live));
                    let answer = probe
                        .await
                        .unwrap_or_else(|_| Err(format!("gives no answer within {} s", PROBE_TIMEOUT.as_secs())));
                    failures = if answer.is_err() { failures + 1 } else { 0 };
                    if let (Err(why), true) = (answer, failures >= PROBES) {
                        let why = format!("{}: {why}", service.name());
                        drop(sender.send(Message::ProbeFailed { change, why }).await);
                    }
                }
            };
            let stop_all = self.stop.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = probing => {}
                    () = stop.cancelled() => {}
                    () = stop_all.cancelled() => {}
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Board;

    const SECOND: Duration = Duration::from_secs(1);

    fn board(states: &[(Name, State, Blame)]) -> BTreeMap<Name, Health> {
        let board = Arc::new(Board::default());
        for (name, state, blame) in states {
            let reporter = crate::service::Reporter::new(name, 1, Arc::clone(&board));
            reporter.failed(*state, *blame, "because");
        }
        board.services()
    }

    fn begun(before: &[(Name, State, Blame)], earlier: Option<&Bake>, now: Instant) -> Bake {
        let (before, watched) = (board(before), ["discord", "http"].into());
        let (change, length) = (ChangeId(1), 10 * SECOND);
        Bake::new(Begin { change, length, watched, before: &before, earlier, endless: false }, now)
    }

    fn bake(before: &[(Name, State, Blame)], now: Instant) -> Bake {
        begun(before, None, now)
    }

    fn judge(bake: &mut Bake, services: &[(Name, State, Blame)], now: Instant) -> Standing {
        bake.judge(&board(services), &BTreeSet::new(), now)
    }

    #[test]
    fn a_trial_that_ends_in_the_middle_of_something_else_is_judged_right_after() {
        let now = Instant::now();
        let mut bake = bake(&FINE, now);
        assert_eq!(bake.due(now + 11 * SECOND), now + 10 * SECOND);
        assert_eq!(judge(&mut bake, &FINE, now + 11 * SECOND), Standing::Proven);
    }

    #[test]
    fn a_version_that_replaces_one_on_trial_is_judged_by_what_that_broke() {
        let now = Instant::now();
        let parked = [("discord", State::Parked, Blame::Configuration), FINE[1]];
        let first = bake(&FINE, now);
        let condemned = Standing::Condemned("discord: because".to_owned());
        // Nobody has tried the bot under it yet: it may be what mends it.
        let mut second = begun(&parked, Some(&first), now);
        assert_eq!(judge(&mut second, &parked, now), Standing::Going);
        assert_eq!(judge(&mut second, &FINE, now + 10 * SECOND), Standing::Proven);
        let mut second = begun(&parked, Some(&first), now);
        assert_eq!(judge(&mut second, &parked, now + 10 * SECOND), condemned, "it is as it was");
        let mut again = board(&parked);
        again.get_mut("discord").unwrap().reports += 2;
        let mut second = begun(&parked, Some(&first), now);
        assert_eq!(second.judge(&again, &BTreeSet::new(), now), condemned, "it failed once more");
    }

    #[test]
    fn a_bot_that_waits_for_its_turn_to_connect_has_proven_nothing() {
        let now = Instant::now();
        let waiting = [("discord", State::Waiting, Blame::Others), FINE[1]];
        let mut bake = bake(&FINE, now);
        assert_eq!(judge(&mut bake, &waiting, now + 100 * SECOND), Standing::Going);
        assert!(bake.due(now + 100 * SECOND) > now + 100 * SECOND);
        // Unless it waits for a secret since the start.
        let held = BTreeSet::from(["discord"]);
        assert_eq!(bake.judge(&board(&waiting), &held, now + 100 * SECOND), Standing::Proven);
    }

    #[test]
    fn a_token_that_is_rotated_during_a_trial_condemns_nothing_before_the_new_one_was_looked_for() {
        let now = Instant::now();
        let mut bake = bake(&FINE, now);
        let mut refused = board(&[("discord", State::Parked, Blame::Credential), FINE[1]]);
        refused.get_mut("discord").unwrap().ran_until = Some(now + 3 * SECOND);
        let held = BTreeSet::new();
        assert_eq!(bake.judge(&refused, &held, now + 3 * SECOND), Standing::Going);
        assert_eq!(bake.due(now + 3 * SECOND), now + 10 * SECOND);
        assert_eq!(judge(&mut bake, &FINE, now + 4 * SECOND), Standing::Going);
        assert_eq!(bake.judge(&refused, &held, now + 5 * SECOND), Standing::Going);
        assert!(matches!(bake.judge(&refused, &held, now + 15 * SECOND), Standing::Condemned(_)));
        // The new one is tried, and Discord is out of reach: nothing is due before the trial's own end.
        let outage = [("discord", State::Recovering, Blame::Others), FINE[1]];
        assert_eq!(judge(&mut bake, &outage, now + 16 * SECOND), Standing::Going);
        assert_eq!(bake.due(now + 16 * SECOND), now + 30 * SECOND);
    }

    const FINE: [(Name, State, Blame); 2] =
        [("discord", State::Running, Blame::Others), ("http", State::Running, Blame::Others)];

    #[test]
    fn a_version_that_harms_nothing_is_proven_in_its_time() {
        let now = Instant::now();
        let mut bake = bake(&FINE, now);
        assert_eq!(judge(&mut bake, &FINE, now + 9 * SECOND), Standing::Going);
        assert_eq!(judge(&mut bake, &FINE, now + 10 * SECOND), Standing::Proven);
    }

    #[test]
    fn what_it_touched_and_broke_condemns_it_and_nothing_else_does() {
        let now = Instant::now();
        let parked = [("discord", State::Parked, Blame::Configuration), FINE[1]];
        assert_eq!(judge(&mut bake(&FINE, now), &parked, now), Standing::Condemned("discord: because".to_owned()));
        // It was so before, until it ran in between.
        let mut before = bake(&parked, now);
        assert_eq!(judge(&mut before, &parked, now), Standing::Going);
        assert_eq!(judge(&mut before, &parked, now + 10 * SECOND), Standing::Proven);
        let mut before = bake(&parked, now);
        assert_eq!(judge(&mut before, &FINE, now), Standing::Going);
        assert_eq!(judge(&mut before, &parked, now), Standing::Condemned("discord: because".to_owned()));
        // It did not touch this one.
        let other = [FINE[0], FINE[1], ("other", State::Recovering, Blame::Configuration)];
        assert_eq!(judge(&mut bake(&FINE, now), &other, now + 10 * SECOND), Standing::Proven);
    }

    #[test]
    fn a_version_that_has_to_stay_is_watched_until_all_is_well() {
        let now = Instant::now();
        let parked = [("discord", State::Parked, Blame::Configuration), FINE[1]];
        let mut bake = bake(&FINE, now);
        bake.endless = true;
        assert_eq!(judge(&mut bake, &parked, now), Standing::Condemned("discord: because".to_owned()));
        bake.go_on(&board(&parked), now);
        assert_eq!(judge(&mut bake, &parked, now + 100 * SECOND), Standing::Going);
        assert_eq!(judge(&mut bake, &FINE, now + 101 * SECOND), Standing::Proven);
    }

    #[test]
    fn an_outage_of_others_makes_it_longer_and_condemns_nothing() {
        let now = Instant::now();
        let outage = [("discord", State::Recovering, Blame::Others), FINE[1]];
        let mut bake = bake(&FINE, now);
        assert_eq!(judge(&mut bake, &outage, now + 10 * SECOND), Standing::Going);
        assert_eq!(bake.due(now + 10 * SECOND), now + 30 * SECOND);
        assert_eq!(judge(&mut bake, &outage, now + 29 * SECOND), Standing::Going);
        assert_eq!(judge(&mut bake, &FINE, now + 12 * SECOND), Standing::Proven);
        assert_eq!(judge(&mut bake, &outage, now + 30 * SECOND), Standing::Proven);
    }
}
