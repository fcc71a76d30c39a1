//! The Discord bot: says back what people say to it, or what the chat's responder says.
//!
//! [`account`] tries the token. [`bot`] keeps a connection as long as it is wanted, waits between attempts
//! ([`backoff`]), and asks [`identify`] before it begins a session; [`gateway`] is one connection. A message is read
//! ([`event`]), found to be for the bot ([`mention`]), put behind the others of its channel, or of its author there
//! ([`channels`]), and answered ([`answer`], [`split`]; by the chat in [`converse`], [`pieces`], with [`talk`] and what is
//! [`attached`]) over [`rest`], once: what an earlier process left unfinished is looked for ([`lookup`]). What must outlive a connection is in [`session`] and [`seen`]; where a session was lost, what was said meanwhile is looked for
//! ([`catch_up`]). What people are told of it, in [`status`].

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;

use crate::chat::files::Refused;
use crate::chat::history::History;
use crate::config::Config;
use crate::limits::Limits;
use crate::service::{Cause, Context, Live, Next, Part, Problem, Service};
use crate::store::Store;

mod account;
mod answer;
mod attached;
mod backoff;
mod bot;
mod catch_up;
mod channels;
mod converse;
mod event;
mod gateway;
mod history;
mod identify;
mod lookup;
mod mention;
mod pieces;
mod refusals;
mod rest;
mod seen;
mod session;
mod split;
mod status;
mod talk;
#[cfg(test)]
mod tests;

use account::Account;
pub use gateway::Patience;

const NAME: &str = "discord";

/// The bot as a service. What it holds outlives a panic: the session, the budget of IDENTIFYs, the counts.
pub struct Discord {
    options: Options,
    patience: Patience,
    gate: identify::Gate,
    store: Arc<session::SessionStore>,
    marks: Arc<seen::Marks>,
    /// What outlives the process, too.
    memory: Store,
    talk: Arc<talk::Talk>,
    status: status::Status,
    last: ArcSwapOption<Account>,
}

/// How to reach Discord.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Where discord.com is, instead of where the resolver says.
    pub resolve: Option<SocketAddr>,
}

impl Discord {
    /// A bot that remembers in `memory`.
    #[must_use]
    pub fn new(options: Options, memory: Store) -> Discord {
        // twilight takes the process's default.
        crate::tls::install_default_provider();
        let history = History::new(Arc::new(memory.conversations()));
        let talk = talk::Talk::new(history, Arc::default(), Arc::default());
        Discord {
            options,
            patience: Patience::default(),
            gate: identify::Gate::new(memory.identifies()),
            store: Arc::new(session::SessionStore::new(memory.sessions())),
            marks: Arc::new(seen::Marks::new(memory.last_seen())),
            talk: Arc::new(talk),
            memory,
            status: status::Status::default(),
            last: ArcSwapOption::default(),
        }
    }

    /// The same with what it shares with others: what was said to the chat, how much whoever may have, and the count of
    /// files that were not taken.
    #[must_use]
    pub fn sharing(self, history: Arc<History>, limits: Arc<Limits>, refused: Arc<Refused>) -> Discord {
        Discord { talk: Arc::new(talk::Talk::new(history, limits, refused)), ..self }
    }

    /// The same with other waits.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Discord {
        Discord { patience, ..self }
    }
}

#[async_trait]
impl Service for Discord {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, config: &Config) -> bool {
        config.discord.is_some()
    }

    async fn prepare(&self, next: &Next<'_>, running: Option<&Live>) -> Result<Part, Vec<Problem>> {
        let Some(config) = &next.config.discord else { return Ok(Arc::new(())) };
        let Some(token) = next.secrets.get("discord.token") else {
            let place = config.token.place.clone();
            return Err(vec![Problem { place, text: "the token was not found".to_owned(), cause: Cause::Missing }]);
        };
        let proven = running.and_then(|live| live.part::<Account>(NAME));
        match Account::try_token(config, token, self.options.resolve, proven, next.asked).await {
            Ok(account) => Ok(account),
            Err(problem) => Err(vec![problem]),
        }
    }

    async fn run(&self, context: Context) -> anyhow::Result<()> {
        bot::run(self, context).await;
        Ok(())
    }
}
