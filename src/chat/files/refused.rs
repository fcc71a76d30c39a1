//! Why a file is not taken, for the person and for the counters.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of reason, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its extension is none that is taken.
    Name,
    /// It is declared as something else.
    Type,
    /// It is something else.
    Content,
    /// It is a picture with more pixels than anybody looks at.
    Dimensions,
    /// It does something of its own when it is opened.
    Active,
    /// It is too large.
    Size,
    /// There are too many.
    Count,
    /// The model can't read such a file.
    Unreadable,
    /// It could not be had: the request is no form, ended early, or what Discord keeps does not come.
    Broken,
    /// It came too slowly.
    Slow,
    /// There is no room for it now.
    Room,
}

impl Reason {
    pub const ALL: [Reason; 11] = [
        Reason::Name,
        Reason::Type,
        Reason::Content,
        Reason::Dimensions,
        Reason::Active,
        Reason::Size,
        Reason::Count,
        Reason::Unreadable,
        Reason::Broken,
        Reason::Slow,
        Reason::Room,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Name => "name",
            Reason::Type => "type",
            Reason::Content => "content",
            Reason::Dimensions => "dimensions",
            Reason::Active => "active",
            Reason::Size => "size",
            Reason::Count => "count",
            Reason::Unreadable => "unreadable",
            Reason::Broken => "broken",
            Reason::Slow => "slow",
            Reason::Room => "room",
        })
    }
}

/// A file that is not taken. It shows as a sentence that its sender may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub reason: Reason,
    what: String,
}

impl Unfit {
    #[must_use]
    pub fn new(reason: Reason, what: impl Into<String>) -> Unfit {
        Unfit { reason, what: what.into() }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// How many files were not taken, and why.
#[derive(Debug, Default)]
pub struct Refused([AtomicU64; Reason::ALL.len()]);

impl Refused {
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Every reason with its count.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.0[*reason as usize].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let refused = Refused::default();
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| refused.count(reason));
        }
        for (times, (reason, count)) in (0..).zip(refused.counts()) {
            assert_eq!((reason, count), (Reason::ALL[reason as usize], times));
        }
    }
}
