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
use super::support::socket::Person;
use super::support::upstream::{Fault, MODEL, Then, Unreachable, Upstream, finish, piece};

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

/// What a person, and the journal, are told of one fault, over both ways of asking.
fn told(lines: &str, faults: &[Fault]) -> String {
    let stage = Stage::new();
    let mut told = String::new();
    for streamed in [false, true] {
        let perch = stage.perch(&format!("{lines}\n[chat.timeout]\nfirst_token = \"1s\"\nbetween_tokens = \"1s\""));
        for fault in faults {
            stage.upstream.fault(fault.clone());
        }
        let (text, retry_after, problem) = if streamed {
            let (text, name, problem) = Stream::open(stage.port, &json!({ "message": "hello" })).rest();
            assert_eq!(name, "error");
            let retry_after = problem["retry_after"].as_u64().map(|seconds| seconds.to_string());
            (text, retry_after, problem)
        } else {
            let answer = chat::post(stage.port, "hello");
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["status"], answer.status);
            (String::new(), answer.header("Retry-After").map(str::to_owned), problem)
        };
        let (warning, id) = the_warning(&perch);
        assert_eq!(problem["request_id"], id.as_str());
        assert!(!perch.log_text().contains(KEY));
        let warning = warning.replace(&stage.upstream.host(), "HOST");
        let warning = warning.replace(&stage.key.path().display().to_string(), "KEY-FILE");
        let one = format!(
            "{}{} {}: {}{}\n",
            if text.is_empty() { String::new() } else { format!("after {text:?}: ") },
            problem["status"],
            problem["title"].as_str().unwrap(),
            problem["detail"].as_str().unwrap(),
            retry_after.map(|wait| format!(" (Retry-After: {wait})")).unwrap_or_default(),
        );
        // Told once where both ways tell the same.
        if !told.contains(&one) {
            told += &one;
        }
        if !told.contains(&warning) {
            told += &warning;
            told.push('\n');
        }
    }
    told
}

fn refuse(status: u16, headers: &'static str, message: &str) -> Fault {
    Fault::Refuse(status, headers, json!({ "error": { "message": message } }))
}

