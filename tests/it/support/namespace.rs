//! A private view of the machine for one process: its own mounts, its own network.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The words that run a command in namespaces of its own, `--mount` and `--net` say; as somebody who is not root, in a
/// user namespace where they are. `None`, with a line that says so, where this machine does not allow it.
pub fn unshare(kinds: &[&str]) -> Option<Vec<String>> {
    let mut words = vec!["unshare".to_owned()];
    if !is_root() {
        words.extend(["--user", "--map-root-user"].map(str::to_owned));
    }
    words.extend(kinds.iter().map(|kind| (*kind).to_owned()));
    let allowed = Command::new(&words[0]).args(&words[1..]).arg("true").stderr(Stdio::null()).status();
    if allowed.is_ok_and(|status| status.success()) {
        return Some(words);
    }
    skip(&format!("`{}` is not allowed on this machine", words.join(" ")));
    None
}

/// Mounts of one's own for several processes, one after the other. They go with this.
pub struct Mounts(Child);

impl Mounts {
    /// `None`, with a line that says so, for who is not root.
    pub fn new() -> Option<Self> {
        if !is_root() {
            skip("mounting takes root");
            return None;
        }
        let words = unshare(&["--mount"])?;
        // Holds the namespace until its input ends.
        let mut holder = Command::new(&words[0])
            .args(&words[1..])
            .args(["sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Some(Mounts(holder))
    }

    /// The words that run a command among these mounts.
    pub fn inside(&self) -> [String; 3] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.0.id()), "--".to_owned()]
    }

    /// Runs a command among these mounts.
    #[track_caller]
    pub fn run(&self, command: &[&str]) {
        let inside = self.inside();
        let status = Command::new(&inside[0]).args(&inside[1..]).args(command).status().unwrap();
        assert!(status.success(), "{command:?}: {status}");
    }

    /// Where `path` among these mounts is for everybody else.
    pub fn path(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.id(), path.to_str().unwrap()))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether a program is there to be run.
#[track_caller]
pub fn has(program: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !there {
        lack(&format!("there is no {program} on this machine"));
    }
    there
}

/// Says that a test could not be made for want of something that can be had. `tests/run` has it all: there it fails.
#[track_caller]
pub fn lack(why: &str) {
    assert!(std::env::var_os("PERCH_TESTS").is_none_or(|tests| tests != "all"), "{why}");
    skip(why);
}

/// Says that a test could not be made on this machine, and why: to the terminal, past the test harness, which keeps what
/// passes to itself. `.ci/run` counts these lines and says them again at its end.
pub fn skip(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    drop(writeln!(std::io::stderr(), "skipped: {test}: {why}"));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
