//! How much time passed between two processes, whatever somebody does to the clock in between.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

/// A point in time: within one boot by the clock that nobody can set, across boots by the one on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Which boot of the machine; 0 when it can't be told.
    pub boot: i64,
    pub uptime_ms: i64,
    pub wall_ms: i64,
}

impl Moment {
    pub fn now() -> Moment {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| {
            let hash = Sha256::digest(&id);
            i64::from_le_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
        });
        // It goes on while the machine sleeps.
        let uptime = clock_gettime(ClockId::Boottime);
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Moment {
            boot,
            uptime_ms: uptime.tv_sec * 1_000 + uptime.tv_nsec / 1_000_000,
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// How long before `self` the moment `earlier` was. Where the clock on the wall was set back it is at least the
    /// time since the boot.
    pub fn since(&self, earlier: &Moment) -> Duration {
        let ms = if self.boot == earlier.boot && self.boot != 0 {
            self.uptime_ms - earlier.uptime_ms
        } else {
            let least = if self.boot == 0 { 0 } else { self.uptime_ms };
            self.wall_ms.saturating_sub(earlier.wall_ms).max(least)
        };
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_disturbs_nothing_within_a_boot_and_little_across_two() {
        let hour = 3_600_000;
        let at = |boot, uptime_ms, wall_ms| Moment { boot, uptime_ms, wall_ms };
        let before = at(1, 5_000, 100 * hour);
        for jump in [-hour, 0, hour] {
            assert_eq!(at(1, 15_000, 100 * hour + 10_000 + jump).since(&before), Duration::from_secs(10));
        }
        assert_eq!(at(2, 7_000, 100 * hour + 60_000).since(&before), Duration::from_secs(60));
        assert_eq!(at(2, 7_000, 99 * hour).since(&before), Duration::from_secs(7));
        let now = Moment::now();
        assert!(now.boot != 0 && now.uptime_ms > 0 && now.wall_ms > 0);
    }
}
