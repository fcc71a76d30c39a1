//! What perch tells systemd and takes from it, heard on a real notify socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use perch::chat::{Ask, Deltas, Failure, Responder};
use perch::config::Config;
use perch::service::{Context, Live, Next, Part, Problem, Service};
use perch::sim::{DEFAULT_TOKEN, Options, Simulator};

use super::support::child;
use super::support::exchange::exchange;
use super::support::host::Host;
use super::support::perch::{Perch, Start, free_port, wait};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn http(port: u16) -> String {
    format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")
}

fn chat(port: u16, message: &str) -> String {
    let body = format!("{{\"message\": \"{message}\"}}");
    let answer = exchange("POST", &format!("http://127.0.0.1:{port}/api/chat"), &[JSON], body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// What systemd heard, without the lines for people.
fn states(perch: &Perch) -> Vec<String> {
    let plain = |text: &String| !text.starts_with("STATUS=") && text != "WATCHDOG=1" && !text.starts_with("EXTEND_");
    perch.notified().into_iter().map(|text| text.trim_end().to_owned()).filter(plain).collect()
}

/// The line that `systemctl status` shows now, without what differs from run to run.
fn status_line(perch: &Perch) -> String {
    let notified = perch.notified();
    let line = notified.iter().rev().find_map(|text| text.trim_end().strip_prefix("STATUS=")).unwrap_or_default();
    let line = line.replace(perch.directory().to_str().unwrap(), "DIRECTORY");
    let hexadecimal = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    line.split_inclusive([' ', ';'])
        .map(|word| {
            let bare = word.trim_end_matches([' ', ';']);
            if hexadecimal(bare) { word.replace(bare, "VERSION") } else { word.to_owned() }
        })
        .collect()
}

#[test]
fn ready_comes_when_the_listeners_accept_whatever_discord_does() {
    let port = free_port();
    let nobody = free_port();
    let text =
        format!("{}[discord]\napi_url = \"http://127.0.0.1:{nobody}\"\ntoken = {{ env = \"TOKEN\" }}\n", http(port));
    let perch = Start::with_text(&text).env([("TOKEN".to_owned(), DEFAULT_TOKEN.to_owned())]).ready();
    // Not tried twice: whoever hears READY may connect.
    assert_eq!(exchange("GET", &format!("http://127.0.0.1:{port}/ready"), &[], b"").status, 200);
    assert_eq!(perch.status()["perch"]["ready"], true);
    assert_eq!(states(&perch), ["READY=1"]);
}

#[test]
fn while_there_is_no_configuration_the_start_takes_longer_and_says_why() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let environment = [
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT_URL", &nobody),
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_CONFIG_FILE", "/dev/null"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut perch = Start::new("s3://bucket/perch.toml").env(environment).start();
    perch.wait_notified("EXTEND_TIMEOUT_USEC=60000000");
    wait("the reason", || status_line(&perch).contains("refused").then_some(()));
    let line = status_line(&perch);
    assert!(line.starts_with("waiting for a configuration: s3://bucket/perch.toml "), "{line}");
    assert_eq!(states(&perch), [""; 0]);
    assert_eq!(perch.stop().code(), Some(0));
    assert_eq!(states(&perch), ["STOPPING=1"]);
}

/// Microseconds of CLOCK_MONOTONIC, which is what an `Instant` holds.
fn monotonic() -> u64 {
    let shown = format!("{:?}", Instant::now());
    let numbers: Vec<u64> = shown.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    numbers[0] * 1_000_000 + numbers[1] / 1_000
}

#[test]
fn a_reload_is_announced_with_its_time_and_ends_with_ready() {
    let port = free_port();
    let mut perch = Start::with_text(&http(port)).ready();
    let edit = |text: &str| std::fs::write(perch.config_path(), text).unwrap();
    let look = || perch.signal("HUP");
    let steps: [(&str, &dyn Fn()); 4] = [
        ("SIGHUP with nothing new", &look),
        ("an edit", &|| edit(&format!("{}max_body = \"1MiB\"\n", http(port)))),
        ("an edit that is refused only when it is tried", &|| edit("[http]\nlisten = \"192.0.2.1:8080\"\n")),
        ("perch reload", &|| assert_eq!(perch.verb(&["reload"]).status.code(), Some(1))),
    ];
    for (what, step) in steps {
        let (before, begin) = (states(&perch).len(), monotonic());
        step();
        let heard = wait(what, || {
            let heard = states(&perch)[before..].to_vec();
            heard.contains(&"READY=1".to_owned()).then_some(heard)
        });
        let end = monotonic();
        let [reloading, ready] = heard.as_slice() else { panic!("{what}: {heard:?}") };
        assert_eq!(ready, "READY=1", "{what}");
        let moment =
            reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{what}: {reloading}"));
        let moment: u64 = moment.parse().unwrap();
        assert!((begin..=end).contains(&moment), "{what}: {begin} {moment} {end}");
    }
    assert_eq!(perch.stop().code(), Some(0));
}

#[test]
fn status_lines_are_for_people_and_said_once() {
    let port = free_port();
    let mut perch = Start::with_text(&http(port)).ready();
    wait("the first line", || status_line(&perch).contains("running").then_some(()));
    insta::assert_snapshot!(status_line(&perch), @"configuration VERSION; http running");
    std::fs::write(perch.config_path(), "[http]\nlisten = 1\nport = 2\n").unwrap();
    wait("the refusal", || status_line(&perch).contains("refused").then_some(()));
    insta::assert_snapshot!(status_line(&perch), @"configuration VERSION; http running; newer version VERSION refused");
    std::fs::remove_file(perch.config_path()).unwrap();
    wait("the trouble", || status_line(&perch).contains("can't be read").then_some(()));
    insta::assert_snapshot!(status_line(&perch), @"configuration VERSION; http running; newer version VERSION refused; DIRECTORY/perch.toml can't be read");
    assert_eq!(perch.stop().code(), Some(0));
    insta::assert_snapshot!(status_line(&perch), @"draining: finishing what is in flight");
    let lines: Vec<_> = perch.notified().into_iter().filter(|text| text.starts_with("STATUS=")).collect();
    assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "{lines:#?}");
    assert!(lines.iter().all(|line| line.trim_end().lines().count() == 1), "{lines:#?}");
}

fn pings(perch: &Perch) -> usize {
    perch.notified().iter().filter(|text| text.trim_end() == "WATCHDOG=1").count()
}

fn watchdog(limit: Duration) -> [(String, String); 1] {
    [("WATCHDOG_USEC".to_owned(), limit.as_micros().to_string())]
}

#[test]
fn the_watchdog_hears_at_half_of_its_patience() {
    let perch = Start::with_text(&http(free_port())).env(watchdog(Duration::from_millis(400))).ready();
    let first = pings(&perch);
    let begin = Instant::now();
    wait("ten pings", || (pings(&perch) >= first + 10).then_some(()));
    let took = begin.elapsed();
    // Ten and no more than one of them was due at once; a busy machine may be late.
    assert!(took >= Duration::from_millis(200 * 9 - 100), "{took:?}");
    assert!(took <= Duration::from_millis(400 * 10), "{took:?}");
}

/// A service whose start holds up the supervisor's own loop, as a blocking call in it would.
struct Blocker(PathBuf);

#[async_trait]
impl Service for Blocker {
    /// The loop asks for it when it starts a service, and not in any other task once everything is prepared.
    fn name(&self) -> &'static str {
        while self.0.join("block").exists() {
            std::fs::write(self.0.join("stuck"), "").unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        "blocker"
    }

    fn wanted(&self, _: &Config) -> bool {
        true
    }

    async fn prepare(&self, _: &Next<'_>, _: Option<&Live>) -> Result<Part, Vec<Problem>> {
        Ok(Arc::new(()))
    }

    /// Fails, and so is started again by the loop.
    async fn run(&self, context: Context) -> anyhow::Result<()> {
        let failing = async {
            while !self.0.join("block").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = failing => anyhow::bail!("told to"),
            () = context.stop.cancelled() => Ok(()),
        }
    }
}

struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Ok(ask.message.to_owned())
    }
}

