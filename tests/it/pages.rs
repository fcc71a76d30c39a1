//! `perch dev` as a person uses it: both pages in a real browser, and the file that it names.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use super::support::chat::Guest;
use super::support::exchange::{Response, exchange};
use super::support::perch::{PATIENCE, Start, binary, clean_command, free_port, wait};

/// `perch dev`, ended when this is dropped.
struct Dev {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    simulator: String,
}

impl Dev {
    fn start() -> Dev {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mine.toml");
        let port = free_port();
        std::fs::write(&file, format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[discord]\ntoken = {{ env = \"T\" }}\n"))
            .unwrap();
        Dev::begin(directory, port)
    }

    fn begin(directory: tempfile::TempDir, port: u16) -> Dev {
        let file = directory.path().join("mine.toml");
        let mut child = clean_command()
            .args(["dev", file.to_str().unwrap(), "--state-dir"])
            .arg(directory.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut address = |label: &str| {
            let line = lines.find(|line| line.contains(label)).unwrap_or_else(|| panic!("{label} is not printed"));
            line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned()
        };
        address("chat page");
        let simulator = address("simulator page");
        Dev { child, directory, port, simulator }
    }

    /// Ends it as somebody at the terminal does, and starts it again.
    #[track_caller]
    fn again(mut self) -> Dev {
        self.interrupt();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        Dev::begin(directory, self.port)
    }

    #[track_caller]
    fn interrupt(&mut self) {
        let sent = Command::new("kill").args(["-s", "INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Already gone where the test ended it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where the browser tests are with what drives the browser.
fn installed() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new(root.join("tests/pages/install")).status().expect("the script is there");
    assert!(status.success(), "tests/pages/install failed");
    root.join("target/pages")
}

/// Runs a browser test, and returns what it printed.
fn browse(script: &str, arguments: &[&str]) -> Output {
    let directory = installed();
    let mut node = Command::new("node");
    node.arg(directory.join(script)).args(arguments).arg("--screenshots").arg(directory.join("screenshots"));
    node.output().expect("node is installed by tests/run")
}

/// Tells the stories of a file, each in a browser of its own person, with a perch and a model that the file starts.
#[track_caller]
fn tell(stories: &str) {
    let output = browse(stories, &["--perch", binary().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(": ok"), "no story was told: {said}");
}

#[test]
fn a_person_chats_on_the_chat_page() {
    tell("chat.mjs");
}

#[test]
fn a_person_reads_markdown_as_it_comes() {
    tell("markdown.mjs");
}

#[test]
fn a_person_sends_files() {
    tell("files.mjs");
}

#[test]
fn a_person_signs_in() {
    tell("sign-in.mjs");
}

#[test]
fn everybody_can_use_the_chat_page() {
    tell("access.mjs");
}

#[test]
fn what_people_and_models_write_stays_text() {
    tell("hostile.mjs");
}

#[test]
fn a_person_writes_to_the_bot_on_the_simulators_page() {
    let dev = Dev::start();
    let output = browse("simulator.mjs", &[&dev.simulator]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\nperch: {}", dev.log());
}

#[test]
fn a_browser_asks_for_each_part_of_the_page_once() {
    let port = free_port();
    let _perch = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let get = |path: &str, headers: &[(&str, &str)]| -> Response {
        exchange("GET", &format!("http://127.0.0.1:{port}{path}"), headers, b"")
    };
    let page = get("/", &[("Cookie", "perch=0123456789abcdef0123456789abcdef")]);
    assert_eq!(page.status, 200);
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("content-encoding"), None);
    let text = page.text();
    let script = text.split('"').find(|part| part.ends_with("/chat.js")).expect("the page has a script");

    let plain = get(script, &[]);
    assert_eq!(plain.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(plain.header("content-type"), Some("text/javascript; charset=utf-8"));
    let compressed = get(script, &[("Accept-Encoding", "gzip, br")]);
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    assert_eq!(compressed.header("vary"), Some("accept-encoding"));
    assert!(compressed.body.len() * 2 < plain.body.len(), "{} of {}", compressed.body.len(), plain.body.len());

    let tags = [plain, compressed].map(|answer| answer.header("etag").expect("a tag").to_owned());
    assert_ne!(tags[0], tags[1], "a strong tag belongs to one form");
    for (tag, accept) in tags.iter().zip(["identity", "gzip"]) {
        assert!(tag.starts_with('"'), "{tag}");
        let again = get(script, &[("If-None-Match", tag), ("Accept-Encoding", accept)]);
        assert_eq!((again.status, again.body.len()), (304, 0));
        assert_eq!(again.header("etag"), Some(&**tag));
        assert_eq!(again.header("cache-control"), Some("public, max-age=31536000, immutable"));
    }
    let page_again = get("/", &[("If-None-Match", page.header("etag").expect("a tag"))]);
    assert_eq!(page_again.status, 304);

    // A document that is older than this perch gets what there is, but not for good.
    let older = get("/assets/0000000000000000/chat.js", &[]);
    assert_eq!((older.status, older.header("cache-control")), (200, Some("no-cache")));
    assert_eq!(get("/assets/0000000000000000/none.js", &[]).status, 404);
}

#[test]
fn an_edit_is_applied_the_terminal_says_so_and_ctrl_c_drains() {
    let mut dev = Dev::start();
    let file = dev.directory.path().join("mine.toml");
    let deadline = std::time::Instant::now() + PATIENCE;
    let until = |text: &str| {
        while !dev.log().contains(text) {
            assert!(std::time::Instant::now() < deadline, "waited in vain for {text:?}: {}", dev.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    until("connected to Discord");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}[log]\nlevel = \"debug\"\n")).unwrap();
    until("log.level: info → debug");
    dev.interrupt();
}

#[test]
fn what_was_said_is_still_there_when_it_is_started_again() {
    let dev = Dev::start();
    let guest = Guest::new(dev.port);
    wait("the chat", || TcpStream::connect(("127.0.0.1", dev.port)).ok());
    assert_eq!(guest.say(&json!({ "message": "hello" })).status, 200);
    let dev = dev.again();
    wait("the chat", || TcpStream::connect(("127.0.0.1", dev.port)).ok());
    let kept = || guest.request("GET", "/api/conversations", &[], b"").text();
    wait("what was said", || kept().contains(r#""title":"hello""#).then_some(()));
}
