//! The version on trial, the last good one behind it, and what the next start has to know of both.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::bake::{Bake, Begin};
use super::last_good::{self, LastGood};
use super::machine::{Event, Machine, Outcome, Past};
use super::status::{ConfigState, GoodVersion, RefusedVersion, millis};
use super::{LastWord, MEMORY_TIMEOUT, Message, OVERDUE, Supervisor};
use crate::config::{Config, Mistake, Mistakes, Place};
use crate::secrets::SecretValues;
use crate::service::{ChangeId, Live};
use crate::source::Version;
use crate::store::{Fate, Trial};
use crate::telemetry::lines::span;

/// The version to go back to. Its configuration is among those that may be tried.
pub(super) struct Good {
    pub version: Version,
    /// Those it ran with; none as long as this process did not run it.
    pub secrets: SecretValues,
    pub blessed: SystemTime,
}

impl Supervisor {
    /// Takes up what earlier processes left: the number of the last change, the last good version, and whether the newest
    /// was undone, or brought perch down while it was on trial.
    pub(super) async fn recall(&mut self) {
        let (report, history, source) = (Arc::clone(&self.report), self.history.clone(), self.uri.to_string());
        let memory = async {
            report.remember().await;
            (history.last().await, history.trial(source).await)
        };
        // A disk that hangs shall not keep perch from serving.
        let (changes, trial) = tokio::time::timeout(MEMORY_TIMEOUT, memory).await.unwrap_or_default();
        let good = self.load_last_good();
        // With nothing to go back to nothing is kept out; and what was blessed was not undone, whatever a crash or a full
        // disk has left of its trial.
        self.fate = trial.filter(|trial| good.as_ref().is_some_and(|good| good.0 != trial.version));
        let quarantined = self.quarantined();
        self.overdue = Some(Instant::now() + OVERDUE);
        self.machine = Machine::new(Past { changes, good, quarantined });
    }

    /// The version that was undone, or that is now, as perch died of it.
    fn quarantined(&mut self) -> Option<Version> {
        let Trial { version, change, fate } = self.fate.clone()?;
        match fate {
            Fate::Undone(_) => {}
            Fate::Baking { this_boot: true } => {
                let reason = "perch ended without being stopped while this version was on trial".to_owned();
                tracing::error!(
                    service = "supervisor",
                    change,
                    config_version = %version,
                    "version {version} is undone: {reason}"
                );
                self.report.amend(ChangeId(change), |change| {
                    (change.outcome, change.reason) = (Outcome::Reverted, reason.clone());
                });
                self.set_fate(Some(Trial { version: version.clone(), change, fate: Fate::Undone(reason) }));
            }
            // Then its trial goes on.
            Fate::Baking { this_boot: false } | Fate::Stopped => return None,
        }
        Some(Version(version))
    }

    fn load_last_good(&mut self) -> Option<Version> {
        let loaded = last_good::load(&self.state_dir, &self.uri.to_string()).and_then(|found| {
            let Some(LastGood { version, bytes, blessed }) = found else { return Ok(None) };
            let config = Config::load(&bytes).map_err(|Mistakes(mistakes)| {
                let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
                anyhow::anyhow!("version {version} is no valid configuration for this perch: {first}")
            })?;
            Ok(Some((version, bytes, blessed, config)))
        });
        match loaded {
            Ok(Some((version, bytes, blessed, config))) => {
                self.keep(version.clone(), config, bytes);
                self.report.config(|config| {
                    config.last_good = Some(GoodVersion { version: version.clone(), at: blessed });
                });
                self.good = Some(Good { version: version.clone(), secrets: SecretValues::default(), blessed });
                Some(version)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(service = "supervisor", "the last good configuration can't be used: {error:#}");
                None
            }
        }
    }

    // ---- the trial -------------------------------------------------------------------------------------------

    /// Begins to watch the version that was just published.
    pub(super) fn begin_bake(&mut self, change: ChangeId) {
        let Some(live) = self.live.as_ref().map(|live| Arc::clone(&live.borrow())) else { return };
        let Some((watched, before)) = self.touched.take() else { return };
        let earlier = self.bake.take();
        let (length, endless) = (live.config.reload.bake, self.good.is_none());
        let begin = Begin { change, length, watched, before: &before, earlier: earlier.as_ref(), endless };
        let bake = Bake::new(begin, Instant::now());
        self.probe(&bake);
        self.bake = Some(bake);
        self.report.config(|config| config.state = ConfigState::Baking);
        let fate = Fate::Baking { this_boot: true };
        let trial = Trial { version: live.version.0.clone(), change: change.0, fate };
        self.set_fate(self.good.is_some().then_some(trial));
    }