#[test]
#[ignore = "a daemon for the test below"]
fn blocked_daemon() {
    child::run(Echo, || vec![Arc::new(Blocker(child::directory().unwrap()))]);
}

#[test]
fn the_watchdog_hears_nothing_while_the_supervisors_loop_is_stuck() {
    const LIMIT: Duration = Duration::from_millis(200);
    let port = free_port();
    let mut perch = Start::child("systemd::blocked_daemon", &http(port)).env(watchdog(LIMIT)).ready();
    wait("pings", || (pings(&perch) > 3).then_some(()));
    std::fs::write(perch.directory().join("block"), "").unwrap();
    wait("the loop to be stuck", || perch.directory().join("stuck").exists().then_some(()));
    // One that was on its way.
    std::thread::sleep(LIMIT / 2);
    let before = pings(&perch);
    let begin = Instant::now();
    // The rest of perch is well, so that it is the loop that the watchdog watches, and no thread or process.
    while begin.elapsed() < 3 * LIMIT {
        chat(port, "hello");
        assert_eq!(perch.status()["services"]["http"]["state"], "running");
    }
    assert_eq!(pings(&perch), before);
    std::fs::remove_file(perch.directory().join("block")).unwrap();
    wait("pings again", || (pings(&perch) > before).then_some(()));
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
}

