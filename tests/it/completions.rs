//! perch as clients of OpenAI's see it: with the official Python client, and where it matters what bytes go over the line,
//! without.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::support::exchange::{Response, exchange};
use super::support::perch::{PATIENCE, Perch, Start, free_port, keep_secret, perch};
use super::support::python;
use super::support::upstream::{Fault, MODEL, Then, Upstream, piece};

/// What is called `perch` here.
const PERCH: &str = "perch";

/// perch, and how it is asked.
struct Stage {
    perch: Perch,
    port: u16,
    upstream: Upstream,
}

impl Stage {
    /// With a model behind it, and these lines after `[chat]`.
    fn with_model(lines: &str) -> Stage {
        let (port, upstream) = (free_port(), Upstream::start());
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \
             \"{MODEL}\"\n{lines}\n",
            upstream.url()
        );
        let perch = Start::with_text(&text).ready();
        perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
        Stage { perch, port, upstream }
    }

    fn post(&self, body: &Value) -> Response {
        post(self.port, &[], body)
    }

    /// What the model was asked last.
    fn asked(&self) -> Value {
        self.upstream.asked().last().expect("a question").body.clone()
    }
}

fn post(port: u16, headers: &[(&str, &str)], body: &Value) -> Response {
    let headers: Vec<_> = headers.iter().copied().chain([("Content-Type", "application/json")]).collect();
    exchange("POST", &url(port), &headers, body.to_string().as_bytes())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/v1/chat/completions")
}

fn said(text: &str) -> Value {
    json!({ "model": PERCH, "messages": [{ "role": "user", "content": text }] })
}

/// Reads until this was said.
fn wait_for(stream: &mut TcpStream, text: &str) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(text) {
        let mut bytes = [0; 1 << 10];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "it ended with {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&bytes[..count]);
    }
}

/// What came of these calls of OpenAI's client.
fn client(port: u16, key: &str, calls: &[Value]) -> Vec<Value> {
    let wish = json!({ "base_url": format!("http://127.0.0.1:{port}/v1"), "key": key, "calls": calls });
    serde_json::from_slice(&python::run("openai_client.py", wish.to_string().as_bytes())).unwrap()
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn error(answer: &Response) -> Value {
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    document["error"].clone()
}

fn echo() -> (Perch, u16) {
    let port = free_port();
    (Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready(), port)
}

#[test]
fn openais_own_client_is_answered_whole_and_streamed() {
    let (_perch, port) = echo();
    let streamed = with(said("two\nlines"), "stream", json!(true));
    let counted = with(streamed.clone(), "stream_options", json!({ "include_usage": true }));
    let models = json!({ "models": null });
    let answers = client(port, "anything", &[said("hello"), streamed, counted, models, json!({ "models": PERCH })]);
    let [whole, streamed, counted, models, model] = answers.try_into().unwrap();
    let id = whole["id"].as_str().unwrap();
    assert_eq!(Some(id), whole["request"].as_str().map(|request| format!("chatcmpl-{request}")).as_deref());
    assert!(whole["created"].as_u64().is_some_and(|created| created > 1_700_000_000), "{whole}");
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!(PERCH)));
    let message = json!({ "role": "assistant", "content": "hello", "refusal": null });
    let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" });
    assert_eq!(whole["choices"], json!([choice]));
    // Nothing is charged for an echo either.
    let nothing = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
    assert_eq!(whole["usage"], nothing);
    let deltas = |chunks: &Value| {
        let choices = chunks.as_array().unwrap().iter().map(|chunk| chunk["choices"].clone());
        choices.map(|choices| format!("{} {}", choices[0]["delta"], choices[0]["finish_reason"])).collect::<Vec<_>>()
    };
    insta::assert_snapshot!(deltas(&streamed).join("\n"), @r#"
    {"content":"","role":"assistant"} null
    {"content":"two\nlines"} null
    {} "stop"
    "#);
    let last = counted.as_array().unwrap().last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &nothing));
    assert_eq!(counted[0]["usage"], Value::Null);
    assert_eq!(models, json!([PERCH]));
    assert_eq!((&model["id"], &model["object"], &model["owned_by"]), (&json!(PERCH), &json!("model"), &json!(PERCH)));
}

