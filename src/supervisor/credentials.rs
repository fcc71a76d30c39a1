//! When to look at the secrets out of turn: a service says that a credential in use is refused, so a newer one may be there.

use std::time::Duration;

use tokio::time::Instant;

/// Between the first two looks while a credential is refused; it doubles with each.
const PAUSE: Duration = Duration::from_secs(15);
/// The longest pause. A credential that is accepted for this long is trusted again.
const PAUSE_LIMIT: Duration = Duration::from_hours(1);

/// The looks at the secrets that refused credentials are owed.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Since when one is refused.
    refused: Option<Instant>,
    /// The looks since a credential was trusted last.
    looks: u32,
    last: Option<Instant>,
}

impl Credentials {
    /// Takes in whether any credential is refused `now`.
    pub fn note(&mut self, refused: bool, now: Instant) {
        if !refused {
            self.refused = None;
        } else if self.refused.is_none() {
            self.refused = Some(now);
            if self.last.is_none_or(|last| now.duration_since(last) > PAUSE_LIMIT) {
                self.looks = 0;
            }
        }
    }

    /// When to look, if a credential is refused: the first time at once.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let refused = self.refused?;
        let Some(last) = self.last.filter(|_| self.looks > 0) else { return Some(refused) };
        Some(last + PAUSE.saturating_mul(2_u32.saturating_pow(self.looks - 1)).min(PAUSE_LIMIT))
    }

    /// A look that was due begins.
    pub fn looked(&mut self, now: Instant) {
        self.looks = self.looks.saturating_add(1);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_token_is_looked_for_at_once_and_then_ever_more_seldom() {
        let mut credentials = Credentials::default();
        assert_eq!(credentials.due(), None);
        let begin = Instant::now();
        let (mut now, mut looks) = (begin, Vec::new());
        for _ in 0..12 {
            // A service that tries the next value is well for a moment each time.
            credentials.note(false, now);
            assert_eq!(credentials.due(), None);
            credentials.note(true, now);
            now = credentials.due().unwrap();
            credentials.looked(now);
            looks.push(now.duration_since(begin).as_secs());
        }
        assert_eq!(looks, [0, 15, 45, 105, 225, 465, 945, 1_905, 3_825, 7_425, 11_025, 14_625]);
        credentials.note(false, now);
        now += PAUSE_LIMIT + PAUSE;
        credentials.note(true, now);
        assert_eq!(credentials.due(), Some(now), "another occurrence, long after");
    }
}
