//! perch as systemd would start it: a process of its own with a notify socket, and directories that go with the test.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;
use tempfile::TempDir;

/// How long a test waits for what must come. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_perch"))
}

/// A port of this machine that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until `condition` gives something.
#[track_caller]
pub fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running perch. It is killed when this is dropped.
pub struct Perch {
    child: Child,
    directory: TempDir,
    notified: Arc<Mutex<Vec<String>>>,
    /// How it was started.
    program: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    stored: Arc<Mutex<Store>>,
}

/// The descriptors that systemd keeps for the service, with their names.
pub type Store = Vec<(String, Arc<OwnedFd>)>;

/// How to start one.
pub struct Start {
    /// What is run, and what comes before perch's own arguments.
    program: Vec<String>,
    arguments: Vec<String>,
    input: Stdio,
    environment: Vec<(String, String)>,
    directory: TempDir,
    stored: Store,
}

impl Start {
    /// `perch run --config CONFIG`, where CONFIG is `s3://…` or a path.
    pub fn new(config: &str) -> Self {
        Start {
            program: vec![binary().to_str().unwrap().to_owned()],
            arguments: ["run", "--config", config].map(str::to_owned).to_vec(),
            input: Stdio::null(),
            environment: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
            stored: Store::new(),
        }
    }

    /// `perch run` with `text` in a file of its own; [`Perch::config_path`] names it.
    pub fn with_text(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("perch.toml");
        std::fs::write(&path, text).unwrap();
        let mut start = Start::new(path.to_str().unwrap());
        start.directory = directory;
        start
    }

    /// A daemon made of the library by the test named `test`, which is run as a process of its own; see
    /// [`child`](super::child).
    pub fn child(test: &str, config: &str) -> Self {
        let mut start = Start::with_text(config);
        start.program = vec![std::env::current_exe().unwrap().to_str().unwrap().to_owned()];
        start.arguments = super::child::arguments(test).map(str::to_owned).to_vec();
        let directory = start.directory.path().to_str().unwrap().to_owned();
        start.env([(super::child::DIRECTORY.to_owned(), directory)])
    }

    /// Runs this copy of the binary.
    pub fn binary(mut self, path: &Path) -> Self {
        self.program = vec![path.to_str().unwrap().to_owned()];
        self
    }

    /// Runs it by way of another program, which becomes perch in the end.
    pub fn through<S: AsRef<str>>(mut self, program: impl IntoIterator<Item = S>) -> Self {
        let before: Vec<String> = program.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.program.splice(0..0, before);
        self
    }

    /// Gives it a listening socket as systemd does.
    pub fn socket(mut self, listener: &TcpListener) -> Self {
        // A shell moves it to where sd_listen_fds(3) looks, and says for whom it is.
        self.input = Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
        let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
        self.through(["sh", "-c", script, "sh"])
    }

    /// Gives it a listening socket, and behind it what the file-descriptor store has, as systemd does.
    pub fn socket_and_store(mut self, listener: &TcpListener, store: &Store) -> Self {
        self.input = Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        self.stored.clone_from(store);
        let (mut moves, mut names) = ("exec 3<&0 0</dev/null".to_owned(), "http".to_owned());
        for (number, (name, descriptor)) in store.iter().enumerate() {
            // Opened anew through this process, which holds it.
            let (process, own) = (std::process::id(), descriptor.as_raw_fd());
            moves.push_str(&format!(" {}</proc/{process}/fd/{own}", number + 4));
            names.push_str(&format!(":{name}"));
        }
        let count = store.len() + 1;
        let script = format!("{moves}; LISTEN_FDS={count} LISTEN_FDNAMES={names} LISTEN_PID=$$ exec \"$@\"");
        self.through(["sh", "-c", &script, "sh"])
    }

    /// Where its files are going to be.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it; nothing is waited for.
    pub fn start(mut self) -> Perch {
        let socket_path = self.directory.path().join("notify");
        // Left by the one that was started here before.
        drop(std::fs::remove_file(&socket_path));
        let socket = UnixDatagram::bind(&socket_path).unwrap();
        let notified = Arc::new(Mutex::new(Vec::new()));
        let stored = Arc::new(Mutex::new(self.stored));
        let (heard, store) = (Arc::clone(&notified), Arc::clone(&stored));
        // Ends with the socket's last message: the thread is detached on purpose and holds nothing but this socket.
        std::thread::spawn(move || {
            while let Ok((text, descriptors)) = receive(&socket) {
                keep(&mut store.lock().unwrap(), &text, descriptors);
                heard.lock().unwrap().push(text);
            }
        });
        let mut command = clean(Command::new(&self.program[0]));
        let child = command
            .args(&self.program[1..])
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", &socket_path)
            .env("PERCH_LOG", "json")
            .env("STATE_DIRECTORY", self.directory.path().join("state"))
            .env("RUNTIME_DIRECTORY", self.directory.path().join("run"))
            .envs(self.environment.iter().cloned())
            .stdin(std::mem::replace(&mut self.input, Stdio::null()))
            .stdout(File::create(self.directory.path().join("stdout")).unwrap())
            .stderr(File::create(self.directory.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let Start { program, arguments, environment, directory, .. } = self;
        Perch { child, directory, notified, program, arguments, environment, stored }
    }

    /// Starts it and waits until it is READY.
    #[track_caller]
    pub fn ready(self) -> Perch {
        let mut perch = self.start();
        perch.wait_notified("READY=1");
        perch
    }
}

/// The next message on a notify socket, with the descriptors that came with it.
fn receive(socket: &UnixDatagram) -> rustix::io::Result<(String, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), descriptors))
}