    /// The version on trial makes things unhealthy, as `why` says.
    pub(super) fn condemn(&mut self, why: &str) {
        let Some(bake) = &mut self.bake else { return };
        let Some(live) = self.live.as_ref().map(|live| Arc::clone(&live.borrow())) else { return };
        let (change, version, watched) = (bake.change, &live.version, bake.started.elapsed());
        let after = format!("{:.1} s", watched.as_secs_f32());
        self.report.amend(change, |change| why.clone_into(&mut change.reason));
        let Some(good) = self.machine.good() else {
            bake.go_on(&self.board.services(), Instant::now());
            let unhealthy = (ConfigState::Unhealthy, why.to_owned());
            let known = self.report.config(|config| {
                let known = config.state == ConfigState::Unhealthy;
                (config.state, config.waiting_for) = unhealthy;
                known
            });
            if !known {
                // What a person has to do about it has been said by the service.
                tracing::info!(
                    service = "supervisor",
                    change = %change,
                    config_version = %version,
                    "version {version} is unhealthy and stays, as no version before it was good: {why}"
                );
            }
            return;
        };
        tracing::error!(
            service = "supervisor",
            change = %change,
            config_version = %version,
            "version {version} is undone after {after}, and version {good} taken again: {why}"
        );
        self.report.amend(change, |change| change.bake_ms = Some(millis(watched)));
        self.bake = None;
        let fate = Fate::Undone(why.to_owned());
        self.set_fate(Some(Trial { version: version.0.clone(), change: change.0, fate }));
        self.on(Event::Condemned { change });
    }

    /// The last good version runs again.
    pub(super) fn reverted(&mut self, change: ChangeId, live: &Live) {
        self.report.amend(change, |change| change.outcome = Outcome::Reverted);
        let undone = self.fate.as_ref().map(|fate| Version(fate.version.clone()));
        self.report.config(|config| {
            (config.version, config.since) = (Some(live.version.clone()), Some(SystemTime::now()));
            config.state = ConfigState::Live;
            config.waiting_for.clear();
        });
        if let Some(undone) = undone {
            // What is newer has its own story.
            if self.seen.as_ref() == Some(&undone) {
                self.show_quarantined(&undone);
            }
            tracing::warn!(
                service = "supervisor",
                change = %change,
                config_version = %live.version,
                "version {} runs again; version {undone} stays out until a newer one comes, or `perch reload --force`",
                live.version
            );
        }
    }

    /// The version on trial was watched for long enough, and becomes the one to go back to.
    pub(super) fn bless(&mut self, change: ChangeId) {
        let Some(bake) = self.bake.take() else { return };
        let Some(live) = self.live.as_ref().map(|live| Arc::clone(&live.borrow())) else { return };
        let (version, blessed) = (live.version.clone(), SystemTime::now());
        self.report.amend(change, |change| change.bake_ms = Some(millis(bake.started.elapsed())));
        self.good = Some(Good { version: version.clone(), secrets: live.secrets.clone(), blessed });
        self.report.config(|config| {
            config.state = ConfigState::Live;
            config.waiting_for.clear();
            config.last_good = Some(GoodVersion { version: version.clone(), at: blessed });
        });
        tracing::info!(
            service = "supervisor",
            change = %change,
            config_version = %version,
            "version {version} is good: it harmed nothing for {} s",
            bake.started.elapsed().as_secs()
        );
        self.fate = None;
        self.unsaved = true;
        self.save_last_good(Some(change));
    }

    /// Sees to it that the last good version is on the disk: when it is new, and when somebody has deleted it.
    pub(super) fn save_last_good(&mut self, new: Option<ChangeId>) {
        let Some(good) = &self.good else { return };
        let Some(loaded) = self.configs.get(&good.version) else { return };
        let good = LastGood { version: good.version.clone(), bytes: Arc::clone(&loaded.bytes), blessed: good.blessed };
        let (state_dir, source, history) = (self.state_dir.clone(), self.uri.to_string(), self.history.clone());
        let (sender, unsaved) = (self.sender.clone(), self.unsaved);
        self.tasks.spawn_blocking(move || {
            if !unsaved && last_good::is_there(&state_dir) {
                return;
            }
            let version = good.version.0.clone();
            match (last_good::save(&state_dir, &source, &good), new) {
                (Ok(()), _) => {
                    history.end_trial(source, version);
                    // The loop may have ended.
                    drop(sender.blocking_send(Message::GoodSaved { version: good.version }));
                }
                // The next start finds the version before it, and tries this one again.
                (Err(error), Some(change)) => {
                    let trial = Trial { version: version.clone(), change: change.0, fate: Fate::Stopped };
                    history.put_trial(source, trial);
                    let service = "supervisor";
                    tracing::warn!(
                        service,
                        change = change.0,
                        "version {version} can't be kept as the last good: {error:#}"
                    );
                }
                (Err(_), None) => {}
            }
        });
    }

