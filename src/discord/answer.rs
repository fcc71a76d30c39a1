//! Answering one message, once.

use std::sync::Arc;
use std::time::Duration;

use serenity::builder::{CreateAllowedMentions, CreateMessage};
use serenity::model::channel::{MessageReference, Nonce};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::timeout;

use super::account::Account;
use super::channels::{Asked, Job};
use super::converse::Conversing;
use super::event::{ChannelId, Incoming, MessageId};
use super::lookup::{self, Found};
use super::rest::RestError;
use super::talk::Talk;
use super::{mention, split};
use crate::chat;
use crate::config::discord::Respond;
use crate::service::Live;
use crate::store::{Attempt, Key, Ledger, Standing, Verdict};

/// For the responder. A person does not wait longer for a chat bot.
const RESPOND_TIMEOUT: Duration = Duration::from_mins(2);

/// Said to who says nothing but the bot's name.
const HINT: &str = "Say something after my name and I will repeat it.";
/// Said when the responder can't answer; the cause is in the journal.
const APOLOGY: &str = "Something went wrong, and I could not answer that. Please try again in a while.";

/// A reply needs the permission to read the channel's history, a plain message does not.
///
/// Source: Opcodes and Status Codes, "JSON Error Codes".
const NO_REPLY_WITHOUT_HISTORY: u64 = 160_002;

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// It was dealt with before.
    Known,
    /// Who asked may not have an answer now.
    Limited,
    /// Discord will not have an answer there: it is deleted, or the bot may not write.
    Refused,
    /// Discord was in trouble for too long.
    Lost,
    /// The token is not good any more.
    Unauthorized(String),
}

/// Answers the message of `job`, with the responder and the account of the newest state, unless it is answered already.
pub async fn answer(job: &Job, live: &watch::Receiver<Arc<Live>>, ledger: &Ledger, talk: &Talk) -> Outcome {
    let now = Arc::clone(&live.borrow());
    // A new token of the same bot takes over at once.
    let account = match now.part::<Account>(super::NAME) {
        Some(newest) if newest.user.id == job.account.user.id => newest,
        _ => Arc::clone(&job.account),
    };
    let key = job.key();
    let Some(attempt) = (match ledger.find(key).await {
        None => None,
        Some(Standing::Sending(attempt)) => Some(attempt),
        Some(Standing::Settled) => return Outcome::Known,
    }) else {
        // One that an earlier process left is in the ledger, or was settled by now.
        let (Asked::Heard { message, .. } | Asked::Missed { message }) = &job.asked else { return Outcome::Known };
        let conversing = Conversing { message, live: &now, account: &account, ledger, talk, excess: job.excess };
        let outcome = fresh(&conversing).await;
        settle(ledger, key, &outcome);
        return outcome;
    };
    let (channel_id, message_id) = (ChannelId::new(attempt.channel), MessageId::new(key.message));
    let (rest, bot, in_order) = (&account.rest, account.user.id, !converses(&now));
    let outcome = match lookup::look(rest, channel_id, message_id, bot, parts(attempt), in_order).await {
        Ok(Found { question: Some(message), said, .. }) => {
            let conversing =
                Conversing { message: &message, live: &now, account: &account, ledger, talk, excess: false };
            rest_of(&conversing, said, attempt).await
        }
        Ok(found) if found.said >= parts(attempt) => Outcome::Known,
        Ok(_) => unfound(channel_id, message_id),
        // It stays in the ledger as it is, for the next start to look again.
        Err(error @ RestError::Unavailable(_)) => return failed(channel_id, message_id, &error),
        Err(error) => failed(channel_id, message_id, &error),
    };
    settle(ledger, key, &outcome);
    outcome
}

/// The message of `job` was deleted, or its channel: nobody waits for an answer, or for the rest of one.
pub fn withdrawn(job: &Job, ledger: &Ledger) -> Outcome {
    let message_id = job.key().message;
    tracing::debug!(service = super::NAME, message_id, "message {message_id} was deleted, and is not answered");
    settle(ledger, job.key(), &Outcome::Refused);
    Outcome::Refused
}

fn settle(ledger: &Ledger, key: Key, outcome: &Outcome) {
    ledger.settle(
        key,
        match outcome {
            Outcome::Answered | Outcome::Known => Verdict::Done,
            Outcome::Refused | Outcome::Limited => Verdict::Refused,
            Outcome::Lost | Outcome::Unauthorized(_) => Verdict::Lost,
        },
    );
}

/// How many messages an answer takes; where that is not known yet, more than there are.
fn parts(attempt: Attempt) -> usize {
    if attempt.parts == 0 { usize::MAX } else { usize::try_from(attempt.parts).unwrap_or(usize::MAX) }
}

/// Whether the chat answers, or the echo.
pub fn converses(live: &Live) -> bool {
    live.config.discord.as_ref().is_some_and(|discord| discord.respond == Respond::Chat)
}

