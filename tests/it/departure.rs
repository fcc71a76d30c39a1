//! The host is to go: perch leaves its work to another one before it does, and takes it up again when the host stays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use perch::sim::Fault;
use serde_json::{Value, json};

use super::support::chat;
use super::support::exchange::{Response, exchange};
use super::support::host::Host;
use super::support::perch::{PATIENCE, Perch, Start, free_port, wait};
use super::support::socket::{Line, PING, Person};

/// From a notice to all that perch does about it. A load balancer needs its own time beside it.
const IN_TIME: Duration = Duration::from_secs(10);

fn ready(host: &Host) -> Response {
    exchange("GET", &format!("http://127.0.0.1:{}/ready", host.port), &[], b"")
}

/// A host whose perch serves both.
fn serving() -> (Host, Perch) {
    let host = Host::new();
    host.upload(host.config(&host.token()));
    let perch = host.perch().ready();
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
    assert_eq!(ready(&host).status, 200);
    (host, perch)
}

fn connections(host: &Host) -> usize {
    host.discord.simulator().state()["gateway"]["connections"].as_array().map_or(0, Vec::len)
}

/// Announces something and waits until perch has left its work; returns its status then.
#[track_caller]
fn leaves(host: &Host, perch: &Perch, announce: &Value) -> Value {
    let announced = Instant::now();
    host.cloud.metadata(announce);
    wait("/ready to say 503", || (ready(host).status == 503).then_some(()));
    assert!(announced.elapsed() < IN_TIME, "{announce}: {:?}", announced.elapsed());
    wait("the gateway's connection to end", || (connections(host) == 0).then_some(()));
    // After this code the session can be resumed; 1000 and 1001 would end it.
    let closed = host.discord.counters().closed_by_client;
    assert_eq!(closed.keys().copied().collect::<Vec<_>>(), [4000]);
    perch.wait_status("the bot to wait", |status| status["services"]["discord"]["state"] == "waiting")
}

/// What /ready says beside its 503, what the status says, and every warning.
fn said(host: &Host, perch: &Perch, status: &Value) -> String {
    let answer = ready(host);
    let warnings = perch.messages("WARN").join("\n");
    format!(
        "{}\n{}\n{}\n{warnings}",
        answer.text(),
        status["perch"]["departing"],
        status["services"]["discord"]["reason"]
    )
}

/// Withdraws it and waits until perch is back.
#[track_caller]
fn comes_back(host: &Host, perch: &Perch, withdraw: &Value) {
    host.cloud.metadata(withdraw);
    perch.wait_status("the bot again", |status| status["services"]["discord"]["state"] == "running");
    assert_eq!(ready(host).status, 200);
    assert_eq!(host.discord.ask("are you back?"), "are you back?");
    let status = perch.status();
    assert_eq!((&status["perch"]["departing"], &status["perch"]["ready"]), (&Value::Null, &json!(true)));
    let counters = host.discord.counters();
    assert_eq!((counters.identifies, counters.resumes), (1, 1), "the session goes on");
    let last = perch.messages("INFO");
    let back = "this host stays: what was announced of its end is withdrawn; perch is back at work";
    assert!(last.iter().any(|message| message == back), "{last:?}");
}

