//! A real host: Debian 12 booted with perch's units, packages and user data. What is shown there, and how, is in
//! `tests/host`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::static_binary::release;
use super::support::namespace::skip;

/// What `tests/host/run` says where this machine can't do it.
const SKIPPED: i32 = 77;

#[test]
#[expect(clippy::print_stdout, reason = "a line a check, for whoever asks with --nocapture")]
fn a_booted_host_does_all_that_its_units_promise() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/run");
    let output = Command::new(run).env("PERCH_RELEASE", release()).stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(SKIPPED) => skip(said.lines().last().unwrap_or_default().trim_start_matches("skipped: ")),
        _ => panic!("{}: {said}", output.status),
    }
}
