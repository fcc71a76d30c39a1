//! `perch key`: a new API key, and what perch is to be told of it.

use std::process::ExitCode;

use clap::Args;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Style, fail, print};
use crate::auth::keys;

/// Make an API key
///
/// Makes a key for somebody to use the chat with over HTTP, and prints it with its hash. The hash goes into the secret that
/// `auth.api_keys` names; the key goes to whom it is for, and is kept nowhere.
#[derive(Args)]
#[command(after_help = "Examples:\n  perch key ada\n  perch key ada --json | jq -c .entry")]
pub struct Key {
    /// Whose key it is
    #[arg(value_parser = name)]
    name: String,
    /// Print JSON, for another program
    #[arg(long)]
    json: bool,
}

impl Key {
    pub fn run(self) -> ExitCode {
        let made = match keys::make() {
            Ok(made) => made,
            Err(error) => return fail(&format!("{error:#}")),
        };
        let (key, entry) = (made.key.expose_secret(), json!({ &self.name: made.hash }));
        if self.json {
            return print(&format!("{}\n", json!({ "name": self.name, "key": key, "entry": entry })));
        }
        let style = Style::detect();
        let inside = entry.to_string();
        let inside = inside.trim_start_matches('{').trim_end_matches('}');
        print(&format!(
            "{}\n  {key}\n{}\n  {inside}\n",
            style.bold(&format!("The key of {}, which is shown only now:", self.name)),
            style.bold("Put this into the JSON object that is the secret of auth.api_keys:"),
        ))
    }
}

fn name(text: &str) -> Result<String, String> {
    if keys::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name is 1 to 64 of A–Z a–z 0–9 - _ . @".to_owned())
    }
}
