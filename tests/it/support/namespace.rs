//! A private view of the machine for one process: its own mounts, its own network.

use std::process::{Command, Stdio};

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

/// Whether a program is there to be run.
pub fn has(program: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !there {
        skip(&format!("there is no {program} on this machine"));
    }
    there
}

/// Says that a test could not be made, and why: to the terminal, past the test harness, which keeps what passes to
/// itself.
pub fn skip(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    drop(writeln!(std::io::stderr(), "skipped: {test}: {why}"));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