/// Answers a message of which nothing was answered yet.
async fn fresh(asked: &Conversing<'_>) -> Outcome {
    if converses(asked.live) {
        return asked.answer().await;
    }
    let Conversing { message, live, account, ledger, .. } = asked;
    let reply = compose(message, live, account).await;
    let pieces = split::split(&reply);
    let attempt = Attempt {
        channel: message.channel_id.get(),
        parts: u32::try_from(pieces.len()).unwrap_or(u32::MAX),
        reply: mark(&reply),
    };
    let key = Key { bot: account.user.id.get(), message: message.id.get() };
    ledger.begin(key, attempt).await;
    send(message, &pieces, 0, account).await
}

/// Sends what is missing of an answer that an earlier process began, and of which it `said` so many messages.
async fn rest_of(asked: &Conversing<'_>, said: usize, attempt: Attempt) -> Outcome {
    if said >= parts(attempt) {
        return Outcome::Known;
    }
    if said == 0 {
        return fresh(asked).await;
    }
    if converses(asked.live) {
        return asked.go_on(said, attempt).await;
    }
    let Conversing { message, live, account, .. } = asked;
    let (channel_id, message_id) = (attempt.channel, message.id.get());
    let reply = compose(message, live, account).await;
    if mark(&reply) != attempt.reply {
        tracing::warn!(
            service = super::NAME,
            channel_id,
            message_id,
            "the answer to message {message_id} was cut short when perch stopped, and can't be given again word by word"
        );
        return Outcome::Lost;
    }
    send(message, &split::split(&reply), said, account).await
}

fn unfound(channel_id: ChannelId, message_id: MessageId) -> Outcome {
    let (channel_id, message_id) = (channel_id.get(), message_id.get());
    tracing::warn!(
        service = super::NAME,
        channel_id,
        message_id,
        "message {message_id} may have been answered before perch stopped; it can't be found any more, and is left"
    );
    Outcome::Lost
}

async fn compose(message: &Incoming, live: &Live, account: &Account) -> String {
    let text = mention::without(&message.content, account.user.id);
    if text.trim().is_empty() { HINT.to_owned() } else { respond(live, &text, message.id).await }
}

/// Says the pieces from the one numbered `first`.
async fn send(message: &Incoming, pieces: &[&str], first: usize, account: &Account) -> Outcome {
    for (part, content) in pieces.iter().enumerate().skip(first) {
        if let Err(error) = say(message, part, part == 0, content, account).await {
            return failed(message.channel_id, message.id, &error);
        }
    }
    tracing::debug!(
        service = super::NAME,
        channel_id = message.channel_id.get(),
        message_id = message.id.get(),
        "answered a message"
    );
    Outcome::Answered
}

/// By which an answer is known again.
pub fn mark(reply: &str) -> u64 {
    let hash = Sha256::digest(reply);
    u64::from_le_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

async fn respond(live: &Live, text: &str, message_id: MessageId) -> String {
    let error = match timeout(RESPOND_TIMEOUT, chat::echo(live).reply(text)).await {
        Ok(Ok(reply)) => return reply,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("no answer within {} s", RESPOND_TIMEOUT.as_secs()),
    };
    tracing::warn!(
        service = super::NAME,
        config_version = %live.version,
        message_id = message_id.get(),
        "the responder did not answer message {message_id}: {error}"
    );
    APOLOGY.to_owned()
}

/// Says one part of an answer, as a reply to `message` or not. The first pings whoever asked.
pub async fn say(
    message: &Incoming,
    part: usize,
    replies: bool,
    content: &str,
    account: &Account,
) -> Result<(), RestError> {
    let plain = CreateMessage::new()
        .content(content)
        .nonce(Nonce::String(format!("{}-{part}", message.id)))
        .enforce_nonce(true)
        .allowed_mentions(CreateAllowedMentions::new().replied_user(part == 0));
    if !replies {
        return account.rest.create_message(message.channel_id, &plain).await;
    }
    let reply = plain.clone().reference_message(MessageReference::from((message.channel_id, message.id)));
    match account.rest.create_message(message.channel_id, &reply).await {
        Err(RestError::Refused { code: NO_REPLY_WITHOUT_HISTORY, .. }) => {
            account.rest.create_message(message.channel_id, &plain).await
        }
        outcome => outcome,
    }
}

/// Tells why an answer was not given.
pub fn failed(channel_id: ChannelId, message_id: MessageId, error: &RestError) -> Outcome {
    let (channel_id, message_id) = (channel_id.get(), message_id.get());
    match error {
        RestError::Unauthorized(said) => Outcome::Unauthorized(said.clone()),
        RestError::Refused { .. } => {
            tracing::info!(
                service = super::NAME,
                channel_id,
                message_id,
                "Discord refused the answer to message {message_id} in channel {channel_id}: {error}"
            );
            Outcome::Refused
        }
        RestError::Unavailable(_) => {
            tracing::warn!(
                service = super::NAME,
                channel_id,
                message_id,
                "the answer to message {message_id} in channel {channel_id} was lost: {error}"
            );
            Outcome::Lost
        }
    }
}