#[test]
fn another_processs_watchdog_is_left_alone() {
    let other = [("WATCHDOG_PID".to_owned(), "1".to_owned())];
    let perch = Start::with_text(&http(free_port())).env(watchdog(Duration::from_millis(20))).env(other).ready();
    let before = pings(&perch);
    perch.signal("HUP");
    wait("a reload", || (states(&perch).len() >= 3).then_some(()));
    assert!(pings(&perch) <= before + 1);
}

/// How one request went, told apart by whether perch took it on.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    Answered,
    /// Nobody listens.
    Refused,
    Broken(String),
}

/// Asks on `connection`, or on a new one, which is kept if perch keeps it.
fn ask(port: u16, connection: &mut Option<TcpStream>, message: &str) -> Went {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Went::Refused,
            Err(error) => return Went::Broken(format!("connecting: {error}")),
        },
    };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    match stream.write_all(&request(message)).and_then(|()| response(&mut stream)) {
        Ok((head, body)) => {
            if !head.starts_with("HTTP/1.1 200 ") || !body.contains(message) {
                return Went::Broken(format!("{head}{body}"));
            }
            if !head.to_ascii_lowercase().contains("connection: close") {
                *connection = Some(stream);
            }
            Went::Answered
        }
        Err(error) => Went::Broken(error.to_string()),
    }
}

fn request(message: &str) -> Vec<u8> {
    let body = format!("{{\"message\": \"{message}\"}}");
    let length = body.len();
    format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn response(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end + 4]).into_owned();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse().unwrap());
            if read.len() >= end + 4 + length {
                return Ok((head, String::from_utf8_lossy(&read[end + 4..]).into_owned()));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::Error::other(format!("ended after {} bytes", read.len()))),
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
}

/// A request that perch has begun to read and whose last bytes are still to come.
struct Slow(TcpStream);

impl Slow {
    fn begin(port: u16) -> Self {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = request("slowly");
        let text = String::from_utf8(request.clone()).unwrap().replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
        stream.write_all(&text.as_bytes()[..text.len() - 4]).unwrap();
        // Sent when the handler asks for the body: the request is in flight.
        let mut buffer = [0; 256];
        let count = stream.read(&mut buffer).unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&buffer[..count]));
        Slow(stream)
    }

    fn finish(mut self) -> String {
        self.0.write_all(b"ly\"}").unwrap();
        response(&mut self.0).map_or_else(|error| error.to_string(), |(head, _)| head)
    }
}

#[test]
fn sigterm_under_load_loses_no_request_and_keeps_the_discord_session() {
    const CLIENTS: usize = 20;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Three daemons in a row identify, and nothing here is about how long they wait with that.
    let options = Options { identify_spacing: Duration::from_millis(1), ..Options::default() };
    let simulator = runtime.block_on(Simulator::start(options)).unwrap();
    // As with a socket unit: what perch does not accept waits for the next one.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = format!("{}[discord]\napi_url = \"{}\"\ntoken = {{ env = \"TOKEN\" }}\n", http(port), simulator.url());
    let start = || {
        let token = [("TOKEN".to_owned(), DEFAULT_TOKEN.to_owned())];
        Start::with_text(&text).env(token).socket(&listener).ready()
    };
    let mut perch = start();
    perch.wait_status("a Discord session", |status| status["services"]["discord"]["state"] == "running");
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (done, answered) = (&done, &answered);
                scope.spawn(move || {
                    let mut kept = None;
                    while !done.load(Ordering::Relaxed) {
                        // Half of them connect anew for each request.
                        if number % 2 == 0 {
                            kept = None;
                        }
                        match ask(port, &mut kept, "hello") {
                            Went::Answered => answered.fetch_add(1, Ordering::Relaxed),
                            went => return went,
                        };
                    }
                    Went::Answered
                })
            })
            .collect();
        let much = |than: usize| wait("load", || (answered.load(Ordering::Relaxed) > than + 500).then_some(()));
        for round in 0..2 {
            much(answered.load(Ordering::Relaxed));
            let slow: Vec<_> = (0..4).map(|_| Slow::begin(port)).collect();
            let begin = Instant::now();
            perch.signal("TERM");
            perch.wait_notified("STOPPING=1");
            for slow in slow {
                assert!(slow.finish().starts_with("HTTP/1.1 200 "));
            }
            assert_eq!(perch.wait().code(), Some(0), "{}", perch.log_text());
            assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
            assert_eq!(*states(&perch), ["READY=1", "STOPPING=1"]);
            assert_eq!(perch.messages("ERROR"), [""; 0]);
            let state = simulator.state();
            assert_eq!(state["counters"]["closed_by_client"], serde_json::json!({"4000": round + 1}));
            assert_eq!(state["gateway"]["connections"], serde_json::json!([]));
            assert!(state["gateway"]["sessions"][0]["connection"].is_null(), "{state:#}");
            perch = start();
            perch.wait_status("a Discord session", |status| status["services"]["discord"]["state"] == "running");
        }
        much(answered.load(Ordering::Relaxed));
        done.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().unwrap(), Went::Answered);
        }
    });
    assert_eq!(perch.stop().code(), Some(0));
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let port = free_port();
    let mut perch = Start::with_text(&http(port)).ready();
    let slow = Slow::begin(port);
    perch.signal("TERM");
    perch.wait_notified("STOPPING=1");
    wait("the door to close", || (ask(port, &mut None, "too late") == Went::Refused).then_some(()));
    let begin = Instant::now();
    perch.signal("TERM");
    assert_eq!(perch.wait().code(), Some(143), "{}", perch.log_text());
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    insta::assert_snapshot!(perch.messages("WARN").join("\n"), @"a second signal: ending at once, with work unfinished");
    drop(slow);
}

