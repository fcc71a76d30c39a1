//! One change: a version tried, and committed or refused.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine::{Cause, Event, Outcome, Verdict};
use super::prepare::{Preparation, Prepared};
use super::status::{self, Change, ConfigState, RefusedVersion, Trouble};
use super::{End, LastWord, Message, Supervisor};
use crate::config::{Mistake, plan};
use crate::service::{ChangeId, Live, Readiness, State};
use crate::source::{Uri, Version};
use crate::telemetry::panics;

/// A version in preparation.
pub(super) struct Trial {
    pub change: ChangeId,
    pub version: Version,
    pub cause: Cause,
    pub started: Instant,
    pub prepared: Option<Live>,
    pub cancel: CancellationToken,
}

impl Supervisor {
    pub(super) fn attempt(&mut self, change: ChangeId, version: Version, cause: Cause) {
        let Some(config) = self.configs.get(&version).cloned() else {
            // The machine names only versions that it was given as valid, so this is a fault of ours.
            tracing::error!(service = "supervisor", change = %change, "version {version} is to be tried but is unknown");
            let verdict = Verdict::Refused;
            return self.on(Event::Tried { change, verdict });
        };
        if cause == Cause::Version {
            self.begin_reload();
        }
        self.next_secrets = None;
        let cancel = self.stop.child_token();
        let preparation = Preparation {
            change,
            version: version.clone(),
            config,
            why: cause,
            running: self.live.as_ref().map(|live| Arc::clone(&live.borrow())),
            services: Arc::clone(&self.services),
            aws: self.aws.clone(),
            parked: self.board.services().values().any(|health| health.state == State::Parked),
            simulated: self.simulator.as_ref().map(|simulator| simulator.token.clone()),
        };
        self.trial =
            Some(Trial { change, version, cause, started: Instant::now(), prepared: None, cancel: cancel.clone() });
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let prepared = AssertUnwindSafe(preparation.run()).catch_unwind();
            let (prepared, troubles) = tokio::select! {
                result = prepared => result.unwrap_or_else(|payload| {
                    let text = format!("perch panicked while preparing it: {}", panics::text(payload.as_ref()));
                    let problem = crate::service::Problem {
                        place: crate::config::Place::default(),
                        text,
                        cause: crate::service::Cause::Broken,
                    };
                    (Prepared::Refused(vec![problem]), Vec::new())
                }),
                () = cancel.cancelled() => return,
            };
            drop(sender.send(Message::Prepared { change, prepared: Box::new(prepared), troubles }).await);
        });
    }

    /// What a preparation came to, with the journal told.
    pub(super) fn verdict(&mut self, change: ChangeId, prepared: Prepared) -> Verdict {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.change == change) else { return Verdict::Refused };
        match prepared {
            Prepared::Same => {
                // With no other version to try, nothing that could not be asked is waited for any more.
                if self.configs.len() == 1 {
                    self.secrets_failures = 0;
                }
                Verdict::Same
            }
            Prepared::Ready(live) => {
                let services = live.parts.keys().copied().collect();
                trial.prepared = Some(live);
                Verdict::Ready { services }
            }
            Prepared::Refused(problems) => {
                let (version, cause, took) = (trial.version.clone(), trial.cause, trial.started.elapsed());
                let unavailable = problems.iter().any(|problem| problem.cause == crate::service::Cause::Unavailable);
                self.secrets_failures = if unavailable { self.secrets_failures + 1 } else { 0 };
                let mistakes =
                    problems.into_iter().map(|problem| Mistake { place: problem.place, text: problem.text }).collect();
                let steps = self.steps_to(&version);
                self.refuse(Some(change), &version, cause, mistakes, steps, took);
                if self.live.is_none() && matches!(self.uri, Uri::File(_)) && !unavailable {
                    self.exit = Some(End::Failed);
                }
                Verdict::Refused
            }
        }
    }

    /// What going to `version` changes, in words.
    pub(super) fn steps_to(&self, version: &Version) -> Vec<String> {
        let old = self.live.as_ref().map(|live| Arc::clone(&live.borrow().config));
        match (old, self.configs.get(version)) {
            (Some(old), Some(new)) => plan::plan(&old, new).iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// Puts down a version that changes nothing.
    pub(super) fn refuse(
        &mut self,
        change: Option<ChangeId>,
        version: &Version,
        cause: Cause,
        mistakes: Vec<Mistake>,
        steps: Vec<String>,
        took: Duration,
    ) {
        let list = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect::<String>();
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        // A secret that turned bad under a running version refuses the secret, not the version.
        let what = if live.as_ref() == Some(version) { "new secrets for version" } else { "version" };
        let text = format!("{what} {version} refused:{list}");
        self.said.retain(|known, _| known == version || Some(known) == live.as_ref());
        if self.said.get(version) != Some(&text) {
            let goes_on = match &live {
                Some(live) => format!("version {live} stays in use"),
                None => "there is no earlier version to run".to_owned(),
            };
            tracing::error!(
                service = "supervisor",
                change = change.map(|change| change.0),
                config_version = %version,
                "{what} {version} refused, {goes_on}:{list}"
            );
            self.said.insert(version.clone(), text);
            self.report.record(Change {
                id: change.unwrap_or(ChangeId(0)),
                at: SystemTime::now(),
                cause: status::cause_name(cause),
                from: live.clone(),
                to: version.clone(),
                outcome: Outcome::Refused,
                steps,
                mistakes: mistakes.clone(),
                took_ms: millis(took),
                swap_us: 0,
            });
        }
        let refused = RefusedVersion { version: version.clone(), at: SystemTime::now(), mistakes: mistakes.clone() };
        let waiting = live.is_none();
        self.report.config(|config| {
            if waiting {
                config.waiting_for = format!("version {version} of {} was refused; upload a good one", config.source);
            }
            config.refused = Some(refused);
        });
        self.last = LastWord { refused: Some(version.clone()), mistakes, steps: Vec::new(), text: String::new() };
    }

    pub(super) fn note_secrets_trouble(&mut self, change: ChangeId, prepared: &Prepared, troubles: &[String]) {
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        let of_live =
            self.trial.as_ref().is_some_and(|trial| trial.change == change && Some(&trial.version) == live.as_ref());
        // A version that is refused tells nothing of the secrets in use.
        if !of_live && !matches!(prepared, Prepared::Ready(_)) {
            return;
        }
        let text = troubles.join("; ");
        let had = self.report.config(|config| {
            let had = config.secrets_trouble.clone();
            config.secrets_trouble = (!text.is_empty()).then(|| Trouble {
                since: had.as_ref().map_or_else(SystemTime::now, |had| had.since),
                attempts: had.as_ref().map_or(0, |had| had.attempts) + 1,
                text: text.clone(),
            });
            had
        });
        match (had, text.is_empty()) {
            (None, false) => {
                tracing::warn!(service = "supervisor", "secrets can't be read, those in use stay in use: {text}");
            }
            (Some(had), true) => {
                let lasted = had.since.elapsed().unwrap_or_default().as_secs();
                tracing::info!(service = "supervisor", "secrets can be read again after {lasted} s");
            }
            _ => {}
        }
    }

    /// Publishes what was prepared. There is no await here: services see the old state or the new, never a mixture.
    pub(super) fn commit(&mut self, change: ChangeId) {
        let Some(Trial { cause, started, prepared: Some(live), .. }) =
            self.trial.take().filter(|trial| trial.change == change)
        else {
            return;
        };
        let steps = self.steps_to(&live.version);
        let swap = Instant::now();
        let live = Arc::new(live);
        let old = if let Some(sender) = &self.live {
            Some(sender.send_replace(Arc::clone(&live)))
        } else {
            self.live = Some(watch::Sender::new(Arc::clone(&live)));
            None
        };
        let from = old.as_ref().map(|old| old.version.clone());
        self.level.set(live.config.log.level);
        let swap_us = u64::try_from(swap.elapsed().as_micros()).unwrap_or(u64::MAX);
        let took_ms = millis(started.elapsed());
        let same = from.as_ref() == Some(&live.version);
        self.said.remove(&live.version);
        if !same || self.seen.as_ref() == Some(&live.version) {
            self.said.clear();
            self.configs.retain(|version, _| *version == live.version);
            self.secrets_failures = 0;
        }
        // Nothing came of it but another reason to wait.
        let waits_on = old.as_deref().is_some_and(|old| same && still_held(old, &live));
        // Whoever sees the version shall find its change.
        if !waits_on {
            self.report.record(Change {
                id: change,
                at: SystemTime::now(),
                cause: status::cause_name(cause),
                from: from.clone(),
                to: live.version.clone(),
                outcome: Outcome::Applied,
                steps: steps.clone(),
                mistakes: Vec::new(),
                took_ms,
                swap_us,
            });
        }
        self.report.config(|config| {
            config.version = Some(live.version.clone());
            config.waiting_for.clear();
            if config.refused.as_ref().is_some_and(|_| self.seen.as_ref() == Some(&live.version)) {
                config.refused = None;
            }
            if !same {
                config.state = ConfigState::Live;
                config.since = Some(SystemTime::now());
            }
        });
        if !same {
            self.report.bake(live.config.reload.bake);
        }
        if waits_on {
            return tell_held(change, old.as_deref(), &live);
        }
        let what = what_came(from.is_some(), same, cause, &steps);
        tracing::info!(service = "supervisor", change = %change, config_version = %live.version, "{what}");
        tell_held(change, old.as_deref(), &live);
        self.last = LastWord { steps, ..LastWord::default() };
    }
}

/// Says which services the new state holds back, unless the old one did so for the same reason.
fn tell_held(change: ChangeId, old: Option<&Live>, live: &Live) {
    for (name, part) in &live.parts {
        let Readiness::Held { state, reason } = part else { continue };
        if old.and_then(|old| old.parts.get(name)).is_some_and(|old| old.is_held_like(part)) {
            continue;
        }
        let version = &live.version;
        if *state == State::Parked {
            tracing::error!(service = name, change = %change, config_version = %version,
                "{name} is parked until a person acts: {reason}");
        } else {
            tracing::warn!(service = name, change = %change, config_version = %version, "{name} is waiting: {reason}");
        }
    }
}

/// What a commit came to, in words; `same` says that its version ran before.
fn what_came(had_one: bool, same: bool, cause: Cause, steps: &[String]) -> String {
    match (had_one, same) {
        (false, _) => "first configuration applied".to_owned(),
        // An object or a file that has its former text again.
        (true, true) if cause == Cause::Version => "the version that runs is the newest again".to_owned(),
        (true, true) => "secrets looked at anew and applied".to_owned(),
        (true, false) if steps.is_empty() => "new version applied; it changes nothing but its text".to_owned(),
        (true, false) => {
            let list = steps.iter().map(|step| format!("\n  {step}")).collect::<String>();
            format!("new version applied:{list}")
        }
    }
}

/// Whether `live` has the secrets of `old` and holds back the same services.
fn still_held(old: &Live, live: &Live) -> bool {
    let held = |live: &Live| live.parts.values().map(|part| matches!(part, Readiness::Held { .. })).collect::<Vec<_>>();
    old.secrets == live.secrets && held(old).contains(&true) && held(old) == held(live)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
