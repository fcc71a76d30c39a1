//! Says back what it was told.

use async_trait::async_trait;

use super::Responder;

pub struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn reply(&self, message: &str) -> anyhow::Result<String> {
        Ok(message.to_owned())
    }
}
