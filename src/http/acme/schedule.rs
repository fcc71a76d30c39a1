//! When a certificate is ordered: the first at once, the next in the last third of its life, and after a failure as
//! seldom as the server wants.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::renewal::Suggestion;
use crate::http::tls::certificate::Facts;

/// The waits after failures in a row that Let's Encrypt asks for (<https://letsencrypt.org/docs/integration-guide/>,
/// "Retrying failures"). They stay below 5 failed validations of a name in an hour, and far below 300 orders in 3 hours
/// (<https://letsencrypt.org/docs/rate-limits/>).
const WAITS: [Duration; 4] =
    [Duration::from_mins(1), Duration::from_mins(10), Duration::from_mins(100), Duration::from_hours(24)];
/// The first wait where nobody answered: no order was made, so nothing is counted. Each is twice the one before.
const UNANSWERED: Duration = Duration::from_secs(5);
const LONGEST_UNANSWERED: Duration = Duration::from_hours(1);
/// How long a server that limits is left alone if it does not say: two of Let's Encrypt's limits are for an hour.
const LIMITED: Duration = Duration::from_hours(1);
/// Nobody is believed who asks for more patience than this: the longest limit of Let's Encrypt's is a week.
pub const MOST_PATIENCE: Duration = Duration::from_hours(7 * 24);
/// So far apart are two certificates for the same names: Let's Encrypt issues 5 in 7 days, one every 34 hours, whatever
/// the host's clock thinks of them.
const BETWEEN: Duration = Duration::from_hours(34);
/// How soon somebody who asks (`perch reload`) is obeyed after a failure: 5 of them in an hour would be too many.
const ASKED: Duration = Duration::from_mins(15);

/// What came of orders for these names. It outlives the process, so that a restart is no way around a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tries {
    /// How many failed in a row.
    pub failures: u32,
    /// When the last was made, in seconds since 1970.
    pub last: u64,
    /// How long to wait after it, in seconds.
    pub wait: u64,
    /// How much of that the server itself asked for, in seconds.
    pub asked: u64,
    /// What came of it, if it failed.
    pub error: Option<String>,
    /// When one was ordered before its time because the server wanted it, in seconds since 1970.
    pub early: u64,
    /// What the server suggests for the certificate that there is.
    pub suggestion: Suggestion,
}

/// Why an order failed, as far as the wait depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server was not reached, or gave no answer.
    Unanswered,
    /// It limits how much it is asked.
    Limited,
    /// It said no, or could not reach perch.
    Refused,
    /// It issued a certificate that by this host's clock is not valid.
    Clock,
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Tries {
    /// Puts down a failure at `now`; `until` is what the server asked for. `jitter` is from 0 to 1.
    pub fn failed(&mut self, kind: Kind, error: String, until: Option<SystemTime>, now: SystemTime, jitter: f64) {
        let doubled = UNANSWERED * 2_u32.saturating_pow(self.failures.min(16));
        let steps = WAITS[usize::try_from(self.failures).unwrap_or(usize::MAX).min(WAITS.len() - 1)];
        let wait = match kind {
            Kind::Unanswered => doubled.min(LONGEST_UNANSWERED),
            Kind::Limited if until.is_none() => steps.max(LIMITED),
            Kind::Limited | Kind::Refused => steps,
            Kind::Clock => BETWEEN,
        };
        // Hosts that failed together don't come again together.
        let wait = wait.mul_f64(1.0 + jitter / 10.0);
        let asked = until.and_then(|until| until.duration_since(now).ok()).unwrap_or_default().min(MOST_PATIENCE);
        *self = Tries {
            failures: self.failures.saturating_add(1),
            last: seconds(now),
            // Rounded up: a second too early is too early.
            wait: wait.max(asked).as_secs() + 1,
            asked: if asked.is_zero() { 0 } else { asked.as_secs() + 1 },
            error: Some(error),
            ..std::mem::take(self)
        };
    }

    /// Puts down that one was had at `now`, which was not due before `own` by the life of the one before it.
    pub fn succeeded(&mut self, now: SystemTime, own: Option<SystemTime>) {
        let early = if own.is_some_and(|own| now < own) { seconds(now) } else { self.early };
        *self = Tries { early, ..Tries::default() };
    }

    /// When the next may be made at the earliest.
    pub fn next(&self) -> Option<SystemTime> {
        (self.failures > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(self.last + self.wait))
    }

    /// Where the clock was set back behind the last one, that one counts as made now.
    pub fn mend(&mut self, now: SystemTime) {
        self.last = self.last.min(seconds(now));
        self.early = self.early.min(seconds(now));
        self.suggestion.again = self.suggestion.again.min(seconds(now) + MOST_PATIENCE.as_secs());
    }

    /// Somebody asked: the wait is over, unless the server itself asked for it or the last try is too fresh.
    pub fn hurry(&mut self, now: SystemTime) {
        let longest = WAITS[WAITS.len() - 1].mul_f64(1.1).as_secs() + 1;
        if self.failures > 0 && self.wait <= longest && seconds(now) >= self.last + ASKED.as_secs().min(self.wait) {
            self.wait = self.asked;
        }
    }
}