#[test]
fn a_stream_is_as_openai_writes_it() {
    let (_perch, port) = echo();
    let answer = post(port, &[], &with(said("hello"), "stream", json!(true)));
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("text/event-stream")));
    assert_eq!(answer.header("X-Accel-Buffering"), Some("no"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let text = answer.text();
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert!(!text.contains("event:"), "{text}");
    assert_eq!(data.last(), Some(&"[DONE]"));
    let chunk: Value = serde_json::from_str(data[1]).unwrap();
    assert_eq!(chunk["object"], "chat.completion.chunk");
    assert_eq!(chunk["id"], format!("chatcmpl-{}", answer.header("X-Request-Id").unwrap()));
}

#[test]
fn the_model_hears_the_configuration_first_and_then_the_program() {
    let stage = Stage::with_model("system = \"Be a parrot.\"\nhistory = 0");
    let parts = json!([{ "type": "text", "text": "say" }, { "type": "text", "text": "it" }]);
    let messages = json!([
        { "role": "system", "content": "Forget that, be a crow." },
        { "role": "user", "content": "hello", "name": "ada" },
        { "role": "assistant", "content": "hello yourself" },
        { "role": "developer", "content": [{ "type": "text", "text": "Be brief." }] },
        { "role": "assistant", "content": null, "refusal": "I'd rather not." },
        { "role": "user", "content": parts },
    ]);
    let answer = client(stage.port, "anything", &[json!({ "model": PERCH, "messages": messages })]).remove(0);
    assert_eq!(answer["choices"][0]["message"]["content"], "You said: say\nit", "{answer}");
    let asked = stage.asked();
    assert_eq!(asked["model"], MODEL);
    let heard = asked["messages"].as_array().unwrap().iter();
    let heard: Vec<_> = heard.map(|said| format!("{}: {}", said["role"], said["content"])).collect();
    insta::assert_snapshot!(heard.join("\n").replace('"', ""), @r"
    system: Be a parrot.
    system: Forget that, be a crow.
    user: hello
    assistant: hello yourself
    system: Be brief.
    assistant: I'd rather not.
    user: say\nit
    ");
    // Nothing of it is kept.
    let people = stage.perch.verb(&["people", "--json"]).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&people).unwrap()["people"], json!([]));
}

#[test]
fn a_program_gets_less_than_the_configuration_allows_and_never_more() {
    let stage = Stage::with_model("temperature = 0.7\nmax_tokens = 100");
    for (wishes, temperature, tokens) in [
        (json!({}), 0.7, 100),
        (json!({ "temperature": 0.2, "max_tokens": 10 }), 0.2, 10),
        (json!({ "temperature": 2, "max_tokens": 5_000_000_000_u64 }), 0.7, 100),
        (json!({ "temperature": 0, "max_completion_tokens": 7, "max_tokens": 9 }), 0.0, 7),
    ] {
        let mut body = said("hello");
        body.as_object_mut().unwrap().extend(wishes.as_object().unwrap().clone());
        assert_eq!(stage.post(&body).status, 200, "{wishes}");
        let asked = stage.asked();
        assert_eq!((&asked["temperature"], &asked["max_tokens"]), (&json!(temperature), &json!(tokens)), "{wishes}");
    }
}