/// What sd_pid_notify_with_fds(3) says of the file-descriptor store.
fn keep(store: &mut Store, text: &str, descriptors: Vec<OwnedFd>) {
    let has = |line: &str| text.lines().any(|known| known == line);
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
    if has("FDSTOREREMOVE=1") {
        store.retain(|(known, _)| known != name);
    }
    if has("FDSTORE=1") {
        store.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), Arc::new(descriptor))));
    }
}

/// The binary with nothing of AWS, systemd or perch in its environment.
pub fn clean_command() -> Command {
    clean(Command::new(binary()))
}

/// The same of another program.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        let ours = ["AWS_", "PERCH_", "LISTEN_", "SSL_CERT_"].iter().any(|prefix| shown.starts_with(prefix));
        let systemd = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"];
        if ours || systemd.contains(&&*shown) || shown == "STATE_DIRECTORY" || shown == "RUNTIME_DIRECTORY" {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs the binary with `arguments` to its end.
pub fn perch(arguments: &[&str]) -> Output {
    clean_command().args(arguments).stdin(Stdio::null()).output().unwrap()
}

impl Perch {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that is no file's, heap and stacks, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("perch.toml")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Runs a verb against this daemon: `status`, `reload`.
    pub fn verb(&self, arguments: &[&str]) -> Output {
        let mut command = clean_command();
        command.args(arguments).env("RUNTIME_DIRECTORY", self.runtime_dir()).stdin(Stdio::null()).output().unwrap()
    }

    /// `perch status --json`; null while there is no answer.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.verb(&["status", "--json"]).stdout).unwrap_or_default()
    }

    /// Waits until the status is as `condition` wants it.
    #[track_caller]
    pub fn wait_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; status: {status:#}\nlog: {}",
                self.log_text()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `version` is served.
    #[track_caller]
    pub fn wait_version(&self, version: &str) -> Value {
        self.wait_status(&format!("version {version}"), |status| status["config"]["version"] == version)
    }

    /// Every notification so far, each as it came.
    pub fn notified(&self) -> Vec<String> {
        self.notified.lock().unwrap().clone()
    }

    /// What systemd keeps for it at the moment.
    pub fn stored(&self) -> Store {
        self.stored.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_notified(&mut self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.notified().iter().any(|text| text.lines().any(|known| known == line)) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "perch ended with {ended:?}: {}", self.log_text());
            assert!(Instant::now() < deadline, "waited in vain for {line}: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it wrote to standard error, as it is.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// The log's entries.
    pub fn log(&self) -> Vec<Value> {
        self.log_text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The messages of this level, `WARN` say.
    pub fn messages(&self, level: &str) -> Vec<String> {
        let entries = self.log();
        let fitting = entries.iter().filter(|entry| entry["level"] == level);
        fitting.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Sends a signal by its name, `TERM` say.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "perch does not end: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and its end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }
}

impl Perch {
    /// Kills it, unless it has ended, and returns how it is started again in the same directories.
    pub fn again(mut self) -> Start {
        self.end();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        Start {
            program: std::mem::take(&mut self.program),
            arguments: std::mem::take(&mut self.arguments),
            input: Stdio::null(),
            environment: std::mem::take(&mut self.environment),
            directory,
            stored: Store::new(),
        }
    }

    fn end(&mut self) {
        // Already gone where the test ended it.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            return;
        }
        let said = self.log_text() + &std::fs::read_to_string(self.directory().join("stdout")).unwrap_or_default();
        for secret in SECRETS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert!(!said.contains(secret.as_str()), "a secret is in what perch wrote");
        }
    }
}

/// Every secret that any test of this process has made known to the stand-ins.
static SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on `value`, and every string in it if it is a JSON object, may be in no daemon's output.
pub fn keep_secret(value: &str) {
    let parsed: Value = serde_json::from_str(value).unwrap_or_default();
    let parts = parsed.as_object().into_iter().flat_map(|object| object.values()).filter_map(Value::as_str);
    // Shorter ones occur by chance.
    let secrets = parts.chain([value]).filter(|secret| secret.len() >= 12).map(str::to_owned);
    SECRETS.lock().unwrap_or_else(PoisonError::into_inner).extend(secrets);
}

impl Drop for Perch {
    fn drop(&mut self) {
        self.end();
    }
}
