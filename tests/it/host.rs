//! A real host: Debian 12 booted with perch's units, packages and user data. What is shown there, and how, is in
//! `tests/host`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::static_binary::release;
use super::support::namespace::skip;

/// What `tests/host/run` says where this machine can't do it.
const SKIPPED: i32 = 77;

/// How it says that one of its checks can't be made.
const CHECK_SKIPPED: &str = "skipped ";

#[test]
#[expect(clippy::print_stdout, reason = "a line a check, for whoever asks with --nocapture")]
fn a_booted_host_does_all_that_its_units_promise() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/run");
    let output = Command::new(run).env("PERCH_RELEASE", release()).stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {
            println!("{said}");
            said.lines().filter_map(|line| line.strip_prefix(CHECK_SKIPPED)).for_each(|check| skip(check.trim_start()));
        }
        Some(SKIPPED) => skip(said.lines().last().unwrap_or_default().trim_start_matches("skipped: ")),
        _ => panic!("{}: {said}", output.status),
    }
}

#[test]
fn what_can_be_installed_and_is_not_fails_the_host_test_and_elsewhere_skips_it() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root is asked for tools");
    }
    let directory = tempfile::tempdir().unwrap();
    for program in ["bash", "dirname", "id"] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
        let found = found.iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(found, directory.path().join(program)).unwrap();
    }
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/run");
    for (tests, code) in [("all", 1), ("some", SKIPPED)] {
        let output = Command::new("/usr/bin/env")
            .arg(&run)
            .env_clear()
            .env("PATH", directory.path())
            .env("PERCH_TESTS", tests)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("there is no systemd-nspawn"), "{said}");
    }
}