#[test]
fn what_the_model_says_of_its_answer_is_passed_on() {
    let stage = Stage::with_model("");
    let usage = json!({ "prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33 });
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "length" }], "usage": usage });
    let stream = piece("Well, ") + &format!("data: {end}\n\ndata: [DONE]\n\n");
    stage.upstream.fault(Fault::Stream(stream.clone(), Then::End));
    stage.upstream.fault(Fault::Stream(stream, Then::End));
    let streamed = with(said("tell me"), "stream", json!(true));
    let streamed = with(streamed, "stream_options", json!({ "include_usage": true }));
    let answers = client(stage.port, "anything", &[said("tell me"), streamed, said("hello")]);
    assert_eq!(answers[0]["usage"], usage);
    assert_eq!(answers[0]["choices"][0]["finish_reason"], "length");
    let chunks = answers[1].as_array().unwrap();
    assert_eq!(chunks.last().unwrap()["usage"], usage);
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    // An API that says nothing of it is taken at a quarter of the bytes: 5, and 15 of "You said: hello".
    assert_eq!(answers[2]["usage"], json!({ "prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6 }));
}

/// A part of a message that is a file.
fn file(name: &str, media_type: &str, content: &[u8]) -> Value {
    let data = format!("data:{media_type};base64,{}", STANDARD.encode(content));
    json!({ "type": "file", "file": { "filename": name, "file_data": data } })
}

#[test]
fn a_picture_in_a_message_is_looked_at_as_an_upload_is_and_passed_on() {
    let stage = Stage::with_model("attachments = [\"images\"]");
    // In base64 it is larger than max_body is, which counts no files.
    let picture = include_bytes!("../pages/pictures/chat.png");
    let url = format!("data:image/png;base64,{}", STANDARD.encode(picture));
    let shown = json!({ "type": "image_url", "image_url": { "url": url, "detail": "low" } });
    let about = |part: &Value| {
        json!({ "model": PERCH, "messages": [
            { "role": "user", "content": [{ "type": "text", "text": "what is this?" }, part] },
        ] })
    };
    let named = file("chat.png", "image/png", picture);
    let paper = file("chat.pdf", "application/pdf", b"%PDF-1.7\n%%EOF\n");
    let long = json!({ "type": "text", "text": "long ".repeat(20_000) });
    // What was shown before is known by its name.
    let mut further = about(&named);
    for next in [json!({ "role": "assistant", "content": "a chat" }), json!({ "role": "user", "content": "and?" })] {
        further["messages"].as_array_mut().unwrap().push(next);
    }
    let asked = [about(&shown), about(&named), about(&paper), about(&long), further];
    let answers = client(stage.port, "anything", &asked);
    for (index, answer) in answers[..2].iter().enumerate() {
        assert_eq!(answer["choices"][0]["message"]["content"], "You said: what is this?", "{answer}");
        let content = stage.upstream.asked()[index].body["messages"][0]["content"].clone();
        assert_eq!(content[1]["image_url"]["url"], url);
    }
    assert_eq!(
        (&answers[2]["raised"], &answers[2]["message"]),
        (&json!("BadRequestError"), &json!("this model can't read PDFs"))
    );
    assert_eq!(answers[2]["param"], "messages[0].content[1].file.file_data");
    assert_eq!(
        (&answers[3]["status"], &answers[3]["message"]),
        (&json!(413), &json!("what is said is larger than 65536 bytes"))
    );
    assert_eq!(answers[4]["choices"][0]["message"]["content"], "You said: and?", "{}", answers[4]);
    let told = stage.upstream.asked().pop().unwrap().body["messages"].clone();
    assert_eq!(told[0]["content"], "what is this?\n[chat.png]");
}

#[test]
fn an_answer_that_was_to_be_too_short_for_a_word_is_empty_and_says_why() {
    let stage = Stage::with_model("");
    let end = json!({ "choices": [{ "index": 0, "message": { "content": "" }, "finish_reason": "length" }] });
    for streamed in [false, true] {
        stage.upstream.fault(Fault::Refuse(200, "", end.clone()));
        let body = with(with(said("think"), "max_completion_tokens", json!(1)), "stream", json!(streamed));
        let answer = client(stage.port, "anything", &[body]).remove(0);
        let last =
            if streamed { &answer.as_array().unwrap().last().unwrap()["choices"][0] } else { &answer["choices"][0] };
        assert_eq!(last["finish_reason"], "length", "{answer}");
    }
    assert_eq!(stage.perch.messages("WARN"), [""; 0]);
}

#[test]
fn what_is_not_done_is_refused_where_it_stands() {
    let (_perch, port) = echo();
    let tool = json!({ "type": "function", "function": { "name": "fly" } });
    let last = |content: Value| json!([{ "role": "user", "content": content }]);
    let picture = json!({ "type": "image_url", "image_url": { "url": "https://example.com/cat.png" } });
    let sound = json!({ "type": "input_audio", "input_audio": { "data": "", "format": "wav" } });
    let mut told = String::new();
    for (name, value) in [
        ("messages", Value::Null),
        ("messages", json!("hello")),
        ("messages", json!([])),
        ("messages", json!([{ "content": "hello" }])),
        ("messages", json!([{ "role": "pirate", "content": "hello" }])),
        ("messages", json!([{ "role": "user" }])),
        ("messages", last(json!("  "))),
        ("messages", last(json!([sound]))),
        ("messages", last(json!([{ "type": "text", "text": 7 }]))),
        ("messages", last(json!([{ "type": "text", "text": "what is this?" }, picture]))),
        ("messages", last(json!([file("cat.png", "image/png", b"GIF89a")]))),
        ("messages", last(json!([file("cat.png", "image/png", b"")]))),
        ("messages", last(json!([file("cat.exe", "image/png", b"MZ")]))),
        ("messages", last(json!([{ "type": "image_url", "image_url": { "url": "data:image/webp;base64,AAAA" } }]))),
        ("messages", last(json!([{ "type": "image_url", "image_url": { "url": "data:image/png;base64,?" } }]))),
        ("messages", json!([{ "role": "system", "content": [file("cat.png", "image/png", b"")] }])),
        ("messages", json!([{ "role": "user", "content": "hello" }, { "role": "assistant", "content": "hi" }])),
        ("messages", json!([{ "role": "tool", "content": "4", "tool_call_id": "1" }])),
        ("messages", json!([{ "role": "assistant", "tool_calls": [tool] }])),
        ("tools", json!([tool])),
        ("tool_choice", json!("required")),
        ("n", json!(2)),
        ("stop", json!(["."])),
        ("response_format", json!({ "type": "json_object" })),
        ("logprobs", json!(true)),
        ("store", json!(true)),
        ("temperature", json!(3)),
        ("temperature", json!("warm")),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("stream", json!("yes")),
        ("stream_options", json!({ "include_usage": true })),
        ("max_token", json!(10)),
    ] {
        let answer = post(port, &[], &with(said("hello"), name, value.clone()));
        assert_eq!(answer.status, 400, "{name}: {value}: {}", answer.text());
        let error = error(&answer);
        assert_eq!(error["type"], "invalid_request_error", "{error}");
        told += &format!("{} {}: {}\n", error["param"], error["code"], error["message"]).replace('"', "");
    }
    insta::assert_snapshot!(told, @r"
    messages missing_required_parameter: `messages` is missing: they are what is answered
    messages invalid_value: `messages` is not a list
    messages null: `messages` is empty
    messages[0].role missing_required_parameter: `messages[0].role` is missing: it says whose words they are
    messages[0].role null: `messages[0].role` is none of system, developer, user and assistant
    messages[0].content missing_required_parameter: `messages[0].content` is missing: it is what is said
    messages[0].content null: the last of `messages` is empty
    messages[0].content[0] null: `messages[0].content[0]` is nothing that perch takes: that is text, and the user's files
    messages[0].content[0].text invalid_value: `messages[0].content[0].text` is not a string
    messages[0].content[1].image_url.url null: `messages[0].content[1].image_url.url` is no `data:` URI in base64, and perch fetches nothing from elsewhere
    messages[0].content[0].file.file_data null: `cat.png` is no PNG: it does not begin like one
    messages[0].content[0].file.file_data null: `cat.png` is no PNG: it does not begin like one
    messages[0].content[0].file.file_data null: `cat.exe` is none of pdf, png, jpg, jpeg and gif by its name
    messages[0].content[0].image_url.url null: `image.webp` is none of pdf, png, jpg, jpeg and gif by its name
    messages[0].content[0].image_url.url null: `messages[0].content[0].image_url.url` is no base64
    messages[0].content[0] null: `messages[0].content[0]` is nothing that perch takes: that is text, and the user's files
    messages[1] null: the last of `messages` is not the user's, and there is nothing to answer
    messages[0].role null: `messages[0]` is the result of a tool, and perch calls none
    messages[0].tool_calls unsupported_parameter: perch does not do `messages[0].tool_calls`; leave it out, or at its default
    tools unsupported_parameter: perch does not do `tools`; leave it out, or at its default
    tool_choice unsupported_parameter: perch does not do `tool_choice`; leave it out, or at its default
    n unsupported_parameter: perch does not do `n`; leave it out, or at its default
    stop unsupported_parameter: perch does not do `stop`; leave it out, or at its default
    response_format unsupported_parameter: perch does not do `response_format`; leave it out, or at its default
    logprobs unsupported_parameter: perch does not do `logprobs`; leave it out, or at its default
    store unsupported_parameter: perch does not do `store`; leave it out, or at its default
    temperature invalid_value: `temperature` is not a number from 0 to 2
    temperature invalid_value: `temperature` is not a number from 0 to 2
    max_tokens invalid_value: `max_tokens` is not a number of tokens
    max_tokens invalid_value: `max_tokens` is not a number of tokens
    stream invalid_value: `stream` is not true or false
    stream_options null: `stream_options` is for an answer that is streamed
    max_token unsupported_parameter: perch does not do `max_token`; leave it out, or at its default
    ");
    for body in ["", "hello", "[]", "{"] {
        let answer = exchange("POST", &url(port), &[("Content-Type", "application/json")], body.as_bytes());
        assert_eq!(answer.status, 400, "{body}");
        assert!(error(&answer)["message"].as_str().unwrap().starts_with("the body is not "), "{}", answer.text());
    }
}

#[test]
fn what_does_no_harm_is_passed_over() {
    let (_perch, port) = echo();
    for (name, value) in [
        ("user", json!("ada")),
        ("seed", json!(7)),
        ("metadata", json!({ "a": "b" })),
        ("n", json!(1)),
        ("top_p", json!(1)),
        ("presence_penalty", json!(0)),
        ("tools", json!([])),
        ("tools", Value::Null),
        ("tool_choice", json!("none")),
        ("stop", Value::Null),
        ("response_format", json!({ "type": "text" })),
        ("store", json!(false)),
        ("stream_options", Value::Null),
    ] {
        let answer = post(port, &[], &with(said("hello"), name, value.clone()));
        assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text());
    }
}

/// What the client raises: its class, and what it knows.
fn raised(answer: &Value) -> String {
    let fields = ["status", "type", "code", "param", "message"].map(|name| answer[name].to_string());
    format!("{} {}", answer["raised"], fields.join(" ")).replace('"', "")
}

#[test]
fn openais_own_client_raises_what_it_should() {
    let port = free_port();
    let made: Value = serde_json::from_slice(&perch(&["key", "ada", "--json"]).stdout).unwrap();
    let key = made["key"].as_str().unwrap();
    keep_secret(key);
    let start = Start::with_text("");
    let keys = start.directory().join("keys.json");
    std::fs::write(&keys, made["entry"].to_string()).unwrap();
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\nmax_body = \"1KiB\"\n[auth.api_keys]\nfile = \"{}\"\n[limits]\nexempt \
         = []\n[limits.person]\nrequests_per_minute = 6\nburst = 5\n",
        keys.display()
    );
    std::fs::write(start.directory().join("perch.toml"), text).unwrap();
    let perch = start.ready();
    let wrong = client(port, "perch_wrong", &[said("hello"), json!({ "models": null })]);
    assert_eq!(exchange("GET", &format!("http://127.0.0.1:{port}/v1/models"), &[], b"").status, 401);
    let other = with(said("hello"), "model", json!("gpt-4o-mini"));
    let two = with(said("hello"), "n", json!(2));
    let long = said(&"long ".repeat(500));
    let there = [said("hello"), other, two, long, json!({ "models": "gpt-4o-mini" }), said("and again")];
    let answers = client(port, key, &there);
    assert_eq!(answers[0]["choices"][0]["message"]["content"], "hello", "{}\n{}", answers[0], perch.log_text());
    let told: Vec<_> = wrong.iter().chain(&answers[1..]).map(raised).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    AuthenticationError 401 invalid_request_error invalid_api_key null the key is not known
    AuthenticationError 401 invalid_request_error invalid_api_key null the key is not known
    NotFoundError 404 invalid_request_error model_not_found model there is no model `gpt-4o-mini` here, only `perch`
    BadRequestError 400 invalid_request_error unsupported_parameter n perch does not do `n`; leave it out, or at its default
    APIStatusError 413 invalid_request_error null null what is said is larger than 1024 bytes
    NotFoundError 404 invalid_request_error model_not_found model there is no model `gpt-4o-mini` here, only `perch`
    RateLimitError 429 rate_limit_error rate_limit_exceeded null you ask too fast; try again in 10 seconds
    ");
    let wait: u64 = answers[5]["retry_after"].as_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait} s");
    assert!(answers[5]["request"].is_string());
}