/// When a certificate is to be ordered: `served` is the one there is for the same names, and `jitter`, from 0 to 1, its
/// own.
pub fn due(served: Option<&Facts>, jitter: f64, tries: &Tries, now: SystemTime) -> SystemTime {
    let next = tries.next().unwrap_or(now);
    let Some(facts) = served else { return next };
    let own = own(facts, jitter);
    let renewal = match tries.suggestion.window {
        Some(window) => suggested(facts, window, jitter, tries.early).unwrap_or(own),
        None => own,
    };
    if tries.failures > 0 { renewal.max(next) } else { renewal }
}

/// When the life of a certificate itself says that it is to be renewed.
pub fn own(facts: &Facts, jitter: f64) -> SystemTime {
    let lifetime = facts.lifetime();
    // At two thirds, or up to a thirtieth later; never so soon that limits are touched.
    let renewal = facts.not_before + lifetime.mul_f64(2.0 / 3.0 + jitter / 30.0);
    renewal.max(facts.not_before + BETWEEN.min(lifetime / 3))
}

/// When it is to be renewed within the window that the server suggests: anywhere in it, with the same chance (RFC 9773,
/// section 4.2). A server that wants every certificate replaced at once is obeyed once, and then as often as its limits
/// allow; and one that would let them expire is not.
fn suggested(facts: &Facts, (from, until): (u64, u64), jitter: f64, early: u64) -> Option<SystemTime> {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(from))?;
    let at = at.checked_add(Duration::from_secs(until.saturating_sub(from)).mul_f64(jitter))?;
    let latest = facts.not_after - facts.lifetime() / 10;
    let again = if early > 0 { SystemTime::UNIX_EPOCH + Duration::from_secs(early) + BETWEEN } else { at };
    Some(at.max(again.min(own(facts, jitter))).min(latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000 + hours)
    }

    fn facts(from: u64, until: u64) -> Facts {
        Facts { names: Vec::new(), issuer: String::new(), not_before: at(from), not_after: at(until) }
    }

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life() {
        let none = Tries::default();
        assert_eq!(due(None, 0.0, &none, at(7)), at(7));
        assert_eq!(due(Some(&facts(0, 90 * 24)), 0.0, &none, at(1)), at(60 * 24));
        assert_eq!(due(Some(&facts(0, 90 * 24)), 1.0, &none, at(1)), at(63 * 24));
        assert_eq!(due(Some(&facts(0, 6 * 24)), 0.0, &none, at(1)), at(4 * 24));
        // It is overdue, and a failure puts it off.
        let mut tries = Tries::default();
        tries.failed(Kind::Refused, "no".to_owned(), None, at(70 * 24), 0.0);
        assert_eq!(due(Some(&facts(0, 90 * 24)), 0.0, &tries, at(70 * 24)), at(70 * 24) + Duration::from_secs(61));
    }

    #[test]
    fn failures_keep_within_the_limits_of_lets_encrypt() {
        // Four weeks of nothing but failures, with the shortest waits.
        let (mut tries, mut now, mut failed) = (Tries::default(), at(0), Vec::new());
        while now < at(28 * 24) {
            failed.push(now);
            tries.failed(Kind::Refused, "no".to_owned(), None, now, 0.0);
            now = due(None, 0.0, &tries, now);
        }
        let most = |window: Duration| {
            let within = |from: &SystemTime| failed.iter().filter(|at| **at >= *from && **at < *from + window).count();
            failed.iter().map(within).max().unwrap()
        };
        assert_eq!(most(Duration::from_hours(1)), 3);
        assert_eq!(most(Duration::from_hours(3)), 4);
        assert_eq!(most(Duration::from_hours(7 * 24)), 10);
    }

    #[test]
    fn a_server_that_says_when_is_obeyed_within_reason() {
        let after = |kind, until: Option<SystemTime>| {
            let mut tries = Tries::default();
            tries.failed(kind, "busy".to_owned(), until, at(0), 0.0);
            tries.next().unwrap().duration_since(at(0)).unwrap().as_secs() - 1
        };
        assert_eq!(after(Kind::Limited, Some(at(5))), 5 * 3_600);
        assert_eq!(after(Kind::Limited, Some(at(900_000))), 7 * 24 * 3_600);
        assert_eq!(after(Kind::Limited, None), 3_600);
        assert_eq!(after(Kind::Limited, Some(at(0))), 60);
        assert_eq!(after(Kind::Unanswered, None), 5);
        assert_eq!(after(Kind::Unanswered, Some(at(2))), 2 * 3_600);
        assert_eq!(after(Kind::Clock, None), 34 * 3_600);
    }

    #[test]
    fn a_certificate_is_renewed_within_the_window_that_the_server_suggests() {
        let certificate = facts(0, 90 * 24);
        let suggested = |from: u64, until: u64, jitter: f64, early: u64| {
            let window = Some((seconds(at(from)), seconds(at(until))));
            let suggestion = Suggestion { window, ..Suggestion::default() };
            let tries = Tries { early, suggestion, ..Tries::default() };
            let due = due(Some(&certificate), jitter, &tries, at(1));
            due.duration_since(at(0)).map_or(-1, |after| i64::try_from(after.as_secs() / 3_600).unwrap())
        };
        assert_eq!(suggested(100, 200, 0.0, 0), 100);
        assert_eq!(suggested(100, 200, 0.25, 0), 125);
        assert_eq!(suggested(70 * 24, 72 * 24, 0.5, 0), 71 * 24);
        // Revoked before it was an hour old; the next that is wanted back at once waits.
        assert_eq!(suggested(0, 1, 0.0, 0), 0);
        assert_eq!(suggested(0, 1, 0.0, seconds(at(0))), 34);
        // It was early long ago.
        assert_eq!(suggested(100, 200, 0.0, seconds(at(0))), 100);
        // A window after its end would have it expire.
        assert_eq!(suggested(100 * 24, 110 * 24, 0.0, 0), 81 * 24);
        // A failure puts it off.
        let window = Some((seconds(at(0)), seconds(at(1))));
        let suggestion = Suggestion { window, ..Suggestion::default() };
        let mut tries = Tries { suggestion: suggestion.clone(), ..Tries::default() };
        tries.failed(Kind::Refused, "no".to_owned(), None, at(2), 0.0);
        assert_eq!(due(Some(&certificate), 0.0, &tries, at(2)), at(2) + Duration::from_secs(61));
        assert_eq!(tries.suggestion, suggestion);
        // What comes of it is remembered past it.
        tries.succeeded(at(3), Some(at(60 * 24)));
        assert_eq!(tries, Tries { early: seconds(at(3)), ..Tries::default() });
        tries.succeeded(at(60 * 24), Some(at(60 * 24)));
        assert_eq!(tries.early, seconds(at(3)));
    }

    #[test]
    fn an_unreachable_server_is_asked_ever_more_seldom() {
        let mut tries = Tries::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            tries.failed(Kind::Unanswered, "gone".to_owned(), None, at(0), 0.0);
            waits.push(tries.wait - 1);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
    }

    #[test]
    fn a_clock_that_is_wrong_neither_stops_the_orders_nor_multiplies_them() {
        // The clock went back behind the last try: the wait begins anew, and ends.
        let mut tries = Tries::default();
        tries.failed(Kind::Refused, "no".to_owned(), None, at(900), 0.0);
        tries.mend(at(3));
        assert_eq!(due(None, 0.0, &tries, at(3)), at(3) + Duration::from_secs(61));
        // The clock is years ahead, so that each certificate looks expired: the next one waits all the same.
        let mut tries = Tries::default();
        tries.failed(Kind::Clock, "the clock".to_owned(), None, at(90_000), 0.0);
        assert!(due(Some(&facts(0, 90 * 24)), 0.0, &tries, at(90_000)) > at(90_033));
    }

    #[test]
    fn who_asks_is_obeyed_where_that_breaks_no_limit() {
        let tried = |failures: u32| {
            let mut tries = Tries { failures, ..Tries::default() };
            tries.failed(Kind::Refused, "no".to_owned(), None, at(0), 0.0);
            tries
        };
        let mut daily = tried(5);
        daily.hurry(at(0) + Duration::from_mins(14));
        assert_eq!(daily, tried(5));
        daily.hurry(at(0) + Duration::from_mins(15));
        assert_eq!(daily.next(), Some(at(0)));
        let mut limited = Tries::default();
        limited.failed(Kind::Limited, "limit".to_owned(), Some(at(100)), at(0), 0.0);
        let before = limited.clone();
        limited.hurry(at(99));
        assert_eq!(limited, before);
        // What the server asks for may be short, and counts all the same.
        let mut limited = Tries::default();
        limited.failed(Kind::Limited, "slow down".to_owned(), Some(at(2)), at(0), 0.0);
        limited.hurry(at(1));
        assert_eq!(limited.next(), Some(at(2) + Duration::from_secs(1)));
    }
}
