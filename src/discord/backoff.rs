//! How long to wait before trying again.

use std::time::Duration;

/// The first wait is anywhere below this.
const BASE: Duration = Duration::from_secs(1);
/// No wait is longer.
const CAP: Duration = Duration::from_mins(1);

/// Failures in a row.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    /// What held this long was healthy, and its end is a first failure.
    stable: Duration,
}

impl Backoff {
    pub fn new(stable: Duration) -> Backoff {
        Backoff { failures: 0, stable }
    }

    /// Takes one more failure down, of something that had held for `held`, and returns how long to wait.
    pub fn failed(&mut self, held: Option<Duration>) -> Duration {
        if held.is_some_and(|held| held >= self.stable) {
            self.failures = 0;
        }
        let delay = delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// How many failures came in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// The wait after `before` earlier failures: at once or nearly the first time, then doubling, with the upper half of
/// each wait left to chance so that many bots don't come back in step.
pub fn delay(before: u32) -> Duration {
    if before == 0 {
        return BASE.mul_f64(fastrand::f64());
    }
    let most = BASE.saturating_mul(1_u32.checked_shl(before).unwrap_or(u32::MAX)).min(CAP);
    most / 2 + (most / 2).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_begin_anew_after_a_healthy_time() {
        let stable = Duration::from_mins(1);
        let mut backoff = Backoff::new(stable);
        let bounds = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (30, 60), (30, 60)];
        for (least, most) in bounds {
            let delay = backoff.failed(Some(Duration::from_secs(5)));
            assert!((Duration::from_secs(least)..=Duration::from_secs(most)).contains(&delay), "{delay:?}");
        }
        assert!(delay(u32::MAX) <= CAP);
        assert!(backoff.failed(Some(stable)) <= BASE);
        assert!(backoff.failed(None) >= BASE);
    }
}
