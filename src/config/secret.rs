//! A secret in the configuration: never its value, always where to find it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::document::{Entry, Place, Table};

/// A secret, as one place or several that are tried in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretRef {
    /// Where the configuration names it.
    pub place: Place,
    pub places: Vec<SecretPlace>,
}

/// One place a secret may be in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretPlace {
    /// AWS Secrets Manager: a name or an ARN, and the key when the secret is a JSON object.
    SecretsManager {
        name: String,
        key: Option<String>,
    },
    File(PathBuf),
    /// systemd's `LoadCredential=`.
    Credential(String),
    /// An environment variable.
    Env(String),
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretPlace::SecretsManager { name, key: Some(key) } => write!(f, "secret `{name}` (key `{key}`)"),
            SecretPlace::SecretsManager { name, key: None } => write!(f, "secret `{name}`"),
            SecretPlace::File(path) => write!(f, "file `{}`", path.display()),
            SecretPlace::Credential(name) => write!(f, "credential `{name}`"),
            SecretPlace::Env(name) => write!(f, "environment variable `{name}`"),
        }
    }
}

/// How a place is written, for messages.
const FORMS: &str = "{ secret = NAME, key = KEY }, { file = PATH }, { credential = NAME } or { env = NAME }";

/// Reads the secret at `key`, which must be there.
pub(super) fn read(table: &mut Table<'_>, key: &'static str) -> SecretRef {
    let Some(entry) = table.required(key, &format!("write where to find it: {FORMS}")) else {
        return SecretRef::default();
    };
    let place = entry.place();
    if entry.text_is_written() {
        // Whatever stands here may be the secret itself: it must not be repeated.
        entry.mistake(format!("must say where to find the secret, never the secret itself: {FORMS}"));
        return SecretRef { place, places: Vec::new() };
    }
    let entries = entry.one_or_many();
    if entries.is_empty() {
        table.mistake(key, format!("lists no place; write at least one of {FORMS}"));
    }
    SecretRef { place, places: entries.into_iter().filter_map(read_place).collect() }
}

fn read_place(entry: Entry<'_>) -> Option<SecretPlace> {
    if entry.text_is_written() {
        entry.mistake(format!("must say where to find the secret, never the secret itself: {FORMS}"));
        return None;
    }
    let mut table = entry.into_table(&format!("a place: {FORMS}"))?;
    let kinds = ["secret", "file", "credential", "env"].iter().filter(|kind| table.has(kind)).count();
    let secret = name(&mut table, "secret");
    let json_key = name(&mut table, "key");
    let file = name(&mut table, "file");
    let credential = name(&mut table, "credential");
    let env = name(&mut table, "env");
    if kinds != 1 {
        table.mistake("", format!("must name exactly one place: {FORMS}"));
    }
    if json_key.is_some() && !table.has("secret") {
        table.mistake("key", "goes with `secret` only");
    }
    if let Some(path) = &file
        && !path.starts_with('/')
    {
        table.mistake("file", "must be an absolute path");
    }
    if let Some(name) = &credential
        && (name.contains('/') || name == "." || name == "..")
    {
        table.mistake("credential", "is a name, not a path");
    }
    if let Some(name) = &env
        && (name.contains('=') || name.contains('\0'))
    {
        table.mistake("env", "is not the name of an environment variable");
    }
    table.finish();
    secret
        .map(|name| SecretPlace::SecretsManager { name, key: json_key })
        .or(file.map(|path| SecretPlace::File(PathBuf::from(path))))
        .or(credential.map(SecretPlace::Credential))
        .or(env.map(SecretPlace::Env))
}

fn name(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let entry = table.entry(key)?;
    let text = entry.text("a string")?;
    if text.is_empty() {
        entry.mistake("is empty");
        return None;
    }
    Some(text.to_owned())
}
