//! What Discord will not have, in words that say what to mend and where.

use twilight_model::gateway::CloseCode;

use super::account::{self, PORTAL};
use super::bot::Bot;
use crate::service::Blame;

impl Bot<'_> {
    /// What to do about a token that Discord refused with the words `said`.
    pub(super) fn refused(&self, said: &str) -> String {
        let live = self.live.borrow();
        let token = live.config.discord.as_ref().map(|discord| discord.token.clone()).unwrap_or_default();
        account::refused(said, &token)
    }

    /// What to do about a close code after which trying again can't help.
    pub(super) fn fatal(&self, code: u16) -> (Blame, String) {
        let reason = match CloseCode::try_from(code) {
            Ok(CloseCode::AuthenticationFailed) => {
                return (Blame::Credential, self.refused("gateway close code 4004"));
            }
            Ok(CloseCode::DisallowedIntents) => format!(
                "Discord does not grant the intents perch asks for (gateway close code 4014; discord.intents: {}); turn \
                 them on in {PORTAL} → the application → Bot → Privileged Gateway Intents and run `perch reload`, or take \
                 them out of the configuration",
                self.account.intents
            ),
            Ok(CloseCode::InvalidIntents) => format!(
                "Discord does not know the intents perch asks for (gateway close code 4013); compare them with {PORTAL} → \
                 the application → Bot → Privileged Gateway Intents, and update perch"
            ),
            Ok(CloseCode::ShardingRequired) => {
                "Discord requires sharding (gateway close code 4011): the bot is in more \
                 guilds than one connection may serve, and perch has one; take it out of some"
                    .to_owned()
            }
            _ => format!(
                "Discord will not talk to this version of perch (gateway close code {code}); update perch, then run \
                 `perch reload`"
            ),
        };
        (Blame::Configuration, reason)
    }
}
