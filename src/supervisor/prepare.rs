//! From a valid configuration to one that can be published: its secrets fetched, each service's part made, and
//! nothing of what runs touched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::machine::Cause as Why;
use super::refusals::{Findings, Refusals};
use super::status::millis;
use crate::aws::Aws;
use crate::chat;
use crate::config::Config;
use crate::config::secret::SecretRef;
use crate::secrets::{self, Kept, NotFound, Secret, SecretValues};
use crate::service::{Cause, ChangeId, Live, Next, Part, Problem, Readiness, Service, State};
use crate::source::Version;
use crate::store::{Changes, Trial};

/// How long all secrets together may take to fetch, and each service to prepare.
const PATIENCE: Patience = Patience { secrets: Duration::from_secs(20), service: Duration::from_secs(20) };
/// The same while nothing runs yet, or what runs is to be undone: what can serve shall serve soon, and the rest is tried
/// again.
const HASTE: Patience = Patience { secrets: Duration::from_millis(1_500), service: Duration::from_secs(1) };

pub(super) struct Patience {
    pub secrets: Duration,
    service: Duration,
}

/// What a preparation needs; it is moved into a task of its own.
pub struct Preparation {
    pub change: ChangeId,
    pub version: Version,
    pub config: Arc<Config>,
    pub why: Why,
    pub running: Option<Arc<Live>>,
    pub services: Arc<[Arc<dyn Service>]>,
    pub aws: Aws,
    /// The secrets that the way back runs with, where it is taken.
    pub back_to: Option<SecretValues>,
    /// There is another version that can be served, so that this one has to be whole.
    pub strict: bool,
    /// What the process before used.
    pub kept: Kept,
    /// A service is parked, or waits for a better moment: whoever asks has it tried again even if nothing is new.
    pub held: bool,
    /// The services whose credential was refused while in use, and what they say of it.
    pub blamed: BTreeMap<&'static str, String>,
    /// What the journal knows of secrets that are refused.
    pub refusals: Arc<Refusals>,
    /// The simulator's token stands in for Discord's (`perch dev`).
    pub simulated: Option<Secret>,
    /// Where it is taken down, before anything is published, that the version is on trial; `None` where it is not.
    pub trial: Option<Noted>,
}

/// What the next start has to know of the version if this process does not live to say more.
pub struct Noted {
    pub changes: Changes,
    pub source: String,
    pub trial: Trial,
}

/// How long the steps of a preparation took, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Took {
    /// The look that found it; 0 where nothing was looked for.
    #[serde(rename = "look_ms")]
    pub look: u64,
    #[serde(rename = "secrets_ms")]
    pub secrets: u64,
    #[serde(rename = "services_ms")]
    pub services: BTreeMap<String, u64>,
}

/// What came of a preparation.
pub struct Report {
    pub prepared: Prepared,
    /// Why secrets that are in use could not be fetched.
    pub troubles: Vec<String>,
    /// What the journal was told of secrets that are refused, or are not any more.
    pub said: Vec<String>,
    pub took: Took,
}

/// How a preparation ended.
pub enum Prepared {
    Ready(Live),
    /// The secrets were looked at and are what they were.
    Same,
    Refused(Vec<Problem>),
}

/// What became of one service.
struct Made {
    name: &'static str,
    /// In milliseconds.
    took: u64,
    part: Result<Readiness, Vec<Problem>>,
    /// The secrets that it accepted.
    values: SecretValues,
    findings: Findings,
}

impl Preparation {
    /// Runs it.
    pub async fn run(self) -> Report {
        let mut report =
            Report { prepared: Prepared::Same, troubles: Vec::new(), said: Vec::new(), took: Took::default() };
        report.prepared = self.prepare(&mut report).await;
        report
    }

    async fn prepare(self, report: &mut Report) -> Prepared {
        let Report { troubles, said, took, .. } = report;
        let begun = Instant::now();
        let mut findings = Findings::default();
        let (mut values, missing) = match &self.back_to {
            Some(known) => self.known(known),
            None => self.secrets(troubles, &mut findings).await,
        };
        took.secrets = millis(begun.elapsed());
        let settled = self.running.as_deref().is_some_and(|live| live.parts.values().all(Readiness::is_settled));
        let again = self.held && self.why == Why::Asked;
        let blamed = self.why == Why::Secrets && !self.blamed.is_empty();
        if self.nothing_new(&values) && settled && !again && !blamed {
            *said = self.refusals.settle(&self, &findings);
            return Prepared::Same;
        }
        let fetched = values.clone();
        let wanted = self.services.iter().filter(|service| service.wanted(&self.config));
        let parts = join_all(wanted.map(async |service| {
            let (begun, mut values, mut findings) = (Instant::now(), fetched.clone(), Findings::default());
            let part = self.part(service.as_ref(), &mut values, &missing, &mut findings).await;
            Made { name: service.name(), took: millis(begun.elapsed()), part, values, findings }
        }));
        let mut ready = BTreeMap::new();
        let mut problems = Vec::new();
        for Made { name, took: ms, part, values: accepted, findings: found } in parts.await {
            took.services.insert(name.to_owned(), ms);
            values.0.extend(accepted.0.into_iter().filter(|(path, secret)| fetched.0.get(path) != Some(secret)));
            findings.refused.extend(found.refused);
            findings.unknown.extend(found.unknown);
            match part {
                Ok(readiness) => drop(ready.insert(name, readiness)),
                Err(mut why) => problems.append(&mut why),
            }
        }
        if !problems.is_empty() {
            return Prepared::Refused(problems);
        }
        *said = self.refusals.settle(&self, &findings);
        if self.nothing_new(&values)
            && let Some(running) = self.running.as_deref()
            && running.parts.values().zip(ready.values()).all(|(old, new)| old.is_held_like(new))
            && !(settled && again)
        {
            return Prepared::Same;
        }
        if let Some(Noted { changes, source, trial }) = self.trial {
            changes.begin_trial(source, trial).await;
        }
        Prepared::Ready(Live {
            change: self.change,
            version: self.version,
            responder: chat::responder(&self.config.chat, ready.get(chat::NAME)),
            config: self.config,
            secrets: values,
            parts: ready,
        })
    }

