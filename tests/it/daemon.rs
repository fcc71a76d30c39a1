//! The daemon on a file, as an operator uses it.

use super::support::perch::{Start, free_port};

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
