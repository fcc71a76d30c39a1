//! Why there is no answer: short and honest for the person, with the cause for the journal.

use std::fmt;
use std::time::Duration;

use crate::service::Blame;
use crate::telemetry::metrics::{Counter, Kind, Page, Source};

/// What kept a responder from answering. It shows as its cause, which is for the journal alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: Why,
    cause: String,
}

/// The kinds of failure that a person is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The backend waits for something: a key, most likely.
    NotReady,
    /// The backend has too much to do, or perch asked it too often; it may have said when to come again.
    Busy { retry_after: Option<Duration> },
    /// The backend refuses what perch is configured to ask of it.
    Refused(Blame),
    /// The backend would answer, but not this message.
    Declined,
    /// The conversation is longer than the model can read.
    TooLong,
    /// The backend would answer, but can't read what came with the message.
    Unreadable,
    /// The backend can't be reached, or is in trouble.
    Unavailable,
    /// The answer did not begin, or go on, in time.
    TimedOut,
    /// The answer ended in the middle.
    CutShort,
    /// What came is no answer.
    Nonsense,
    /// A fault of perch's own.
    Broken,
}

impl Failure {
    /// A failure with its cause in a sentence for the journal. Nothing secret may be in it.
    #[must_use]
    pub fn new(why: Why, cause: impl Into<String>) -> Self {
        Failure { why, cause: cause.into() }
    }
}

/// How often the model gave no answer, by the kind of failure.
#[derive(Default)]
pub struct Failures([Counter; KINDS.len()]);

/// Each kind as Prometheus shows it.
const KINDS: [&str; 11] = [
    "not_ready",
    "busy",
    "refused",
    "declined",
    "too_long",
    "unreadable",
    "unavailable",
    "timed_out",
    "cut_short",
    "nonsense",
    "broken",
];

impl Failures {
    /// Counts a failure of this kind.
    pub fn count(&self, why: Why) {
        self.0[why.kind()].add();
    }
}

impl Source for Failures {
    fn write(&self, page: &mut Page) {
        let help = "Questions that the model did not answer, by the kind of failure.";
        let mut family = page.family("perch_chat_failures_total", Kind::Counter, help);
        for (kind, counter) in KINDS.iter().zip(&self.0) {
            family.value(&[("cause", kind)], counter.get());
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Failure {}

impl Why {
    /// Its place among the [`KINDS`].
    fn kind(self) -> usize {
        match self {
            Why::NotReady => 0,
            Why::Busy { .. } => 1,
            Why::Refused(_) => 2,
            Why::Declined => 3,
            Why::TooLong => 4,
            Why::Unreadable => 5,
            Why::Unavailable => 6,
            Why::TimedOut => 7,
            Why::CutShort => 8,
            Why::Nonsense => 9,
            Why::Broken => 10,
        }
    }

    /// What the person is told.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Why::NotReady => "the chat is not ready yet; try again in a while".to_owned(),
            Why::Busy { retry_after: Some(wait) } => {
                format!("the chat has too much to do at the moment; try again in {} s", wait.as_secs().max(1))
            }
            Why::Busy { retry_after: None } => {
                "the chat has too much to do at the moment; try again in a while".to_owned()
            }
            Why::Refused(_) => "the chat is not set up right, and can't answer until its operator mends it".to_owned(),
            Why::Declined => "the chat would not answer this message; try other words".to_owned(),
            Why::TooLong => {
                "this is more than the model can read at once; write less, or begin a new conversation".to_owned()
            }
            Why::Unreadable => {
                "the model can't read what you attached; send it as something else, or describe it in words".to_owned()
            }
            Why::Unavailable => "the chat can't be reached at the moment; try again in a while".to_owned(),
            Why::TimedOut => "the answer did not come in time; try again".to_owned(),
            Why::CutShort => "the answer broke off; try again".to_owned(),
            Why::Nonsense => "what came back was no answer; try again".to_owned(),
            Why::Broken => "the chat failed".to_owned(),
        }
    }
}
