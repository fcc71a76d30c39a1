//! What `run` and `dev` share: a process that is fit to hold secrets, and the services in it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::{CONFIGURATION, FAILED, INTERRUPTED, fail};
use crate::auth::SignIn;
use crate::auth::counts::Counts;
use crate::aws::Aws;
use crate::chat::Responding;
use crate::chat::history::History;
use crate::discord::Discord;
use crate::http::{Http, Requests, Resources};
use crate::limits::Limits;
use crate::secrets::Kept;
use crate::source::Uri;
use crate::store::Store;
use crate::supervisor::{self, End, Options, Simulated};
use crate::systemd::Passed;
use crate::telemetry::metrics::Source;
use crate::telemetry::{self, Output};
use crate::{discord, os};

/// How to run the daemon.
pub struct Daemon {
    pub uri: Uri,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub output: Output,
    /// Takes what systemd passed, once the journal can hear what is wrong with it.
    pub passed: fn() -> Passed,
    /// Where to connect when discord.com is meant.
    pub discord_address: Option<SocketAddr>,
    pub simulator: Option<Simulated>,
}

impl Daemon {
    /// Runs it to its end.
    pub async fn run(self) -> ExitCode {
        let level = match telemetry::start(self.output, tracing::Level::INFO) {
            Ok(level) => level,
            Err(error) => return fail(&format!("the journal can't be reached: {error}")),
        };
        os::forbid_core_dumps();
        os::forbid_programs();
        os::give_back_large_memory();
        let files = os::raise_file_limit();
        crate::tls::install_default_provider();
        let store = Store::new();
        // The simulator forgets with the process, and what perch knew of it would be wrong the next time.
        let remembered = if self.simulator.is_some() { Store::in_memory() } else { store.clone() };
        let Passed { sockets, secrets } = (self.passed)();
        // The simulator's token is no secret.
        let kept = if self.simulator.is_some() { Kept::default() } else { Kept::take(secrets) };
        let history = History::new(Arc::new(store.conversations()));
        let requests = Arc::new(Requests::default());
        let sign_ins = Arc::new(Counts::default());
        let limits = Arc::new(Limits::default());
        let responding = Responding::default();
        let metrics: Vec<Arc<dyn Source>> = vec![
            Arc::clone(&requests) as _,
            Arc::clone(&sign_ins) as _,
            Arc::clone(&limits) as _,
            Arc::clone(&responding.answers) as _,
        ];
        let uploads = Arc::clone(&requests.uploads);
        let discord = Discord::new(discord::Options { resolve: self.discord_address }, remembered.clone());
        let discord = discord.sharing(Arc::clone(&history), Arc::clone(&limits), uploads);
        let resources = Resources { requests, history: Arc::clone(&history), limits, rooms: Arc::default() };
        let http = Http::new(sockets, resources, files).keeping(&self.state_dir);
        let options = Options {
            uri: self.uri,
            aws: Aws::default(),
            state_dir: self.state_dir,
            runtime_dir: self.runtime_dir,
            services: vec![Arc::new(http), Arc::new(responding), Arc::new(SignIn::new(sign_ins)), Arc::new(discord)],
            store,
            changes: remembered.changes(),
            history,
            kept,
            level,
            metrics: metrics.into(),
            simulator: self.simulator,
        };
        match supervisor::run(options).await {
            Ok(End::Drained) => ExitCode::SUCCESS,
            Ok(End::DeadlineMissed | End::Failed) => ExitCode::from(FAILED),
            Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
            Ok(End::Configuration) => ExitCode::from(CONFIGURATION),
            Err(error) => {
                tracing::error!(service = "supervisor", "{error:#}");
                ExitCode::from(FAILED)
            }
        }
    }
}

/// Runs a daemon on a runtime of its own and leaves without waiting for threads that are stuck.
pub fn block_on(daemon: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime can't be made: {error}")),
    };
    let code = runtime.block_on(daemon);
    runtime.shutdown_background();
    code
}
