//! How a backend fares, judged by the answers it gave.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

use super::{Failure, Why};
use crate::service::Blame;

/// So many answers in a row have to fail before the backend counts as in trouble: one may be chance.
const PATIENCE: u32 = 3;

/// What the answers so far say of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Fine,
    /// It refused what perch is configured to ask, and nothing was answered since.
    Refused { blame: Blame, reason: String },
    /// It fails again and again, for reasons of its own.
    Troubled { reason: String },
}

/// Keeps the [`Standing`].
#[derive(Default)]
pub struct Tally {
    standing: watch::Sender<Standing>,
    /// How many answers failed in a row.
    failures: AtomicU32,
}

impl Tally {
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// An answer was given to its end.
    pub fn answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.standing.send_if_modified(|standing| {
            let changed = *standing != Standing::Fine;
            *standing = Standing::Fine;
            changed
        });
    }

    /// An answer was not given.
    pub fn failed(&self, failure: &Failure) {
        match failure.why {
            Why::Refused(blame) => {
                let refused = Standing::Refused { blame, reason: failure.to_string() };
                self.standing.send_if_modified(|standing| {
                    let changed = *standing != refused;
                    *standing = refused;
                    changed
                });
            }
            // They say nothing of the backend but that it is there.
            Why::Declined | Why::TooLong | Why::Exhausted | Why::Unreadable | Why::NotReady | Why::Broken => {}
            Why::Busy { .. } | Why::Unavailable | Why::TimedOut | Why::CutShort | Why::Nonsense => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                self.standing.send_if_modified(|standing| {
                    // What was refused before is not known to be mended.
                    let changed = failures >= PATIENCE && *standing == Standing::Fine;
                    if changed {
                        *standing = Standing::Troubled { reason: failure.to_string() };
                    }
                    changed
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_at_once_an_outage_after_a_few_in_a_row() {
        let tally = Tally::default();
        let standing = tally.watch();
        let down = Failure::new(Why::Unavailable, "down");
        tally.failed(&down);
        tally.failed(&down);
        tally.answered();
        tally.failed(&down);
        tally.failed(&Failure::new(Why::Declined, "rude"));
        tally.failed(&down);
        assert_eq!(*standing.borrow(), Standing::Fine);
        tally.failed(&down);
        assert_eq!(*standing.borrow(), Standing::Troubled { reason: "down".to_owned() });
        tally.failed(&Failure::new(Why::Refused(Blame::Credential), "no"));
        tally.failed(&down);
        assert_eq!(*standing.borrow(), Standing::Refused { blame: Blame::Credential, reason: "no".to_owned() });
        tally.answered();
        assert_eq!(*standing.borrow(), Standing::Fine);
    }
}