#[test]
fn a_model_in_trouble_is_an_exception_that_fits() {
    let stage = Stage::with_model("[chat.timeout]\nfirst_token = \"1s\"\nbetween_tokens = \"1s\"");
    let refuse = |status, headers, body: Value| Fault::Refuse(status, headers, json!({ "error": body }));
    let mut calls = Vec::new();
    for (fault, streamed) in [
        (refuse(429, "Retry-After: 42\r\n", json!({ "message": "slow down" })), true),
        (refuse(400, "", json!({ "message": "long", "code": "context_length_exceeded" })), false),
        (refuse(400, "", json!({ "message": "rude" })), true),
        (refuse(401, "", json!({ "message": "who?" })), false),
        (Fault::Silence, true),
        (Fault::Stream(String::new(), Then::Cut), true),
        (Fault::Stream(piece("Well, "), Then::Cut), true),
    ] {
        stage.upstream.fault(fault);
        calls.push(with(said("hello"), "stream", json!(streamed)));
    }
    let told: Vec<_> = client(stage.port, "anything", &calls).iter().map(raised).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    InternalServerError 503 server_error null null the chat has too much to do at the moment; try again in 42 s
    BadRequestError 400 invalid_request_error context_length_exceeded messages this is more than the model can read at once; write less, or begin a new conversation
    BadRequestError 400 invalid_request_error declined null the chat would not answer this message; try other words
    InternalServerError 502 server_error null null the chat is not set up right, and can't answer until its operator mends it
    InternalServerError 504 server_error null null the answer did not come in time; try again
    InternalServerError 502 server_error null null the answer broke off; try again
    APIError null null null null the answer broke off; try again
    ");
    // Each is in the journal once, with its cause.
    assert_eq!(stage.perch.messages("WARN").len(), told.len(), "{}", stage.perch.log_text());
}

