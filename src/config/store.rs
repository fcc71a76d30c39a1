//! `[store]`: how long, and how much, is kept of what people say.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::document::Table;
use super::values::{show_duration, show_size};

/// How long conversations are kept unless the configuration says otherwise, and the bounds.
const KEEP: Duration = Duration::from_hours(90 * 24);
const KEEP_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(3_650 * 24);
/// What stands for no bound.
const FOREVER: &str = "forever";
/// How much the database may take unless the configuration says otherwise, and the bounds, in bytes: a small host has
/// 8 GiB of disk.
const MAX_SIZE: u64 = 512 << 20;
const MAX_SIZE_BOUNDS: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// How long after it was last continued a conversation is kept; `None`: for ever.
    pub keep: Option<Duration>,
    /// How much the database may take, in bytes. The oldest conversations make room for new ones.
    pub max_size: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store { keep: Some(KEEP), max_size: MAX_SIZE }
    }
}

impl Store {
    pub(super) fn read(mut table: Table<'_>) -> Store {
        let keep = keep(&mut table);
        let max_size = table.size("max_size", MAX_SIZE_BOUNDS).unwrap_or(MAX_SIZE);
        table.finish();
        Store { keep, max_size }
    }
}

fn keep(table: &mut Table<'_>) -> Option<Duration> {
    let forever =
        table.entry("keep").is_some_and(|entry| matches!(entry.value, DeValue::String(text) if text == FOREVER));
    if forever { None } else { Some(table.duration("keep", KEEP_BOUNDS).unwrap_or(KEEP)) }
}

/// The values as a step of a plan shows them.
pub(super) fn show(store: &Store) -> (String, String) {
    (store.keep.map_or_else(|| FOREVER.to_owned(), show_duration), show_size(store.max_size))
}
