//! Secrets that outlive the process: what is in use is in systemd's file-descriptor store (sd_pid_notify_with_fds(3)) as
//! [`sealed`] memory, and the next process takes it back where a secret's place can't be asked. Nothing is on a disk.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::sealed::{self, Entry};
use super::{Secret, SecretValues};
use crate::config::Config;
use crate::config::secret::{SecretPlace, SecretRef};
use crate::systemd;

/// The secrets that are kept over a restart. Clones share them. By default none are.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// There is somebody to keep them.
    on: bool,
    /// What the process before left, until its place has answered.
    inherited: Vec<Entry>,
    /// What systemd has now.
    stored: Vec<Entry>,
    /// They can't be kept, and the journal knows.
    told: bool,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept([redacted])")
    }
}

impl Kept {
    /// Takes what systemd `passed`, if it can be trusted, and keeps what is in use from now on, if there is a systemd.
    #[must_use]
    pub fn take(passed: Vec<OwnedFd>) -> Kept {
        let mut inner = Inner { on: systemd::listens(), ..Inner::default() };
        let several = passed.len() > 1;
        let found: Result<Vec<_>, String> = passed.into_iter().map(sealed::open).collect();
        match found {
            Ok(_) if several => inner.refuse("there are several, and perch keeps one"),
            Ok(found) => inner.inherited = found.into_iter().flatten().collect(),
            Err(why) => inner.refuse(&why),
        }
        inner.stored.clone_from(&inner.inherited);
        Kept(Arc::new(Mutex::new(inner)))
    }

    /// What the process before used for `wanted`, and words for how old it is, as long as none of its places has been
    /// asked since.
    #[must_use]
    pub fn recall(&self, wanted: &SecretRef) -> Option<(Secret, String)> {
        let inner = self.lock();
        let entry = inner.inherited.iter().find(|entry| entry.places == wanted.places)?;
        let age = entry.fetched.elapsed().unwrap_or_default();
        Some((entry.secret.clone(), format!("its value of {} ago, kept over the restart, is used", words(age))))
    }

    /// The places of `wanted` have said what there is: what the process before used is history.
    pub fn answered(&self, wanted: &SecretRef) {
        self.lock().inherited.retain(|entry| entry.places != wanted.places);
    }

    /// Has systemd keep the secrets that `config` names, now that they are in use: those of Secrets Manager, as what is
    /// on this host is there after a restart as well.
    pub fn remember(&self, config: &Config, values: &SecretValues) {
        let mut inner = self.lock();
        if !inner.on {
            return;
        }
        let mut entries: Vec<Entry> = Vec::new();
        for wanted in config.secrets() {
            let remote = wanted.places.iter().any(|place| matches!(place, SecretPlace::SecretsManager { .. }));
            let Some(secret) = values.0.get(&wanted.place.key).filter(|_| remote) else { continue };
            if entries.iter().any(|entry| entry.places == wanted.places) {
                continue;
            }
            let before = inner.stored.iter().find(|entry| entry.is(&wanted.places, secret));
            let fetched = before.map_or_else(SystemTime::now, |entry| entry.fetched);
            entries.push(Entry { places: wanted.places.clone(), secret: secret.clone(), fetched });
        }
        let same = entries.len() == inner.stored.len()
            && entries.iter().zip(&inner.stored).all(|(new, old)| old.is(&new.places, &new.secret));
        if !same {
            inner.store(entries);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn refuse(&mut self, why: &str) {
        tracing::warn!(service = "supervisor", "the secrets kept over the restart are not used: {why}");
        self.store(Vec::new());
    }

    fn store(&mut self, entries: Vec<Entry>) {
        let stored = if entries.is_empty() {
            systemd::store_secrets(None)
        } else {
            sealed::seal(&entries).and_then(|memory| systemd::store_secrets(Some(memory.as_fd())))
        };
        match stored {
            Ok(()) => self.stored = entries,
            Err(error) if !self.told => {
                self.told = true;
                tracing::warn!(service = "supervisor", "secrets can't be kept over a restart: {error}");
            }
            Err(_) => {}
        }
    }
}

impl Entry {
    fn is(&self, places: &[SecretPlace], secret: &Secret) -> bool {
        self.places == places && self.secret == *secret && self.secret.version == secret.version
    }
}

fn words(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_for_people() {
        let said = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|seconds| words(Duration::from_secs(seconds)));
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
