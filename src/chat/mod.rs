//! What perch answers: one responder serves Discord and HTTP alike.

use std::sync::Arc;

use async_trait::async_trait;

use crate::config::chat::{Backend, Chat};

mod echo;

/// Turns what a person wrote into what perch says.
#[async_trait]
pub trait Responder: Send + Sync {
    /// The whole answer to `message`.
    ///
    /// # Errors
    /// What kept it from answering, for the journal; people are told only that it did not work.
    async fn reply(&self, message: &str) -> anyhow::Result<String>;
}

/// The responder that the configuration asks for.
#[must_use]
pub fn open(chat: &Chat) -> Arc<dyn Responder> {
    match chat.backend {
        Backend::Echo => Arc::new(echo::Echo),
    }
}
