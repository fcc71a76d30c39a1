//! From a valid configuration to one that can be published: its secrets fetched, each service's part made, and
//! nothing of what runs touched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::machine::Cause as Why;
use crate::aws::Aws;
use crate::chat;
use crate::config::Config;
use crate::config::secret::SecretRef;
use crate::secrets::{self, NotFound, Secret, SecretValues};
use crate::service::{Cause, ChangeId, Live, Next, Problem, Readiness, Service, State};
use crate::source::Version;

/// How long all secrets together may take to fetch.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(20);
/// The same while nothing runs yet: what needs no secret shall serve soon, and the others are tried again.
const FIRST_SECRETS_TIMEOUT: Duration = Duration::from_secs(4);
/// How long each service may take to prepare.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a preparation needs; it is moved into a task of its own.
pub struct Preparation {
    pub change: ChangeId,
    pub version: Version,
    pub config: Arc<Config>,
    pub why: Why,
    pub running: Option<Arc<Live>>,
    pub services: Arc<[Arc<dyn Service>]>,
    pub aws: Aws,
    /// A service is parked: it is tried again even if nothing is new.
    pub parked: bool,
    /// The simulator's token stands in for Discord's (`perch dev`).
    pub simulated: Option<Secret>,
}

/// How a preparation ended.
pub enum Prepared {
    Ready(Live),
    /// The secrets were looked at and are what they were.
    Same,
    Refused(Vec<Problem>),
}

impl Preparation {
    /// Runs it. The secrets that could not be fetched although they are in use are in the second part of the result.
    pub async fn run(self) -> (Prepared, Vec<String>) {
        let mut troubles = Vec::new();
        let (values, missing) = self.secrets(&mut troubles).await;
        if self.nothing_new(&values)
            && let Some(running) = self.running.as_deref()
            && running.parts.values().all(Readiness::is_settled)
            && !(self.parked && self.why == Why::Asked)
        {
            return (Prepared::Same, troubles);
        }
        let mut parts = BTreeMap::new();
        let mut problems = Vec::new();
        for service in self.services.iter().filter(|service| service.wanted(&self.config)) {
            match self.part(service.as_ref(), &values, &missing).await {
                Ok(readiness) => {
                    parts.insert(service.name(), readiness);
                }
                Err(mut why) => problems.append(&mut why),
            }
        }
        if !problems.is_empty() {
            return (Prepared::Refused(problems), troubles);
        }
        if self.nothing_new(&values)
            && let Some(running) = self.running.as_deref()
            && running.parts.values().zip(parts.values()).all(|(old, new)| old.is_held_like(new))
            && !running.parts.values().all(Readiness::is_settled)
        {
            return (Prepared::Same, troubles);
        }
        let live = Live {
            change: self.change,
            version: self.version,
            responder: chat::open(&self.config.chat),
            config: self.config,
            secrets: values,
            parts,
        };
        (Prepared::Ready(live), troubles)
    }

    /// Whether this is the version that runs, with the secrets that it runs with.
    fn nothing_new(&self, values: &SecretValues) -> bool {
        self.why != Why::Version
            && self
                .running
                .as_deref()
                .is_some_and(|running| running.version == self.version && running.secrets == *values)
    }

    /// Fetches every secret that is named. One that is in use and can't be asked for at the moment stays in use.
    async fn secrets(&self, troubles: &mut Vec<String>) -> (SecretValues, Vec<(SecretRef, NotFound)>) {
        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        let limit = if self.running.is_none() { FIRST_SECRETS_TIMEOUT } else { SECRETS_TIMEOUT };
        let deadline = tokio::time::Instant::now() + limit;
        for wanted in self.config.secrets() {
            let path = &wanted.place.key;
            if let Some(secret) = &self.simulated {
                values.insert(path.clone(), secret.clone());
                continue;
            }
            let fetched = match tokio::time::timeout_at(deadline, secrets::fetch(wanted, &self.aws)).await {
                Ok(fetched) => fetched,
                Err(_) => Err(NotFound::timed_out(wanted, limit)),
            };
            match fetched {
                Ok(secret) => {
                    values.insert(path.clone(), secret);
                }
                Err(why) => match self.in_use(wanted) {
                    Some(secret) if why.unavailable() || self.why == Why::Secrets => {
                        troubles.push(format!("{path}: {why}"));
                        values.insert(path.clone(), secret);
                    }
                    _ => missing.push((wanted.clone(), why)),
                },
            }
        }
        (SecretValues(values), missing)
    }

    /// The value in use for a secret that is named alike in the running configuration.
    fn in_use(&self, wanted: &SecretRef) -> Option<Secret> {
        let running = self.running.as_deref()?;
        let same = running
            .config
            .secrets()
            .into_iter()
            .any(|named| named.place.key == wanted.place.key && named.places == wanted.places);
        running.secrets.0.get(&wanted.place.key).filter(|_| same).cloned()
    }

    async fn part(
        &self,
        service: &dyn Service,
        secrets: &SecretValues,
        missing: &[(SecretRef, NotFound)],
    ) -> Result<Readiness, Vec<Problem>> {
        let own: Vec<Problem> = missing
            .iter()
            .filter(|(wanted, _)| wanted.place.key.split('.').next() == Some(service.name()))
            .map(|(wanted, why)| Problem {
                place: wanted.place.clone(),
                text: why.to_string(),
                cause: if why.unavailable() { Cause::Unavailable } else { Cause::Missing },
            })
            .collect();
        let problems = if own.is_empty() {
            let next = Next { config: &self.config, secrets, asked: self.why == Why::Asked };
            match tokio::time::timeout(SERVICE_TIMEOUT, service.prepare(&next, self.running.as_deref())).await {
                Ok(Ok(part)) => return Ok(Readiness::Ready(part)),
                Ok(Err(problems)) => problems,
                Err(_) => vec![Problem {
                    place: crate::config::Place { line: 0, key: service.name().to_owned() },
                    text: format!("could not be prepared within {} s", SERVICE_TIMEOUT.as_secs()),
                    cause: Cause::Unavailable,
                }],
            }
        } else {
            own
        };
        if self.lenient(service.name()) && problems.iter().all(|problem| problem.cause != Cause::Broken) {
            return Ok(hold(&problems));
        }
        Err(problems)
    }

    /// Whether a service may be held back without refusing the version: there is no running state to keep, or the
    /// running state is this version, or holds the service back as well.
    fn lenient(&self, name: &str) -> bool {
        let Some(running) = self.running.as_deref() else { return true };
        match running.parts.get(name) {
            Some(Readiness::Held { .. }) => true,
            Some(Readiness::Ready(_)) | None => false,
        }
    }
}

fn hold(problems: &[Problem]) -> Readiness {
    let refused = problems.iter().any(|problem| problem.cause == Cause::Refused);
    let state = if refused { State::Parked } else { State::Waiting };
    let reason = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Readiness::Held { state, reason }
}

impl Readiness {
    /// Whether nothing but a new secret or configuration can change it.
    fn is_settled(&self) -> bool {
        matches!(self, Readiness::Ready(_))
    }

    pub(super) fn is_held_like(&self, other: &Readiness) -> bool {
        match (self, other) {
            (Readiness::Ready(_), Readiness::Ready(_)) => true,
            (Readiness::Held { state, reason }, Readiness::Held { state: other_state, reason: other_reason }) => {
                state == other_state && reason == other_reason
            }
            _ => false,
        }
    }
}
