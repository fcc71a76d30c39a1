//! A secret in a file of its own.

use std::io::ErrorKind;
use std::path::Path;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use super::{Answer, Keeper, Secret};

/// No token is longer than this, in bytes; a path to something else is noticed before it fills the memory.
const SIZE_LIMIT: u64 = 64 * 1024;

pub struct SecretFile<'a>(pub &'a Path);

#[async_trait]
impl Keeper for SecretFile<'_> {
    async fn fetch(&self) -> Result<Secret, Answer> {
        read(self.0).await
    }
}

/// Reads a whole file as a secret.
pub(super) async fn read(path: &Path) -> Result<Secret, Answer> {
    let metadata = tokio::fs::metadata(path).await.map_err(|error| answer(&error))?;
    if !metadata.is_file() {
        // A FIFO or a device would keep the reader waiting.
        return Err(Answer::Missing("is not a regular file".to_owned()));
    }
    let file = tokio::fs::File::open(path).await.map_err(|error| answer(&error))?;
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes).await.map_err(|error| answer(&error))?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(Answer::Missing(format!("is larger than {} KiB", SIZE_LIMIT / 1024)));
    }
    super::text(bytes)
}

fn answer(error: &std::io::Error) -> Answer {
    match error.kind() {
        ErrorKind::NotFound => Answer::Missing("does not exist".to_owned()),
        _ => Answer::Unavailable(error.to_string()),
    }
}
