//! A secret in an environment variable that the operator put there.

use async_trait::async_trait;

use super::{Answer, Keeper, Secret};

pub struct Variable<'a>(pub &'a str);

#[async_trait]
impl Keeper for Variable<'_> {
    async fn fetch(&self) -> Result<Secret, Answer> {
        match std::env::var_os(self.0) {
            Some(value) => super::text(std::os::unix::ffi::OsStringExt::into_vec(value)),
            None => Err(Answer::Missing("is not set".to_owned())),
        }
    }
}
