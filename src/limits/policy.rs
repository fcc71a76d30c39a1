//! The limits there are, and what whoever meets one is told.

use std::fmt;
use std::time::Duration;

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub scope: Scope,
    pub kind: Kind,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Address,
    Person,
    Total,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Requests,
    Files,
    Messages,
    Tokens,
}

impl Policy {
    /// The name that clients read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.scope, self.kind) {
            (Scope::Address, Kind::Requests) => "address",
            (Scope::Address, Kind::Files) => "page",
            (Scope::Address, Kind::Messages) => "address-messages",
            (Scope::Address, Kind::Tokens) => "address-tokens",
            (Scope::Person, Kind::Requests) => "person",
            (Scope::Person, Kind::Files) => "person-page",
            (Scope::Person, Kind::Messages) => "person-messages",
            (Scope::Person, Kind::Tokens) => "person-tokens",
            (Scope::Total, Kind::Requests) => "total",
            (Scope::Total, Kind::Files) => "total-page",
            (Scope::Total, Kind::Messages) => "total-messages",
            (Scope::Total, Kind::Tokens) => "total-tokens",
        }
    }
}

/// How whoever was let in stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The limit that is nearest, if there is any.
    pub nearest: Option<Remaining>,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    pub policy: Policy,
    /// How many more requests there may be at once.
    pub requests: u32,
    /// Until there may be one more than that.
    pub window: Duration,
}

impl Standing {
    /// The one of the two that has less left.
    pub(super) fn and(self, other: Standing) -> Standing {
        let nearest = [self.nearest, other.nearest].into_iter().flatten().min_by_key(|remaining| remaining.requests);
        Standing { nearest }
    }
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub policy: Policy,
    /// When it is worth coming again.
    pub retry_after: Duration,
    /// Answers that are being made may reach the limit.
    pub under_way: bool,
}

impl Refusal {
    /// The same in whole seconds, as the header says it: whoever waits that long is let in, if no answer is under way.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u64 {
        (self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0)).max(1)
    }
}

/// A sentence for the person.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = spell(self.retry_after_seconds());
        if self.under_way {
            let whose = match self.policy.scope {
                Scope::Address => "your address may have for now",
                Scope::Person => "you may have for now",
                Scope::Total => "there is for now",
            };
            return write!(f, "answers that are being made may take all that {whose}; try again in {wait}");
        }
        match (self.policy.scope, self.policy.kind) {
            (Scope::Address, Kind::Requests | Kind::Files) => {
                write!(f, "too many requests come from your address; try again in {wait}")
            }
            (Scope::Address, Kind::Messages) => {
                write!(f, "too many messages for rooms come from your address; try again in {wait}")
            }
            (Scope::Address, Kind::Tokens) => {
                write!(f, "your address has had as many answers as it may have for now; try again in {wait}")
            }
            (Scope::Person, Kind::Requests | Kind::Files | Kind::Messages) => {
                write!(f, "you ask too fast; try again in {wait}")
            }
            (Scope::Person, Kind::Tokens) => {
                write!(f, "you have had as many answers as you may have for now; try again in {wait}")
            }
            (Scope::Total, Kind::Requests | Kind::Files | Kind::Messages) => {
                write!(f, "too many people ask at the moment; try again in {wait}")
            }
            (Scope::Total, Kind::Tokens) => {
                write!(f, "there are no more answers for anybody for now; try again in {wait}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// A time to wait, as people say it.
#[must_use]
pub fn spell(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3_600), "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
