//! The gate before every IDENTIFY. Discord allows 1,000 a day and resets the token of a bot that asks for more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serenity::model::gateway::SessionStartLimit;
use tokio::sync::oneshot;
use tokio::time::Instant;
use twilight_gateway_queue::{IDENTIFY_DELAY, Queue};

use crate::store::{Identifies, Spending};

/// Two IDENTIFYs may come closer together on their way to Discord than they were sent.
const MARGIN: Duration = Duration::from_millis(200);
/// One in so many of a day's IDENTIFYs is kept for when a person has mended whatever spent the others.
const RESERVE: u32 = 20;

/// How long a spent budget is waited for at least, whatever Discord says about its end.
const LEAST_WAIT: Duration = Duration::from_mins(1);

/// So many IDENTIFYs may come as fast as Discord takes them: somebody at work restarts now and then.
const QUICK: f64 = 10.0;
/// The wait before the next one after those; it doubles with each that follows.
const FIRST_SPACING: Duration = Duration::from_mins(1);
/// The longest wait, and how long it takes until one IDENTIFY is forgotten. One in 50 minutes makes 29 a day, and with
/// the quick ones and those in between fewer than 50.
const RECOVERY: Duration = Duration::from_mins(50);

/// Lets an IDENTIFY through, or not. Clones are one gate.
#[derive(Clone, Debug)]
pub struct Gate {
    budget: Arc<Mutex<Budget>>,
    identifies: Identifies,
}

#[derive(Debug, Default)]
struct Budget {
    /// The bot's user id.
    bot: u64,
    sent: u64,
    /// How many were sent of late, as of the last one.
    spent: f64,
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
    /// Too soon after the last one, or too many came before it.
    At(Instant),
    /// The day's budget is spent but for the reserve.
    Spent {
        remaining: u32,
        resets: Instant,
    },
}

impl Gate {
    /// A gate that counts in `identifies`, too.
    pub fn new(identifies: Identifies) -> Gate {
        Gate { budget: Arc::default(), identifies }
    }

    /// Goes over to the budget of another bot, as earlier processes left it.
    pub async fn adopt(&self, bot: u64) {
        let last = self.identifies.last(bot).await;
        let mut budget = self.budget();
        let sent = budget.sent;
        *budget = Budget { bot, sent, ..Budget::left(last, Instant::now()) };
    }

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

