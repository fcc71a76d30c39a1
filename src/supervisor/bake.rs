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

/// A version on trial.
pub(super) struct Bake {
    pub change: ChangeId,
    pub started: Instant,
    /// When it is over unless somebody else's outage makes it longer.
    until: Instant,
    longest: Instant,
    /// It was judged after its time, and had to go on.
    prolonged: bool,
    watched: BTreeSet<Name>,
    /// Those that failed before the version came: it is not to blame for that.
    failing: BTreeSet<Name>,
    /// There is nothing to go back to, so it goes on until all is well.
    endless: bool,
    probes: CancellationToken,
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

impl Bake {
    /// Begins to watch for `length`. `before` is how the services were when the version came.
    pub fn new(
        change: ChangeId,
        length: Duration,
        watched: BTreeSet<Name>,
        before: &BTreeMap<Name, Health>,
        now: Instant,
    ) -> Bake {
        let failing = watched.iter().copied().filter(|name| before.get(name).is_some_and(to_blame)).collect();
        Bake {
            change,
            started: now,
            until: now + length,
            longest: now + length * LONGEST,
            prolonged: false,
            watched,
            failing,
            endless: false,
            probes: CancellationToken::new(),
        }
    }

    /// Judges by how the services are now.
    pub fn judge(&mut self, services: &BTreeMap<Name, Health>, now: Instant) -> Standing {
        let mut settled = true;
        for name in &self.watched {
            let Some(health) = services.get(name) else { continue };
            if health.state == State::Running {
                self.failing.remove(name);
            } else if !self.failing.contains(name) {
                if to_blame(health) {
                    return Standing::Condemned(format!("{name}: {}", health.reason));
                }
                settled = false;
            } else if self.endless {
                settled = false;
            }
        }
        if now < self.until {
            return Standing::Going;
        }
        if settled || (now >= self.longest && !self.endless) {
            return Standing::Proven;
        }
        self.prolonged = true;
        Standing::Going
    }

    /// Begins anew with a version that is to blame and has to stay. What is known of it is not said again.
    pub fn go_on(&mut self, services: &BTreeMap<Name, Health>, now: Instant) {
        let length = self.length();
        (self.started, self.until, self.longest) = (now, now + length, now + length * LONGEST);
        (self.prolonged, self.endless) = (false, true);
        let failing = self.watched.iter().copied();
        self.failing.extend(failing.filter(|name| services.get(name).is_some_and(to_blame)));
    }

    /// How long it is watched unless somebody else's outage makes it longer.
    pub fn length(&self) -> Duration {
        self.until - self.started
    }

    /// When it has to be judged although nothing happens.
    pub fn due(&self, now: Instant) -> Instant {
        match (self.prolonged, self.endless) {
            (false, _) => self.until,
            (true, false) => self.longest,
            // Then every change of a service's state is looked at.
            (true, true) => now + self.length().max(Duration::from_secs(1)),
        }
    }
}

fn to_blame(health: &Health) -> bool {
    health.blame != Blame::Others
}

impl Supervisor {
    /// Judges the version on trial, if there is one, and lets the machine act on it.
    pub(super) fn judge_bake(&mut self) {
        let Some(bake) = &mut self.bake else { return };
        let now = Instant::now();
        match bake.judge(&self.board.services(), now) {
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
        for service in self.services.iter().filter(|service| bake.watched.contains(service.name())) {
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

    fn bake(before: &[(Name, State, Blame)], now: Instant) -> Bake {
        Bake::new(ChangeId(1), 10 * SECOND, ["discord", "http"].into(), &board(before), now)
    }

    #[test]
    fn a_trial_that_ends_in_the_middle_of_something_else_is_judged_right_after() {
        let now = Instant::now();
        let mut bake = bake(&FINE, now);
        assert_eq!(bake.due(now + 11 * SECOND), now + 10 * SECOND);
        assert_eq!(bake.judge(&board(&FINE), now + 11 * SECOND), Standing::Proven);
    }

    const FINE: [(Name, State, Blame); 2] =
        [("discord", State::Running, Blame::Others), ("http", State::Running, Blame::Others)];

    #[test]
    fn a_version_that_harms_nothing_is_proven_in_its_time() {
        let now = Instant::now();
        let mut bake = bake(&FINE, now);
        assert_eq!(bake.judge(&board(&FINE), now + 9 * SECOND), Standing::Going);
        assert_eq!(bake.judge(&board(&FINE), now + 10 * SECOND), Standing::Proven);
    }

    #[test]
    fn what_it_touched_and_broke_condemns_it_and_nothing_else_does() {
        let now = Instant::now();
        let parked = [("discord", State::Parked, Blame::Configuration), FINE[1]];
        assert_eq!(bake(&FINE, now).judge(&board(&parked), now), Standing::Condemned("discord: because".to_owned()));
        // It was so before, until it ran in between.
        let mut before = bake(&parked, now);
        assert_eq!(before.judge(&board(&parked), now), Standing::Going);
        assert_eq!(before.judge(&board(&parked), now + 10 * SECOND), Standing::Proven);
        let mut before = bake(&parked, now);
        assert_eq!(before.judge(&board(&FINE), now), Standing::Going);
        assert_eq!(before.judge(&board(&parked), now), Standing::Condemned("discord: because".to_owned()));
        // It did not touch this one.
        let other = [FINE[0], FINE[1], ("other", State::Recovering, Blame::Configuration)];
        assert_eq!(bake(&FINE, now).judge(&board(&other), now + 10 * SECOND), Standing::Proven);
    }

    #[test]
    fn a_version_that_has_to_stay_is_watched_until_all_is_well() {
        let now = Instant::now();
        let parked = board(&[("discord", State::Parked, Blame::Configuration), FINE[1]]);
        let mut bake = bake(&FINE, now);
        assert_eq!(bake.judge(&parked, now), Standing::Condemned("discord: because".to_owned()));
        bake.go_on(&parked, now);
        assert_eq!(bake.judge(&parked, now + 100 * SECOND), Standing::Going);
        assert_eq!(bake.judge(&board(&FINE), now + 101 * SECOND), Standing::Proven);
    }

    #[test]
    fn an_outage_of_others_makes_it_longer_and_condemns_nothing() {
        let now = Instant::now();
        let outage = [("discord", State::Recovering, Blame::Others), FINE[1]];
        let mut bake = bake(&FINE, now);
        assert_eq!(bake.judge(&board(&outage), now + 10 * SECOND), Standing::Going);
        assert_eq!(bake.due(now + 10 * SECOND), now + 30 * SECOND);
        assert_eq!(bake.judge(&board(&outage), now + 29 * SECOND), Standing::Going);
        assert_eq!(bake.judge(&board(&FINE), now + 12 * SECOND), Standing::Proven);
        assert_eq!(bake.judge(&board(&outage), now + 30 * SECOND), Standing::Proven);
    }
}
