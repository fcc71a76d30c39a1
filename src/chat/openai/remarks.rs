//! What the operator is told of answers that are given all the same: once an hour at most, as each may be one of thousands.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Until the same is said again.
const SILENCE: Duration = Duration::from_hours(1);

/// What was said, and when.
#[derive(Default)]
pub struct Remarks {
    cut_off: Seldom,
    unbelievable: Seldom,
}

impl Remarks {
    /// Whether to say that an answer was cut off.
    pub fn cut_off(&self) -> bool {
        self.cut_off.may(Instant::now())
    }

    /// Whether to say that the API counts more tokens than there can be.
    pub fn unbelievable(&self) -> bool {
        self.unbelievable.may(Instant::now())
    }
}

#[derive(Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    fn may(&self, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = said.is_none_or(|said| now.duration_since(said) >= SILENCE);
        if may {
            *said = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_an_hour() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        let after = [0, 1, 3_599, 3_600, 3_601].map(|seconds| seldom.may(now + Duration::from_secs(seconds)));
        assert_eq!(after, [true, false, false, true, false]);
    }
}
