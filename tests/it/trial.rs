//! A new version is on trial: what does harm is undone.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use perch::chat::{Ask, Deltas, Failure, Responder};
use perch::config::Config;
use perch::service::{Context, Live, Next, Part, Problem, Service, State};
use perch::sim;
use serde_json::{Value, json};

use super::support::discord::Discord;
use super::support::host::Host;
use super::support::perch::{Perch, Start, free_port, wait};
use super::support::upstream::{self, Upstream};
use super::support::{chat, child, namespace};

/// A configuration of `host` with its trials this long.
pub fn config(host: &Host, token: &str, bake: &str) -> String {
    host.config(token).replace("[reload]\n", &format!("[reload]\nbake = \"{bake}\"\n"))
}

#[track_caller]
pub fn wait_state(perch: &Perch, state: &str) -> Value {
    perch.wait_status(&format!("a configuration that is {state}"), |status| status["config"]["state"] == state)
}

/// perch with both services, on a version that has passed its trial; and the token and the version.
pub fn blessed(host: &Host) -> (Perch, String, String) {
    let token = host.token();
    let version = host.upload(config(host, &token, "500ms"));
    let perch = host.perch().ready();
    perch.wait_status("a blessed version", |status| status["config"]["last_good"]["version"] == version.as_str());
    (perch, token, version)
}

/// A configuration whose bot Discord closes with `code` as soon as it identifies.
fn harmful(host: &Host, token: &str, code: u16) -> (Discord, String) {
    let elsewhere = Discord::start();
    elsewhere.fault(&json!({"fault": "close", "code": code, "when": "identify"}));
    let text = config(host, token, "10s").replace(&host.discord.url(), &elsewhere.url());
    (elsewhere, text)
}

#[track_caller]
pub fn connected(perch: &Perch) {
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
}

