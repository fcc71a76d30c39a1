//! What one client has used lately, and governor's judgement on it.
//!
//! It is kept as so many requests and tokens, which time pays off at the pace that the configuration allows. governor
//! (the Generic Cell Rate Algorithm) knows it as so much time to wait off, which another limit would read as another
//! use; so it is asked anew each time, and remembers nothing.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::{Errand, Kind};
use crate::config::limits::Allowance;

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
/// More than so much of a limit is as good as that: what governor reckons with stays within its numbers.
const MOST_DAYS: f64 = 2.0;
/// Of how many bytes in a room each counts as one message, and as how many the largest counts.
const KIBIBYTE: usize = 1 << 10;
const LARGEST: f64 = 8.0;
/// Less than this is nothing.
const LEAST: f64 = 0.01;
/// How long whoever asks shall wait for answers that are being made: most take no longer.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// What somebody has used, as of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// In nanoseconds since perch started.
    at: u64,
    requests: f64,
    files: f64,
    messages: f64,
    tokens: f64,
    /// When tokens were last spent.
    spent: u64,
}

/// What is left to somebody who was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub kind: Kind,
    pub requests: u32,
    /// Until there is one more.
    pub window: Duration,
}

/// A limit that is reached, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub kind: Kind,
    pub wait: Duration,
    /// It is not, but may be by answers that are being made.
    pub under_way: bool,
}

impl Used {
    /// Brings it to the moment `now`.
    pub fn settle(&mut self, allowance: &Allowance, now: u64) {
        let passed = Duration::from_nanos(now.saturating_sub(self.at)).as_secs_f64();
        // Whoever read the clock first need not come first.
        self.at = self.at.max(now);
        let rest = |used: f64, limit: Option<NonZeroU32>, window: Duration| {
            if used == 0.0 {
                return used;
            }
            let rest = match limit {
                Some(limit) => used - passed * f64::from(limit.get()) / window.as_secs_f64(),
                // Where no limit says how fast it is paid, this stays about what was used within the last window; so
                // whoever is limited again starts from that.
                None => used * (-passed / window.as_secs_f64()).exp(),
            };
            if rest < LEAST { 0.0 } else { rest }
        };
        self.requests = rest(self.requests, allowance.requests.map(|rate| rate.per_minute), MINUTE);
        self.files = rest(self.files, allowance.files.map(|rate| rate.per_minute), MINUTE);
        self.messages = rest(self.messages, allowance.messages.map(|rate| rate.per_minute), MINUTE);
        self.tokens = if self.free_in().is_zero() { 0.0 } else { rest(self.tokens, allowance.tokens, DAY) };
    }

    /// How long until all tokens are forgiven: a day after the last were spent, however much more they were than
    /// there may be, and however much smaller the limit became.
    fn free_in(&self) -> Duration {
        DAY.saturating_sub(Duration::from_nanos(self.at.saturating_sub(self.spent)))
    }

    /// Whether there are tokens left for an answer, where others that are being made may take so many.
    pub fn afford(&self, allowance: &Allowance, under_way: u64) -> Result<(), Reached> {
        let Some(limit) = allowance.tokens else { return Ok(()) };
        let judge = |tokens: f64| judge(tokens.min(f64::from(limit.get()) * MOST_DAYS), quota(limit, DAY, limit));
        if let Err(wait) = judge(self.tokens) {
            return Err(Reached { kind: Kind::Tokens, wait: wait.min(self.free_in()), under_way: false });
        }
        match judge(self.tokens + whole(under_way)) {
            Ok(_) => Ok(()),
            Err(_) => Err(Reached { kind: Kind::Tokens, wait: UNDER_WAY, under_way: true }),
        }
    }

    /// Takes one request, if there is one left, and where the answer costs tokens, if there are any left.
    pub fn take(&mut self, allowance: &Allowance, errand: Errand) -> Result<Option<Left>, Reached> {
        if errand == Errand::Answer {
            self.afford(allowance, 0)?;
        }
        let (kind, used, rate, cost) = match errand {
            Errand::Answer | Errand::Request => (Kind::Requests, &mut self.requests, allowance.requests, 1.0),
            Errand::File => (Kind::Files, &mut self.files, allowance.files, 1.0),
            Errand::Message(bytes) => {
                let cost = whole(bytes.div_ceil(KIBIBYTE) as u64).clamp(1.0, LARGEST);
                (Kind::Messages, &mut self.messages, allowance.messages, cost)
            }
        };
        let Some(rate) = rate else {
            *used += cost;
            return Ok(None);
        };
        let quota = quota(rate.per_minute, MINUTE, rate.burst);
        // Under a wider limit it may have become more; by a large message, too, and that is owed.
        let most = f64::from(rate.burst.get()) + if kind == Kind::Messages { LARGEST - 1.0 } else { 0.0 };
        *used = used.min(most);
        let requests = judge(*used, quota).map_err(|wait| Reached { kind, wait, under_way: false })?;
        *used += cost;
        let missing = *used - f64::from(rate.burst.get() - requests - 1);
        Ok(Some(Left { kind, requests, window: quota.replenish_interval().mul_f64(missing.clamp(0.0, 1.0)) }))
    }

    /// Undoes one request of the API.
    pub fn take_back(&mut self) {
        self.requests = (self.requests - 1.0).max(0.0);
    }

    /// Counts tokens, whether they are left or not.
    pub fn spend(&mut self, tokens: u64) {
        self.tokens += whole(tokens);
        self.spent = self.at;
    }

    /// The largest part of any limit that is used: 0 for who may as well be forgotten. What is not limited counts as
    /// under the largest limit that can be written: whoever is near a real one is remembered first.
    pub fn share(&self, allowance: &Allowance) -> f64 {
        let part = |used: f64, limit: Option<NonZeroU32>| used / f64::from(limit.unwrap_or(NonZeroU32::MAX).get());
        part(self.requests, allowance.requests.map(|rate| rate.burst))
            .max(part(self.files, allowance.files.map(|rate| rate.burst)))
            .max(part(self.messages, allowance.messages.map(|rate| rate.burst)))
            .max(part(self.tokens, allowance.tokens))
    }
}

/// So many tokens; a limit has no more than this.
fn whole(tokens: u64) -> f64 {
    f64::from(u32::try_from(tokens).unwrap_or(u32::MAX))
}

/// So many in a `window`, of which `burst` at once.
fn quota(limit: NonZeroU32, window: Duration, burst: NonZeroU32) -> Quota {
    // Of 2^32 a minute each takes 13 ns.
    Quota::with_period(window / limit.get()).map_or(Quota::per_second(burst), |quota| quota.allow_burst(burst))
}

/// Whether one more may be had by who has `used` so much: how many are left then, or how long to wait.
fn judge(used: f64, quota: Quota) -> Result<u32, Duration> {
    let debt = quota.replenish_interval().mul_f64(used);
    let limiter: RateLimiter<_, _, _, StateInformationMiddleware> = RateLimiter::new(quota, Debt(debt), Standstill);
    match limiter.check() {
        Ok(snapshot) => Ok(snapshot.remaining_burst_capacity()),
        Err(not_until) => Err(not_until.wait_time_from(Standstill.now())),
    }
}

/// A debt as governor keeps it: time to wait off, which it reads here and need not write.
struct Debt(Duration);

impl StateStore for Debt {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        judge(Some(self.0.into())).map(|(verdict, _)| verdict)
    }
}

/// The moment at which somebody is judged; debts are counted from it.
#[derive(Clone, Copy)]
struct Standstill;

impl Clock for Standstill {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}
