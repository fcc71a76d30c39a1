//! Where secrets come from: each is looked for in its places in order, and the first that has it wins.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::aws::Aws;
use crate::config::secret::{SecretPlace, SecretRef};

mod credential;
mod env;
mod file;
mod kept;
mod sealed;
mod secrets_manager;

pub use kept::Kept;
use secrets_manager::Stage;

/// A kind of place that secrets are kept in.
#[async_trait]
trait Keeper: Send + Sync {
    async fn fetch(&self) -> Result<Secret, Answer>;
}

/// A secret and which version of it this is.
#[derive(Clone)]
pub struct Secret {
    pub value: SecretString,
    /// The place's own name for the version, where it has one.
    pub version: Option<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("value", &"[redacted]").field("version", &self.version).finish()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.value.expose_secret() == other.value.expose_secret()
    }
}

/// What a place answered instead of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Answer {
    /// It is not there; the text says so in the place's own words.
    #[error("{0}")]
    Missing(String),
    /// The place did not answer, or perch may not ask it.
    #[error("{0}")]
    Unavailable(String),
}

/// No place had the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    pub tried: Vec<(SecretPlace, Answer)>,
}

impl NotFound {
    /// Whether at least one place could not be asked, so that the secret may be there all the same.
    #[must_use]
    pub fn unavailable(&self) -> bool {
        self.tried.iter().any(|(_, answer)| matches!(answer, Answer::Unavailable(_)))
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no place has the secret")?;
        for (index, (place, answer)) in self.tried.iter().enumerate() {
            write!(f, "{} {place}: {answer}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// Fetches `wanted` from the first of its places that has it.
///
/// # Errors
/// [`NotFound`] with what each place answered.
pub async fn fetch(wanted: &SecretRef, aws: &Aws) -> Result<Secret, NotFound> {
    let mut tried = Vec::new();
    for place in &wanted.places {
        match keeper(place, aws, Stage::Current).fetch().await {
            Ok(secret) => return Ok(secret),
            Err(answer) => tried.push((place.clone(), answer)),
        }
    }
    Err(NotFound { tried })
}

/// Fetches the value that `wanted` had before its last rotation: what Secrets Manager labels `AWSPREVIOUS`, from the first
/// of its places there that has one. Other places have no such thing.
///
/// # Errors
/// [`NotFound`] with what each of those places answered.
pub async fn fetch_previous(wanted: &SecretRef, aws: &Aws) -> Result<Secret, NotFound> {
    let mut tried = Vec::new();
    for place in wanted.places.iter().filter(|place| matches!(place, SecretPlace::SecretsManager { .. })) {
        match keeper(place, aws, Stage::Previous).fetch().await {
            Ok(secret) => return Ok(secret),
            Err(answer) => tried.push((place.clone(), answer)),
        }
    }
    Err(NotFound { tried })
}

fn keeper<'a>(place: &'a SecretPlace, aws: &'a Aws, stage: Stage) -> Box<dyn Keeper + 'a> {
    match place {
        SecretPlace::SecretsManager { name, key } => {
            Box::new(secrets_manager::SecretsManager { aws, name, key: key.as_deref(), stage })
        }
        SecretPlace::File(path) => Box::new(file::SecretFile(path)),
        SecretPlace::Credential(name) => Box::new(credential::Credential(name)),
        SecretPlace::Env(name) => Box::new(env::Variable(name)),
    }
}

/// The secrets that one configuration names, by key path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretValues(pub BTreeMap<String, Secret>);

impl SecretValues {
    /// The secret written at `path`, if it was found.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&SecretString> {
        self.0.get(path).map(|secret| &secret.value)
    }
}

/// A secret's text as a file or a variable holds it: one trailing line end is not part of it.
fn text(bytes: Vec<u8>) -> Result<Secret, Answer> {
    let mut value = String::from_utf8(bytes).map_err(|_| Answer::Missing("is not UTF-8 text".to_owned()))?;
    value.truncate(value.trim_end_matches(['\r', '\n']).len());
    if value.trim().is_empty() {
        return Err(Answer::Missing("is empty".to_owned()));
    }
    Ok(Secret { value: SecretString::from(value), version: None })
}

impl NotFound {
    /// The answer where no place answered in time.
    #[must_use]
    pub fn timed_out(wanted: &SecretRef, limit: std::time::Duration) -> Self {
        let answer = Answer::Unavailable(format!("no answer within {} s", limit.as_secs()));
        NotFound { tried: wanted.places.iter().map(|place| (place.clone(), answer.clone())).collect() }
    }
}