#[test]
fn a_drain_that_misses_its_deadline_exits_1_and_says_so() {
    let port = free_port();
    let mut perch = Start::with_text(&format!("{}[run]\ndrain = \"1s\"\n", http(port))).ready();
    let slow = Slow::begin(port);
    let begin = Instant::now();
    perch.signal("TERM");
    assert_eq!(perch.wait().code(), Some(1), "{}", perch.log_text());
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    insta::assert_snapshot!(perch.messages("ERROR").join("\n"), @"the drain's deadline of 1 s passed with work unfinished");
    drop(slow);
}

#[test]
fn a_socket_from_systemd_is_served_with_what_waited_in_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut early = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    early.write_all(&request("early")).unwrap();
    let mut perch = Start::with_text(&http(port)).socket(&listener).ready();
    assert!(response(&mut early).unwrap().1.contains("early"));
    drop(early);
    // A version that leaves it leaves nobody in it without an answer, and one that comes back finds it again.
    let other = free_port();
    std::fs::write(perch.config_path(), http(other)).unwrap();
    perch.wait_status("the other port", |status| status["http"]["listeners"][0] == format!("127.0.0.1:{other}"));
    chat(other, "elsewhere");
    wait("the socket to be closed to people", || {
        let answer = exchange("GET", &format!("http://127.0.0.1:{port}/health"), &[], b"");
        (answer.status == 503).then_some(())
    });
    let warned = perch.messages("WARN").join("\n").replace(&port.to_string(), "PORT");
    insta::assert_snapshot!(warned, @"systemd opened 127.0.0.1:PORT, which the configuration does not listen on: whoever connects there is answered with 503");
    std::fs::write(perch.config_path(), http(port)).unwrap();
    perch.wait_status("the socket", |status| status["http"]["listeners"][0] == format!("127.0.0.1:{port}"));
    chat(port, "back");
    assert_eq!(perch.messages("ERROR"), [""; 0]);
    assert_eq!(perch.stop().code(), Some(0));
}

#[test]
fn whoever_knocks_at_a_socket_from_systemd_is_answered_before_there_is_a_configuration() {
    let host = Host::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host.port)).unwrap();
    let perch = host.perch().socket(&listener).start();
    let ask = |path: &str| exchange("GET", &format!("http://127.0.0.1:{}{path}", host.port), &[], b"");
    let waiting = ask("/ready");
    assert_eq!((waiting.status, ask("/health").status), (503, 200));
    let said = r#"{"ready":false,"reason":"perch has no configuration yet that serves HTTP"}"#;
    assert_eq!(waiting.text(), said);
    let version = host.upload(host.http_config());
    perch.wait_version(&version);
    assert_eq!(ask("/ready").status, 200);
    // And where the configuration asks for no HTTP.
    let version = host.upload(format!("[discord]\ntoken = {}\napi_url = \"{}\"\n", host.token(), host.discord.url()));
    perch.wait_version(&version);
    assert_eq!(wait("the socket to be left", || (ask("/ready").status == 503).then_some(503)), 503);
}

#[test]
fn a_socket_from_systemd_that_nobody_asked_for_stops_nothing_else() {
    let (unasked, port) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), free_port());
    let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    // As systemd hands it over: it blocks whoever accepts from it.
    let mut perch = Start::with_text(&config).socket(&unasked).ready();
    let ask = |port: u16| exchange("GET", &format!("http://127.0.0.1:{port}/ready"), &[], b"").status;
    for _ in 0..20 {
        assert_eq!((ask(unasked.local_addr().unwrap().port()), ask(port)), (503, 200));
    }
    let begun = Instant::now();
    assert!(perch.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