    /// When the next may be sent, in seconds since 1970; `None` when it may be now.
    pub fn next(&self) -> Option<u64> {
        let now = Instant::now();
        let wait = match self.budget().permit(now) {
            Permit::Now => return None,
            Permit::At(when) | Permit::Spent { resets: when, .. } => when.saturating_duration_since(now),
        };
        let at = SystemTime::now() + wait;
        at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// The budget as an earlier process left it.
    fn left(last: Option<Spending>, now: Instant) -> Budget {
        let Some(Spending { spent, ago }) = last else { return Budget::default() };
        // Further back than the clock goes: as good as never.
        Budget { spent, last: now.checked_sub(ago), ..Budget::default() }
    }

    fn permit(&self, now: Instant) -> Permit {
        if let Some(Limit { remaining, reserve, resets }) = self.limit
            && remaining <= if self.reserve_open { 0 } else { reserve }
            && now < resets
        {
            return Permit::Spent { remaining, resets };
        }
        let spacing = if self.reserve_open { Duration::ZERO } else { spacing(self.spent) };
        match self.last.map(|last| last + spacing.max(IDENTIFY_DELAY + MARGIN)) {
            Some(next) if next > now => Permit::At(next),
            _ => Permit::Now,
        }
    }

    /// Whether one may be sent now, which it then is.
    fn ask(&mut self, now: Instant) -> bool {
        if self.permit(now) != Permit::Now {
            return false;
        }
        let forgotten = self.last.map_or(f64::INFINITY, |last| (now - last).div_duration_f64(RECOVERY));
        self.spent = (self.spent - forgotten).max(0.0) + 1.0;
        self.sent += 1;
        self.reserve_open = false;
        self.last = Some(now);
        if let Some(limit) = &mut self.limit {
            limit.remaining = limit.remaining.saturating_sub(1);
        }
        true
    }
}

/// How long to wait after an IDENTIFY that made `spent` of them.
fn spacing(spent: f64) -> Duration {
    if spent <= QUICK {
        return Duration::ZERO;
    }
    Duration::try_from_secs_f64(FIRST_SPACING.as_secs_f64() * (spent - QUICK - 1.0).exp2())
        .map_or(RECOVERY, |spacing| spacing.min(RECOVERY))
}

impl Queue for Gate {
    fn enqueue(&self, _shard: u32) -> oneshot::Receiver<()> {
        let (pass, wait) = oneshot::channel();
        let mut budget = self.budget();
        if !budget.ask(Instant::now()) {
            budget.shut_out = Some(pass);
            return wait;
        }
        let (gate, bot, spent) = (self.clone(), budget.bot, budget.spent);
        // It ends within the time that the disk is given.
        tokio::spawn(async move {
            gate.identifies.spend(bot, spent).await;
            gate.budget().last = Some(Instant::now());
            // The connection may be gone; it stays counted.
            pass.send(()).ok();
        });
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn budget(total: u64, remaining: u64) -> Gate {
        let gate = Gate::new(Store::in_memory().identifies());
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
        assert!(budget.ask(start));
        assert!(matches!(budget.permit(start), Permit::At(_)));

        assert!(!budget.ask(after(4)));
        assert!(budget.ask(after(6)));
        assert_eq!((budget.sent, budget.limit.unwrap().remaining), (2, 50));

        assert!(matches!(budget.permit(after(12)), Permit::Spent { remaining: 50, .. }));
        assert_eq!(budget.permit(after(61)), Permit::Now);

        budget.reserve_open = true;
        assert!(budget.ask(after(12)));
        assert!(matches!(budget.permit(after(18)), Permit::Spent { remaining: 49, .. }));
    }

    #[test]
    fn a_small_budget_has_no_reserve() {
        assert_eq!(budget(10, 1).permit(), Permit::Now);
        assert!(matches!(budget(10, 0).permit(), Permit::Spent { .. }));
    }

    #[test]
    fn a_crash_loop_makes_at_most_fifty_a_day_and_ten_restarts_are_free() {
        // Processes that live for 18 s, 200 an hour: each knows of the earlier ones what they wrote down, and sends
        // whenever it may.
        const LIFE: u64 = 18;
        let start = Instant::now();
        let day = Duration::from_hours(24);
        let mut sent: Vec<Instant> = Vec::new();
        let mut kept: Option<(f64, Instant)> = None;
        let left = |kept: Option<(f64, Instant)>, now| {
            Budget::left(kept.map(|(spent, at)| Spending { spent, ago: now - at }), now)
        };
        let mut budget = Budget::default();
        let seconds = 3 * day.as_secs();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            if second % LIFE == 0 {
                budget = left(kept, now);
            }
            if budget.ask(now) {
                kept = Some((budget.spent, now));
                sent.push(now);
            }
        }
        let busiest = sent.iter().map(|from| sent.iter().filter(|at| (*from..*from + day).contains(at)).count()).max();
        assert!(busiest <= Some(50), "{busiest:?}");
        assert!(sent.len() > 80, "it goes on trying: {}", sent.len());
        assert!(sent[10] - sent[0] <= Duration::from_mins(4), "{:?}", sent[10] - sent[0]);
        assert!(sent.windows(2).all(|pair| pair[1] - pair[0] > IDENTIFY_DELAY));
        // A person need not wait.
        let now = start + Duration::from_secs(seconds);
        let mut budget = left(kept, now);
        assert!(matches!(budget.permit(now), Permit::At(_)));
        budget.reserve_open = true;
        assert_eq!(budget.permit(now), Permit::Now);
        // And a quiet day mends it.
        let mut budget = left(kept, now + day);
        assert!(budget.ask(now + day) && budget.spent < 2.0);
    }

    #[tokio::test]
    async fn the_next_process_knows_what_was_sent() {
        let memory = Store::in_memory();
        let gate = Gate::new(memory.identifies());
        gate.adopt(7).await;
        gate.enqueue(0).await.unwrap();
        let next = Gate::new(memory.identifies());
        next.adopt(7).await;
        assert!(matches!(next.permit(), Permit::At(_)));
        assert!(next.next().is_some());
        memory.identifies().spend(7, 30.0).await;
        next.adopt(8).await;
        assert_eq!(next.permit(), Permit::Now);
        next.adopt(7).await;
        let Permit::At(when) = next.permit() else { panic!("{:?}", next.permit()) };
        assert!(when - Instant::now() > Duration::from_mins(49));
    }
}
