//! What one answer cost, and who had it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Limits, Who};
use crate::chat::PersonId;
use crate::config::Config;

/// About so many bytes of text are one token of a model, in English; other languages take more tokens, not fewer.
/// Source: OpenAI help center, "What are tokens and how to count them".
const BYTES_A_TOKEN: u64 = 4;

/// About how many tokens so many bytes of text are.
#[must_use]
pub fn tokens_of(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_A_TOKEN)
}

/// Counts the tokens of one answer, question included, and charges them when it is dropped: however the answer ended,
/// also when somebody stopped it.
pub struct Bill {
    limits: Arc<Limits>,
    config: Arc<Config>,
    address: Option<IpAddr>,
    person: PersonId,
    /// What the model's API says; 0 while it says nothing.
    tokens: AtomicU64,
    /// What went to the model and what came from it.
    bytes: AtomicU64,
}

impl Bill {
    /// For an answer to `person`, who asks from `address` under this configuration.
    #[must_use]
    pub fn new(limits: &Arc<Limits>, config: &Arc<Config>, address: Option<IpAddr>, person: PersonId) -> Arc<Bill> {
        Arc::new(Bill {
            limits: Arc::clone(limits),
            config: Arc::clone(config),
            address,
            person,
            tokens: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
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
