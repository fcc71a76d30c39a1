//! A start that can't have the newest version serves the last one that passed its trial.

use std::time::{Duration, Instant};

use serde_json::json;

use super::support::aws::Fault;
use super::support::chat;
use super::support::host::Host;
use super::support::perch::Perch;
use super::trial::{blessed, config, connected, wait_state};

/// What a start may take to serve the last good version, by the promise; the rest is for a busy machine.
const SERVED: Duration = Duration::from_secs(5 + 5);

/// Stops perch, makes `fault` of what it starts with, and starts it: the last good version is served in time. Afterwards
/// `mended`, and the newest is taken.
#[track_caller]
fn starts_on_the_last_good_version(host: &Host, mut perch: Perch, fault: impl Fn(), mended: impl Fn()) -> Perch {
    let good = perch.status()["config"]["version"].as_str().unwrap().to_owned();
    assert!(perch.stop().success());
    let newer = host.upload(config(host, &host.token(), "500ms"));
    fault();
    let begun = Instant::now();
    let perch = perch.again().ready();
    let took = begun.elapsed();
    let status = perch.status();
    assert!(took < SERVED, "{took:?}");
    assert_eq!((&status["config"]["version"], &status["config"]["state"]), (&json!(good), &json!("last good")));
    assert_eq!(chat::ask(host.port, "without AWS?"), "without AWS?");
    let warned =
        perch.messages("WARN").into_iter().find(|said| said.starts_with("serving the last good configuration"));
    assert!(warned.as_ref().is_some_and(|said| said.contains("was blessed") && said.contains(" ago: ")), "{warned:?}");
    mended();
    perch.wait_status("the newest version", |status| status["config"]["last_good"]["version"] == *newer);
    connected(&perch);
    perch
}

#[test]
fn a_start_without_aws_serves_the_last_good_version_and_catches_up() {
    let host = Host::new();
    let (mut perch, ..) = blessed(&host);
    let clear = || host.cloud.clear_faults();
    let denied = Fault::refuse(403, "AccessDenied", "Access Denied");
    for fault in [Fault::hang(), Fault::slow(10.0), denied.clone(), Fault::reset()] {
        perch = starts_on_the_last_good_version(&host, perch, || host.cloud.fault(&fault), clear);
    }
    perch = starts_on_the_last_good_version(&host, perch, || host.cloud.listen(false), || host.cloud.listen(true));
    let imds = |mode: &str| host.cloud.metadata(&json!({ "mode": mode }));
    for mode in ["deny", "hang"] {
        perch = starts_on_the_last_good_version(&host, perch, || imds(mode), || imds("ok"));
    }
    // All at once.
    let away = |away: bool| {
        host.cloud.listen(!away);
        imds(if away { "hang" } else { "ok" });
    };
    starts_on_the_last_good_version(&host, perch, || away(true), || away(false));
}

#[test]
fn a_start_without_secrets_manager_serves_http_and_lets_the_bot_wait() {
    let host = Host::new();
    let (mut perch, ..) = blessed(&host);
    let denied = Fault::refuse(400, "AccessDeniedException", "not you");
    for fault in [Fault::hang(), Fault::slow(10.0), denied, Fault::reset()] {
        host.cloud.fault(fault.action("GetSecretValue"));
        let begun = Instant::now();
        perch = perch.again().ready();
        assert!(begun.elapsed() < SERVED, "{:?}", begun.elapsed());
        assert_eq!(chat::ask(host.port, "without secrets?"), "without secrets?");
        assert_eq!(perch.status()["services"]["discord"]["state"], "waiting");
        host.cloud.clear_faults();
        connected(&perch);
    }
}

#[test]
fn a_start_on_a_version_that_is_no_configuration_serves_the_last_good_one() {
    let host = Host::new();
    let (mut perch, token, good) = blessed(&host);
    assert!(perch.stop().success());
    let broken = host.upload("[http\n");
    let perch = perch.again().ready();
    let status = perch.status();
    assert_eq!((&status["config"]["version"], &status["config"]["state"]), (&json!(good), &json!("last good")));
    assert_eq!(status["config"]["refused"]["version"], broken.as_str());
    let mended = host.upload(config(&host, &token, "500ms"));
    perch.wait_version(&mended);
    wait_state(&perch, "live");
}

#[test]
fn a_start_on_a_version_that_can_not_be_prepared_serves_the_last_good_one() {
    let host = Host::new();
    let (mut perch, token, good) = blessed(&host);
    assert!(perch.stop().success());
    let squatter = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = squatter.local_addr().unwrap().to_string();
    let newer = host.upload(config(&host, &token, "500ms").replace(&format!("127.0.0.1:{}", host.port), &address));
    let perch = perch.again().ready();
    assert_eq!(perch.status()["config"]["version"], good.as_str());
    assert!(perch.messages("ERROR").iter().any(|said| said.contains("is taken by another process")));
    drop(squatter);
    let asked = perch.verb(&["reload"]);
    assert!(asked.status.success(), "{asked:?}{}", perch.log_text());
    perch.wait_version(&newer);
}
