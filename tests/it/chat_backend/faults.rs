//! An upstream that does not answer as it should: what the person is told, and what the journal says.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{KEY, Stage, refuse, the_warning};
use crate::support::chat::{self, Guest, Stream};
use crate::support::discord::Discord;
use crate::support::perch::{Start, wait};
use crate::support::socket::Person;
use crate::support::upstream::{Fault, MODEL, Then, Unreachable, finish, piece};

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
    let page = crate::metrics::page(&perch);
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
