//! What Prometheus reads at the admin socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::support::chat::{self, Stream};
use super::support::exchange::exchange;
use super::support::perch::{Perch, Start, free_port, wait};
use super::support::upstream::{Fault, MODEL, Then, Upstream, finish, piece};
use super::support::{python, raw};

/// The page as it comes.
pub fn page(perch: &Perch) -> String {
    let mut stream = UnixStream::connect(perch.runtime_dir().join("admin.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    page.to_owned()
}

/// The page as Prometheus' library reads it.
fn read(page: &str) -> Value {
    serde_json::from_slice(&python::run("read_metrics.py", page.as_bytes())).unwrap()
}

/// The number of this name with these labels.
#[track_caller]
fn number(families: &Value, family: &str, name: &str, labels: &Value) -> f64 {
    let samples = families[family]["samples"].as_array().unwrap_or_else(|| panic!("{family} is not there"));
    let fits = |sample: &&Value| sample[0] == name && sample[1] == *labels;
    let found = samples.iter().find(fits).unwrap_or_else(|| panic!("{name} {labels} is not in {samples:#?}"));
    found[2].as_f64().unwrap()
}

#[test]
#[expect(clippy::float_cmp, reason = "what is counted is whole")]
fn prometheus_reads_what_happened() {
    let port = free_port();
    let mut perch = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let get = |path: &str| exchange("GET", &format!("http://127.0.0.1:{port}{path}"), &[], b"").status;
    for _ in 0..3 {
        chat::ask(port, "hello");
    }
    assert_eq!((get("/health"), get("/nothing"), get("/nothing/\"else\"")), (200, 404, 404));
    assert_eq!(raw::statuses(&raw::send(port, b"nonsense\r\n\r\n")), [400]);
    let families = read(&page(&perch));
    let requests = |route: &str, class: &str| {
        number(
            &families,
            "perch_http_requests",
            "perch_http_requests_total",
            &json!({ "route": route, "class": class }),
        )
    };
    assert_eq!(requests("/api/chat", "2xx"), 3.0);
    assert_eq!(requests("/health", "2xx"), 1.0);
    assert_eq!(requests("other", "4xx"), 3.0, "no path of a client's choice is a label");
    let took = "perch_http_request_duration_seconds";
    assert_eq!(families[took]["type"], "histogram");
    let bucket =
        |bound: &str| number(&families, took, &format!("{took}_bucket"), &json!({ "route": "/api/chat", "le": bound }));
    assert_eq!(bucket("+Inf"), 3.0);
    assert!(bucket("0.00025") <= bucket("120"));
    assert_eq!(number(&families, took, &format!("{took}_count"), &json!({ "route": "/api/chat" })), 3.0);
    let one = |name: &str| number(&families, name, name, &json!({}));
    assert_eq!(one("perch_ready"), 1.0);
    assert!(one("process_resident_memory_bytes") > 1e6);
    assert!(one("process_start_time_seconds") > 1.7e9);
    let build = json!({ "version": env!("CARGO_PKG_VERSION") });
    assert_eq!(number(&families, "perch_build_info", "perch_build_info", &build), 1.0);
    let version = perch.status()["config"]["version"].clone();
    assert_eq!(number(&families, "perch_config_info", "perch_config_info", &json!({ "version": version })), 1.0);
    assert_eq!(number(&families, "perch_service_up", "perch_service_up", &json!({ "service": "http" })), 1.0);
    let missing = json!({ "reason": "missing" });
    assert_eq!(number(&families, "perch_sign_in_failures", "perch_sign_in_failures_total", &missing), 0.0);
    // Counters end in _total and have no unit but the base one (https://prometheus.io/docs/practices/naming/).
    for (name, family) in families.as_object().unwrap() {
        assert!(!family["help"].as_str().unwrap().is_empty() && family["type"] != "unknown", "{name}: {family}");
        assert!(!["_ms", "_milliseconds", "_kib", "_count"].iter().any(|unit| name.ends_with(unit)), "{name}");
        let total = family["samples"].as_array().unwrap().iter().all(|sample| sample[0] == format!("{name}_total"));
        assert_eq!(family["type"] == "counter", total, "{name}: {family}");
    }
    assert_eq!(perch.stop().code(), Some(0));
}

#[test]
#[expect(clippy::float_cmp, reason = "what is counted is whole")]
fn what_a_model_took_and_what_it_did_not_answer_is_counted() {
    let upstream = Upstream::start();
    let port = free_port();
    let url = upstream.url();
    let perch = Start::with_text(&format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[chat]\nbackend = \"openai\"\nbase_url = \"{url}\"\nmodel = \"{MODEL}\"\n"
    ))
    .ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    upstream.fault(Fault::Whole("four words of wisdom"));
    assert_eq!(chat::post(port, "say something").status, 200);
    upstream.fault(Fault::Stream(piece("four words of") + &finish("length"), Then::End));
    assert_eq!(Stream::open(port, &json!({ "message": "say something" })).rest().1, "done");
    upstream.fault(Fault::Stream(piece("four words"), Then::Cut));
    assert_eq!(Stream::open(port, &json!({ "message": "say something" })).rest().1, "error");
    upstream.fault(Fault::Stream(piece("four words"), Then::Hang));
    let mut stopped = Stream::open(port, &json!({ "message": "say something" }));
    stopped.delta();
    drop(stopped);
    upstream.wait_left(3);
    upstream.fault(Fault::Refuse(400, "", json!({ "error": { "message": "not that" } })));
    assert_ne!(chat::post(port, "say something else").status, 200);
    let families = read(&page(&perch));
    let tokens = number(&families, "perch_chat_tokens", "perch_chat_tokens_total", &json!({}));
    assert!((1.0..100.0).contains(&tokens), "{tokens}");
    let failures: f64 = families["perch_chat_failures"]["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample[2].as_f64().unwrap())
        .sum();
    assert_eq!(failures, 2.0);
    let took = "perch_chat_answer_duration_seconds";
    for (outcome, count) in [("whole", 1.0), ("length", 1.0), ("failed", 2.0), ("stopped", 1.0)] {
        let counted = || {
            let families = read(&page(&perch));
            number(&families, took, &format!("{took}_count"), &json!({ "outcome": outcome }))
        };
        wait("an answer to be counted", || (counted() == count).then_some(()));
    }
    // A stream counts when it begins; what became of it is above.
    let streams = number(
        &families,
        "perch_http_requests",
        "perch_http_requests_total",
        &json!({ "route": "/api/chat", "class": "2xx" }),
    );
    assert_eq!(streams, 4.0);
}