#[test]
fn a_key_that_is_refused_is_no_secret_to_the_journal_and_none_of_the_persons_business() {
    let said = format!("Incorrect API key provided: {KEY}");
    insta::assert_snapshot!(told("", &[refuse(401, "", &said)]), @"
    502 Bad Gateway: the chat is not set up right, and can't answer until its operator mends it
    request ID failed: HOST refused the key (401); store a good one in file `KEY-FILE`
    ");
}

#[test]
fn asked_too_often_it_says_when_to_come_again() {
    insta::assert_snapshot!(told("", &[refuse(429, "Retry-After: 42\r\n", "slow down")]), @"
    503 Service Unavailable: the chat has too much to do at the moment; try again in 42 s (Retry-After: 42)
    request ID failed: HOST was asked too often (429)
    ");
}

#[test]
fn an_upstream_in_trouble_is_asked_three_times() {
    let trouble = refuse(500, "", "");
    insta::assert_snapshot!(told("", &[trouble.clone(), trouble.clone(), trouble]), @"
    502 Bad Gateway: the chat can't be reached at the moment; try again in a while
    request ID failed: HOST is in trouble (500)
    ");
}

#[test]
fn an_upstream_that_hangs_is_left() {
    insta::assert_snapshot!(told("", &[Fault::Silence]), @"
    504 Gateway Timeout: the answer did not come in time; try again
    request ID failed: HOST began no answer within 1 s (chat.timeout.first_token)
    ");
    // Comments keep a connection alive and are no answer.
    insta::assert_snapshot!(told("", &[Fault::Stream(": still here\n\n".to_owned(), Then::Hang)]), @"
    504 Gateway Timeout: the answer did not come in time; try again
    request ID failed: HOST began no answer within 1 s (chat.timeout.first_token)
    ");
    // Nor is an event without a word in it.
    insta::assert_snapshot!(told("", &[Fault::Stream(piece(""), Then::Hang)]), @"
    504 Gateway Timeout: the answer did not come in time; try again
    request ID failed: HOST began no answer within 1 s (chat.timeout.first_token)
    ");
    insta::assert_snapshot!(told("", &[Fault::Stream(piece("Well, "), Then::Hang)]), @r#"
    504 Gateway Timeout: the answer did not come in time; try again
    request ID failed: HOST paused its answer for 1 s (chat.timeout.between_tokens)
    after "Well, ": 504 Gateway Timeout: the answer did not come in time; try again
    "#);
}

#[test]
fn a_stream_that_is_cut_is_told_from_one_that_ends() {
    insta::assert_snapshot!(told("", &[Fault::Stream(piece("Well, "), Then::Cut)]), @r#"
    502 Bad Gateway: the answer broke off; try again
    request ID failed: HOST broke off in the middle of an answer: unexpected EOF during chunk size line
    after "Well, ": 502 Bad Gateway: the answer broke off; try again
    "#);
    insta::assert_snapshot!(told("", &[Fault::Stream(piece("Well, "), Then::End)]), @r#"
    502 Bad Gateway: the answer broke off; try again
    request ID failed: HOST ended the stream in the middle of an answer
    after "Well, ": 502 Bad Gateway: the answer broke off; try again
    "#);
}

#[test]
fn nonsense_in_a_stream_is_not_passed_on() {
    let nonsense = piece("Well, ") + "data: <html>Bad\u{7}   gateway</html>\n\n";
    insta::assert_snapshot!(told("", &[Fault::Stream(nonsense, Then::Hang)]), @r#"
    502 Bad Gateway: what came back was no answer; try again
    request ID failed: what HOST sent is no answer: 27 bytes of HTML or XML
    after "Well, ": 502 Bad Gateway: what came back was no answer; try again
    "#);
    insta::assert_snapshot!(told("", &[Fault::Stream("x".repeat(300 << 10), Then::Hang)]), @"
    502 Bad Gateway: what came back was no answer; try again
    request ID failed: what HOST sent is no answer: an event of more than 256 KiB
    ");
    insta::assert_snapshot!(told("", &[Fault::Stream("data: [DONE]\n\n".to_owned(), Then::End)]), @"
    502 Bad Gateway: what came back was no answer; try again
    request ID failed: what HOST sent is no answer: an answer without a word in it
    ");
    let failed = piece("Well, ") + "data: {\"error\": {\"message\": \"the server is overloaded\"}}\n\n";
    insta::assert_snapshot!(told("", &[Fault::Stream(failed, Then::Hang)]), @r#"
    502 Bad Gateway: the answer broke off; try again
    request ID failed: HOST failed at the answer (it does not say why)
    after "Well, ": 502 Bad Gateway: the answer broke off; try again
    "#);
}

#[test]
fn what_people_wrote_stays_out_of_the_journal_when_an_api_repeats_it() {
    let secret = "my diagnosis is hypothyroidism";
    for status in [400, 401, 403, 404, 413, 422, 429, 500] {
        let error = json!({ "error": {
            "message": format!("Invalid prompt: {secret}"), "type": "invalid_request_error", "param": secret, "code": null,
        } });
        let faults = [Fault::Refuse(status, "", error.clone()), Fault::Refuse(status, "", error.clone())];
        let told = told_and_logged(&[&faults[..], &[Fault::Refuse(status, "", error)]].concat(), secret);
        assert!(told.contains(&format!("({status}: invalid_request_error)")), "{told}");
        assert!(!told.contains(secret), "{status}: {told}");
    }
    let event = json!({ "error": { "message": secret, "type": "server_error", "code": secret } });
    for (data, cause) in [
        (event.to_string(), "failed at the answer (server_error)"),
        (format!("<p>{secret}</p>"), "bytes of HTML or XML"),
    ] {
        let told = told_and_logged(&[Fault::Stream(format!("data: {data}\n\n"), Then::Hang)], secret);
        assert!(told.contains(cause) && !told.contains(secret), "{told}");
    }
}

/// All that the journal has after somebody said `message` and this came of it.
fn told_and_logged(faults: &[Fault], message: &str) -> String {
    let stage = Stage::new();
    let perch = stage.perch("");
    faults.iter().cloned().for_each(|fault| stage.upstream.fault(fault));
    assert_ne!(chat::post(stage.port, message).status, 200);
    the_warning(&perch);
    perch.log_text()
}

#[test]
fn what_is_refused_says_whose_fault_it_is() {
    insta::assert_snapshot!(told("", &[refuse(404, "", "The model `x` does not exist")]), @"
    502 Bad Gateway: the chat is not set up right, and can't answer until its operator mends it
    request ID failed: HOST has no model `parrot-1`, or no chat at `base_url` (404); mend either
    ");
    let invalid = json!({ "error": { "message": "Invalid model", "type": "invalid_model", "code": 400 } });
    insta::assert_snapshot!(told("", &[Fault::Refuse(400, "", invalid)]), @"
    502 Bad Gateway: the chat is not set up right, and can't answer until its operator mends it
    request ID failed: HOST will not have what it is asked for (400: invalid_model); mend the [chat] table
    ");
    let long = json!({ "error": { "message": "maximum context length", "code": "context_length_exceeded" } });
    insta::assert_snapshot!(told("", &[Fault::Refuse(400, "", long)]), @"
    413 Payload Too Large: this is more than the model can read at once; write less, or begin a new conversation
    request ID failed: HOST finds it too long (400: context_length_exceeded)
    ");
    insta::assert_snapshot!(told("", &[refuse(400, "", "flagged by moderation")]), @"
    422 Unprocessable Entity: the chat would not answer this message; try other words
    request ID failed: HOST would not answer (400)
    ");
    insta::assert_snapshot!(told("", &[refuse(307, "Location: https://elsewhere.test/\r\n", "")]), @"
    502 Bad Gateway: the chat is not set up right, and can't answer until its operator mends it
    request ID failed: HOST sends elsewhere (307 Temporary Redirect, to https://elsewhere.test/); name the right address with `base_url`
    ");
}

/// What somebody who reads along is told of each of these faults, and the journal.
fn told_of_each(lines: &str, faults: impl IntoIterator<Item = Fault>) -> String {
    let stage = Stage::new();
    let perch = stage.perch(&format!("{lines}\n[chat.timeout]\nfirst_token = \"2s\"\nbetween_tokens = \"2s\""));
    let mut told = String::new();
    for fault in faults {
        stage.upstream.fault(fault);
        let (text, name, data) = Stream::open(stage.port, &json!({ "message": "hello" })).rest();
        assert_eq!(name, "error", "{text:?} {data}");
        let id = data["request_id"].as_str().unwrap();
        let entry = wait("the journal", || perch.log().into_iter().find(|entry| entry["PERCH_REQUEST_ID"] == id));
        let cause = entry["message"].as_str().unwrap().replace(&stage.upstream.host(), "HOST");
        told += &format!(
            "{}{} {}{}\n- {}\n",
            if text.is_empty() { String::new() } else { format!("after {text:?}: ") },
            data["status"],
            data["detail"].as_str().unwrap(),
            data["retry_after"].as_u64().map(|wait| format!(" (retry_after: {wait})")).unwrap_or_default(),
            cause.strip_prefix(&format!("request {id} failed: ")).unwrap(),
        );
    }
    told
}

#[test]
fn an_answer_that_is_none_says_why_and_whether_to_try_again() {
    let stream = |text: String| Fault::Stream(text, Then::End);
    let done = "data: [DONE]\n\n";
    insta::assert_snapshot!(told_of_each("max_tokens = 9", [
        stream(finish("length") + done),
        stream(piece("Take a ") + &finish("content_filter") + done),
        stream(finish("content_filter")),
        stream(finish("tool_calls") + done),
        stream(piece("Well, ") + &finish("insufficient_system_resource") + done),
        // With every piece there is a reason, and it is none.
        stream(r#"data: {"choices":[{"delta":{"content":"Well, "},"finish_reason":""}]}"#.to_owned() + "\n\n"),
        stream(piece(" \n\n ") + &finish("stop") + done),
        Fault::Whole("  \n"),
        Fault::Refuse(200, "", json!({ "choices": [] })),
        Fault::Refuse(200, "", json!({ "choices": [{ "message": { "content": 7, "about": "my illness" } }] })),
    ]), @r#"
    422 the model came to no answer within what it may write; ask for less at once
    - `parrot-1` wrote 9 tokens without a word of an answer; raise chat.max_tokens
    after "Take a ": 422 the chat would not answer this message; try other words
    - HOST held the answer back (content_filter)
    422 the chat would not answer this message; try other words
    - HOST held the answer back (content_filter)
    422 the chat would not answer this message; try other words
    - `parrot-1` called a tool in place of an answer, and perch offers none
    after "Well, ": 502 the answer broke off; try again
    - HOST gave up in the middle of the answer
    after "Well, ": 502 the answer broke off; try again
    - HOST ended the stream in the middle of an answer
    after " \n\n ": 502 what came back was no answer; try again
    - what HOST sent is no answer: an answer without a word in it
    after "  \n": 502 what came back was no answer; try again
    - what HOST sent is no answer: an answer without a word in it
    502 what came back was no answer; try again
    - what HOST sent is no answer: an answer without a word in it
    502 what came back was no answer; try again
    - what HOST sent is no answer: 60 bytes of JSON, which is no completion from line 1, column 57 on
    "#);
}

#[test]
fn a_conversation_that_is_too_long_for_a_local_server_is_said_to_be() {
    let error = |status, error: Value| Fault::Refuse(status, "", json!({ "error": error }));
    let vllm = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the \
                messages, 100 in the completion). Please reduce the length of the messages or completion.";
    let newer = "You passed 4900 input tokens and requested 100 output tokens. However, the model's context length is \
                 only 4096 tokens, resulting in a maximum input length of 3996 tokens.";
    let llama = json!({ "code": 500, "message": "the request exceeds the available context size", "n_ctx": 256,
        "type": "exceed_context_size_error" });
    insta::assert_snapshot!(told_of_each("", [
        Fault::Refuse(400, "", json!({ "object": "error", "message": vllm, "type": "BadRequestError", "param": null,
            "code": 400 })),
        error(400, json!({ "message": newer, "type": "BadRequestError", "param": "input_tokens", "code": 400 })),
        error(500, llama.clone()),
        error(200, llama),
        error(400, json!("the input length exceeds the context length")),
    ]), @r#"
    413 this is more than the model can read at once; write less, or begin a new conversation
    - HOST finds it too long (400: BadRequestError)
    413 this is more than the model can read at once; write less, or begin a new conversation
    - HOST finds it too long (400: BadRequestError, about `input_tokens`)
    413 this is more than the model can read at once; write less, or begin a new conversation
    - HOST finds it too long (500: exceed_context_size_error)
    413 this is more than the model can read at once; write less, or begin a new conversation
    - HOST failed at the answer (500, exceed_context_size_error)
    413 this is more than the model can read at once; write less, or begin a new conversation
    - HOST finds it too long (400)
    "#);
    let large = "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 \
                 tokens and your request has 9 input tokens (8000 > 4096 - 9).";
    insta::assert_snapshot!(told_of_each("max_tokens = 8000", [error(400, json!({ "message": large, "code": 400 }))]), @r#"
    502 the chat is not set up right, and can't answer until its operator mends it
    - HOST has no room for an answer of 8000 tokens, whatever it is asked (400); lower chat.max_tokens
    "#);
}

#[test]
fn whoever_is_to_wait_is_told_how_long_if_it_is_not_for_years() {
    let retired = refuse(429, "Retry-After: 99999999\r\n", "come again in three years");
    insta::assert_snapshot!(told_of_each("", [
        refuse(429, "Retry-After: 300\r\n", "slow down"),
        refuse(503, "Retry-After: 7.5\r\n", "loading the model"),
        retired,
    ]), @r#"
    503 the chat has too much to do at the moment; try again in 5 minutes (retry_after: 300)
    - HOST was asked too often (429)
    503 the chat has too much to do at the moment; try again in 8 s (retry_after: 8)
    - HOST is in trouble (503)
    503 the chat has done as much as it may for today; try again tomorrow (retry_after: 86400)
    - HOST was asked too often (429; Retry-After: 99999999)
    "#);
}

#[test]
fn an_answer_that_is_cut_off_is_marked_everywhere_and_the_operator_told_once() {
    let (stage, discord) = (Stage::new(), Discord::start());
    let text = format!(
        "{}[discord]\ntoken = {{ env = \"TOKEN\" }}\napi_url = \"{}\"\nrespond = \"chat\"\n",
        stage.config("max_tokens = 9"),
        discord.url()
    );
    let token = [("TOKEN".to_owned(), perch::sim::DEFAULT_TOKEN.to_owned())];
    let perch = Start::with_text(&text).env(token).ready();
    for service in ["chat", "discord"] {
        perch.wait_status("the services", |status| status["services"][service]["state"] == "running");
    }
    let cut = || Fault::Stream(piece("Once upon a ") + &finish("length") + "data: [DONE]\n\n", Then::End);
    let guest = Guest::new(stage.port);
    stage.upstream.fault(cut());
    let story = json!({ "message": "tell me a story" });
    let (_, _, done) = guest.stream_with("Idempotency-Key: story\r\n", &story).rest();
    assert_eq!(done["finish"], "length");
    // Whether it is read again or asked for again.
    let (again, _, same) = guest.stream_with("Idempotency-Key: story\r\n", &story).rest();
    assert_eq!((&*again, &same), ("Once upon a ", &done));
    let conversation = done["conversation"].as_str().unwrap();
    let read = guest.request("GET", &format!("/api/conversations/{conversation}"), &[], b"");
    let read: Value = serde_json::from_slice(&read.body).unwrap();
    assert_eq!(read["messages"][1]["finish"], "length", "{read}");
    assert_eq!(read["messages"][1]["state"], Value::Null);
    stage.upstream.fault(cut());
    let whole: Value = serde_json::from_slice(&guest.say(&story).body).unwrap();
    assert_eq!((&whole["reply"], &whole["finish"]), (&json!("Once upon a "), &json!("length")));
    let mut person = Person::connect(stage.port);
    stage.upstream.fault(cut());
    person.send(&json!({ "type": "ask", "text": "tell me a story", "ref": 1 }));
    assert_eq!(person.frame_of("delta")["text"], "Once upon a ");
    assert_eq!(person.frame_of("done")["finish"], "length");
    stage.upstream.fault(refuse(429, "Retry-After: 300\r\n", "slow down"));
    person.send(&json!({ "type": "ask", "text": "and another", "ref": 2 }));
    assert_eq!(person.frame_of("error")["problem"]["retry_after"], 300);
    stage.upstream.fault(cut());
    let said = discord.ask("tell me a story");
    assert_eq!(said, "Once upon a\n\n(I may not say more than this at once. Ask me to go on for the rest.)");
    // An answer that ends by itself says nothing of the kind.
    let (_, _, done) = guest.stream(&json!({ "message": "and?", "conversation": conversation })).rest();
    assert_eq!(done, json!({ "conversation": conversation }));
    let warnings = perch.messages("WARN");
    let (failed, told): (Vec<_>, Vec<_>) = warnings.into_iter().partition(|warning| warning.starts_with("request "));
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(told, [format!("answers of `{MODEL}` are cut off at 9 tokens: raise chat.max_tokens for longer ones")]);
}

#[test]
fn one_odd_figure_of_the_model_closes_the_chat_for_nobody() {
    let stage = Stage::new();
    let perch = stage.perch("[limits]\nexempt = []\n[limits.total]\ntokens_per_day = 1_000_000");
    let usage = |total: u64| {
        let usage = json!({ "choices": [], "usage": { "prompt_tokens": 2, "total_tokens": total } });
        Fault::Stream(piece("hm") + &finish("stop") + &format!("data: {usage}\n\ndata: [DONE]\n\n"), Then::End)
    };
    let guest = Guest::new(stage.port);
    for total in [10_u64.pow(18), u64::MAX, 400_000] {
        stage.upstream.fault(usage(total));
        assert_eq!(guest.stream(&json!({ "message": "hello" })).rest().1, "done");
    }
    assert_eq!(guest.say(&json!({ "message": "hello" })).status, 200);
    assert_eq!(Guest::new(stage.port).say(&json!({ "message": "hello" })).status, 200);
    let host = stage.upstream.host();
    let said =
        "says that an answer took 1000000000000000000 tokens, which can't be: such answers are charged by their length";
    assert_eq!(perch.messages("WARN"), [format!("{host} {said}")]);
    // One that can be is believed: a model may think for long.
    stage.upstream.fault(usage(300_000));
    assert_eq!(guest.stream(&json!({ "message": "hello" })).rest().1, "done");
    let page = super::metrics::page(&perch);
    let tokens = page.lines().find_map(|line| line.strip_prefix("perch_chat_tokens_total ")).unwrap();
    assert!((300_001..300_100).contains(&tokens.parse().unwrap()), "{tokens}");
}

#[test]
fn an_answer_is_whole_once_the_model_has_said_so() {
    let stage = Stage::new();
    let perch = stage.perch("");
    // Nothing says that the stream is over.
    stage.upstream.fault(Fault::Stream(piece("all ") + &piece("of it") + &finish("stop"), Then::Hang));
    let asked = Instant::now();
    let (text, name, _) = Stream::open(stage.port, &json!({ "message": "hello" })).rest();
    assert_eq!((&*text, &*name), ("all of it", "done"));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // Mistral's models that think say text in a list, and some servers give no reason for the end of what came whole.
    let thinking = json!({ "type": "thinking", "thinking": [{ "type": "text", "text": "Who says hello?" }] });
    let content = json!([thinking, { "type": "text", "text": "Hello, " }, { "type": "text", "text": "you." }]);
    stage.upstream.fault(Fault::Refuse(200, "", json!({ "choices": [{ "message": { "content": content } }] })));
    assert_eq!(chat::ask(stage.port, "hello"), "Hello, you.");
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

#[test]
fn trouble_that_passes_is_not_noticed() {
    let stage = Stage::new();
    let perch = stage.perch("");
    stage.upstream.fault(refuse(503, "", "restarting"));
    stage.upstream.fault(refuse(429, "Retry-After: 1\r\n", "slow down"));
    let begun = Instant::now();
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    assert!(begun.elapsed() >= Duration::from_secs(1), "the wait that it asked for: {:?}", begun.elapsed());
    assert_eq!(stage.upstream.asked().len(), 3);
    // A connection that was kept and ends as it is used again, or one request in the way of another.
    stage.upstream.fault(Fault::Leave);
    stage.upstream.fault(refuse(409, "", "locked"));
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    stage.upstream.fault(refuse(408, "", "too slow"));
    stage.upstream.fault(refuse(425, "", "too early"));
    assert_eq!(chat::ask(stage.port, "hello"), "You said: hello");
    assert_eq!(stage.upstream.asked().len(), 9);
    // A server that has no streams answers whole, and one that knows nothing else in a stream.
    stage.upstream.fault(Fault::Whole("all at once"));
    assert_eq!(Stream::open(stage.port, &json!({ "message": "hello" })).rest().0, "all at once");
    stage.upstream.fault(Fault::Stream(piece("bit ") + &piece("by bit") + "data: [DONE]\n\n", Then::End));
    assert_eq!(chat::ask(stage.port, "hello"), "bit by bit");
    // What has begun is never asked for again.
    stage.upstream.fault(Fault::Stream(piece("Well, "), Then::Cut));
    assert_eq!(Stream::open(stage.port, &json!({ "message": "hello" })).rest().1, "error");
    assert_eq!(stage.upstream.asked().len(), 12);
    assert_eq!(perch.messages("WARN").len(), 1);
    // And one that never gets through is asked three times.
    for _ in 0..3 {
        stage.upstream.fault(Fault::Leave);
    }
    assert_eq!(chat::post(stage.port, "hello").status, 502);
    assert_eq!(stage.upstream.asked().len(), 15);
    let left = "gave no answer: connection closed before message completed";
    assert!(perch.messages("WARN")[1].ends_with(left), "{}", perch.log_text());
}

#[test]
fn an_address_that_takes_no_connection_is_given_up_in_time() {
    let (stage, unreachable) = (Stage::new(), Unreachable::new());
    let text = stage.config("[chat.timeout]\nconnect = \"100ms\"").replace(&stage.upstream.url(), &unreachable.url());
    let perch = Start::with_text(&text).ready();
    let host = unreachable.url().replace("http://", "").replace("/v1", "");
    let status = perch.status();
    assert_eq!(status["services"]["chat"]["state"], "waiting");
    let reason = status["services"]["chat"]["reason"].as_str().unwrap();
    assert!(
        reason.ends_with(&format!("can't try the key: {host} can't be reached: no connection in time")),
        "{reason}"
    );
}

#[test]
fn an_upstream_that_is_gone_is_an_outage() {
    let stage = Stage::new();
    let perch = stage.perch("");
    stage.upstream.close();
    let answer = chat::post(stage.port, "hello");
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("the chat can't be reached at the moment; try again in a while"));
    let (warning, _) = the_warning(&perch);
    let cause = "can't be reached: Connection refused (os error 111)";
    assert_eq!(warning, format!("request ID failed: {} {cause}", stage.upstream.host()));
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
