//! What stays while perch comes and goes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use perch::sim::{self, RateLimits, Simulator};
use serde_json::Value;
use tempfile::TempDir;

use super::perch::{binary, clean, wait};

/// The user id of the simulator's bot.
pub const BOT: &str = "1100000000000000010";

/// What stays while perch comes and goes: its directory, its listening socket, and Discord.
pub struct Site {
    directory: TempDir,
    listener: TcpListener,
    pub simulator: Simulator,
    /// What the simulator runs on.
    _runtime: tokio::runtime::Runtime,
}

impl Site {
    pub fn new() -> Site {
        Site::with("")
    }

    /// With `more` in its configuration.
    pub fn with(more: &str) -> Site {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = sim::Options { rate_limits: RateLimits { scale: 0, global: 0 }, ..sim::Options::default() };
        let simulator = runtime.block_on(Simulator::start(options)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let site = Site { directory, listener, simulator, _runtime: runtime };
        std::fs::write(site.path("token"), sim::DEFAULT_TOKEN).unwrap();
        let text = format!(
            "[discord]\ntoken = {{ file = \"{}\" }}\napi_url = \"{}\"\n[http]\nlisten = \"{}\"\n[run]\ndrain = \"10s\"\n{more}",
            site.path("token"),
            site.simulator.url(),
            site.address()
        );
        std::fs::write(site.path("perch.toml"), text).unwrap();
        site
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Starts perch as systemd does with a socket unit: the listener is its descriptor 3.
    pub fn start(&self) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.path("stderr")).unwrap();
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
        let child = clean(Command::new("sh"))
            .args(["-c", script, binary().to_str().unwrap(), "run", "--config", &self.path("perch.toml")])
            .env("PERCH_LOG", "json")
            .env("STATE_DIRECTORY", self.path("state"))
            .env("RUNTIME_DIRECTORY", self.path("run"))
            .stdin(Stdio::from(OwnedFd::from(self.listener.try_clone().unwrap())))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Running(child)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// The messages that the bot's answers in `channel` refer to, in the order of the answers.
    pub fn answered(&self, channel: &str) -> Vec<String> {
        let messages = self.simulator.messages(channel).into_iter();
        let answers = messages.filter(|message| message["author"]["id"] == BOT);
        answers.map(|message| message["message_reference"]["message_id"].as_str().unwrap_or("-").to_owned()).collect()
    }

    /// Waits until Discord knows of a session.
    #[track_caller]
    pub fn wait_session(&self) {
        let ready = |connection: &Value| connection["phase"] == "ready";
        wait("a session", || {
            let state = self.simulator.state();
            state["gateway"]["connections"].as_array()?.iter().any(ready).then_some(())
        });
    }

    /// Adds a channel to the simulator's guild.
    pub fn add_channel(&self, name: &str) {
        let url = format!("{}/sim/channels", self.simulator.control_url());
        let body = serde_json::json!({ "name": name }).to_string();
        let json = [("Content-Type", "application/json")];
        assert_eq!(super::exchange::exchange("POST", &url, &json, body.as_bytes()).status, 201);
    }
}

/// A perch that dies with the test.
pub struct Running(Child);

impl Running {
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait("perch to end", || self.0.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone where the test ended it.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
