//! What the gateway answers to a client that breaks its rules, and to faults.

use std::time::Duration;

use serde_json::{Value, json};

use super::socket::{Heard, Socket, identify};
use super::{order, simulator};
use crate::sim::{DEFAULT_TOKEN, Options, Settings, Simulator};

/// IDENTIFY with one field changed.
fn identify_with(field: &str, value: Value) -> Value {
    let mut payload = identify();
    payload["d"][field] = value;
    payload
}

#[tokio::test]
async fn broken_rules_close_with_their_codes() {
    let simulator = simulator().await;
    for (payload, code) in [
        (json!({ "op": 99, "d": null }), 4001),
        (json!({ "op": 0, "d": null }), 4001),
        (json!({ "d": null }), 4002),
        (json!({ "op": 2, "d": { "token": DEFAULT_TOKEN } }), 4002),
        (json!({ "op": 1, "d": "x".repeat(4096) }), 4002),
        (json!({ "op": 3, "d": {} }), 4003),
        (json!({ "op": 8, "d": {} }), 4003),
        (identify_with("token", json!("wrong")), 4004),
        (json!({ "op": 6, "d": { "token": "wrong", "session_id": "x", "seq": 1 } }), 4004),
        (identify_with("shard", json!([1, 1])), 4010),
        (identify_with("intents", json!(1 << 30)), 4013),
        (identify_with("intents", json!(1 << 15)), 4014),
    ] {
        let mut socket = Socket::open(&simulator).await;
        socket.say(payload.clone()).await;
        assert_eq!(socket.end().await, Heard::Closed(code), "{payload}");
    }
    let mut socket = Socket::open(&simulator).await;
    socket.frame(2, b"\x83l").await;
    assert_eq!(socket.end().await, Heard::Closed(4002));
    let mut socket = Socket::open(&simulator).await;
    socket.frame(1, b"{ not json").await;
    assert_eq!(socket.end().await, Heard::Closed(4002));
    let mut old = Socket::connect(&simulator, "/gateway?v=9&encoding=json").await.unwrap();
    assert_eq!(old.end().await, Heard::Closed(4012));
    assert!(Socket::connect(&simulator, "/gateway?v=10&encoding=json&compress=zlib-stream").await.is_none());
    simulator.stop().await;
}

#[tokio::test]
async fn a_token_with_its_prefix_is_taken() {
    let simulator = simulator().await;
    let mut socket = Socket::open(&simulator).await;
    socket.say(identify_with("token", json!(format!("Bot {DEFAULT_TOKEN}")))).await;
    assert_eq!(socket.hear_op(0).await["t"], "READY");
    simulator.stop().await;
}

#[tokio::test]
async fn a_second_identify_closes_with_4005() {
    let simulator = simulator().await;
    let mut socket = Socket::identified(&simulator).await;
    socket.say(identify()).await;
    assert_eq!(socket.end().await, Heard::Closed(4005));
    simulator.stop().await;
}

