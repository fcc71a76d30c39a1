//! `perch dev` as a person uses it: both pages in a real browser, and the file that it names.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::support::perch::{PATIENCE, clean_command, free_port};

/// `perch dev`, ended when this is dropped.
struct Dev {
    child: Child,
    directory: tempfile::TempDir,
    chat: String,
    simulator: String,
}

impl Dev {
    fn start() -> Dev {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mine.toml");
        let port = free_port();
        std::fs::write(&file, format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[discord]\ntoken = {{ env = \"T\" }}\n"))
            .unwrap();
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
        let (chat, simulator) = (address("chat page"), address("simulator page"));
        Dev { child, directory, chat, simulator }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// Does on `page` what `script` does, in a browser.
    #[track_caller]
    fn browse(&self, script: &str, page: &str) {
        let output = Command::new("node")
            .arg(installed().join(script))
            .arg(page)
            .args(["--screenshots"])
            .arg(installed().join("screenshots"))
            .output()
            .expect("node is installed by tests/run");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}\nperch: {}", self.log());
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

#[test]
fn a_person_chats_on_the_chat_page() {
    let dev = Dev::start();
    dev.browse("chat.mjs", &dev.chat);
}

#[test]
fn a_person_writes_to_the_bot_on_the_simulators_page() {
    let dev = Dev::start();
    dev.browse("simulator.mjs", &dev.simulator);
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
    let sent = Command::new("kill").args(["-s", "INT", &dev.child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(dev.child.wait().unwrap().code(), Some(0), "{}", dev.log());
}
