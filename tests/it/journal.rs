//! What perch says, where it says it, and what it never says.

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use perch::chat::{Ask, Deltas, Failure, Responder, Why};
use perch::sim::{Fault, Options, Say, Simulator, When};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::support::child;
use super::support::exchange::exchange;
use super::support::namespace::{has, unshare};
use super::support::perch::{PATIENCE, Perch, Start, binary, free_port, wait};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// journald's socket, and perch's way to it: a mount namespace where it lies at journald's own path.
struct Journal {
    socket: UnixDatagram,
    entries: Vec<Entry>,
}

/// An entry's fields in the order they came.
#[derive(Debug)]
struct Entry {
    fields: Vec<(String, String)>,
    /// It came as a sealed file, not in the datagram: it was too large for one.
    passed: bool,
}

impl Entry {
    fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl Journal {
    /// The journal of `start`, and the words that take perch to it.
    fn open(start: &Start) -> Option<(Self, Vec<String>)> {
        let mut words = unshare(&["--mount"])?;
        let directory = start.directory().join("journal");
        std::fs::create_dir(&directory).unwrap();
        let socket = UnixDatagram::bind(directory.join("socket")).unwrap();
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                      mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";
        words.extend(["sh", "-c", script, "sh", directory.to_str().unwrap()].map(str::to_owned));
        Some((Journal { socket, entries: Vec::new() }, words))
    }

    /// The first entry that `fits`, once it has come.
    #[track_caller]
    fn wait(&mut self, what: &str, fits: impl Fn(&Entry) -> bool) -> &Entry {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.entries.iter().position(&fits) {
                return &self.entries[at];
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}: {:#?}", self.entries);
            self.socket.set_read_timeout(Some(left)).unwrap();
            if let Some(entry) = self.receive() {
                self.entries.push(entry);
            }
        }
    }

    fn receive(&self) -> Option<Entry> {
        let mut bytes = vec![0; 256 * 1024];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
        bytes.truncate(received.bytes);
        let mut files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let file: Option<OwnedFd> = files.next();
        let passed = file.is_some();
        if let Some(file) = file {
            // journald maps it, wherever its offset stands.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            std::fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        }
        Some(Entry { fields: parse(&bytes), passed })
    }
}

/// Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
fn parse(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a field ends with a new line");
        let line = std::str::from_utf8(&bytes[..end]).unwrap();
        bytes = &bytes[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.push((name.to_owned(), value.to_owned()));
            continue;
        }
        let (length, rest) = bytes.split_first_chunk::<8>().expect("a length of 64 bits");
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        fields.push((line.to_owned(), String::from_utf8(rest[..length].to_vec()).unwrap()));
        assert_eq!(rest[length], b'\n');
        bytes = &rest[length + 1..];
    }
    fields
}

/// The fields of perch's own, and those that journalctl knows, without what differs from run to run.
fn shown(entry: &Entry, perch: &Perch) -> String {
    let version = perch.status()["config"]["version"].as_str().unwrap().to_owned();
    let own = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"];
    let mut lines: Vec<String> = entry
        .fields
        .iter()
        .filter(|(name, _)| own.contains(&name.as_str()) || name.starts_with("PERCH_"))
        .map(|(name, value)| format!("{name}={}", value.replace(&version, "VERSION")))
        .collect();
    lines.sort();
    lines.join("\n")
}

struct Touchy;

#[async_trait]
impl Responder for Touchy {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Err(Failure::new(Why::Broken, format!("no answer to {}", ask.message)))
    }
}

#[test]
#[ignore = "a daemon for the test below"]
fn failing_daemon() {
    child::run(Touchy, Vec::new);
}