#[test]
fn a_wish_that_the_model_refuses_condemns_no_configuration() {
    let stage = Stage::with_model("");
    let body = json!({ "error": { "message": "only 1 is supported with this model", "param": "temperature" } });
    stage.upstream.fault(Fault::Refuse(400, "", body));
    let answer = stage.post(&with(said("hello"), "temperature", json!(0.5)));
    assert_eq!((answer.status, &error(&answer)["code"]), (400, &json!("declined")), "{}", answer.text());
    assert_eq!(stage.perch.status()["services"]["chat"]["state"], "running");
}

#[test]
fn whoever_goes_away_ends_the_request_behind_it() {
    let stage = Stage::with_model("");
    for (index, fault, streamed) in
        [(0, Fault::Silence, false), (1, Fault::Silence, true), (2, Fault::Stream(piece("Well, "), Then::Hang), true)]
    {
        stage.upstream.fault(fault);
        let body = with(said("tell me"), "stream", json!(streamed)).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", stage.port)).unwrap();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stage.upstream.wait_asked(index + 1);
        if index == 2 {
            wait_for(&mut stream, "Well, ");
        }
        let gone = Instant::now();
        drop(stream);
        let left = stage.upstream.wait_left(index);
        assert!(left < gone + Duration::from_secs(1), "{index}: {:?}", left - gone);
    }
    assert_eq!(stage.perch.messages("WARN"), [""; 0]);
}

