//! The session start limit: how many IDENTIFYs are left today, and how close together they may be.
//!
//! Sources: Gateway, "Identifying" and "Session Start Limit Object".

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// "Clients are limited to 1000 IDENTIFY calls to the websocket in a 24-hour period."
const TOTAL: u32 = 1000;
const PERIOD: Duration = Duration::from_hours(24);

pub struct Starts {
    remaining: u32,
    ends: Option<Instant>,
    last: Option<Instant>,
    spacing: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    Allowed,
    /// Another one was less than five seconds ago: op 9 (`max_concurrency` is 1).
    TooSoon,
    /// None is left: sessions end and the token is reset.
    Spent,
}

impl Starts {
    pub fn new(spacing: Duration) -> Self {
        Self { remaining: TOTAL, ends: None, last: None, spacing }
    }

    pub fn take(&mut self, now: Instant) -> Start {
        self.roll(now);
        self.ends.get_or_insert(now + PERIOD);
        if self.remaining == 0 {
            return Start::Spent;
        }
        self.remaining -= 1;
        let too_soon = self.last.is_some_and(|last| now - last < self.spacing);
        if too_soon {
            return Start::TooSoon;
        }
        self.last = Some(now);
        Start::Allowed
    }

    pub fn set_remaining(&mut self, remaining: u32) {
        self.remaining = remaining.min(TOTAL);
    }

    /// The object that `GET /gateway/bot` carries.
    pub fn object(&self, now: Instant) -> Value {
        let left = self.ends.map_or(Duration::ZERO, |ends| ends.saturating_duration_since(now));
        json!({
            "total": TOTAL,
            "remaining": self.remaining,
            "reset_after": u64::try_from(left.as_millis()).unwrap_or(0),
            "max_concurrency": 1,
        })
    }

    fn roll(&mut self, now: Instant) {
        if self.ends.is_some_and(|ends| ends <= now) {
            self.remaining = TOTAL;
            self.ends = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_five_seconds_and_a_thousand_a_day() {
        let mut starts = Starts::new(Duration::from_secs(5));
        let now = Instant::now();
        assert_eq!(starts.take(now), Start::Allowed);
        assert_eq!(starts.take(now + Duration::from_secs(4)), Start::TooSoon);
        assert_eq!(starts.take(now + Duration::from_secs(5)), Start::Allowed);
        assert_eq!(starts.object(now)["remaining"], 997);
        starts.set_remaining(0);
        assert_eq!(starts.take(now + Duration::from_mins(1)), Start::Spent);
        assert_eq!(starts.take(now + PERIOD), Start::Allowed);
    }
}
