//! `perch sim`: the Discord simulator alone, for tests.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{fail, print};
use crate::sim;

/// Run the Discord simulator alone
///
/// Prints the simulator's address and serves until SIGTERM.
#[derive(Args)]
#[command(hide = true)]
pub struct Sim {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The token it takes
    #[arg(long, default_value = sim::DEFAULT_TOKEN)]
    token: String,
}

impl Sim {
    pub async fn run(self) -> ExitCode {
        let options = sim::Options { listen: self.listen, token: self.token, ..sim::Options::default() };
        let (simulator, mut terminate, mut interrupt) = match (
            sim::Simulator::start(options).await,
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            (Ok(simulator), Ok(terminate), Ok(interrupt)) => (simulator, terminate, interrupt),
            (Err(error), ..) => return fail(&format!("the simulator can't listen on {}: {error}", self.listen)),
            (_, Err(error), _) | (.., Err(error)) => return fail(&format!("signals can't be taken: {error}")),
        };
        print(&format!("{}\n", simulator.url()));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        simulator.stop().await;
        ExitCode::SUCCESS
    }
}
