//! `[run]`: the process itself.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::Table;
use super::values::show_duration;

/// systemd's own `TimeoutStopSec` is 90 s unless a unit says otherwise; the drain has to end before it.
const DRAIN_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(80);

/// A load balancer looks every few seconds, and goes by several looks.
const UNREADY_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const LONGEST_STOP: Duration = Duration::from_secs(80);

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How long SIGTERM waits for what is in flight.
    pub drain: Duration,
    /// For how long `/ready` answers 503 before that, while everything is served as ever.
    pub unready: Duration,
    /// Whether perch leaves its place to another host when EC2 announces that this one is to go.
    pub departure: bool,
}

impl Default for Run {
    fn default() -> Self {
        Run { drain: Duration::from_secs(20), unready: Duration::ZERO, departure: true }
    }
}

impl Run {
    pub(super) fn read(mut table: Table<'_>) -> Run {
        let drain = table.duration("drain", DRAIN_BOUNDS).unwrap_or(Run::default().drain);
        let unready = table.duration("unready", UNREADY_BOUNDS).unwrap_or(Run::default().unready);
        if drain + unready > LONGEST_STOP {
            let most = show_duration(LONGEST_STOP);
            table.mistake(
                "unready",
                format!("and `drain` together are more than {most}, and systemd kills perch soon after"),
            );
        }
        let departure = table.flag("departure").unwrap_or(Run::default().departure);
        table.finish();
        Run { drain, unready, departure }
    }
}
