//! The command line as people and other programs use it.

use std::process::Output;

mod check;
mod generated;
mod help;
mod status;

/// Both outputs and the exit code, as somebody at a terminal sees them.
fn session(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!("{}{}exit {}", text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
}