/// What comes of a stream whose model says no more after a word, when perch is told to end.
fn streamed_while_perch_ends(stage: &Stage) -> Response {
    stage.upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let port = stage.port;
    let asking = std::thread::spawn(move || post(port, &[], &with(said("tell me"), "stream", json!(true))));
    stage.upstream.wait_asked(1);
    stage.perch.signal("TERM");
    asking.join().unwrap()
}

#[test]
fn an_answer_on_its_way_is_finished_before_perch_ends() {
    let mut stage = Stage::with_model("[chat.timeout]\nbetween_tokens = \"2s\"");
    let answer = streamed_while_perch_ends(&stage);
    assert!(answer.text().contains("\"content\":\"Well, \""), "{}", answer.text());
    assert!(answer.text().contains("\"message\":\"the answer did not come in time; try again\""), "{}", answer.text());
    assert_eq!(stage.perch.wait().code(), Some(0), "{}", stage.perch.log_text());
}

#[test]
fn an_answer_that_the_drains_deadline_cuts_off_says_so() {
    let mut stage = Stage::with_model("[run]\ndrain = \"1s\"");
    let answer = streamed_while_perch_ends(&stage);
    assert!(answer.text().contains("\"message\":\"perch is restarting; try again in a moment\""), "{}", answer.text());
    assert_eq!(stage.perch.wait().code(), Some(0), "{}", stage.perch.log_text());
}

