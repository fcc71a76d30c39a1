//! What one perch needs around it: AWS with a bucket for its configuration, Discord, and a port for HTTP.

use super::aws::Cloud;
use super::discord::Discord;
use super::perch::{Start, free_port};

/// The configuration's key in its bucket.
pub const KEY: &str = "perch.toml";

pub struct Host {
    pub cloud: Cloud,
    pub bucket: String,
    pub discord: Discord,
    pub port: u16,
}

impl Host {
    /// With a bucket that keeps versions.
    pub fn new() -> Self {
        Self::with_versioning(true)
    }

    pub fn with_versioning(versioned: bool) -> Self {
        let cloud = Cloud::start();
        let bucket = cloud.create_bucket(versioned);
        Host { cloud, bucket, discord: Discord::start(), port: free_port() }
    }

    pub fn uri(&self) -> String {
        format!("s3://{}/{KEY}", self.bucket)
    }

    /// `perch run` on this bucket.
    pub fn perch(&self) -> Start {
        Start::new(&self.uri()).env(self.cloud.env())
    }

    /// A configuration with both services, the token where `token` says, and a look at S3 every second.
    pub fn config(&self, token: &str) -> String {
        format!("[discord]\ntoken = {token}\napi_url = \"{}\"\n\n{}", self.discord.url(), self.http_config())
    }

    /// The same without the bot.
    pub fn http_config(&self) -> String {
        format!("[reload]\npoll = \"1s\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n", self.port)
    }

    /// Puts a version of the configuration into the bucket and returns its name.
    pub fn upload(&self, text: impl AsRef<[u8]>) -> String {
        self.cloud.put_object(&self.bucket, KEY, text)
    }

    /// A secret that holds the simulator's token as the operator stores it; returns how a configuration names it.
    pub fn token(&self) -> String {
        let value = format!("{{\"DISCORD_BOT_TOKEN\": \"{}\"}}", perch::sim::DEFAULT_TOKEN);
        let (name, _) = self.cloud.create_secret("token", &value);
        format!("{{ secret = \"{name}\", key = \"DISCORD_BOT_TOKEN\" }}")
    }
}
