//! `[discord]`: the bot.

use super::document::{Table, quote};
use super::secret::{self, SecretRef};

/// Where Discord's REST API lives unless the configuration says otherwise.
pub const API_URL: &str = "https://discord.com";

/// The bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discord {
    pub token: SecretRef,
    pub respond: Respond,
    /// Another address of the REST API, without a trailing slash. It is taken for a proxy that keeps Discord's rate
    /// limits; perch then only obeys the 429s it answers.
    pub api_url: Option<String>,
}

/// What makes the bot's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respond {
    Echo,
}

impl Discord {
    pub(super) fn read(mut table: Table<'_>) -> Discord {
        let token = secret::read(&mut table, "token");
        let respond = table.choice("respond", &[("echo", Respond::Echo)]).unwrap_or(Respond::Echo);
        let api_url = api_url(&mut table);
        table.finish();
        Discord { token, respond, api_url }
    }
}

fn api_url(table: &mut Table<'_>) -> Option<String> {
    let entry = table.entry("api_url")?;
    let text = entry.text("an address such as \"https://discord.com\"")?;
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            if !url.username().is_empty() || url.password().is_some() {
                entry.mistake("must not hold a user name or password");
                return None;
            }
            Some(text.trim_end_matches('/').to_owned()).filter(|text| text != API_URL)
        }
        _ => {
            entry.mistake(format!("{} is not an http or https address", quote(text)));
            None
        }
    }
}
