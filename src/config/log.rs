//! `[log]`: how much perch says.

use tracing::Level;

use super::document::Table;

/// What goes to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// About perch itself; libraries are capped at `info`, as some print whole frames, tokens included, below that.
    pub level: Level,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: Level::INFO }
    }
}

impl Log {
    pub(super) fn read(mut table: Table<'_>) -> Log {
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let level = table.choice("level", &levels).unwrap_or(Level::INFO);
        table.finish();
        Log { level }
    }
}
