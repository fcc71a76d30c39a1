//! When somebody has to be told that a certificate expires.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::certificate::{Certificate, Facts};
use crate::telemetry::lines::{moment, span};

/// So long before a certificate expires a person must act; of one with a short life, in its last tenth.
const LAST_DAYS: Duration = Duration::from_hours(7 * 24);

/// What was said of the certificate that is served, so that it is said once.
#[derive(Default)]
pub struct Expiry {
    of: Option<Arc<Certificate>>,
    said: Stage,
    /// That it is not valid yet.
    said_early: bool,
}

/// How much life a certificate has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Good,
    Ending,
    Over,
}

fn stage(facts: &Facts, now: SystemTime) -> Stage {
    match facts.not_after.duration_since(now) {
        Err(_) => Stage::Over,
        Ok(left) if left < LAST_DAYS.min(facts.lifetime() / 10) => Stage::Ending,
        Ok(_) => Stage::Good,
    }
}

impl Expiry {
    /// Looks at the clock, and tells the journal if `served` is about to expire, or has, or is not valid yet. `remedy` says
    /// what helps.
    pub fn look(&mut self, served: Option<Arc<Certificate>>, remedy: &str) {
        let Some(served) = served else { return };
        if self.of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, &served)) {
            *self = Expiry { of: Some(Arc::clone(&served)), ..Expiry::default() };
        }
        let (facts, now) = (&served.facts, SystemTime::now());
        if facts.not_before > now && !std::mem::replace(&mut self.said_early, true) {
            let since = moment(facts.not_before);
            tracing::error!(
                service = crate::http::NAME,
                "browsers refuse the {facts}, as it is valid from {since} on; set the clock of this host if that is past, \
                 or {remedy}"
            );
        }
        let stage = stage(facts, now);
        if stage <= self.said {
            return;
        }
        self.said = stage;
        if stage == Stage::Over {
            tracing::error!(service = crate::http::NAME, "browsers refuse the {facts}, as it has expired; {remedy}");
        } else {
            let left = span(facts.not_after.duration_since(now).unwrap_or_default());
            tracing::error!(service = crate::http::NAME, "the {facts} expires in {left}; {remedy}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_hears_in_the_last_week_or_the_last_tenth() {
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_hours(24 * days);
        let facts = |from, until| Facts {
            names: Vec::new(),
            issuer: String::new(),
            not_before: at(from),
            not_after: at(until),
        };
        let quarter = facts(100, 190);
        assert_eq!(stage(&quarter, at(182)), Stage::Good);
        assert_eq!(stage(&quarter, at(184)), Stage::Ending);
        assert_eq!(stage(&quarter, at(191)), Stage::Over);
        let ten_days = facts(100, 110);
        assert_eq!(stage(&ten_days, at(108)), Stage::Good);
        assert_eq!(stage(&ten_days, at(109) + Duration::from_secs(1)), Stage::Ending);
    }
}