    pub(super) fn patience(&self) -> Patience {
        if self.running.is_none() || self.why == Why::Revert { HASTE } else { PATIENCE }
    }

    /// The secrets for the way back: those in use, as a secret is never older than the newest that is known, else those
    /// of its own time.
    fn known(&self, back_to: &SecretValues) -> (SecretValues, Vec<(SecretRef, NotFound)>) {
        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        for wanted in self.config.secrets() {
            let path = &wanted.place.key;
            match self.in_use(wanted).or_else(|| back_to.0.get(path).cloned()) {
                Some(secret) => drop(values.insert(path.clone(), secret)),
                None => missing.push((wanted.clone(), NotFound { tried: Vec::new() })),
            }
        }
        (SecretValues(values), missing)
    }

    /// Whether this is the version that runs, with the secrets that it runs with.
    fn nothing_new(&self, values: &SecretValues) -> bool {
        !matches!(self.why, Why::Version | Why::Revert)
            && self
                .running
                .as_deref()
                .is_some_and(|running| running.version == self.version && running.secrets == *values)
    }

    /// Fetches every secret that is named. One that is in use and can't be asked for at the moment stays in use.
    async fn secrets(
        &self,
        troubles: &mut Vec<String>,
        findings: &mut Findings,
    ) -> (SecretValues, Vec<(SecretRef, NotFound)>) {
        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        let limit = self.patience().secrets;
        let deadline = tokio::time::Instant::now() + limit;
        for wanted in self.config.secrets() {
            let path = &wanted.place.key;
            // The simulator's token is for Discord, and would be no key of anybody else's.
            if let Some(secret) = &self.simulated
                && path == "discord.token"
            {
                values.insert(path.clone(), secret.clone());
                continue;
            }
            let fetched = match tokio::time::timeout_at(deadline, secrets::fetch(wanted, &self.aws)).await {
                Ok(fetched) => fetched,
                Err(_) => Err(NotFound::timed_out(wanted, limit)),
            };
            if fetched.as_ref().map_or_else(|why| !why.unavailable(), |_| true) {
                self.kept.answered(wanted);
            }
            if fetched.is_err() {
                findings.unknown.insert(path.clone());
            }
            match fetched {
                Ok(secret) => {
                    values.insert(path.clone(), secret);
                }
                Err(why) => match (self.in_use(wanted), self.kept.recall(wanted)) {
                    (None, Some((secret, how))) => {
                        troubles.push(format!("{path}: {how}: {why}"));
                        values.insert(path.clone(), secret);
                    }
                    (Some(secret), kept) if why.unavailable() || self.why == Why::Secrets => {
                        let how = kept.map(|(_, how)| format!("{how}: ")).unwrap_or_default();
                        troubles.push(format!("{path}: {how}{why}"));
                        values.insert(path.clone(), secret);
                    }
                    _ => missing.push((wanted.clone(), why)),
                },
            }
        }
        (SecretValues(values), missing)
    }

    /// The value in use for a secret that is named alike in the running configuration.
    pub(super) fn in_use(&self, wanted: &SecretRef) -> Option<Secret> {
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
        secrets: &mut SecretValues,
        missing: &[(SecretRef, NotFound)],
        findings: &mut Findings,
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
            match self.accepted(service, secrets, findings).await {
                Ok(part) => return Ok(Readiness::Ready(part)),
                Err(problems) => problems,
            }
        } else {
            own
        };
        let broken = problems.iter().any(|problem| problem.cause == Cause::Broken);
        // What going back left out is tried again until it works.
        let left_out = self.running.as_deref().is_some_and(|running| {
            running.version == self.version && running.held().any(|name| name == service.name())
        });
        if self.why == Why::Revert || left_out || (self.lenient(service.name()) && !broken) {
            return Ok(hold(&problems));
        }
        Err(problems)
    }

    /// One service's part, made with these secrets.
    pub(super) async fn made(&self, service: &dyn Service, secrets: &SecretValues) -> Result<Part, Vec<Problem>> {
        let next = Next { config: &self.config, secrets, asked: self.why == Why::Asked };
        let limit = self.patience().service;
        match tokio::time::timeout(limit, service.prepare(&next, self.running.as_deref())).await {
            Ok(made) => made,
            Err(_) => Err(vec![Problem {
                place: crate::config::Place { line: 0, key: service.name().to_owned() },
                text: format!("could not be prepared within {} s", limit.as_secs()),
                cause: Cause::Unavailable,
            }]),
        }
    }

    /// Whether a service may be held back without refusing the version: there is no running state to keep and no other
    /// version to serve, or the running state is this version, or holds the service back as well.
    fn lenient(&self, name: &str) -> bool {
        let Some(running) = self.running.as_deref() else { return !self.strict };
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
