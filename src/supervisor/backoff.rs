//! How long to wait before trying again.

use std::time::Duration;

/// The delay before a failed service's first restart, and the longest.
const RESTART: Duration = Duration::from_secs(1);
const RESTART_LIMIT: Duration = Duration::from_mins(1);
/// A source that does not answer is asked at most this much more seldom, and at least this often.
const POLL_FACTOR: u32 = 8;
const POLL_LIMIT: Duration = Duration::from_mins(1);

/// Doubles with each failure, and is spread by up to a quarter so that hosts that failed together don't return
/// together.
#[must_use]
pub fn restart_delay(failures: u32) -> Duration {
    spread(doubled(RESTART, failures.saturating_sub(1)).min(RESTART_LIMIT))
}

/// `pace` while the source answers; then growing, to the larger of `pace` and a minute at most.
#[must_use]
pub fn poll_delay(pace: Duration, failures: u32) -> Duration {
    if failures == 0 {
        return pace;
    }
    spread(doubled(pace, failures).min(pace * POLL_FACTOR).min(POLL_LIMIT.max(pace)))
}

/// For a service that is held back since the start, the `tries`-th time: soon, as what it waits for may have been merely
/// slow, and at the pace of `poll` in the end.
#[must_use]
pub fn held_delay(poll: Duration, tries: u32) -> Duration {
    doubled(RESTART, tries.saturating_sub(1)).min(poll)
}

fn doubled(base: Duration, times: u32) -> Duration {
    base.saturating_mul(2_u32.saturating_pow(times.min(16)))
}

fn spread(delay: Duration) -> Duration {
    delay.mul_f64(1.0 - 0.25 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stop_growing() {
        let seconds = Duration::from_secs;
        assert!((seconds(0)..=seconds(1)).contains(&restart_delay(1)));
        assert!((seconds(3)..=seconds(4)).contains(&restart_delay(3)));
        assert!((seconds(45)..=seconds(60)).contains(&restart_delay(u32::MAX)));
        assert_eq!(poll_delay(seconds(10), 0), seconds(10));
        assert!((seconds(15)..=seconds(20)).contains(&poll_delay(seconds(10), 1)));
        assert!((seconds(45)..=seconds(60)).contains(&poll_delay(seconds(10), 40)));
        assert!((seconds(6)..=seconds(8)).contains(&poll_delay(seconds(1), 40)));
        assert!(poll_delay(seconds(3_600), 9) <= seconds(3_600));
    }
}