    // ---- what the next start has to know ---------------------------------------------------------------------

    fn set_fate(&mut self, fate: Option<Trial>) {
        match (&fate, self.fate.take()) {
            (Some(trial), _) => self.history.put_trial(self.uri.to_string(), trial.clone()),
            (None, Some(trial)) => self.history.end_trial(self.uri.to_string(), trial.version),
            (None, None) => {}
        }
        self.fate = fate;
    }

    /// A preparation is over that may have taken down its version as the one on trial: it is not.
    pub(super) fn withdraw_trial(&mut self, version: &Version) {
        if self.fate.as_ref().is_some_and(|trial| trial.version == version.0) {
            return;
        }
        self.history.end_trial(self.uri.to_string(), version.0.clone());
        if let Some(trial) = self.fate.clone() {
            self.set_fate(Some(trial));
        }
    }

    /// perch is told to end, which says nothing of the version on trial.
    pub(super) fn pause_trial(&mut self) {
        if let Some(trial) = self.fate.clone().filter(|trial| matches!(trial.fate, Fate::Baking { .. })) {
            self.set_fate(Some(Trial { fate: Fate::Stopped, ..trial }));
        }
    }

    /// A version has come: what was undone before it is history.
    pub(super) fn forget_fate_but_of(&mut self, version: &Version) {
        let undone = |trial: &Trial| matches!(trial.fate, Fate::Undone(_)) && trial.version != version.0;
        if self.fate.as_ref().is_some_and(undone) {
            self.set_fate(None);
        }
    }

    /// Somebody insists on a version that was undone: it is looked at as if it had just come.
    pub(super) fn lift_quarantine(&mut self) {
        if self.seen.as_ref().is_some_and(|seen| self.machine.is_quarantined(seen)) {
            self.seen = None;
            self.set_fate(None);
        }
    }

    // ---- what people are told --------------------------------------------------------------------------------

    /// The newest version is one that was undone.
    pub(super) fn tell_quarantined(&mut self, version: &Version) {
        let known = self.report.config(|config| {
            config.refused.as_ref().is_some_and(|refused| refused.quarantined && refused.version == *version)
        });
        self.show_quarantined(version);
        if !known {
            let reason = self.undone_because();
            tracing::warn!(
                service = "supervisor",
                config_version = %version,
                "version {version} was undone and stays out until a newer one comes, or `perch reload --force`: {reason}"
            );
        }
    }

    fn show_quarantined(&mut self, version: &Version) {
        let text =
            format!("it was undone: {}; upload a newer one, or run `perch reload --force`", self.undone_because());
        let mistakes = vec![Mistake { place: Place::default(), text }];
        let refused = RefusedVersion {
            version: version.clone(),
            at: SystemTime::now(),
            mistakes: mistakes.clone(),
            quarantined: true,
        };
        self.report.config(|config| config.refused = Some(refused));
        self.last = LastWord { refused: Some(version.clone()), mistakes, ..LastWord::default() };
    }

    fn undone_because(&self) -> String {
        match self.fate.as_ref().map(|trial| &trial.fate) {
            Some(Fate::Undone(reason)) => reason.clone(),
            _ => "it made things unhealthy".to_owned(),
        }
    }

    /// Why a start has nothing newer than the last good version.
    pub(super) fn why_not_newest(&self) -> String {
        self.report.config(|config| match (&config.refused, &config.trouble) {
            (Some(refused), _) if refused.quarantined => format!("the newest version {} was undone", refused.version),
            (Some(refused), _) => format!("the newest version {} was refused", refused.version),
            (None, Some(trouble)) => trouble.text.clone(),
            (None, None) => format!("{} has not answered within {} s", config.source, OVERDUE.as_secs()),
        })
    }

    /// perch serves the last good version for want of a newer one.
    pub(super) fn tell_last_good(&self, change: ChangeId, version: &Version, why: &str) {
        let blessed = self.good.as_ref().map_or(SystemTime::UNIX_EPOCH, |good| good.blessed);
        let age = span(blessed.elapsed().unwrap_or_default());
        tracing::warn!(
            service = "supervisor",
            change = %change,
            config_version = %version,
            "serving the last good configuration {version}, which was blessed {age} ago: {why}"
        );
    }
}
