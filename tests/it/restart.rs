//! perch is stopped and killed again and again while people talk to it: nothing is lost, and nothing is said twice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use perch::sim::{self, Fault, RateLimits, Say, Simulator};
use serde_json::Value;
use tempfile::TempDir;

use super::support::perch::{PATIENCE, binary, clean, wait};

/// How often it is stopped, and how often it is killed; this variable says otherwise.
const ROUNDS: u32 = 8;
const ROUNDS_VARIABLE: &str = "PERCH_TEST_RESTARTS";
/// Between two mentions.
const PACE: Duration = Duration::from_millis(50);
const CHANNELS: [&str; 4] = ["general", "one", "two", "three"];
const BOT: &str = "1100000000000000010";
const SIGTERM: i32 = 15;

/// What stays while perch comes and goes: its directory, its listening socket, and Discord.
struct Host {
    directory: TempDir,
    listener: TcpListener,
    simulator: Simulator,
    /// What the simulator runs on.
    _runtime: tokio::runtime::Runtime,
}

impl Host {
    fn new() -> Host {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = sim::Options { rate_limits: RateLimits { scale: 0, global: 0 }, ..sim::Options::default() };
        let simulator = runtime.block_on(Simulator::start(options)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let host = Host { directory, listener, simulator, _runtime: runtime };
        std::fs::write(host.path("token"), sim::DEFAULT_TOKEN).unwrap();
        let text = format!(
            "[discord]\ntoken = {{ file = \"{}\" }}\napi_url = \"{}\"\n[http]\nlisten = \"{}\"\n[run]\ndrain = \"10s\"\n",
            host.path("token"),
            host.simulator.url(),
            host.address()
        );
        std::fs::write(host.path("perch.toml"), text).unwrap();
        host
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Starts perch as systemd does with a socket unit: the listener is its descriptor 3.
    fn start(&self) -> Running {
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

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// The messages that the bot's answers in `channel` refer to, in the order of the answers.
    fn answered(&self, channel: &str) -> Vec<String> {
        let messages = self.simulator.messages(channel).into_iter();
        let answers = messages.filter(|message| message["author"]["id"] == BOT);
        answers.map(|message| message["message_reference"]["message_id"].as_str().unwrap_or("-").to_owned()).collect()
    }

    /// Adds a channel to the simulator's guild.
    fn add_channel(&self, name: &str) {
        let url = format!("{}/sim/channels", self.simulator.control_url());
        let body = serde_json::json!({ "name": name }).to_string();
        let json = [("Content-Type", "application/json")];
        assert_eq!(super::support::exchange::exchange("POST", &url, &json, body.as_bytes()).status, 201);
    }
}

/// A perch that dies with the test.
struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
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

/// What people do all the while, until they are told to stop.
struct Crowd {
    over: Arc<AtomicBool>,
    /// The messages said in each channel.
    asked: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
    /// From when to when each HTTP request took that got no answer, and why it did not.
    failed: Arc<Mutex<Vec<(Instant, Instant, String)>>>,
    served: Arc<Mutex<u64>>,
}

impl Crowd {
    fn talk(&self, host: &Host) {
        let mut said = 0;
        while !self.over.load(Ordering::Relaxed) {
            let channel = CHANNELS[said % CHANNELS.len()];
            let say = Say::new(format!("<@{BOT}> {said}")).in_channel(channel);
            let message = host.simulator.say(say).unwrap();
            let id = message["id"].as_str().unwrap().to_owned();
            self.asked.lock().unwrap().entry(channel).or_default().push(id);
            said += 1;
            sleep(PACE);
        }
    }

    fn ask(&self, address: SocketAddr) {
        while !self.over.load(Ordering::Relaxed) {
            let from = Instant::now();
            match request(address) {
                Ok(()) => *self.served.lock().unwrap() += 1,
                Err(what) => self.failed.lock().unwrap().push((from, Instant::now(), what)),
            }
        }
    }
}

/// One request on a connection of its own.
fn request(address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).map_err(|error| format!("connecting: {error}"))?;
    let body = r#"{"message":"hello"}"#;
    let text = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    stream.write_all(text.as_bytes()).map_err(|error| format!("writing: {error}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| format!("reading: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("answered {answer:?}")) }
}

#[test]
#[expect(clippy::print_stdout, reason = "a long run says what it has shown, to whoever asks with --nocapture")]
fn stopped_and_killed_while_people_talk_perch_loses_nothing_and_says_nothing_twice() {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |text| text.parse().unwrap());
    let host = Host::new();
    for name in &CHANNELS[1..] {
        host.add_channel(name);
    }
    let mut perch = host.start();
    wait("the first session", || (session_count(&host) == 1).then_some(()));
    // So that Discord often has an answer in hand when perch is killed.
    host.simulator.fault(Fault::RestDelay { route: Some("POST /channels/".to_owned()), ms: 40 });
    let crowd = Crowd { over: Arc::default(), asked: Arc::default(), failed: Arc::default(), served: Arc::default() };
    let mut kills = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| crowd.talk(&host));
        scope.spawn(|| crowd.ask(host.address()));
        for round in 0..2 * rounds {
            // Anywhere between the first moments of a process and its steady state.
            sleep(Duration::from_millis(fastrand::u64(50..1_000)));
            if round % 2 == 0 {
                perch.signal("TERM");
                let ended = perch.wait();
                // Before its first instructions are through, a signal ends a process by itself.
                assert!(ended.code() == Some(0) || ended.signal() == Some(SIGTERM), "{ended}: {}", host.log());
            } else {
                let from = Instant::now();
                perch.signal("KILL");
                perch.wait();
                kills.push((from, Instant::now()));
            }
            perch = host.start();
        }
        sleep(Duration::from_secs(1));
        crowd.over.store(true, Ordering::Relaxed);
    });

    let asked = crowd.asked.lock().unwrap().clone();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && asked.iter().any(|(channel, ids)| host.answered(channel).len() < ids.len()) {
        sleep(Duration::from_millis(20));
    }
    perch.signal("TERM");
    assert_eq!(perch.wait().code(), Some(0), "{}", host.log());
    for (channel, ids) in &asked {
        let answered = host.answered(channel);
        assert_eq!(&answered, ids, "in #{channel}: {} asked, {} answered", ids.len(), answered.len());
    }
    let counters = host.simulator.counters();
    let number: usize = asked.values().map(Vec::len).sum();
    let served = *crowd.served.lock().unwrap();
    println!(
        "{rounds} stops and {rounds} kills: {number} mentions answered once, {served} requests; {} RESUMEs, {} events \
         replayed, {} nonces met again",
        counters.resumes, counters.replayed, counters.nonce_deduplicated
    );
    assert_eq!((counters.identifies, counters.violation_count), (1, 0), "{:?}", counters.violations);
    // What Discord was working on while perch was killed, and nothing else.
    let in_hand = u64::from(rounds) * CHANNELS.len() as u64;
    assert!(counters.nonce_deduplicated <= in_hand, "{}", counters.nonce_deduplicated);
    for (from, to, what) in crowd.failed.lock().unwrap().iter() {
        let killed = kills.iter().any(|(began, ended)| from <= ended && began <= to);
        assert!(killed && !what.starts_with("connecting"), "a request failed: {what}");
    }
    assert!(served > 100, "{served}");
}

fn session_count(host: &Host) -> usize {
    let ready = |connection: &&Value| connection["phase"] == "ready";
    host.simulator.state()["gateway"]["connections"].as_array().unwrap().iter().filter(ready).count()
}