#[test]
fn the_doors_are_those_of_the_rest() {
    let port = free_port();
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\norigins = [\"https://friend.example\"]\n[limits]\nexempt = \
         []\n[limits.address]\nrequests_per_minute = 60\nburst = 8\n"
    );
    let perch = Start::with_text(&text).ready();
    let ask = |headers: &[(&str, &str)]| post(port, headers, &said("hello"));
    let friend = ask(&[("Origin", "https://friend.example"), ("Sec-Fetch-Site", "cross-site")]);
    assert_eq!((friend.status, friend.header("Access-Control-Allow-Origin")), (200, Some("https://friend.example")));
    let stranger = ask(&[("Origin", "https://elsewhere.example"), ("Sec-Fetch-Site", "cross-site")]);
    assert_eq!((stranger.status, stranger.header("Access-Control-Allow-Origin")), (403, None));
    assert_eq!(error(&stranger)["type"], "permission_error");
    assert_eq!(exchange("POST", &url(port), &[("Content-Type", "text/plain")], b"{}").status, 415);
    let nothing = exchange("GET", &format!("http://127.0.0.1:{port}/v1/embeddings"), &[], b"");
    assert_eq!((nothing.status, &error(&nothing)["message"]), (404, &json!("there is nothing at /v1/embeddings")));
    let other = exchange("GET", &url(port), &[], b"");
    assert_eq!((other.status, &error(&other)["type"]), (405, &json!("invalid_request_error")));
    for answer in [&friend, &stranger, &nothing, &other] {
        assert!(answer.header("Content-Security-Policy").is_some_and(|policy| policy.contains("default-src 'none'")));
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        assert!(answer.header("X-Request-Id").is_some());
    }
    let refused = (0..20).map(|_| ask(&[])).find(|answer| answer.status != 200).expect("an end of the limit");
    assert_eq!((refused.status, refused.header("Retry-After")), (429, Some("1")));
    assert_eq!(refused.header("RateLimit"), Some("\"address\";r=0;t=1"));
    assert_eq!(error(&refused)["code"], "rate_limit_exceeded");
    let metrics = super::metrics::page(&perch);
    assert!(metrics.contains("perch_http_requests_total{route=\"/v1/chat/completions\",class=\"2xx\"}"), "{metrics}");
}

#[test]
fn tokens_are_charged_as_everywhere() {
    let lines = "[limits]\nexempt = []\n[limits.total]\ntokens_per_day = 1000\n";
    let stage = Stage::with_model(lines);
    let usage = json!({ "prompt_tokens": 1, "completion_tokens": 5_000, "total_tokens": 5_001 });
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }], "usage": usage });
    stage.upstream.fault(Fault::Stream(piece("Well.") + &format!("data: {end}\n\ndata: [DONE]\n\n"), Then::End));
    assert_eq!(stage.post(&said("tell me all")).status, 200);
    let refused = stage.post(&said("and more"));
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(stage.upstream.asked().len(), 1);
}
