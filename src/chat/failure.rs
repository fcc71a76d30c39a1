//! Why there is no answer: short and honest for the person, with the cause for the journal.

use std::fmt;
use std::time::Duration;

use crate::limits::spell;
use crate::service::Blame;

/// The longest that anybody is told to wait: whoever comes again then is told anew. What an API asks for beyond it, in
/// seconds or in years, helps nobody.
pub const LONGEST_WAIT: Duration = Duration::from_hours(24);

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
    /// The model wrote as much as it may, and none of it is an answer: it was still thinking.
    Exhausted,
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

/// Each kind as Prometheus shows it.
pub(super) const KINDS: [&str; 12] = [
    "not_ready",
    "busy",
    "refused",
    "declined",
    "too_long",
    "exhausted",
    "unreadable",
    "unavailable",
    "timed_out",
    "cut_short",
    "nonsense",
    "broken",
];

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Failure {}

impl Why {
    /// Its place among the [`KINDS`].
    pub(super) fn kind(self) -> usize {
        match self {
            Why::NotReady => 0,
            Why::Busy { .. } => 1,
            Why::Refused(_) => 2,
            Why::Declined => 3,
            Why::TooLong => 4,
            Why::Exhausted => 5,
            Why::Unreadable => 6,
            Why::Unavailable => 7,
            Why::TimedOut => 8,
            Why::CutShort => 9,
            Why::Nonsense => 10,
            Why::Broken => 11,
        }
    }

    /// What the person is told.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Why::NotReady => "the chat is not ready yet; try again in a while".to_owned(),
            Why::Busy { retry_after: Some(wait) } if wait >= LONGEST_WAIT => {
                "the chat has done as much as it may for today; try again tomorrow".to_owned()
            }
            Why::Busy { retry_after: Some(wait) } => {
                let seconds = whole_seconds(wait);
                let wait = if seconds < 120 { format!("{seconds} s") } else { spell(seconds) };
                format!("the chat has too much to do at the moment; try again in {wait}")
            }
            Why::Busy { retry_after: None } => {
                "the chat has too much to do at the moment; try again in a while".to_owned()
            }
            Why::Refused(_) => "the chat is not set up right, and can't answer until its operator mends it".to_owned(),
            Why::Declined => "the chat would not answer this message; try other words".to_owned(),
            Why::TooLong => {
                "this is more than the model can read at once; write less, or begin a new conversation".to_owned()
            }
            Why::Exhausted => "the model came to no answer within what it may write; ask for less at once".to_owned(),
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

/// A wait in whole seconds, as `Retry-After` has it: whoever waits that long has waited long enough.
#[must_use]
pub fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_said_as_people_say_it() {
        for (seconds, said) in [
            (0.2, "the chat has too much to do at the moment; try again in 1 s"),
            (42.0, "the chat has too much to do at the moment; try again in 42 s"),
            (5_000.0, "the chat has too much to do at the moment; try again in 84 minutes"),
            (86_400.0, "the chat has done as much as it may for today; try again tomorrow"),
        ] {
            let retry_after = Some(Duration::from_secs_f64(seconds));
            assert_eq!(Why::Busy { retry_after }.sentence(), said);
        }
    }
}
