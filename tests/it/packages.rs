//! What brings perch onto a host, each tried by a script of `tests/packaging` on the release binary.

use std::path::Path;
use std::process::{Command, Stdio};

use super::support::namespace::skip;

/// What a script ends with where this machine can't do what it needs, after a line that says why.
const SKIPPED: i32 = 77;

#[track_caller]
fn passes(script: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packaging").join(script);
    let output = Command::new(&path).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(SKIPPED) => skip(said.lines().last().unwrap_or_default().trim_start_matches("skipped: ")),
        _ => panic!("tests/packaging/{script}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stdout)),
    }
}

#[test]
fn the_debian_package_is_installed_upgraded_and_purged() {
    passes("deb");
}

#[test]
fn the_rpm_is_installed_upgraded_and_erased() {
    passes("rpm");
}

#[test]
fn packages_for_the_other_machine_say_so() {
    passes("other-machine");
}

#[test]
fn packages_say_what_they_are_made_of() {
    passes("inventory");
}

#[test]
fn the_container_image_runs_read_only_and_says_how_it_is() {
    passes("container");
}

#[test]
fn user_data_brings_a_bare_host_to_a_running_perch() {
    passes("user-data");
}

#[test]
fn a_machine_image_keeps_nothing_of_the_instance_it_was() {
    passes("ami");
}

#[test]
fn the_way_to_the_first_reply_quotes_what_perch_prints_and_names_what_there_is() {
    passes("readme");
}
