//! What is counted of a model's answers: how each ended, how long that took, and why there was none.

use std::sync::Arc;
use std::time::Instant;

use super::failure::KINDS;
use super::{Ending, Failure, Why};
use crate::telemetry::metrics::{Counter, Histogram, Kind, Page, Source};

/// Counts answers, for as long as perch runs.
#[derive(Default)]
pub struct Answers {
    took: [Histogram; OUTCOMES.len()],
    failures: [Counter; KINDS.len()],
}

/// How an answer ended, as Prometheus shows it; in the order of [`Outcome`].
const OUTCOMES: [&str; 4] = ["whole", "length", "failed", "stopped"];

#[derive(Clone, Copy)]
enum Outcome {
    Whole,
    /// There would be more, and it may not be longer.
    Length,
    Failed,
    /// Nobody waited for it any more: the person left, or perch ended.
    Stopped,
}

impl Answers {
    /// Begins to time an answer, which counts as stopped until more is known of it.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Underway {
        Underway { answers: Arc::clone(self), begun: Instant::now(), outcome: Outcome::Stopped }
    }

    /// Counts a failure of this kind.
    fn count(&self, why: Why) {
        self.failures[why.kind()].add();
    }
}

/// An answer that is being made. It is counted when this is dropped.
pub struct Underway {
    answers: Arc<Answers>,
    begun: Instant,
    outcome: Outcome,
}

impl Underway {
    /// It ended so.
    pub fn end(mut self, answer: Result<Ending, &Failure>) {
        self.outcome = match answer {
            Ok(Ending::Said) => Outcome::Whole,
            Ok(Ending::Long) => Outcome::Length,
            Ok(Ending::Withheld) => Outcome::Failed,
            Err(failure) => {
                self.answers.count(failure.why);
                Outcome::Failed
            }
        };
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.answers.took[self.outcome as usize].observe(self.begun.elapsed());
    }
}

impl Source for Answers {
    fn write(&self, page: &mut Page) {
        let help = "Time from a question to the end of the model's answer, by how that ended.";
        let mut family = page.family("perch_chat_answer_duration_seconds", Kind::Histogram, help);
        for (outcome, took) in OUTCOMES.iter().zip(&self.took) {
            family.histogram(&[("outcome", outcome)], took);
        }
        let help = "Questions that the model did not answer, by the kind of failure.";
        let mut family = page.family("perch_chat_failures_total", Kind::Counter, help);
        for (kind, counter) in KINDS.iter().zip(&self.failures) {
            family.value(&[("cause", kind)], counter.get());
        }
    }
}
