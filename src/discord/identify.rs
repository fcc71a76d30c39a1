//! The gate before every IDENTIFY. Discord allows 1,000 a day and resets the token of a bot that asks for more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serenity::model::gateway::SessionStartLimit;
use tokio::sync::oneshot;
use tokio::time::Instant;
use twilight_gateway_queue::{IDENTIFY_DELAY, Queue};

/// Two IDENTIFYs may come closer together on their way to Discord than they were sent.
const MARGIN: Duration = Duration::from_millis(200);
/// One in so many of a day's IDENTIFYs is kept for when a person has mended whatever spent the others.
const RESERVE: u32 = 20;

/// How long a spent budget is waited for at least, whatever Discord says about its end.
const LEAST_WAIT: Duration = Duration::from_mins(1);

/// Lets an IDENTIFY through, or not. Clones are one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<Budget>>);

#[derive(Debug, Default)]
struct Budget {
    sent: u64,
    last: Option<Instant>,
    limit: Option<Limit>,
    /// A person is at it, so that the next may come out of the reserve.
    reserve_open: bool,
    /// Who asked while the gate was shut. They are never let through: their connection ends when READY does not come.
    shut_out: Option<oneshot::Sender<()>>,
}

/// What Discord said is left. Source: Gateway, "Session Start Limit Object".
#[derive(Clone, Copy, Debug)]
struct Limit {
    remaining: u32,
    reserve: u32,
    resets: Instant,
}

/// Whether an IDENTIFY may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Now,
    /// Too soon after the last one.
    At(Instant),
    /// The day's budget is spent but for the reserve.
    Spent {
        remaining: u32,
        resets: Instant,
    },
}

impl Gate {
    /// Takes down what `GET /gateway/bot` said.
    pub fn learn(&self, limit: &SessionStartLimit) {
        let remaining = u32::try_from(limit.remaining).unwrap_or(u32::MAX);
        let reserve = u32::try_from(limit.total / u64::from(RESERVE)).unwrap_or(u32::MAX);
        let resets = Instant::now() + Duration::from_millis(limit.reset_after).max(LEAST_WAIT);
        self.budget().limit = Some(Limit { remaining, reserve, resets });
    }

    /// Lets one IDENTIFY come out of the reserve.
    pub fn open_reserve(&self) {
        self.budget().reserve_open = true;
    }

    /// Whether an IDENTIFY may be sent now.
    pub fn permit(&self) -> Permit {
        self.budget().permit(Instant::now())
    }

    /// How many were sent.
    pub fn sent(&self) -> u64 {
        self.budget().sent
    }

    /// How many are left today, as far as is known.
    pub fn remaining(&self) -> Option<u32> {
        self.budget().limit.map(|limit| limit.remaining)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    fn permit(&self, now: Instant) -> Permit {
        if let Some(Limit { remaining, reserve, resets }) = self.limit
            && remaining <= if self.reserve_open { 0 } else { reserve }
            && now < resets
        {
            return Permit::Spent { remaining, resets };
        }
        match self.last.map(|last| last + IDENTIFY_DELAY + MARGIN) {
            Some(next) if next > now => Permit::At(next),
            _ => Permit::Now,
        }
    }

    fn ask(&mut self, now: Instant) -> oneshot::Receiver<()> {
        let (pass, wait) = oneshot::channel();
        if self.permit(now) != Permit::Now {
            self.shut_out = Some(pass);
        } else if pass.send(()).is_ok() {
            self.sent += 1;
            self.reserve_open = false;
            self.last = Some(now);
            if let Some(limit) = &mut self.limit {
                limit.remaining = limit.remaining.saturating_sub(1);
            }
        }
        wait
    }
}

impl Queue for Gate {
    fn enqueue(&self, _shard: u32) -> oneshot::Receiver<()> {
        self.budget().ask(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(total: u64, remaining: u64) -> Gate {
        let gate = Gate::default();
        let limit = serde_json::json!({
            "total": total, "remaining": remaining, "reset_after": 60_000, "max_concurrency": 1,
        });
        gate.learn(&serde_json::from_value(limit).unwrap());
        gate
    }

    #[test]
    fn one_in_five_seconds_and_none_beyond_the_days_budget() {
        let gate = budget(1_000, 52);
        let mut budget = gate.budget();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(budget.ask(start).try_recv().is_ok());
        assert!(matches!(budget.permit(start), Permit::At(_)));

        let mut shut_out = budget.ask(after(4));
        assert!(shut_out.try_recv().is_err());
        assert!(budget.ask(after(6)).try_recv().is_ok());
        assert_eq!((budget.sent, budget.limit.unwrap().remaining), (2, 50));

        assert!(matches!(budget.permit(after(12)), Permit::Spent { remaining: 50, .. }));
        assert_eq!(budget.permit(after(61)), Permit::Now);

        budget.reserve_open = true;
        assert!(budget.ask(after(12)).try_recv().is_ok());
        assert!(matches!(budget.permit(after(18)), Permit::Spent { remaining: 49, .. }));
    }

    #[test]
    fn a_small_budget_has_no_reserve() {
        assert_eq!(budget(10, 1).permit(), Permit::Now);
        assert!(matches!(budget(10, 0).permit(), Permit::Spent { .. }));
    }
}
