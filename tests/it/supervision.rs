//! A service that falls over falls over alone.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use perch::chat::{Ask, Deltas, Failure, Responder};
use perch::config::Config;
use perch::discord::{self, Discord};
use perch::service::{Context, Live, Next, Part, Problem, Service, State};
use perch::sim::{DEFAULT_TOKEN, Options, Say, Simulator};
use perch::store::Store;
use serde_json::Value;

use super::support::child;
use super::support::exchange::exchange;
use super::support::perch::{Perch, Start, free_port, wait};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Echoes, and panics at one word.
struct Touchy;

#[async_trait]
impl Responder for Touchy {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        assert!(!ask.message.contains("boo"), "frightened by a word");
        Ok(ask.message.to_owned())
    }
}

/// Falls over as soon as it runs.
struct Sick;

#[async_trait]
impl Service for Sick {
    fn name(&self) -> &'static str {
        "sick"
    }

    fn wanted(&self, _: &Config) -> bool {
        true
    }

    async fn prepare(&self, _: &Next<'_>, _: Option<&Live>) -> Result<Part, Vec<Problem>> {
        Ok(Arc::new(()))
    }

    async fn run(&self, context: Context) -> anyhow::Result<()> {
        context.reporter.state(State::Running, "");
        panic!("out of breath");
    }
}

#[test]
#[ignore = "a daemon for a test below"]
fn sick_daemon() {
    child::run(Touchy, || vec![Arc::new(Sick)]);
}

#[test]
#[ignore = "a daemon for a test below"]
fn touchy_daemon() {
    child::run(Touchy, || vec![Arc::new(Discord::new(discord::Options::default(), Store::in_memory()))]);
}

