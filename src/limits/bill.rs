//! What one answer cost, and who had it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::under_way::Reservation;
use super::{Limits, Refusal, Who};
use crate::chat::PersonId;
use crate::config::Config;
use crate::config::chat::Backend;

/// About so many bytes of text are one token of a model, in English; other languages take more tokens, not fewer.
/// Source: OpenAI help center, "What are tokens and how to count them".
const BYTES_A_TOKEN: u64 = 4;
/// What an answer is taken to cost while it is made, where the configuration does not say how long one may be: a long
/// one, of two pages.
const ANSWER: u64 = 1_000;

/// About how many tokens so many bytes of text are.
#[must_use]
pub fn tokens_of(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_A_TOKEN)
}

/// Counts the tokens of one answer, question included, and charges them when it is dropped: however the answer ended,
/// also when somebody stopped it. Until then it holds what the answer may cost.
pub struct Bill {
    limits: Arc<Limits>,
    config: Arc<Config>,
    address: Option<IpAddr>,
    person: PersonId,
    /// What the model's API says; 0 while it says nothing.
    tokens: AtomicU64,
    /// What went to the model and what came from it.
    bytes: AtomicU64,
    /// Given back after the charge, so that nobody is let in between the two.
    _reservation: Option<Reservation>,
}

impl Bill {
    /// For an answer to `person`, who was let in and asks from `address`, under this configuration, a question of so many
    /// bytes.
    ///
    /// # Errors
    /// The limit that answers which are being made may reach already.
    pub fn open(
        limits: &Arc<Limits>,
        config: &Arc<Config>,
        address: Option<IpAddr>,
        person: PersonId,
        question: usize,
    ) -> Result<Arc<Bill>, Refusal> {
        let expected = match &config.chat.backend {
            Backend::Echo => None,
            Backend::OpenAi(openai) => {
                let read = (question + openai.system.as_ref().map_or(0, String::len)) as u64;
                Some(openai.max_tokens.map_or(ANSWER, u64::from) + read.div_ceil(BYTES_A_TOKEN))
            }
        };
        let who = Who { address, person: &person };
        let reservation = expected.map(|tokens| limits.reserve(&config.limits, who, tokens)).transpose()?;
        Ok(Arc::new(Bill {
            limits: Arc::clone(limits),
            config: Arc::clone(config),
            address,
            person,
            tokens: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            _reservation: reservation,
        }))
    }

    /// Puts down text that went to the model, or came from it.
    pub fn text(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Puts down how many tokens the API says it took so far; that counts in place of the text.
    pub fn tokens(&self, so_far: u64) {
        self.tokens.fetch_max(so_far, Ordering::Relaxed);
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let tokens = match *self.tokens.get_mut() {
            0 => tokens_of(*self.bytes.get_mut()),
            tokens => tokens,
        };
        if tokens > 0 {
            let who = Who { address: self.address, person: &self.person };
            self.limits.spent(&self.config.limits, who, tokens);
        }
    }
}