#[test]
fn a_version_that_discord_closes_on_is_undone_and_stays_out_until_somebody_insists() {
    let host = Host::new();
    let (mut perch, token, good) = blessed(&host);
    let (_elsewhere, text) = harmful(&host, &token, 4014);
    let bad = host.upload(&text);
    let status = perch.wait_status("the undone version", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!((&status["config"]["version"], &status["config"]["refused"]["version"]), (&json!(good), &json!(bad)));
    let change = &status["changes"][0];
    assert_eq!((&change["outcome"], &change["to"]), (&json!("reverted"), &json!(bad)));
    assert!(change["reason"].as_str().unwrap().contains("4014"), "{change:#}");
    connected(&perch);
    assert_eq!(host.discord.ask("still there?"), "still there?");
    assert_eq!(host.discord.counters().identifies, 1, "the session of the good version goes on");
    let errors: Vec<_> = perch.messages("ERROR").into_iter().filter(|said| said.starts_with("version")).collect();
    assert!(matches!(&errors[..], [said] if said.contains(&bad) && said.contains(&good)), "{errors:?}");
    // Everything that came of it has one number.
    let id = change["id"].to_string();
    let of_it = perch.log().into_iter().filter(|entry| entry["PERCH_CHANGE"] == *id);
    let said: Vec<_> = of_it.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect();
    for part in ["new version applied", "parked", "is undone", "runs again"] {
        assert!(said.iter().any(|said| said.contains(part)), "{part}: {said:#?}");
    }
    let asked = perch.verb(&["reload"]);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stdout).contains("--force"), "{asked:?}");

    assert!(perch.stop().success());
    let perch = perch.again().ready();
    let status =
        perch.wait_status("the newest version, seen", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!(status["config"]["version"], good.as_str());
    assert_eq!(status["changes"][1]["outcome"], "reverted", "the history outlives the process: {status:#}");

    let forced = perch.verb(&["reload", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    let applied = String::from_utf8_lossy(&forced.stdout).into_owned();
    assert!(applied.contains(&bad) && applied.contains("watched for 10 s"), "{applied}");
    perch.wait_status("the version undone again", |status| status["config"]["version"] == good.as_str());

    let newer = host.upload(config(&host, &token, "500ms"));
    let status =
        perch.wait_status("a newer version", |status| status["config"]["last_good"]["version"] == newer.as_str());
    assert_eq!(status["config"]["refused"], Value::Null);
}

#[test]
fn an_intent_that_discord_does_not_grant_is_undone_within_a_second_and_costs_no_session() {
    let host = Host::new();
    let (perch, token, good) = blessed(&host);
    let asks_more = config(&host, &token, "10s").replace("[discord]\n", "[discord]\nintents = [\"message_content\"]\n");
    host.upload(&asks_more);
    let status = perch.wait_status("the undone version", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!(status["config"]["version"], good.as_str());
    assert_eq!(status["changes"][0]["steps"][0], "discord.intents: none → message_content (new Discord session)");
    assert!(
        status["changes"][0]["reason"].as_str().unwrap().contains("discord.intents: message_content"),
        "{status:#}"
    );
    let at = |part: &str| {
        let entry =
            perch.log().into_iter().find(|entry| entry["message"].as_str().is_some_and(|said| said.contains(part)));
        let time = entry.unwrap_or_else(|| panic!("{part}: {}", perch.log_text()))["time"].as_str().unwrap().to_owned();
        // Hours go by outside of this test.
        let [minutes, seconds] = [14..16, 17..23].map(|range| time[range].parse::<f64>().unwrap());
        minutes * 60.0 + seconds
    };
    let took = (at("runs again") - at("parked until a person acts")).rem_euclid(3_600.0);
    assert!(took < 1.0 + 3.0, "from the verdict to the old version it took {took} s");
    connected(&perch);
    assert_eq!(host.discord.ask("still there?"), "still there?");
    let counters = host.discord.counters();
    assert_eq!((counters.identifies, counters.resumes), (2, 1), "the old session is resumed");
}

#[test]
fn a_model_that_the_upstream_does_not_have_is_undone_when_it_is_asked() {
    let upstream = Upstream::start();
    let port = free_port();
    let config = |model: &str| {
        let chat = format!("[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \"{model}\"\n", upstream.url());
        format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[reload]\nbake = \"500ms\"\n{chat}")
    };
    let perch = Start::with_text(&config(upstream::MODEL)).ready();
    let good = perch.wait_status("a blessed version", |status| status["config"]["last_good"].is_object());
    std::fs::write(perch.config_path(), config("parrot-9").replace("500ms", "30s")).unwrap();
    perch.wait_status("the trial", |status| status["config"]["state"] == "baking");
    upstream.fault(upstream::Fault::Refuse(404, "", json!({"error": {"message": "no such model"}})));
    assert_eq!(chat::post(port, "who are you?").status, 502);
    let status = perch.wait_status("the undone version", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!(status["config"]["version"], good["config"]["version"]);
    assert!(status["changes"][0]["reason"].as_str().unwrap().starts_with("chat: "), "{status:#}");
    assert_eq!(chat::ask(port, "and you?"), "You said: and you?");
}

#[test]
fn a_listener_that_stops_answering_its_own_probe_is_left_for_the_old_one() {
    let Some(words) = namespace::unshare(&["--net"]).filter(|_| namespace::has("ip") && namespace::has("nsenter"))
    else {
        return;
    };
    let config =
        |address: &str, bake: &str| format!("[reload]\nbake = \"{bake}\"\n[http]\nlisten = \"{address}:8080\"\n");
    let set_up = "ip link set lo up && ip address add 192.0.2.7/32 dev lo && exec \"$@\"";
    let start = Start::with_text(&config("127.0.0.1", "500ms")).through(["sh", "-c", set_up, "sh"]).through(words);
    let perch = start.ready();
    let good = perch.wait_status("a blessed version", |status| status["config"]["last_good"].is_object());
    std::fs::write(perch.config_path(), config("192.0.2.7", "1m")).unwrap();
    perch.wait_status("the trial", |status| status["config"]["state"] == "baking");
    // The address goes, and with it the way to the listener.
    let mut enter = Command::new("nsenter");
    enter.args(["-t", &perch.pid().to_string(), "-n"]);
    if !rustix::process::geteuid().is_root() {
        enter.args(["-U", "--preserve-credentials"]);
    }
    assert!(enter.args(["ip", "address", "del", "192.0.2.7/32", "dev", "lo"]).status().unwrap().success());
    let status = perch.wait_status("the undone version", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!(status["config"]["version"], good["config"]["version"]);
    assert_eq!(status["http"]["listeners"], json!(["127.0.0.1:8080"]));
    let reason = status["changes"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("http: 192.0.2.7:8080 does not answer perch's own probe"), "{reason}");
}

/// A bot that falls over.
struct Sick;

#[async_trait]
impl Service for Sick {
    fn name(&self) -> &'static str {
        "discord"
    }

    fn wanted(&self, config: &Config) -> bool {
        config.discord.is_some()
    }

    async fn prepare(&self, _: &Next<'_>, _: Option<&Live>) -> Result<Part, Vec<Problem>> {
        Ok(Arc::new(()))
    }

    async fn run(&self, context: Context) -> anyhow::Result<()> {
        context.reporter.state(State::Running, "");
        tokio::time::sleep(Duration::from_millis(100)).await;
        panic!("out of breath");
    }
}

struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Ok(ask.message.to_owned())
    }
}

#[test]
#[ignore = "a daemon for the test below"]
fn a_daemon_with_a_sick_bot() {
    child::run(Echo, || vec![Arc::new(Sick)]);
}

#[test]
fn a_version_whose_service_panics_is_undone() {
    let port = free_port();
    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[reload]\nbake = \"500ms\"\n");
    let perch = Start::child("trial::a_daemon_with_a_sick_bot", &http).ready();
    perch.wait_status("a blessed version", |status| status["config"]["last_good"].is_object());
    std::fs::write(perch.config_path(), format!("{http}[discord]\ntoken = {{ env = \"HOME\" }}\n")).unwrap();
    // The bot goes a moment after the version is put away.
    let status = perch.wait_status("the undone version", |status| {
        status["config"]["refused"]["quarantined"] == true && status["services"]["discord"] == Value::Null
    });
    let reason = status["changes"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("discord: it panicked: out of breath"), "{reason}");
    assert_eq!(chat::ask(port, "well?"), "well?");
}

