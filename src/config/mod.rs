//! The configuration: a [`Document`] as somebody wrote it, and a [`Config`] that can only be valid.
//!
//! A section is one file here with one `read` function. Reading goes on after a mistake, so that one look finds
//! them all.

use std::fmt;

use serde::Serialize;

pub mod auth;
pub mod chat;
pub mod discord;
mod document;
pub mod http;
pub mod http_tls;
pub mod limits;
pub mod log;
pub mod network;
pub mod plan;
pub mod reload;
pub mod run;
pub mod secret;
pub mod store;
#[cfg(test)]
mod tests;
mod values;

pub use document::{Document, Mistake, Mistakes, Place};
pub use values::show_duration;

use document::Table;
use secret::SecretRef;

/// What perch shall be. Every value in it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub environment: Environment,
    pub discord: Option<discord::Discord>,
    pub http: Option<http::Http>,
    pub auth: Option<auth::Auth>,
    pub chat: chat::Chat,
    pub limits: limits::Limits,
    pub reload: reload::Reload,
    pub log: log::Log,
    pub run: run::Run,
    pub store: store::Store,
}

/// The profile: it changes the error detail that clients see, and nothing else yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    Development,
    Test,
    Production,
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Environment::Development => "development",
            Environment::Test => "test",
            Environment::Production => "production",
        })
    }
}

impl Config {
    /// Reads a configuration out of the bytes of its document.
    ///
    /// # Errors
    /// Every mistake in it, each with key path and line.
    pub fn load(bytes: &[u8]) -> Result<Config, Mistakes> {
        let document = Document::parse(bytes)?;
        document.read(Config::read)
    }

    fn read(mut root: Table<'_>) -> Config {
        let environment = root
            .choice(
                "environment",
                &[
                    ("development", Environment::Development),
                    ("test", Environment::Test),
                    ("production", Environment::Production),
                ],
            )
            .unwrap_or(Environment::Production);
        let config = Config {
            environment,
            discord: root.table("discord").map(discord::Discord::read),
            http: root.table("http").map(http::Http::read),
            auth: root.table("auth").map(auth::Auth::read),
            chat: root.table("chat").map(chat::Chat::read).unwrap_or_default(),
            limits: root.table("limits").map(limits::Limits::read).unwrap_or_default(),
            reload: root.table("reload").map(reload::Reload::read).unwrap_or_default(),
            log: root.table("log").map(log::Log::read).unwrap_or_default(),
            run: root.table("run").map(run::Run::read).unwrap_or_default(),
            store: root.table("store").map(store::Store::read).unwrap_or_default(),
        };
        if config.discord.is_none() && config.http.is_none() && !root.has("discord") && !root.has("http") {
            root.mistake("", "asks for no service; add a [discord] or an [http] table");
        }
        root.finish();
        config
    }

    /// Every secret it names.
    #[must_use]
    pub fn secrets(&self) -> Vec<&SecretRef> {
        let discord = self.discord.iter().map(|discord| &discord.token);
        let keys = self.auth.iter().filter_map(|auth| auth.api_keys.as_ref());
        discord.chain(self.chat.secret()).chain(keys).collect()
    }
}