#[test]
fn a_spot_interruption_ends_the_session_so_that_the_next_start_resumes_it() {
    let (host, mut perch) = serving();
    let notice = r#"{"action": "terminate", "time": "2033-05-18T03:33:20Z"}"#;
    let status = leaves(&host, &perch, &json!({ "spot": notice }));
    insta::assert_snapshot!(said(&host, &perch, &status), @r#"
    {"ready":false,"reason":"EC2 terminates this spot instance at 2033-05-18T03:33:20Z"}
    {"at":2000000000,"notice":"spot_interruption","reason":"EC2 terminates this spot instance at 2033-05-18T03:33:20Z"}
    "EC2 terminates this spot instance at 2033-05-18T03:33:20Z"
    this host is to go: EC2 terminates this spot instance at 2033-05-18T03:33:20Z; /ready answers 503, requests are served while they come, and the bot leaves Discord with its session resumable
    "#);
    let line = perch.notified().into_iter().rev().find(|text| text.starts_with("STATUS=")).unwrap_or_default();
    assert!(line.contains("leaving: EC2 terminates this spot instance at 2033-05-18T03:33:20Z"), "{line}");
    let shown = String::from_utf8(perch.verb(&["status"]).stdout).unwrap();
    assert!(shown.contains("leaving   EC2 terminates this spot instance at 2033-05-18T03:33:20Z"), "{shown}");
    // Whoever still comes is served, and told to connect anew.
    let answer = chat::post(host.port, "still there?");
    assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
    assert_eq!(perch.stop().code(), Some(0));
    host.cloud.metadata(&json!({ "spot": null }));
    let perch = perch.again().ready();
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
    let counters = host.discord.counters();
    assert_eq!((counters.identifies, counters.resumes), (1, 1), "the session goes on");
    assert_eq!(host.discord.ask("who is there?"), "who is there?");
}

#[test]
fn auto_scaling_ends_the_instance_and_then_does_not() {
    let (host, perch) = serving();
    let status = leaves(&host, &perch, &json!({ "lifecycle": "Terminated" }));
    insta::assert_snapshot!(said(&host, &perch, &status), @r#"
    {"ready":false,"reason":"Auto Scaling terminates this instance once its lifecycle hooks are done (Terminated)"}
    {"at":null,"notice":"auto_scaling","reason":"Auto Scaling terminates this instance once its lifecycle hooks are done (Terminated)"}
    "Auto Scaling terminates this instance once its lifecycle hooks are done (Terminated)"
    this host is to go: Auto Scaling terminates this instance once its lifecycle hooks are done (Terminated); /ready answers 503, requests are served while they come, and the bot leaves Discord with its session resumable
    "#);
    comes_back(&host, &perch, &json!({ "lifecycle": "InService" }));
}

#[test]
fn a_rebalance_recommendation_is_followed_until_it_is_withdrawn() {
    let (host, perch) = serving();
    let status = leaves(&host, &perch, &json!({ "rebalance": r#"{"noticeTime": "2020-10-26T21:06:20Z"}"# }));
    insta::assert_snapshot!(said(&host, &perch, &status), @r#"
    {"ready":false,"reason":"EC2 recommends to replace this spot instance, which it may take back soon (since 2020-10-26T21:06:20Z)"}
    {"at":null,"notice":"rebalance","reason":"EC2 recommends to replace this spot instance, which it may take back soon (since 2020-10-26T21:06:20Z)"}
    "EC2 recommends to replace this spot instance, which it may take back soon (since 2020-10-26T21:06:20Z)"
    this host is to go: EC2 recommends to replace this spot instance, which it may take back soon (since 2020-10-26T21:06:20Z); /ready answers 503, requests are served while they come, and the bot leaves Discord with its session resumable
    "#);
    // No answer is no withdrawal.
    host.cloud.metadata(&json!({ "mode": "deny" }));
    asked_again(&host, 4);
    assert_eq!(ready(&host).status, 503);
    comes_back(&host, &perch, &json!({ "mode": "ok", "rebalance": null }));
}

#[test]
fn what_was_asked_before_the_notice_is_answered() {
    let (host, perch) = serving();
    let delay = Duration::from_secs(7);
    let slow = Fault::RestDelay { route: Some("POST /channels/".to_owned()), ms: delay.as_secs() * 1_000 };
    host.discord.simulator().fault(slow);
    let requests = host.discord.counters().rest_requests;
    let mut client = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| host.discord.ask("before you go"));
        wait("the answer to be on its way", || (host.discord.counters().rest_requests > requests).then_some(()));
        leaves(&host, &perch, &json!({ "lifecycle": "Terminated" }));
        assert_eq!(asked.join().unwrap(), "before you go");
    });
    client.write_all(br#"{"message":"half"}"#).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains(r#""reply":"half""#), "{answer}");
    let counters = host.discord.counters();
    assert_eq!((counters.messages_created, counters.nonce_deduplicated), (1, 0));
}

#[test]
fn people_in_rooms_are_told_to_come_back_elsewhere_when_the_host_is_to_go() {
    let (host, perch) = serving();
    let (mut one, mut other) = (Person::connect(host.port), Person::connect(host.port));
    one.join("here", None);
    other.join("here", None);
    let last = one.say("here", "are we safe here?")["id"].as_u64();
    assert_eq!(other.frame_of("message")["text"], "are we safe here?");
    leaves(&host, &perch, &json!({ "spot": r#"{"action": "terminate", "time": "2033-05-18T03:33:20Z"}"# }));
    // Somebody who finds no other host is served, and not sent away again and again.
    let mut stranded = Line::open(host.port);
    let told = (1012, "this host is to go; connect again, and another may answer".to_owned());
    assert_eq!([one.farewell(), other.farewell()], [told.clone(), told]);
    let port = free_port();
    let _another = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let mut one = Person::connect(port);
    assert_eq!(one.join("here", last)["incomplete"], true, "another host knows nothing of it");
    assert!(one.say("here", "here we are")["id"].as_u64() > last);
    assert_eq!(stranded.next().map(|(opcode, _)| opcode), Some(PING), "its time has come, and it stays");
    stranded.send_frame(&json!({ "type": "join", "room": "here" }));
    assert_eq!(stranded.frame_of("joined")["history"][0]["text"], "are we safe here?");
}

#[test]
fn a_version_on_trial_is_not_to_blame_for_the_notice() {
    let (host, perch) = serving();
    let token = host.token();
    let version = host.upload(host.config(&token).replace("poll = \"1s\"", "poll = \"1s\"\nbake = \"9s\""));
    perch.wait_version(&version);
    let status = leaves(&host, &perch, &json!({ "spot": r#"{"action": "stop", "time": "2033-05-18T03:33:20Z"}"# }));
    assert_eq!(status["config"]["state"], "baking", "{status:#}");
    let status = perch.wait_status("the end of the trial", |status| status["config"]["state"] == "live");
    assert_eq!((&status["config"]["version"], &status["config"]["refused"]), (&json!(version), &Value::Null));
}

#[test]
fn who_does_not_want_to_know_is_not_sent_away() {
    let (host, perch) = serving();
    leaves(&host, &perch, &json!({ "lifecycle": "Terminated" }));
    host.upload(host.config(&host.token()) + "\n[run]\ndeparture = false\n");
    perch.wait_status("the bot again", |status| status["services"]["discord"]["state"] == "running");
    assert_eq!(ready(&host).status, 200);
}

#[test]
fn where_there_is_no_metadata_service_nothing_is_said_of_it() {
    let host = Host::new();
    host.upload(host.http_config());
    let keys = [
        ("AWS_ACCESS_KEY_ID", "TESTACCESSKEY"),
        ("AWS_SECRET_ACCESS_KEY", "this-secret-access-key-opens-nothing"),
        // Nobody listens there.
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
    ];
    let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let perch = host.perch().env(keys).ready();
    host.cloud.forget_requests();
    wait("looks at the bucket", || (host.cloud.requests().len() > 5).then_some(()));
    assert_eq!(ready(&host).status, 200);
    assert_eq!((perch.messages("WARN"), perch.messages("ERROR")), (vec![], vec![]));
}

#[test]
fn a_perch_that_asks_nothing_of_aws_does_not_ask_for_announcements() {
    let host = Host::new();
    let disabled = ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned());
    let keys = [("AWS_ACCESS_KEY_ID", "TESTACCESSKEY"), ("AWS_SECRET_ACCESS_KEY", "this-opens-nothing-at-all")];
    let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned()));
    host.upload(host.http_config());
    let text = host.http_config().replace(&host.port.to_string(), &free_port().to_string());
    let switched_off = host.perch().env(keys).env([disabled]).ready();
    let with_file = Start::with_text(&text).env(host.cloud.env()).ready();
    host.cloud.forget_requests();
    wait("looks at the bucket", || (host.cloud.requests().len() > 5).then_some(()));
    assert_eq!(host.cloud.metadata_questions(), 0);
    drop((switched_off, with_file));
}

/// Waits until the metadata service was asked this often more.
#[track_caller]
fn asked_again(host: &Host, times: u64) {
    let before = host.cloud.metadata_questions();
    wait("questions", || (host.cloud.metadata_questions() >= before + times).then_some(()));
}