#[test]
fn perch_killed_during_a_trial_comes_back_on_the_last_good_version() {
    let host = Host::new();
    let (perch, token, good) = blessed(&host);
    let bad = host.upload(config(&host, &token, "5m"));
    perch.wait_status("the trial", |status| {
        status["config"]["state"] == "baking" && status["config"]["version"] == *bad
    });
    let perch = perch.again().ready();
    let status = perch.wait_status("the good version", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!((&status["config"]["version"], &status["config"]["state"]), (&json!(good), &json!("last good")));
    let errors = perch.messages("ERROR");
    let said = format!("version {bad} is undone: perch ended without being stopped while this version was on trial");
    assert_eq!(errors, [said]);
}

#[test]
fn perch_stopped_during_a_trial_goes_on_with_it() {
    let host = Host::new();
    let (mut perch, token, good) = blessed(&host);
    let new = host.upload(config(&host, &token, "3s"));
    perch.wait_status("the trial", |status| {
        status["config"]["state"] == "baking" && status["config"]["version"] == *new
    });
    assert!(perch.stop().success());
    let perch = perch.again().ready();
    let status = perch.wait_version(&new);
    assert_eq!(
        (&status["config"]["state"], &status["config"]["last_good"]["version"]),
        (&json!("baking"), &json!(good))
    );
    perch.wait_status("its end", |status| status["config"]["last_good"]["version"] == *new);
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn an_outage_of_discord_makes_a_trial_longer_and_condemns_nothing() {
    let host = Host::new();
    let (perch, token, _) = blessed(&host);
    let elsewhere = Discord::start();
    elsewhere.fault(&json!({"fault": "gateway_off"}));
    let new = host.upload(config(&host, &token, "2s").replace(&host.discord.url(), &elsewhere.url()));
    perch.wait_version(&new);
    let begun = Instant::now();
    perch.wait_status("the end of the trial", |status| status["config"]["last_good"]["version"] == *new);
    assert!(begun.elapsed() > Duration::from_secs(4), "it took {:?}", begun.elapsed());
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn the_first_version_stays_although_it_is_unhealthy_and_says_so() {
    let host = Host::new();
    host.discord.fault(&json!({"fault": "close", "code": 4014, "when": "identify"}));
    let version = host.upload(config(&host, &host.token(), "1s"));
    let perch = host.perch().ready();
    let status = wait_state(&perch, "unhealthy");
    assert_eq!((&status["config"]["version"], &status["config"]["last_good"]), (&json!(version), &Value::Null));
    assert_eq!(chat::ask(host.port, "and you?"), "and you?");
    // What was wrong is mended on Discord's side.
    host.discord.clear_faults();
    assert!(perch.verb(&["reload"]).status.success());
    perch.wait_status("its blessing", |status| status["config"]["last_good"]["version"] == *version);
}

#[test]
fn the_history_tells_who_changed_what_and_how_long_each_step_took() {
    let host = Host::new();
    let (perch, token, first) = blessed(&host);
    let second =
        host.upload(config(&host, &token, "500ms") + &format!("\n[log]\nlevel = \"debug\"\n# {}\n", free_port()));
    assert!(perch.verb(&["reload"]).status.success());
    let broken = host.upload("[http\n");
    let history = wait("the refused version", || {
        let history: Value = serde_json::from_slice(&perch.verb(&["status", "--history", "--json"]).stdout).unwrap();
        (history[0]["to"] == broken.as_str()).then_some(history)
    });
    let newest = &history[0];
    assert_eq!((&newest["outcome"], &newest["from"]), (&json!("refused"), &json!(second)));
    assert_eq!(newest["by"], host.uri());
    let asked = &history[1];
    assert_eq!((&asked["outcome"], &asked["from"], &asked["to"]), (&json!("applied"), &json!(first), &json!(second)));
    assert_eq!(asked["by"], format!("user {} at the admin socket", rustix::process::geteuid().as_raw()));
    assert!(asked["look_ms"].as_u64() > Some(0) && asked["services_ms"]["http"].is_u64(), "{asked:#}");
    let start = &history[2];
    assert_eq!((&start["cause"], &start["from"]), (&json!("start"), &Value::Null));
    assert!(start["bake_ms"].as_u64() >= Some(500), "{start:#}");
    let shown = String::from_utf8(perch.verb(&["status", "--history"]).stdout).unwrap();
    for part in ["refused", &second, "log.level: info → debug", "at the admin socket", "watched"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let ids: Vec<_> = history.as_array().unwrap().iter().map(|change| change["id"].as_u64().unwrap()).collect();
    let again = perch.again().ready();
    let next = again.status()["changes"][0]["id"].as_u64().unwrap();
    assert!(ids.iter().all(|id| *id < next), "{ids:?}, {next}");
}

#[test]
fn a_bot_whose_token_is_refused_at_the_gateway_goes_back_to_the_token_that_works() {
    let host = Host::new();
    let (perch, token, good) = blessed(&host);
    let (_elsewhere, text) = harmful(&host, &token, 4004);
    let bad = host.upload(&text);
    let status = perch.wait_status("the undone version", |status| status["config"]["refused"]["quarantined"] == true);
    assert_eq!((&status["config"]["version"], &status["config"]["refused"]["version"]), (&json!(good), &json!(bad)));
    connected(&perch);
    assert!(!perch.log_text().contains(sim::DEFAULT_TOKEN));
}

#[test]
fn an_upload_during_a_trial_does_not_hide_what_the_one_before_it_broke() {
    let host = Host::new();
    let (perch, token, good) = blessed(&host);
    let asks_more = config(&host, &token, "6s").replace("[discord]\n", "[discord]\nintents = [\"message_content\"]\n");
    // Before Discord has closed on the first of them.
    host.discord.fault(&json!({"fault": "slow_ready", "ms": 500}));
    let first = host.upload(&asks_more);
    perch.wait_version(&first);
    let second = host.upload(asks_more + "# nothing but a comment\n");
    let status = perch.wait_status("the undone version", |status| {
        status["config"]["refused"]["quarantined"] == true && status["config"]["version"] == *good
    });
    let refused = &status["config"]["refused"]["version"];
    assert!(*refused == *first || *refused == *second, "{status:#}");
    // Whichever was undone, the newest is what stays out in the end.
    perch.wait_status("the newest version, undone", |status| {
        status["config"]["refused"]["version"] == *second && status["config"]["version"] == *good
    });
    connected(&perch);
}

#[test]
fn a_token_that_is_rotated_during_a_trial_condemns_nothing() {
    let host = Host::new();
    let (name, _) = host.cloud.create_secret("rotated", sim::DEFAULT_TOKEN);
    let token = format!("{{ secret = \"{name}\" }}");
    host.upload(config(&host, &token, "500ms"));
    let perch = host.perch().ready();
    perch.wait_status("a blessed version", |status| status["config"]["last_good"].is_object());
    let new = host.upload(config(&host, &token, "8s").replace("[discord]\n", "[discord]\ncatch_up = { total = 7 }\n"));
    perch.wait_version(&new);
    let connection = perch.status()["services"]["discord"]["since"].clone();
    perch.wait_status("a while of the trial", |status| status["config"]["state"] == "baking" && trial_age(status) >= 2);
    assert_eq!(perch.status()["services"]["discord"]["since"], connection);
    // As an operator rotates it: the new one is stored, then the old one is reset.
    host.discord.take_tokens(&["a.rotated.token", sim::DEFAULT_TOKEN]);
    host.cloud.put_secret(&name, "a.rotated.token");
    host.discord.take_tokens(&["a.rotated.token"]);
    let status = perch.wait_status("the end of the trial", |status| status["config"]["last_good"]["version"] == *new);
    assert_eq!(status["config"]["refused"], Value::Null);
    connected(&perch);
}

/// For how many seconds the version has been live.
fn trial_age(status: &Value) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    now - status["config"]["since"].as_u64().unwrap_or(now)
}

#[test]
fn going_back_to_an_address_that_is_taken_says_so_and_gets_it_once_it_is_free() {
    let host = Host::new();
    let (perch, token, good) = blessed(&host);
    let elsewhere = format!("127.0.0.1:{}", free_port());
    let (away, text) = harmful(&host, &token, 4014);
    away.clear_faults();
    host.upload(text.replace(&format!("127.0.0.1:{}", host.port), &elsewhere));
    perch.wait_status("the new address", |status| status["http"]["listeners"] == json!([elsewhere]));
    connected(&perch);
    let squatter = std::net::TcpListener::bind(("127.0.0.1", host.port)).unwrap();
    away.fault(&json!({"fault": "close", "code": 4014, "when": "now"}));
    let status = perch.wait_status("the good version", |status| status["config"]["version"] == good.as_str());
    assert_eq!(status["config"]["refused"]["quarantined"], true, "{status:#}");
    let status = perch.wait_status("HTTP to wait", |status| status["services"]["http"]["state"] == "waiting");
    assert!(
        status["services"]["http"]["reason"].as_str().unwrap().contains("is taken by another process"),
        "{status:#}"
    );
    assert!(perch.messages("WARN").iter().any(|said| said.starts_with("http is waiting")), "{}", perch.log_text());
    drop(squatter);
    perch.wait_status("HTTP", |status| status["services"]["http"]["state"] == "running");
    assert_eq!(chat::ask(host.port, "back again?"), "back again?");
    assert_eq!(perch.status()["config"]["refused"]["quarantined"], true);
}

#[test]
fn a_last_good_version_that_somebody_deleted_is_written_again() {
    let host = Host::new();
    let (mut perch, token, good) = blessed(&host);
    let state = perch.directory().join("state");
    std::fs::remove_dir_all(state.join("last-good")).unwrap();
    wait("last-good/", || state.join("last-good/version.json").exists().then_some(()));
    let (_elsewhere, text) = harmful(&host, &token, 4014);
    host.upload(&text);
    perch.wait_status("the undone version", |status| status["config"]["refused"]["quarantined"] == true);
    assert!(perch.stop().success());
    let perch = perch.again().ready();
    assert_eq!(perch.status()["config"]["version"], good.as_str());
}
