//! Answering one message.

use std::sync::Arc;
use std::time::Duration;

use serenity::builder::{CreateAllowedMentions, CreateMessage};
use serenity::model::channel::{MessageReference, Nonce};
use tokio::sync::watch;
use tokio::time::timeout;

use super::account::Account;
use super::event::{Incoming, MessageId};
use super::rest::RestError;
use super::{mention, split};
use crate::service::Live;

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
    /// Discord will not have an answer there: it is deleted, or the bot may not write.
    Refused,
    /// Discord was in trouble for too long.
    Lost,
    /// The token is not good any more.
    Unauthorized(String),
}

/// Answers `message`, with the responder and the account of the newest state.
pub async fn answer(message: &Incoming, account: &Arc<Account>, live: &watch::Receiver<Arc<Live>>) -> Outcome {
    let now = Arc::clone(&live.borrow());
    // A new token of the same bot takes over at once.
    let account = match now.part::<Account>(super::NAME) {
        Some(newest) if newest.user.id == account.user.id => newest,
        _ => Arc::clone(account),
    };
    let text = mention::without(&message.content, account.user.id);
    let reply = if text.trim().is_empty() { HINT.to_owned() } else { respond(&now, &text, message.id).await };
    for (part, content) in split::split(&reply).into_iter().enumerate() {
        if let Err(error) = say(message, part, content, &account).await {
            return failed(message, &error);
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

async fn respond(live: &Live, text: &str, message_id: MessageId) -> String {
    let error = match timeout(RESPOND_TIMEOUT, live.responder.reply(text)).await {
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

async fn say(message: &Incoming, part: usize, content: &str, account: &Account) -> Result<(), RestError> {
    let plain = CreateMessage::new()
        .content(content)
        .nonce(Nonce::String(format!("{}-{part}", message.id)))
        .enforce_nonce(true)
        .allowed_mentions(CreateAllowedMentions::new().replied_user(true));
    if part > 0 {
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

fn failed(message: &Incoming, error: &RestError) -> Outcome {
    let (channel_id, message_id) = (message.channel_id.get(), message.id.get());
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