#[tokio::test]
async fn too_many_payloads_close_with_4008() {
    let simulator = simulator().await;
    let mut socket = Socket::open(&simulator).await;
    for _ in 0..121 {
        socket.say(json!({ "op": 1, "d": null })).await;
    }
    assert_eq!(socket.end().await, Heard::Closed(4008));
    simulator.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_with_4009_and_must_identify_anew() {
    let options = Options {
        heartbeat_interval: Duration::from_millis(20),
        identify_spacing: Duration::ZERO,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let mut socket = Socket::identified(&simulator).await;
    assert_eq!(socket.end().await, Heard::Closed(4009));
    assert_eq!(simulator.state()["gateway"]["sessions"], json!([]));
    simulator.stop().await;
}

#[tokio::test]
async fn identifying_twice_in_five_seconds_is_an_invalid_session() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut first = Socket::identified(&simulator).await;
    first.hear_op(0).await;
    let mut second = Socket::identified(&simulator).await;
    assert_eq!(second.hear_op(9).await["d"], false);
    let counters = simulator.counters();
    assert!(counters.violations[0].what.contains("within 5 seconds"), "{:?}", counters.violations);
    simulator.stop().await;
}

#[tokio::test]
async fn spending_the_session_start_limit_resets_the_token() {
    let simulator = simulator().await;
    let mut first = Socket::identified(&simulator).await;
    first.hear_op(0).await;
    simulator.change(Settings { session_starts_remaining: Some(0), ..Settings::default() }).unwrap();
    let mut second = Socket::identified(&simulator).await;
    assert_eq!(second.end().await, Heard::Closed(4004));
    assert_eq!(first.end().await, Heard::Closed(4004));
    simulator.stop().await;
}

#[tokio::test]
async fn a_sequence_that_was_never_sent_closes_with_4007() {
    let simulator = simulator().await;
    let mut first = Socket::identified(&simulator).await;
    let session = first.hear_op(0).await["d"]["session_id"].clone();
    let mut second = Socket::connect(&simulator, "/gateway/resume?v=10&encoding=json").await.unwrap();
    second.say(json!({ "op": 6, "d": { "token": DEFAULT_TOKEN, "session_id": session, "seq": 500 } })).await;
    assert_eq!(second.end().await, Heard::Closed(4007));
    simulator.stop().await;
}

#[tokio::test]
async fn resuming_takes_the_session_from_a_connection_that_still_has_it() {
    let simulator = simulator().await;
    let mut first = Socket::identified(&simulator).await;
    let session = first.hear_op(0).await["d"]["session_id"].clone();
    let mut second = Socket::connect(&simulator, "/gateway?v=10&encoding=json").await.unwrap();
    second.say(json!({ "op": 6, "d": { "token": DEFAULT_TOKEN, "session_id": session, "seq": 1 } })).await;
    assert_eq!(second.hear_op(0).await["t"], "GUILD_CREATE");
    assert_eq!(second.hear_op(0).await["t"], "RESUMED");
    assert_eq!(first.end().await, Heard::Closed(4000));
    assert_eq!(simulator.counters().resumes_at_first_address, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn the_gateway_breaks_as_told() {
    let simulator = simulator().await;
    let set = |value| simulator.fault(order(value));

    set(json!({ "fault": "close", "code": 4000, "when": "connect", "times": 1 }));
    let mut socket = Socket::connect(&simulator, "/gateway?v=10").await.unwrap();
    assert_eq!(socket.hear().await, Heard::Closed(4000));

    set(json!({ "fault": "close", "code": 4014, "when": "identify", "times": 1 }));
    assert_eq!(Socket::identified(&simulator).await.end().await, Heard::Closed(4014));

    set(json!({ "fault": "invalid_session", "resumable": true, "when": "identify", "times": 1 }));
    assert_eq!(Socket::identified(&simulator).await.hear_op(9).await["d"], true);

    set(json!({ "fault": "slow_ready", "ms": 100, "times": 1 }));
    let mut slow = Socket::identified(&simulator).await;
    slow.say(json!({ "op": 1, "d": null })).await;
    assert!(matches!(slow.hear().await, Heard::Payload(ack) if ack["op"] == 11));
    assert_eq!(slow.hear_op(0).await["t"], "READY");

    set(json!({ "fault": "request_heartbeat" }));
    slow.hear_op(1).await;

    set(json!({ "fault": "refuse_connections", "times": 1 }));
    assert!(Socket::connect(&simulator, "/gateway?v=10").await.is_none());

    set(json!({ "fault": "gateway_off" }));
    assert_eq!(slow.end().await, Heard::Cut);
    assert!(Socket::connect(&simulator, "/gateway?v=10").await.is_none());
    simulator.clear_faults();
    Socket::open(&simulator).await;
    simulator.stop().await;
}
