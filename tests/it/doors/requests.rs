//! Requests that no client would send, and what is none.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::{assert_hardened, only, perch_with};
use crate::support::exchange::{Response, exchange, parse_all};
use crate::support::{chat, raw};

/// A second request that must not be answered.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: perch\r\n\r\n";

#[test]
fn a_request_that_two_servers_may_read_differently_is_refused_or_the_last_one() {
    let (_perch, port) = perch_with("");
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let question = r#"{"message": "hi"}"#;
    let whole = format!("{:x}\r\n{question}\r\n0\r\n\r\n", question.len());
    let length = question.len();
    // What is sent, and what all of it is answered with.
    let shapes: &[(&str, String, &[u16])] = &[
        ("both lengths", format!("{head}Content-Length: 4\r\n{chunked}\r\n{whole}{SMUGGLED}"), &[200]),
        ("both, the other way round", format!("{head}{chunked}Content-Length: 4\r\n\r\n{whole}{SMUGGLED}"), &[200]),
        (
            "two lengths",
            format!("{head}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{question}{SMUGGLED}"),
            &[400],
        ),
        ("a list of lengths", format!("{head}Content-Length: {length}, 0\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a signed length", format!("{head}Content-Length: +{length}\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a negative length", format!("{head}Content-Length: -1\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a length with a space in it", format!("{head}Content-Length: 1 7\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a hexadecimal length", format!("{head}Content-Length: 0x11\r\n\r\n{question}{SMUGGLED}"), &[400]),
        (
            "a length beyond 64 bits",
            format!("{head}Content-Length: 18446744073709551633\r\n\r\n{question}{SMUGGLED}"),
            &[400],
        ),
        ("no length", format!("{head}Content-Length:\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("an unknown coding", format!("{head}Transfer-Encoding: xchunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a coding that hides", format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("two codings in one line", format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n{whole}{SMUGGLED}"), &[501]),
        (
            "two codings in two lines",
            format!("{head}Transfer-Encoding: identity\r\n{chunked}\r\n{whole}{SMUGGLED}"),
            &[501],
        ),
        ("the coding twice", format!("{head}{chunked}{chunked}\r\n{whole}{SMUGGLED}"), &[501]),
        ("an empty coding", format!("{head}Transfer-Encoding:\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        (
            "a vertical tab before the coding",
            format!("{head}Transfer-Encoding: \u{b}chunked\r\n\r\n{whole}{SMUGGLED}"),
            &[400],
        ),
        ("a space before the colon", format!("{head}Transfer-Encoding : chunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a line that goes on", format!("{head}X: y\r\n Transfer-Encoding: chunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a carriage return alone", format!("{head}X: y\rTransfer-Encoding: chunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a null in a value", format!("{head}X: y\0z\r\n\r\n{SMUGGLED}"), &[400]),
        (
            "HTTP/1.0 with a coding",
            format!("POST /api/chat HTTP/1.0\r\nHost: perch\r\n{chunked}\r\n{whole}{SMUGGLED}"),
            &[400],
        ),
        ("no host", format!("GET /health HTTP/1.1\r\n\r\n{SMUGGLED}"), &[400]),
        ("two hosts", format!("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{SMUGGLED}"), &[400]),
        (
            "a chunk beyond 64 bits",
            format!("{head}{chunked}\r\n10000000000000011\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        ("a chunk of a negative size", format!("{head}{chunked}\r\n-1\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"), &[400]),
        (
            "a chunk of no hexadecimal size",
            format!("{head}{chunked}\r\n0x11\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "a chunk that is longer than it says",
            format!("{head}{chunked}\r\n4\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "a line feed that ends a chunk's size",
            format!("{head}{chunked}\r\n11\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "a line feed in an extension",
            format!("{head}{chunked}\r\n11;a\nb\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        ("an extension without end", format!("{head}{chunked}\r\n11;{}\r\n", "a".repeat(20_000)), &[400]),
        ("trailers without end", format!("{head}{chunked}\r\n0\r\n{}", "a: b\r\n".repeat(20_000)), &[400]),
        ("HTTP/0.9", "GET /health\r\n".to_owned(), &[400]),
        ("the beginning of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
    ];
    for (name, bytes, expected) in shapes {
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), *expected, "{name}: {answers}");
        assert_all_hardened(&answers, name);
    }
    // What is whole and plain goes on, and what is in a body is no request.
    let body = format!(
        "GET /api/conversations HTTP/1.1\r\nHost: perch\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    let last = "GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n";
    let answers = raw::send(port, format!("{body}{last}").as_bytes());
    assert_eq!(raw::statuses(&answers), [200, 200], "{answers}");
    let extended = format!("{head}{chunked}\r\n11;name=\"value\"\r\n{question}\r\n0\r\nTrailer: yes\r\n\r\n{last}");
    assert_eq!(raw::statuses(&raw::send(port, extended.as_bytes())), [200, 200]);
    // A line feed ends a line as well (RFC 9112, section 2.2), and it ends nothing else.
    let bare = format!("GET /health HTTP/1.1\nHost: perch\nContent-Length: {}\n\n{SMUGGLED}{last}", SMUGGLED.len());
    assert_eq!(raw::statuses(&raw::send(port, bare.as_bytes())), [200, 200]);
    assert_eq!(chat::ask(port, "still here"), "still here");
}

#[track_caller]
fn assert_all_hardened(answers: &str, what: &str) {
    for answer in parse_all(answers.as_bytes()) {
        assert_hardened(&answer, what);
    }
}

/// Is this what is said of bytes that are no request?
#[track_caller]
fn assert_refused(answer: &Response, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_hardened(answer, what);
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("Connection"), Some("close"), "{what}");
    assert!(answer.header("Date").is_some_and(|date| date.ends_with(" GMT")), "{what}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], status, "{what}: {problem}");
    assert_eq!(problem["request_id"].as_str(), answer.header("X-Request-Id"), "{what}: {problem}");
}

#[test]
fn what_is_no_request_is_refused_as_everything_else_is_wherever_it_comes() {
    let (_perch, port) = perch_with("");
    let good = "GET /health HTTP/1.1\r\nHost: perch\r\n\r\n";
    let question = r#"{"message": "hi"}"#;
    let asked = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{question}",
        question.len()
    );
    let head = "GET /health HTTP/1.1\r\nHost: perch\r\n";
    for (what, bytes, status) in [
        ("a null in a header", format!("{head}X: y\0z\r\n\r\n"), 400),
        ("a null in its name", format!("{head}X\0: y\r\n\r\n"), 400),
        ("nonsense", "nonsense\r\n\r\n".to_owned(), 400),
        ("the beginning of TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".to_owned(), 400),
        ("an address that is none", "GET http://[ HTTP/1.1\r\nHost: perch\r\n\r\n".to_owned(), 400),
        ("a version of its own", "GET /health HTTP/7.3\r\nHost: perch\r\n\r\n".to_owned(), 400),
        ("no version", "GET /health\r\n\r\n".to_owned(), 400),
        ("a length that is none", format!("{head}Content-Length: many\r\n\r\n"), 400),
        ("HEAD with one", "HEAD / HTTP/1.1\r\nHost: perch\r\nContent-Length: many\r\n\r\n".to_owned(), 400),
        ("a hundred headers and one", format!("{head}{}\r\n", "a: b\r\n".repeat(100)), 431),
        ("33 KiB in one header", format!("{head}a: {}\r\n\r\n", "b".repeat(33 << 10)), 431),
    ] {
        assert_refused(&only(&raw::send(port, bytes.as_bytes())), status, what);
        // After others over the same connection, one after the other or all at once.
        let mut kept = raw::connect(port);
        kept.write_all(good.as_bytes()).unwrap();
        let mut first = Vec::new();
        while !first.ends_with(b"ok\n") {
            let mut byte = [0];
            kept.read_exact(&mut byte).unwrap();
            first.push(byte[0]);
        }
        kept.write_all(bytes.as_bytes()).unwrap();
        assert_refused(&only(&raw::read_to_end(&mut kept)), status, what);
        let answers = parse_all(raw::send(port, format!("{good}{asked}{good}{bytes}").as_bytes()).as_bytes());
        let [before @ .., last] = &answers[..] else { panic!("nothing") };
        let before: Vec<(u16, String)> = before.iter().map(|answer| (answer.status, answer.text())).collect();
        let [first, reply, second] = &before[..] else { panic!("{what}: {before:?}") };
        assert_eq!([first, second].map(|(status, text)| (*status, text.as_str())), [(200, "ok\n"); 2], "{what}");
        assert!(reply.0 == 200 && reply.1.contains(r#""reply":"hi""#), "{what}: {reply:?}");
        assert_refused(last, status, what);
    }
    let old = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let answers = parse_all(raw::send(port, format!("{old}nonsense\r\n\r\n").as_bytes()).as_bytes());
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 400]);
    assert_refused(&answers[1], 400, "what follows a request of HTTP/1.0");
    let detail = |bytes: &str| {
        let problem: serde_json::Value =
            serde_json::from_slice(&only(&raw::send(port, bytes.as_bytes())).body).unwrap();
        format!("{}: {}", problem["title"].as_str().unwrap(), problem["detail"].as_str().unwrap())
    };
    insta::assert_snapshot!(detail("nonsense\r\n\r\n"), @"Bad Request: this is no request of HTTP/1.1: look at its first line, for characters that no header may have, and at `Content-Length` and `Transfer-Encoding`");
    insta::assert_snapshot!(detail(&format!("{head}{}\r\n", "a: b\r\n".repeat(100))), @"Request Header Fields Too Large: the request's head is longer than 32 KiB, or has more than 100 headers: send less of it");
}

#[test]
fn heads_that_are_too_large_are_refused_before_they_are_whole() {
    let (_perch, port) = perch_with("");
    let head = "GET /health HTTP/1.1\r\nHost: perch\r\n";
    for (name, bytes, status) in [
        ("many headers", format!("{head}{}\r\n", "a: b\r\n".repeat(101)), 431),
        ("a long header", format!("{head}a: {}\r\n\r\n", "b".repeat(80 << 10)), 431),
        ("headers without end", format!("{head}{}", "a: b\r\n".repeat(200_000)), 431),
        (
            "a long address",
            format!("GET /{} HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n", "a".repeat(8 << 10)),
            414,
        ),
        ("an address without end", format!("GET /{}", "a".repeat(1 << 20)), 431),
    ] {
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), [status], "{name}: {answers}");
        assert_all_hardened(&answers, name);
    }
    let much = format!("{head}{}Connection: close\r\n\r\n", format!("a: {}\r\n", "b".repeat(300)).repeat(90));
    assert_eq!(raw::statuses(&raw::send(port, much.as_bytes())), [200], "27 KiB in 93 headers are fine");
}

#[test]
fn one_header_of_forty_thousand_bytes_in_one_send_is_refused() {
    let (_perch, port) = perch_with("");
    for length in [33 << 10, 40_000, 60_000] {
        let head =
            format!("GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\na: {}\r\n\r\n", "b".repeat(length));
        let answers = raw::send(port, head.as_bytes());
        assert_eq!(raw::statuses(&answers), [431], "{length}: {answers}");
        assert_hardened(&only(&answers), "its answer");
    }
    let head = format!("GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\na: {}\r\n\r\n", "b".repeat(32_600));
    assert_eq!(raw::statuses(&raw::send(port, head.as_bytes())), [200], "all but 32 KiB");
}

#[test]
fn a_list_in_place_of_the_message_object_is_told_like_other_wrong_json() {
    let (_perch, port) = perch_with("");
    let url = format!("http://127.0.0.1:{port}/api/chat");
    let mut told = Vec::new();
    for body in [r#"["hello", null]"#, " [\"hello\"]", "\"hello\"", "null", "7", "", r#"{"message": ["hello"]}"#] {
        let answer = exchange("POST", &url, &[("Content-Type", "application/json")], body.as_bytes());
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_hardened(&answer, body);
        told.push(format!("{body} → {}: {}", answer.status, problem["detail"].as_str().unwrap()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    ["hello", null] → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
     ["hello"] → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
    "hello" → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
    null → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
    7 → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
     → 400: the body is not {"message": "…", "conversation": "…"?}: EOF while parsing a value at line 1 column 0
    {"message": ["hello"]} → 400: the body is not {"message": "…", "conversation": "…"?}: invalid type: sequence, expected a string at line 1 column 12
    "#);
}

#[test]
fn a_host_that_is_none_or_is_not_that_of_the_address_is_refused() {
    let (_perch, port) = perch_with("");
    let get = |address: &str, host: &str| {
        let head = format!("GET {address} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw::send(port, head.as_bytes());
        assert!(answer.to_ascii_lowercase().contains("\r\nx-frame-options: deny\r\n"), "{answer}");
        raw::statuses(&answer)
    };
    for host in ["perch", "perch:8080", "PERCH.example.", "[::1]:8080", "127.0.0.1", ""] {
        assert_eq!(get("/health", host), [200], "{host:?}");
    }
    for host in ["a b", "a/b", "../..", "[::1", "user@perch", "ü", "perch:80:80", "a\"b"] {
        assert_eq!(get("/health", host), [400], "{host:?}");
    }
    assert_eq!(get("http://perch/health", "perch"), [200], "a proxy asks so");
    assert_eq!(get("http://PERCH:80/health", "perch"), [200]);
    assert_eq!(get("http://elsewhere.example/health", "perch"), [400]);
    assert_eq!(get("https://elsewhere.example:1/health", "perch"), [400]);
}

#[test]
fn odd_methods_targets_and_bodies_are_answered_and_hardened_and_others_are_served() {
    let (_perch, port) = perch_with("");
    let rest = "Host: perch\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let question = r#"{"message": "hi"}"#;
    let chunked = format!("POST /api/chat HTTP/1.1\r\n{rest}Transfer-Encoding: chunked\r\n\r\n");
    for (bytes, status) in [
        (format!("HEAD / HTTP/1.1\r\n{rest}\r\n"), 200),
        (format!("HEAD /api/chat HTTP/1.1\r\n{rest}\r\n"), 405),
        (format!("TRACE / HTTP/1.1\r\n{rest}\r\n"), 405),
        (format!("ODD /health HTTP/1.1\r\n{rest}\r\n"), 405),
        (format!("OPTIONS * HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("CONNECT perch:443 HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("GET /assets/../../etc/passwd HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("GET /assets/%00/%2e%2e%2f HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("POST /api/chat HTTP/1.1\r\n{rest}Content-Length: 60000\r\n\r\n{{\"a\":{}", "[".repeat(59_995)), 400),
        (format!("{chunked}11;a=\"x\r\ny\"\r\n{question}\r\n0\r\n\r\n"), 400),
        (
            format!("{chunked}{}11\r\n{question}\r\n0\r\n\r\n", format!("1;{}\r\n \r\n", "a".repeat(40)).repeat(2_000)),
            400,
        ),
        (format!("{chunked}11\r\n{question}XX0\r\n\r\n"), 400),
        (format!("{chunked}11\r\n{question}\r\n0\r\nContent-Length: 99\r\nHost: elsewhere\r\n\r\n"), 200),
    ] {
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), [status], "{bytes:.80}: {answers}");
        let head = answers.to_ascii_lowercase();
        for header in ["content-security-policy: ", "x-content-type-options: nosniff", "x-frame-options: deny"] {
            assert!(head.contains(header), "{header} on {bytes:.80}");
        }
    }
    // Who waits to be asked for a body is asked, and its answer is as others are.
    let mut stream = raw::connect(port);
    let head = format!("POST /api/chat HTTP/1.1\r\n{rest}Expect: 100-continue\r\nContent-Length: 17\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(question.as_bytes()).unwrap();
    assert_eq!(raw::statuses(&raw::read_to_end(&mut stream)), [200]);
    assert_eq!(chat::ask(port, "hello"), "hello");
}

#[test]
fn whoever_says_that_no_more_comes_is_answered() {
    let (_perch, port) = perch_with("max_body = \"9MiB\"");
    let question = r#"{"message": "hello"}"#;
    let chat = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n\
         Content-Length: {}\r\n\r\n{question}",
        question.len()
    );
    for request in ["GET /health HTTP/1.1\r\nHost: perch\r\n\r\n", &chat] {
        let mut stream = raw::connect(port);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = raw::read_to_end(&mut stream);
        assert_eq!(raw::statuses(&answer), [200], "{answer}");
    }
    // All of a long one, however slowly they take it.
    let said = "x".repeat(8 << 20);
    let body = format!("{{\"message\": \"{said}\"}}");
    let mut stream = raw::connect(port);
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let answer = raw::read_to_end(&mut stream);
    assert!(answer.contains(&said), "{} bytes came", answer.len());
}

#[test]
fn what_follows_nonsense_is_heard_out() {
    let (_perch, port) = perch_with("");
    for (first, expected) in [("", &[200, 400][..]), ("Connection: close\r\n", &[200])] {
        let good = format!("GET /health HTTP/1.1\r\nHost: perch\r\n{first}\r\n");
        let bytes = good + "nonsense\r\n\r\n" + &"more".repeat(256 << 10);
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), *expected, "{answers}");
    }
}

#[test]
fn whoever_reads_nothing_before_all_is_sent_hears_why_it_was_refused() {
    let (_perch, port) = perch_with("");
    let mut stream = raw::connect(port);
    let (piece, pieces) = (vec![b'x'; 64 << 10], 50);
    let head = format!("POST /nothing HTTP/1.1\r\nHost: perch\r\nContent-Length: {}\r\n\r\n", piece.len() * pieces);
    stream.write_all(head.as_bytes()).unwrap();
    // For longer than somebody who sends nothing would be waited for.
    for _ in 0..pieces {
        stream.write_all(&piece).unwrap();
        std::thread::sleep(Duration::from_millis(80));
    }
    let answer = raw::read_to_end(&mut stream);
    assert_eq!(raw::statuses(&answer), [404], "{answer}");
}

#[test]
fn a_body_that_is_too_large_is_refused_although_its_rest_does_not_come() {
    let (_perch, port) = perch_with("max_body = \"1KiB\"");
    let mut stream = raw::connect(port);
    let head =
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[b' '; 2 << 10]).unwrap();
    let begun = Instant::now();
    let answer = raw::read_to_end(&mut stream);
    assert_eq!(raw::statuses(&answer), [413], "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
