//! `[reload]`: how often perch looks for something new.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::Table;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const POLL_BOUNDS: RangeInclusive<Duration> = SECOND..=HOUR;
const SECRETS_BOUNDS: RangeInclusive<Duration> = SECOND..=Duration::from_hours(24);
const BAKE_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

/// The pace of change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Between two looks at the configuration.
    pub poll: Duration,
    /// Between two looks at the secrets.
    pub secrets: Duration,
    /// How long `status` calls a new version `baking`.
    pub bake: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Reload { poll: Duration::from_secs(10), secrets: Duration::from_mins(5), bake: Duration::from_secs(30) }
    }
}

impl Reload {
    pub(super) fn read(mut table: Table<'_>) -> Reload {
        let default = Reload::default();
        let reload = Reload {
            poll: table.duration("poll", POLL_BOUNDS).unwrap_or(default.poll),
            secrets: table.duration("secrets", SECRETS_BOUNDS).unwrap_or(default.secrets),
            bake: table.duration("bake", BAKE_BOUNDS).unwrap_or(default.bake),
        };
        table.finish();
        reload
    }
}
