//! Replies from an OpenAI-compatible API: what it is asked, what comes back, and what people hear when it goes wrong.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::aws::Peer;
use super::support::chat::{self, Guest, Stream};
use super::support::discord::Discord;
use super::support::perch::{Perch, Start, free_port, wait};
use super::support::upstream::{Fault, MODEL, Then, Upstream, piece};

mod faults;

const KEY: &str = "sk-the-key-of-this-test";

/// perch with an upstream behind its chat, and the key in a file.
struct Stage {
    upstream: Upstream,
    port: u16,
    key: tempfile::NamedTempFile,
}

impl Stage {
    fn new() -> Self {
        let upstream = Upstream::start();
        upstream.take_keys(&[KEY]);
        let stage = Stage { upstream, port: free_port(), key: tempfile::NamedTempFile::new().unwrap() };
        stage.set_key(KEY);
        stage
    }

    fn set_key(&self, key: &str) {
        std::fs::write(self.key.path(), key).unwrap();
    }

    /// A configuration whose `[chat]` table has these lines as well.
    fn config(&self, lines: &str) -> String {
        format!(
            "[http]\nlisten = \"127.0.0.1:{}\"\n[reload]\nsecrets = \"1s\"\npoll = \"1s\"\n[chat]\nbackend = \
             \"openai\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"\napi_key = {{ file = \"{}\" }}\n{lines}\n",
            self.port,
            self.upstream.url(),
            self.key.path().display(),
        )
    }

    fn perch(&self, lines: &str) -> Perch {
        let perch = Start::with_text(&self.config(lines)).ready();
        perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
        perch
    }
}

/// Gives perch another configuration, which must be applied.
#[track_caller]
fn reload(perch: &Perch, text: &str) {
    std::fs::write(perch.config_path(), text).unwrap();
    let said = perch.verb(&["reload"]);
    assert_eq!(said.status.code(), Some(0), "{said:?}{}", perch.log_text());
}

/// The one warning about a request, without the id that differs from run to run, and that id.
#[track_caller]
fn the_warning(perch: &Perch) -> (String, String) {
    let log = perch.log();
    let entries: Vec<&Value> = log.iter().filter(|entry| !entry["PERCH_REQUEST_ID"].is_null()).collect();
    assert_eq!(entries.len(), 1, "{}", perch.log_text());
    assert_eq!(entries[0]["level"], "WARN", "{}", perch.log_text());
    let id = entries[0]["PERCH_REQUEST_ID"].as_str().unwrap().to_owned();
    (entries[0]["message"].as_str().unwrap().replace(&id, "ID"), id)
}

fn refuse(status: u16, headers: &'static str, message: &str) -> Fault {
    Fault::Refuse(status, headers, json!({ "error": { "message": message } }))
}

#[test]
fn an_answer_comes_whole_or_piece_by_piece() {
    let stage = Stage::new();
    let perch = stage.perch("system = \"Be a parrot.\"\ntemperature = 0.7\nmax_tokens = 99");
    assert_eq!(chat::ask(stage.port, "hello there"), "You said: hello there");
    let asked = stage.upstream.asked().remove(0);
    assert_eq!(asked.authorization, format!("Bearer {KEY}"));
    insta::assert_snapshot!(asked.body, @r#"{"max_tokens":99,"messages":[{"content":"Be a parrot.","role":"system"},{"content":"hello there","role":"user"}],"model":"parrot-1","stream":false,"temperature":0.7}"#);
    let guest = Guest::new(stage.port);
    let mut stream = guest.stream(&json!({ "message": "hello again" }));
    assert_eq!(stream.status, 200);
    assert!(stream.head.contains("\r\ncontent-type: text/event-stream\r\n"), "{}", stream.head);
    assert!(stream.head.contains("\r\ncache-control: no-store\r\n"), "{}", stream.head);
    assert!(stream.head.contains("\r\nx-request-id: "), "{}", stream.head);
    assert_eq!(stream.delta(), "You ");
    let (rest, name, done) = stream.rest();
    assert_eq!((&*rest, &*name), ("said: hello again", "done"));
    assert_eq!(stage.upstream.asked()[1].body["stream"], true);
    let conversation = done["conversation"].as_str().unwrap();
    let body = json!({ "message": "and on", "conversation": conversation });
    assert_eq!(guest.say(&body).status, 200);
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

/// perch with somebody else's API behind its chat.
fn perch_with(base_url: &str, lines: &str) -> (Perch, u16) {
    let port = free_port();
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[chat]\nbackend = \"openai\"\nbase_url = \"{base_url}/v1\"\nmodel = \
         \"gpt-4o-mini\"\n{lines}\n"
    );
    let perch = Start::with_text(&text).ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    (perch, port)
}

#[test]
fn aimock_takes_perch_for_a_client_of_openai() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = Command::new(root.join("tests/upstreams/install")).status().expect("the script is there");
    assert!(installed.success(), "tests/upstreams/install failed");
    let mut node = Command::new("node");
    node.arg(root.join("target/upstreams/aimock.mjs"));
    let aimock = Peer::run(node);
    let (perch, port) = perch_with(&aimock.urls[0], "system = \"Be kind.\"\ntemperature = 1\nmax_tokens = 50");
    assert_eq!(chat::ask(port, "hello"), "Hello! I am a mock, and happy to be one.");
    let mut stream = Stream::open(port, &json!({ "message": "and in your language?" }));
    let first = stream.delta();
    let (rest, name, _) = stream.rest();
    assert_eq!((first + &rest, &*name), ("こんにちは — שלום — 🐦".to_owned(), "done"));
    assert_eq!(chat::post(port, "no fixture is for this").status, 502);
    let status = perch.wait_status("the refusal", |status| status["services"]["chat"]["state"] == "recovering");
    let reason = status["services"]["chat"]["reason"].as_str().unwrap();
    assert!(reason.contains("(404: no_fixture_match"), "{reason}");
}

#[test]
fn fakellm_takes_perch_for_a_client_of_openai() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), FAKELLM_RULES).unwrap();
    let fakellm = Peer::start(Path::new("fakellm"), &[rules.path().to_str().unwrap()]);
    // It has no list of models, so its key is believed.
    let (perch, port) = perch_with(&fakellm.urls[0], "");
    assert_eq!(chat::ask(port, "hello"), "Hello from a rule.");
    let guest = Guest::new(port);
    let (text, name, done) = guest.stream(&json!({ "message": "hello" })).rest();
    assert_eq!((&*text, &*name), ("Hello from a rule.", "done"));
    let again = json!({ "message": "what was that?", "conversation": done["conversation"] });
    let (text, name, _) = guest.stream(&again).rest();
    assert_eq!((&*text, &*name), ("You said hello before.", "done"));
    assert_eq!(chat::post(port, "too fast").status, 503);
    assert_eq!(perch.messages("WARN").len(), 1, "{}", perch.log_text());
}

