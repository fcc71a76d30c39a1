//! `perch run`: the daemon.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use super::daemon::{self, Daemon};
use super::{Directories, parse_uri};
use crate::source::Uri;
use crate::systemd;
use crate::telemetry::Output;

/// Run the daemon
///
/// Reads the configuration, runs what it asks for, and applies each new version of it. Region, credentials and
/// endpoints are the AWS SDK's own: AWS_REGION, the instance's role over IMDSv2, AWS_ENDPOINT_URL and so on.
///
/// SIGHUP looks for changes at once. SIGTERM finishes what is in flight and exits 0; a second one ends it at once.
#[derive(Args)]
#[command(after_help = "Examples:\n  perch run --config s3://my-bucket/perch.toml\n  \
    perch run --config /etc/perch/perch.toml --state-dir /tmp/perch --runtime-dir /tmp/perch\n\n\
    With a file, an invalid configuration ends perch with 78; with S3 it waits for a good version.")]
pub struct Run {
    /// The configuration: s3://BUCKET/KEY or a file's path
    #[arg(long, env = "PERCH_CONFIG", value_name = "URI", value_parser = parse_uri)]
    config: Uri,
    #[command(flatten)]
    directories: Directories,
    /// Where log entries go
    #[arg(long, env = "PERCH_LOG", value_enum, default_value = "auto", value_name = "OUTPUT")]
    log: Output,
    /// Connect to this address where discord.com is meant, for tests
    #[arg(long, hide = true, value_name = "IP:PORT")]
    discord_address: Option<SocketAddr>,
}

impl Run {
    pub fn run(self) -> ExitCode {
        daemon::block_on(async {
            Daemon {
                uri: self.config,
                state_dir: self.directories.state_dir,
                runtime_dir: self.directories.runtime.runtime_dir,
                output: self.log,
                passed: systemd::passed,
                discord_address: self.discord_address,
                simulator: None,
            }
            .run()
            .await
        })
    }
}
