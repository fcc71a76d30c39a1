//! Says back what it was told.

use async_trait::async_trait;

use super::{Ask, Deltas, Failure, Responder, files};

pub struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Ok(files::with_names(ask.message, ask.files))
    }
}
