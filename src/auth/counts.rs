//! How often people signed in, and how often they did not.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::token::Flaw;
use crate::telemetry::metrics::{Counter, Kind, Page, Source};

/// How often the journal hears that somebody is guessing; a client with an old key may do so for days.
const COMPLAINT_PAUSE: Duration = Duration::from_hours(1);

/// The counters.
#[derive(Default)]
pub struct Counts {
    pub passed: Counter,
    pub missing: Counter,
    pub unknown_key: Counter,
    pub no_issuer: Counter,
    pub malformed: Counter,
    pub algorithm: Counter,
    pub unknown_key_id: Counter,
    pub signature: Counter,
    pub claims: Counter,
    pub expired: Counter,
    pub not_yet: Counter,
    pub waiting: Counter,
    pub unavailable: Counter,
    complained: Mutex<Option<Instant>>,
}

impl Counts {
    /// The counter for tokens with this flaw.
    #[must_use]
    pub fn flaw(&self, flaw: Flaw) -> &Counter {
        match flaw {
            Flaw::TooLong | Flaw::Form | Flaw::Header | Flaw::Demands | Flaw::Type | Flaw::NoKeyId => &self.malformed,
            Flaw::Algorithm | Flaw::WrongAlgorithm => &self.algorithm,
            Flaw::UnknownKey => &self.unknown_key_id,
            Flaw::Signature => &self.signature,
            Flaw::Claims | Flaw::Issuer | Flaw::Audience | Flaw::Use | Flaw::Subject | Flaw::NoEnd => &self.claims,
            Flaw::Expired => &self.expired,
            Flaw::NotYet | Flaw::FromTheFuture => &self.not_yet,
        }
    }

    /// Whether it is time to tell the journal once more.
    #[must_use]
    pub fn complains(&self) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() > COMPLAINT_PAUSE);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

impl Source for Counts {
    fn write(&self, page: &mut Page) {
        page.family("perch_sign_ins_total", Kind::Counter, "Requests whose key or token was good.")
            .value(&[], self.passed.get());
        let reasons = [
            ("missing", &self.missing),
            ("unknown_key", &self.unknown_key),
            ("no_issuer", &self.no_issuer),
            ("malformed", &self.malformed),
            ("algorithm", &self.algorithm),
            ("unknown_key_id", &self.unknown_key_id),
            ("signature", &self.signature),
            ("claims", &self.claims),
            ("expired", &self.expired),
            ("not_yet_valid", &self.not_yet),
            ("too_many_failures", &self.waiting),
            ("issuer_unavailable", &self.unavailable),
        ];
        let help = "Requests that were not let in, by reason.";
        let mut family = page.family("perch_sign_in_failures_total", Kind::Counter, help);
        for (reason, counter) in reasons {
            family.value(&[("reason", reason)], counter.get());
        }
    }
}
