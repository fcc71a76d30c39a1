//! One change: a version tried, and committed or refused.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine::{Cause, Event, Name, Outcome, Verdict};
use super::prepare::{self, Noted, Preparation, Prepared, Took};
use super::status::{Change, ConfigState, RefusedVersion, Trouble, millis, seconds};
use super::{End, LastWord, Message, Supervisor};
use crate::config::{Config, Mistake, plan};
use crate::service::{ChangeId, Live, Problem, Readiness, State};
use crate::source::{Uri, Version};
use crate::store::{Fate, Trial};
use crate::telemetry::panics;

/// A version in preparation.
pub(super) struct Attempt {
    pub change: ChangeId,
    pub version: Version,
    cause: Cause,
    /// Who or what brought it.
    by: String,
    at: SystemTime,
    started: Instant,
    took: Took,
    prepared: Option<Live>,
    pub cancel: CancellationToken,
}

impl Supervisor {
    pub(super) fn attempt(&mut self, change: ChangeId, version: Version, cause: Cause) {
        let Some(loaded) = self.configs.get(&version).cloned() else {
            // The machine names only versions that it was given as valid, so this is a fault of ours.
            tracing::error!(service = "supervisor", change = %change, "version {version} is to be tried but is unknown");
            let verdict = Verdict::Refused;
            return self.on(Event::Tried { change, verdict });
        };
        if cause == Cause::Version {
            self.begin_reload();
        }
        self.next_secrets = None;
        let running = self.live.as_ref().map(|live| Arc::clone(&live.borrow()));
        let other = self.good.as_ref().filter(|good| good.version != version);
        let new = running.as_ref().is_none_or(|live| live.version != version);
        let on_trial = new && other.is_some() && !matches!(cause, Cause::LastGood | Cause::Revert);
        let cancel = self.stop.child_token();
        let preparation = Preparation {
            change,
            version: version.clone(),
            config: loaded.config,
            why: cause,
            services: Arc::clone(&self.services),
            aws: self.aws.clone(),
            back_to: self.good.as_ref().filter(|_| cause == Cause::Revert).map(|good| good.secrets.clone()),
            strict: running.is_none() && other.is_some(),
            kept: self.kept.clone(),
            held: self.board.services().values().any(|it| matches!(it.state, State::Parked | State::Waiting)),
            blamed: self.board.blamed(),
            refusals: Arc::clone(&self.refusals),
            simulated: self.simulator.as_ref().map(|simulator| simulator.token.clone()),
            trial: on_trial.then(|| Noted {
                changes: self.history.clone(),
                source: self.uri.to_string(),
                trial: Trial { version: version.0.clone(), change: change.0, fate: Fate::Baking { this_boot: true } },
            }),
            running,
        };
        let looked = if cause == Cause::Version { self.look_took } else { Duration::ZERO };
        self.attempt = Some(Attempt {
            change,
            version,
            cause,
            by: self.brought_by(cause),
            at: SystemTime::now() - looked,
            started: Instant::now() - looked,
            took: Took { look: millis(looked), ..Took::default() },
            prepared: None,
            cancel: cancel.clone(),
        });
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let prepared = AssertUnwindSafe(preparation.run()).catch_unwind();
            let report = tokio::select! {
                result = prepared => result.unwrap_or_else(|payload| {
                    let text = format!("perch panicked while preparing it: {}", panics::text(payload.as_ref()));
                    let place = crate::config::Place::default();
                    let problem = Problem { place, text, cause: crate::service::Cause::Broken };
                    prepare::Report {
                        prepared: Prepared::Refused(vec![problem]),
                        troubles: Vec::new(),
                        said: Vec::new(),
                        took: Took::default(),
                    }
                }),
                () = cancel.cancelled() => return,
            };
            drop(sender.send(Message::Prepared { change, report: Box::new(report) }).await);
        });
    }

    /// Who or what a try is owed to, in words.
    fn brought_by(&self, cause: Cause) -> String {
        match cause {
            Cause::LastGood => format!("start of process {}", std::process::id()),
            Cause::Version | Cause::Asked if !self.asked_by.is_empty() => self.asked_by.clone(),
            Cause::Version | Cause::Asked | Cause::Revert => self.uri.to_string(),
            Cause::Secrets => "the secrets were due".to_owned(),
        }
    }

    /// What a preparation came to, with the journal told.
    pub(super) fn verdict(&mut self, change: ChangeId, report: prepare::Report) -> Verdict {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.change == change) else {
            return Verdict::Refused;
        };
        attempt.took = Took { look: attempt.took.look, ..report.took };
        match report.prepared {
            Prepared::Same => {
                // With no other version to try, nothing that could not be asked is waited for any more.
                if self.configs.len() == 1 {
                    self.secrets_failures = 0;
                }
                if !report.said.is_empty() {
                    let (outcome, reason) = (Outcome::Unchanged, report.said.join("; "));
                    self.report.record(Change { outcome, reason, ..self.draft(change) });
                }
                Verdict::Same
            }
            Prepared::Ready(live) => {
                let services = live.parts.keys().copied().collect();
                attempt.prepared = Some(live);
                Verdict::Ready { services }
            }
            Prepared::Refused(problems) => {
                let unavailable = problems.iter().any(|problem| problem.cause == crate::service::Cause::Unavailable);
                self.secrets_failures = if unavailable { self.secrets_failures + 1 } else { 0 };
                let mistakes =
                    problems.into_iter().map(|problem| Mistake { place: problem.place, text: problem.text }).collect();
                let draft = self.draft(change);
                let version = draft.to.clone();
                self.refuse(Change { mistakes, steps: self.steps_to(&version), ..draft });
                if self.live.is_none() && self.good.is_none() && matches!(self.uri, Uri::File(_)) && !unavailable {
                    self.exit = Some(End::Failed);
                }
                Verdict::Refused
            }
        }
    }

    /// The record of the attempt `change` as far as it is known by now.
    fn draft(&self, change: ChangeId) -> Change {
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.change == change);
        let (cause, by) = match (attempt, &live) {
            (Some(Attempt { cause: Cause::Version | Cause::LastGood, .. }), None) => {
                ("start", self.brought_by(Cause::LastGood))
            }
            (Some(attempt), _) => (cause_name(attempt.cause), attempt.by.clone()),
            (None, _) => (cause_name(Cause::Version), self.brought_by(Cause::Version)),
        };
        Change {
            id: change,
            at: seconds(attempt.map_or_else(SystemTime::now, |attempt| attempt.at)),
            cause: cause.to_owned(),
            by,
            from: live.or_else(|| self.report.last_served()),
            to: attempt.map_or_else(|| Version(String::new()), |attempt| attempt.version.clone()),
            outcome: Outcome::Refused,
            reason: String::new(),
            steps: Vec::new(),
            mistakes: Vec::new(),
            took_ms: attempt.map_or(0, |attempt| millis(attempt.started.elapsed())),
            took: attempt.map_or_else(Took::default, |attempt| attempt.took.clone()),
            swap_us: 0,
            bake_ms: None,
            perch: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The configuration that `version` is compared with: the live one, or at the start the last good one.
    fn compared_with(&self) -> Option<Arc<Config>> {
        let good = || self.good.as_ref().and_then(|good| self.configs.get(&good.version));
        match &self.live {
            Some(live) => Some(Arc::clone(&live.borrow().config)),
            None => good().map(|good| Arc::clone(&good.config)),
        }
    }

    /// The services that going to `live` touches: what its plan changes, and those with other secrets. What is on trial
    /// itself is no measure: whatever was touched since the last good version is.
    fn touched(&self, live: &Live) -> BTreeSet<Name> {
        let good = self.good.as_ref();
        let (old, before) = if self.bake.is_some() {
            let config = good.and_then(|good| self.configs.get(&good.version)).map(|good| Arc::clone(&good.config));
            (config, good.map(|good| good.secrets.clone()))
        } else {
            (self.compared_with(), self.live.as_ref().map(|live| live.borrow().secrets.clone()))
        };
        let Some(old) = old else { return live.parts.keys().copied().collect() };
        let before = before.unwrap_or_default();
        let mut sections: Vec<String> = plan::plan(&old, &live.config).into_iter().map(|step| step.section()).collect();
        let new = live.secrets.0.iter().filter(|(path, secret)| before.0.get(*path) != Some(secret));
        sections.extend(new.filter_map(|(path, _)| path.split('.').next().map(str::to_owned)));
        live.parts.keys().copied().filter(|name| sections.iter().any(|section| section == name)).collect()
    }

    /// What going to `version` changes, in words.
    fn steps_to(&self, version: &Version) -> Vec<String> {
        match (self.compared_with(), self.configs.get(version)) {
            (Some(old), Some(new)) => plan::plan(&old, &new.config).iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// Puts down a version that could not even be read.
    pub(super) fn refuse_unread(&mut self, version: &Version, mistakes: Vec<Mistake>) {
        let change = self.machine.next_change();
        let took = Took { look: millis(self.look_took), ..Took::default() };
        let draft = Change { to: version.clone(), took_ms: took.look, took, ..self.draft(change) };
        self.refuse(Change { mistakes, ..draft });
    }

    /// Puts down a version that changes nothing.
    fn refuse(&mut self, change: Change) {
        let Change { to: version, mistakes, .. } = &change;
        let list = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect::<String>();
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        // A secret that turned bad under a running version refuses the secret, not the version.
        let what = if live.as_ref() == Some(version) { "new secrets for version" } else { "version" };
        let text = format!("{what} {version} refused:{list}");
        self.said.retain(|known, _| known == version || Some(known) == live.as_ref());
        let refused = RefusedVersion {
            version: version.clone(),
            at: SystemTime::now(),
            mistakes: mistakes.clone(),
            quarantined: false,
        };
        self.last = LastWord { refused: Some(version.clone()), mistakes: mistakes.clone(), ..LastWord::default() };
        let waiting = live.is_none();
        self.report.config(|config| {
            if waiting {
                config.waiting_for = format!("version {version} of {} was refused; upload a good one", config.source);
            }
            config.refused = Some(refused);
        });
        if self.said.get(version) != Some(&text) {
            let goes_on = match (&live, &self.good) {
                (Some(live), _) => format!("version {live} stays in use"),
                (None, _) if self.exit.is_some() => "and perch ends".to_owned(),
                (None, Some(good)) if good.version != *version => "the last good one is taken".to_owned(),
                (None, _) => "there is no earlier version to run".to_owned(),
            };
            tracing::error!(
                service = "supervisor",
                change = change.id.0,
                config_version = %version,
                "{what} {version} refused, {goes_on}:{list}"
            );
            self.said.insert(version.clone(), text);
            self.report.record(change);
        }
    }

    pub(super) fn note_secrets_trouble(&mut self, change: ChangeId, report: &prepare::Report) {
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.change == change);
        let of_live = attempt.is_some_and(|attempt| Some(&attempt.version) == live.as_ref());
        // A version that is refused tells nothing of the secrets in use, and going back asks for none.
        let asks_for_none = attempt.is_some_and(|attempt| attempt.cause == Cause::Revert);
        if asks_for_none || (!of_live && !matches!(report.prepared, Prepared::Ready(_))) {
            return;
        }
        let text = report.troubles.join("; ");
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
                tracing::warn!(service = "supervisor", change = %change, "secrets can't be read, those in use stay in use: {text}");
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
        let Some(live) =
            self.attempt.as_mut().filter(|attempt| attempt.change == change).and_then(|a| a.prepared.take())
        else {
            return;
        };
        let (draft, steps) = (self.draft(change), self.steps_to(&live.version));
        let Some(cause) = self.attempt.take().map(|attempt| attempt.cause) else { return };
        let touched = self.touched(&live);
        let before = self.board.services();
        let swap = Instant::now();
        let live = Arc::new(live);
        let old = if let Some(sender) = &self.live {
            Some(sender.send_replace(Arc::clone(&live)))
        } else {
            self.live = Some(watch::Sender::new(Arc::clone(&live)));
            None
        };
        self.level.set(live.config.log.level);
        self.store.retain(live.config.store.keep, live.config.store.max_size);
        let swap_us = u64::try_from(swap.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.kept.remember(&live.config, &live.secrets);
        let version = &live.version;
        let same = old.as_ref().is_some_and(|old| old.version == *version);
        self.overdue = None;
        self.said.remove(version);
        let newest = self.seen.as_ref() == Some(version);
        if !same || newest {
            self.said.clear();
            self.forget_pending();
            self.secrets_failures = 0;
        }
        if cause == Cause::Revert {
            self.reverted(change, &live);
            return tell_held(change, old.as_deref(), &live);
        }
        if !same {
            self.touched = Some((touched, before));
        }
        // Nothing came of it but another reason to wait.
        let waits_on = old.as_deref().is_some_and(|old| same && still_held(old, &live));
        let first = old.is_none();
        // Whoever sees the version shall find its change.
        let why = if cause == Cause::LastGood { self.why_not_newest() } else { String::new() };
        if !waits_on {
            let (outcome, reason, steps) = (Outcome::Applied, why.clone(), steps.clone());
            self.report.record(Change { outcome, reason, steps, swap_us, ..draft });
        }
        self.report.config(|config| {
            config.version = Some(version.clone());
            config.waiting_for.clear();
            if newest {
                config.refused = None;
            }
            if cause == Cause::LastGood {
                (config.state, config.waiting_for) = (ConfigState::LastGood, why.clone());
            } else if !same || (newest && config.state == ConfigState::LastGood) {
                config.state = ConfigState::Live;
            }
            if !same {
                config.since = Some(SystemTime::now());
            }
        });
        if waits_on {
            return tell_held(change, old.as_deref(), &live);
        }
        if cause == Cause::LastGood {
            self.tell_last_good(change, version, &why);
        } else {
            let what = what_came(!first, same, cause, &steps);
            tracing::info!(service = "supervisor", change = %change, config_version = %version, "{what}");
        }
        tell_held(change, old.as_deref(), &live);
        self.last = LastWord { steps, ..LastWord::default() };
    }
}

/// A cause as `status` and the history name it.
fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Version => "version",
        Cause::Secrets => "secrets",
        Cause::Asked => "asked",
        Cause::LastGood => "start",
        Cause::Revert => "revert",
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
