//! The daemon on a file, as an operator uses it.

use std::path::Path;
use std::process::Command;

use super::support::namespace::{has, skip};
use super::support::perch::{Start, binary, free_port};

#[test]
fn a_file_is_served_edited_and_drained() {
    let port = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut perch = Start::with_text(&text).ready();
    let first = perch.status();
    assert_eq!(first["services"]["http"]["state"], "running");
    std::fs::write(perch.config_path(), format!("{text}max_body = \"1MiB\"\n")).unwrap();
    let status = perch.wait_status("the edit", |status| status["config"]["version"] != first["config"]["version"]);
    assert_eq!(status["changes"][0]["steps"][0], "http.max_body: 65536 → 1048576");
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
}

#[test]
fn a_running_daemon_can_not_be_made_another_program() {
    if !has("cc") || !cfg!(target_arch = "x86_64") {
        return;
    }
    let port = free_port();
    let mut perch = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/exec_inside.c");
    let tool = perch.directory().join("exec_inside");
    let made = Command::new("cc").args(["-Wall", "-Wextra", "-o"]).arg(&tool).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tried = Command::new(&tool).arg(perch.pid().to_string()).arg(binary()).output().unwrap();
    if tried.status.code() == Some(126) {
        // Only root may trace a process that leaves no core dump.
        return skip(String::from_utf8_lossy(&tried.stderr).trim());
    }
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr));
    insta::assert_snapshot!(String::from_utf8(tried.stdout).unwrap(), @r"
    its own file: EPERM
    memory by its path: EPERM
    memory by its descriptor: EPERM
    ");
    // Nothing else is taken away.
    assert_eq!(perch.status()["services"]["http"]["state"], "running");
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
}
