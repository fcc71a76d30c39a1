//! A secret in AWS Secrets Manager, whole or one key of a JSON object.

use async_trait::async_trait;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use serde_json::Value;

use super::{Answer, Keeper, Secret};
use crate::aws::{Aws, Failure, Refusal};

/// Which of a secret's values: rotation labels the new one current, and leaves the other label with the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Current,
    Previous,
}

impl Stage {
    /// Its staging label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Stage::Current => "AWSCURRENT",
            Stage::Previous => "AWSPREVIOUS",
        }
    }
}

/// As many keys of a JSON object are told to whoever asked for one that it lacks.
const KEYS_TOLD: usize = 20;

pub struct SecretsManager<'a> {
    pub aws: &'a Aws,
    pub name: &'a str,
    pub key: Option<&'a str>,
    pub stage: Stage,
}

#[async_trait]
impl Keeper for SecretsManager<'_> {
    async fn fetch(&self) -> Result<Secret, Answer> {
        let client = self.aws.secrets_manager().await.map_err(|failure| Answer::Unavailable(failure.to_string()))?;
        match client.get_secret_value().secret_id(self.name).version_stage(self.stage.label()).send().await {
            Ok(output) => self.read(output),
            Err(error) => {
                let region = client.config().region().map(ToString::to_string).unwrap_or_default();
                Err(self.refused(&self.aws.failure(&error).await, &region))
            }
        }
    }
}

impl SecretsManager<'_> {
    fn read(&self, output: GetSecretValueOutput) -> Result<Secret, Answer> {
        let version = output.version_id;
        let bytes = match (output.secret_string, output.secret_binary) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(binary)) => binary.into_inner(),
            (None, None) => Vec::new(),
        };
        let secret = match self.key {
            Some(key) => at_key(&bytes, key)?,
            None => super::text(bytes)?,
        };
        Ok(Secret { version, ..secret })
    }

    fn refused(&self, failure: &Failure, region: &str) -> Answer {
        let Failure::Refused(refusal) = failure else { return Answer::Unavailable(failure.to_string()) };
        let Refusal { code, message, .. } = refusal;
        match code.as_str() {
            "ResourceNotFoundException" if message.contains("staging label") => {
                Answer::Missing(format!("has no value yet (none is labelled {})", self.stage.label()))
            }
            "ResourceNotFoundException" => match region_of(self.name) {
                Some(own) if own != region => {
                    Answer::Missing(format!("does not exist in {region}, where perch asks; its ARN says {own}"))
                }
                _ => Answer::Missing(format!("does not exist in {region}")),
            },
            "InvalidRequestException" if message.contains("delet") => {
                Answer::Missing("is scheduled for deletion; restore it, or name another".to_owned())
            }
            "InvalidParameterException" | "ValidationException" => {
                Answer::Missing(format!("is no name of a secret: {refusal}"))
            }
            "AccessDeniedException" => Answer::Unavailable(format!(
                "may not be read: {refusal}; allow the role secretsmanager:GetSecretValue on `{}`, and kms:Decrypt \
                 where it is encrypted with a key of yours",
                self.name
            )),
            "DecryptionFailure" => Answer::Unavailable(format!(
                "can't be decrypted: {refusal}; the KMS key may be disabled, or the role lack kms:Decrypt on it"
            )),
            _ => Answer::Unavailable(failure.to_string()),
        }
    }
}

/// The text at `key` of a JSON object. No message repeats anything of a value, nor of what is no object.
fn at_key(bytes: &[u8], key: &str) -> Result<Secret, Answer> {
    let missing = |text: String| Err(Answer::Missing(text));
    let Ok(Value::Object(mut object)) = serde_json::from_slice(bytes) else {
        return missing(format!("is no JSON object with a key `{key}`; leave `key` out to take it whole"));
    };
    match object.remove(key) {
        Some(Value::String(text)) => {
            super::text(text.into_bytes()).map_err(|_| Answer::Missing(format!("has nothing at its key `{key}`")))
        }
        Some(other) => missing(format!("has {} at its key `{key}`, not a string", kind(&other))),
        None if object.is_empty() => missing(format!("is an empty JSON object; it has no key `{key}`")),
        None => {
            let names: Vec<_> = object.keys().take(KEYS_TOLD).map(|name| format!("`{name}`")).collect();
            let more = if object.len() > KEYS_TOLD { ", …" } else { "" };
            missing(format!("has no key `{key}`, only {}{more}", names.join(", ")))
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `arn:aws:secretsmanager:REGION:…`
fn region_of(name: &str) -> Option<&str> {
    name.strip_prefix("arn:")?.split(':').nth(2)
}
