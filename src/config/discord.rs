//! `[discord]`: the bot.

use super::document::Table;
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
        let api_url = table.address("api_url", API_URL).filter(|url| url != API_URL);
        table.finish();
        Discord { token, respond, api_url }
    }
}
