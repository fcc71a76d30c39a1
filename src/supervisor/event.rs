//! What can happen to the supervisor, and what it does about it: the words that the [`machine`](super::machine) and its
//! driver speak.

use crate::service::ChangeId;
use crate::source::Version;

/// A service's name.
pub type Name = &'static str;

/// Everything that can happen to the supervisor, wherever it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is time to look at the source.
    LookDue,
    /// It is time to look at the secrets.
    SecretsDue,
    /// Somebody wants a look now (SIGHUP, the admin socket), and the answer goes to them. With `force` a version that was
    /// undone gets another chance.
    Asked { asker: Asker, force: bool },
    /// A look ended.
    Looked(Sight),
    /// Nothing is served yet, and whoever waits shall not wait longer for the newest version.
    Overdue,
    /// A try ended.
    Tried { change: ChangeId, verdict: Verdict },
    /// The version that this change put on trial makes things unhealthy.
    Condemned { change: ChangeId },
    /// It has been watched for long enough.
    Proven { change: ChangeId },
    /// A service's task ended although nobody stopped it. `run` is the number of its start.
    Ended { service: Name, run: u64 },
    /// A service served long enough to be trusted again.
    Steady { service: Name, run: u64 },
    /// The delay before a service's next start is over.
    RestartDue { service: Name, run: u64 },
    /// SIGTERM or SIGINT.
    Terminate,
    /// Every service has drained, or the deadline for it has passed.
    Drained,
}

/// Whoever waits for the outcome of a look; the driver knows how to answer them.
pub type Asker = u64;

/// What a look at the source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The version that was seen last.
    Same,
    /// Another version, and whether its text is a valid configuration.
    New { version: Version, valid: bool },
    /// A version that can't even be read as one (too large, a delete marker).
    Unusable { version: Version },
    /// The source brought nothing.
    Nothing,
}

/// How the preparation of a version ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is prepared; these services are asked for.
    Ready { services: Vec<Name> },
    /// It was about secrets only, and they are what they were.
    Same,
    /// It can't be prepared.
    Refused,
}

/// Why a version is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The source has a new version.
    Version,
    /// The secrets are due for a look.
    Secrets,
    /// Somebody asked.
    Asked,
    /// perch starts, and the newest version can't be had or can't be used.
    LastGood,
    /// The version that runs is condemned.
    Revert,
}

/// How a look or a try ended, for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A new state is live.
    Applied,
    /// There was nothing new.
    Unchanged,
    /// There was something new, and it changes nothing.
    Refused,
    /// It was live, made things unhealthy, and is undone.
    Reverted,
    /// The source or the secrets could not be asked.
    Unavailable,
    /// perch is ending.
    Ended,
}

/// What the driver shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the source, then say [`Event::Looked`].
    Look,
    /// Prepare this version, then say [`Event::Tried`]. Nothing that runs may be touched.
    Try { change: ChangeId, version: Version, cause: Cause },
    /// Publish what was prepared for this change.
    Commit { change: ChangeId },
    /// Watch the version that this change brought, then say [`Event::Condemned`] or [`Event::Proven`].
    Bake { change: ChangeId },
    /// Keep the live version as the one to go back to.
    Bless { change: ChangeId },
    /// Forget what was prepared for this change, if anything was.
    Discard { change: ChangeId },
    /// Start a service's task.
    Start { service: Name, run: u64 },
    /// Stop a service's task and wait for it in the background.
    Stop { service: Name },
    /// Say [`Event::RestartDue`] after a delay that grows with `failures`.
    Delay { service: Name, run: u64, failures: u32 },
    /// Tell everybody who asked.
    Answer { askers: Vec<Asker>, outcome: Outcome },
    /// Set the alarm for the next look at the source, at the secrets, or both.
    Sleep { look: bool, secrets: bool },
    /// Stop every service and say [`Event::Drained`] when they are done.
    Drain,
    /// Leave.
    Exit,
}

/// What earlier processes knew.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The number of the last change.
    pub changes: u64,
    /// The version that was blessed last, if its text is still there.
    pub good: Option<Version>,
    /// The newest version, if it was undone.
    pub quarantined: Option<Version>,
}
