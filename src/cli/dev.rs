//! `perch dev`: everything on this machine, with no AWS and no Discord account.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;

use super::daemon::{self, Daemon};
use super::{Style, fail, parse_uri, print};
use crate::config::Config;
use crate::secrets::Secret;
use crate::sim;
use crate::source::Uri;
use crate::supervisor::{Simulated, StateDir};
use crate::systemd::Passed;
use crate::telemetry::Output;

/// The ports that are tried first; others are taken when these are in use.
const CHAT_PORT: u16 = 8080;
const SIMULATOR_PORT: u16 = 8081;

/// What perch begins with when no configuration is named.
const CONFIGURATION: &str = include_str!("dev.toml");

/// Try perch on this machine, with no AWS and no Discord account
///
/// Runs the daemon on this machine with a local file as its configuration and the Discord simulator in place of
/// Discord, and prints where the chat page and the simulator's page are. Edit the file, and the change is applied.
#[derive(Args)]
#[command(after_help = "Examples:\n  perch dev\n  perch dev my-perch.toml\n\n\
    The simulator takes the place of Discord whatever the file's [discord] table says: the token that it names is not \
    looked up.")]
pub struct Dev {
    /// The configuration file; a built-in one is written and used when none is named
    #[arg(value_name = "CONFIG", value_parser = parse_uri)]
    config: Option<Uri>,
    /// Where perch keeps what outlives it [default: perch-dev in the user's state directory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the running daemon's admin socket is [default: the state directory]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

impl Dev {
    pub fn run(self) -> ExitCode {
        daemon::block_on(async {
            match self.start().await {
                Ok(code) => code,
                Err(error) => fail(&format!("{error:#}")),
            }
        })
    }

    async fn start(self) -> anyhow::Result<ExitCode> {
        let state_dir = match self.state_dir {
            Some(directory) => directory,
            None => default_state_dir()?,
        };
        std::fs::create_dir_all(&state_dir).with_context(|| {
            format!("{} can't be made; name another directory with --state-dir", state_dir.display())
        })?;
        let uri = match self.config {
            Some(uri) => uri,
            None => Uri::File(built_in(&state_dir)?),
        };
        // Another `perch dev` may run: that is said before any address is.
        drop(StateDir::open(&state_dir)?);
        let simulator = start_simulator().await?;
        let runtime_dir = self.runtime_dir.unwrap_or_else(|| state_dir.clone());
        let elsewhere = elsewhere();
        print(&welcome(&uri, elsewhere, &simulator.url(), &runtime_dir));
        let code = Daemon {
            uri,
            state_dir,
            runtime_dir,
            output: Output::Text,
            passed: Passed::default,
            discord_address: None,
            simulator: Some(Simulated {
                api_url: simulator.url(),
                elsewhere,
                token: Secret { value: SecretString::from(sim::DEFAULT_TOKEN), version: None },
            }),
        }
        .run()
        .await;
        simulator.stop().await;
        Ok(code)
    }
}

fn default_state_dir() -> anyhow::Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .context("neither XDG_STATE_HOME nor HOME is set; name a directory with --state-dir")?;
    Ok(base.join("perch-dev"))
}

/// The built-in configuration as a file to edit: written once, then left to whoever edits it.
fn built_in(state_dir: &Path) -> anyhow::Result<PathBuf> {
    let path = state_dir.join("perch.toml");
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            file.write_all(CONFIGURATION.as_bytes()).with_context(|| format!("{} can't be written", path.display()))?;
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("{} can't be written", path.display())),
    }
    Ok(path)
}

/// Where the chat page goes when somebody else listens at the built-in configuration's address.
fn elsewhere() -> Option<(SocketAddr, SocketAddr)> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, CHAT_PORT));
    if TcpListener::bind(usual).is_ok() {
        return None;
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).ok()?;
    Some((usual, free))
}

async fn start_simulator() -> anyhow::Result<sim::Simulator> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let options = |port| sim::Options { listen: at(port), ..sim::Options::default() };
    match sim::Simulator::start(options(SIMULATOR_PORT)).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            sim::Simulator::start(options(0)).await.context("the simulator can't listen")
        }
        started => started.context("the simulator can't listen"),
    }
}

fn welcome(uri: &Uri, elsewhere: Option<(SocketAddr, SocketAddr)>, simulator: &str, runtime_dir: &Path) -> String {
    let style = Style::detect();
    let chat = match uri {
        Uri::S3 { .. } => "where [http] listen says".to_owned(),
        Uri::File(path) => match std::fs::read(path).map(|bytes| Config::load(&bytes)) {
            Ok(Ok(Config { http: Some(http), .. })) => {
                let listen = elsewhere.filter(|(usual, _)| *usual == http.listen).map_or(http.listen, |(_, free)| free);
                format!("http://{listen}")
            }
            Ok(Ok(_)) => "off, as there is no [http] table".to_owned(),
            Ok(Err(_)) | Err(_) => "off, as the configuration can't be used: see below".to_owned(),
        },
    };
    format!(
        "\n  {}\n\n  chat page       {}\n  simulator page  {}   write `@perch hello` there\n  configuration   {uri}   edit \
         it, and it is applied\n  status          {}\n\n  {}\n\n",
        style.bold("perch runs on this machine, with a simulator in place of Discord"),
        style.good(&chat),
        style.good(simulator),
        style.dim(&format!("perch status --runtime-dir {}", runtime_dir.display())),
        style.dim("Ctrl-C drains and ends it."),
    )
}