/// Posts to `/api/chat` without pause while `act` does something, and insists on an answer each time.
fn while_chatting<T>(port: u16, act: impl FnOnce() -> T) -> T {
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(chat(port, "hello").0, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        let before = answered.load(Ordering::Relaxed);
        wait("one more answer", || (client.is_finished() || answered.load(Ordering::Relaxed) > before).then_some(()));
        done.store(true, Ordering::Relaxed);
        client.join().expect("every message is answered");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn chat(port: u16, message: &str) -> (u16, Value) {
    let url = format!("http://{}:{port}/api/chat", Ipv4Addr::LOCALHOST);
    let body = serde_json::json!({ "message": message }).to_string();
    let answer = exchange("POST", &url, &[JSON], body.as_bytes());
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

/// The log's errors as `service: message`, with numbers that differ from run to run left out.
fn errors(perch: &Perch) -> Vec<String> {
    let entries = perch.log();
    let errors = entries.iter().filter(|entry| entry["level"] == "ERROR");
    errors
        .map(|entry| format!("{}: {}", entry["PERCH_SERVICE"].as_str().unwrap(), entry["message"].as_str().unwrap()))
        .collect()
}

/// The seconds in "started again in 0.9 s".
fn delay(error: &str) -> Option<f32> {
    error.split_once("is started again in ")?.1.split(' ').next()?.parse().ok()
}

#[test]
fn a_service_that_panics_is_restarted_alone_with_growing_delay() {
    let port = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut perch = Start::child("supervision::sick_daemon", &text).ready();
    let errors = while_chatting(port, || {
        wait("three failures", || {
            let errors = errors(&perch);
            (errors.iter().filter_map(|error| delay(error)).count() >= 3).then_some(errors)
        })
    });
    let delays: Vec<f32> = errors.iter().filter_map(|error| delay(error)).collect();
    for (delay, longest) in delays.iter().zip([1.0, 2.0, 4.0]) {
        // Spread by a quarter, so that hosts that failed together don't return together.
        assert!((0.74 * longest..=longest).contains(delay), "{delays:?}");
    }
    let place = errors[0].split(':').nth(1).unwrap();
    assert_eq!(place, " panicked at tests/it/supervision.rs");
    assert!(errors[0].ends_with(": out of breath") && errors[0].starts_with("sick: "), "{}", errors[0]);
    assert!(errors[1].starts_with("sick: sick failed and is started again in "), "{}", errors[1]);
    assert!(errors[1].ends_with(" s: it panicked: out of breath"), "{}", errors[1]);
    let status = perch.status();
    assert_eq!(status["services"]["sick"]["state"], "recovering");
    assert!(status["services"]["sick"]["restarts"].as_u64().unwrap() >= 3);
    assert_eq!(status["services"]["http"]["state"], "running");
    assert_eq!(status["services"]["http"]["restarts"], 0);
    assert_eq!(perch.stop().code(), Some(0));
}

#[test]
fn a_panic_while_answering_on_discord_leaves_http_alone_and_discord_comes_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let simulator = runtime.block_on(Simulator::start(Options::default())).unwrap();
    let port = free_port();
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[discord]\napi_url = \"{}\"\ntoken = {{ env = \"TOKEN\" }}\n",
        simulator.url()
    );
    let token = [("TOKEN".to_owned(), DEFAULT_TOKEN.to_owned())];
    let mut perch = Start::child("supervision::touchy_daemon", &text).env(token).ready();
    let running = |status: &Value| status["services"]["discord"]["state"] == "running";
    perch.wait_status("a Discord session", running);
    let bot = simulator.state()["bot"]["id"].as_str().unwrap().to_owned();
    while_chatting(port, || {
        simulator.say(Say::new(format!("<@{bot}> boo"))).unwrap();
        perch.wait_status("the restart", |status| status["services"]["discord"]["restarts"] == 1 && running(status));
        simulator.say(Say::new(format!("<@{bot}> hello"))).unwrap();
        let patience = Duration::from_secs(20);
        let answered = simulator.until(patience, |_| {
            let messages = simulator.messages("general");
            messages.iter().any(|message| message["content"] == "hello").then_some(())
        });
        runtime.block_on(answered).expect("the bot answers again");
    });
    let errors = errors(&perch);
    assert!(errors[0].starts_with("discord: panicked at tests/it/supervision.rs:"), "{errors:#?}");
    assert!(errors[0].ends_with(": frightened by a word"), "{errors:#?}");
    assert!(errors[1].starts_with("discord: discord failed and is started again in "), "{errors:#?}");
    assert_eq!(errors.len(), 2, "{errors:#?}");
    // The message that it fell over is not tried again, and the session goes on.
    assert_eq!(simulator.counters().identifies, 1);
    assert_eq!(perch.status()["services"]["http"]["restarts"], 0);
    assert_eq!(perch.stop().code(), Some(0));
}

#[test]
fn a_panic_while_answering_a_request_fails_that_request_alone() {
    let port = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut perch = Start::child("supervision::touchy_daemon", &text).ready();
    let (status, problem) = while_chatting(port, || chat(port, "boo"));
    assert_eq!(status, 500);
    let id = problem["request_id"].as_str().unwrap();
    insta::assert_snapshot!(problem.to_string().replace(id, "ID"), @r#"{"detail":"perch could not answer this; the operator finds the cause in the journal under the request id","request_id":"ID","status":500,"title":"Internal Server Error","type":"about:blank"}"#);
    let errors = errors(&perch);
    assert!(errors[0].starts_with("http: panicked at tests/it/supervision.rs:"), "{errors:#?}");
    assert_eq!(errors[1], format!("http: request {id} failed: the handler panicked"));
    let logged = perch.log().into_iter().find(|entry| entry["PERCH_REQUEST_ID"] == id).expect("it is logged");
    assert_eq!(logged["PERCH_CONFIG_VERSION"], perch.status()["config"]["version"]);
    assert_eq!(perch.status()["services"]["http"]["restarts"], 0);
    assert_eq!(perch.stop().code(), Some(0));
}