#[test]
fn the_journal_gets_every_entry_with_its_fields() {
    let port = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let start = Start::child("journal::failing_daemon", &text);
    let Some((mut journal, way)) = Journal::open(&start) else { return };
    let perch = start.env([("PERCH_LOG".to_owned(), "journal".to_owned())]).through(way).ready();
    let first = journal.wait("the start", |entry| entry.get("MESSAGE").contains("first configuration"));
    insta::assert_snapshot!(shown(first, &perch), @r##"
    MESSAGE=first configuration applied
    PERCH_CHANGE=1
    PERCH_CONFIG_VERSION=VERSION
    PERCH_SERVICE=supervisor
    PRIORITY=6
    SYSLOG_IDENTIFIER=perch
    "##);
    let url = format!("http://127.0.0.1:{port}/api/chat");
    let answer = exchange("POST", &url, &[JSON], b"{\"message\": \"hello\"}");
    assert_eq!(answer.status, 500);
    let id = answer.header("x-request-id").unwrap().to_owned();
    let failed = journal.wait("the failed request", |entry| entry.get("PERCH_REQUEST_ID") == id);
    insta::assert_snapshot!(shown(failed, &perch).replace(&id, "ID"), @r##"
    MESSAGE=request ID failed: no answer to hello
    PERCH_CONFIG_VERSION=VERSION
    PERCH_REQUEST_ID=ID
    PERCH_SERVICE=http
    PRIORITY=3
    SYSLOG_IDENTIFIER=perch
    "##);
    std::fs::write(perch.config_path(), "[http]\nlisten = \"no\"\nport = 1\n").unwrap();
    let refused = journal.wait("the refusal", |entry| entry.get("MESSAGE").contains("refused"));
    let version = refused.get("PERCH_CONFIG_VERSION").to_owned();
    assert_ne!(version, "");
    insta::assert_snapshot!(shown(refused, &perch).replace(&version, "REFUSED"), @r##"
    MESSAGE=version REFUSED refused, version VERSION stays in use:
      line 2, http.listen: `no` is not an address; write "0.0.0.0:8080" or "[::]:8080"
      line 3, http.port: is an unknown key; known here: listen, max_body, origins, tls, trusted_proxies
    PERCH_CHANGE=2
    PERCH_CONFIG_VERSION=REFUSED
    PERCH_SERVICE=supervisor
    PRIORITY=3
    SYSLOG_IDENTIFIER=perch
    "##);
    assert_eq!(perch.log_text().lines().filter(|line| line.starts_with('{')).count(), 0, "{}", perch.log_text());
}

#[test]
fn an_entry_too_large_for_a_datagram_reaches_the_journal_whole() {
    let port = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let start = Start::child("journal::failing_daemon", &format!("{text}max_body = \"1MiB\"\n"));
    let Some((mut journal, way)) = Journal::open(&start) else { return };
    let perch = start.env([("PERCH_LOG".to_owned(), "journal".to_owned())]).through(way).ready();
    let message = "long ".repeat(100_000);
    let body = serde_json::json!({ "message": message }).to_string();
    let answer = exchange("POST", &format!("http://127.0.0.1:{port}/api/chat"), &[JSON], body.as_bytes());
    let id = answer.header("x-request-id").unwrap().to_owned();
    let entry = journal.wait("the failed request", |entry| entry.get("PERCH_REQUEST_ID") == id);
    assert!(entry.passed);
    assert_eq!(entry.get("MESSAGE"), format!("request {id} failed: no answer to {message}"));
    assert_eq!(entry.get("PERCH_SERVICE"), "http");
    drop(perch);
}

#[test]
fn on_a_terminal_it_is_text_and_elsewhere_json() {
    if !has("script") {
        return;
    }
    let port = free_port();
    let start = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n"));
    let config = start.directory().join("perch.toml");
    let run = |word: &str| {
        let [state, runtime] = ["state", "run"].map(|name| start.directory().join(name).display().to_string());
        format!(
            "{word} {} run --config {} --state-dir {state} --runtime-dir {runtime}",
            binary().display(),
            config.display()
        )
    };
    let typescript = start.directory().join("typescript");
    for (how, command) in [("text", run("exec")), ("json", format!("{} 2>{}", run("exec"), typescript.display()))] {
        drop(std::fs::remove_file(&typescript));
        let file = if how == "text" { typescript.as_path() } else { Path::new("/dev/null") };
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &command])
            .arg(file)
            .env_remove("JOURNAL_STREAM")
            .env_remove("PERCH_LOG")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let said = wait("the start", || {
            let said = std::fs::read_to_string(&typescript).unwrap_or_default();
            said.contains("applied").then_some(said)
        });
        let pid = std::fs::read_to_string(start.directory().join("state/lock")).unwrap();
        assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
        assert!(script.wait().unwrap().success());
        let line = said.lines().find(|line| line.contains("applied")).unwrap();
        if how == "text" {
            let (_, rest) = line.split_once("\u{1b}[0m ").unwrap();
            insta::assert_snapshot!(rest.trim_end().replace('\u{1b}', "ESC"), @"ESC[32minfo ESC[0m ESC[1msupervisorESC[0m  first configuration applied");
        } else {
            let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
            entry["time"] = "TIME".into();
            entry["PERCH_CONFIG_VERSION"] = "VERSION".into();
            insta::assert_snapshot!(entry.to_string(), @r#"{"PERCH_CHANGE":"2","PERCH_CONFIG_VERSION":"VERSION","PERCH_SERVICE":"supervisor","level":"INFO","message":"first configuration applied","time":"TIME"}"#);
        }
    }
}

/// Not the simulator's own, so that a search for it finds nothing else.
const TOKEN: &str = "MTEwMDAwMDAwMDAwMDAwMDAxMA.leak.this-token-must-not-be-seen-anywhere";

#[test]
fn a_token_is_nowhere_to_be_seen_at_trace_level() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = Options { token: TOKEN.to_owned(), identify_spacing: Duration::from_millis(1), ..Options::default() };
    let simulator = runtime.block_on(Simulator::start(options)).unwrap();
    let port = free_port();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), TOKEN).unwrap();
    let text = |token: &str| {
        format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n[discord]\napi_url = \"{}\"\ntoken = {token}\n[log]\nlevel = \
             \"trace\"\n",
            simulator.url()
        )
    };
    let file = format!("{{ file = \"{}\" }}", secret.path().display());
    let mut perch = Start::with_text(&text(&file)).ready();
    let running = |status: &serde_json::Value| status["services"]["discord"]["state"] == "running";
    perch.wait_status("a Discord session", running);
    // Everything that has to do with a token: answers, faults, a new session, a refusal, a mistake in its place.
    let bot = simulator.state()["bot"]["id"].as_str().unwrap().to_owned();
    simulator.say(Say::new(format!("<@{bot}> hello"))).unwrap();
    wait("the echo", || (simulator.counters().messages_created > 0).then_some(()));
    simulator.fault(Fault::Reconnect { when: When::Now });
    wait("a resumed session", || (simulator.counters().resumed > 0).then_some(()));
    perch.wait_status("a Discord session", running);
    simulator.expire_sessions();
    simulator.fault(Fault::Reconnect { when: When::Now });
    wait("a new session", || (simulator.counters().identifies > 1).then_some(()));
    perch.wait_status("a Discord session", running);
    // Somebody writes the token itself where its place belongs, in each way that is a mistake.
    let file = text(&file);
    for wrong in [format!("\"{TOKEN}\""), format!("{{ value = \"{TOKEN}\" }}"), format!("\"{TOKEN}"), TOKEN.to_owned()]
    {
        let good = "token = {".to_owned() + file.split_once("token = {").unwrap().1.lines().next().unwrap();
        std::fs::write(perch.config_path(), file.replace(&good, &format!("token = {wrong}"))).unwrap();
        let answer = perch.verb(&["reload"]);
        assert_eq!(answer.status.code(), Some(1), "{wrong}");
        assert!(
            !String::from_utf8_lossy(&answer.stdout).contains(TOKEN),
            "{}",
            String::from_utf8_lossy(&answer.stdout)
        );
        let checked = perch.verb(&["check", perch.config_path().to_str().unwrap()]).stdout;
        assert!(!String::from_utf8_lossy(&checked).contains(TOKEN), "{}", String::from_utf8_lossy(&checked));
    }
    std::fs::write(perch.config_path(), file).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0));
    std::fs::write(secret.path(), format!("{TOKEN}-of-another-bot")).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(1));
    let status = perch.verb(&["status"]).stdout;
    let pid = perch.pid();
    let proc = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let outputs = [
        ("log", perch.log_text().into_bytes()),
        ("standard output", std::fs::read(perch.directory().join("stdout")).unwrap()),
        ("status", status),
        ("status --json", perch.status().to_string().into_bytes()),
        ("systemd's status", perch.notified().concat().into_bytes()),
        ("metrics", metrics(&perch)),
        ("environment", proc("environ")),
        ("command line", proc("cmdline")),
    ];
    for (what, bytes) in &outputs {
        // Nobody but root may look into the environment of a process that may not be dumped.
        let hidden = *what == "environment" && !rustix::process::geteuid().is_root();
        assert!(!bytes.is_empty() || hidden || *what == "standard output", "{what} is empty");
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "the token is in the {what}");
    }
    assert!(
        perch.log().iter().any(|entry| entry["level"] == "TRACE" || entry["level"] == "DEBUG"),
        "{}",
        perch.log_text()
    );
    let limits = String::from_utf8(proc("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    assert_eq!(perch.stop().code(), Some(0));
}

/// `GET /metrics` on the admin socket.
fn metrics(perch: &Perch) -> Vec<u8> {
    let mut stream = UnixStream::connect(perch.runtime_dir().join("admin.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    answer
}

#[test]
fn the_process_can_not_be_dumped() {
    // What belongs to a process that may not be dumped belongs to root in /proc (proc(5)), which tells something only
    // where the process is somebody else's.
    const NOBODY: u32 = 65_534;
    let port = free_port();
    let start = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n"));
    let perch = if rustix::process::geteuid().is_root() {
        if !has("setpriv") {
            return;
        }
        // Where the binary is, not everybody may look.
        let copy = start.directory().join("perch");
        std::fs::copy(binary(), &copy).unwrap();
        std::os::unix::fs::chown(start.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
        let identity = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
        start.binary(&copy).through(identity).through(["setpriv"]).start()
    } else {
        start.start()
    };
    // Not READY: the notify socket is not theirs.
    perch.wait_status("the start", |status| status["services"]["http"]["state"] == "running");
    let environment = std::fs::metadata(format!("/proc/{}/environ", perch.pid())).unwrap();
    assert_eq!(environment.uid(), 0);
}
