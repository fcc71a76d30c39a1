//! A secret in AWS Secrets Manager, whole or one key of a JSON object.

use async_trait::async_trait;

use super::{Answer, Keeper, Secret};
use crate::aws::Aws;

pub struct SecretsManager<'a> {
    pub aws: &'a Aws,
    pub name: &'a str,
    pub key: Option<&'a str>,
}

#[async_trait]
impl Keeper for SecretsManager<'_> {
    async fn fetch(&self) -> Result<Secret, Answer> {
        let _ = (self.aws, self.name, self.key);
        Err(Answer::Unavailable("Secrets Manager can't be asked yet".to_owned()))
    }
}
