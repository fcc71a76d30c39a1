//! A secret that systemd hands over as a credential (`LoadCredential=`, systemd.exec(5)).

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Answer, Keeper, Secret};

pub struct Credential<'a>(pub &'a str);

#[async_trait]
impl Keeper for Credential<'_> {
    async fn fetch(&self) -> Result<Secret, Answer> {
        let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
            return Err(Answer::Missing(
                "systemd passed no credentials (CREDENTIALS_DIRECTORY is not set); add LoadCredential= to the unit"
                    .to_owned(),
            ));
        };
        super::file::read(&PathBuf::from(directory).join(self.0)).await
    }
}
