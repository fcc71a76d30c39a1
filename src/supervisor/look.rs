//! Looking at the source and judging what it brings.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::machine::Sight;
use super::status::Trouble;
use super::{End, LastWord, Loaded, Message, Supervisor};
use crate::config::{Config, Mistake, Mistakes};
use crate::source::{self, Look, SourceError, Uri, Version};

/// A look takes no longer than this; each source has shorter time-outs of its own.
const LOOK_TIMEOUT: Duration = Duration::from_secs(45);

impl Supervisor {
    pub(super) fn look(&mut self) {
        self.next_look = None;
        self.last = LastWord::default();
        let source = Arc::clone(&self.source);
        let seen = self.seen.clone();
        let sender = self.sender.clone();
        let stop = self.stop.clone();
        let uri = self.uri.to_string();
        self.tasks.spawn(async move {
            let begun = Instant::now();
            let look = tokio::time::timeout(LOOK_TIMEOUT, source.look(seen.as_ref()));
            let result = tokio::select! {
                result = look => result.unwrap_or_else(|_| {
                    let text = format!("{uri} did not answer within {} s", LOOK_TIMEOUT.as_secs());
                    Err(SourceError::Unavailable(text))
                }),
                () = stop.cancelled() => return,
            };
            // The loop outlives every task but at the very end, when nobody needs the result.
            drop(sender.send(Message::Looked { result, took: begun.elapsed() }).await);
        });
    }

    /// What a look found, with the text judged, and the journal told of what is new.
    pub(super) fn judge(&mut self, result: Result<Look, SourceError>) -> Sight {
        match result {
            Ok(look) => {
                self.source_answers();
                match look {
                    Look::Unchanged => Sight::Same,
                    Look::Found(found) => self.judge_found(found),
                }
            }
            Err(SourceError::Unusable { version, text }) => {
                self.source_answers();
                if self.seen.as_ref() == Some(&version) {
                    return Sight::Same;
                }
                self.seen = Some(version.clone());
                self.forget_pending();
                let mistakes = vec![Mistake { place: crate::config::Place::default(), text }];
                self.refuse_unread(&version, mistakes);
                Sight::Unusable { version }
            }
            Err(SourceError::Absent(text)) => self.source_brings_nothing(text, false),
            Err(SourceError::Unavailable(text)) => self.source_brings_nothing(text, true),
        }
    }

    fn judge_found(&mut self, found: source::Found) -> Sight {
        let source::Found { version, bytes } = found;
        self.seen = Some(version.clone());
        if self.machine.is_quarantined(&version) {
            self.forget_pending();
            self.tell_quarantined(&version);
            return Sight::New { version, valid: true };
        }
        self.forget_fate_but_of(&version);
        match Config::load(&bytes) {
            Ok(config) => {
                self.forget_pending();
                self.keep(version.clone(), config, bytes.into());
                Sight::New { version, valid: true }
            }
            Err(Mistakes(mistakes)) => {
                self.forget_pending();
                if self.live.is_none() && matches!(self.uri, Uri::File(_)) {
                    self.exit = Some(End::Configuration);
                }
                self.refuse_unread(&version, mistakes);
                Sight::New { version, valid: false }
            }
        }
    }

    /// Puts a valid configuration to those that may be tried.
    pub(super) fn keep(&mut self, version: Version, mut config: Config, bytes: Arc<[u8]>) {
        if let Some(simulator) = &self.simulator {
            simulator.stand_in(&mut config);
        }
        self.configs.insert(version, Loaded { config: Arc::new(config), bytes });
    }

    /// None but the newest version, the live one, the last good one and one under way is tried any more.
    pub(super) fn forget_pending(&mut self) {
        let live = self.live.as_ref().map(|live| live.borrow().version.clone());
        let kept = [
            self.seen.as_ref(),
            live.as_ref(),
            self.good.as_ref().map(|good| &good.version),
            self.attempt.as_ref().map(|attempt| &attempt.version),
        ];
        self.configs.retain(|known, _| kept.contains(&Some(known)));
    }

    /// The source answers; if it did not before, that is over.
    pub(super) fn source_answers(&mut self) {
        self.source_failures = 0;
        if let Some(trouble) = self.report.config(|config| config.trouble.take()) {
            let lasted = trouble.since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(
                service = "supervisor",
                "{} can be read after {lasted} s (attempts in vain: {})",
                self.uri,
                trouble.attempts
            );
        }
    }

    /// The source brings nothing. The journal hears of it once, however long it lasts.
    pub(super) fn source_brings_nothing(&mut self, text: String, outage: bool) -> Sight {
        self.last.text.clone_from(&text);
        // An object that is not there yet is looked for at the full pace: somebody is about to upload it.
        self.source_failures = if outage { self.source_failures + 1 } else { 0 };
        let first = self.report.config(|config| {
            let first = config.trouble.is_none();
            let trouble = config.trouble.get_or_insert_with(|| Trouble {
                since: SystemTime::now(),
                text: String::new(),
                attempts: 0,
            });
            trouble.attempts += 1;
            trouble.text.clone_from(&text);
            first
        });
        if self.live.is_none() {
            if matches!(self.uri, Uri::File(_)) {
                tracing::error!(service = "supervisor", "no configuration: {text}");
                self.exit = Some(End::Configuration);
            } else if first && self.good.is_none() {
                tracing::warn!(service = "supervisor", "waiting for a configuration: {text}");
            }
            self.report.config(|config| config.waiting_for = text);
        } else if first {
            tracing::warn!(service = "supervisor", "what runs goes on, without newer versions: {text}");
        }
        Sight::Nothing
    }
}
