//! What `status` tells of the bot.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::event::{ApplicationId, Guild, GuildId, User};
use super::identify::Gate;
use crate::service::Reporter;

/// View Channels, Send Messages, Read Message History (a reply needs it), Send Messages in Threads.
///
/// Source: Permissions, "Bitwise Permission Flags".
const PERMISSIONS: u64 = 1 << 10 | 1 << 11 | 1 << 16 | 1 << 38;

/// Counts since the process started, and how the connection is now.
#[derive(Default)]
pub struct Status(Mutex<Facts>);

#[derive(Default)]
pub struct Facts {
    pub user: Option<User>,
    pub application: Option<ApplicationId>,
    pub guilds: HashSet<GuildId>,
    pub session: bool,
    pub latency: Option<Duration>,
    pub resumes: u64,
    pub replies: u64,
    /// Messages of people who may not have an answer now.
    pub limited: u64,
    pub refused: u64,
    pub lost: u64,
}

impl Facts {
    /// The bot is, or is no longer, in a guild.
    pub fn guild(&mut self, guild: &Guild, left: bool) {
        if left && guild.unavailable != Some(true) {
            self.guilds.remove(&guild.id);
        } else {
            self.guilds.insert(guild.id);
        }
    }
}

impl Status {
    /// Changes what is told, and tells it.
    pub fn change(&self, gate: &Gate, reporter: &Reporter, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts();
        change(&mut facts);
        reporter.details(facts.show(gate));
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn show(&self, gate: &Gate) -> Value {
        let invite = self.application.map(|application| {
            format!("https://discord.com/oauth2/authorize?client_id={application}&scope=bot&permissions={PERMISSIONS}")
        });
        json!({
            "shard": "0/1",
            "session": self.session,
            "latency_ms": self.latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            "identifies": gate.sent(),
            "identify_remaining": gate.remaining(),
            "next_identify": gate.next(),
            "resumes": self.resumes,
            "guilds": self.guilds.len(),
            "user": self.user.as_ref().map(|user| json!({"id": user.id.to_string(), "name": user.username})),
            "invite": invite,
            "replies": self.replies,
            "limited": self.limited,
            "refused": self.refused,
            "lost": self.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn the_details_are_what_a_person_looks_for() {
        let mut facts = Facts::default();
        let guild = |id: u64, unavailable| Guild { id: GuildId::new(id), unavailable };
        facts.guild(&guild(1, Some(true)), false);
        facts.guild(&guild(2, None), false);
        facts.guild(&guild(3, None), false);
        facts.guild(&guild(2, Some(true)), true);
        facts.guild(&guild(3, None), true);
        facts.application = Some(ApplicationId::new(9));
        let shown = serde_json::to_string_pretty(&facts.show(&Gate::new(Store::in_memory().identifies()))).unwrap();
        insta::assert_snapshot!(shown, @r#"
        {
          "guilds": 2,
          "identifies": 0,
          "identify_remaining": null,
          "invite": "https://discord.com/oauth2/authorize?client_id=9&scope=bot&permissions=274877975552",
          "latency_ms": null,
          "limited": 0,
          "lost": 0,
          "next_identify": null,
          "refused": 0,
          "replies": 0,
          "resumes": 0,
          "session": false,
          "shard": "0/1",
          "user": null
        }
        "#);
    }
}
