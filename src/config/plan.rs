//! The difference between two configurations, in words and in what it costs.

use std::fmt;

use super::Config;
use super::values::show_duration;

/// One thing that a new configuration changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The key path, or the table that came or went.
    pub key: String,
    pub from: String,
    pub to: String,
    pub cost: Cost,
}

impl Step {
    /// The table it is in, which is the name of the service that it touches.
    #[must_use]
    pub fn section(&self) -> String {
        let first = self.key.trim_matches(['[', ']']).split('.').next().unwrap_or_default();
        // The profile decides what clients see.
        if first == "environment" { "http".to_owned() } else { first.to_owned() }
    }
}

/// What a step costs those who are being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing is touched.
    Nothing,
    /// A listener is bound or left; what is in flight on it ends by itself.
    Listener,
    /// The bot leaves its gateway session and identifies anew.
    DiscordSession,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.from, self.to)?;
        match self.cost {
            Cost::Nothing => Ok(()),
            Cost::Listener => f.write_str(" (rebinds)"),
            Cost::DiscordSession => f.write_str(" (new Discord session)"),
        }
    }
}

/// What changes when `new` replaces `old`. It depends on nothing else.
#[must_use]
pub fn plan(old: &Config, new: &Config) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    steps.compare("environment", &old.environment, &new.environment, Cost::Nothing);
    match (&old.discord, &new.discord) {
        (Some(old), Some(new)) => {
            if old.token.places != new.token.places {
                let show = |token: &super::secret::SecretRef| {
                    token.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                steps.push("discord.token", show(&old.token), show(&new.token), Cost::Nothing);
            }
            let url = |discord: &super::discord::Discord| {
                discord.api_url.clone().unwrap_or_else(|| super::discord::API_URL.to_owned())
            };
            steps.compare("discord.api_url", &url(old), &url(new), Cost::DiscordSession);
        }
        (old, new) => steps.table("[discord]", old.is_some(), new.is_some(), Cost::DiscordSession),
    }
    match (&old.http, &new.http) {
        (Some(old), Some(new)) => {
            steps.compare("http.listen", &old.listen, &new.listen, Cost::Listener);
            steps.compare("http.max_body", &old.max_body, &new.max_body, Cost::Nothing);
        }
        (old, new) => steps.table("[http]", old.is_some(), new.is_some(), Cost::Listener),
    }
    let durations = [
        ("reload.poll", old.reload.poll, new.reload.poll),
        ("reload.secrets", old.reload.secrets, new.reload.secrets),
        ("reload.bake", old.reload.bake, new.reload.bake),
        ("run.drain", old.run.drain, new.run.drain),
    ];
    for (key, old, new) in durations {
        steps.compare(key, &show_duration(old), &show_duration(new), Cost::Nothing);
    }
    let level = |config: &Config| config.log.level.to_string().to_lowercase();
    steps.compare("log.level", &level(old), &level(new), Cost::Nothing);
    steps.0
}

struct Steps(Vec<Step>);

impl Steps {
    fn push(&mut self, key: &str, from: String, to: String, cost: Cost) {
        self.0.push(Step { key: key.to_owned(), from, to, cost });
    }

    fn compare<T: PartialEq + fmt::Display>(&mut self, key: &str, old: &T, new: &T, cost: Cost) {
        if old != new {
            self.push(key, old.to_string(), new.to_string(), cost);
        }
    }

    fn table(&mut self, key: &str, old: bool, new: bool, cost: Cost) {
        let show = |there| if there { "on" } else { "off" }.to_owned();
        if old != new {
            self.push(key, show(old), show(new), cost);
        }
    }
}