/// What fakellm answers; the first rule that fits.
const FAKELLM_RULES: &str = "
version: 1
rules:
  - name: limited
    when: { messages_contain: too fast }
    respond: { status: 429, error: slow down }
  - name: later
    when: { previous_message_contains: from a rule }
    respond: { content: You said hello before. }
  - name: hello
    when: { messages_contain: hello }
    respond: { content: Hello from a rule. }
";

#[test]
fn the_echo_streams_as_well() {
    let port = free_port();
    let _perch = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let mut stream = Stream::open(port, &json!({ "message": "two\nlines" }));
    assert_eq!(stream.event(), Some(("delta".to_owned(), json!({ "text": "two\nlines" }))));
    let (name, done) = stream.event().unwrap();
    assert_eq!((&*name, done["conversation"].as_str().map(str::len)), ("done", Some(32)));
    assert_eq!(stream.event(), None);
    let refused = Stream::open(port, &json!({ "message": " " }));
    assert_eq!(refused.status, 400);
    assert!(refused.head.contains("\r\ncontent-type: application/problem+json\r\n"), "{}", refused.head);
}

#[test]
fn a_conversation_goes_on_from_what_was_said_and_no_further_back_than_history() {
    let stage = Stage::new();
    let perch = stage.perch("history = 4");
    let guest = Guest::new(stage.port);
    let mut conversation = Value::Null;
    for message in ["one", "two", "three", "four"] {
        let answer = guest.say(&json!({ "message": message, "conversation": conversation }));
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        conversation = answer["conversation"].clone();
    }
    let sent = |index: usize| {
        let messages = stage.upstream.asked()[index].body["messages"].clone();
        let text = |message: &Value| format!("{}: {}", message["role"], message["content"]).replace('"', "");
        messages.as_array().unwrap().iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(sent(1), ["user: one", "assistant: You said: one", "user: two"]);
    assert_eq!(
        sent(3),
        ["user: two", "assistant: You said: two", "user: three", "assistant: You said: three", "user: four"]
    );
    // Somebody else's conversation is another one, and a reload forgets none.
    chat::ask(stage.port, "elsewhere");
    assert_eq!(sent(4), ["user: elsewhere"]);
    reload(&perch, &stage.config("history = 2"));
    guest.say(&json!({ "message": "five", "conversation": conversation }));
    assert_eq!(sent(5), ["user: four", "assistant: You said: four", "user: five"]);
    // An answer that the person stopped was said as far as they have read it.
    stage.upstream.fault(Fault::Stream(piece("Well, ") + &piece("I "), Then::Hang));
    let mut stopped = guest.stream(&json!({ "message": "six", "conversation": conversation }));
    assert_eq!(stopped.delta() + &stopped.delta(), "Well, I ");
    drop(stopped);
    stage.upstream.wait_left(6);
    wait("the stopped answer to be remembered", || {
        guest.say(&json!({ "message": "seven", "conversation": conversation }));
        let last = stage.upstream.asked().len() - 1;
        (sent(last)[..2] == ["user: six", "assistant: Well, I "] || sent(last).contains(&"user: seven".to_owned()))
            .then_some(())
    });
    assert_eq!(sent(7), ["user: six", "assistant: Well, I ", "user: seven"]);
}

#[test]
fn whoever_goes_away_ends_the_request_behind_it() {
    let stage = Stage::new();
    let perch = stage.perch("");
    stage.upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let mut stream = Stream::open(stage.port, &json!({ "message": "tell me" }));
    assert_eq!(stream.delta(), "Well, ");
    let gone = Instant::now();
    drop(stream);
    let left = stage.upstream.wait_left(0);
    assert!(left < gone + Duration::from_secs(1), "{:?}", left - gone);
    // Before the first piece, and of an answer that is wanted whole.
    for (index, accept) in [(1, "text/event-stream"), (2, "application/json")] {
        stage.upstream.fault(Fault::Silence);
        let mut client = TcpStream::connect(("127.0.0.1", stage.port)).unwrap();
        let body = json!({ "message": "tell me" }).to_string();
        write!(
            client,
            "POST /api/chat HTTP/1.1\r\nHost: perch\r\nAccept: {accept}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stage.upstream.wait_asked(index + 1);
        let gone = Instant::now();
        drop(client);
        let left = stage.upstream.wait_left(index);
        assert!(left < gone + Duration::from_secs(1), "{accept}: {:?}", left - gone);
    }
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.status()["services"]["chat"]["state"], "running");
}

#[test]
fn an_answer_on_its_way_survives_a_reload_and_the_drain_waits_for_it() {
    let stage = Stage::new();
    let mut perch = stage.perch("");
    stage.upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let mut stream = Stream::open(stage.port, &json!({ "message": "tell me" }));
    assert_eq!(stream.delta(), "Well, ");
    reload(&perch, &stage.config("temperature = 1\n[chat.timeout]\nbetween_tokens = \"3s\""));
    stage.upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let mut last = Stream::open(stage.port, &json!({ "message": "tell me more" }));
    assert_eq!(last.delta(), "Well, ");
    drop(stream);
    perch.signal("TERM");
    // Longer than an idle connection is kept by then: the stream ends by its own time-out, with its last event.
    let (_, name, problem) = last.rest();
    assert_eq!((&*name, &problem["status"]), ("error", &json!(504)));
    let ended = Instant::now();
    assert_eq!(perch.wait().code(), Some(0), "{}", perch.log_text());
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
}

#[test]
fn without_its_key_the_chat_alone_waits() {
    let stage = Stage::new();
    std::fs::remove_file(stage.key.path()).unwrap();
    let discord = Discord::start();
    let text =
        format!("{}[discord]\ntoken = {{ env = \"TOKEN\" }}\napi_url = \"{}\"\n", stage.config(""), discord.url());
    let token = [("TOKEN".to_owned(), perch::sim::DEFAULT_TOKEN.to_owned())];
    let perch = Start::with_text(&text).env(token).ready();
    let reason = format!(
        "line 10, chat.api_key: no place has the secret: file `{}`: does not exist",
        stage.key.path().display()
    );
    let status = perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
    assert_eq!(status["services"]["chat"]["state"], "waiting");
    assert_eq!(status["services"]["chat"]["reason"], reason);
    assert_eq!(discord.ask("anybody?"), "anybody?");
    for answer in [chat::post(stage.port, "anybody?").text(), {
        let stream = Stream::open(stage.port, &json!({ "message": "anybody?" }));
        assert_eq!(stream.status, 503);
        stream.head
    }] {
        assert!(!answer.contains("api_key") && !answer.contains("file"), "{answer}");
    }
    let refused = chat::post(stage.port, "anybody?");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(refused.header("Retry-After"), Some("10"));
    assert!(refused.text().contains("the chat is not ready yet; try again in a while"), "{}", refused.text());
    stage.set_key(KEY);
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    assert_eq!(discord.ask("still there?"), "still there?", "the bot echoes, whatever answers over HTTP");
}

#[test]
fn a_key_that_is_refused_at_boot_parks_the_chat_alone() {
    let stage = Stage::new();
    stage.upstream.take_keys(&["sk-some-other-key-instead"]);
    let perch = Start::with_text(&stage.config("")).ready();
    let status = perch.wait_status("the chat parked", |status| status["services"]["chat"]["state"] == "parked");
    let reason = status["services"]["chat"]["reason"].as_str().unwrap();
    let (host, key) = (stage.upstream.host(), stage.key.path().display().to_string());
    let said = "401: Incorrect API key provided: Bearer [redacted].";
    assert_eq!(
        reason,
        format!("line 10, chat.api_key: {host} refused the key ({said}); store a good one in file `{key}`")
    );
    assert_eq!(perch.messages("ERROR"), [format!("chat is parked until a person acts: {reason}")]);
    assert_eq!(chat::post(stage.port, "hello").status, 503);
    stage.upstream.take_keys(&[KEY]);
    reload(&perch, &stage.config(""));
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
}

#[test]
fn a_restricted_key_need_not_be_allowed_to_list_models() {
    let stage = Stage::new();
    let said = "You have insufficient permissions for this operation. Missing scopes: api.model.read.";
    stage.upstream.models_fault(Some(refuse(403, "", said)));
    let perch = stage.perch("");
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

#[test]
fn a_key_is_tried_before_it_is_taken() {
    let stage = Stage::new();
    let perch = stage.perch("");
    let other = "sk-another-key-of-this-test";
    // A new one that nobody knows changes nothing.
    stage.set_key("sk-unknown-key-of-this-test");
    let said = perch.verb(&["reload"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let said = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    let host = stage.upstream.host();
    assert!(said.contains(&format!("line 10, chat.api_key: {host} refused the key (401: Incorrect API key")), "{said}");
    assert!(!said.contains("sk-unknown"), "{said}");
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    // One that is known takes over, without a restart.
    stage.upstream.take_keys(&[KEY, other]);
    stage.set_key(other);
    wait("the new key", || {
        chat::ask(stage.port, "hello");
        (stage.upstream.asked().last()?.authorization == format!("Bearer {other}")).then_some(())
    });
}

#[test]
fn an_upstream_that_is_down_keeps_nothing_else_from_being_reloaded() {
    let stage = Stage::new();
    let perch = stage.perch("");
    stage.upstream.models_fault(Some(refuse(502, "", "down")));
    reload(&perch, &stage.config("temperature = 0"));
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    assert_eq!(stage.upstream.asked()[0].body["temperature"], 0.0);
    // Another address is not taken unseen.
    let text = stage.config("").replace("127.0.0.1:", "localhost:").replace("\"localhost:", "\"127.0.0.1:");
    std::fs::write(perch.config_path(), &text).unwrap();
    let refused = perch.verb(&["reload"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // Where there is no list of models, a key is believed.
    stage.upstream.models_fault(Some(refuse(404, "", "Not Found")));
    reload(&perch, &text);
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    stage.upstream.models_fault(Some(refuse(501, "", "Unsupported method ('GET')")));
    reload(&perch, &stage.config("temperature = 0"));
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
}

#[test]
fn how_the_upstream_fares_is_in_the_status() {
    let stage = Stage::new();
    let perch = stage.perch("");
    let wait_for = |wanted: &str| {
        let status = perch.wait_status(wanted, |status| status["services"]["chat"]["state"] == wanted);
        status["services"]["chat"]["reason"].as_str().unwrap_or_default().replace(&stage.upstream.host(), "HOST")
    };
    assert_eq!(perch.status()["chat"], json!({ "base_url": stage.upstream.url(), "model": MODEL }));
    let shown = String::from_utf8(perch.verb(&["status"]).stdout).unwrap();
    assert!(shown.contains(&format!("asks {MODEL} at {}\n", stage.upstream.url())), "{shown}");
    stage.upstream.take_keys(&["sk-nobody-has-this-one"]);
    assert_eq!(chat::post(stage.port, "hello").status, 502);
    let reason = wait_for("recovering");
    assert!(reason.starts_with("HOST refused the key (401)"), "{reason}");
    stage.upstream.take_keys(&[KEY]);
    chat::ask(stage.port, "hello");
    wait_for("running");
    assert!(perch.messages("INFO").contains(&"messages are answered again".to_owned()));
    // An outage is one after a few messages in vain.
    for _ in 0..3 {
        stage.upstream.fault(Fault::Stream(String::new(), Then::Cut));
        assert_eq!(perch.status()["services"]["chat"]["state"], "running");
        assert_eq!(chat::post(stage.port, "hello").status, 502);
    }
    let reason = wait_for("recovering");
    assert!(reason.starts_with("HOST broke off in the middle of an answer"), "{reason}");
    chat::ask(stage.port, "hello");
    wait_for("running");
}
