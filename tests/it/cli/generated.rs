//! Completions and the manual page, which are made of the verbs.

use std::io::Write;
use std::process::{Command, Stdio};

use super::super::support::namespace::has;
use super::super::support::perch::{clean_command, perch};

/// Every verb that people are shown.
const VERBS: [&str; 9] = ["run", "dev", "check", "status", "reload", "people", "completions", "man", "help"];

#[test]
fn completions_know_every_verb_and_load() {
    for shell in ["bash", "zsh", "fish"] {
        let output = perch(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = String::from_utf8(output.stdout).unwrap();
        for verb in VERBS.iter().chain(&["--config", "--runtime-dir"]) {
            let known = script.contains(verb) || script.contains(&format!("-l {}", verb.trim_start_matches('-')));
            assert!(known, "{shell} does not know {verb}");
        }
        if has(shell) {
            let flag = if shell == "fish" { "--no-execute" } else { "-n" };
            let mut shell = Command::new(shell).arg(flag).stdin(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
        }
    }
    // What somebody gets who types `perch st` and presses tab.
    let script = String::from_utf8(perch(&["completions", "bash"]).stdout).unwrap();
    let typed = "\nCOMP_WORDS=(perch st) COMP_CWORD=1; _perch perch st perch; echo \"${COMPREPLY[@]}\"\n";
    let output = Command::new("bash").arg("-c").arg(script + typed).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "status", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_manual_page_renders_without_a_warning_and_has_every_verb() {
    let page = perch(&["man"]).stdout;
    let render = |program: &str, arguments: &[&str]| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "100")
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let copy = page.clone();
        let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program}");
        String::from_utf8(output.stdout).unwrap()
    };
    if has("mandoc") {
        // Its warnings are about a date that the page does not have, and spacing.
        render("mandoc", &["-T", "lint", "-W", "error"]);
    }
    if has("groff") {
        render("groff", &["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3", "-z"]);
    }
    if has("man") {
        let text = render("man", &["-l", "-"]);
        for verb in VERBS.iter().filter(|verb| **verb != "help") {
            assert!(text.contains(&format!("PERCH {}", verb.to_uppercase())), "{verb} is not in the page:\n{text}");
        }
        assert!(!text.contains("discord-address") && !text.contains("perch sim"), "{text}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = clean_command().arg("man").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
