//! Programs in Python, with the packages that `tests/venv` installs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The interpreter.
pub fn interpreter() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/venv");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("tests/venv can be run");
        assert!(output.status.success(), "tests/venv: {}", output.status);
        Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("python")
    })
}

/// One that a test needs, by its name.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// Runs one with this input, and returns what it prints.
#[track_caller]
pub fn run(name: &str, input: &[u8]) -> Vec<u8> {
    let output = output(name, input, Stdio::inherit());
    assert!(output.status.success(), "{name}: {}", output.status);
    output.stdout
}

/// Whether one ends well with this input.
pub fn accepts(name: &str, input: &[u8]) -> bool {
    output(name, input, Stdio::null()).status.success()
}

fn output(name: &str, input: &[u8], errors: Stdio) -> Output {
    let mut command = Command::new(interpreter());
    let command = command.arg(script(name)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().unwrap();
    child.stdin.take().expect("it is piped").write_all(input).unwrap();
    child.wait_with_output().unwrap()
}
